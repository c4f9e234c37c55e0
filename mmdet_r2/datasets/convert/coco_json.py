"""A COCO JSON file as the writers of other formats need it: images with their objects, by name."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmdet_r2.datasets.coco_annotations import is_id, is_size
from mmdet_r2.datasets.convert.common import Notes
from mmdet_r2.datasets.transforms.loading import usable_mask
from mmdet_r2.errors import DataError
from mmdet_r2.files import read_json, relative_name

_MORE = '; see tools/misc/check_dataset.py'


@dataclass
class CocoObject:
    """One object: class name, box x1, y1, x2, y2 in pixels, COCO ``segmentation`` or None."""

    name: str
    box: tuple[float, float, float, float]
    segmentation: list | dict | None
    crowd: bool
    source: str  # what a message calls it


@dataclass
class CocoImage:
    """One image and its objects."""

    file_name: str
    width: int
    height: int
    objects: list[CocoObject]


def read_coco(path: str | os.PathLike, notes: Notes) -> tuple[list[str], list[CocoImage]]:
    """Class names in the order of their category ids, and the images in the file's order.

    Raises:
        DataError: the file is not in COCO's format, or (all reported first) an annotation has no
            box, image or category. ``tools/misc/check_dataset.py`` looks closer.
    """
    content = read_json(path)
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f'{path} is not in COCO format: no list {key!r}')
    try:
        categories = sorted(content['categories'], key=lambda category: category['id'])
        names = {category['id']: str(category['name']) for category in categories}
    except (KeyError, TypeError):
        raise DataError(f'{path}: a category has no id or no name{_MORE}') from None
    images: dict[int | str, CocoImage] = {}
    for image in content['images']:
        known = image if isinstance(image, dict) else {}
        number, name = known.get('id'), known.get('file_name')
        width, height = known.get('width'), known.get('height')
        if not is_id(number) or not isinstance(name, str):
            raise DataError(f'{path}: image {image!r}'[:200] + f' has no id or file_name{_MORE}')
        if not is_size(width) or not is_size(height):
            raise DataError(
                f'{path}: image {name} has the size {width} x {height}, expected two positive '
                f'integers{_MORE}'
            )
        images[number] = CocoImage(name, int(width), int(height), [])
    for annotation in content['annotations']:
        with notes.collecting():
            found = _object(annotation, images, names, str(path))
            images[annotation['image_id']].objects.append(found)
    notes.finish()
    return list(names.values()), list(images.values())


def _object(annotation: dict, images: dict, names: dict, path: str) -> CocoObject:
    if not isinstance(annotation, dict):
        raise DataError(f'{path}: annotation {annotation!r} is no object'[:200])
    source = f'{path}, annotation {annotation.get("id")}'
    for key, known in (('image_id', images), ('category_id', names)):
        if not is_id(annotation.get(key)) or annotation[key] not in known:
            raise DataError(f'{source}: {key} {annotation.get(key)} is not in the file')
    try:
        x, y, w, h = map(float, annotation['bbox'])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f'{source}: bbox is {annotation.get("bbox")}, expected x, y, width, height'
        ) from None
    image = images[annotation['image_id']]
    mask = annotation.get('segmentation')
    if mask:
        usable = usable_mask(mask, image.height, image.width)
        if usable is None:
            raise DataError(f'{source}: its segmentation cannot be used')
        mask = [p.tolist() for p in usable] if isinstance(usable, list) else mask
    return CocoObject(
        name=names[annotation['category_id']],
        box=(x, y, x + w, y + h),
        segmentation=mask or None,
        crowd=bool(annotation.get('iscrowd', 0)),
        source=source,
    )


def kept_objects(image: CocoImage, notes: Notes, what_of_crowds: str) -> Iterator[CocoObject]:
    """The objects that are no crowds, for formats without crowds; those are counted as lost."""
    for thing in image.objects:
        if thing.crowd:
            notes.lost(what_of_crowds, thing.source)
        else:
            yield thing


def output_stems(images: Sequence[CocoImage]) -> list[str]:
    """The path of each image without its suffix, for files named after images.

    Raises:
        DataError: two images differ in their suffix only, or one is named so that its file would
            lie outside of a folder; see :func:`~mmdet_r2.files.relative_name`.
    """
    seen: dict[str, str] = {}
    for image in images:
        stem = os.path.splitext(relative_name(image.file_name))[0]
        if stem in seen:
            raise DataError(f'{seen[stem]} and {image.file_name} would share a file')
        seen[stem] = image.file_name
    return list(seen)


def number(value: float) -> str:
    """A coordinate as text: at most 4 decimals, and none where they are zero."""
    return f'{value:.4f}'.rstrip('0').rstrip('.')
