"""Which detection is of which object: all images of a data set at once, by COCO's rules.

pycocotools answers this per image, class, size and threshold, and keeps only what average precision
needs. The tools that ask *what kind* of mistakes a detector makes need all overlaps, of other
classes too. Here they are computed once, in flat arrays over the whole data set, and each question
is a few operations on them. The verdicts are those of pycocotools, detection by detection.

Legend: n detections, g objects, p pairs of them that overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

RIGHT, WRONG, IGNORED = 1, 0, -1
"""Verdicts on a detection: it has found an object; it has not; it counts neither way."""

SMALLEST_OVERLAP = 0.1
"""Pairs that overlap less are not kept."""


@dataclass
class Objects:
    """Objects of one image, annotated or found.

    Attributes:
        boxes: (n, 4) x, y, width, height.
        labels: (n,) integers from 0.
        scores: (n,) of detections.
        crowd: (n,) bool, of annotations; None for none.
        areas: (n,) what decides on small, medium or large; the box's by default.
        masks: n run lengths; only needed where masks are compared.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    masks: list[dict] | None = None

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        self.labels = np.asarray(self.labels, np.int64)
        number = len(self.boxes)
        if self.scores is not None:
            self.scores = np.asarray(self.scores, np.float64)
        self.crowd = np.zeros(number, bool) if self.crowd is None else np.asarray(self.crowd, bool)
        if self.areas is None:
            self.areas = self.boxes[:, 2] * self.boxes[:, 3]
        self.areas = np.asarray(self.areas, np.float64)


@dataclass
class Comparison:
    """Detections and objects of a data set, and their overlaps.

    Attributes:
        num_images, num_classes: sizes.
        det_image, det_label, det_score, det_area: (n,) of each detection.
        priority: (n,) 0 for the detection of highest score; no two are alike.
        place: (n,) how many detections of its image and class go before it.
        gt_image, gt_label, gt_area, gt_crowd: (g,) of each object.
        pair_det, pair_gt: (p,) which detection overlaps which object, of any class.
        iou: (p,) intersection over union; of a crowd, as COCO has it, over the detection's area.
        cover: (p,) intersection over the detection's area.
    """

    num_images: int
    num_classes: int
    det_image: np.ndarray
    det_label: np.ndarray
    det_score: np.ndarray
    det_area: np.ndarray
    priority: np.ndarray
    place: np.ndarray
    gt_image: np.ndarray
    gt_label: np.ndarray
    gt_area: np.ndarray
    gt_crowd: np.ndarray
    pair_det: np.ndarray
    pair_gt: np.ndarray
    iou: np.ndarray
    cover: np.ndarray

    @property
    def same_class(self) -> np.ndarray:
        """(p,) whether both of a pair have the same label."""
        return self.det_label[self.pair_det] == self.gt_label[self.pair_gt]


@dataclass
class Judgement:
    """What :func:`judge` decided.

    Attributes:
        verdict: (n,) RIGHT, WRONG or IGNORED.
        match: (n,) the object that a RIGHT detection has found, else -1.
        counted: (g,) objects that ought to be found.
    """

    verdict: np.ndarray
    match: np.ndarray
    counted: np.ndarray


def compare(
    truth: Iterable[Objects], found: Iterable[Objects], num_classes: int, iou_type: str = 'bbox'
) -> Comparison:
    """Overlaps of each image's detections with its objects.

    Args:
        truth, found: one per image, in the same order.
        num_classes: labels are below it.
        iou_type: 'bbox' or 'segm': which overlap.
    """
    pairs: list[tuple[np.ndarray, ...]] = [(np.zeros(0, int),) * 2 + (np.zeros(0),) * 2]
    truths, founds = [], []
    dets = gts = 0
    for objects, detections in zip(truth, found, strict=True):
        truths.append(objects)
        founds.append(detections)
        if len(objects.boxes) and len(detections.boxes):
            iou, cover = _overlaps(objects, detections, iou_type)
            d, g = np.nonzero(np.maximum(iou, cover) >= SMALLEST_OVERLAP)
            pairs.append((d + dets, g + gts, iou[d, g], cover[d, g]))
        dets += len(detections.boxes)
        gts += len(objects.boxes)
    pair_det, pair_gt, iou, cover = (np.concatenate(column) for column in zip(*pairs))
    image, label = _flat(founds, 'image', np.int64), _flat(founds, 'labels', np.int64)
    score = _flat(founds, 'scores', np.float64)
    # stable, as pycocotools sorts: of equal scores the first image's first detection leads
    order = np.argsort(-score, kind='stable')
    priority = np.empty(dets, np.int64)
    priority[order] = np.arange(dets)
    return Comparison(
        num_images=len(truths),
        num_classes=num_classes,
        det_image=image,
        det_label=label,
        det_score=score,
        det_area=_flat(founds, 'areas', np.float64),
        priority=priority,
        place=_places(image * num_classes + label, priority),
        gt_image=_flat(truths, 'image', np.int64),
        gt_label=_flat(truths, 'labels', np.int64),
        gt_area=_flat(truths, 'areas', np.float64),
        gt_crowd=_flat(truths, 'crowd', bool),
        pair_det=pair_det,
        pair_gt=pair_gt,
        iou=iou,
        cover=cover,
    )


def compare_evaluated(evaluation: COCOeval, category_ids: Sequence[int | None]) -> Comparison:
    """What a COCOeval with classes has evaluated: the same images, objects and detections.

    Args:
        evaluation: after ``evaluate()``.
        category_ids: of each label; None for one without category.
    """
    labels = {category: label for label, category in enumerate(category_ids)}
    masks = evaluation.params.iouType == 'segm'

    def objects(table: dict, image: int) -> Objects:
        records = [(r, labels[c]) for c in evaluation.params.catIds for r in table[image, c]]
        return Objects(
            boxes=np.array([r.get('bbox', (0, 0, 0, 0)) for r, _ in records]).reshape(-1, 4),
            labels=np.array([label for _, label in records], np.int64),
            scores=np.array([r.get('score', 0) for r, _ in records], float),
            crowd=np.array([r['iscrowd'] for r, _ in records], bool),
            areas=np.array([r['area'] for r, _ in records], float),
            masks=[r['segmentation'] for r, _ in records] if masks else None,
        )

    images = evaluation.params.imgIds
    return compare(
        (objects(evaluation._gts, image) for image in images),
        (objects(evaluation._dts, image) for image in images),
        len(category_ids),
        evaluation.params.iouType,
    )


def _overlaps(truth: Objects, found: Objects, iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Of every detection with every object: intersection over union, and over the detection."""
    masks = iou_type == 'segm'
    a: Any = (found.masks or []) if masks else found.boxes
    b: Any = (truth.masks or []) if masks else truth.boxes
    assert truth.crowd is not None
    iou = coco_mask.iou(a, b, truth.crowd.astype(np.uint8))
    return np.asarray(iou), np.asarray(coco_mask.iou(a, b, np.ones(len(b), np.uint8)))


def _flat(images: Sequence[Objects], name: str, dtype: type) -> np.ndarray:
    if name == 'image':
        counts = [len(objects.boxes) for objects in images]
        return np.repeat(np.arange(len(images)), counts).astype(dtype)
    return np.concatenate([np.zeros(0, dtype), *(getattr(o, name) for o in images)]).astype(dtype)


def _places(group: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """(n,) how many of its group have a smaller priority."""
    order = np.lexsort((priority, group))
    sorted_group = group[order]
    first = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]])
    sizes = np.diff(np.r_[first, len(group)])
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(first, sizes)
    return place


def judge(
    data: Comparison,
    iou_thr: float,
    *,
    area: tuple[float, float] = (0.0, np.inf),
    max_dets: int = 100,
    min_score: float = -np.inf,
    excuses: np.ndarray | None = None,
) -> Judgement:
    """Which detections are right: by falling score each takes the object of its class that it
    overlaps most and that is still free.

    Args:
        data: what was found and annotated.
        iou_thr: least overlap.
        area: objects outside of it, and detections outside of it that find none, do not count.
        max_dets: detections of one image and class that are looked at.
        min_score: detections below it are IGNORED and take no object.
        excuses: (K, K) bool; a wrong detection of class i that lies on an object of class j (this
            part of the detection at least: ``iou_thr``) is IGNORED where ``excuses[i, j]``.
    """
    iou_thr = min(iou_thr, 1 - 1e-10)
    counted = ~data.gt_crowd & (data.gt_area >= area[0]) & (data.gt_area <= area[1])
    looked_at = (data.place < max_dets) & (data.det_score >= min_score)
    same = data.same_class & looked_at[data.pair_det]
    near = data.iou >= iou_thr
    match = _assign(data, same & near & counted[data.pair_gt], data.iou)

    # what is left may lie on objects that are not asked for; crowds and excuses have room for all
    verdict = np.where(match >= 0, RIGHT, WRONG)
    left = looked_at[data.pair_det] & (match[data.pair_det] < 0)
    overlap = data.iou
    optional = same & near & ~counted[data.pair_gt]
    shared = data.gt_crowd[data.pair_gt]
    if excuses is not None:
        excused = excuses[data.det_label[data.pair_det], data.gt_label[data.pair_gt]]
        excused &= ~data.same_class
        overlap = np.where(excused, data.cover, data.iou)
        optional = optional | (excused & (data.cover >= iou_thr))
        shared = shared | excused
    verdict[_assign(data, left & optional, overlap, shared) >= 0] = IGNORED
    outside = (data.det_area < area[0]) | (data.det_area > area[1])
    verdict[(verdict == WRONG) & outside] = IGNORED
    verdict[~looked_at] = IGNORED
    return Judgement(verdict, match, counted)


def assign_any_class(data: Comparison, pairs: np.ndarray) -> np.ndarray:
    """As in :func:`judge`, by falling score, whatever the classes: (n,) the object that each
    detection takes, or -1.

    Args:
        data: what was found and annotated.
        pairs: (p,) bool, which pairs may be.
    """
    return _assign(data, pairs, data.iou)


def _assign(
    data: Comparison, pairs: np.ndarray, overlap: np.ndarray, shared: np.ndarray | None = None
) -> np.ndarray:
    """(n,) the object that each detection takes, or -1: in the order of scores, the best of those
    still free.

    All detections ask at once for their best object, which keeps the one of highest score; the
    others go on to their next best. This ends in the same pairs as asking one by one (stable
    matching, where all objects rank the detections alike), after few rounds for all images.

    Args:
        pairs: (p,) bool, which may be.
        overlap: (p,) what "best" means; of equals the last annotated, as in pycocotools.
        shared: (p,) bool, pairs whose object stays free.
    """
    taken = np.full(len(data.det_label), -1)
    index = np.flatnonzero(pairs)
    if not len(index):
        return taken
    det, gt = data.pair_det[index], data.pair_gt[index]
    order = np.lexsort((-gt, -overlap[index], det))
    det, gt = det[order], gt[order]
    free = np.zeros(len(det), bool) if shared is None else shared[index][order]
    position = np.flatnonzero(np.r_[True, det[1:] != det[:-1]])  # each detection's next wish
    end = np.r_[position[1:], len(det)]
    holder = np.full(len(data.gt_label), len(taken))  # priority of who has it, beyond all if nobody
    row_of = np.full(len(taken), -1)  # by priority, the row of ``position``
    rows = np.arange(len(position))
    row_of[data.priority[det[position]]] = rows
    asking = rows
    while len(asking):
        wish = position[asking]
        rank = data.priority[det[wish]]
        contested = ~free[wish]
        former = holder[gt[wish][contested]]
        np.minimum.at(holder, gt[wish][contested], rank[contested])
        lost = contested & (holder[gt[wish]] != rank)
        won = asking[~lost]
        taken[det[position[won]]] = gt[position[won]]
        # of those who had an object and lose it now, each once
        displaced = former[(former < len(taken)) & (holder[gt[wish][contested]] != former)]
        displaced = row_of[np.unique(displaced)]
        taken[det[position[displaced]]] = -1
        asking = np.concatenate([asking[lost], displaced])
        position[asking] += 1
        asking = asking[position[asking] < end[asking]]
    return taken


def ranked(
    data: Comparison, chosen: np.ndarray, group: np.ndarray, number: int
) -> list[np.ndarray]:
    """The ``chosen`` (n,) bool detections of each of ``number`` groups, by falling score.

    Args:
        group: (n,) the group of each detection: ``data.det_label``, say.
    """
    index = np.flatnonzero(chosen)
    # one key for both: priorities are below their number
    index = index[np.argsort(group[index] * len(chosen) + data.priority[index])]
    ends = np.cumsum(np.bincount(group[index], minlength=number))
    return np.split(index, ends[:-1])


def precision_curves(
    data: Comparison,
    verdict: np.ndarray,
    counted: np.ndarray,
    recalls: np.ndarray,
    label: np.ndarray | None = None,
) -> np.ndarray:
    """Precision of each class at each recall, interpolated as COCO does: (K, r), NaN for a class
    without objects to be found.

    Args:
        verdict, counted: of :class:`Judgement`.
        recalls: (r,) ascending.
        label: (n,) what class the detections are said to be, where not what they were found as.
    """
    size = data.num_classes
    numbers = np.bincount(data.gt_label[counted], minlength=size)
    groups = ranked(data, verdict != IGNORED, data.det_label if label is None else label, size)
    curves = np.full((size, len(recalls)), np.nan)
    for k in np.flatnonzero(numbers):
        curves[k] = interpolate(verdict[groups[k]] == RIGHT, int(numbers[k]), recalls)
    return curves


def interpolate(right: np.ndarray, number: int, recalls: np.ndarray) -> np.ndarray:
    """Precision at each recall, 0 where it is not reached; at least that of any higher recall.

    Args:
        right: (n,) bool, by falling score.
        number: objects to be found.
        recalls: ascending.
    """
    hits = np.cumsum(right)
    precision = hits / (np.arange(1, len(right) + 1) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / number, recalls, side='left')
    return np.where(at < len(right), np.append(precision, 0)[np.minimum(at, len(right))], 0.0)
