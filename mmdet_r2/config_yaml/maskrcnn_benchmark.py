"""maskrcnn-benchmark's YAML, and that of its fork for Res2Net."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def owns(values: dict[str, Any]) -> bool:
    """Whether the keys are maskrcnn-benchmark's."""
    return False


def translate(
    path: Path, values: dict[str, Any], shipped: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    raise NotImplementedError
