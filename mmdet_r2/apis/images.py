"""Images in every form that inference takes them: found, fetched, checked, decoded."""

import glob
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from ..datasets.image_contents import too_large
from ..datasets.image_files import SUFFIXES, note_passed_over
from ..datasets.transforms import LoadImageFromFile
from ..errors import DataError
from ..files import plain_name
from ..zoo.transfer import Stalled, TransferFailed, Watch, opener

Image = str | os.PathLike[str] | bytes | np.ndarray | Tensor | PIL.Image.Image

_MAX_DOWNLOAD = 2**29
_TIMEOUT = 30.0
_LONGEST = 600.0  # seconds that an image may take
_COLOUR_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != '.pgm')
_KINDS = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor, PIL.Image.Image)


@dataclass
class ImageSource:
    """An image that was given, not decoded yet (unless it was given so).

    Attributes:
        name: of the image in messages: its path or address, else what it was called.
        path: its path or address; None for one given otherwise.
        data: the bytes of a file, or the image itself (H, W, 3) uint8 BGR; None for what is to be
            read from ``path``.
    """

    name: str
    path: str | None = None
    data: bytes | np.ndarray | None = None

    @property
    def stem(self) -> str | None:
        """The file's name without suffix, None for what was no file."""
        return None if self.path is None else os.path.splitext(_file_name(self.path))[0]

    @property
    def drawing_suffix(self) -> str:
        """Of a drawing of it: the file's own, unless a drawing does not go into such a file."""
        if self.path is None:
            return '.jpg'
        suffix = os.path.splitext(_file_name(self.path))[1]
        return suffix if suffix.lower() in _COLOUR_SUFFIXES else '.png'

    def fetch(self) -> None:
        """Download what is an address, once."""
        if self.data is None and self.path is not None and is_url(self.path):
            self.data = _downloaded(self.path)

    def decode(self, loader: LoadImageFromFile | None = None) -> np.ndarray:
        """The image (H, W, 3) uint8 BGR, turned as its EXIF tag says.

        Args:
            loader: how files are read and decoded; None for OpenCV and the local disk.

        Raises:
            DataError: it cannot be read, or has more pixels than are let through.
        """
        if isinstance(self.data, np.ndarray):
            return self.data
        loader = loader or LoadImageFromFile()
        self.fetch()
        content = self.data
        if content is None:
            assert self.path is not None
            content = loader._read(self.path)
        return loader._decode(self.name, content, loader.color_type)


def is_image(value: object) -> bool:
    """Whether ``value`` is of a type that is one image, rather than several."""
    return isinstance(value, _KINDS)


def image_source(image: Image, name: str) -> ImageSource:
    """What was given as an image, checked as far as can be without reading it.

    Args:
        image: a path or http(s) address; the content of an image file as bytes; an array (H, W, 3)
            uint8 **BGR** or (H, W) grey, as OpenCV reads them; a PIL image; or a tensor (3, H, W)
            **RGB** or (1, H, W) or (H, W) grey, uint8 or float in [0, 1], as torchvision makes
            them.
        name: what to call it in messages, unless it has a path.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return ImageSource(path, path)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return ImageSource(name, data=bytes(image))
    if isinstance(image, np.ndarray):
        return ImageSource(name, data=_from_array(image, name))
    if isinstance(image, PIL.Image.Image):
        return ImageSource(name, data=_from_pil(image, name))
    if isinstance(image, Tensor):
        return ImageSource(name, data=_from_tensor(image, name))
    raise DataError(
        f'{name} is a {type(image).__name__}; expected a path, URL, bytes, BGR array, PIL image or '
        'RGB tensor.'
    )


def find_images(source: str | os.PathLike[str]) -> list[str]:
    """Paths or addresses of the images that ``source`` means: a file, an address, a folder (its
    images, not those of folders in it) or a pattern (``photos/**/*.jpg``), in the order of names.

    Raises:
        DataError: there are none.
    """
    text = os.fspath(source)
    if is_url(text):
        return [text]
    path = Path(text).expanduser()
    # of os.path, as they are False where a name is too long
    if os.path.isfile(path):
        return [str(path)]
    if os.path.isdir(path):
        try:
            # macOS puts ._a.jpg beside a.jpg
            files = [p for p in path.iterdir() if not p.name.startswith('.') and p.is_file()]
        except OSError as error:
            raise DataError(f'{text}: the folder cannot be read ({error.strerror}).') from None
        note_passed_over(text, sorted(p.name for p in files))
        found = sorted(str(p) for p in files if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f'{text}: the folder has no images ({", ".join(SUFFIXES)})')
        return found
    found = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
    if not found:
        raise DataError(f'{text}: no such file or folder, and no file fits it as a pattern.')
    return found


def is_url(text: str) -> bool:
    """Whether ``text`` is an http(s) address."""
    return text.lower().startswith(('http://', 'https://'))


class Names:
    """File names for results, each given out once: of equal ones the later are numbered.

    Attributes:
        count: how many were given out.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._taken)

    def new(self, stem: str, suffix: str) -> str:
        """``stem + suffix``, or ``stem-2 + suffix``, and so on, as a file can be called."""
        stem = plain_name(stem)
        name, number = stem + suffix, 1
        while name in self._taken:
            number += 1
            name = f'{stem}-{number}{suffix}'
        self._taken.add(name)
        return name


def _downloaded(url: str) -> bytes:
    try:
        request = urllib.request.Request(url, headers={'User-Agent': 'mmdet_r2'})
        with opener().open(request, timeout=_TIMEOUT) as answer:
            return _received(answer, url)
    except (OSError, http.client.HTTPException, ValueError, TransferFailed, Stalled) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, 'reason', None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f'HTTP {error.code}: {error.reason}'
        text = ' '.join(str(reason).split()) or type(error).__name__
        raise DataError(f'{url}: cannot be downloaded ({text})') from None


def _received(answer: http.client.HTTPResponse, url: str) -> bytes:
    """The body of an answer, unless it is too large, stalls, or takes too long."""
    expected = answer.length
    parts: list[bytes] = []
    with Watch(answer, _TIMEOUT, _LONGEST) as watch:
        while watch.done <= _MAX_DOWNLOAD and (expected or 0) <= _MAX_DOWNLOAD:
            part = answer.read1(2**20)
            parts.append(part)
            watch.done += len(part)
            if not part:
                break
        else:
            raise DataError(f'{url}: more than {_MAX_DOWNLOAD >> 20} MB; download it yourself')
    if expected is not None and watch.done < expected:
        raise DataError(f'{url}: cut short ({watch.done} of {expected} bytes)')
    return b''.join(parts)


def _file_name(path: str) -> str:
    if is_url(path):
        path = urllib.request.url2pathname(path.split('?')[0].split('#')[0])
    return os.path.basename(path.rstrip('/')) or 'image'


def _from_array(image: np.ndarray, name: str) -> np.ndarray:
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f'{name}: array of shape {image.shape} and type {image.dtype}; expected (height, '
            'width, 3) uint8 in BGR order.'
        )
    return image


def _from_pil(image: PIL.Image.Image, name: str) -> np.ndarray:
    if reason := too_large(*image.size):
        raise DataError(f'{name}: {reason}')
    if image.mode in ('I', 'F'):
        raise DataError(
            f'{name}: PIL image of mode {image.mode}, whose range is unknown; convert it to RGB.'
        )
    try:
        image = PIL.ImageOps.exif_transpose(image)
        if image.mode.startswith('I;16'):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return _from_array(grey, name)
        array = np.asarray(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError) as error:  # read lazily: the file may be broken
        where = getattr(image, 'filename', '') or name
        raise DataError(f'cannot read image {where}: {error}') from None
    return _from_array(np.ascontiguousarray(array[..., ::-1]), name)


def _from_tensor(image: Tensor, name: str) -> np.ndarray:
    image = image.detach()
    whole = image.dtype == torch.uint8
    if image.ndim == 2:
        image = image[None]
    if (
        image.ndim != 3
        or image.shape[0] not in (1, 3)
        or not image.numel()
        or not (whole or image.is_floating_point())
    ):
        raise DataError(
            f'{name}: tensor of shape {tuple(image.shape)} and type {image.dtype}; expected '
            '(3, height, width) in RGB order, uint8 or float in [0, 1].'
        )
    image = image.cpu()
    if not whole:
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):
            raise DataError(
                f'{name}: float tensor with values from {low:g} to {high:g}; expected [0, 1] (not '
                'normalised), or uint8.'
            )
        image = image.mul(255).round().to(torch.uint8)
    array = image.expand(3, -1, -1).flip(0).permute(1, 2, 0)
    return np.ascontiguousarray(array.numpy())
