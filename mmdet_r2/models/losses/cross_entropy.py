"""Cross entropy: softmax over classes, sigmoid per class, or binary on the masks of the target
class.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_r2.errors import ArgumentError, ConfigError
from mmdet_r2.models.losses.iou import BoxLoss
from mmdet_r2.models.losses.reduction import (
    check_loss_weight,
    check_reduction,
    chosen_reduction,
    reduce_loss,
)
from mmdet_r2.models.losses.regression import L1Loss, SmoothL1Loss
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Cross entropy in the three forms the detectors use.

    Args:
        use_sigmoid: independent binary losses; an integer label k is the one-hot row of k, and
            every label outside ``[0, channels)`` (background) is a row of zeros.
        use_mask: binary loss of each RoI's mask logits against its 0/1 target, averaged over RoIs
            and pixels.
        class_weight: weight per class (softmax) or channel (sigmoid).
        ignore_index: label left out; -100 by default.
        avg_non_ignore: without ``avg_factor``, average over elements that are not ignored instead
            of over all.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = 'mean',
        class_weight: list[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid and use_mask:
            raise ConfigError('CrossEntropyLoss: use_sigmoid and use_mask exclude each other')
        if use_mask and (ignore_index is not None or class_weight is not None):
            raise ConfigError(
                'CrossEntropyLoss: use_mask takes no ignore_index and no class_weight'
            )
        if class_weight is not None:
            weights = [float(weight) for weight in class_weight]
            if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
                raise ArgumentError(
                    'class_weight', f' is {class_weight!r}, expected numbers from 0, not all 0'
                )
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.reduction = check_reduction(reduction)
        self.class_weight = class_weight
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.loss_weight = check_loss_weight(loss_weight)
        self.avg_non_ignore = avg_non_ignore

    def check(self, name: str, channels: int, form: str, said: str = '') -> None:
        """Raise unless the loss is one for a head.

        Args:
            name: of the head's argument that it is built from.
            channels: of the head's logits.
            form: that the head needs: 'labels' (softmax or sigmoid), 'sigmoid', 'map' (softmax), or
                'masks'.
            said: what the channels are.

        Raises:
            ArgumentError: it is of another form, or has another number of class weights.
        """
        if self.use_mask != (form == 'masks'):
            raise ArgumentError(f'{name}.use_mask', f' is {self.use_mask} in a head of {form}')
        if form in ('sigmoid', 'map') and self.use_sigmoid != (form == 'sigmoid'):
            wanted = not self.use_sigmoid
            raise ArgumentError(
                f'{name}.use_sigmoid', f' is {self.use_sigmoid}, expected {wanted}{said}'
            )
        if self.class_weight is not None and len(self.class_weight) != channels:
            number = len(self.class_weight)
            raise ArgumentError(
                f'{name}.class_weight',
                f' has {number} number{"s" if number != 1 else ""}, expected {channels}{said}',
            )

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Scalar loss (elementwise with reduction 'none').

        Args:
            pred: logits. Softmax: (N, C, ...); sigmoid: (N, C); mask: (R, h, w) of each RoI's own
                class.
            target: softmax: (N, ...) int64; sigmoid: (N,) int64 labels or (N, C) 0/1; mask: (R, h,
                w) 0/1.
            weight: (N,) or the shape of the elementwise loss.
            reduction_override, ignore_index: instead of the constructor's.
        """
        reduction = chosen_reduction(self.reduction, reduction_override)
        ignored = self.ignore_index if ignore_index is None else ignore_index
        if self.use_mask:
            loss = F.binary_cross_entropy_with_logits(pred, target.to(pred), reduction='none')
        elif self.use_sigmoid:
            loss, weight = self._sigmoid(pred, target, weight, ignored)
        else:
            class_weight = pred.new_tensor(self.class_weight) if self.class_weight else None
            loss = F.cross_entropy(
                pred, target, class_weight, reduction='none', ignore_index=ignored
            )
            if weight is not None:
                weight = weight.to(loss)
        if avg_factor is None and self.avg_non_ignore and reduction == 'mean':
            kept = target != ignored
            avg_factor = kept.sum() * (loss.numel() / max(target.numel(), 1))
        if self.use_mask and avg_factor is None and loss.numel() == 0:
            return self.loss_weight * loss.sum()  # no RoI: zero that still reaches every parameter
        return self.loss_weight * reduce_loss(loss, weight, reduction, avg_factor)

    def _sigmoid(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, ignored: int
    ) -> tuple[Tensor, Tensor]:
        """Elementwise binary loss (N, C) and its weight (N, C)."""
        if target.dim() != pred.dim():
            valid = (target >= 0) & (target != ignored)
            channels = torch.arange(pred.shape[1], device=target.device)
            one_hot = (target[:, None] == channels) & valid[:, None]
            valid_weight = valid[:, None].to(pred).expand_as(pred)
        else:
            one_hot = target
            valid_weight = ((target >= 0) & (target != ignored)).to(pred)
        if weight is not None:
            weight = weight.to(pred)
            valid_weight = valid_weight * (weight[:, None] if weight.dim() < pred.dim() else weight)
        pos_weight = pred.new_tensor(self.class_weight) if self.class_weight else None
        loss = F.binary_cross_entropy_with_logits(
            pred, one_hot.to(pred), pos_weight=pos_weight, reduction='none'
        )
        return loss, valid_weight


def build_loss(
    config: dict, name: str, channels: int, form: str = 'labels', said: str = ''
) -> nn.Module:
    """The classification loss of a head, built and compared with it; see
    :meth:`CrossEntropyLoss.check`. Of losses of other classes only the kind is compared."""
    loss = _built(config, name)
    if isinstance(loss, CrossEntropyLoss):
        loss.check(name, channels, form, said)
    elif isinstance(loss, (L1Loss, SmoothL1Loss, BoxLoss)):
        raise ArgumentError(f'{name}.type', f' is {type(loss).__name__}, a loss of boxes')
    return loss


def build_box_loss(config: dict, name: str, decoded: bool) -> nn.Module:
    """The regression loss of a head, built and compared with it.

    Args:
        name: of the head's argument.
        decoded: whether it sees boxes (``reg_decoded_bbox``); else deltas.

    Raises:
        ArgumentError: it is a loss of classes, or one of boxes that would see deltas.
    """
    loss = _built(config, name)
    kind = type(loss).__name__
    if isinstance(loss, CrossEntropyLoss):
        raise ArgumentError(f'{name}.type', f' is {kind}, a loss of classes')
    if isinstance(loss, BoxLoss) and not decoded:
        raise ArgumentError(f'{name}.type', f' is {kind}, which needs reg_decoded_bbox=True')
    return loss


def _built(config: dict, name: str) -> nn.Module:
    loss = MODELS.build(config)
    if getattr(loss, 'reduction', '') == 'sum':
        problem = " is 'sum', but heads average over what they sampled: expected 'mean'"
        raise ArgumentError(f'{name}.reduction', problem)
    return loss


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows, in percent, whose largest logit is the label: (N, C), (N,) -> (1,); 0 for N =
    0.
    """
    if logits.shape[0] == 0:
        return logits.new_zeros(1)
    return (logits.argmax(1) == labels).float().mean().mul(100)[None]
