"""Files that the tools write: all or nothing, and a plain error where they cannot."""

import json
import os
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..errors import ConfigError


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made if it is not there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'{path}: the folder cannot be made ({error.strerror}).') from None
    return path


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a text file; its folder is made if need be."""
    path = Path(path)
    make_folder(path.parent)
    # not by the engine's function: reading logs needs no torch, whose import takes seconds
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f'{path}: cannot be written ({error.strerror}).') from None
    return path


def write_json(content: Any, path: str | os.PathLike[str]) -> Path:
    """Write a JSON file; numbers that are not finite are an error."""
    return write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', path)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format of the file's name; no display is needed."""
    path = Path(path)
    make_folder(path.parent)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip('.').lower() not in known:
        raise ConfigError(f'{path}: a picture ends in .png (or {", ".join(sorted(known))}).')
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        figure.savefig(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f'{path}: cannot be written ({error.strerror}).') from None
    return path


def show(path: str | os.PathLike[str]) -> None:
    """Open a window with a picture and wait until it is closed.

    Raises:
        ConfigError: there is no display.
    """
    import matplotlib
    from matplotlib import pyplot

    if matplotlib.get_backend().lower() == 'agg':
        raise ConfigError(f'--show: there is no display; the picture is in {path}.')
    pyplot.figure(figsize=(10, 8)).add_axes((0, 0, 1, 1)).imshow(pyplot.imread(str(path)))
    pyplot.axis('off')
    pyplot.show()


def file_name(text: str) -> str:
    """A class's name as part of a file's."""
    return re.sub(r'[^\w.-]+', '_', text)
