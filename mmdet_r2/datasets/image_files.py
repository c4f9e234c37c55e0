"""Image files from outside: their size without decoding them, and where they are."""

import logging
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, NamedTuple

from mmengine.logging import print_log
from PIL import Image

from mmdet_r2.datasets.image_contents import (
    MAX_IMAGE_BYTES,
    UnreadableImageError,
    UnsupportedImageError,
    look_into,
    too_large,
)
from mmdet_r2.errors import DataError, did_you_mean
from mmdet_r2.files import open_file

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')

# Pillow's names of the formats that LoadImageFromFile reads.
_READ = frozenset(
    ['AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'SUN', 'TIFF', 'WEBP']
)
# Suffixes of images that folders are not searched for.
_OTHER_SUFFIXES = frozenset(
    [
        '.arw',
        '.avif',
        '.cr2',
        '.cr3',
        '.dcm',
        '.dib',
        '.dng',
        '.exr',
        '.gif',
        '.hdr',
        '.heic',
        '.heif',
        '.ico',
        '.j2k',
        '.jfif',
        '.jif',
        '.jp2',
        '.jpe',
        '.jxl',
        '.nef',
        '.orf',
        '.pam',
        '.pbm',
        '.pfm',
        '.pnm',
        '.psd',
        '.ras',
        '.raw',
        '.rw2',
        '.sgi',
        '.svg',
        '.tga',
    ]
)
_HEADER_BYTES = 2**24
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height


class ImageHeader(NamedTuple):
    """Size in pixels as stored, and the EXIF orientation (1: upright) that viewers apply."""

    stored_width: int
    stored_height: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown, and as :class:`LoadImageFromFile` gives the image."""
        stored = (self.stored_width, self.stored_height)
        return stored[::-1] if self.orientation >= 5 else stored


def read_header(path: str | os.PathLike) -> ImageHeader:
    """Size and orientation of an image, from the first bytes of its file.

    Raises:
        UnreadableImageError: the file is missing, no regular file, or no image; names it.
        UnsupportedImageError: an image of a kind that is not read, or of too many pixels.
    """
    try:
        with open_file(path, 'image', MAX_IMAGE_BYTES) as file:
            return _header(path, file)
    except UnreadableImageError:
        raise
    except DataError as error:
        raise UnreadableImageError(str(error)) from None


def _header(path: str | os.PathLike, file: BinaryIO) -> ImageHeader:
    width, height, orientation, reason = 0, 0, 1, 'not an image, or corrupt'
    try:
        with Image.open(file) as image:
            if image.format in _READ and image.mode not in ('I', 'F'):
                width, height = image.size
                orientation = image.getexif().get(_ORIENTATION, 1)
    except OSError as error:  # PIL's own is one
        reason = error.strerror or reason
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = ' '.join(str(error).split())
    if not width:
        # Rare: what Pillow does not know, or what the loader does not read.
        file.seek(0)
        found = look_into(file.read(_HEADER_BYTES))
        if found.unread or not found.width:
            failure = UnsupportedImageError if found.unread else UnreadableImageError
            reason = found.unread or found.defect or reason
            raise failure(f'cannot read image {path}: {reason}')
        width, height = found.width, found.height
    if reason := too_large(width, height):
        raise UnsupportedImageError(f'cannot read image {path}: {reason}')
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1  # what viewers do with nonsense
    return ImageHeader(width, height, orientation)


def annotated_size(
    path: str | os.PathLike, stated: tuple[int, int] | None, source: str
) -> tuple[int, int]:
    """(width, height) that the annotations in ``source`` are for.

    The image's as shown; or as stored where ``stated`` says that, because the annotation tool knew
    nothing of EXIF rotations. :class:`LoadImageFromFile` then loads it so, too.

    Raises:
        DataError: the file has another size than stated, or cannot be read.
    """
    header = read_header(path)
    stored = (header.stored_width, header.stored_height)
    if stated is None or stated in (header.size, stored):
        return stated or header.size
    raise DataError(
        f'{source}: says {stated[0]} x {stated[1]} pixels, but {path} has {header.size[0]} x '
        f'{header.size[1]}: the annotations belong to another image or size'
    )


def list_images(folder: str | os.PathLike) -> list[str]:
    """Names of all image files below a folder, as :func:`list_files` gives them. What is passed
    over of images with other suffixes is logged, see :func:`note_passed_over`.

    Raises:
        DataError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise DataError(f'image folder {folder} does not exist (seen from {os.getcwd()})')
    names = list_files(folder, (*SUFFIXES, *_OTHER_SUFFIXES))
    note_passed_over(folder, names)
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def note_passed_over(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Log a line that counts those of ``names`` that are images of other suffixes than
    :data:`SUFFIXES`, if any.
    """
    others: dict[str, list[str]] = {}
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in _OTHER_SUFFIXES:
            others.setdefault(suffix, []).append(name)
    if not others:
        return
    counts = ', '.join(f'{len(found)} {suffix} ({found[0]!r})' for suffix, found in others.items())
    total = sum(map(len, others.values()))
    print_log(
        f'{os.fspath(folder)}: {total} image files are passed over: {counts}; images are found by '
        f'the suffixes {", ".join(SUFFIXES)}: rename or convert them',
        logger='current',
        level=logging.WARNING,
    )


def list_files(folder: str | os.PathLike, suffixes: tuple[str, ...]) -> list[str]:
    """Names of all files below a folder, relative to it, with forward slashes, sorted.

    Links are followed, to each folder once. Hidden files are passed over: macOS leaves its
    ``._a.jpg`` in archives.

    Args:
        suffixes: in lower case; files have them in either.
    """
    names = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(os.fspath(folder), followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in files:
            if name.lower().endswith(suffixes) and not name.startswith('.'):
                names.append(os.path.relpath(os.path.join(parent, name), folder))
    return sorted(name.replace(os.sep, '/') for name in names)


class ImageFolder:
    """The images of a folder, found by the names that annotation files give them.

    Annotation files name images as ``a.jpg``, ``train/a.jpg``, ``/home/someone/train/a.jpg`` or
    ``..\\train\\a.jpg``, often without the right suffix. :meth:`find` says which file of the folder
    is meant.

    Args:
        folder: of the images; listed once, on first need.
    """

    MOST_HINTS = 20  # looking for a similar name among 100,000 takes a second

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f'image folder {folder} does not exist (seen from {os.getcwd()})')
        self._names: list[str] | None = None
        self._by_stem: dict[str, list[str]] = {}  # names by their last part without suffix
        self._num_missed = 0

    def find(self, name: str, source: str = '') -> str:
        """The name relative to the folder of the image that ``source`` calls ``name``.

        By the whole path; then by its name without suffix, where of several the one counts whose
        folders agree the most, from the last one up, and then the one with the right suffix.

        Raises:
            DataError: none, or several, could be meant.
        """
        plain = name.replace('\\', '/') if not os.path.exists(self.folder / name) else name
        absolute = os.path.isabs(plain) or PureWindowsPath(name).is_absolute()
        if not absolute and (self.folder / plain).is_file():
            return os.path.normpath(plain).replace(os.sep, '/')
        if absolute and os.path.exists(plain):
            inside = os.path.relpath(os.path.realpath(plain), os.path.realpath(self.folder))
            if not inside.startswith('..'):
                return inside.replace(os.sep, '/')
        names = self._listed()
        wanted = _parts(plain)
        stem = os.path.splitext(wanted[-1])[0]
        # A name without a suffix may still have a dot.
        found = self._by_stem.get(stem) or self._by_stem.get(wanted[-1]) or []
        likeness = [_likeness(_parts(other), wanted) for other in found]
        most = max(likeness, default=None)
        best = [other for other, like in zip(found, likeness) if like == most]
        if len(best) == 1:
            return best[0]
        if best:
            raise DataError(
                f'{source}: image {name!r} could be {best[0]} or {best[1]} below {self.folder}: '
                f'give the folder that it lies in'
            )
        self._num_missed += 1
        hint = ''
        if self._num_missed <= self.MOST_HINTS:
            hint = did_you_mean(wanted[-1], (_parts(other)[-1] for other in names))
        kind = 'an absolute path that does not exist here, and no' if absolute else 'no'
        raise DataError(
            f'{source}: image {name!r} is not there ({kind} image of that name is among the '
            f'{len(names)} below {self.folder}){hint}'
        )

    def path(self, name: str) -> Path:
        """Where the image of that relative name lies."""
        return self.folder / name

    def _listed(self) -> list[str]:
        """All images, sorted."""
        if self._names is None:
            self._names = list_images(self.folder)
            for name in self._names:
                stem = os.path.splitext(_parts(name)[-1])[0]
                self._by_stem.setdefault(stem, []).append(name)
        return self._names


def _parts(name: str) -> list[str]:
    """Folders and file of a path; macOS writes accents as characters of their own."""
    return unicodedata.normalize('NFC', name).split('/')


def _likeness(found: list[str], wanted: list[str]) -> tuple[int, bool]:
    """How many folders before the file agree, and whether the whole file name does."""
    folders = 0
    for ours, theirs in zip(found[-2::-1], wanted[-2::-1]):
        if ours != theirs:
            break
        folders += 1
    return folders, found[-1] == wanted[-1]
