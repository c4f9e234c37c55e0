"""The one reader of COCO's annotation files (https://cocodataset.org/#format-data), and its rules.

Training, evaluation, the check, its corrections and the converters read files through it, so that
all of them see the same objects and call what is left out by the same names.

==================  ====================================================  =========================
key                 taken, and as what                                    everything else
==================  ====================================================  =========================
any id              whole numbers; 1.0 and "1" (digits as Python writes   error: true, null, 1.5, a
                    the number) are 1; other texts stay texts. Ids that   list, one id twice
                    become equal are one id twice
id of annotation    null or absent: it has none                           as any id
width, height       positive whole numbers, 128.0 and "128" too           error
category name       a text; of several categories of one name the one     error
                    that annotations use
annotations         null or absent: an unannotated file                   error: no list
image_id,           ids that are listed                                   ``image-unknown``,
category_id                                                               ``category-unknown``
iscrowd, ignore     0, 1, true, false, 0.0, "0", ...; null or absent: 0.  ``flag-malformed``
                    ``ignore`` leaves the annotation out
bbox                four numbers, "12.5" too, below ``MAX_COORDINATE``;   ``box-malformed``,
                    sides of at least one pixel, a part in the image      ``box-empty``,
                                                                          ``box-outside``
area                a positive number, "12.5" too; null or absent: of     ``area``: of the box
                    the box
segmentation        polygons of three points or more, or run lengths of   ``mask-malformed``,
                    the image's size; one polygon without the outer       ``polygon-...``,
                    list; null, absent or empty: none                     ``rle-bad``: left out,
                                                                          the object stays
==================  ====================================================  =========================

An annotation with a problem of its own (``SKIPPED``) is left out and counted. Errors concern the
whole file: nothing is read of it.
"""

import contextlib
import gc
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Any, NamedTuple

from mmdet_r2.errors import DataError
from mmdet_r2.files import file_name_defect, read_json
from mmdet_r2.structures.masks import (
    MAX_COORDINATE,
    MAX_OUTLINE,
    rle_problem,
    usable_mask,
    usable_rles,
)
from mmdet_r2.structures.panoptic import MAX_ID

Id = int | str

#: Problems for which an annotation is left out, as reports call them.
SKIPPED = {
    'image-unknown': 'of images that are not listed',
    'category-unknown': 'of categories that are not listed',
    'flag-malformed': 'with iscrowd or ignore other than 0 or 1',
    'box-malformed': 'with a bbox that is not four finite numbers',
    'box-empty': 'with a box below one pixel',
    'box-outside': 'with a box outside the image',
}
#: Problems that leave the object, but nothing or not all of its mask.
MASKS = {
    'mask-malformed': 'segmentations that are neither polygons nor run lengths',
    'polygon-short': 'polygons of less than three points',
    'polygon-odd': 'polygons with an odd number of coordinates',
    'polygon-not-finite': 'polygons with coordinates that are no pixels',
    'rle-bad': 'run lengths that do not fill the image',
}
#: Problems that are mended while reading.
MENDED = {
    'area': 'annotations with an area that is no positive number: that of the box is taken',
    'category-unused': 'categories without annotations left out that have the name of another',
}

# Examples of each problem that a reader keeps unless it is to keep all.
_EXAMPLES = 3
_WHOLE = re.compile(r'0|-?[1-9][0-9]*')
_NUMBER = re.compile(r'-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?')
_NUMBERS = frozenset((int, float))


class Problem(NamedTuple):
    """Something that is not as it should be.

    Args:
        kind: a key of ``SKIPPED``, ``MASKS`` or ``MENDED``, or the name of an error.
        message: says it with the key and its value.
        file: name of the image, '' if there is none.
        image_id, annotation_id: None where there is none.
    """

    kind: str
    message: str
    file: str = ''
    image_id: Any = None
    annotation_id: Any = None

    @property
    def is_error(self) -> bool:
        """Whether the file cannot be used."""
        return self.kind not in SKIPPED and self.kind not in MASKS and self.kind not in MENDED


@dataclass(slots=True)
class CocoImage:
    """An image and its sound annotations.

    Args:
        objects: in the file's order, with whatever keys the file has; these are in normal form:
            ``id`` (may be absent), ``image_id``, ``category_id``; ``bbox``, four numbers;
            ``iscrowd``, 0 or 1 or absent; ``area``, a positive number, None or absent, which means
            that of the box; ``segmentation``, usable polygons or run lengths, or nothing. Of a
            panoptic file the segments: ``id``, ``category_id``, ``iscrowd`` are in normal form.
        map_name: of a panoptic file the PNG's name.
        void_ids: of a panoptic file the ids of segments with a problem.
    """

    id: Id
    file_name: str
    width: int
    height: int
    objects: list[dict] = field(default_factory=list)
    map_name: str | None = None
    void_ids: list[int] = field(default_factory=list)


@dataclass
class CocoFile:
    """What a COCO file says, in normal form.

    Args:
        name: of the file, for messages.
        images: in the file's order.
        categories: with ``id`` in normal form and ``name``, in the file's order.
        problems: of each kind the first few, or all.
        num_annotations: in the file.
        num_ignored: left out because ``ignore`` is set.
        skipped: how many annotations were left out, by kind of their first problem.
        others: how many problems of the other kinds there are.
        written_images, written_categories: ids as the file writes them, where that differs.
    """

    name: str
    images: list[CocoImage] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_annotations: int = 0
    num_ignored: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    written_images: dict[Id, Any] = field(default_factory=dict)
    written_categories: dict[Id, Any] = field(default_factory=dict)

    def raise_error(self) -> None:
        """Raises:
        DataError: the first problem for which the file cannot be used.
        """
        for problem in self.problems:
            if problem.is_error:
                raise DataError(f'{self.name}: {problem.message}')

    def report(self, noun: str = 'annotations') -> list[str]:
        """What was left out or mended, a sentence without full stop for each effect; with the first
        examples.
        """
        first = {problem.kind: problem for problem in reversed(self.problems)}

        def counted(counts: Mapping[str, int], words: Mapping[str, str]) -> str:
            parts = []
            for kind, text in words.items():
                if counts[kind]:
                    problem = first[kind]
                    number = problem.annotation_id
                    where = '' if number is None else f'annotation {number}: '
                    parts.append(f'{counts[kind]} {text} ({where}{problem.message})')
            return ', '.join(parts)

        lines = []
        if self.skipped:
            total = self.skipped.total()
            lines.append(f'{total} {noun} skipped: {counted(self.skipped, SKIPPED)}')
        if masks := counted(self.others, MASKS):
            lines.append(f'left out of masks: {masks}')
        if mended := counted(self.others, MENDED):
            lines.append(mended)
        if self.num_ignored:
            lines.append(f'{self.num_ignored} {noun} with ignore set left out')
        return lines


def read_coco(
    path: str | os.PathLike, backend_args: dict | None = None, kind: str = 'annotation file'
) -> CocoFile:
    """Read an annotation file of instances.

    Args:
        backend_args: how mmengine reads it.
        kind: what messages call the file.

    Raises:
        DataError: it cannot be read, or has an error; see above.
    """
    with no_garbage_collection():
        coco = parse_coco(read_content(path, backend_args, kind=kind), os.fspath(path))
    coco.raise_error()
    return coco


def read_content(
    path: str | os.PathLike,
    backend_args: dict | None = None,
    needed: Sequence[str] = ('images', 'categories'),
    kind: str = 'annotation file',
) -> dict:
    """The content of a COCO file, of which only the lists are made sure.

    Args:
        backend_args: how mmengine reads it.
        needed: which lists must be there; ``annotations`` may be null or absent otherwise.
        kind: what messages call the file.

    Raises:
        DataError: it cannot be read, or a list is missing.
    """
    return checked_content(read_json(path, kind, backend_args), os.fspath(path), needed)


def checked_content(
    content: Any, name: str, needed: Sequence[str] = ('images', 'categories')
) -> dict:
    """The same of a content that was read already."""
    found = sorted(content)[:20] if isinstance(content, dict) else type(content).__name__
    for key in dict.fromkeys((*needed, 'annotations')):
        value = content.get(key) if isinstance(content, dict) else None
        absent = value is None and key not in needed and isinstance(content, dict)
        if not absent and not isinstance(value, list):
            there = isinstance(content, dict) and key in content
            fault = f'{key} is {shorten(value)}' if there else f'no list {key!r}'
            raise DataError(
                f'{name} is not in COCO format: expected an object with lists images, annotations '
                f'and categories, found {found}, {fault}'
            )
    return content if content.get('annotations') else {**content, 'annotations': []}


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Millions of new lists make Python's cycle search take longer than reading the file."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                # both together: what is new counts as old, and is not searched three times more
                gc.freeze()
                gc.unfreeze()
            gc.enable()


# -------------------------------------------------------------------------------- single values


def as_id(value: object) -> Id | None:
    """The id that a value is, None if it is none: see the table above."""
    kind = type(value)
    if kind is int:
        return value  # type: ignore[return-value]
    if isinstance(value, str):
        try:
            return int(value) if _WHOLE.fullmatch(value) else value
        except ValueError:  # more digits than Python reads
            return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, int) and kind is not bool else None


def id_order(number: Id) -> tuple[bool, Id]:
    """Key to sort ids by: whole numbers before texts."""
    return isinstance(number, str), number


def as_size(value: object) -> int | None:
    """The side of an image that a value is, in pixels, None if it is none."""
    size = as_id(value)
    return size if isinstance(size, int) and 0 < size <= MAX_COORDINATE else None


def as_flag(value: object) -> int | None:
    """0 or 1 as a value of ``iscrowd`` or ``ignore`` says, None if it says neither."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return int(value)
    number = as_id(value)
    return number if isinstance(number, int) and number in (0, 1) else None


def as_number(value: object) -> float | None:
    """The finite number that a value is, None if it is none."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -1e300 < value < 1e300 else None


def shorten(value: Any, most: int = 80) -> str:
    """A value as Python writes it, in one line of limited length."""
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        text = '[' + ', '.join(shorten(v, 30) for v in value) + ']'
    elif isinstance(value, float):
        text = f'{value:.6g}'
    else:
        text = ' '.join(repr(value).split())
    return text if len(text) <= most else text[: most - 3] + '...'


def _spelt(value: Any) -> str:
    # 1.0 stays 1.0: that it is no 1 is the point
    return repr(value) if isinstance(value, float) else shorten(value, 40)


# ----------------------------------------------------------------------------- single annotations

Found = tuple[str, str]  # kind of problem, message


def normal_shape(annotation: dict, width: int, height: int) -> tuple[dict, list[Found]]:
    """A copy of an annotation with box, area, flags and mask in normal form, and what is wrong.

    Values that cannot be used are left out of the copy.

    Args:
        width, height: of the image.
    """
    normal, found = dict(annotation), list[Found]()
    for key in ('iscrowd', 'ignore'):
        if key in normal:
            flag = as_flag(normal[key])
            if flag is None:
                found.append(('flag-malformed', f'{key} is {_spelt(normal.pop(key))}'))
            else:
                normal[key] = flag
    box, problem = normal_box(normal.pop('bbox', None), width, height)
    if box is not None:
        normal['bbox'] = box
    if problem is not None:
        found.append(problem)
    written = normal.pop('area', None)
    area = as_number(written)
    if area is not None and area > 0:
        normal['area'] = area
    elif written is not None:
        found.append(('area', f'area is {_spelt(written)}'))
    mask, wrong = normal_mask(normal.pop('segmentation', None), width, height)
    if mask is not None:
        normal['segmentation'] = mask
    return normal, found + wrong


def normal_box(box: Any, width: int, height: int) -> tuple[list | None, Found | None]:
    """A ``bbox`` as four numbers, or what is wrong with it."""
    if not isinstance(box, (list, tuple)) or not _NUMBERS.issuperset(map(type, box)):
        box, written = list(map(as_number, box)) if isinstance(box, (list, tuple)) else [], box
    else:
        written = box
    if len(box) != 4 or any(n is None or not abs(n) < MAX_COORDINATE for n in box):
        return None, ('box-malformed', f'bbox is {shorten(written)}')
    x, y, w, h = box
    if w < 1 or h < 1:
        return None, ('box-empty', f'bbox is {shorten(written)} (x, y, width, height)')
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        text = f'bbox is {shorten(written)}, outside of {width} x {height}'
        return None, ('box-outside', text)
    return box, None


def normal_mask(mask: Any, width: int, height: int) -> tuple[list | dict | None, list[Found]]:
    """A ``segmentation`` without what cannot be used of it, None if that is all or there is none;
    and what is wrong with it.
    """
    if not mask:
        return None, []
    if isinstance(mask, dict):
        if problem := rle_problem(mask, height, width):
            return None, [('rle-bad', problem)]
        usable = usable_mask(mask, height, width)
        return (None, []) if not isinstance(usable, dict) else (usable, [])
    if not isinstance(mask, list):
        return None, [('mask-malformed', f'segmentation is {shorten(mask)}')]
    if all(as_number(v) is not None for v in mask):
        mask = [mask]
    if not all(isinstance(polygon, list) for polygon in mask):
        return None, [('mask-malformed', f'segmentation is {shorten(mask)}')]
    kept, found = [], []
    for number, polygon in enumerate(mask):
        usable = None
        if len(polygon) % 2:
            text = f'polygon {number} has {len(polygon)} numbers, expected pairs x, y'
            found.append(('polygon-odd', text))
        elif len(polygon) < 6:
            found.append(('polygon-short', f'polygon {number} has {len(polygon) // 2} points'))
        elif (usable := usable_mask([polygon], height, width)) is None:
            found.append(('polygon-not-finite', f'polygon {number} has a value that is no pixel'))
        else:
            plain = _NUMBERS.issuperset(map(type, polygon))
            kept.append(polygon if plain else usable[0].tolist())
    if kept and usable_mask(kept, height, width) is None:
        found.append(('mask-malformed', 'its polygons are too long or have too many points'))
        return None, found
    return kept or None, found


def _is_normal(annotation: dict, image: CocoImage, categories: Mapping[Id, Any]) -> bool:
    """Quick yes for an annotation in normal form, but for what is in run lengths.

    Raises:
        KeyError, TypeError, ValueError: no.
    """
    x, y, w, h = annotation['bbox']
    category, area = annotation['category_id'], annotation.get('area')
    return (
        type(category) is int
        and category in categories
        and type(annotation['id']) is int
        and 'ignore' not in annotation
        # integers, as true and 0.0 are equal to one
        and annotation.get('iscrowd', 0) in (0, 1)
        and type(annotation.get('iscrowd', 0)) is int
        and type(x) in _NUMBERS
        and type(y) in _NUMBERS
        and type(w) in _NUMBERS
        and type(h) in _NUMBERS
        and 1 <= w < MAX_COORDINATE
        and 1 <= h < MAX_COORDINATE
        and -w < x < image.width
        and -h < y < image.height
        and (area is None or (type(area) in _NUMBERS and 0 < area < 1e300))
    )


def _is_normal_mask(mask: Any) -> bool:
    """Quick yes for polygons that need no closer look.

    Raises:
        TypeError: no.
    """
    if type(mask) is not list:
        return mask is None
    total = 0.0
    for polygon in mask:
        # one pass, and at least as large as every coordinate; not a number if one is none
        size = hypot(*polygon)
        number = len(polygon)
        total += number * size
        if number < 6 or number % 2 or not size < MAX_COORDINATE:
            return False
    return total < MAX_OUTLINE


# ------------------------------------------------------------------------------------ whole files


def parse_coco(
    content: Mapping,
    name: str,
    keep_all: bool = False,
    size_of: Callable[[str], tuple[int, int] | None] | None = None,
) -> CocoFile:
    """The content of an annotation file of instances in normal form. Errors are collected.

    Args:
        content: as :func:`checked_content` gives it; stays as it is, but annotations in normal
            form are shared.
        name: of the file, for messages.
        keep_all: keep all problems, not only the first few of each kind.
        size_of: (width, height) of an image that states none, by its name; without it, and where
            it gives None, such an image has no objects.

    Raises:
        DataError: it is a panoptic file.
    """
    if any(isinstance(a, dict) and 'segments_info' in a for a in content['annotations'][:1]):
        raise DataError(
            f'{name}: its annotations have segments_info: this is a panoptic file, expected one of '
            'instances'
        )
    reader = _Parser(content, name, keep_all)
    reader.read_images(size_of)
    reader.read_categories()
    reader.read_annotations()
    return reader.file


def image_ids(content: Mapping, name: str) -> list[Id]:
    """Ids of the images of a content of whatever kind, in normal form.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: an image without id, or one that occurs twice.
    """
    first: dict[Id, Any] = {}
    for entry in content['images']:
        number = as_id(entry.get('id')) if isinstance(entry, dict) else None
        if number is None:
            raise DataError(f'{name}: image without an id: {shorten(entry, 200)}')
        if number in first:
            both = f'{_spelt(first[number])} and {_spelt(entry["id"])}'
            raise DataError(f'{name}: image id {number} occurs twice, as {both}')
        first[number] = entry['id']
    return list(first)


class _Parser:
    def __init__(self, content: Mapping, name: str, keep_all: bool = False) -> None:
        self.content = content
        self.file = CocoFile(name, num_annotations=len(content['annotations']))
        self.images: dict[Id, CocoImage | None] = {}  # None: of unknown size
        self.categories: dict[Id, dict] = {}
        self._most = float('inf') if keep_all else _EXAMPLES
        self._kept: Counter[str] = Counter()

    def problem(self, kind: str, message: str, *where: Any) -> None:
        """Note a problem; ``where`` are the further arguments of :class:`Problem`."""
        self._kept[kind] += 1
        if self._kept[kind] <= self._most:
            self.file.problems.append(Problem(kind, message, *where))

    def read_images(self, size_of: Callable[[str], tuple[int, int] | None] | None = None) -> None:
        """Fill ``images``."""
        written: dict[Id, tuple[Any, str]] = {}
        for entry in self.content['images']:
            if not isinstance(entry, dict):
                text = f'image {shorten(entry)} is no object; expected one with id and file_name'
                self.problem('image-malformed', text)
                continue
            number, name = as_id(entry.get('id')), entry.get('file_name')
            if number is None:
                self.problem('image-malformed', f'image {_spelt(name)} {_has_no_id(entry, "id")}')
                continue
            if name is None or (defect := file_name_defect(name)):
                what = 'no file_name' if name is None else f'a file_name that {defect}'
                text = f'image {_spelt(entry["id"])} has {what}: {_spelt(name)}'
                self.problem('image-malformed', text)
                continue
            if number in written:
                first, file = written[number]
                text = f'image id {_spelt(first)} of {file} occurs twice'
                if name != file or type(entry['id']) is not type(first):
                    text += f', {_spelt(entry["id"])} of {name} is the same'
                self.problem('image-id-twice', text, name, entry['id'])
                continue
            written[number] = entry['id'], name
            if type(entry['id']) is not type(number):
                self.file.written_images[number] = entry['id']
            width, height = as_size(entry.get('width')), as_size(entry.get('height'))
            if width is None or height is None:
                absent = [key for key in ('width', 'height') if entry.get(key) is None]
                text = f'image {name} has no {" and no ".join(absent)}'
                if not absent:
                    sides = f'{_spelt(entry["width"])} x {_spelt(entry["height"])}'
                    text = f'image {name} has the size {sides}, expected two positive integers'
                self.problem('image-size-missing', text, name, entry['id'])
                size = size_of(name) if size_of is not None else None
                if size is None:
                    self.images[number] = None
                    continue
                width, height = size
            image = CocoImage(number, name, width, height)
            self.images[number] = image
            self.file.images.append(image)

    def read_categories(self) -> None:
        """Fill ``categories``."""
        sound: dict[Id, dict] = {}
        by_name: dict[str, list[Id]] = {}
        for entry in self.content.get('categories') or ():
            number = as_id(entry.get('id')) if isinstance(entry, dict) else None
            if number is None or not isinstance(entry.get('name'), str):
                text = f'category {shorten(entry, 200)} has no id or no name, a text'
                self.problem('category-malformed', text)
                continue
            if number in sound:
                other = sound[number]
                both = f'{_spelt(other["id"])} and {_spelt(entry["id"])}'
                text = (
                    f'category ids {both}, of {other["name"]!r} and {entry["name"]!r}, are the same'
                )
                self.problem('category-twice', text)
                continue
            sound[number] = entry
            by_name.setdefault(entry['name'], []).append(number)
        dropped: set[Id] = set()
        if len(by_name) < len(sound):  # as Roboflow's exports, which list a parent of the same name
            used = {
                as_id(a.get('category_id'))
                for a in self.content['annotations']
                if isinstance(a, dict)
            }
            for name, ids in by_name.items():
                kept = [i for i in ids if i in used] or ids[-1:]  # parents come first
                if len(kept) > 1:
                    spelt = ' and '.join(_spelt(sound[i]['id']) for i in kept)
                    text = f'two categories are named {name!r} (ids {spelt})'
                    self.problem('category-twice', text)
                for i in set(ids) - set(kept):
                    dropped.add(i)
                    self.file.others['category-unused'] += 1
                    text = f'id {_spelt(sound[i]["id"])} of {name!r} has no annotations'
                    self.problem('category-unused', text)
        for number, entry in sound.items():
            if number in dropped:
                continue
            if type(entry['id']) is not type(number):
                self.file.written_categories[number] = entry['id']
                entry = {**entry, 'id': number}
            self.categories[number] = entry
            self.file.categories.append(entry)

    def read_annotations(self) -> None:
        """Fill the images' ``objects``."""
        images, categories = self.images, self.categories
        ids: list[Id] = []
        rles: list[tuple[CocoImage, int]] = []  # an image and the index of one of its objects
        for position, annotation in enumerate(self.content['annotations']):
            try:
                number, key = annotation['id'], annotation['image_id']
                image = images[key]
                mask = annotation.get('segmentation')
                if (
                    type(key) is int
                    and _is_normal(annotation, image, categories)  # type: ignore[arg-type]
                    and (type(mask) is dict or _is_normal_mask(mask))
                ):
                    ids.append(number)
                    objects = image.objects  # type: ignore[union-attr]
                    if type(mask) is dict:
                        rles.append((image, len(objects)))  # type: ignore[arg-type]
                    objects.append(annotation)
                    continue
            # whatever is wrong: the slow way knows, and says it
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                pass
            normal = self._annotation(annotation, position, ids)
            if normal is not None:
                image = images[normal['image_id']]
                image.objects.append(normal)  # type: ignore[union-attr]
        self._check_run_lengths(rles)
        if len(set(ids)) < len(ids):
            self._same_annotation_ids()

    def _annotation(self, annotation: Any, position: int, ids: list[Id]) -> dict | None:
        """The normal form of an annotation; None for one that is left out, with its problems."""
        if not isinstance(annotation, dict):
            text = f'annotation number {position} is {shorten(annotation)}, expected an object'
            self.problem('annotation-malformed', text)
            return None
        number, written = annotation.get('id'), annotation.get('image_id')
        image_id, category = as_id(written), annotation.get('category_id')
        category_id = as_id(category)
        image = self.images.get(image_id) if image_id is not None else None
        where = (image.file_name if image else '', written, number)
        called = f'annotation {_spelt(number)}' if number is not None else f'number {position}'
        if number is not None:
            number = as_id(number)
            if number is None:
                text = f'annotation number {position} {_has_no_id(annotation, "id")}'
                self.problem('annotation-malformed', text, *where[:2])
                return None
            ids.append(number)
        if image_id is None:
            text = f'{called} {_has_no_id(annotation, "image_id")}'
            self.problem('annotation-malformed', text, *where)
            return None
        if isinstance(category, bool):
            text = f'{called} {_has_no_id(annotation, "category_id")}'
            self.problem('annotation-malformed', text, *where)
            return None
        found: list[Found] = []
        if image_id not in self.images:
            found.append(('image-unknown', f'image_id is {_spelt(written)}'))
        if category_id is None or category_id not in self.categories:
            found.append(('category-unknown', f'category_id is {_spelt(category)}'))
        normal = annotation
        if image is not None:
            normal, wrong = normal_shape(annotation, image.width, image.height)
            found += wrong
            normal.update(image_id=image_id, category_id=category_id)
            if number is not None:
                normal['id'] = number
        skipped = next((kind for kind, _ in found if kind in SKIPPED), None)
        ignored = skipped is None and bool(normal.get('ignore'))
        for kind, text in found:
            if kind not in SKIPPED and (skipped is not None or ignored):
                continue  # nobody uses it
            if kind not in SKIPPED:
                self.file.others[kind] += 1
            self.problem(kind, text, *where)
        if skipped is not None:
            self.file.skipped[skipped] += 1
        self.file.num_ignored += ignored
        return None if skipped or ignored or image is None else normal

    def _check_run_lengths(self, rles: Sequence[tuple[CocoImage, int]]) -> None:
        """Take those out that cannot be used; all at once, as that is many times faster."""
        masks = [image.objects[i]['segmentation'] for image, i in rles]
        usable = usable_rles(masks, [(image.height, image.width) for image, _ in rles])
        for (image, i), mask, kept in zip(rles, masks, usable):
            if kept is mask:
                continue
            annotation = image.objects[i] = {**image.objects[i], 'segmentation': kept}
            if kept is None and mask:
                del annotation['segmentation']
                self.file.others['rle-bad'] += 1
                text = rle_problem(mask, image.height, image.width)
                self.problem('rle-bad', text, image.file_name, image.id, annotation.get('id'))

    def _same_annotation_ids(self) -> None:
        first: dict[Id, Any] = {}
        for annotation in self.content['annotations']:
            written = annotation.get('id') if isinstance(annotation, dict) else None
            number = as_id(written)
            if number is None:
                continue
            if number in first:
                text = f'annotation id {_spelt(first[number])} occurs twice'
                if type(first[number]) is not type(written):
                    text += f', {_spelt(written)} is the same'
                image = self.images.get(as_id(annotation.get('image_id')))  # type: ignore[arg-type]
                name = image.file_name if image else ''
                where = (name, annotation.get('image_id'), written)
                self.problem('annotation-id-twice', text, *where)
            first.setdefault(number, written)


def _has_no_id(entry: Mapping, key: str) -> str:
    """has no id; has the id 1.5, ..."""
    if entry.get(key) is None:
        return f'has no {key}'
    return f'has the {key} {_spelt(entry[key])}, expected a whole number or a text'


# --------------------------------------------------------------------------------------- panoptic


def parse_panoptic(content: Mapping, name: str) -> CocoFile:
    """The content of a panoptic annotation file in normal form.

    Segments whose ``iscrowd`` or box is wrong are void; only things need a box.

    Raises:
        DataError: an error of the file: those of :func:`parse_coco`; an image with two annotations
            or one without ``segments_info``; a segment whose id is none of a PNG's or occurs twice,
            or whose category is not listed.
    """
    reader = _Parser(content, name)
    reader.read_images()
    file = reader.file
    file.raise_error()
    reader.categories = dict(panoptic_categories(content, name).items())
    file.categories = list(reader.categories.values())
    seen: set[Id] = set()
    for annotation in content['annotations']:
        segments = panoptic_segments(annotation, name, reader.categories)
        if segments.image_id in seen:
            raise DataError(f'{name}: two annotations have the image_id {segments.image_id!r}')
        seen.add(segments.image_id)
        image = reader.images.get(segments.image_id)
        if image is None:
            file.skipped['image-unknown'] += 1
            reader.problem('image-unknown', f'image_id is {_spelt(annotation["image_id"])}')
            continue
        image.map_name = annotation.get('file_name')
        for segment in segments.segments:
            # only things need a box
            if 'bbox' in segment or reader.categories[segment['category_id']].get('isthing'):
                _, wrong = normal_box(segment.get('bbox'), image.width, image.height)
                if wrong is not None:
                    segments.problems.append((segment['id'], *wrong))
                    continue
            image.objects.append(segment)
        for number, kind, text in segments.problems:
            image.void_ids.append(number)
            file.skipped[kind] += 1
            reader.problem(kind, text, image.file_name, image.id, number)
    return file


def panoptic_categories(content: Mapping, name: str) -> dict[int, dict]:
    """The categories of a panoptic file by their ids, which are whole numbers; ``isthing`` is 0 or
    1.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: see :func:`parse_panoptic`.
    """
    reader = _Parser({**content, 'annotations': []}, name)
    reader.read_categories()
    reader.file.raise_error()
    for problem in reader.file.problems:  # of two of a name
        raise DataError(f'{name}: two categories share a name: {problem.message}')
    categories = {}
    for number, category in reader.categories.items():
        where, flag = f'{name}: category {category["name"]!r}', category.get('isthing')
        isthing = None if flag is None else as_flag(flag)
        if isthing is None:
            raise DataError(
                f'{where} has isthing={_spelt(flag)}, expected 1 (thing) or 0 (stuff): is this a '
                f'panoptic annotation file?'
            )
        if not isinstance(number, int):
            raise DataError(f'{where} has the id {number!r}, expected a whole number')
        categories[number] = {**category, 'isthing': isthing}
    return categories


@dataclass
class PanopticSegments:
    """The segments of one image's panoptic annotation in normal form, and those with a problem:
    id, kind and message.
    """

    image_id: Id
    segments: list[dict] = field(default_factory=list)
    problems: list[tuple[int, str, str]] = field(default_factory=list)


def panoptic_segments(
    annotation: Any, name: str, categories: Iterable[Id] | None = None
) -> PanopticSegments:
    """Read one annotation of a panoptic file.

    Args:
        name: of the file, for messages.
        categories: ids of those listed.

    Raises:
        DataError: see :func:`parse_panoptic`.
    """
    if not isinstance(annotation, dict) or not isinstance(annotation.get('segments_info'), list):
        is_box = isinstance(annotation, dict) and 'bbox' in annotation
        raise DataError(
            f'{name}: an annotation has no list segments_info, so this is no panoptic annotation '
            f'file{": these are instances" if is_box else ""}: {shorten(annotation, 200)}'
        )
    image_id = as_id(annotation.get('image_id'))
    if image_id is None:
        raise DataError(
            f'{name}: annotation without image_id: it {_has_no_id(annotation, "image_id")}: '
            f'{shorten(annotation, 200)}'
        )
    result = PanopticSegments(image_id)
    where = f'{name}: image {_spelt(annotation["image_id"])}'
    if defect := file_name_defect(annotation.get('file_name')):
        raise DataError(f'{where}: the file_name of its annotation {defect}')
    seen = set()
    for segment in annotation['segments_info']:
        written = segment.get('id') if isinstance(segment, dict) else segment
        number = as_id(written)
        if not isinstance(segment, dict) or not isinstance(number, int) or not 0 < number <= MAX_ID:
            raise DataError(
                f'{where} has the segment id {_spelt(written)}, expected 1 to {MAX_ID} (the '
                f'colours of a PNG hold 24 bits)'
            )
        if number in seen:
            raise DataError(f'{where} has the segment id {_spelt(written)} twice')
        seen.add(number)
        category = as_id(segment.get('category_id'))
        if category is None or (categories is not None and category not in categories):
            raise DataError(
                f'{where}: segment {number} has the category_id '
                f'{_spelt(segment.get("category_id"))}, which is not among the categories of the '
                f'file'
            )
        flag = as_flag(segment.get('iscrowd'))
        if flag is None:
            text = f'iscrowd is {_spelt(segment["iscrowd"])}'
            result.problems.append((number, 'flag-malformed', text))
            continue
        normal = segment
        kinds = type(written), type(segment['category_id'])
        if kinds != (type(number), type(category)) or segment.get('iscrowd', 0) is not flag:
            normal = {**segment, 'id': number, 'category_id': category, 'iscrowd': flag}
        result.segments.append(normal)
    return result
