"""LabelMe's JSON files, one per image (https://github.com/wkentaro/labelme).

Shapes with the same label and ``group_id`` are parts of one object, as in LabelMe's own converter.
A rectangle is a box without a mask unless it is such a part.
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
from mmdet_r2.files import path_inside, read_json, write_json
from mmdet_r2.progress import progress
from mmdet_r2.structures.masks import MAX_COORDINATE

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
    try:
        name = images.find(name, str(file))
    except DataError as error:
        if content.get('imageData'):
            raise DataError(f'{error}; its imageData is the picture: save it as a file') from None
        raise
    size = annotated_size(images.path(name), _stated_size(content, file), str(file))
    objects: dict[Any, list[dict]] = {}  # the shapes of each object
    for number, shape in enumerate(content['shapes']):
        where = f'{file}, shape {number}'
        label = shape.get('label') if isinstance(shape, dict) else None
        label = '' if label is None else str(label).strip()
        if not label:
            raise DataError(f'{where}: has no label')
        kind = shape.get('shape_type') or 'polygon'
        if kind in _WITHOUT_AREA:
            notes.lost(f'shapes of type {kind} left out, which have no area', where)
            continue
        group = shape.get('group_id')
        key = number if group is None else (label, str(group))
        flags = shape.get('flags')
        part = dict(
            label=label,
            kind=kind,
            polygon=_polygon(shape, kind, where),
            crowd=isinstance(flags, dict) and bool(flags.get(_CROWD)),
        )
        objects.setdefault(key, []).append(part)
    points = [np.concatenate([part['polygon'] for part in parts]) for parts in objects.values()]
    return ImageAnnotations(
        file_name=name,
        boxes=[[*p.min(axis=0).tolist(), *p.max(axis=0).tolist()] for p in points],
        labels=[parts[0]['label'] for parts in objects.values()],
        masks=[
            None
            if len(parts) == 1 and parts[0]['kind'] == 'rectangle'
            else [part['polygon'].reshape(-1).tolist() for part in parts]
            for parts in objects.values()
        ],
        crowd=[parts[0]['crowd'] for parts in objects.values()],
        width=size[0],
        height=size[1],
        source=str(file),
    )


def _stated_size(content: dict, file: Path) -> tuple[int, int] | None:
    """(width, height) as the file says it, None if it does not."""
    width, height = content.get('imageWidth'), content.get('imageHeight')
    if not width or not height:
        return None
    try:
        return int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f'{file}: imageWidth and imageHeight are {width!r} and {height!r}, expected numbers'
        ) from None


def _polygon(shape: dict, kind: str, where: str) -> np.ndarray:
    """A shape as one polygon (n, 2) in pixels."""
    try:
        points = np.array(shape.get('points'), dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f'{where}: points are not pairs of numbers')
    if not (np.abs(points) < MAX_COORDINATE).all():
        raise DataError(f'{where}: a coordinate is not finite, or no pixel of any image')
    if kind == 'polygon' and len(points) < 3:
        raise DataError(f'{where}: a polygon of {len(points)} points, expected at least 3')
    polygon = _outline(shape, kind, points, where)
    if np.ptp(polygon, axis=0).min() <= 0:
        raise DataError(f'{where}: the {kind} has no width or no height')
    return polygon


def _outline(shape: dict, kind: str, points: np.ndarray, where: str) -> np.ndarray:
    if kind == 'polygon':
        return points
    if kind == 'rectangle' and len(points) in (2, 4):
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if kind == 'circle' and len(points) == 2:
        radius = math.dist(points[0], points[1])
        angles = np.arange(_CIRCLE_POINTS) * (2 * math.pi / _CIRCLE_POINTS)
        return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind == 'mask' and len(points) == 2:
        # A bitmap of the pixels from the first to the last point, both included.
        return joined(trace(_mask(shape.get('mask'), where))) + points.min(axis=0).round()
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
        target = path_inside(out, f'{stem}.json')
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
        content: dict = dict(
            version='5.4.1',
            flags={},
            shapes=shapes,
            imagePath=os.path.relpath(source, target.parent).replace(os.sep, '/'),
            imageData=None,
            imageHeight=image.height,
            imageWidth=image.width,
        )
        write_json(target, content)
