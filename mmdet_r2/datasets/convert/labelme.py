"""LabelMe's JSON files, one per image (https://github.com/wkentaro/labelme).

Shapes with the same ``group_id`` are parts of one object. A rectangle is a box without a mask
unless it is such a part.
"""

import base64
import binascii
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmdet_r2.datasets.convert.coco_json import CocoImage, output_stems
from mmdet_r2.datasets.convert.common import Notes, sorted_files
from mmdet_r2.datasets.convert.outlines import joined, parts, trace
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, annotated_size
from mmdet_r2.errors import DataError
from mmdet_r2.files import read_json, write_json
from mmdet_r2.progress import progress

_CIRCLE_POINTS = 128  # area to within 0.04 %
_WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')
_CROWD = 'iscrowd'  # a flag of ours in a shape's ``flags``


def read_labelme(
    folder: str | os.PathLike, notes: Notes, image_dir: str | os.PathLike | None = None
) -> Iterator[ImageAnnotations]:
    """The images of all ``*.json`` below a folder.

    Args:
        folder: of the JSON files.
        image_dir: of the images; None: the same folder.
    """
    images = ImageFolder(folder if image_dir is None else image_dir)
    for file in progress(sorted_files(folder, '.json'), 'LabelMe'):
        with notes.collecting():
            content = read_json(file)
            if isinstance(content, dict) and {'images', 'annotations'} <= content.keys():
                notes.lost('COCO files passed over', str(file))  # such as one written here before
            else:
                yield _read_file(file, content, images, notes)


def _read_file(file: Path, content: Any, images: ImageFolder, notes: Notes) -> ImageAnnotations:
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        raise DataError(f'{file}: not a LabelMe file: no list "shapes"')
    name = str(content.get('imagePath') or file.with_suffix('.jpg').name)
    beside = (file.parent / name.replace('\\', '/')).absolute()
    if beside.is_file():  # imagePath is relative to the JSON file, not to the image folder
        name = str(beside)
    name = images.find(name, str(file))
    stated = (content.get('imageWidth'), content.get('imageHeight'))
    size = annotated_size(images.path(name), stated if all(stated) else None, str(file))
    image = ImageAnnotations(name, [], [], [], [], *size, str(file))
    groups: dict[Any, int] = {}
    for number, shape in enumerate(content['shapes']):
        where = f'{file}, shape {number}'
        if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
            raise DataError(f'{where}: has no label')
        kind = shape.get('shape_type') or 'polygon'
        if kind in _WITHOUT_AREA:
            notes.lost(f'shapes of type {kind} left out, which have no area', where)
            continue
        polygons = _polygons(shape, kind, where)
        group = shape.get('group_id')
        if group in groups and group is not None:
            _join(image, groups[group], shape['label'], polygons, where)
            continue
        if group is not None:
            groups[group] = len(image.labels)
        points = np.concatenate(polygons)
        image.boxes.append([*points.min(axis=0).tolist(), *points.max(axis=0).tolist()])
        image.labels.append(shape['label'])
        image.masks.append([p.reshape(-1).tolist() for p in polygons])
        image.crowd.append(bool((shape.get('flags') or {}).get(_CROWD)))
        if kind == 'rectangle' and not _has_parts(content['shapes'], group):
            image.masks[-1] = None
    return image


def _has_parts(shapes: list, group: Any) -> bool:
    return group is not None and sum(s.get('group_id') == group for s in shapes) > 1


def _join(image: ImageAnnotations, i: int, label: str, polygons: list, where: str) -> None:
    """Add a part to object ``i``."""
    if image.labels[i] != label:
        raise DataError(
            f'{where}: {label!r} has the group_id of a {image.labels[i]!r}: a group is one object'
        )
    image.masks[i] += [p.reshape(-1).tolist() for p in polygons]
    points = np.concatenate([*polygons, np.array(image.boxes[i]).reshape(2, 2)])
    image.boxes[i] = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _polygons(shape: dict, kind: str, where: str) -> list[np.ndarray]:
    """The (n, 2) polygons of a shape in pixels."""
    try:
        points = np.array(shape.get('points'), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise DataError(f'{where}: points are not pairs of numbers') from None
    if not np.isfinite(points).all():
        raise DataError(f'{where}: a coordinate is not finite')
    if kind == 'polygon':
        if len(points) < 3:
            raise DataError(f'{where}: a polygon of {len(points)} points, expected at least 3')
        return [points]
    if kind == 'rectangle' and len(points) in (2, 4):
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    if kind == 'circle' and len(points) == 2:
        radius = math.dist(points[0], points[1])
        angles = np.arange(_CIRCLE_POINTS) * (2 * math.pi / _CIRCLE_POINTS)
        return [points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)]
    if kind == 'mask' and len(points) == 2:
        return [
            ring + points.min(axis=0).round()
            for ring in [joined(trace(_mask(shape.get('mask'), where)))]
        ]
    if kind in ('rectangle', 'circle', 'mask'):
        raise DataError(f'{where}: a {kind} of {len(points)} points, expected 2')
    raise DataError(f'{where}: shape_type {kind!r} is not known')


def _mask(text: Any, where: str) -> np.ndarray:
    """The bitmap of a shape of type mask: a PNG in base64, of its rectangle."""
    try:
        data = base64.b64decode(text, validate=True)
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (TypeError, binascii.Error, cv2.error):
        mask = None
    if mask is None or not mask.any():
        raise DataError(f'{where}: its mask is empty, or not a PNG in base64')
    return mask > 0


def write_labelme(
    images: Sequence[CocoImage],
    out_dir: str | os.PathLike,
    notes: Notes,
    image_dir: str | os.PathLike | None = None,
) -> None:
    """Write a JSON file per image.

    Objects of several parts are polygons of one ``group_id``, objects without a mask rectangles;
    holes become cuts of no width in the polygon around them. Crowds have the flag ``iscrowd``.

    Args:
        image_dir: where the images are, which ``imagePath`` then says relative to the JSON file;
            None: beside the JSON files.
    """
    out = Path(out_dir)
    pairs = list(zip(images, output_stems(images)))
    for image, stem in progress(pairs, 'LabelMe'):
        target = out / f'{stem}.json'
        source = (out if image_dir is None else Path(image_dir)) / image.file_name
        shapes = []
        for group, thing in enumerate(image.objects, start=1):
            if thing.segmentation is None:
                kind, outlines = 'rectangle', [np.array(thing.box).reshape(2, 2)]
            else:
                found = parts(thing.segmentation, image.height, image.width)
                kind, outlines = 'polygon', [joined(rings) for rings in found]
            if not outlines:
                notes.lost('objects left out whose mask is empty', thing.source)
            shapes += [
                dict(
                    label=thing.name,
                    points=np.round(outline, 4).tolist(),
                    group_id=group if len(outlines) > 1 else None,
                    description='',
                    shape_type=kind,
                    flags={_CROWD: True} if thing.crowd else {},
                    mask=None,
                )
                for outline in outlines
            ]
        content = dict(
            version='5.4.1',
            flags={},
            shapes=shapes,
            imagePath=os.path.relpath(source, target.parent).replace(os.sep, '/'),
            imageData=None,
            imageHeight=image.height,
            imageWidth=image.width,
        )
        write_json(target, content)
