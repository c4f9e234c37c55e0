"""What average precision does not say: the best working point, what is taken for what, and which
kind of mistake costs how much.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from terminaltables import AsciiTable

from .coco_backends import IGNORED, RIGHT, Evaluation


def best_f1(scores: np.ndarray, verdict: np.ndarray, number: int) -> dict[str, float | None]:
    """Precision, recall and F1 at the score threshold where F1 is highest, and that threshold.

    F1 = 2 * right / (detections + objects). Of equal values the highest threshold is given.

    Args:
        scores: (n,) of the detections.
        verdict: (n,) of :meth:`~.coco_backends.Evaluation.verdicts`.
        number: objects to be found; without any, all values are None.
    """
    if not number:
        return dict.fromkeys(('precision', 'recall', 'f1', 'score_thr'))
    index = np.flatnonzero(verdict != IGNORED)
    index = index[np.argsort(-scores[index], kind='stable')]
    scores, hits = scores[index], np.cumsum(verdict[index] == RIGHT)
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


def summary(
    evaluation: Evaluation,
    names: Mapping[int, str],
    *,
    iou_thr: float = 0.5,
    score_thr: float = 0.3,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """All of that, as JSON.

    Args:
        evaluation: of what was found and annotated.
        names: of the classes to be reported, by label.
        iou_thr: least overlap of a right detection.
        score_thr: of detections in the confusion matrix.

    Returns:
        dict(best_f1, confusion_matrix, mistakes), and for each class its row of best_f1 and
        ``taken_for``: the class it is most often confused with, and how often; None for none.
    """
    data = evaluation.data
    found, size = data.found, data.num_classes
    verdict, _ = evaluation.verdicts(iou_thr)
    numbers = np.bincount(data.truth.label[~data.truth.crowd], minlength=size)
    matrix = evaluation.confusion(iou_thr, score_thr)
    labels = [*names, size]
    of_class = np.split(
        np.argsort(found.label, kind='stable'),
        np.cumsum(np.bincount(found.label, minlength=size))[:-1],
    )
    rows: dict[str, dict[str, Any]] = {}
    assert found.scores is not None
    for label, name in names.items():
        others = matrix[label, :size].copy()
        others[label] = 0
        taken_for = None
        if others.max(initial=0) > 0 and int(others.argmax()) in names:
            taken_for = dict(name=names[int(others.argmax())], count=int(others.max()))
        own = of_class[label]
        best = best_f1(found.scores[own], verdict[own], int(numbers[label]))
        rows[name] = best | {'taken_for': taken_for}
    report = dict(
        best_f1=dict(iou_thr=iou_thr) | best_f1(found.scores, verdict, int(numbers.sum())),
        confusion_matrix=dict(
            iou_thr=iou_thr,
            score_thr=score_thr,
            rows='annotated',
            columns='found',
            names=[*names.values(), 'background'],
            counts=matrix[np.ix_(labels, labels)].tolist(),
        ),
        mistakes=dict(iou_thr=iou_thr, kinds=evaluation.mistakes(iou_thr)),
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
