"""Image files looked at by several processes: readable, how large, and with which content."""

import contextlib
import hashlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import cv2
from PIL import Image

from mmdet_r2.datasets.image_contents import (
    DamagedImageError,
    UnreadableImageError,
    UnsupportedImageError,
    look_into,
    max_pixels,
    unused_bits,
)
from mmdet_r2.datasets.image_files import read_header
from mmdet_r2.datasets.transforms import LoadImageFromFile
from mmdet_r2.datasets.transforms.loading import read_content
from mmdet_r2.errors import DataError
from mmdet_r2.progress import progress

# Of images that --fix keeps with their objects.
KEPT_KINDS = ('file-unsupported', 'file-dark')


@dataclass(frozen=True)
class FileFacts:
    """What a file is like; ``kind`` names the finding if it cannot be used."""

    kind: str = ''
    message: str = ''
    stored: tuple[int, int] = (0, 0)  # width, height, before the EXIF rotation
    shown: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: str = ''  # of the content, '' if it was not read

    @property
    def is_readable(self) -> bool:
        """Whether it has pixels."""
        return self.shown != (0, 0)


def inspect_files(
    paths: Mapping[str, str | os.PathLike], workers: int | None = None, decode: bool = True
) -> dict[str, FileFacts]:
    """Facts of each file, by its key.

    Args:
        paths: key -> file.
        workers: processes; None is one per CPU core, 1 none but this one.
        decode: read and decode the whole file as training does. False reads the header only.
    """
    keys = list(paths)
    look = partial(_inspect, decode=decode)
    workers = min(workers or os.cpu_count() or 1, max(1, len(keys) // 8))
    ordered = [os.fspath(paths[key]) for key in keys]
    if workers == 1:
        return dict(zip(keys, map(look, progress(ordered, 'images'))))
    with multiprocessing.Pool(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        found = pool.imap(look, ordered, chunksize=8)
        return {key: next(found) for key in progress(keys, 'images')}


def _inspect(path: str, decode: bool) -> FileFacts:
    if not os.path.exists(path):
        return FileFacts('file-missing', f'{path} does not exist')
    try:
        header = read_header(path)
    except UnsupportedImageError as error:
        return FileFacts('file-unsupported', str(error))
    except DataError as error:
        return FileFacts('file-corrupt', str(error))
    facts = FileFacts(
        stored=(header.stored_width, header.stored_height),
        shown=header.size,
        orientation=header.orientation,
    )
    if not decode:
        return facts
    said = io.StringIO()
    try:
        content = read_content(path, 'image')
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        facts = replace(facts, digest=digest)
        with _library_messages(said):
            image = LoadImageFromFile()._decode(path, content, 'color')
    except UnsupportedImageError as error:
        return FileFacts('file-unsupported', str(error))
    except DamagedImageError as error:
        return replace(facts, kind='file-damaged', message=str(error))
    except UnreadableImageError as error:
        kind = 'file-truncated' if 'truncated' in str(error) else 'file-corrupt'
        return FileFacts(kind, str(error))
    found = look_into(content)
    if dark := unused_bits(found, image):
        return replace(facts, kind='file-dark', message=f'{path}: {dark}')
    # libjpeg and libpng fill what they cannot decode and only say so. Extra bytes are harmless.
    serious = [
        line
        for line in said.getvalue().splitlines()
        if 'premature end' in line or 'bad Huffman' in line or 'CRC error' in line
    ]
    if serious:
        return replace(facts, kind='file-damaged', message=f'{path}: {serious[0].strip()}')
    if found.kind == 'TIFF' and (reason := _second_opinion(content)):
        return replace(facts, kind='file-damaged', message=f'{path}: {reason}')
    return facts


def _second_opinion(content: bytes) -> str:
    """What Pillow says against a TIFF that OpenCV decoded: OpenCV leaves strips black that are
    damaged. '' for nothing, or for a kind of TIFF that Pillow does not know.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height <= max_pixels():
                image.load()
    except Image.UnidentifiedImageError:
        return ''
    except (OSError, ValueError, SyntaxError) as error:
        return ' '.join(str(error).split())
    return ''


@contextlib.contextmanager
def _library_messages(target: io.StringIO) -> Iterator[None]:
    """What C libraries write to this process's error stream meanwhile."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            target.write(file.read().decode('utf-8', 'replace'))
