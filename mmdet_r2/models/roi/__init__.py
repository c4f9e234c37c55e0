"""RoI heads: pool, classify, refine, segment."""

from .box_head import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from .extractor import SingleRoIExtractor
from .mask_head import FCNMaskHead
from .stage import Picked, Stage
from .standard import StandardRoIHead

__all__ = [
    'ConvFCBBoxHead',
    'FCNMaskHead',
    'Picked',
    'Shared2FCBBoxHead',
    'Shared4Conv1FCBBoxHead',
    'SingleRoIExtractor',
    'Stage',
    'StandardRoIHead',
]
