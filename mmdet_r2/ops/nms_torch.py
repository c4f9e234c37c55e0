"""NMS and soft-NMS in torch and numpy alone, the base where no compiled operator is used.

Hard suppression goes through the boxes in blocks by descending score: inside a block the greedy
rule is solved for all boxes at once, then the block's kept boxes strike out what follows. Equal to
mmcv's operators; boxes of equal score may change places.
"""

import numpy as np
import torch
from torch import Tensor

_BLOCK = 128


def nms_torch(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (k,) of the boxes (n, 4) xyxy that are kept, by descending score (n,)."""
    order = scores.argsort(descending=True, stable=True)
    ends = boxes[order].t().contiguous()  # (4, n)
    ends[2:] += offset
    kept = []
    while len(order):
        suppressed = _overlap(ends[:, :_BLOCK], ends[:, :_BLOCK], iou_threshold)
        kept_here = _solve(suppressed.triu_(1))
        kept.append(order[:_BLOCK][kept_here])
        order, rest = order[_BLOCK:], ends[:, _BLOCK:]
        free = ~_overlap(ends[:, :_BLOCK][:, kept_here], rest, iou_threshold).any(0)
        order, ends = order[free], rest[:, free]
    return torch.cat(kept) if kept else order


def _overlap(a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether the IoU of (4, m) and (4, n) is above the threshold: (m, n) bool."""
    a = a[:, :, None]
    width = torch.minimum(a[2], b[2]).sub_(torch.maximum(a[0], b[0])).clamp_(min=0)
    height = torch.minimum(a[3], b[3]).sub_(torch.maximum(a[1], b[1])).clamp_(min=0)
    inter = width.mul_(height)
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return inter.div_((area_a + area_b).sub_(inter)) > iou_threshold


def _solve(suppresses: Tensor) -> Tensor:
    """Which boxes (m,) the greedy rule keeps, of (m, m): row suppresses column, above the diagonal.

    A box is kept when no kept box suppresses it. Applied to all boxes again and again this settles
    at least one more box each time, mostly all of them in a few.
    """
    matrix = suppresses.float()
    kept = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    while True:
        now = kept.float() @ matrix == 0
        if torch.equal(now, kept):
            return kept
        kept = now


def soft_nms_numpy(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """Decayed scores (k,) and indices (k,) by descending score; see ``ops.soft_nms``.

    One step per kept box, vectorised over the others.
    """
    x1, y1, x2, y2 = boxes.detach().cpu().float().numpy().T
    live = np.stack([x1, y1, x2 + offset, y2 + offset])
    score = scores.detach().cpu().float().numpy().copy()
    area = (live[2] - live[0]) * (live[3] - live[1])
    index = np.arange(len(score))
    kept, kept_scores = [], []
    while len(index):
        best = score.argmax()
        kept.append(index[best])
        kept_scores.append(score[best])
        box, own_area = live[:, best], area[best]
        width = np.minimum(live[2], box[2]) - np.maximum(live[0], box[0])
        height = np.minimum(live[3], box[3]) - np.maximum(live[1], box[1])
        inter = width.clip(0) * height.clip(0)
        with np.errstate(invalid='ignore'):  # two boxes without area
            iou = inter / (own_area + area - inter)
        if method == 'gaussian':
            score *= np.exp(-(iou * iou) / np.float32(sigma))
        else:
            decayed = 1 - iou if method == 'linear' else np.zeros_like(iou)
            score *= np.where(iou >= np.float32(iou_threshold), decayed, 1)
        score[best] = -np.inf
        stays = ~(score < min_score)
        stays[best] = False
        if not stays.all():
            live, area = live[:, stays], area[stays]
            score, index = score[stays], index[stays]
    return (
        torch.from_numpy(np.array(kept_scores, np.float32)).to(scores),
        torch.from_numpy(np.array(kept, np.int64)).to(boxes.device),
    )
