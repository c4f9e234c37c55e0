"""Pure functions on boxes: (..., 4) tensors of x1, y1, x2, y2 in pixels.

``offset`` says what the corners mean: 0, points of the plane, width = x2 - x1; 1, the first and the
last pixel inside, width = x2 - x1 + 1, as in maskrcnn-benchmark and mmdetection 1.x. Boxes of the
second kind, pixel boxes, are met inside models of those lineages only.
"""

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError


def check_offset(key: str, offset: int) -> int:
    """The ``offset`` that the config has at ``key``; raise ConfigError unless it is 0 or 1."""
    if offset not in (0, 1):
        raise ConfigError(
            f'{key}={offset!r}: expected 0, or 1 for boxes that end at their last pixel'
        )
    return offset


def box_sizes(boxes: Tensor, offset: int = 0) -> Tensor:
    """Width and height of each box: (..., 4) -> (..., 2)."""
    return boxes[..., 2:] - boxes[..., :2] + offset


def box_area(boxes: Tensor, offset: int = 0) -> Tensor:
    """Area of each box: (..., 4) -> (...), in square pixels."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width + offset) * (height + offset)


def _intersection(a: Tensor, b: Tensor, offset: int = 0) -> Tensor:
    """Overlap area of broadcast boxes (..., 4), (..., 4) -> (...).

    One coordinate at a time: the last axis stays long, which is what vectorises on every device.
    """
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    if offset:  # spares the pass over all pairs otherwise
        width, height = width + offset, height + offset
    return width.clamp(min=0) * height.clamp(min=0)


def box_iou(a: Tensor, b: Tensor, eps: float = 1e-6, offset: int = 0) -> Tensor:
    """Intersection over union of every pair: (N, 4) and (M, 4) -> (N, M) in [0, 1].

    Boxes without area give 0, never NaN: the union is at least ``eps``. Same arithmetic in the same
    order as mmdetection's ``bbox_overlaps``, because it decides ties between anchors.
    """
    overlap = _intersection(a[:, None], b[None], offset)
    union = box_area(a, offset)[:, None] + box_area(b, offset)[None] - overlap
    return overlap / union.clamp(min=eps)


def box_iof(a: Tensor, b: Tensor, eps: float = 1e-6, offset: int = 0) -> Tensor:
    """Intersection over the area of the first box: (N, 4), (M, 4) -> (N, M); how much of ``a`` lies
    in ``b``.
    """
    overlap = _intersection(a[:, None], b[None], offset)
    return overlap / box_area(a, offset)[:, None].clamp(min=eps)


def paired_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """IoU and union of matching rows: (N, 4), (N, 4) -> (N,), (N,)."""
    overlap = _intersection(a, b)
    union = (box_area(a) + box_area(b) - overlap).clamp(min=eps)
    return overlap / union, union


def enclosing_box(a: Tensor, b: Tensor) -> Tensor:
    """Smallest box around each pair of rows: (N, 4), (N, 4) -> (N, 4)."""
    corners = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    return torch.cat(corners, dim=-1)


def clip_boxes(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut to an image of ``shape`` (height, width): x in [0, w], y in [0, h]."""
    height, width = shape
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def box_limits(shapes: list[tuple[int, int]], like: Tensor) -> Tensor:
    """Image shapes (height, width) -> (B, 4) rows of w, h, w, h in ``like``'s dtype and device, one
    transfer.
    """
    rows = [[w, h, w, h] for h, w in shapes]
    return torch.tensor(rows, dtype=like.dtype).to(like.device, non_blocking=True)


def boxes_to_rois(boxes: list[Tensor]) -> Tensor:
    """Boxes of each image, B x (r_i, 4) -> (sum r_i, 5) rows of image index, x1, y1, x2, y2; images
    in order.
    """
    index = [b.new_full((len(b), 1), i) for i, b in enumerate(boxes)]
    return torch.cat([torch.cat(index), torch.cat([b[:, :4] for b in boxes])], dim=1)


def move_ends(boxes: Tensor, by: float) -> Tensor:
    """Boxes (..., 4) with ``by`` pixels added to x2 and y2: 1 turns pixel boxes into ordinary
    ones, -1 turns them back.
    """
    return boxes + boxes.new_tensor([0, 0, by, by]) if by else boxes
