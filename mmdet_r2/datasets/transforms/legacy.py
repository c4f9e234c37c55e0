"""The end of a pipeline for detectors that count pixels, as those of 2018 and 2019 did."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import TRANSFORMS
from mmdet_r2.structures.masks import PolygonMasks

# A box of exactly one pixel has no extent between its first and last column; float32 leaves it a
# few ten-thousandths at coordinates around 1000. The next larger box of COCO has 0.01 pixels.
_NO_EXTENT = 5e-4


@TRANSFORMS.register_module()
class PixelBoxes(BaseTransform):
    """Turn ``gt_bboxes`` into those of a loader that counts pixels; comes right before packing.

    Such a loader takes COCO's x, y, w, h for x1 = x, x2 = x + w - 1, the last column inside, scales
    both with the image, and mirrors by x -> W - x - 1, polygons too. In terms of the boxes that
    arrive here, whose edges lie between pixels, with the image's factor s and width W:
    x2 - s, or in a flipped image x1 + s - 1 and x2 - 1; y alike, without the mirror.

    Reads ``img_shape``, ``scale_factor`` and ``flip``: of loading, one resize and RandomFlip. The
    two originals differ where a box meets the border:

    * 'maskrcnn_benchmark' cuts to the image before it resizes, and drops boxes then no wider or
      higher than one pixel. An image that loses all its boxes so gives None: the data set puts
      another in its place, as the original leaves such images out.
    * 'mmdet1' cuts after resizing, to W - 1, and keeps every box. It needs boxes not cut before:
      ``Resize(clip_object_border=False, exact_factor=True)``.

    Args:
        rule: 'maskrcnn_benchmark' or 'mmdet1'.
    """

    def __init__(self, rule: str = 'maskrcnn_benchmark') -> None:
        if rule not in ('maskrcnn_benchmark', 'mmdet1'):
            raise ConfigError(
                f"PixelBoxes.rule is {rule!r}, expected 'maskrcnn_benchmark' or 'mmdet1'"
            )
        self.rule = rule

    def transform(self, results: dict) -> dict | None:
        """``results`` with boxes, and in a flipped image polygons, as such a loader gives them."""
        flipped = bool(results.get('flip'))
        if flipped and results.get('flip_direction') != 'horizontal':
            raise ConfigError(
                f'PixelBoxes: an image was flipped {results.get("flip_direction")}ly, and the '
                f"originals have no such rule; set RandomFlip(direction='horizontal')"
            )
        height, width = results['img_shape']
        scale = np.array(results.get('scale_factor', (1.0, 1.0)), dtype=np.float64)
        size = np.array([width, height], dtype=np.float64)
        first, last = results['gt_bboxes'].astype(np.float64).reshape(-1, 2, 2).transpose(1, 0, 2)
        if flipped:  # the cut is made before the flip
            first[:, 0], last[:, 0] = width - last[:, 0], width - first[:, 0]
        last = last - scale
        limit = size - (scale if self.rule == 'maskrcnn_benchmark' else 1)
        first, last = np.clip(first, 0, limit), np.clip(last, 0, limit)
        keep = ((last - first) > _NO_EXTENT).all(axis=1)
        if flipped:
            first[:, 0], last[:, 0] = width - last[:, 0] - 1, width - first[:, 0] - 1
            if isinstance(results.get('gt_masks'), PolygonMasks):
                results['gt_masks'] = _one_pixel_left(results['gt_masks'])
        results['gt_bboxes'] = np.concatenate([first, last], axis=1).astype(np.float32)
        if self.rule == 'mmdet1' or keep.all():
            return results
        counts = ~results.get('gt_ignore_flags', np.zeros(len(keep), dtype=bool))
        if counts.any() and not (counts & keep).any():
            return None
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            if results.get(key) is not None:
                results[key] = results[key][keep]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(rule={self.rule!r})'


def _one_pixel_left(masks: PolygonMasks) -> PolygonMasks:
    """W - x, as polygons are mirrored between pixels, as W - x - 1."""
    moved = [
        [(points.reshape(-1, 2) - (1, 0)).reshape(-1) for points in polygons] for polygons in masks
    ]
    return PolygonMasks(moved, masks.height, masks.width)
