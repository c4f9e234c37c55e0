"""A COCO JSON file as the writers of other formats need it: images with their objects, by name."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmdet_r2.datasets.coco_json import MASKS, SKIPPED, id_order
from mmdet_r2.datasets.coco_json import read_coco as read_coco_file
from mmdet_r2.datasets.convert.common import Notes
from mmdet_r2.errors import DataError
from mmdet_r2.files import relative_name


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
    """Class names in the order of their category ids, and the images in the file's order; by the
    rules of :mod:`mmdet_r2.datasets.coco_json`. What they leave out is counted as lost.

    Raises:
        DataError: the file is not in COCO's format, or has an error.
            ``mmdet-r2 check`` looks closer.
    """
    coco = read_coco_file(path)
    first = {problem.kind: problem for problem in reversed(coco.problems)}
    for kind, text in (SKIPPED | MASKS).items():
        if number := coco.skipped[kind] + coco.others[kind]:
            problem = first[kind]
            where = f'{path}, annotation {problem.annotation_id}: {problem.message}'
            notes.lost(text if kind in MASKS else f'annotations {text}', where, number)
    if coco.num_ignored:
        notes.lost('annotations with ignore set', str(path), coco.num_ignored)
    categories = sorted(coco.categories, key=lambda category: id_order(category['id']))
    names = {category['id']: category['name'] for category in categories}
    images = []
    for image in coco.images:
        objects = []
        for annotation in image.objects:
            x, y, w, h = annotation['bbox']
            found = CocoObject(
                name=names[annotation['category_id']],
                box=(x, y, x + w, y + h),
                segmentation=annotation.get('segmentation') or None,
                crowd=bool(annotation.get('iscrowd')),
                source=f'{path}, annotation {annotation.get("id")}',
            )
            objects.append(found)
        images.append(CocoImage(image.file_name, image.width, image.height, objects))
    return list(names.values()), images


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
