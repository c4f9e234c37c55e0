"""Whole detectors."""

from .panoptic_fpn import PanopticFPN
from .two_stage import TwoStageDetector

__all__ = ['PanopticFPN', 'TwoStageDetector']
