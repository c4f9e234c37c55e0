"""An interpreter whose imports are done, for tests that start scripts.

Importing PyTorch and the package takes a script five seconds, and running it often a tenth of one.
:func:`python` gives a command that takes the place of ``sys.executable``: a server, one for each
test process, has imported them and forks; the fork gets the command's arguments, environment,
folder and streams, and the command ends as the fork does. Signals reach the fork, which is killed
when the command is. Given options of the interpreter other than ``-c``, ``-m`` and ``-u``, the
command runs the true one.

Not for tests of imports, of limits set by the parent, or of the ids of processes; and a script ends
shortly after its command is killed.
"""

import atexit
import functools
import gc
import importlib
import io
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from ast import literal_eval
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
IMPORTS = (
    'mmdet_r2.apis.test',
    'mmdet_r2.apis.train',
    'torch._dynamo',
    'torch.distributed.launcher.api',
)

CLIENT = """#!{python} -IS
import os, signal, socket, sys
if len(sys.argv) < 2 or sys.argv[1][0] == '-' and sys.argv[1] not in ('-c', '-m', '-u'):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.sendall(bytes([number])))
request = ascii((sys.argv[1:], dict(os.environ), os.getcwd())).encode()
socket.send_fds(server, [len(request).to_bytes(8, 'big')], [0, 1, 2])
server.sendall(request)
code = int(server.recv(8) or b'1')
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> str:
    """Path of the command; it is alone in its folder, for a search path, and named ``python``."""
    if not hasattr(os, 'pidfd_open'):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix='python-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, command = str(folder / 'socket'), folder / 'bin/python'
    command.parent.mkdir()
    command.write_text(CLIENT.format(python=sys.executable, address=address))
    command.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address, command],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)},
        stdin=subprocess.PIPE,  # ends with this process, and the server with it
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    atexit.register(server.kill)
    assert server.stdout and server.stdout.readline() == b'ready\n'
    return str(command)


def serve(address: str) -> None:
    """Fork for every connection; returns in the forks, each to run its script."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print('ready', flush=True)
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        connection = listener.accept()[0]
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, _, _ = socket.recv_fds(connection, 8, 3)
        with connection.makefile('rb') as file:
            request = literal_eval(file.read(int.from_bytes(size, 'big')).decode())
        if child := os.fork():
            for stream in streams:
                os.close(stream)
            watch(child, connection)
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        run(*request)
        return


def watch(child: int, connection: socket.socket) -> None:
    """Give the fork the command's signals, and the command the fork's exit code."""
    ended = os.pidfd_open(child)
    while ended not in select.select([ended, connection], [], [])[0]:
        number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(str(code).encode())
    finally:
        os._exit(0)


def run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What the interpreter does with its arguments."""
    import numpy as np

    import mmdet_r2.launcher

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault('PYTHON_EXEC', sys.argv[2])  # torchrun's processes
    importlib.reload(mmdet_r2.launcher)  # it remembers its parent process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    np.random.seed()
    unbuffered = arguments[0] == '-u'
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, 'wb', closefd=False), write_through=unbuffered)
    sys.stderr = os.fdopen(2, 'w', 1, errors='backslashreplace', closefd=False)
    arguments = arguments[unbuffered:]
    own = {str(Path(__file__).parent), str(REPO)}
    sys.path[:] = [path for path in sys.path if path not in own]
    sys.path[:0] = filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))
    if arguments[0] == '-m':
        sys.path.insert(0, folder)
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
    elif arguments[0] == '-c':
        sys.path.insert(0, '')
        sys.argv[:] = ['-c', *arguments[2:]]
        exec(compile(arguments[1], '<string>', 'exec'), {'__name__': '__main__'})
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(arguments[0])))
        sys.argv[:] = arguments
        runpy.run_path(arguments[0], run_name='__main__')


if __name__ == '__main__':
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    serve(sys.argv[1])
