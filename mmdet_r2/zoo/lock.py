"""One process at a time: a lock file beside a download, which also tells those who waited that it
failed."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ..locks import is_at, lock


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
            with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows: it is open
                os.unlink(file.name)
            file.close()  # releases


def _acquire(path: Path, name: str) -> tuple[IO[str] | None, list[str] | None]:
    """The lock file, held, or why the process that held it failed; neither where the system has no
    locks."""
    told = False
    while True:
        file = open(path, 'a+')  # noqa: SIM115 (the caller closes it)
        try:
            try:
                held = lock(file, wait=False)
            except BlockingIOError:
                if not told:
                    print(f'waiting for another process that downloads {name}', file=sys.stderr)
                    told = True
                held = lock(file, wait=True)
        except OSError:
            file.close()
            raise
        if not held:
            file.close()
            return None, None
        if is_at(file, path):
            file.truncate(0)  # of a process that was killed
            return file, None
        with file:  # removed by the process that held it
            file.seek(0)
            note = file.read()
        if note:
            with contextlib.suppress(ValueError):
                return None, list(json.loads(note))
