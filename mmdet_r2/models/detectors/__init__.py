"""Whole detectors."""

from .panoptic_fpn import PanopticFPN
from .rpn import RPN
from .two_stage import TwoStageDetector

__all__ = ['RPN', 'PanopticFPN', 'TwoStageDetector']
