"""How the processes of a run end: without their launcher, by Ctrl-C, for want of a port."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from engine_toy import toy_config
from warm_python import python

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')


def environment(repo: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}',
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
        **more,
    }


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def processes_with(text: str) -> list[int]:
    """Ids of processes whose command line has ``text``; Linux."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if text in path.read_bytes().replace(b'\0', b' ').decode(errors='replace'):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [process for process in found if process != os.getpid()]


def wait(condition: object, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path('/proc/self/cmdline').exists(), reason='looks into /proc')
@pytest.mark.parametrize('when', ['training', 'set-up'])
def test_ranks_and_workers_end_with_torchrun(when: str, repo: Path, tmp_path: Path) -> None:
    config = tmp_path / 'config.py'
    slow = toy_config(tmp_path / 'work', model__pause=0.5, train_dataloader__num_workers=1)
    slow.train_dataloader.persistent_workers = True
    slow.dump(str(config))
    launcher = subprocess.Popen(
        ['bash', str(repo / 'tools/dist_train.sh'), str(config), '2'],
        env=environment(repo, PORT=free_port()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ranks() -> list[int]:
        return [p for p in processes_with(str(config)) if p != launcher.pid]

    try:
        if when == 'training':
            assert wait((tmp_path / 'work/last_checkpoint').exists), 'no checkpoint came'
            assert len(ranks()) == 4, 'two ranks with a worker each'
        else:
            assert wait(lambda: len(ranks()) == 2), 'no ranks came'
        launcher.kill()
        launcher.wait(timeout=10)
        assert wait(lambda: not ranks(), 20), 'ranks live on'
    finally:
        launcher.kill()
        for process in ranks():
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize('after', ['import mmengine', 'import mmdet_r2.engine.runner', None])
def test_ctrl_c_is_one_line(after: str | None, repo: Path, tmp_path: Path) -> None:
    """While modules are imported, and in training."""
    config = tmp_path / 'config.py'
    toy_config(tmp_path / 'work', model__pause=0.5).dump(str(config))
    process = subprocess.Popen(
        [
            *([sys.executable, '-v'] if after else [python()]),
            str(repo / 'tools/train.py'),
            str(config),
        ],
        env=environment(repo),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and so their children, ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if after is None:
        assert wait((tmp_path / 'work/last_checkpoint').exists)
    else:
        next(line for line in process.stderr if line.replace("'", '').startswith(after))
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    said = [line for line in rest.splitlines() if not line.startswith(('#', 'import '))]
    assert process.returncode == 130, said
    assert 'interrupted' in said and 'Traceback (most recent call last):' not in said, said


def test_a_port_that_is_taken(repo: Path, tmp_path: Path) -> None:
    config = tmp_path / 'config.py'
    toy_config(tmp_path / 'work').dump(str(config))
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        by_hand = dict(RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        train = [python(), str(repo / 'tools/train.py'), str(config)]
        for command in (
            [*train, '--launcher', 'pytorch'],
            ['bash', str(repo / 'tools/dist_train.sh'), str(config), '2'],
        ):
            done = subprocess.run(
                command,
                env=environment(repo, PORT=port, **by_hand) | {'PYTHON': python()},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 2, done.stderr
            errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
            assert len(errors) == 1 and port in errors[0], done.stderr
            assert 'Traceback' not in done.stderr
