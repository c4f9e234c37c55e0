"""Large images in pieces: where the windows lie, and one set of detections from those of all.

A detector sees an image scaled to some fixed size; in a large one, small objects vanish by that.
Windows of it, each scaled by itself, keep them (as in SAHI, https://arxiv.org/abs/2202.06934).

An object in the overlap of two windows is found twice, one that a window's border cuts is found in
part. Both are removed by one suppression over all windows. Its rules are the ordinary ones but for
two: detections of the same window do not suppress each other (the detector has judged them), and
those that touch an inner border, where something may be cut off, come after all others, whatever
they score.

Shape legend: N detections of all windows.
"""

import heapq

import numpy as np
from pycocotools import mask as coco_mask

from ..errors import ConfigError
from ..structures.masks import encode_columns

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the image, the last two exclusive."""

# Pixels from a window's border within which a box counts as touching it.
_TOUCH = 2.0


def slice_windows(
    height: int, width: int, size: int | tuple[int, int], overlap: float = 0.25
) -> list[Window]:
    """Windows that cover an image, row by row, all of the same size (if the image has it).

    Args:
        height, width: of the image.
        size: of a window, pixels: of its sides, or its height and width.
        overlap: of neighbours, as part of a side, at least this; below 1.

    Raises:
        ConfigError: a size below 1, or an overlap outside [0, 1).
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise ConfigError(f'slice size is {size}; expected 1 or more.')
    if not 0 <= overlap < 1:
        raise ConfigError(f'overlap is {overlap}; expected 0 or more, and below 1.')
    return [
        (x, y, min(x + columns, width), min(y + rows, height))
        for y in _starts(height, rows, overlap)
        for x in _starts(width, columns, overlap)
    ]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """Evenly spread, the last flush with the end."""
    if length <= size:
        return [0]
    step = max(1, int(size * (1 - overlap)))
    number = -(-(length - size) // step) + 1
    return [round(i * (length - size) / (number - 1)) for i in range(number)]


def touches_cut(boxes: np.ndarray, window: Window, height: int, width: int) -> np.ndarray:
    """Which boxes (n, 4), in pixels of the image, touch a border of their window that is none of
    the image; (n,) bool.
    """
    x1, y1, x2, y2 = window
    touch = np.zeros(len(boxes), bool)
    if x1 > 0:
        touch |= boxes[:, 0] <= x1 + _TOUCH
    if y1 > 0:
        touch |= boxes[:, 1] <= y1 + _TOUCH
    if x2 < width:
        touch |= boxes[:, 2] >= x2 - _TOUCH
    if y2 < height:
        touch |= boxes[:, 3] >= y2 - _TOUCH
    return touch


def merge_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    windows: np.ndarray,
    cut: np.ndarray,
    *,
    threshold: float = 0.25,
    metric: str = 'iou',
    kind: str = 'nms',
    class_agnostic: bool = False,
    min_score: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray]:
    """Detections left after suppression between windows.

    Args:
        boxes: (N, 4) xyxy in pixels of the image.
        scores: (N,).
        labels: (N,).
        windows: (N,) index of the window each was found in.
        cut: (N,) bool, see :func:`touches_cut`.
        threshold: overlap from which a detection suppresses another of its class.
        metric: 'iou', intersection over union, or 'ios', over the smaller of the two, which
            removes parts of objects however small they are.
        kind: 'nms' removes; 'soft_nms' lowers the score by the overlap
            (https://arxiv.org/abs/1704.04503, linear), and removes below ``min_score``.
        class_agnostic: detections of different classes suppress each other, too.

    Returns:
        Indices kept (k,), by descending score, and their scores (k,).

    Raises:
        ConfigError: an unknown ``metric`` or ``kind``.
    """
    check_merging(metric, kind)
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    group = np.zeros_like(labels) if class_agnostic else labels
    rank = np.empty(len(boxes), np.int64)
    rank[np.lexsort((-scores, cut))] = np.arange(len(boxes))
    near = _Near(boxes, windows)
    waiting = scores >= (min_score if kind == 'soft_nms' else -np.inf)
    # whole ones first, then the best; of equal ones the first
    heap = list(zip(cut.tolist(), (-scores).tolist(), rank.tolist(), range(len(boxes))))
    heapq.heapify(heap)
    kept = []
    while heap:
        _, score, _, i = heapq.heappop(heap)
        if not waiting[i] or -score != scores[i]:
            continue  # suppressed, or in the heap again with its lower score
        waiting[i] = False
        kept.append(i)
        others = near.of(windows[i])
        others = others[waiting[others] & (group[others] == group[i])]
        overlap = _overlaps(boxes[i], boxes[others], metric)
        rival = overlap > threshold
        others = others[rival]
        if kind == 'nms':
            waiting[others] = False
            continue
        scores[others] *= 1 - overlap[rival]
        waiting[others] = scores[others] >= min_score
        for k in others[waiting[others]].tolist():
            heapq.heappush(heap, (bool(cut[k]), -float(scores[k]), int(rank[k]), k))
    index = np.array(kept, np.int64)
    index = index[np.argsort(-scores[index], kind='stable')]
    return index, scores[index]


class _Near:
    """For each window, the detections of others that may overlap its own: those of windows whose
    detections reach into the area that its detections span. Of ten thousand detections in a large
    image that leaves some hundred to compare each one with.
    """

    def __init__(self, boxes: np.ndarray, windows: np.ndarray) -> None:
        order = np.argsort(windows, kind='stable')
        self._names, starts = np.unique(windows[order], return_index=True)
        self._members = np.split(order, starts[1:])
        self._spans = np.array(
            [[*boxes[m, :2].min(0), *boxes[m, 2:].max(0)] for m in self._members if len(m)]
        ).reshape(-1, 4)
        self._of: dict[int, np.ndarray] = {}

    def of(self, window: int) -> np.ndarray:
        """Indices (n,) of the detections."""
        if window not in self._of:
            k = np.searchsorted(self._names, window)
            x1, y1, x2, y2 = self._spans.T
            left, top, right, bottom = self._spans[k]
            meet = (x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top)
            meet[k] = False
            found = [self._members[j] for j in np.flatnonzero(meet)]
            self._of[window] = np.concatenate([np.zeros(0, np.int64), *found])
        return self._of[window]


def check_merging(metric: str, kind: str) -> None:
    """Raise a ConfigError for what :func:`merge_detections` does not know."""
    if metric not in ('iou', 'ios'):
        raise ConfigError(f"merge metric is {metric!r}; expected 'iou' or 'ios'.")
    if kind not in ('nms', 'soft_nms'):
        raise ConfigError(f"merge nms type is {kind!r}; expected 'nms' or 'soft_nms'.")


def _overlaps(box: np.ndarray, boxes: np.ndarray, metric: str) -> np.ndarray:
    """Of one box (4,) with others (n, 4); 0 where neither has an area."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    whole = np.minimum(area, areas) if metric == 'ios' else area + areas - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def place_mask(rle: dict, window: Window, height: int, width: int) -> dict:
    """Run lengths of a mask in a window as those of the whole image."""
    x1, y1, x2, y2 = window
    if (x1, y1, x2, y2) == (0, 0, width, height):
        return rle
    strip = np.zeros((height, x2 - x1), np.uint8)
    strip[y1:y2] = coco_mask.decode(rle)
    return encode_columns(strip, x1, width)
