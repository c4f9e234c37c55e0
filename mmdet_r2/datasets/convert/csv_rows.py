"""CSV with a row per object: image, box and class, in the columns that many tools write.

Columns are known by their header, in any order and case, VGG Image Annotator's regions included;
without a header they are image, xmin, ymin, xmax, ymax, class. A row with an image and nothing
else is an image without objects.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmdet_r2.datasets.convert.coco_json import CocoImage
from mmdet_r2.datasets.convert.coco_json import number as as_text
from mmdet_r2.datasets.convert.common import Notes, parsed_number, read_text
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, annotated_size
from mmdet_r2.errors import DataError, did_you_mean
from mmdet_r2.files import write_text
from mmdet_r2.progress import progress

# Header names, lower case and without blanks, dots, hyphens or underscores; ';' separates ranks:
# where a file has several columns of one meaning, the first rank that it has counts.
_COLUMNS = {
    name: [rank.split() for rank in ranks.split(';')]
    for name, ranks in {
        'image': 'filename file imagename imgname imagefile imagefilename; image img; '
        'path imagepath imgpath filepath; imageid',
        'class': 'classname labelname categoryname; class label category; name; '
        'classid labelid categoryid',
        'xmin': 'xmin x1 left bboxxmin roix1',
        'ymin': 'ymin y1 top bboxymin roiy1',
        'xmax': 'xmax x2 right bboxxmax roix2',
        'ymax': 'ymax y2 bottom bboxymax roiy2',
        'xcenter': 'xcenter centerx cx xcentre',
        'ycenter': 'ycenter centery cy ycentre',
        'x': 'x bboxx',
        'y': 'y bboxy',
        'w': 'bboxwidth boxwidth bboxw boxw; w',
        'h': 'bboxheight boxheight bboxh boxh; h',
        'bbox': 'bbox box',
        'width': 'imagewidth imgwidth imagew imgw originalwidth',
        'height': 'imageheight imgheight imageh imgh originalheight',
        'side w': 'width',  # of the box or of the image
        'side h': 'height',
        'crowd': 'iscrowd isgroupof',
    }.items()
}
_DEFAULT = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'class')
_BOXES = (
    ('xmin', 'ymin', 'xmax', 'ymax'),
    ('x', 'y', 'w', 'h'),
    ('xcenter', 'ycenter', 'w', 'h'),
    ('bbox',),
)
# The columns of VGG Image Annotator that hold JSON.
_VIA = ('regionshapeattributes', 'regionattributes')


def read_csv(
    path: str | os.PathLike,
    notes: Notes,
    image_dir: str | os.PathLike | None = None,
    normalized: bool = False,
    classes: Sequence[str] | None = None,
) -> Iterator[ImageAnnotations]:
    """The images of a CSV file.

    Args:
        path: separated by commas, semicolons, tabs or bars.
        image_dir: of the images; None: the folder of the file.
        normalized: numbers are fractions of the image size, not pixels.
        classes: a row of another class is bad; None: any name is a class.
    """
    file = Path(path)
    images = ImageFolder(file.parent if image_dir is None else image_dir)
    columns, rows = _rows(file)
    found: dict[str, _Objects] = {}
    names: dict[str, str] = {}  # as the file names images -> file names
    for line, cells in progress(rows, 'CSV'):
        with notes.collecting():
            where = f'{file}:{line}'
            cells = [cell.strip() for cell in cells]
            while len(cells) > len(columns) and not cells[-1]:
                cells.pop()
            row = {**dict.fromkeys(columns, ''), **dict(zip(columns, cells))}
            if not row['image']:
                raise DataError(f'{where}: no image')
            if len(cells) != len(columns) and sum(map(bool, cells)) > 1:
                raise DataError(f'{where}: {len(cells)} columns, expected {len(columns)}')
            if row['image'] not in names:
                names[row['image']] = images.find(row['image'], where)
            name = names[row['image']]
            if name not in found:
                sides = [parsed_number(row.get(side, '')) for side in ('width', 'height')]
                stated = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None
                found[name] = _Objects(annotated_size(images.path(name), stated, where), where)
            label = row['class']
            if label and classes is not None and label not in classes:
                hint = did_you_mean(label, classes)
                raise DataError(f'{where}: class {label!r} is not among the classes{hint}')
            found[name].add(row, normalized, where)
    for name, own in found.items():
        yield ImageAnnotations(name, own.boxes, own.labels, None, own.crowd, *own.size, own.source)


def _rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Our name for each column ('' for others), and the rows with their line numbers."""
    lines = read_text(file).splitlines()
    delimiter = max(',;\t|', key=lines[0].count) if lines else ','
    # strict: a quote that is never closed would swallow all rows after it
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f'{file}:{reader.line_num}: {error}') from None
    if not rows:
        raise DataError(f'{file} has no rows')
    header = rows[0][1]
    box = [cell.strip() for cell in header[1:5]]
    numbers = any(parsed_number(cell) is not None for cell in box)
    if len(header) == len(_DEFAULT) and (numbers or not any(box)):
        return list(_DEFAULT), rows
    if set(_VIA) <= set(map(_plain, header)):
        return _via_rows(file, header, rows[1:])
    columns = _columns(file, header)
    boxes = [box for box in _BOXES if set(box) <= set(columns)]
    missing = [name for name in ('image', 'class') if name not in columns]
    if missing or not boxes:
        wanted = missing[0] if missing else 'xmin, ymin, xmax, ymax (or x, y, w, h, or bbox)'
        unknown = [cell for cell, name in zip(header, columns) if not name]
        hint = did_you_mean(missing[0], unknown) if missing else ''
        raise DataError(f'{file}:1: no column {wanted}{hint}; the header has {", ".join(header)}')
    return columns, rows[1:]


def _columns(file: Path, header: list[str]) -> list[str]:
    """Our name for each column, '' for those of no use."""
    columns = [''] * len(header)
    spelt = [_plain(cell) for cell in header]
    for name, ranks in _COLUMNS.items():
        for rank in ranks:
            own = [i for i, cell in enumerate(spelt) if cell in rank]
            if len(own) > 1:
                twice = ' and '.join(header[i] for i in own)
                raise DataError(f'{file}:1: columns {twice} both mean {name}')
            if own:
                columns[own[0]] = name
                break
    there = set(columns)
    renamed = {}
    if {'xmin', 'ymin'} <= there and not {'xmax', 'ymax', 'x', 'y'} & there:
        renamed = {'xmin': 'x', 'ymin': 'y'}  # a corner and a size
    starts = {'x', 'y'} <= there or {'xcenter', 'ycenter'} <= there or bool(renamed)
    for side, box, image in (('side w', 'w', 'width'), ('side h', 'h', 'height')):
        # the box's where it needs one, else the image's unless that has a column of its own
        renamed[side] = box if starts and box not in there else '' if image in there else image
    return [renamed.get(name, name) for name in columns]


def _via_rows(
    file: Path, header: list[str], rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The regions of VGG Image Annotator as rows of our columns: boxes, and boxes around
    polygons, circles and ellipses."""
    spelt = [_plain(cell) for cell in header]
    if 'filename' not in spelt:
        raise DataError(f'{file}:1: no column filename; the header has {", ".join(header)}')
    name, shape, region = (spelt.index(cell) for cell in ('filename', *_VIA))
    found = []
    for line, row in rows:
        where = f'{file}:{line}'
        if len(row) != len(header):
            raise DataError(f'{where}: {len(row)} columns, expected {len(header)}')
        outline, attributes = _object(row[shape], where), _object(row[region], where)
        box = _via_box(outline, where) if outline else [''] * 4
        found.append((line, [row[name], *box, _via_class(attributes, where) if outline else '']))
    return list(_DEFAULT), found


def _object(cell: str, where: str) -> dict:
    try:
        value = json.loads(cell or '{}')
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f'{where}: {cell[:80]!r} is not a JSON object')
    return value


def _via_box(outline: dict, where: str) -> list[str]:
    """xmin, ymin, xmax, ymax of a region."""
    keys = {'rect': 'x y width height', 'circle': 'cx cy r r', 'ellipse': 'cx cy rx ry'}
    kind = str(outline.get('name'))
    try:
        if kind in ('polygon', 'polyline'):
            xs, ys = ([float(v) for v in outline[f'all_points_{axis}']] for axis in 'xy')
            box = [min(xs), min(ys), max(xs), max(ys)]
        else:
            x, y, w, h = (float(outline[key]) for key in keys[kind].split())
            box = [x, y, x + w, y + h] if kind == 'rect' else [x - w, y - h, x + w, y + h]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f'{where}: region {str(outline)[:80]!r}, expected rect, polygon, circle or ellipse '
            'with its numbers'
        ) from None
    return [as_text(value) for value in box]


def _via_class(attributes: dict, where: str) -> str:
    """The class that a region's attributes name: the only one, or that which is called so."""
    spellings = [spelling for rank in _COLUMNS['class'] for spelling in rank]
    keys = [key for spelling in spellings for key in attributes if _plain(key) == spelling]
    keys = keys or (list(attributes) if len(attributes) == 1 else [])
    if not keys:
        raise DataError(
            f'{where}: which of {list(attributes)!r} is the class? expected one, or class'
        )
    value = attributes[keys[0]]
    if isinstance(value, dict):  # check boxes
        chosen = [key for key, ticked in value.items() if ticked]
        if len(chosen) != 1:
            raise DataError(f'{where}: {keys[0]} is {value!r}, expected one class')
        value = chosen[0]
    return str(value)


def _plain(text: str) -> str:
    return ''.join(c for c in text.strip().lower() if c not in ' _-.')


class _Objects:
    """The objects of an image of (width, height) pixels, first named at ``source``."""

    def __init__(self, size: tuple[int, int], source: str) -> None:
        self.size = size
        self.source = source
        self.boxes: list[list[float]] = []
        self.labels: list[str] = []
        self.crowd: list[bool] = []

    def add(self, row: dict[str, str], normalized: bool, where: str) -> None:
        """Add a row's object."""
        for side, value in zip(('width', 'height'), self.size):
            stated = row.get(side)
            if stated and parsed_number(stated) != value:
                pixels = f'{self.size[0]} x {self.size[1]} pixels'
                raise DataError(f'{where}: {side} {stated}, but its image has {pixels}')
        keys = next(box for box in _BOXES if set(box) <= set(row))
        cells = [row[key] for key in keys]
        if not any(cells) and not row['class']:
            return
        if not row['class']:
            raise DataError(f'{where}: no class')
        if keys == ('bbox',):
            cells = cells[0].strip('[]() ').replace(',', ' ').split()
        numbers = [number for cell in cells if (number := parsed_number(cell)) is not None]
        if len(cells) != 4 or len(numbers) != 4:
            text = ', '.join(row[key] for key in keys)[:80]
            raise DataError(f'{where}: box is {text}, expected four finite numbers')
        x1, y1, x2, y2 = numbers
        if keys[0] == 'xcenter':
            x1, y1 = x1 - x2 / 2, y1 - y2 / 2
        if keys != _BOXES[0]:
            x2, y2 = x1 + x2, y1 + y2
        corners = [x1, y1, x2, y2]
        if normalized:
            worst = max(corners, key=lambda value: abs(value - 0.5))
            if not -0.01 <= worst <= 1.01:
                raise DataError(f'{where}: {worst:g} is no fraction of the size (--normalized)')
            corners = [v * s for v, s in zip(corners, self.size * 2)]
        elif max(corners) <= 1:
            raise DataError(
                f'{where}: a box within one pixel: are these fractions of the image size? '
                f'(--normalized)'
            )
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise DataError(
                f'{where}: box {", ".join(map(as_text, corners))} (x1, y1, x2, y2) is empty'
            )
        self.boxes.append(corners)
        self.labels.append(row['class'])
        self.crowd.append(row.get('crowd', '0').lower() in ('1', 'true'))


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
            box = [as_text(value) for value in thing.box]
            lines.append([*head, *box, thing.name, str(int(thing.crowd))])
    write_text(path, ''.join(_line(line) for line in lines))


def _line(cells: list[str]) -> str:
    quoted = [
        '"' + c.replace('"', '""') + '"' if any(x in c for x in ',"\n;') else c for c in cells
    ]
    return ','.join(quoted) + '\n'
