"""Operators: NMS, pooling of RoIs, deformable convolution.

On the CPU they are our own, in torch and numpy, and need nothing compiled; only NMS is
torchvision's where that is installed, which is faster still. On a GPU mmcv's compiled operators are
used where they are there, else torchvision's; with neither, importing works and the first use says
which command repairs it.
"""

import torch
from torch import Tensor

from mmdet_r2.ops.backends import backend
from mmdet_r2.ops.deformable import Pair, deform_conv_by_device
from mmdet_r2.ops.library import operator
from mmdet_r2.ops.nms_torch import nms_torch, soft_nms_numpy
from mmdet_r2.ops.roi_align_cpu import roi_align_cpu
from mmdet_r2.ops.roi_pool_torch import deform_roi_pool_torch, roi_pool_torch

# More boxes than this are suppressed group by group on the CPU.
_SPLIT = 2000


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices (k,) of the boxes that greedy suppression keeps, by descending score.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,).
        iou_threshold: a box is dropped when its IoU with a kept one is above this.
        offset: 1 for pixel boxes (see ``structures.boxes``).
    """
    return torch.ops.mmdet_r2.nms(boxes, scores, float(iou_threshold), offset)


@torch.library.custom_op(
    'mmdet_r2::nms',
    mutates_args=(),
    schema='(Tensor boxes, Tensor scores, float iou_threshold, int offset) -> Tensor',
)
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    boxes, scores = boxes.float(), scores.float()
    if boxes.shape[0] == 0:
        return boxes.new_zeros(0, dtype=torch.long)
    library = backend(boxes.device.type)
    if library == 'torch':
        return nms_torch(boxes, scores, iou_threshold, offset)
    if library == 'mmcv':
        from mmcv.ops import nms as mmcv_nms

        return mmcv_nms(boxes, scores, iou_threshold, offset)[1]
    from torchvision.ops import nms as tv_nms

    if offset:  # torchvision counts no pixels: the same boxes, up to the end of their last one
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return tv_nms(boxes, scores, iou_threshold)


@_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.long)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (https://arxiv.org/abs/1704.04503): decayed scores (k,) and indices (k,), by
    descending score.

    It runs on the CPU; CUDA boxes are copied there and back.

    Args:
        method: 'naive' (drop, as NMS does), 'linear' or 'gaussian'.
    """
    return torch.ops.mmdet_r2.soft_nms(
        boxes, scores, float(iou_threshold), float(sigma), float(min_score), method, offset
    )


@torch.library.custom_op(
    'mmdet_r2::soft_nms',
    mutates_args=(),
    schema='(Tensor boxes, Tensor scores, float iou_threshold, float sigma, float min_score, '
    'str method, int offset) -> (Tensor, Tensor)',
)
def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> tuple[Tensor, Tensor]:
    return soft_nms_numpy(boxes, scores, iou_threshold, sigma, min_score, method, offset)


@_soft_nms.register_fake
def _(boxes: Tensor, scores: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty(size), boxes.new_empty(size, dtype=torch.long)


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, offset: int = 0
) -> Tensor:
    """NMS inside each group: indices (k,) kept, by descending score over all groups.

    One call serves every (image, level) or class: boxes of different groups are moved apart by more
    than the widest coordinate, so they cannot overlap.

    Args:
        boxes: (n, 4) xyxy; scores: (n,); groups: (n,) integer.
    """
    if boxes.shape[0] == 0:
        return boxes.new_zeros(0, dtype=torch.long)
    boxes = boxes.float()
    if boxes.device.type == 'cpu' and boxes.shape[0] > _SPLIT:
        return _grouped_nms(boxes, scores, groups, iou_threshold, offset)
    shift = groups.to(boxes) * (boxes.max() + 1)
    return nms(boxes + shift[:, None], scores, iou_threshold, offset)


def _grouped_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """The same, one call per group: pairs of other groups are not compared."""
    order = groups.argsort(stable=True)
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    keep = torch.cat(
        [own[nms(boxes[own], scores[own], iou_threshold, offset)] for own in order.split(sizes)]
    )
    return keep[scores[keep].argsort(descending=True, stable=True)]


def roi_align(
    feature: Tensor,
    rois: Tensor,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
    average: int = 1,
    end_offset: int = 0,
) -> Tensor:
    """RoIAlign (https://arxiv.org/abs/1703.06870): (B, C, H, W), (R, 5) -> (R, C, h, w), in the
    feature's dtype.

    Args:
        rois: rows of image index, x1, y1, x2, y2 in input pixels; without any the result is empty,
            and still a part of the feature's graph.
        spatial_scale: feature cells per input pixel.
        sampling_ratio: samples per bin and axis; 0 takes ceil(roi size / output size).
        aligned: shift by half a cell (the correct grid); False is the legacy grid, on which RoIs
            have at least one cell.
        average: give the mean of each ``average`` x ``average`` block of the result, which has
            output_size / average cells then; on the CPU the full result is never made.
        end_offset: 1, with ``aligned=False``, is the legacy grid of mmdetection 1.x: RoIs end one
            input pixel later, and may be smaller than a cell.
    """
    arguments = (output_size, spatial_scale, sampling_ratio, aligned, average, end_offset)
    return _roi_align(feature, rois, *arguments)


def _empty_pool(feature: Tensor, rois: Tensor, output_size: Pair, average: int = 1) -> Tensor:
    height, width = (side // average for side in output_size)
    return feature.new_empty(rois.shape[0], feature.shape[1], height, width)


@operator(
    'roi_align',
    'Tensor feature, Tensor rois, SymInt[2] output_size, float spatial_scale, int sampling_ratio, '
    'bool aligned, int average, int end_offset',
    lambda feature, rois, size, scale, ratio, aligned, average, end: _empty_pool(
        feature, rois, size, average
    ),
    differentiable=(0,),
)
def _roi_align(
    feature: Tensor,
    rois: Tensor,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    average: int,
    end_offset: int,
) -> Tensor:
    dtype = feature.dtype
    if not len(rois):
        # CUDA kernels refuse to start for nothing. Empty, but of the feature's graph: a level
        # without RoIs gives its parameters a (zero) gradient, which DDP waits for.
        height, width = (side // average for side in output_size)
        return feature[:0, :, :1, :1].expand(-1, -1, height, width)
    if feature.device.type == 'cpu' or dtype == torch.bfloat16:
        feature = feature.float()  # neither mmcv nor torchvision has a bfloat16 kernel
    rois = rois.to(feature)
    if end_offset:
        if aligned:
            raise ValueError('roi_align: end_offset is for the legacy grid, aligned=False')
        # The aligned operator, which has no least size, on RoIs moved against its shift.
        half = 0.5 / spatial_scale
        rois = rois + rois.new_tensor([0, half, half, half + end_offset, half + end_offset])
        aligned = True
    if feature.device.type == 'cpu':
        pooled = roi_align_cpu(
            feature, rois, output_size, spatial_scale, sampling_ratio, aligned, average
        )
        return pooled.to(dtype)
    if backend(feature.device.type) == 'mmcv':
        from mmcv.ops import roi_align as mmcv_roi_align

        # mmcv reads the memory as NCHW whatever its layout
        pooled = mmcv_roi_align(
            feature.contiguous(), rois, output_size, spatial_scale, sampling_ratio, 'avg', aligned
        )
    else:
        from torchvision.ops import roi_align as tv_roi_align

        pooled = tv_roi_align(feature, rois, output_size, spatial_scale, sampling_ratio, aligned)
    if average > 1:
        pooled = torch.nn.functional.avg_pool2d(pooled, average)
    return pooled.to(dtype)


def roi_pool(feature: Tensor, rois: Tensor, output_size: Pair, spatial_scale: float) -> Tensor:
    """RoI max pooling (https://arxiv.org/abs/1504.08083): (B, C, H, W), (R, 5) -> (R, C, h, w).

    Args:
        rois, spatial_scale: as for :func:`roi_align`. Bins end at whole cells, outwards, and RoIs
            one input pixel later than they say; a bin without cells is 0.
    """
    return _roi_pool(feature, rois, output_size, spatial_scale)


@operator(
    'roi_pool',
    'Tensor feature, Tensor rois, SymInt[2] output_size, float spatial_scale',
    lambda feature, rois, size, scale: _empty_pool(feature, rois, size),
    differentiable=(0,),
)
def _roi_pool(feature: Tensor, rois: Tensor, output_size: Pair, spatial_scale: float) -> Tensor:
    if feature.device.type == 'cuda' and backend('cuda') == 'mmcv':
        from mmcv.ops import roi_pool as mmcv_roi_pool

        return mmcv_roi_pool(feature.contiguous(), rois.to(feature), output_size, spatial_scale)
    return roi_pool_torch(feature, rois, output_size, spatial_scale)


def deform_roi_pool(
    feature: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """RoIAlign whose cells move (https://arxiv.org/abs/1703.06211, section 2.2): (B, C, H, W),
    (R, 5) -> (R, C, h, w). At least one RoI.

    Args:
        rois, spatial_scale, sampling_ratio: as for :func:`roi_align`.
        offset: (R, 2, h, w), x before y, in ``gamma`` times the RoI's sides.
    """
    arguments = (offset, output_size, spatial_scale, sampling_ratio, gamma)
    return _deform_roi_pool(feature, rois, *arguments)


@operator(
    'deform_roi_pool',
    'Tensor feature, Tensor rois, Tensor offset, SymInt[2] output_size, float spatial_scale, '
    'int sampling_ratio, float gamma',
    lambda feature, rois, offset, size, *_: _empty_pool(feature, rois, size),
    differentiable=(0, 2),
)
def _deform_roi_pool(
    feature: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: Pair,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    arguments = (offset, output_size, spatial_scale, sampling_ratio, gamma)
    if feature.device.type == 'cuda' and backend('cuda') == 'mmcv':
        from mmcv.ops import deform_roi_pool as mmcv_deform_roi_pool

        return mmcv_deform_roi_pool(feature.contiguous(), rois.to(feature), *arguments)
    return deform_roi_pool_torch(feature, rois, *arguments)


def deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    deform_groups: int = 1,
    im2col_step: int = 32,
) -> Tensor:
    """Deformable convolution, v2 if there is a mask: (B, C, H, W) -> (B, O, Y, X), in the offset's
    dtype.

    Args:
        offset: (B, G*K*2, Y, X) in cells, y before x, for K kernel points and G ``deform_groups``;
            the input is zero outside the map.
        mask: (B, G*K, Y, X) factors of the samples.
        weight: (O, C / groups, kernel height, kernel width); bias: (O,).
        im2col_step: images at a time in mmcv's kernels without mask.
    """
    arguments = (stride, padding, dilation, groups, deform_groups, im2col_step)
    return deform_conv_by_device(x, offset, mask, weight, bias, *arguments)
