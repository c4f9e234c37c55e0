"""CSV with a row per object: image, box and class, in the columns that many tools write.

Columns are known by their header, in any order and case; without a header they are image, xmin,
ymin, xmax, ymax, class. A row with an image and nothing else is an image without objects.
"""

import ast
import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmdet_r2.datasets.convert.coco_json import CocoImage, number
from mmdet_r2.datasets.convert.common import Notes
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, read_header
from mmdet_r2.errors import DataError, did_you_mean
from mmdet_r2.files import write_text
from mmdet_r2.progress import progress

# Header names, lower case and without blanks, hyphens or underscores.
_COLUMNS: dict[str, tuple[str, ...]] = {
    'image': ('image', 'filename', 'file', 'imagename', 'imagepath', 'path', 'imgpath', 'img')
    + ('imageid',),
    'class': ('class', 'label', 'name', 'category', 'classname', 'labelname', 'categoryname'),
    'xmin': ('xmin', 'x1', 'left', 'bboxxmin'),
    'ymin': ('ymin', 'y1', 'top', 'bboxymin'),
    'xmax': ('xmax', 'x2', 'right', 'bboxxmax'),
    'ymax': ('ymax', 'y2', 'bottom', 'bboxymax'),
    'x': ('x', 'bboxx'),
    'y': ('y', 'bboxy'),
    'w': ('w', 'bboxw', 'bboxwidth', 'boxwidth'),
    'h': ('h', 'bboxh', 'bboxheight', 'boxheight'),
    'bbox': ('bbox', 'box'),
    'width': ('width', 'imagewidth', 'imgwidth'),
    'height': ('height', 'imageheight', 'imgheight'),
    'crowd': ('iscrowd', 'isgroupof'),
}
_DEFAULT = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'class')
_BOXES = (('xmin', 'ymin', 'xmax', 'ymax'), ('x', 'y', 'w', 'h'), ('bbox',))


def read_csv(
    path: str | os.PathLike,
    notes: Notes,
    image_dir: str | os.PathLike | None = None,
    normalized: bool = False,
    classes: Sequence[str] | None = None,
) -> Iterator[ImageAnnotations]:
    """The images of a CSV file.

    Args:
        path: comma, semicolon or tab separated.
        image_dir: of the images; None: the folder of the file.
        normalized: numbers are fractions of the image size, not pixels.
        classes: a row of another class is bad; None: any name is a class.
    """
    file = Path(path)
    images = ImageFolder(file.parent if image_dir is None else image_dir)
    columns, rows = _rows(file)
    found: dict[str, ImageAnnotations] = {}
    names: dict[str, str] = {}  # as the file names images -> file names
    for line, cells in progress(rows, 'CSV'):
        with notes.collecting():
            where = f'{file}:{line}'
            if len(cells) < len(columns) and any(cells[1:]):
                raise DataError(f'{where}: {len(cells)} columns, expected {len(columns)}')
            row = {name: cell.strip() for name, cell in zip(columns, cells) if name}
            if not row['image']:
                raise DataError(f'{where}: no image')
            if row['image'] not in names:
                names[row['image']] = images.find(row['image'], where)
            name = names[row['image']]
            if name not in found:
                width, height = read_header(images.path(name)).size
                found[name] = ImageAnnotations(
                    name, [], [], None, [], width=width, height=height, source=where
                )
            label = row.get('class')
            if label and classes is not None and label not in classes:
                hint = did_you_mean(label, classes)
                raise DataError(f'{where}: class {label!r} is not among the classes{hint}')
            _add(found[name], row, normalized, where)
    yield from found.values()


def _rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Our name for each column ('' for others), and the rows with their line numbers."""
    try:
        text = file.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise DataError(f'cannot read {file}: {error.strerror or error}') from None
    except UnicodeDecodeError:
        raise DataError(f'{file}: not a text file in UTF-8') from None
    head = text.partition('\n')[0]
    delimiter = max(',;\t', key=head.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError(f'{file} has no rows')
    header = rows[0][1]
    box = [cell.strip() for cell in header[1:5]]
    if len(header) == len(_DEFAULT) and (any(map(_is_number, box)) or not any(box)):
        return list(_DEFAULT), rows
    known = {spelling: name for name, spellings in _COLUMNS.items() for spelling in spellings}
    columns = [known.get(_plain(cell), '') for cell in header]
    # An id beside a name is not the image.
    if columns.count('image') > 1:
        columns = ['' if _plain(c) == 'imageid' else name for name, c in zip(columns, header)]
    boxes = [box for box in _BOXES if set(box) <= set(columns)]
    missing = [name for name in ('image', 'class') if name not in columns]
    if missing or not boxes:
        wanted = missing[0] if missing else 'xmin, ymin, xmax, ymax (or x, y, w, h, or bbox)'
        unknown = [cell for cell, name in zip(header, columns) if not name]
        hint = did_you_mean(missing[0], unknown) if missing else ''
        raise DataError(f'{file}:1: no column {wanted}{hint}; the header has {", ".join(header)}')
    for name in set(columns) - {''}:
        if columns.count(name) > 1:
            twice = [cell for cell, other in zip(header, columns) if other == name]
            raise DataError(f'{file}:1: columns {" and ".join(twice)} both mean {name}')
    return columns, rows[1:]


def _plain(text: str) -> str:
    return ''.join(c for c in text.strip().lower() if c not in ' _-')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _add(image: ImageAnnotations, row: dict[str, str], normalized: bool, where: str) -> None:
    """Add a row's object to its image."""
    for side, value in (('width', image.width), ('height', image.height)):
        stated = row.get(side)
        if stated and (not _is_number(stated) or float(stated) != value):
            raise DataError(
                f'{where}: {side} {stated}, but {image.file_name} has {image.width} x '
                f'{image.height} pixels'
            )
    keys = next(box for box in _BOXES if set(box) <= set(row))
    cells = [row[key] for key in keys]
    if not any(cells) and not row.get('class'):
        return
    if not row.get('class'):
        raise DataError(f'{where}: no class')
    if keys == ('bbox',):
        try:
            cells = [str(value) for value in ast.literal_eval(cells[0])]
        except (ValueError, SyntaxError, TypeError):
            cells = []
    if len(cells) != 4 or not all(map(_is_number, cells)):
        raise DataError(f'{where}: box is {", ".join(row[k] for k in keys)}, expected four numbers')
    x1, y1, x2, y2 = map(float, cells)
    if keys != _BOXES[0]:
        x2, y2 = x1 + x2, y1 + y2
    corners = [x1, y1, x2, y2]
    if not all(map(math.isfinite, corners)):
        raise DataError(f'{where}: a coordinate is not finite')
    if normalized:
        if max(corners) > 1.01:
            raise DataError(f'{where}: {max(corners):g} is no fraction: leave out --normalized')
        corners = [v * s for v, s in zip(corners, (image.width, image.height) * 2)]
    elif max(corners) <= 1:
        raise DataError(
            f'{where}: a box within one pixel: are these fractions of the image size? '
            f'(--normalized)'
        )
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(f'{where}: box {", ".join(map(number, corners))} (x1, y1, x2, y2) is empty')
    image.boxes.append(corners)
    image.labels.append(row['class'])
    image.crowd.append(row.get('crowd', '0').lower() in ('1', 'true'))


def write_csv(images: Sequence[CocoImage], path: str | os.PathLike, notes: Notes) -> None:
    """Write image, width, height, xmin, ymin, xmax, ymax, class, iscrowd; boxes in pixels."""
    lines = [['image', 'width', 'height', 'xmin', 'ymin', 'xmax', 'ymax', 'class', 'iscrowd']]
    for image in images:
        head = [image.file_name, str(image.width), str(image.height)]
        if not image.objects:
            lines.append([*head, '', '', '', '', '', ''])
        for thing in image.objects:
            if thing.segmentation:
                notes.lost('masks left out (CSV has boxes only)', thing.source)
            box = [number(value) for value in thing.box]
            lines.append([*head, *box, thing.name, str(int(thing.crowd))])
    write_text(path, ''.join(_line(line) for line in lines))


def _line(cells: list[str]) -> str:
    quoted = [
        '"' + c.replace('"', '""') + '"' if any(x in c for x in ',"\n;') else c for c in cells
    ]
    return ','.join(quoted) + '\n'
