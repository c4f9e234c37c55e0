"""The objects of one image as plain lists, and many of those as the content of a COCO JSON file.

What a :class:`CustomDataset` returns and what the readers of other formats
(:mod:`mmdet_r2.datasets.convert`) give: one description that everything else is made of.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from mmdet_r2.errors import DataError, did_you_mean
from mmdet_r2.structures.masks import MAX_POINTS, encode_rle, rle_problem, to_rle, usable_mask


@dataclass
class ImageAnnotations:
    """One image and its n objects.

    Args:
        file_name: relative to the image folder.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the image, continuous: x2 - x1 is the width.
            Nested lists, an array or a tensor; [] for no object; None takes them from ``masks``.
        labels: n class names, or n indices into the classes, from 0, without a background.
        masks: n masks, or None: of each object its polygons (lists x1, y1, x2, y2, ...; several for
            an object in several parts), COCO run lengths, an (height, width) bitmap, or None.
        crowd: n flags: a region of many objects, neither learnt nor counted as a mistake.
        width, height: in pixels; None reads them from the file's header.
        source: what a message calls this image, such as the file and line it came from; default
            the file name.
    """

    file_name: str
    boxes: Any
    labels: Sequence[str | int]
    masks: Sequence[Any] | None = None
    crowd: Sequence[bool] | None = None
    width: int | None = None
    height: int | None = None
    source: str = ''


def coco_content(
    images: Iterable[ImageAnnotations],
    classes: Sequence[str],
    size_of: Callable[[str], tuple[int, int]],
    source: str = '',
) -> dict:
    """The images as the content of a COCO annotation file; ids count from 1, in the order given.

    Args:
        images: read once.
        classes: names of the categories; label i is ``classes[i]`` and gets the category id i + 1.
        size_of: (width, height) of a file name, asked where an image does not say its own.
        source: begins every message.

    Raises:
        DataError: an image whose boxes, labels or masks are not what they should be, or that comes
            twice; names it.
    """
    index = {name: i for i, name in enumerate(classes)}
    listed: dict[str, int] = {}
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    content: dict = dict(images=[], annotations=[], categories=categories)
    for number, image in enumerate(images, start=1):
        if not isinstance(image, ImageAnnotations):
            raise DataError(
                f'{source}image {number} is a {type(image).__name__}, expected ImageAnnotations'
            )
        try:
            entry, annotations = coco_entries(image, index, size_of)
        except DataError as error:
            raise DataError(f'{source}image {number}, {error}') from None
        name = entry['file_name']
        if name in listed:
            raise DataError(
                f'{source}image {number}, {image.source or repr(name)}: the same image as number '
                f'{listed[name]}'
            )
        listed[name] = number
        add_entries(content, entry, annotations)
    return content


def add_entries(content: dict, entry: dict, annotations: list[dict]) -> None:
    """Add what :func:`coco_entries` gave to a content, under the next ids."""
    entry['id'] = len(content['images']) + 1
    content['images'].append(entry)
    for annotation in annotations:
        annotation.update(id=len(content['annotations']) + 1, image_id=entry['id'])
        content['annotations'].append(annotation)


def coco_entries(
    image: ImageAnnotations, index: dict[str, int], size_of: Callable[[str], tuple[int, int]]
) -> tuple[dict, list[dict]]:
    """An image and its annotations as COCO describes them, without ids.

    Args:
        index: label of each class, counted from 0, in their order.
        size_of: (width, height) of a file name, asked where the image does not say its own.

    Raises:
        DataError: boxes, labels or masks are not what they should be; begins with the ``source``.
    """
    try:
        if not isinstance(image.file_name, (str, os.PathLike)):
            raise _Wrong('file_name is no text')
        name = os.fspath(image.file_name)
        width, height = _size(image, name, size_of)
        annotations = _annotations(image, width, height, index)
    except _Wrong as error:
        raise DataError(f'{image.source or repr(image.file_name)}: {error}') from None
    return dict(file_name=name, width=width, height=height), annotations


class _Wrong(Exception):
    """What is wrong with an image; its name comes in front."""


def _size(
    image: ImageAnnotations, name: str, size_of: Callable[[str], tuple[int, int]]
) -> tuple[int, int]:
    if image.width is None or image.height is None:
        return size_of(name)
    try:
        width, height = int(image.width), int(image.height)
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if (width, height) != (image.width, image.height) or min(width, height) <= 0:
        raise _Wrong(f'size {image.width} x {image.height}, expected two positive integers')
    return width, height


def _annotations(
    image: ImageAnnotations, width: int, height: int, index: dict[str, int]
) -> list[dict]:
    """COCO annotations without ids."""
    for what in ('labels', 'masks', 'crowd'):
        values = getattr(image, what)
        optional = values is None and what != 'labels'
        if not optional and (isinstance(values, str) or not hasattr(values, '__len__')):
            raise _Wrong(f'{what} is {_short(values)}, expected a list')
    count = len(image.labels)
    masks = [None] * count if image.masks is None else list(image.masks)
    crowd = [False] * count if image.crowd is None else list(image.crowd)
    for values, what in ((masks, 'masks'), (crowd, 'crowd flags')):
        if len(values) != count:
            raise _Wrong(f'{len(values)} {what} for {count} labels')
    shapes = [_segmentation(mask, i, width, height) for i, mask in enumerate(masks)]
    boxes = _boxes(image, count, shapes, width, height)
    annotations = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        label = _label(image.labels[i], i, index)
        shape = shapes[i]
        area = (x2 - x1) * (y2 - y1)
        if shape is not None:
            area = float(coco_mask.area(to_rle(shape, height, width)))
        annotation = dict(
            category_id=label + 1,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=area,
            iscrowd=int(bool(crowd[i])),
        )
        annotations.append(annotation | ({} if shape is None else {'segmentation': shape}))
    return annotations


def _boxes(
    image: ImageAnnotations, count: int, shapes: list, width: int, height: int
) -> list[list[float]]:
    if image.boxes is None:
        if any(shape is None for shape in shapes):
            raise _Wrong('boxes is None, but not every object has a mask to take its box from')
        return [mask_box(shape, height, width) for shape in shapes]
    try:
        boxes = np.asarray(image.boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise _Wrong(f'boxes are {_short(image.boxes)}, expected n x 4 numbers') from None
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise _Wrong(f'boxes have the shape {boxes.shape}, expected (n, 4): x1, y1, x2, y2')
    if len(boxes) != count:
        raise _Wrong(f'{len(boxes)} boxes but {count} labels')
    for i, box in enumerate(boxes.tolist()):
        if not np.isfinite(box).all():
            raise _Wrong(f'box {i} is {box}: not finite')
        if box[2] < box[0] or box[3] < box[1]:
            raise _Wrong(
                f'box {i} is {box}, whose second corner is above or left of its first: boxes are '
                f'x1, y1, x2, y2 in pixels (not x, y, width, height)'
            )
    return boxes.tolist()


def _label(label: Any, i: int, index: dict[str, int]) -> int:
    if isinstance(label, str):
        if label not in index:
            hint = did_you_mean(label, index)
            raise _Wrong(f'label {i} is {label!r}, which is not a class{hint}')
        return index[label]
    try:
        number = int(label)
        whole = number == label
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise _Wrong(f'label {i} is {label!r}, expected the name or the index of a class')
    if not 0 <= number < len(index):
        hint = ' (labels count from 0; there is no background class)'
        raise _Wrong(
            f'label {i} is {number}, but the {len(index)} classes have the labels 0 to '
            f'{len(index) - 1}{hint if number == len(index) else ""}'
        )
    return number


def _segmentation(mask: Any, i: int, width: int, height: int) -> list | dict | None:
    """A mask in any accepted form as COCO's ``segmentation``; bitmaps become run lengths."""
    if mask is None:
        return None
    if isinstance(mask, (list, tuple)):
        shape: Any = [np.asarray(part, dtype=object).reshape(-1).tolist() for part in mask]
        if mask and not isinstance(mask[0], (list, tuple, np.ndarray)):
            raise _Wrong(f'mask {i} is one list of numbers, expected a list of polygons')
    elif isinstance(mask, dict):
        shape = mask
    else:
        bitmap = np.asarray(mask)
        if bitmap.shape != (height, width):
            raise _Wrong(
                f'mask {i} is a bitmap of shape {bitmap.shape}, but the image has '
                f'(height, width) ({height}, {width})'
            )
        shape = encode_rle(bitmap[None] != 0)[0]
    usable = usable_mask(shape, height, width)
    if usable is None or (isinstance(shape, list) and len(usable) < len(shape)):
        if isinstance(shape, dict):
            raise _Wrong(f'mask {i} is {_short(mask)}: {rle_problem(shape, height, width)}')
        raise _Wrong(
            f'mask {i} is {_short(mask)}, expected polygons of at least three points x, y, at most '
            f'{MAX_POINTS} points in all'
        )
    if isinstance(usable, list):
        return [polygon.tolist() for polygon in usable]
    counts = usable['counts']
    counts = counts.decode('ascii') if isinstance(counts, bytes) else counts
    return dict(size=[height, width], counts=counts)


def mask_box(segmentation: list | dict, height: int, width: int) -> list[float]:
    """The tight box x1, y1, x2, y2 of a usable ``segmentation``: of polygons' points, or pixels."""
    if isinstance(segmentation, list):
        points = np.concatenate([np.asarray(p, float).reshape(-1, 2) for p in segmentation])
        return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    x, y, w, h = coco_mask.toBbox(to_rle(segmentation, height, width)).tolist()
    return [x, y, x + w, y + h]


def _short(value: Any) -> str:
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + '...'
