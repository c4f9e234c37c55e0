"""The work folder of a run: its own as long as it lives, and free of what an earlier run left."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConfigError
from ..files import writing
from ..locks import is_at, lock
from .checkpoint import POINTER

_LOCK = '.lock'
_DISK = {
    getattr(errno, name, None) for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EIO', 'EROFS', 'ESTALE')
}
_TIME = r'\d{8}_\d{6}(_\d+)?'
# What a run writes into its folder, beside logs.
_FILES = (
    POINTER,
    r'invalid_loss_iter_\d+(_rank\d+)?\.json',
    r'last_good_iter_\d+\.pth',
)


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a full or failing disk answers becomes a :class:`DataError` of one line, which names the
    file, or ``path`` where the error does not know it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        with writing(error.filename or path):
            raise


@contextlib.contextmanager
def held(folder: str) -> Iterator[bool]:
    """Hold a folder, which is made, for this run; False where its file system has no locks.

    Raises:
        ConfigError: another run, which lives, holds it; names its process.
        DataError: nothing can be written there.
    """
    path = Path(folder) / _LOCK
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115 (closed below)
            try:
                locked = lock(file, wait=False)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    holder = _described(file.read())
                raise ConfigError(
                    f'work_dir {folder}: in use by another run{holder}; choose another with '
                    '--work-dir'
                ) from None
            except OSError:
                file.close()
                raise
        if not locked or is_at(file, path):
            break
        file.close()  # removed by a run that has just ended
    with file:
        if locked:
            with contextlib.suppress(OSError):  # a full disk: only who it is remains unsaid
                file.truncate(0)
                since = time.strftime('%Y-%m-%d %H:%M:%S')
                json.dump([os.getpid(), socket.gethostname(), since], file)
                file.flush()
        try:
            yield locked
        finally:
            # while it is held, so that nobody else's is removed
            with contextlib.suppress(OSError):
                path.unlink()


def _described(note: str) -> str:
    try:
        process, host, since = json.loads(note)
    except ValueError:
        return ''
    return f' (process {process} on {host}, since {since})'


def new_log_folder(work_dir: str, name: str) -> str:
    """Make a folder ``name`` in ``work_dir``, with a number behind it where there is one already:
    runs that begin in the same second must not share their logs. Returns its name.

    Raises:
        DataError: it cannot be made.
    """
    while True:
        with writing(Path(work_dir)):
            os.makedirs(work_dir, exist_ok=True)
            # behind those that are there, as logs are read in the order of their folders
            taken = [p.name.removeprefix(name)[1:] for p in Path(work_dir).glob(f'{name}*')]
            number = max((int(end) if end.isdigit() else 0 for end in taken), default=-1) + 1
            chosen = f'{name}_{number}' if number else name
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(Path(work_dir) / chosen)
                return chosen


def set_aside(folder: str, name: str, template: str, own: str, config: str | None = None) -> str:
    """Move what an earlier run wrote into ``folder`` to a folder ``name`` in it: checkpoints, the
    pointer to the last one, reports, and logs of training; nothing else. Returns what was moved, in
    words; '' for nothing.

    Args:
        template: file name of a checkpoint, with ``{}`` for its number.
        own: folder of logs that stays.
        config: a file that is about to be replaced, and is copied.

    Raises:
        DataError: it cannot be moved.
    """
    templates = {template, 'epoch_{}.pth', 'iter_{}.pth'}
    numbered = '|'.join(r'\d+'.join(map(re.escape, t.split('{}'))) for t in sorted(templates))
    # the best, and published copies with a hash
    checkpoints = rf'(best_.+_)?({numbered})'
    published = rf'{checkpoints.replace(re.escape(".pth"), "")}-[0-9a-f]{{8}}\.pth'
    wanted = re.compile('|'.join([*_FILES, checkpoints, published]))
    files, logs = [], []
    for path in sorted(Path(folder).iterdir()) if os.path.isdir(folder) else []:
        if wanted.fullmatch(path.name) and path.is_file():
            files.append(path)
        # others are of tests, or of a run that did not get far
        trained = re.fullmatch(_TIME, path.name) and (path / 'vis_data/scalars.json').is_file()
        if trained and path.name != own:
            logs.append(path)
    if not files and not logs:
        return ''
    place = Path(folder) / name
    with writing(place):
        place.mkdir(exist_ok=True)
        for path in [*files, *logs]:
            os.rename(path, place / path.name)
        if config is not None and os.path.isfile(config):
            shutil.copy2(config, place)
    return (
        f'{_count(files, "file")} and {_count(logs, "log folder")} of an earlier run are in {place}'
    )


def _count(items: Sequence[Path], noun: str) -> str:
    return f'{len(items)} {noun}{"" if len(items) == 1 else "s"}'
