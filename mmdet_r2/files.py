"""Files, read with a plain error and written whole or not at all: under its name is at every moment
the old content or all of the new one.

Checkpoints must outlast a power cut, too: :func:`mmdet_r2.engine.checkpoint.write_atomically`.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


def read_json(
    path: str | os.PathLike[str], kind: str = 'file', backend_args: dict | None = None
) -> Any:
    """The content of a JSON file.

    Args:
        kind: of file, for messages.
        backend_args: how mmengine reads it.

    Raises:
        DataError: missing, or not JSON; names the file, and the line.
    """
    path = os.fspath(path)
    try:
        if backend_args is None and '://' not in path:
            data = Path(path).read_bytes()
        else:
            from mmengine import fileio

            data = fileio.get(path, backend_args=backend_args)
        return json.loads(data)
    except (OSError, ImportError) as error:  # mmengine's backends need packages
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'cannot read {kind} {path}: {reason}') from None
    except json.JSONDecodeError as error:
        raise DataError(
            f'{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})'
        ) from None
    except UnicodeDecodeError:
        raise DataError(f'{path}: not a text file in UTF-8') from None
    except (ValueError, RecursionError) as error:  # numbers too long, lists in lists in lists
        raise DataError(f'{path}: not readable as JSON ({error})') from None


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Failures to write ``path`` become a :class:`DataError` that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f'{os.fspath(path)}: cannot be written ({reason}).') from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden name beside ``path``, of the same suffix, to write to. What was written there takes
    the name ``path`` at the end of the block; an error in the block removes it. Folders are made,
    links are followed, and what is no file on a disk (``/dev/null``) is written itself.

    Raises:
        DataError: it is a folder, or cannot be written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    # of os.path, as they are False where a name is too long
    if os.path.isdir(target):
        raise DataError(f'{path}: cannot be written ({os.strerror(errno.EISDIR)}).')
    if os.path.exists(target) and not os.path.isfile(target):
        with writing(path):
            yield target
        return
    temporary = target.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        with writing(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = None) -> None:
    """Write a JSON file; see :func:`replacing`."""
    text = json.dumps(content, indent=indent)
    write_text(path, text + '\n')


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image, (H, W, 3) uint8 RGB or (H, W), in the format of the file's name, or as JPEG
    where the name has none that OpenCV knows; see :func:`replacing`.
    """
    import cv2  # takes a while, and most who write files write text

    path = Path(path)
    suffix = path.suffix.lower() if path.suffix and cv2.haveImageWriter(path.name) else '.jpg'
    # Encoded in memory: OpenCV's own writing fails silently, and on some systems on paths that are
    # not ASCII.
    pixels = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels))
    if not done:
        height, width = image.shape[:2]
        raise DataError(f'{path}: {width} x {height} pixels cannot be written as {suffix}.')
    with replacing(path) as temporary:
        data.tofile(temporary)
