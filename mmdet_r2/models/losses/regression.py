"""L1 and smooth-L1 losses on box deltas."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_r2.errors import ArgumentError
from mmdet_r2.models.losses.reduction import (
    check_loss_weight,
    check_reduction,
    chosen_reduction,
    reduce_loss,
)
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class L1Loss(nn.Module):
    """Absolute difference."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.loss_weight = check_loss_weight(loss_weight)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """(N, 4), (N, 4) -> scalar, or (N, 4) with reduction 'none'."""
        reduction = chosen_reduction(self.reduction, reduction_override)
        loss = (pred - target).abs()
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)


@MODELS.register_module()
class SmoothL1Loss(nn.Module):
    """``0.5 d^2 / beta`` below ``beta``, ``d - 0.5 beta`` above (https://arxiv.org/abs/1504.08083)."""

    def __init__(
        self, beta: float = 1.0, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ArgumentError('beta', f' is {beta!r}, expected a number above 0 (0: L1Loss)')
        self.beta = beta
        self.reduction = check_reduction(reduction)
        self.loss_weight = check_loss_weight(loss_weight)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """(N, 4), (N, 4) -> scalar, or (N, 4) with reduction 'none'."""
        reduction = chosen_reduction(self.reduction, reduction_override)
        target = target.to(torch.promote_types(pred.dtype, target.dtype))
        loss = F.smooth_l1_loss(pred.to(target.dtype), target, reduction='none', beta=self.beta)
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)
