"""Random cropping of images, boxes, masks and semantic maps together."""

import math

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
        around_instance: the window contains the centre of one randomly chosen box, of ignored ones
            too, as in detectron2 (whose window may miss the centre by a fraction of a pixel). An
            image without boxes is cropped anywhere.
    """

    def __init__(
        self,
        crop_size: tuple[float, float],
        crop_type: str = 'absolute',
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
        around_instance: bool = False,
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
        self.around_instance = around_instance

    def transform(self, results: dict) -> dict | None:
        """``results`` inside the window, or None for a window without instances."""
        height, width = results['img'].shape[:2]
        crop_h, crop_w = self._crop_shape((height, width))
        low, high = (0, 0), (max(height - crop_h, 0), max(width - crop_w, 0))
        if self.around_instance and len(results['gt_bboxes']):
            center = self._center(results['gt_bboxes'])
            low, high = _containing(center, (crop_h, crop_w), high)
        top, left = self._offset(low, high)
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
    def _center(self, boxes: np.ndarray) -> tuple[float, float]:
        """Centre (y, x) of one of the boxes (n, 4) xyxy."""
        x1, y1, x2, y2 = boxes[np.random.choice(len(boxes))].tolist()
        return (y1 + y2) / 2, (x1 + x2) / 2

    @cache_randomness
    def _offset(self, low: tuple[int, int], high: tuple[int, int]) -> tuple[int, int]:
        """(top, left) of the window, between two corners inclusively."""
        top = np.random.randint(low[0], high[0] + 1)
        left = np.random.randint(low[1], high[1] + 1)
        return int(top), int(left)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, crop_type={self.crop_type!r}, '
            f'allow_negative_crop={self.allow_negative_crop}, '
            f'recompute_bbox={self.recompute_bbox}, bbox_clip_border={self.bbox_clip_border}, '
            f'around_instance={self.around_instance})'
        )


def _containing(
    center: tuple[float, float], window: tuple[int, int], margin: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The least and the largest (top, left) of a window of this size that contains the point, as
    far as the image, which ends ``margin`` below and right of the window, allows.
    """
    ranges = []
    for point, size, most in zip(center, window, margin, strict=True):
        least = min(max(math.ceil(point - size), 0), most)
        ranges.append((least, max(min(math.floor(point), most), least)))
    (top, bottom), (left, right) = ranges
    return (top, left), (bottom, right)
