"""Locks on files: held by one process at a time, and gone with it, however it ends."""

import errno
import os
import weakref
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Network file systems that do not know locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Windows hides locked bytes from others: one far behind what the file has.
_OFFSET = 1 << 30
_held: 'weakref.WeakSet[IO[str]]' = weakref.WeakSet()


def lock(file: IO[str], wait: bool) -> bool:
    """Lock an open file until it is closed or the process ends; False where its file system has no
    locks. A forked process does not hold the locks of its parent.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
        OSError: it cannot be locked.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        else:
            _lock_on_windows(file, wait)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    _held.add(file)
    return True


def _lock_on_windows(file: IO[str], wait: bool) -> None:
    import msvcrt

    while True:
        os.lseek(file.fileno(), _OFFSET, os.SEEK_SET)
        try:
            # LK_LOCK tries for ten seconds
            mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined]
            msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined]
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            if not wait:
                raise BlockingIOError(error.errno, 'locked by another process') from None


def is_at(file: IO[str], path: str | os.PathLike[str]) -> bool:
    """Whether an open file is still the one of that name: who held its lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _forget() -> None:
    # a copy of the descriptor would keep the lock when the parent is gone
    for file in list(_held):
        file.close()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget)
