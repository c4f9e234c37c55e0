"""Masks of pixel boxes (see :mod:`~mmdet_r2.structures.boxes`), in the arithmetic of
maskrcnn-benchmark and mmdetection 1.x: a box is cut to whole pixels, the mask resized to as many.

Legend: n masks, H x W image, h x w mask of a box, r boxes of one image, R boxes of the batch.
"""

from collections.abc import Sequence

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks, Shape


def paste_pixel_masks(
    probs: Tensor, boxes: Tensor, shape: Shape, threshold: float = 0.5, padding: int = 0
) -> Tensor:
    """Masks predicted inside pixel boxes, placed into the image: (n, H, W) bool.

    The box' corners lose their fractions, the mask is stretched to the pixels from the first to the
    last, and a pixel belongs to the object where it is > ``threshold``.

    Args:
        probs: (n, h, w) in [0, 1].
        boxes: (n, 4) xyxy, of the image; may exceed it. Not finite: an empty mask.
        shape: (H, W) of the image.
        threshold: below 0 returns the probabilities themselves, (n, H, W) uint8 of 0..255, rounded
            down.
        padding: cells of zero put around each mask, whose box grows by as many, so that the border
            fades out: 1 in maskrcnn-benchmark, 0 in mmdetection 1.x.
    """
    probs, boxes = probs.detach().float(), boxes.detach().float()
    if padding:
        boxes = _grown(boxes, (probs.shape[-1] + 2 * padding) / probs.shape[-1])
        probs = F.pad(probs, [padding] * 4)
    dtype = torch.uint8 if threshold < 0 else torch.bool
    image = torch.zeros((len(probs), *shape), dtype=dtype, device=probs.device)
    boxes = boxes.masked_fill(~boxes.isfinite().all(1, keepdim=True), -1)  # outside
    for mask, target, (x1, y1, x2, y2) in zip(probs, image, boxes.int().tolist(), strict=True):
        size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        left, top = max(x1, 0), max(y1, 0)
        right, bottom = min(x1 + size[1], shape[1]), min(y1 + size[0], shape[0])
        if right <= left or bottom <= top:
            continue
        # (1, 1, h, w): bilinear between the cells' centres, constant beyond the outermost
        full = F.interpolate(mask[None, None], size=size, mode='bilinear', align_corners=False)
        part = full[0, 0, top - y1 : bottom - y1, left - x1 : right - x1]
        target[top:bottom, left:right] = part * 255 if threshold < 0 else part > threshold
    return image


def _grown(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (n, 4) enlarged about their centres."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5
    return torch.cat([centre - half * factor, centre + half * factor], dim=1)


def pixel_mask_targets(
    masks: Sequence[BitmapMasks | PolygonMasks],
    boxes: Sequence[Tensor],
    gt_index: Sequence[Tensor],
    size: Shape,
) -> Tensor:
    """What a mask head of mmdetection 1.x should predict: (R, h, w) float32 of 0 and 1, images in
    order.

    The bitmap's pixels inside the box, whose corners lose their fractions, are resized as bytes.
    (maskrcnn-benchmark's targets are those of :func:`~mmdet_r2.structures.masks.mask_targets` from
    polygons, of pixel boxes as of others.)

    Args:
        masks: ground truth of each image, at the size the boxes refer to.
        boxes: of each image, (r_i, 4) pixel boxes; cut to the masks' size first.
        gt_index: of each image, (r_i,): which mask a box is for.
        size: (h, w).
    """
    targets = []
    for image_masks, image_boxes, index in zip(masks, boxes, gt_index, strict=True):
        if isinstance(image_masks, PolygonMasks):
            image_masks = image_masks.to_bitmap()
        last = np.array([image_masks.width, image_masks.height] * 2) - 1
        corners = image_boxes.detach().float().cpu().numpy().clip(0, last).astype(int)
        cut = np.zeros((len(corners), *size), np.uint8)
        for target, (x1, y1, x2, y2), i in zip(cut, corners, index.tolist(), strict=True):
            window = image_masks.masks[i, y1 : max(y2, y1) + 1, x1 : max(x2, x1) + 1]
            target[:] = mmcv.imresize(np.ascontiguousarray(window), size[::-1])
        targets.append(torch.from_numpy(cut).to(image_boxes.device, torch.float32))
    return torch.cat(targets)
