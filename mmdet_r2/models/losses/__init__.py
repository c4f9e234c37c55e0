"""Losses: ``loss(pred, target, weight=None, avg_factor=None)``, one reduction for all."""

from .cross_entropy import CrossEntropyLoss, accuracy, build_box_loss, build_loss
from .iou import BoundedIoULoss, CIoULoss, GIoULoss, IoULoss
from .regression import L1Loss, SmoothL1Loss

__all__ = [
    'BoundedIoULoss',
    'CIoULoss',
    'CrossEntropyLoss',
    'GIoULoss',
    'IoULoss',
    'L1Loss',
    'SmoothL1Loss',
    'accuracy',
    'build_box_loss',
    'build_loss',
]
