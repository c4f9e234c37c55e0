"""Pictures of the analysis, in files and on the screen, and their folders."""

import os
import re
from pathlib import Path

from matplotlib.figure import Figure

from ..errors import ConfigError
from ..files import replacing


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made if it is not there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'{path}: the folder cannot be made ({error.strerror}).') from None
    return path


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format of the file's name; no display is needed."""
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip('.').lower() not in known:
        raise ConfigError(f'{path}: a picture ends in .png (or {", ".join(sorted(known))}).')
    with replacing(path) as temporary:
        figure.savefig(temporary)
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
