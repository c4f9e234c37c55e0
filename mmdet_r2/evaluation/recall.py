"""How many of an image's objects its best proposals cover: boxes paired greedily by IoU."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from .image_result import ImageResult


def top_boxes(image: ImageResult, number: int) -> np.ndarray:
    """The ``number`` best boxes of an image, (k, 4) x, y, width, height."""
    order = np.argsort(-image.scores, kind='stable')[:number]
    boxes = image.bboxes[order].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def greedy_iou(boxes: np.ndarray, truth: Sequence[Sequence[float]]) -> np.ndarray:
    """IoU of each object with the proposal it is paired with, best pair first; (g,), 0 where no
    proposal is left.
    """
    best = np.zeros(len(truth))
    if not len(truth) or not len(boxes):
        return best
    iou = coco_mask.iou(boxes, np.asarray(truth, np.float64), [0] * len(truth))  # (k, g)
    for i in range(min(len(boxes), len(truth))):
        proposal, target = np.unravel_index(iou.argmax(), iou.shape)
        best[i] = iou[proposal, target]
        iou[proposal] = -1
        iou[:, target] = -1
    return best
