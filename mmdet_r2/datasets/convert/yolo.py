"""YOLO's text files: a row per object, ``class cx cy w h`` or ``class x1 y1 x2 y2 ...`` (polygon).

Numbers are fractions of the image's size, classes indices into the names of ``data.yaml`` or of a
``classes.txt``. The labels of ``.../images/a/b.jpg`` are in ``.../labels/a/b.txt``; an image
without such a file, or with an empty one, has no objects.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmdet_r2.datasets.convert.coco_json import CocoImage, kept_objects, output_stems
from mmdet_r2.datasets.convert.common import Notes, parsed_number, read_text
from mmdet_r2.datasets.convert.outlines import single_ring
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import list_images, read_header
from mmdet_r2.errors import DataError
from mmdet_r2.files import parse_yaml, path_inside, write_text
from mmdet_r2.progress import progress

# Rounding of what lies at the image's edge.
_TOLERANCE = 0.01


def read_data_yaml(path: str | os.PathLike, split: str) -> tuple[list[str], Path, list[str]]:
    """Class names, image folder, and the split's images relative to it, of a ``data.yaml``.

    ``path`` in the file is relative to the file (or to the working folder, as its original has
    it); the split is a folder, a list of folders, or a text file with an image per line.

    Raises:
        DataError: a key is missing or not what it should be, or a folder or image does not exist.
    """
    content = _load_yaml(path)
    names = _names(content.get('names'), str(path))
    if content.get('nc', len(names)) != len(names):
        raise DataError(f'{path}: nc is {content["nc"]}, but there are {len(names)} names')
    if content.get('kpt_shape'):
        raise DataError(
            f'{path} has kpt_shape: its rows are of key points, which are not converted'
        )
    if not content.get(split):
        raise DataError(
            f'{path} has no split {split!r}; it has '
            f'{", ".join(key for key in ("train", "val", "test") if content.get(key)) or "none"}'
        )
    here = Path(path).parent
    base = str(content.get('path') or '.')
    root = next((root for root in (here / base, Path(base)) if root.is_dir()), None)
    if root is None:
        raise DataError(
            f'{path}: path: {base} does not exist, neither beside that file nor seen from '
            f'{os.getcwd()}'
        )
    images: list[Path] = []
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    for entry in map(str, entries):
        images += _images_of(_existing(root, entry, here, f'{path}: {split}'))
    if not images:
        raise DataError(f'{path}: {split}: no image in {", ".join(map(str, entries))}')
    common = Path(os.path.commonpath([image.parent for image in images]))
    return names, common, [str(image.relative_to(common)) for image in images]


def _load_yaml(path: str | os.PathLike) -> dict:
    content = parse_yaml(read_text(path), path)
    if not isinstance(content, dict) or 'names' not in content:
        raise DataError(f"{path} has no 'names', the list of classes")
    return content


def _existing(root: Path, entry: str, here: Path, source: str) -> Path:
    """The file or folder that is called ``entry``."""
    # Windows writes backslashes.
    for name in (entry, entry.replace('\\', '/')):
        # Exported files often say ../train/images for a folder that lies beside them.
        for candidate in (root / name, here / name.removeprefix('../'), Path(name)):
            if candidate.exists():
                return _plain(candidate)
    raise DataError(f'{source}: {entry} does not exist (expected at {root / entry})')


def _plain(path: Path) -> Path:
    """Absolute and without dots, but with its links: labels lie beside the link."""
    return Path(os.path.abspath(path))


def _images_of(target: Path) -> list[Path]:
    if target.is_dir():
        return [target / name for name in list_images(target)]
    return [
        _existing(target.parent, name, target.parent, f'{target}:{number}: image')
        for number, line in enumerate(read_text(target).splitlines(), start=1)
        if (name := line.strip())
    ]


def _names(names: Any, path: str) -> list[str]:
    if isinstance(names, dict):
        by_number = {str(number): name for number, name in names.items()}
        numbers = [str(i) for i in range(len(names))]
        if by_number.keys() != set(numbers):
            raise DataError(
                f'{path}: names has the keys {", ".join(by_number)}, expected 0, 1, 2, ...'
            )
        names = [by_number[number] for number in numbers]
    if not isinstance(names, list) or not names:
        raise DataError(f'{path}: names is {names!r}, expected a list of classes')
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise DataError(f'{path}: names: {name!r} is no text; in YAML put it in quotes')
        if names.count(name) > 1:
            raise DataError(f'{path}: names: {name!r} occurs twice')
    return [str(name) for name in names]


def label_file(image: str | os.PathLike) -> Path:
    """Where YOLO expects the labels of an image: the last ``images`` in its path is ``labels``."""
    parts = list(Path(image).parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == 'images':
            parts[i] = 'labels'
            break
    return Path(*parts).with_suffix('.txt')


def read_yolo(
    image_dir: str | os.PathLike,
    classes: Sequence[str],
    notes: Notes,
    label_dir: str | os.PathLike | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[ImageAnnotations]:
    """The images of a folder with the objects of their label files.

    Args:
        image_dir: of the images.
        classes: names of the labels.
        label_dir: of the label files, which have the images' relative paths; None: as YOLO does.
        names: only these images, relative to ``image_dir``; None: all.
    """
    root = Path(image_dir)
    names = list_images(root) if names is None else names
    files = {
        name: (
            label_file((root / name).absolute())
            if label_dir is None
            else (Path(label_dir) / name).with_suffix('.txt')
        )
        for name in names
    }
    if not any(file.is_file() for file in files.values()):
        first = next(iter(files.values()), label_dir)
        raise DataError(f'no label file for any of {len(names)} images in {root} (e.g. {first})')
    for name, file in progress(list(files.items()), 'YOLO labels'):
        with notes.collecting():
            if not file.is_file():
                notes.lost('images without a label file, taken as without objects', name)
            yield _read_file(root / name, name, file, classes)
    folders = {file.parent for file in files.values()}
    known = {*files.values(), *(folder / 'classes.txt' for folder in folders)}
    for folder in sorted(folders):
        for file in sorted(folder.glob('*.txt')):
            if file not in known:
                notes.lost('label files without an image', str(file))


def _read_file(path: Path, name: str, file: Path, classes: Sequence[str]) -> ImageAnnotations:
    width, height = read_header(path).size
    text = read_text(file) if file.is_file() else ''
    boxes, labels = [], []
    masks: list[list | None] = []
    scale = np.array([width, height], dtype=np.float64)
    for number, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        label, points = _parse_row(row.split(), classes, f'{file}:{number}')
        if len(points) == 2:  # centre and size
            corner = (points[0] - points[1] / 2) * scale
            boxes.append([*corner.tolist(), *(corner + points[1] * scale).tolist()])
            masks.append(None)
        else:
            # Tools round to 2 decimals, and what pycocotools fills depends on the last digit.
            polygon = np.round(points * scale, 4)
            boxes.append([*polygon.min(axis=0).tolist(), *polygon.max(axis=0).tolist()])
            masks.append([polygon.reshape(-1).tolist()])
        labels.append(label)
    return ImageAnnotations(
        name, boxes, labels, masks, width=width, height=height, source=str(file)
    )


def _parse_row(cells: list[str], classes: Sequence[str], where: str) -> tuple[str, np.ndarray]:
    """The class and (n, 2) fractions of a row."""
    if len(cells) != 5 and (len(cells) < 7 or len(cells) % 2 == 0):
        hint = '; six are a result with its score' if len(cells) == 6 else ''
        raise DataError(
            f'{where}: {len(cells)} numbers, expected class cx cy w h, or class and the x y of at '
            f'least three points{hint}'
        )
    values = []
    for cell in cells:
        value = parsed_number(cell)
        if value is None:
            raise DataError(f'{where}: {cell!r} is not a number')
        values.append(value)
    label = values[0]
    if label not in range(len(classes)):
        hint = ' (YOLO counts classes from 0)' if label == len(classes) else ''
        raise DataError(f'{where}: class {cells[0]}, expected 0 to {len(classes) - 1}{hint}')
    points = np.array(values[1:]).reshape(-1, 2)
    if points.min() < -_TOLERANCE or points.max() > 1 + _TOLERANCE:
        worst = points.max() if points.max() > 1 + _TOLERANCE else points.min()
        raise DataError(
            f'{where}: {worst:g} is outside 0..1: numbers must be fractions of the image size, '
            f'not pixels'
        )
    if (points[1] if len(points) == 2 else np.ptp(points, axis=0)).min() <= 0:
        raise DataError(f'{where}: the object has no width or no height')
    return classes[int(label)], points


def write_yolo(
    images: Sequence[CocoImage],
    classes: Sequence[str],
    out_dir: str | os.PathLike,
    notes: Notes,
    split: str = 'train',
    polygons: bool | None = None,
) -> None:
    """Write ``labels/<split>/*.txt``, and ``data.yaml`` with the classes and this split.

    The images belong into ``images/<split>/``. Crowds are left out, since YOLO has none. An object
    of several parts or with holes becomes one polygon with cuts of no width.

    Args:
        polygons: write polygons instead of boxes; None: where every object has a mask. Objects
            without a mask then get the outline of their box.
    """
    out = Path(out_dir)
    objects = [o for image in images for o in image.objects if not o.crowd]
    if polygons is None:
        polygons = bool(objects) and all(o.segmentation for o in objects)
    yaml_file = _data_yaml(out / 'data.yaml', classes, split)
    index = {name: i for i, name in enumerate(classes)}
    pairs = list(zip(images, output_stems(images)))
    for image, stem in progress(pairs, 'YOLO labels'):
        rows = []
        scale = np.array([image.width, image.height])
        for thing in kept_objects(image, notes, 'crowds left out (YOLO has none)'):
            corners = np.array(thing.box).reshape(2, 2) / scale
            if not polygons:
                if thing.segmentation:
                    notes.lost('masks left out (only boxes are written)', thing.source)
                points = np.stack([corners.mean(axis=0), corners[1] - corners[0]])
            elif thing.segmentation is None:
                notes.lost('objects without mask: the outline of the box written', thing.source)
                (x1, y1), (x2, y2) = corners
                points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
            else:
                points = single_ring(thing.segmentation, image.height, image.width) / scale
            numbers = ' '.join(f'{value:.10g}' for value in points.reshape(-1))
            rows.append(f'{index[thing.name]} {numbers}\n')
        write_text(path_inside(out / 'labels' / split, f'{stem}.txt'), ''.join(rows))
    write_text(out / 'data.yaml', yaml.safe_dump(yaml_file, sort_keys=False, allow_unicode=True))


def _data_yaml(path: Path, classes: Sequence[str], split: str) -> dict:
    """The content of ``data.yaml`` with this split; those it has already stay in it."""
    content: dict = dict(path='.')
    if path.is_file():
        old = _load_yaml(path)
        if _names(old['names'], str(path)) != list(classes):
            raise DataError(f'{path} exists and has other classes: choose another folder')
        content = old
    return {**content, split: f'images/{split}', 'names': dict(enumerate(classes))}
