"""From files on the disk to batches of :class:`~mmdet_r2.structures.DetDataSample`.

mmengine's ConcatDataset, RepeatDataset, ClassBalancedDataset and DefaultSampler are found through
the registry.
"""

from . import transforms
from .coco import CocoDataset
from .coco_panoptic import CocoPanopticDataset
from .custom import CustomDataset
from .image_annotations import ImageAnnotations
from .metainfo import COCO_METAINFO, COCO_PANOPTIC_METAINFO
from .samplers import AspectRatioBatchSampler

__all__ = [
    'CocoDataset',
    'CocoPanopticDataset',
    'CustomDataset',
    'ImageAnnotations',
    'AspectRatioBatchSampler',
    'COCO_METAINFO',
    'COCO_PANOPTIC_METAINFO',
    'transforms',
]
