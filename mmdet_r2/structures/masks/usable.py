"""What of an annotation's or a result's masks may be handed to C code.

pycocotools and OpenCV look at nothing: run lengths of another sum than the image's pixels are read
and written beyond their memory, matched for ever, or leave masks unfilled; an outline needs memory
for every pixel that it passes. Every mask that comes from outside goes through here first.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pycocotools.mask as coco_mask

from mmdet_r2.errors import DataError
from mmdet_r2.structures.masks.bitmaps import Shape
from mmdet_r2.structures.masks.polygons import outline_fits, polygons_to_rle

MAX_COORDINATE = 1e6
"""Of polygons, in pixels."""
MAX_POINTS = 100_000
"""Of one object, all its polygons together: uniting many takes time with the square of it."""
MAX_MASK_PIXELS = 2**29
"""Of an image with masks: pycocotools computes in 32 bits, of which its text holds 30."""

# Characters of compressed run lengths looked at together, so that the arrays stay in the cache.
_CHUNK = 2**15
_LONGEST_NUMBER = 6  # characters of 5 bits: more overflow in pycocotools


def rle_problem(rle: object, height: int, width: int) -> str:
    """Why run lengths cannot be used for an image of this size, in a few words; '' if they can.

    They are a dict of ``size``, [height, width], and ``counts``: how many pixels, column after
    column, are outside, inside, outside, ..., either a list of integers or COCO's text of them (str
    or bytes). Together they must be height x width.
    """
    return rle_problems([rle], [(height, width)])[0]


def rle_problems(rles: Sequence[object], shapes: Sequence[Shape]) -> list[str]:
    """:func:`rle_problem` of n run lengths for images of n (height, width), many times faster."""
    return _inspect(rles, shapes)[0]


def usable_mask(
    mask: object, height: int, width: int, allow_rle: bool = True
) -> list[np.ndarray] | dict | None:
    """A COCO ``segmentation`` that can be used for an image of this size, or None.

    Polygons are lists of x, y pairs; those with fewer than three points, an odd count or a
    coordinate that is not finite, or beyond ``MAX_COORDINATE``, are left out. An object of more
    than ``MAX_POINTS`` points, or an outline longer than ``MAX_OUTLINE``, has no usable mask. Run
    lengths are those that :func:`rle_problem` finds nothing wrong with; runs of no pixels between
    others are removed, with which pycocotools gives wrong overlaps and boxes.
    """
    if isinstance(mask, dict):
        return usable_rles([mask], [(height, width)])[0] if allow_rle else None
    if not isinstance(mask, list) or height * width > MAX_MASK_PIXELS:
        return None
    polygons = []
    for points in mask:
        if isinstance(points, (list, np.ndarray)) and len(points) >= 6 and len(points) % 2 == 0:
            if len(points) > 2 * MAX_POINTS:
                return None
            try:
                polygon = np.array(points, dtype=np.float64)
            except (TypeError, ValueError, OverflowError):  # text, null or lists among the numbers
                continue
            if polygon.ndim == 1 and (np.abs(polygon) < MAX_COORDINATE).all():
                polygons.append(polygon)
    too_many = sum(map(len, polygons)) > 2 * MAX_POINTS
    return polygons if polygons and not too_many and outline_fits(polygons) else None


def usable_masks(
    masks: Sequence[object], height: int, width: int, allow_rle: bool = True
) -> list[list[np.ndarray] | dict | None]:
    """:func:`usable_mask` of n objects of one image; of run lengths many times faster."""
    dicts = [mask for mask in masks if isinstance(mask, dict) and allow_rle]
    rles = iter(usable_rles(dicts, [(height, width)] * len(dicts)))
    return [
        next(rles)
        if isinstance(mask, dict) and allow_rle
        else usable_mask(mask, height, width, allow_rle)
        for mask in masks
    ]


def usable_rles(rles: Sequence[object], shapes: Sequence[Shape]) -> list[dict | None]:
    """Of n run lengths for images of n (height, width) those that can be used, else None."""
    problems, rough = _inspect(rles, shapes)
    return [
        None if problem else _without_empty_runs(cast(dict, rle)) if empty else cast(dict, rle)
        for rle, problem, empty in zip(rles, problems, rough)
    ]


def to_rle(mask: list | dict | None, height: int, width: int) -> dict:
    """A COCO ``segmentation`` as compressed run lengths; None is empty.

    Polygons of fewer than three points count for nothing.

    Raises:
        DataError: run lengths that cannot be used; says why.
    """
    if isinstance(mask, dict):
        (problem,), (rough,) = _inspect([mask], [(height, width)])
        if problem:
            raise DataError(problem)
        return compressed(_without_empty_runs(mask) if rough else mask, height, width)
    return compressed([part for part in mask or () if len(part) >= 6], height, width)


def compressed(mask: list[np.ndarray] | dict | None, height: int, width: int) -> dict:
    """What :func:`usable_mask` gave as compressed run lengths; None is empty. Checks nothing."""
    if isinstance(mask, dict):
        uncompressed = isinstance(mask['counts'], list)
        return coco_mask.frPyObjects(mask, height, width) if uncompressed else mask
    return polygons_to_rle(mask or [], height, width)


def _inspect(rles: Sequence[object], shapes: Sequence[Shape]) -> tuple[list[str], list[bool]]:
    """For each of the run lengths what is wrong, '' if nothing, and whether there are empty runs
    among them, apart from the first.
    """
    problems, rough = [''] * len(rles), [False] * len(rles)
    texts: list[tuple[int, bytes]] = []  # index, compressed counts
    size = 0
    for i, (rle, (height, width)) in enumerate(zip(rles, shapes, strict=True)):
        problem = _form_problem(rle, height, width)
        if problem:
            problems[i] = problem
            continue
        counts = rle['counts']  # type: ignore[index]
        if isinstance(counts, list):
            problems[i] = _list_problem(counts, height * width)
            rough[i] = 0 in counts[1:]
            continue
        if isinstance(counts, str):
            if not counts.isascii():
                problems[i] = 'its compressed run lengths cannot be decoded'
                continue
            counts = counts.encode('ascii')
        texts.append((i, counts))
        size += len(counts)
        if size > _CHUNK:
            _inspect_texts(texts, shapes, problems, rough)
            texts, size = [], 0
    _inspect_texts(texts, shapes, problems, rough)
    return problems, rough


def _form_problem(rle: object, height: int, width: int) -> str:
    """What is wrong with run lengths apart from the numbers."""
    if (
        type(rle) is dict
        and type(rle.get('counts')) is bytes
        and rle.get('size') == [height, width]
        and height * width <= MAX_MASK_PIXELS
        and type(rle['size'][0]) is type(rle['size'][1]) is int
    ):
        return ''  # as encoders write them
    if not isinstance(rle, dict):
        return f'run lengths are {_short(rle)}, expected size and counts'
    size, counts = rle.get('size'), rle.get('counts')
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(map(_is_integer, map(type, size)))
        or (size[0], size[1]) != (height, width)
    ):
        return f'size of its run lengths is {_short(size)}, expected [{height}, {width}]'
    if height * width > MAX_MASK_PIXELS:
        return f'its image has {height * width} pixels, masks at most {MAX_MASK_PIXELS}'
    if not isinstance(counts, (list, str, bytes)):
        return f'counts of its run lengths are {_short(counts)}, expected a list or text'
    return ''


def _list_problem(counts: list, pixels: int) -> str:
    if not all(map(_is_integer, set(map(type, counts)))):
        return 'its run lengths are not all integers'
    if counts and min(counts) < 0:
        return 'one of its run lengths is negative'
    return _sum_problem(sum(map(int, counts)), pixels)


def _sum_problem(total: int, pixels: int) -> str:
    if total == pixels:
        return ''
    what = total if total < 2**63 else 'more than 2**63'
    return f'its run lengths cover {what} pixels, the image has {pixels}'


def _inspect_texts(
    texts: Sequence[tuple[int, bytes]],
    shapes: Sequence[Shape],
    problems: list[str],
    rough: list[bool],
) -> None:
    """Fill in ``problems`` and ``rough`` for compressed counts.

    Six bits per character from '0' on: five of the number, lowest first, and whether more follow;
    from the fourth run on the difference to the one before last.
    """
    if not texts:
        return
    codes = np.frombuffer(b''.join(text for _, text in texts), np.uint8) - np.uint8(48)  # (c,)
    ends = np.cumsum([len(text) for _, text in texts])  # (t,) one past each text
    starts = ends - [len(text) for _, text in texts]

    def within(flags: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Sums of (m,) numbers from ``first`` (t,) to ``end`` (t,)."""
        sums = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
        return sums[end] - sums[first]

    def any_within(flags: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
        return within(flags, first, end) > 0 if flags.any() else np.zeros(len(first), bool)

    strange = any_within(codes > 63, starts, ends)
    last = (codes & 32) == 0  # of a number
    filled = ends > starts
    cut = np.zeros(len(texts), bool)
    cut[filled] = ~last[ends[filled] - 1]
    last[ends[filled] - 1] = True  # so that no text goes on in the next

    number_end = np.flatnonzero(last)  # (r,) of each number the last character
    number_start = np.concatenate([[0], number_end[:-1] + 1])[: len(number_end)]
    characters = number_end - number_start + 1
    place = np.arange(len(codes)) - np.repeat(number_start, characters)
    parts = (codes & 31).astype(np.int64) << (5 * np.minimum(place, _LONGEST_NUMBER))
    runs = np.add.reduceat(parts, number_start) if len(parts) else parts  # (r,)
    negative = (codes[number_end] & 16) > 0
    runs -= negative.astype(np.int64) << (5 * np.minimum(characters, _LONGEST_NUMBER))

    first = np.searchsorted(number_end, starts)  # (t,) of each text the first number
    after = np.searchsorted(number_end, ends)
    number = np.arange(len(runs)) - np.repeat(first, after - first)  # within its text
    for parity in (0, 1):  # of even numbers the first stands alone
        chain = np.flatnonzero((number % 2 == parity) & (number > 0))
        sums = np.cumsum(runs[chain])
        head = number[chain] == 2 - parity
        before = (sums - runs[chain])[head]
        runs[chain] = sums - np.repeat(before, np.diff(np.append(np.flatnonzero(head), len(chain))))
    long = any_within(characters > _LONGEST_NUMBER, first, after)
    below = any_within(runs < 0, first, after)
    empty = any_within((runs == 0) & (number > 0), first, after)
    totals = within(runs, first, after)
    pixels = np.array([shapes[i][0] * shapes[i][1] for i, _ in texts])
    odd = strange | cut | long | below | empty | (totals != pixels)
    for k in np.flatnonzero(odd).tolist():
        i = texts[k][0]
        if strange[k] or cut[k] or long[k]:
            problems[i] = 'its compressed run lengths cannot be decoded'
        elif below[k]:
            problems[i] = 'one of its run lengths is negative'
        else:
            problems[i] = _sum_problem(int(totals[k]), int(pixels[k]))
        rough[i] = bool(empty[k])


def _without_empty_runs(rle: dict) -> dict:
    """Sound run lengths as a list without empty runs between others: their neighbours are one."""
    counts = rle['counts']
    if not isinstance(counts, list):
        counts = decode_counts(counts)
    kept: list[int] = [0]
    inside = False  # what kept[-1] is
    for i, run in enumerate(counts):
        if run and inside != bool(i % 2):
            kept.append(0)
            inside = not inside
        kept[-1] += int(run)
    return dict(rle, counts=kept)


def decode_counts(counts: str | bytes) -> list[int]:
    """The numbers in COCO's text of run lengths, which must be sound."""
    text = counts.encode('ascii') if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = character - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _is_integer(kind: type) -> bool:
    return issubclass(kind, (int, np.integer)) and not issubclass(kind, bool)


def _short(value: object) -> str:
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + '...'
