"""The one way a loss is weighted and averaged."""

import math

import torch
from torch import Tensor

from mmdet_r2.errors import ArgumentError

REDUCTIONS = ('none', 'mean', 'sum')


def check_reduction(reduction: str) -> str:
    """``reduction`` itself, or ValueError naming the choices."""
    if reduction not in REDUCTIONS:
        raise ArgumentError(
            'reduction', f' is {reduction!r}, expected one of {", ".join(REDUCTIONS)}'
        )
    return reduction


def chosen_reduction(reduction: str, override: str | None) -> str:
    """What one call of a loss is reduced by: ``override`` if there is one, which is checked."""
    return reduction if override is None else check_reduction(override)


def check_loss_weight(loss_weight: float) -> float:
    """``loss_weight`` itself, or an error: a number from 0 is expected."""
    number = isinstance(loss_weight, (int, float)) and not isinstance(loss_weight, bool)
    if not number or not 0 <= loss_weight < math.inf:
        raise ArgumentError('loss_weight', f' is {loss_weight!r}, expected a number from 0')
    return loss_weight


def reduce_loss(
    loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: Tensor | float | None
) -> Tensor:
    """Elementwise ``loss`` times ``weight``, reduced.

    With ``avg_factor`` the 'mean' is the sum divided by it, whatever the number of elements: that
    is how the detectors normalise by sampled boxes. The machine epsilon in the divisor is
    mmdetection's, and keeps an empty batch finite.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if reduction == 'sum':
        if avg_factor is not None:
            raise ValueError('avg_factor cannot be combined with reduction="sum"')
        return loss.sum()
    if avg_factor is None:
        return loss.mean()
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)
