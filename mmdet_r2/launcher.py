"""The end of a process whose launcher is gone.

torchrun that is killed with -9 cannot end the processes that it started: they would go on training,
without each other's supervision and without anybody's knowledge.
"""

import contextlib
import multiprocessing
import os
import sys
import threading
import time

# What launchers set in the environment of the processes that they start.
_STARTED = ('TORCHELASTIC_RUN_ID', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
_PARENT = os.getppid()
# set by tools/dist_*.sh, for one that is killed before this process has come so far as to here
_LAUNCHER = os.environ.get('MMDET_R2_LAUNCHER', '')
_watch: threading.Thread | None = None


def end_with_launcher(interval: float = 0.5) -> None:
    """From now on end this process, and the workers that it started, once its launcher has ended;
    nothing where no launcher started it. On Windows processes do not learn of their parent's end.

    Args:
        interval: seconds between two looks.
    """
    global _watch
    if _watch is None and any(name in os.environ for name in _STARTED):
        _watch = threading.Thread(target=_wait, args=(interval,), daemon=True, name='launcher')
        _watch.start()


def _wait(interval: float) -> None:
    while not _gone():
        time.sleep(interval)
    with contextlib.suppress(OSError, ValueError):  # the launcher read it
        text = f'error: the launcher (process {_PARENT}) is gone, process {os.getpid()} ends'
        print(text, file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(1)


def _gone() -> bool:
    if os.getppid() != _PARENT:
        return True
    if not _LAUNCHER.isdigit() or os.name == 'nt':
        return False
    try:
        os.kill(int(_LAUNCHER), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
