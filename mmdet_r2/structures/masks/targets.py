"""What mask heads are trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdet_r2.structures.boxes import clip_boxes
from mmdet_r2.structures.masks.bitmaps import BitmapMasks, Shape, crop_bitmaps
from mmdet_r2.structures.masks.polygons import PolygonMasks


def mask_targets(
    masks: Sequence[BitmapMasks | PolygonMasks],
    boxes: Sequence[Tensor],
    gt_index: Sequence[Tensor],
    size: Shape,
) -> Tensor:
    """What the mask head should predict: (R, h, w) float32 of 0 and 1, images in order.

    Bitmaps are resampled on the boxes' device by one RoIAlign call per image (aligned, adaptive
    sampling, >= 0.5), which indexes the ground truth instead of copying a mask per box. Polygons
    are scaled into the box and rasterised on the CPU.

    Args:
        masks: ground truth of each image, at the size the boxes refer to.
        boxes: of each image, (r_i, 4) xyxy; cut to the masks' size first.
        gt_index: of each image, (r_i,): which mask a box is for.
        size: (h, w).
    """
    targets = []
    for image_masks, image_boxes, index in zip(masks, boxes, gt_index, strict=True):
        clipped = clip_boxes(image_boxes.detach().float(), (image_masks.height, image_masks.width))
        if isinstance(image_masks, BitmapMasks):
            targets.append(crop_bitmaps(image_masks, clipped, index, size))
        else:
            cut = image_masks.crop_and_resize(clipped, size, index)
            targets.append(cut.to_tensor(torch.float32, image_boxes.device))
    return torch.cat(targets)
