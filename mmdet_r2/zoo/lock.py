"""One process at a time: a lock file beside a download, which also tells those who waited that it
failed."""

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

# Network file systems that do not know locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Held:
    """A lock that is held.

    Attributes:
        partial: file to write to; a process of its own where the file system has no locks.
        failed: reasons why another process gave up while this one waited; None if none did.
    """

    def __init__(self, partial: Path, file: IO[str] | None, failed: list[str] | None) -> None:
        self.partial, self.file, self.failed = partial, file, failed

    def fail(self, reasons: Sequence[str]) -> None:
        """Tell the processes that wait for this one that it was in vain, and why."""
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()
            json.dump(dict(time=time.time(), reasons=list(reasons)), self.file)
            self.file.flush()


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[Held]:
    """Hold the lock of ``target``: the ranks of a launch, threads, or separate programs take turns.

    The folder is made. The lock file is removed afterwards, unless it tells of a failure.

    Raises:
        OSError: the folder or the lock file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f'{target.name}.part')
    began = time.time()
    file = _acquire(target.with_name(f'.{target.name}.lock'), target.name)
    if file is None:
        partial = target.with_name(f'{target.name}.{os.getpid()}.part')
        try:
            yield Held(partial, None, None)
        finally:
            partial.unlink(missing_ok=True)
        return
    held = Held(partial, file, _failed_since(file, began))
    try:
        yield held
    finally:
        # Removed while it is held: who waits for it finds that it is not the file of that name any
        # more, and opens the next.
        file.seek(0)
        if not file.read():
            os.unlink(file.name)
        file.close()  # releases


def _acquire(path: Path, name: str) -> IO[str] | None:
    """The lock file, held; None where the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    told = False
    while True:
        file = open(path, 'a+')  # noqa: SIM115 (the caller closes it)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    print(f'waiting for another process that downloads {name}', file=sys.stderr)
                    told = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # removed between the two
            pass
        except OSError as error:
            file.close()
            if error.errno in _NO_LOCKS:
                return None
            raise
        file.close()


def _failed_since(file: IO[str], began: float) -> list[str] | None:
    file.seek(0)
    try:
        note = json.loads(file.read() or 'null')
        found = note is not None and note['time'] > began
    except (ValueError, KeyError, TypeError):
        found = False
    if found:
        return list(note['reasons'])
    file.seek(0)
    file.truncate()
    return None
