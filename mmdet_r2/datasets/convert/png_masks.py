"""Instance masks as one PNG per image, named after it.

Two codings: a pixel's value is ``class * divisor + number`` (Cityscapes' with a divisor of 1000),
classes counting from 1, numbers from 0 or 1, and values below the divisor are ground; or, as in
Pascal VOC, the number alone, beside a second folder whose PNGs have the class.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from mmdet_r2.datasets.convert.coco_json import CocoImage, kept_objects, output_stems
from mmdet_r2.datasets.convert.common import Notes
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, list_images, read_header
from mmdet_r2.errors import DataError
from mmdet_r2.files import path_inside, write_image
from mmdet_r2.progress import progress
from mmdet_r2.structures.masks import encode_rle, to_rle

_BORDER = 255  # in VOC's PNGs: around objects, of nothing


def read_masks(
    image_dir: str | os.PathLike,
    mask_dir: str | os.PathLike,
    classes: Sequence[str],
    notes: Notes,
    divisor: int = 1000,
    class_dir: str | os.PathLike | None = None,
) -> Iterator[ImageAnnotations]:
    """The images that have a mask PNG, with a run-length mask for each object.

    Args:
        image_dir: of the images.
        mask_dir: of the PNGs: grey of 8 or 16 bits, or indices of a palette.
        classes: names of the classes 1, 2, ...
        divisor: of the first coding.
        class_dir: of the PNGs with classes; chooses the second coding.
    """
    _check_divisor(divisor)
    images = ImageFolder(image_dir)
    names = [name for name in list_images(mask_dir) if name.lower().endswith('.png')]
    if not names:
        raise DataError(f'no PNG in {mask_dir}')
    for name in progress(names, 'masks'):
        with notes.collecting():
            yield _read_file(
                images, Path(mask_dir) / name, name, classes, divisor,
                None if class_dir is None else Path(class_dir) / name, notes,
            )  # fmt: skip


def _read_file(
    images: ImageFolder,
    file: Path,
    name: str,
    classes: Sequence[str],
    divisor: int,
    class_file: Path | None,
    notes: Notes,
) -> ImageAnnotations:
    stem = os.path.splitext(name)[0]
    image_name = images.find(f'{stem}.jpg', str(file))
    width, height = read_header(images.path(image_name)).size
    values = _read_png(file, width, height)
    labels = None if class_file is None else _read_png(class_file, width, height)
    if labels is None and 0 < values.max() < divisor:
        notes.lost(
            f'PNGs have values below {divisor} only, which are ground (--divisor, --class-masks?)',
            str(file),
        )
    found, masks = [], []
    for value in np.unique(values).tolist():
        if value < (1 if labels is not None else divisor) or (
            labels is not None and value == _BORDER
        ):
            continue
        mask = values == value
        if labels is None:
            label = value // divisor
        else:
            inside, counts = np.unique(labels[mask], return_counts=True)
            label = int(inside[counts.argmax()])
        if not 1 <= label <= len(classes):
            raise DataError(
                f'{file}: value {value} is of class {label}, expected 1 to {len(classes)}'
            )
        found.append(classes[label - 1])
        masks.append(encode_rle(mask[None])[0])
    return ImageAnnotations(image_name, None, found, masks, None, width, height, str(file))


def _check_divisor(divisor: int) -> None:
    if divisor < 1:
        raise DataError(f'the divisor is {divisor}, expected at least 1 (--divisor)')


def _read_png(file: Path, width: int, height: int) -> np.ndarray:
    """(H, W) of the values stored, whatever the palette."""
    try:
        with Image.open(file) as png:
            values = np.array(png)
    except (OSError, SyntaxError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else 'not an image'
        raise DataError(f'cannot read {file}: {reason}') from None
    if values.ndim != 2:
        raise DataError(f'{file}: has {values.shape[2]} channels, expected one (or a palette)')
    if values.shape != (height, width):
        raise DataError(
            f'{file}: {values.shape[1]} x {values.shape[0]} pixels, its image {width} x {height}'
        )
    return values.astype(np.int64)


def write_masks(
    images: Sequence[CocoImage],
    classes: Sequence[str],
    out_dir: str | os.PathLike,
    notes: Notes,
    divisor: int = 1000,
) -> None:
    """Write 16-bit PNGs of ``class * divisor + number``; smaller objects lie above larger ones.

    Raises:
        DataError: more classes than fit 16 bits with this divisor, or more objects than divisor.
    """
    _check_divisor(divisor)
    if (len(classes) + 1) * divisor > 2**16:
        raise DataError(
            f'{len(classes)} classes times {divisor} do not fit 16 bits: use --divisor '
            f'{2**16 // (len(classes) + 1)} or less, and the same to read them'
        )
    index = {name: i for i, name in enumerate(classes, start=1)}
    pairs = list(zip(images, output_stems(images)))
    for image, stem in progress(pairs, 'masks'):
        masks = []
        for thing in kept_objects(image, notes, 'crowds left out'):
            if thing.segmentation is None:
                notes.lost('objects without mask left out', thing.source)
                continue
            rle = to_rle(thing.segmentation, image.height, image.width)
            masks.append((thing, coco_mask.decode(rle).astype(bool)))
        masks.sort(key=lambda pair: -int(pair[1].sum()))
        values = np.zeros((image.height, image.width), np.uint16)
        numbers: dict[str, int] = {}
        owners = []
        for thing, mask in masks:
            numbers[thing.name] = numbers.get(thing.name, 0) + 1
            if numbers[thing.name] >= divisor:
                raise DataError(f'{image.file_name}: more than {divisor - 1} of {thing.name!r}')
            owners.append(index[thing.name] * divisor + numbers[thing.name])
            values[mask] = owners[-1]
        for (thing, mask), owner in zip(masks, owners):
            if not mask.any() or (values[mask] != owner).any():
                notes.lost('objects partly covered by others (a pixel has one owner)', thing.source)
        write_image(path_inside(out_dir, f'{stem}.png'), values)
