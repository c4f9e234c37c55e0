"""What average precision does not say: the best working point, what is taken for what, and which
kind of mistake costs how much.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from terminaltables import AsciiTable

from .matching import (
    IGNORED,
    RIGHT,
    SMALLEST_OVERLAP,
    WRONG,
    Comparison,
    assign_any_class,
    judge,
    precision_curves,
)

RECALLS = np.linspace(0.0, 1.0, 101)
KINDS = ('class', 'localization', 'both', 'duplicate', 'background', 'missed')
"""Kinds of mistakes, in the order of :func:`mistakes`."""


def confusion_matrix(
    data: Comparison, *, score_thr: float = 0.3, iou_thr: float = 0.5, every: bool = False
) -> np.ndarray:
    """How often an object of class i was found as class j, (K + 1, K + 1) int64.

    The last row is background: detections of nothing annotated. The last column is background, too:
    objects that were missed. Every object counts once, and every detection once: detections first
    take objects of their own class, by COCO's rules; those left take, by falling score, objects of
    other classes that nobody found. So the diagonal holds COCO's true positives, rows sum up to
    the objects, columns to the detections. Crowds, and detections of their class on them, are left
    out.

    Args:
        data: what was found and annotated.
        score_thr: detections of a lower score are left out.
        iou_thr: least overlap.
        every: count as mmdetection 3.x does instead: each overlapping pair, so that an object with
            three detections counts three times, in any class; missed are those without a
            detection of their own class.
    """
    size = data.num_classes + 1
    matrix = np.zeros((size, size), np.int64)
    background = data.num_classes
    verdict = judge(data, iou_thr, min_score=score_thr, max_dets=2**62)
    det, gt = data.pair_det, data.pair_gt
    if every:
        pairs = (data.det_score >= score_thr)[det] & (data.iou >= iou_thr) & ~data.gt_crowd[gt]
        np.add.at(matrix, (data.gt_label[gt[pairs]], data.det_label[det[pairs]]), 1)
        wrong = verdict.verdict == WRONG
        wrong[det[pairs]] = False
        found = np.zeros(len(data.gt_label), bool)
        found[gt[pairs & data.same_class]] = True
    else:
        right = verdict.match >= 0
        found = np.zeros(len(data.gt_label), bool)
        found[verdict.match[right]] = True
        wrong = verdict.verdict == WRONG
        pairs = wrong[det] & ~found[gt] & ~data.gt_crowd[gt] & (data.iou >= iou_thr)
        taken = assign_any_class(data, pairs)
        confused = taken >= 0
        for chosen, objects in ((right, verdict.match), (confused, taken)):
            np.add.at(matrix, (data.gt_label[objects[chosen]], data.det_label[chosen]), 1)
        found[taken[confused]] = True
        wrong &= ~confused
    np.add.at(matrix[background], data.det_label[wrong], 1)
    np.add.at(matrix[:, background], data.gt_label[~found & ~data.gt_crowd], 1)
    return matrix


def best_f1(
    data: Comparison, verdict: np.ndarray, number: int, label: int | None = None
) -> dict[str, float | None]:
    """Precision, recall and F1 at the score threshold where F1 is highest, and that threshold.

    F1 = 2 * right / (detections + objects). Of equal values the highest threshold is given.

    Args:
        data: what was found.
        verdict: (n,) of :func:`~mmdet_r2.evaluation.matching.judge`.
        number: objects to be found; without any, all values are None.
        label: the class; None for all together.
    """
    if not number:
        return dict.fromkeys(('precision', 'recall', 'f1', 'score_thr'))
    chosen = verdict != IGNORED
    if label is not None:
        chosen &= data.det_label == label
    index = np.flatnonzero(chosen)
    index = index[np.argsort(data.priority[index])]
    scores, hits = data.det_score[index], np.cumsum(verdict[index] == RIGHT)
    # a threshold cannot part detections of one score
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(index) else index
    if not len(last):
        return dict(precision=None, recall=0.0, f1=0.0, score_thr=None)
    f1 = 2 * hits[last] / (last + 1 + number)
    best = last[int(f1.argmax())]
    return dict(
        precision=float(hits[best] / (best + 1)),
        recall=float(hits[best] / number),
        f1=float(f1.max()),
        score_thr=float(scores[best]),
    )


def mistakes(data: Comparison, iou_thr: float = 0.5) -> dict[str, dict[str, Any]]:
    """How many mistakes of each kind there are, and by how much AP at ``iou_thr`` would rise
    without them, one kind at a time.

    Kinds and repairs of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object
    Detection Errors", https://arxiv.org/abs/2008.08115). A wrong detection is, by the object of its
    own class that it overlaps most (else by one of another class):

    - ``localization``: its own class, overlap of 0.1 to ``iou_thr``. Repaired: it is right, unless
      the object has a detection already; then it is gone.
    - ``duplicate``: its own class, more overlap, the object is found already. Repaired: gone.
    - ``class``: another class, overlap of ``iou_thr``. Repaired as for localization.
    - ``both``: another class, overlap of 0.1 to ``iou_thr``. Repaired: gone.
    - ``background``: neither. Repaired: gone.

    ``missed`` are objects that no detection, however badly placed or named, is about; repaired:
    not asked for.

    Returns:
        for each of KINDS dict(count, dAP), dAP in [0, 1]; dAP is None without any object.
    """
    result = judge(data, iou_thr)
    wrong = result.verdict == WRONG
    det, gt = data.pair_det, data.pair_gt
    usable = wrong[det] & ~data.gt_crowd[gt]
    own_iou, own_gt = _best(data, usable & data.same_class)
    other_iou, other_gt = _best(data, usable & ~data.same_class)
    near_own = own_iou >= SMALLEST_OVERLAP
    of_kind = {
        'localization': wrong & near_own & (own_iou < iou_thr),
        'duplicate': wrong & (own_iou >= iou_thr),
        'class': wrong & ~near_own & (other_iou >= iou_thr),
        'both': wrong & ~near_own & (other_iou >= SMALLEST_OVERLAP) & (other_iou < iou_thr),
        'background': wrong & ~near_own & (other_iou < SMALLEST_OVERLAP),
    }
    # a localization error is about its own class's object, whatever else it overlaps
    about = np.where(of_kind['localization'], own_gt, np.where(of_kind['class'], other_gt, -1))
    touched = np.zeros(len(data.gt_label), bool)
    touched[result.match[result.match >= 0]] = True
    found = touched.copy()
    touched[about[about >= 0]] = True
    missed = result.counted & ~touched

    before = _mean_precision(data, data.det_label, result.verdict, result.counted)
    report = {}
    for kind in KINDS:
        label, verdict, counted = data.det_label, result.verdict, result.counted
        if kind == 'missed':
            counted = counted & ~missed
        else:
            verdict = np.where(of_kind[kind], IGNORED, verdict)
            if kind in ('localization', 'class'):
                helped = _first_of_each(data, of_kind[kind], about, found)
                verdict[helped] = RIGHT
                label = label.copy()
                label[helped] = data.gt_label[about[helped]]
        count = np.count_nonzero(missed if kind == 'missed' else of_kind[kind])
        after = _mean_precision(data, label, verdict, counted)
        rise = None if before is None else (1.0 if after is None else after) - before
        report[kind] = dict(count=int(count), dAP=rise)
    return report


def _best(data: Comparison, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) each detection's largest overlap among ``pairs``, 0 without any, and (n,) with which
    object.
    """
    index = np.flatnonzero(pairs)
    index = index[np.argsort(data.iou[index], kind='stable')]  # the last to be written stays
    iou, gt = np.zeros(len(data.det_label)), np.full(len(data.det_label), -1)
    iou[data.pair_det[index]] = data.iou[index]
    gt[data.pair_det[index]] = data.pair_gt[index]
    return iou, gt


def _first_of_each(
    data: Comparison, of_kind: np.ndarray, about: np.ndarray, found: np.ndarray
) -> np.ndarray:
    """Indices of the detections of highest score that are about an object nobody has found."""
    index = np.flatnonzero(of_kind)
    index = index[~found[about[index]]]
    index = index[np.argsort(data.priority[index])]
    return index[np.unique(about[index], return_index=True)[1]]


def _mean_precision(
    data: Comparison, label: np.ndarray, verdict: np.ndarray, counted: np.ndarray
) -> float | None:
    """Mean of the classes' average precision; None without any object."""
    curves = precision_curves(data, verdict, counted, RECALLS, label)
    known = np.isfinite(curves[:, 0])
    return float(curves[known].mean(axis=1).mean()) if known.any() else None


def summary(
    data: Comparison, names: Mapping[int, str], *, iou_thr: float = 0.5, score_thr: float = 0.3
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """All of the above, as JSON.

    Args:
        data: what was found and annotated.
        names: of the classes to be reported, by label.
        iou_thr: least overlap of a right detection.
        score_thr: of detections in the confusion matrix.

    Returns:
        dict(best_f1, confusion_matrix, mistakes), and for each class its row of best_f1 and
        ``taken_for``: the class it is most often confused with, and how often; None for none.
    """
    result = judge(data, iou_thr)
    numbers = np.bincount(data.gt_label[result.counted], minlength=data.num_classes)
    matrix = confusion_matrix(data, score_thr=score_thr, iou_thr=iou_thr)
    labels = [*names, data.num_classes]
    rows: dict[str, dict[str, Any]] = {}
    for label, name in names.items():
        others = matrix[label, : data.num_classes].copy()
        others[label] = 0
        taken_for = None
        if others.max(initial=0) > 0 and int(others.argmax()) in names:
            taken_for = dict(name=names[int(others.argmax())], count=int(others.max()))
        best = best_f1(data, result.verdict, int(numbers[label]), label)
        rows[name] = best | {'taken_for': taken_for}
    report = dict(
        best_f1=dict(iou_thr=iou_thr) | best_f1(data, result.verdict, int(numbers.sum())),
        confusion_matrix=dict(
            iou_thr=iou_thr,
            score_thr=score_thr,
            rows='annotated',
            columns='found',
            names=[*names.values(), 'background'],
            counts=matrix[np.ix_(labels, labels)].tolist(),
        ),
        mistakes=dict(iou_thr=iou_thr, kinds=mistakes(data, iou_thr)),
    )
    return report, rows


def worst_table(per_class: Mapping[str, Mapping[str, Any]], number: int = 10) -> str:
    """The classes of lowest AP, to be printed; '' where nothing is annotated.

    Args:
        per_class: of a metric's report.
        number: how many.
    """

    def shown(value: float | None) -> str:
        return '-' if value is None else f'{value:.3f}'

    annotated = [(name, row) for name, row in per_class.items() if row['AP'] is not None]
    worst = sorted(annotated, key=lambda item: item[1]['AP'])[:number]
    if not worst:
        return ''
    head = ['lowest AP', 'AP', 'AP50', 'best F1', 'precision', 'recall', 'at score', 'objects']
    rows = [[*head, 'most often taken for']]
    for name, row in worst:
        keys = ('AP', 'AP50', 'f1', 'precision', 'recall', 'score_thr')
        other = row['taken_for']
        text = f'{other["name"]} ({other["count"]})' if other else '-'
        rows.append([name, *(shown(row[key]) for key in keys), str(row['num_gt']), text])
    return AsciiTable(rows).table
