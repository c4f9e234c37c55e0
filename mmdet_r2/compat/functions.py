"""What mmdetection 3.x's code imports besides components: versions, helpers, types."""

from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ..apis.inference import test_transforms
from ..config import load_config
from ..datasets import CocoDataset, metainfo
from ..models.detectors import TwoStageDetector
from ..registry import init_scope
from ..structures import DetDataSample
from ..structures.boxes import box_iou
from ..structures.boxes import boxes_to_rois as bbox2roi  # noqa: F401
from ..structures.masks import encode_rle as encode_mask_results  # noqa: F401
from ..structures.panoptic import INSTANCE_OFFSET  # noqa: F401

#: mmdetection's version whose names these are.
__version__ = version = '3.3.0'
version_info = (3, 3, 0)

BaseDetector = TwoStageDetector
BaseDetDataset = CocoDataset
ConfigType = ConfigDict | dict
MultiConfig = ConfigType | list[ConfigType]
OptConfigType = ConfigType | None
OptMultiConfig = MultiConfig | None
InstanceList = list[InstanceData]
OptInstanceList = InstanceList | None
PixelList = list[PixelData]
OptPixelList = PixelList | None
SampleList = list[DetDataSample]
OptSampleList = SampleList | None
ForwardResults = dict[str, Tensor] | list[DetDataSample] | tuple[Tensor, ...] | Tensor


def register_all_modules(init_default_scope: bool = True) -> None:
    """Components register themselves; makes ours the current scope."""
    if init_default_scope:
        init_scope()


def setup_cache_size_limit_of_dynamo() -> None:
    """mmdetection's scripts call it; nothing is to be done."""


def get_test_pipeline_cfg(cfg: str | Config) -> list[dict]:
    """The transforms of a config's test data."""
    return list(test_transforms(cfg if isinstance(cfg, Config) else load_config(cfg)))


def get_classes(dataset: str) -> list[str]:
    """Names of the classes of ``'coco'``, ``'coco_panoptic'`` or ``'voc'``."""
    known: dict[str, Any] = {
        'coco': metainfo.COCO_METAINFO,
        'coco_panoptic': metainfo.COCO_PANOPTIC_METAINFO,
        'voc': metainfo.VOC_METAINFO,
    }
    if dataset not in known:
        raise ValueError(f'get_classes({dataset!r}): expected one of {", ".join(known)}')
    return list(known[dataset]['classes'])


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor) -> Tensor:
    """IoU of all pairs: (n, 4), (m, 4) -> (n, m)."""
    return box_iou(bboxes1, bboxes2)
