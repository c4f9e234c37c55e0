"""The processes of a run: joined, kept in step, left."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from mmengine.dist import is_distributed

from ..errors import ConfigError

#: Seconds after which a rank that waits for another gives up; long enough for one process to
#: evaluate while others wait.
COLLECTIVE_TIMEOUT = 900


@contextmanager
def port_errors() -> Iterator[None]:
    """What torch says within where the port of the first rank is taken becomes a
    :class:`ConfigError` that names it."""
    try:
        yield
    except RuntimeError as error:  # torch's DistNetworkError is one
        if 'EADDRINUSE' not in str(error) and 'address already in use' not in str(error):
            raise
        raise ConfigError(
            f'MASTER_PORT {os.environ.get("MASTER_PORT")}: another process uses this port; choose '
            'another (PORT of tools/dist_train.sh)'
        ) from None


def init_cpu_group(launcher: str, timeout: float) -> None:
    """A gloo process group from the variables that the launcher sets."""
    names = {
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }
    if launcher in names:
        for ours, theirs in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names[launcher]):
            if theirs in os.environ:
                os.environ.setdefault(ours, os.environ[theirs])
        os.environ.setdefault('MASTER_PORT', '29500')
    missing = [
        name
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
        if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f'--launcher {launcher}: {", ".join(missing)} not set in the environment; '
            'start the run with tools/dist_train.sh (torchrun).'
        )
    os.environ.setdefault('LOCAL_RANK', '0')
    torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=timeout))


def shut_down() -> None:
    """Leave the process group, if there is one, as the last thing a tool does, in its ``finally``.

    After a run on CPUs that went well the process ends here: gloo's threads can outlive the group,
    and the interpreter's own tear-down then aborts although everything is written.
    """
    if not is_distributed():
        return
    on_cpu = torch.distributed.get_backend() == 'gloo'
    torch.distributed.destroy_process_group()
    if on_cpu and sys.exc_info()[0] is None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
