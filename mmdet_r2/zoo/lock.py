"""One process at a time: a lock file beside a download, which also tells those who waited that it
failed."""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

# Network file systems that do not know locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Held:
    """A turn: the lock is held, unless another process ``failed``.

    Attributes:
        partial: file to write to; a process of its own where the file system has no locks.
        failed: reasons why the process that this one waited for gave up; None if none did.
    """

    def __init__(
        self, partial: Path, file: IO[str] | None = None, failed: list[str] | None = None
    ) -> None:
        self.partial, self.file, self.failed = partial, file, failed

    def fail(self, reasons: Sequence[str]) -> None:
        """Tell the processes that wait for this one that it was in vain, and why."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk: then they try themselves
                json.dump(list(reasons), self.file)
                self.file.flush()


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[Held]:
    """Hold the lock of ``target``: the ranks of a launch, threads, or separate programs take turns.

    The folder is made. The lock file is removed afterwards.

    Raises:
        OSError: the folder or the lock file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f'{target.name}.part')
    file, failed = _acquire(target.with_name(f'.{target.name}.lock'), target.name)
    if failed is not None:
        yield Held(partial, failed=failed)
    elif file is None:
        partial = target.with_name(f'{target.name}.{os.getpid()}.part')
        try:
            yield Held(partial)
        finally:
            partial.unlink(missing_ok=True)
    else:
        try:
            yield Held(partial, file)
        finally:
            # Removed while it is held: who waits for it finds that it is not the file of that name
            # any more, and what was noted in it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            file.close()  # releases


def _acquire(path: Path, name: str) -> tuple[IO[str] | None, list[str] | None]:
    """The lock file, held, or why the process that held it failed; neither where the system has no
    locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None, None
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
        except OSError as error:
            file.close()
            if error.errno in _NO_LOCKS:
                return None, None
            raise
        if _is_at(file, path):
            file.truncate(0)  # of a process that was killed
            return file, None
        with file:  # removed by the process that held it
            file.seek(0)
            note = file.read()
        if note:
            with contextlib.suppress(ValueError):
                return None, list(json.loads(note))


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
