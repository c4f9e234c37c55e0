"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", https://arxiv.org/abs/1801.00868) by
the rules of COCO's evaluation.

A predicted and a true segment of one category match if their IoU is above one half, pixels that are
not annotated left out of the union; at most one pair can. Then, for every category::

    PQ = sum of the IoU of matches / (matches + unmatched predicted / 2 + unmatched true / 2)
    SQ = mean IoU of matches         RQ = PQ / SQ

Crowds are neither matched nor missed. A predicted segment without a match does not count against
the model if more than half of it lies on pixels not annotated and on the crowd of its category (the
last one listed, where there are several).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from terminaltables import AsciiTable

from mmdet_r2.errors import DataError


@dataclass
class PanopticMap:
    """One image's segments.

    Attributes:
        index: (H, W) integers, for each pixel 1 + the position of its segment in the lists below;
            0 where there is none.
        categories: (n,) int64, category ids.
        areas: (n,) int64, pixels; counted if None. COCO's files state those of true segments, and
            the official evaluation believes them.
        crowd: (n,) bool; None for no crowds.
    """

    index: np.ndarray
    categories: np.ndarray
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None


@dataclass
class ImageCounts:
    """What one image adds to the sums: category ids of its matches, with their IoU, of true
    segments that were missed and of predicted ones that are wrong.
    """

    matched: list[int] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)


def compare(truth: PanopticMap, found: PanopticMap) -> ImageCounts:
    """Match one image's segments.

    Args:
        truth: the annotation.
        found: the prediction, of the same size.
    """
    num_truth, num_found = len(truth.categories) + 1, len(found.categories) + 1
    # position 0 of all arrays below stands for pixels without a segment
    truth_category = np.concatenate([[-1], truth.categories])
    found_category = np.concatenate([[-2], found.categories])
    crowd = np.zeros(num_truth, bool)
    if truth.crowd is not None:
        crowd[1:] = truth.crowd
    t, f, common = _overlaps(truth.index, found.index, num_truth, num_found)
    truth_area = _sums(t, common, num_truth)
    if truth.areas is not None:
        truth_area[1:] = truth.areas
    found_area = _sums(f, common, num_found)
    if found.areas is not None:
        found_area[1:] = found.areas
    free = t == 0
    unlabelled = _sums(f[free], common[free], num_found)

    pair = (truth_category[t] == found_category[f]) & ~crowd[t]
    t_pair, f_pair, common_pair = t[pair], f[pair], common[pair]
    union = found_area[f_pair] + truth_area[t_pair] - common_pair - unlabelled[f_pair]
    iou = common_pair / union
    match = iou > 0.5
    truth_matched, found_matched = np.zeros(num_truth, bool), np.zeros(num_found, bool)
    truth_matched[t_pair[match]] = True
    found_matched[f_pair[match]] = True

    # later crowds of a category overwrite earlier ones
    crowd_of = {int(truth_category[k]): k for k in np.flatnonzero(crowd)}
    excused = unlabelled
    if crowd_of:
        of_category = np.array([crowd_of.get(int(c), -1) for c in found_category])
        inside = of_category[f] == t
        excused = excused + _sums(f[inside], common[inside], num_found)
    wrong = ~found_matched
    wrong[0] = False
    wrong &= excused <= 0.5 * found_area
    missed = ~truth_matched & ~crowd
    missed[0] = False
    return ImageCounts(
        matched=truth_category[t_pair[match]].tolist(),
        ious=iou[match].tolist(),
        missed=truth_category[missed].tolist(),
        wrong=found_category[wrong].tolist(),
    )


def _overlaps(
    truth: np.ndarray, found: np.ndarray, num_truth: int, num_found: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of segments that share pixels: true segment, predicted segment, pixels; (p,)."""
    flat = truth.reshape(-1).astype(np.int64)
    flat *= num_found
    flat += found.reshape(-1)
    if num_truth * num_found < 8 * max(flat.size, 1024):
        common = np.bincount(flat, minlength=num_truth * num_found)
        pairs = np.flatnonzero(common)
        common = common[pairs]
    else:  # so many segments that most pairs do not occur
        pairs, common = np.unique(flat, return_counts=True)
    return pairs // num_found, pairs % num_found, common


def _sums(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sum of the integers ``values`` at each ``index``, (size,) int64."""
    total = np.zeros(size, np.int64)
    np.add.at(total, index, values)
    return total


def quality(
    counts: Iterable[ImageCounts], isthing: Mapping[int, bool]
) -> dict[str, dict[Any, Any]]:
    """PQ, SQ, RQ of all categories, of things, of stuff, and of each.

    Args:
        counts: of all images.
        isthing: for every category id whether it is a thing; other ids are an error.

    Returns:
        ``All``, ``Things``, ``Stuff``: dict(pq, sq, rq, n), means over the ``n`` categories that
        occur in the annotations or (wrongly) in the predictions, in [0, 1]; -1 where there are
        none. ``per_class``: for each category id dict(pq, sq, rq, iou, tp, fp, fn); pq, sq, rq are
        None where it does not occur.
    """
    sums = {category: dict(iou=0.0, tp=0, fp=0, fn=0) for category in isthing}
    for image in counts:
        for category, iou in zip(image.matched, image.ious):
            sums[category]['iou'] += iou
            sums[category]['tp'] += 1
        for category in image.missed:
            sums[category]['fn'] += 1
        for category in image.wrong:
            sums[category]['fp'] += 1
    per_class: dict[int, dict[str, Any]] = {}
    for category, total in sums.items():
        tp, fp, fn = total['tp'], total['fp'], total['fn']
        row: dict[str, Any] = dict(pq=None, sq=None, rq=None)
        if tp + fp + fn:
            size = tp + 0.5 * fp + 0.5 * fn
            row = dict(pq=total['iou'] / size, sq=total['iou'] / tp if tp else 0.0, rq=tp / size)
        per_class[category] = row | total
    result: dict[str, dict[Any, Any]] = {}
    for name, kind in (('All', None), ('Things', True), ('Stuff', False)):
        rows = [
            row
            for category, row in per_class.items()
            if row['pq'] is not None and (kind is None or bool(isthing[category]) == kind)
        ]
        means = {
            key: sum(row[key] for row in rows) / len(rows) if rows else -1.0
            for key in ('pq', 'sq', 'rq')
        }
        result[name] = means | {'n': len(rows)}
    result['per_class'] = per_class
    return result


def panoptic_table(found: dict[str, dict[str, Any]]) -> str:
    """What :func:`quality` returns of all, things and stuff, in percent, to be printed."""
    rows = [['', 'PQ', 'SQ', 'RQ', 'categories']]
    for name in ('All', 'Things', 'Stuff'):
        row = found[name]
        cells = [f'{100 * row[key]:.3f}' if row['n'] else '-' for key in ('pq', 'sq', 'rq')]
        rows.append([name, *cells, str(row['n'])])
    return AsciiTable(rows).table


def same_size(truth: np.ndarray, found: np.ndarray, truth_name: str, found_name: str) -> None:
    """Raise DataError unless two maps have the same height and width."""
    if truth.shape != found.shape:
        raise DataError(
            f'{truth_name} is {truth.shape[1]}x{truth.shape[0]} pixels, but {found_name} is '
            f'{found.shape[1]}x{found.shape[0]}; they must be of the same image'
        )
