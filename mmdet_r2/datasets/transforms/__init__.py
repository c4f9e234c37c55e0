"""Transforms of one image and its ground truth, in the order a pipeline uses them.

mmcv's RandomResize, RandomChoiceResize, RandomApply and the like are found through the registry.
"""

from ..image_contents import UnreadableImageError, UnsupportedImageError
from .crop import RandomCrop
from .formatting import PackDetInputs
from .geometric import Pad, RandomFlip, Resize, ResizeShortestEdge
from .legacy import PixelBoxes
from .loading import (
    FilterAnnotations,
    InferencerLoader,
    LoadAnnotations,
    LoadImageFromFile,
    LoadImageFromNDArray,
)
from .panoptic import LoadPanopticAnnotations
from .photometric import PhotoMetricDistortion
from .proposals import LoadProposals, ProposalBroadcaster

__all__ = [
    'InferencerLoader',
    'LoadImageFromFile',
    'LoadImageFromNDArray',
    'LoadAnnotations',
    'LoadPanopticAnnotations',
    'LoadProposals',
    'ProposalBroadcaster',
    'FilterAnnotations',
    'Resize',
    'ResizeShortestEdge',
    'RandomFlip',
    'RandomCrop',
    'Pad',
    'PhotoMetricDistortion',
    'PixelBoxes',
    'PackDetInputs',
    'UnreadableImageError',
    'UnsupportedImageError',
]
