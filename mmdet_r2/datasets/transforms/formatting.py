"""The end of a pipeline: arrays become tensors, and the ground truth a :class:`DetDataSample`."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mmdet_r2.registry import TRANSFORMS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks

MaskSet = BitmapMasks | PolygonMasks

_INSTANCE_FIELDS = dict(gt_bboxes='bboxes', gt_bboxes_labels='labels', gt_masks='masks')


def image_to_tensor(img: np.ndarray) -> Tensor:
    """(H, W, C) or (H, W) array -> contiguous (C, H, W) tensor of the same dtype, a copy."""
    if img.ndim == 2:
        img = img[..., None]
    planes = np.empty((img.shape[2], *img.shape[:2]), dtype=img.dtype)
    if img.shape[2] > 1:
        # cv2 separates interleaved channels with vector instructions, ten times numpy's speed.
        cv2.split(np.ascontiguousarray(img), list(planes))
    else:
        planes[0] = img[..., 0]
    return torch.from_numpy(planes)


@TRANSFORMS.register_module()
class PackDetInputs(BaseTransform):
    """Pack ``results`` into ``dict(inputs=tensor, data_samples=DetDataSample)``.

    ``inputs`` is the image, (3, H, W), uint8 unless a transform made it float. Instances whose
    ignore flag is set go to ``ignored_instances``, the others to ``gt_instances``; both exist, with
    shapes (0, 4) and so on, where ground truth was loaded.

    Args:
        meta_keys: what to keep in the metainfo of the sample, where ``results`` has it.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        ),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """The packed sample."""
        packed = {}
        if 'img' in results:
            packed['inputs'] = image_to_tensor(results['img'])
        sample = DetDataSample()
        kept, ignored = InstanceData(), InstanceData()
        for key, name in _INSTANCE_FIELDS.items():
            value = results.get(key)
            if value is None:
                continue
            flags = results.get('gt_ignore_flags', np.zeros(len(value), dtype=bool))
            # Most images have nothing to ignore, and copying the bitmaps would cost milliseconds.
            kept[name] = _pack(value if not flags.any() else value[~flags])
            ignored[name] = _pack(value[flags])
        sample.gt_instances = kept
        sample.ignored_instances = ignored
        if results.get('proposals') is not None:
            sample.proposals = InstanceData(
                bboxes=torch.from_numpy(np.ascontiguousarray(results['proposals'])),
                scores=torch.from_numpy(np.ascontiguousarray(results['proposals_scores'])),
            )
        if results.get('gt_seg_map') is not None:
            seg_map = torch.from_numpy(np.array(results['gt_seg_map'][None]))  # (1, H, W)
            meta = {k: results[k] for k in ('ignore_index',) if k in results}
            sample.gt_sem_seg = PixelData(sem_seg=seg_map, metainfo=meta)
        sample.set_metainfo({key: results[key] for key in self.meta_keys if key in results})
        packed['data_samples'] = sample
        return packed

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'


def _pack(value: np.ndarray | MaskSet) -> Tensor | MaskSet:
    """Arrays as tensors; masks as they are."""
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
