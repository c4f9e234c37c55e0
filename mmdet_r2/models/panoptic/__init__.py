"""Panoptic segmentation: a semantic branch beside the instances, and one map made of both."""

from .fusion import HeuristicFusionHead
from .semantic import PanopticFPNHead

__all__ = ['HeuristicFusionHead', 'PanopticFPNHead']
