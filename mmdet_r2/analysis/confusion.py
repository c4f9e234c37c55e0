"""A picture of the confusion matrix, and mmdetection's way to count it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask

from ..errors import ConfigError
from ..evaluation.coco_backends import IGNORED, CocoData, Evaluation


def every_pair(data: CocoData, *, score_thr: float = 0.3, iou_thr: float = 0.5) -> np.ndarray:
    """The matrix as mmdetection 3.x counts it: each overlapping pair, so that an object with three
    detections counts three times, in any class; missed are those without a detection of their own
    class. Crowds, and detections of their class on them, are left out.
    """
    matrix = np.zeros((data.num_classes + 1,) * 2, np.int64)
    assert data.found.scores is not None
    found, truth = data.found, data.truth.select(np.argsort(data.truth.image, kind='stable'))
    order = np.argsort(found.image, kind='stable')
    order = order[data.found.scores[order] >= score_thr]
    ignored = Evaluation(data).verdicts(iou_thr)[0][order] == IGNORED
    found = found.select(order)
    ends = [np.searchsorted(part.image, range(len(data.sizes) + 1)) for part in (found, truth)]
    for image in range(len(data.sizes)):
        d, g = (slice(end[image], end[image + 1]) for end in ends)
        parts: list = [found.boxes[d], truth.boxes[g]]
        if data.iou_type == 'segm':
            parts = [(found.masks or [])[d], (truth.masks or [])[g]]
        crowd, det_label, gt_label = truth.crowd[g], found.label[d], truth.label[g]
        iou = coco_mask.iou(*parts, crowd.astype(np.uint8))
        shape = len(det_label), len(gt_label)
        near = (np.reshape(iou, shape) if min(shape) else np.zeros(shape)) >= iou_thr
        near &= ~crowd
        det, gt = np.nonzero(near)
        np.add.at(matrix, (gt_label[gt], det_label[det]), 1)
        np.add.at(matrix[-1], det_label[~near.any(axis=1) & ~ignored[d]], 1)
        named = (near & (det_label[:, None] == gt_label)).any(axis=0)
        np.add.at(matrix[:, -1], gt_label[~named & ~crowd], 1)
    return matrix


def normalised(matrix: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum, in [0, 1]; a row of zeros stays."""
    sums = matrix.sum(axis=1, keepdims=True)
    return matrix / np.maximum(sums, 1)


def plot_confusion(
    matrix: np.ndarray,
    classes: Sequence[str],
    *,
    title: str = 'Confusion matrix',
    color_theme: str = 'plasma',
) -> Figure:
    """Rows are what is annotated, columns what was found, in percent of the row.

    Args:
        matrix: (K + 1, K + 1) of :func:`~mmdet_r2.evaluation.coco_backends.Evaluation.confusion`.
        classes: K names.
        title: above it.
        color_theme: name of a matplotlib colour map.

    Raises:
        ConfigError: there is no such colour map.
    """
    from matplotlib import colormaps

    if color_theme not in colormaps:
        raise ConfigError(
            f'--color-theme {color_theme}: not known to matplotlib; try plasma, viridis or Blues.'
        )
    percent = 100 * normalised(matrix)
    size = len(matrix)
    cell = float(np.clip(24 / size, 0.02, 0.5))  # inches
    side = max(5.0, cell * size)
    figure = Figure(figsize=(side + 2, side + 1.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap=color_theme, vmin=0, vmax=100)
    figure.colorbar(
        image,
        ax=axes,
        label='% of the row',
        aspect=4 * side,
        fraction=0.5 / side,
        pad=0.25 / side,
    )
    # of very many classes only as many are named as there is room for
    names = np.array([*classes, 'background'])
    named = np.arange(size)[:: int(np.ceil(0.12 / cell))]
    axes.set_xticks(named, names[named], rotation=90, fontsize=9)
    axes.set_yticks(named, names[named], fontsize=9)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position('top')
    large = max(10.0, 0.7 * side)
    axes.set_xlabel('found', fontsize=large)
    axes.set_ylabel('annotated', fontsize=large)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which='minor', linewidth=min(0.3, cell), color='white', alpha=0.5)
    axes.tick_params(which='minor', length=0)
    if cell >= 0.2:
        for i, j in zip(*np.nonzero(matrix)):
            red, green, blue, _ = image.cmap(image.norm(percent[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                j,
                i,
                f'{percent[i, j]:.0f}',
                ha='center',
                va='center',
                fontsize=min(8, 26 * cell),
                color='white' if dark else 'black',
            )
    axes.set_title(title, fontsize=1.2 * large)
    return figure
