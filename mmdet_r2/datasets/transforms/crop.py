"""Random cropping of images, boxes, masks and semantic maps together."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import TRANSFORMS

_TYPES = ('absolute', 'absolute_range', 'relative', 'relative_range')


@TRANSFORMS.register_module()
class RandomCrop(BaseTransform):
    """Cut a random window out of the image; instances without area inside it are dropped.

    Args:
        crop_size: (width, height) for 'absolute' and 'relative'; see ``crop_type``.
        crop_type: 'absolute': ``crop_size`` in pixels, at most the image. 'absolute_range': height
            and width are drawn from crop_size[0] to crop_size[1] pixels. 'relative': fractions of
            the image. 'relative_range': (height, width) fractions, each drawn from its number to 1.
        allow_negative_crop: keep a crop without any instance; otherwise None is returned, and the
            data set picks another image.
        recompute_bbox: take boxes from the cropped masks.
        bbox_clip_border: cut boxes to the crop.
    """

    def __init__(
        self,
        crop_size: tuple[float, float],
        crop_type: str = 'absolute',
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        if crop_type not in _TYPES:
            raise ConfigError(
                f'RandomCrop.crop_type is {crop_type!r}, expected one of {", ".join(_TYPES)}'
            )
        first, second = crop_size
        if crop_type.startswith('absolute'):
            valid = isinstance(first, int) and isinstance(second, int) and min(first, second) > 0
            valid = valid and (crop_type == 'absolute' or first <= second)
        else:
            valid = 0 < first <= 1 and 0 < second <= 1
        if not valid:
            raise ConfigError(f'RandomCrop.crop_size {crop_size} does not suit {crop_type!r}')
        self.crop_size = (first, second)
        self.crop_type = crop_type
        self.allow_negative_crop = allow_negative_crop
        self.recompute_bbox = recompute_bbox
        self.bbox_clip_border = bbox_clip_border

    def transform(self, results: dict) -> dict | None:
        """``results`` inside the window, or None for a window without instances."""
        height, width = results['img'].shape[:2]
        crop_h, crop_w = self._crop_shape((height, width))
        top, left = self._offset((max(height - crop_h, 0), max(width - crop_w, 0)))
        window = (slice(top, top + crop_h), slice(left, left + crop_w))
        results['img'] = results['img'][window]
        results['img_shape'] = results['img'].shape[:2]
        if results.get('gt_bboxes') is not None and not self._crop_instances(results, top, left):
            return None
        if results.get('gt_seg_map') is not None:
            results['gt_seg_map'] = results['gt_seg_map'][window]
        return results

    def _crop_instances(self, results: dict, top: int, left: int) -> bool:
        """Crop boxes and masks and drop what is outside; False when the crop is to be refused."""
        height, width = results['img_shape']
        limit = np.array([width, height, width, height], dtype=np.float32)
        boxes = results['gt_bboxes'] - np.array([left, top, left, top], dtype=np.float32)
        if self.bbox_clip_border:
            boxes = np.clip(boxes, 0, limit)
        inside = (boxes[:, :2] < limit[:2]).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
        if not inside.any() and not self.allow_negative_crop:
            return False
        results['gt_bboxes'] = boxes[inside]
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            if results.get(key) is not None:
                results[key] = results[key][inside]
        if results.get('gt_masks') is not None:
            window = np.array([left, top, left + width, top + height])
            results['gt_masks'] = results['gt_masks'][inside].crop(window)
            if self.recompute_bbox:
                results['gt_bboxes'] = results['gt_masks'].get_bboxes()
        return True

    @cache_randomness
    def _crop_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the window; draws from numpy's generator in mmdetection's order."""
        height, width = shape
        first, second = self.crop_size
        if self.crop_type == 'absolute':
            return min(int(second), height), min(int(first), width)
        if self.crop_type == 'absolute_range':
            least, most = int(first), int(second)
            crop_h = np.random.randint(min(height, least), min(height, most) + 1)
            crop_w = np.random.randint(min(width, least), min(width, most) + 1)
            return int(crop_h), int(crop_w)
        if self.crop_type == 'relative':
            return int(height * second + 0.5), int(width * first + 0.5)
        smallest = np.array(self.crop_size, dtype=np.float32)
        part_h, part_w = smallest + np.random.rand(2) * (1 - smallest)
        return int(height * part_h + 0.5), int(width * part_w + 0.5)

    @cache_randomness
    def _offset(self, margin: tuple[int, int]) -> tuple[int, int]:
        """(top, left) of the window."""
        top = np.random.randint(0, margin[0] + 1)
        left = np.random.randint(0, margin[1] + 1)
        return int(top), int(left)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, crop_type={self.crop_type!r}, '
            f'allow_negative_crop={self.allow_negative_crop}, '
            f'recompute_bbox={self.recompute_bbox}, bbox_clip_border={self.bbox_clip_border})'
        )
