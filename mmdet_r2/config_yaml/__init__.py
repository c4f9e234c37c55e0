"""The YAML configs of detectron2 and maskrcnn-benchmark, with those of their forks for ResNeSt and
Res2Net, as configs of ours.

Each project has one table, from every key that its defaults have to the keys here; what has no
counterpart is an error where its value changes the model or its numbers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import detectron2, maskrcnn_benchmark
from .source import read_chain

# Upper-case sections that files of both have at the top, beside the inheritance of detectron2's.
_SECTIONS = {'_BASE_', 'MODEL', 'SOLVER', 'INPUT', 'DATASETS', 'DATALOADER', 'TEST'}


def is_theirs(content: dict[str, Any]) -> bool:
    """Whether a YAML file's content is in their style: sections in upper case."""
    return not _SECTIONS.isdisjoint(content)


def translate(
    path: Path, content: dict[str, Any], shipped: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The values of our config for one of theirs.

    Args:
        path, content: of the file.
        shipped: the values of a config that comes with the package, by its name; a copy.

    Raises:
        ConfigError: names the file and the key: one that they do not have either, or a value that
            nothing here computes.
    """
    values = read_chain(path, content)
    for project in (maskrcnn_benchmark, detectron2):
        if project.owns(values):
            break
    return project.translate(path, values, shipped)
