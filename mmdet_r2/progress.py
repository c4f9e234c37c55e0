"""A progress bar that does not mix with what a program prints."""

import sys
from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar('T')


def progress(
    items: Iterable[T], title: str, total: int | None = None, *, show: bool = True
) -> Iterator[T]:
    """``items``, with a bar on stderr while they are taken; it goes away in the end, and is not
    there at all where stderr is no terminal.

    Args:
        items: any iterable.
        title: what is being done.
        total: how many there are, where ``len(items)`` does not say it; None: unknown.
        show: False for no bar.
    """
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield from items
        return
    bar = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # rich sends prints through its own console, which is wrong where stdout is a file
        redirect_stdout=sys.stdout.isatty(),
    )
    try:
        bar.start()
    except LiveError:  # another bar is on this terminal, and rich is too old to show both
        yield from items
        return
    try:
        task = bar.add_task(title, total=total or length_hint(items) or None)
        for item in items:
            yield item
            bar.advance(task)
    finally:
        bar.stop()
