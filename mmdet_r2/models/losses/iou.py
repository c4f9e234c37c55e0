"""Losses on decoded boxes. All take (N, 4) xyxy predictions and targets in pixels."""

import math

import torch
from torch import Tensor, nn

from mmdet_r2.errors import ArgumentError, ConfigError
from mmdet_r2.models.losses.reduction import (
    check_loss_weight,
    check_reduction,
    chosen_reduction,
    reduce_loss,
)
from mmdet_r2.registry import MODELS
from mmdet_r2.structures.boxes import box_area, enclosing_box, paired_iou


class BoxLoss(nn.Module):
    """Reduction shared by the losses below, which each give one value per box."""

    def __init__(self, eps: float, reduction: str, loss_weight: float) -> None:
        super().__init__()
        self.eps = eps
        self.reduction = check_reduction(reduction)
        self.loss_weight = check_loss_weight(loss_weight)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4), (N, 4) -> (N,)."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Scalar, or (N,) with reduction 'none'; ``weight`` (N,), or (N, 4) of equal columns."""
        reduction = chosen_reduction(self.reduction, reduction_override)
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        loss = self.per_box(pred, target)
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)


@MODELS.register_module()
class IoULoss(BoxLoss):
    """``-log(IoU)``, ``1 - IoU`` or ``1 - IoU^2`` (mode 'log', 'linear', 'square';
    https://arxiv.org/abs/1608.01471).
    """

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        mode: str = 'log',
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        if mode not in ('linear', 'square', 'log'):
            raise ConfigError(f'IoULoss mode={mode!r}: expected linear, square or log')
        self.mode = 'linear' if linear else mode

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        iou = paired_iou(pred, target)[0].clamp(min=self.eps)
        if self.mode == 'log':
            return -iou.log()
        return 1 - iou if self.mode == 'linear' else 1 - iou**2


@MODELS.register_module()
class GIoULoss(BoxLoss):
    """``1 - GIoU`` (https://arxiv.org/abs/1902.09630)."""

    def __init__(
        self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__(eps, reduction, loss_weight)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        iou, union = paired_iou(pred, target, self.eps)
        hull = box_area(enclosing_box(pred, target)).clamp(min=self.eps)
        return 1 - (iou - (hull - union) / hull)


@MODELS.register_module()
class CIoULoss(BoxLoss):
    """``1 - CIoU``: overlap, centre distance and aspect ratio (https://arxiv.org/abs/1911.08287)."""

    def __init__(
        self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__(eps, reduction, loss_weight)

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        # eps is added to the union here, not its lower bound, as in CIoU's published code
        iou, union = paired_iou(pred, target, 1e-12)
        iou = iou * union / (union + self.eps)
        hull = enclosing_box(pred, target)
        diagonal = (hull[:, 2:] - hull[:, :2]).pow(2).sum(-1) + self.eps
        centre_shift = (target[:, :2] + target[:, 2:] - pred[:, :2] - pred[:, 2:]).pow(2).sum(
            -1
        ) / 4
        pred_w, pred_h = (pred[:, 2:] - pred[:, :2]).unbind(-1)
        target_w, target_h = (target[:, 2:] - target[:, :2]).unbind(-1)
        angle = torch.atan(target_w / (target_h + self.eps)) - torch.atan(
            pred_w / (pred_h + self.eps)
        )
        ratio = (4 / math.pi**2) * angle.pow(2)
        with torch.no_grad():
            alpha = (iou > 0.5).float() * ratio / (1 - iou + ratio)
        ciou = iou - (centre_shift / diagonal + alpha * ratio)
        return 1 - ciou.clamp(min=-1.0, max=1.0)


@MODELS.register_module()
class BoundedIoULoss(BoxLoss):
    """Smooth-L1 on the IoU that changing one coordinate alone would give
    (https://arxiv.org/abs/1711.00164).
    """

    def __init__(
        self,
        beta: float = 0.2,
        eps: float = 1e-3,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        if not 0 < beta < math.inf:
            raise ArgumentError('beta', f' is {beta!r}, expected a number above 0')
        self.beta = beta

    def per_box(self, pred: Tensor, target: Tensor) -> Tensor:
        pred_centre, target_centre = (
            (pred[:, :2] + pred[:, 2:]) / 2,
            (target[:, :2] + target[:, 2:]) / 2,
        )
        pred_wh = pred[:, 2:] - pred[:, :2]
        with torch.no_grad():
            target_wh = target[:, 2:] - target[:, :2]
        shift = target_centre - pred_centre
        by_centre = (target_wh - 2 * shift.abs()) / (target_wh + 2 * shift.abs() + self.eps)
        by_size = torch.minimum(target_wh / (pred_wh + self.eps), pred_wh / (target_wh + self.eps))
        cost = 1 - torch.stack([by_centre.clamp(min=0), by_size], dim=-1).flatten(1)  # (N, 4)
        return torch.where(cost < self.beta, 0.5 * cost**2 / self.beta, cost - 0.5 * self.beta)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Scalar, or (N, 4) with reduction 'none'; ``weight`` is (N, 4)."""
        reduction = chosen_reduction(self.reduction, reduction_override)
        loss = self.per_box(pred, target)
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)
