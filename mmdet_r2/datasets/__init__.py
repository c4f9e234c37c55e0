"""From files on the disk to batches of :class:`~mmdet_r2.structures.DetDataSample`.

mmengine's RepeatDataset and DefaultSampler are found through the registry.
"""

from . import transforms
from .coco import CocoDataset
from .coco_panoptic import CocoPanopticDataset
from .custom import CustomDataset
from .image_annotations import ImageAnnotations
from .metainfo import COCO_METAINFO, COCO_PANOPTIC_METAINFO, VOC_METAINFO
from .samplers import AspectRatioBatchSampler
from .voc import VOCDataset, XMLDataset
from .wrappers import ClassBalancedDataset, ConcatDataset

__all__ = [
    'CocoDataset',
    'CocoPanopticDataset',
    'CustomDataset',
    'ImageAnnotations',
    'VOCDataset',
    'XMLDataset',
    'ClassBalancedDataset',
    'ConcatDataset',
    'AspectRatioBatchSampler',
    'COCO_METAINFO',
    'COCO_PANOPTIC_METAINFO',
    'VOC_METAINFO',
    'transforms',
]
