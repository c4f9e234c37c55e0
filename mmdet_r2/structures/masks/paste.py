"""Predicted masks of boxes, placed into the image."""

import numpy as np
import torch
from torch import Tensor

from mmdet_r2.structures.masks.bitmaps import Shape, group_size


def paste_masks(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float = 0.5) -> Tensor:
    """Masks predicted inside boxes, placed into the image: (n, H, W) bool.

    Pixel centres are mapped into the box and the mask is read there by bilinear interpolation, zero
    outside of it; a pixel belongs to the object where the result is >= ``threshold``. This is what
    grid sampling with half-pixel centres (mmdetection 3.x, detectron2) gives over the whole image.
    Bilinear interpolation is the product of two matrices, one per axis, so that no (n, H, W, 2)
    grid is built; on the CPU only the pixels of each box are visited.

    Args:
        probs: (n, h, w) in [0, 1]; a channel axis of one, (n, 1, h, w), is dropped.
        boxes: (n, 4) xyxy in pixels of the image; may exceed it. Without area, or not finite: an
            empty mask.
        shape: (H, W) of the image.
        threshold: in (0, 1]; below 0 returns the probabilities themselves, (n, H, W) uint8 of
            0..255, rounded down.
    """
    probs = probs.detach().float()
    probs = probs[:, 0] if probs.ndim == 4 else probs
    boxes = boxes.detach()
    if probs.device.type == 'cpu':
        return _paste_windows(probs, boxes, shape, threshold)
    return _paste_images(probs, boxes, shape, threshold)


def _interpolation(positions: Tensor, size: int) -> Tensor:
    """Weights (..., p, size) of an axis' cells at positions (..., p): linear, zero outside."""
    cells = torch.arange(size, device=positions.device, dtype=positions.dtype)
    return (1 - (positions[..., None] - cells).abs()).clamp_(min=0).float()


def _paste_windows(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float) -> Tensor:
    """:func:`paste_masks` on the CPU, one box at a time and only inside it."""
    (height, width), (num, h, w) = shape, probs.shape
    out = torch.zeros((num, height, width), dtype=torch.uint8 if threshold < 0 else torch.bool)
    corners = boxes.double().numpy()
    sides = corners[:, 2:] - corners[:, :2]
    with np.errstate(invalid='ignore'):
        solid = np.isfinite(corners).all(axis=1) & (sides > 0).all(axis=1)
    # Half a cell around the box the mask fades out. What is there is below 0.5, so that it matters
    # to lower thresholds only.
    fade = sides / (2 * np.array([w, h])) if threshold < 0.5 else 0
    limit = np.array([width, height])
    corners[~solid] = 0
    first = np.clip(np.floor(corners[:, :2] - fade - 0.5), 0, limit).astype(int)
    last = np.clip(np.ceil(corners[:, 2:] + fade + 0.5), 0, limit).astype(int)
    for i in np.flatnonzero(solid):
        (x1, y1), (x2, y2) = first[i], last[i]
        if x2 <= x1 or y2 <= y1:
            continue
        xs = (torch.arange(x1, x2, dtype=torch.float64) + 0.5 - corners[i, 0]) * (
            w / sides[i, 0]
        ) - 0.5
        ys = (torch.arange(y1, y2, dtype=torch.float64) + 0.5 - corners[i, 1]) * (
            h / sides[i, 1]
        ) - 0.5
        window = _interpolation(ys, h) @ (probs[i] @ _interpolation(xs, w).T)
        target = out[i, y1:y2, x1:x2]
        if threshold < 0:
            target.copy_(window.mul_(255))
        else:
            torch.ge(window, threshold, out=target)
    return out


def _paste_images(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float) -> Tensor:
    """:func:`paste_masks` on a GPU: whole images, a group at a time; never waits for the host."""
    (height, width), (num, h, w) = shape, probs.shape
    out = torch.empty(
        (num, height, width),
        dtype=torch.uint8 if threshold < 0 else torch.bool,
        device=probs.device,
    )
    boxes = boxes.double()
    solid = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes = torch.where(solid[:, None], boxes, boxes.new_tensor([0, 0, 1, 1]))
    probs = torch.where(solid[:, None, None], probs, 0)
    scale = probs.new_tensor([w, h], dtype=torch.float64) / (boxes[:, 2:] - boxes[:, :2])
    columns = torch.arange(width, device=probs.device, dtype=torch.float64) + 0.5
    rows = torch.arange(height, device=probs.device, dtype=torch.float64) + 0.5
    group = group_size(probs.device, shape)
    # Half precision would move the masks' edges.
    with torch.autocast(probs.device.type, enabled=False):
        for start in range(0, num, group):
            i = slice(start, start + group)
            xs = (columns - boxes[i, 0:1]) * scale[i, 0:1] - 0.5  # (k, W)
            ys = (rows - boxes[i, 1:2]) * scale[i, 1:2] - 0.5  # (k, H)
            image = _interpolation(ys, h) @ (probs[i] @ _interpolation(xs, w).mT)  # (k, H, W)
            if threshold < 0:
                out[i] = image.mul_(255).to(torch.uint8)
            else:
                torch.ge(image, threshold, out=out[i])
    return out
