"""RoI heads: pool, classify, refine, segment."""

from .box_head import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from .cascade import CascadeRoIHead
from .extractor import SingleRoIExtractor
from .head import RoIHead
from .htc import HybridTaskCascadeRoIHead
from .layers import DeformRoIPoolPack, ModulatedDeformRoIPoolPack, RoIAlign, RoIPool
from .mask_head import FCNMaskHead, HTCMaskHead
from .semantic import FusedSemanticHead
from .shared_head import ResLayer
from .stage import Picked, Stage
from .standard import StandardRoIHead

__all__ = [
    'CascadeRoIHead',
    'ConvFCBBoxHead',
    'DeformRoIPoolPack',
    'FCNMaskHead',
    'FusedSemanticHead',
    'HTCMaskHead',
    'HybridTaskCascadeRoIHead',
    'ModulatedDeformRoIPoolPack',
    'Picked',
    'ResLayer',
    'RoIAlign',
    'RoIHead',
    'RoIPool',
    'Shared2FCBBoxHead',
    'Shared4Conv1FCBBoxHead',
    'SingleRoIExtractor',
    'Stage',
    'StandardRoIHead',
]
