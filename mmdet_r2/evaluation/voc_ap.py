"""Pascal VOC's average precision as arrays: the rule of the official development kit
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 3.4).

One class at a time. Its detections on all images are sorted by score, highest first. Each is
compared with the objects of that class in its image, and the one it overlaps most decides:

* overlap below the threshold, or no such object: a false positive;
* a difficult object: the detection does not count;
* an object that no better detection has found: a true positive; otherwise a false positive.

Difficult objects are not among those to find. A box is a range of whole pixels, ends included: its
width is x2 - x1 + 1.

Worked example, one image, threshold 0.5, boxes written x1 y1 x2 y2. The objects are A (0 0 9 9),
B (20 20 29 29), C (40 40 49 49) and the difficult D (60 60 69 69): three to find.

=====  ============  =======================  =============  =========  ======
score  box           best overlap             verdict        precision  recall
=====  ============  =======================  =============  =========  ======
0.9    0 0 9 8       A, 90 / 100 = 0.9        true positive  1          1/3
0.8    0 0 9 9       A, 1, but A is taken     false          1/2        1/3
0.7    60 60 69 69   D, 1, difficult          not counted    1/2        1/3
0.6    20 20 29 24   B, 50 / 100 = 0.5        true positive  2/3        2/3
0.5    40 40 49 43   C, 40 / 100 = 0.4        false          2/4        2/3
=====  ============  =======================  =============  =========  ======

VOC2007 takes the best precision at any recall of at least 0, 0.1, ..., 1: that is 1 at 0 to 0.3
(four times), 2/3 at 0.4 to 0.6 (three times), 0 above; AP = (4 + 3 * 2/3) / 11 = 6/11 = 0.5455.
VOC2010 and later take the area below that envelope: 1/3 * 1 + 1/3 * 2/3 = 5/9 = 0.5556.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

EVAL_MODES = ('11points', 'area')

# Multiples of 0.1 as floating point has them, like mmdetection, detectron2 and Octave: 0.3, 0.6 and
# 0.7 come out a hair too large, so that a recall of exactly 3/5 does not reach the level 0.6.
# (MATLAB counts down from 1 in the upper half, where it hits 0.6 and 0.7.)
RECALL_LEVELS = np.arange(11) * 0.1

PAIRS = 1 << 20
"""Overlaps computed at a time; bounds the memory."""


@dataclass
class FlatBoxes:
    """Boxes of many images, n in all.

    Attributes:
        images: (n,) position of the image.
        labels: (n,) class.
        boxes: (n, 4) float64 x1, y1, x2, y2.
        scores: (n,) of detections.
        ignored: (n,) bool, of objects: difficult ones.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None
    ignored: np.ndarray | None = None

    def rows(self, keep: np.ndarray) -> 'FlatBoxes':
        """These rows, in this order."""
        return FlatBoxes(
            self.images[keep],
            self.labels[keep],
            self.boxes[keep],
            None if self.scores is None else self.scores[keep],
            None if self.ignored is None else self.ignored[keep],
        )

    @property
    def areas(self) -> np.ndarray:
        """(n,) pixels."""
        return (self.boxes[:, 2] - self.boxes[:, 0] + 1) * (self.boxes[:, 3] - self.boxes[:, 1] + 1)


@dataclass
class ClassResult:
    """What came out for one class.

    Attributes:
        ap: None where there is nothing to find.
        recall: of all detections; None likewise.
        num_gt: objects to find.
        num_ignored: difficult objects, and those outside the range of sizes.
        num_det: detections.
    """

    ap: float | None
    recall: float | None
    num_gt: int
    num_ignored: int
    num_det: int


def evaluate_classes(
    found: FlatBoxes,
    truth: FlatBoxes,
    num_classes: int,
    thresholds: list[float],
    eval_mode: str = '11points',
    size_range: tuple[float, float] | None = None,
) -> list[list[ClassResult]]:
    """For each of ``thresholds`` the results of all classes.

    Args:
        found: detections; of equal scores the earlier comes first.
        truth: objects; of equal overlaps the earlier counts.
        num_classes: labels are below.
        thresholds: overlaps (IoU), above 0.
        eval_mode: '11points' or 'area'.
        size_range: objects whose area is below the square of the first or not below that of the
            second number do not count, nor do detections of such a size that hit nothing.
    """
    assert found.scores is not None and truth.ignored is not None
    results: list[list[ClassResult]] = [[] for _ in thresholds]
    classes = zip(
        _by_class(found, np.lexsort((-found.scores, found.labels)), num_classes),
        _by_class(truth, np.lexsort((truth.images, truth.labels)), num_classes),
    )
    for detections, objects in classes:
        assert objects.ignored is not None
        ignored = objects.ignored
        uncounted = np.zeros(len(detections.boxes), bool)
        if size_range is not None:
            ignored = ignored | _outside(objects.areas, size_range)
            uncounted = _outside(detections.areas, size_range)
        overlaps, indices = best_overlaps(detections, objects)
        num_gt = int(np.count_nonzero(~ignored))
        for threshold, rows in zip(thresholds, results):
            right, wrong = _verdicts(overlaps, indices, ignored, uncounted, threshold)
            ap = average_precision(right, wrong, num_gt, eval_mode)
            rows.append(
                ClassResult(
                    ap=ap,
                    recall=None if ap is None else int(right.sum()) / num_gt,
                    num_gt=num_gt,
                    num_ignored=len(ignored) - num_gt,
                    num_det=len(detections.boxes),
                )
            )
    return results


def best_overlaps(found: FlatBoxes, truth: FlatBoxes) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``found`` the largest overlap (IoU) with an object of its image, and which that
    is; -1 and -1 without.

    Args:
        truth: sorted by image.
    """
    overlaps = np.full(len(found.boxes), -1.0)
    indices = np.full(len(found.boxes), -1)
    first = np.searchsorted(truth.images, found.images, 'left')
    counts = np.searchsorted(truth.images, found.images, 'right') - first
    (rows,) = counts.nonzero()
    ends = counts[rows].cumsum()
    start = 0
    while start < len(rows):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + PAIRS, 'right')), start + 1)
        part = rows[start:stop]
        number = counts[part]
        where = number.cumsum() - number  # of each detection's first pair
        # pairs of a detection side by side, its objects in order
        objects = np.arange(number.sum()) + (first[part] - where).repeat(number)
        values = _iou(found.boxes[part].repeat(number, axis=0), truth.boxes[objects])
        best = np.maximum.reduceat(values, where)
        (hits,) = (values == best.repeat(number)).nonzero()
        owner = np.arange(len(part)).repeat(number)[hits]
        hits = hits[np.unique(owner, return_index=True)[1]]  # the first of equal ones
        overlaps[part], indices[part] = best, objects[hits]
        start = stop
    return overlaps, indices


def average_precision(
    right: np.ndarray, wrong: np.ndarray, num_gt: int, eval_mode: str
) -> float | None:
    """AP of detections in the order of their scores; None if there is nothing to find.

    Args:
        right: (n,) bool, true positives.
        wrong: (n,) bool, false positives; a detection that is neither does not count.
        num_gt: objects to find.
        eval_mode: '11points' (VOC2007) or 'area' (VOC2010 and later).
    """
    if num_gt == 0:
        return None
    hits = right.cumsum()
    recall = hits / num_gt
    precision = hits / np.maximum(hits + wrong.cumsum(), 1)
    # the best precision at this recall or a higher one
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eval_mode == 'area':
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    reached = np.searchsorted(recall, RECALL_LEVELS, 'left')
    return float(np.append(envelope, 0.0)[reached].sum() / len(RECALL_LEVELS))


def _by_class(boxes: FlatBoxes, order: np.ndarray, num_classes: int) -> Iterator[FlatBoxes]:
    """The boxes of each class; ``order`` sorts them by class first."""
    ends = np.searchsorted(boxes.labels[order], np.arange(num_classes + 1))
    for start, end in itertools.pairwise(ends):
        yield boxes.rows(order[start:end])


def _outside(areas: np.ndarray, size_range: tuple[float, float]) -> np.ndarray:
    return (areas < size_range[0] ** 2) | (areas >= size_range[1] ** 2)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of boxes (p, 4) and (p, 4), pixels at both ends included; 0 where they do not meet."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2]) + 1
    common = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    areas = [(b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1) for b in (one, other)]
    return common / np.maximum(areas[0] + areas[1] - common, np.finfo(float).tiny)


def _verdicts(
    overlaps: np.ndarray,
    indices: np.ndarray,
    ignored: np.ndarray,
    uncounted: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) true positives and (n,) false positives among detections in the order of their
    scores.
    """
    hit = overlaps >= threshold
    (counted,) = hit.nonzero()
    counted = counted[~ignored[indices[counted]]]
    right = np.zeros(len(overlaps), bool)
    right[counted[np.unique(indices[counted], return_index=True)[1]]] = True
    wrong = ~hit & ~uncounted
    wrong[counted] = True
    return right, wrong & ~right
