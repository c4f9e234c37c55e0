"""A bar for work that takes long."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as _track

T = TypeVar('T')


def track(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """``items`` one by one, with a bar on standard error while it is a terminal.

    Args:
        items: what to go through.
        text: before the bar.
        total: number of items, where it cannot be asked for.
    """
    console = Console(stderr=True)
    yield from _track(
        items, text, total, console=console, transient=True, disable=not console.is_terminal
    )
