"""Instance masks: ground truth, training targets cut from it, predictions pasted into images.

Pixels have area: pixel (row i, column j) covers [j, j + 1] x [i, i + 1], its centre is at j + 0.5,
i + 0.5, and boxes are x1, y1, x2, y2 with width x2 - x1. Everything here is mmdetection 3.x's
arithmetic unless a docstring says otherwise.

Legend: n masks, H x W image, h x w mask of a box, r boxes of one image, R boxes of the batch.
"""

from .bitmaps import BitmapMasks, Shape
from .paste import paste_masks
from .polygons import MAX_OUTLINE, PolygonMasks, polygons_to_rle
from .rle import encode_columns, encode_rle
from .targets import mask_targets
from .usable import (
    MAX_COORDINATE,
    MAX_MASK_PIXELS,
    MAX_POINTS,
    compressed,
    rle_problem,
    rle_problems,
    to_rle,
    usable_mask,
    usable_masks,
    usable_rles,
)

__all__ = [
    'MAX_COORDINATE',
    'MAX_MASK_PIXELS',
    'MAX_OUTLINE',
    'MAX_POINTS',
    'BitmapMasks',
    'PolygonMasks',
    'Shape',
    'compressed',
    'encode_columns',
    'encode_rle',
    'mask_targets',
    'paste_masks',
    'polygons_to_rle',
    'rle_problem',
    'rle_problems',
    'to_rle',
    'usable_mask',
    'usable_masks',
    'usable_rles',
]
