"""Deformable convolution: our own computation on the CPU, mmcv's kernels or torchvision's on a GPU.

Papers: https://arxiv.org/abs/1703.06211 (DCN), https://arxiv.org/abs/1811.11168 (DCNv2).

mmcv's kernels read tensors as contiguous whatever their strides are, know no bfloat16, and take
tens of times longer than necessary on the CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_r2.ops.backends import backend
from mmdet_r2.ops.deform_conv_cpu import deform_conv_cpu
from mmdet_r2.ops.library import operator

Pair = tuple[int, int]


@operator(
    'deform_conv',
    'Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, int[2] stride, '
    'int[2] padding, int[2] dilation, int groups, int deform_groups, int im2col_step',
    lambda x, offset, mask, weight, *_: offset.new_empty(
        x.shape[0], weight.shape[0], *offset.shape[2:]
    ),
    differentiable=(0, 1, 2, 3, 4),
)
def deform_conv_by_device(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    deform_groups: int,
    im2col_step: int,
) -> Tensor:
    """What :func:`mmdet_r2.ops.deform_conv` gives."""
    dtype = offset.dtype  # under autocast that of the convolution before, not of x
    sizes = (stride, padding, dilation, groups, deform_groups)
    low = dtype == torch.bfloat16 or (dtype == torch.float16 and x.device.type == 'cpu')
    x, offset, weight = (t.to(torch.float32 if low else dtype) for t in (x, offset, weight))
    mask, bias = (None if t is None else t.to(x) for t in (mask, bias))
    if not len(x):  # which mmcv's kernels refuse; every input has its part in the graph
        nothing = F.conv2d(x, weight, bias, stride, padding, dilation, groups) + offset.sum()
        return (nothing if mask is None else nothing + mask.sum()).to(dtype)
    if _is_ours(x):
        return deform_conv_cpu(x, offset, mask, weight, bias, *sizes).to(dtype)
    if backend(x.device.type) == 'torchvision':
        from torchvision.ops import deform_conv2d

        return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask).to(dtype)
    if mask is not None:
        from mmcv.ops import modulated_deform_conv2d

        tensors = (x.contiguous(), offset.contiguous(), mask.contiguous(), weight.contiguous())
        return modulated_deform_conv2d(*tensors, bias, *sizes).to(dtype)
    return _without_mask(x, offset, weight, sizes, im2col_step).to(dtype)


def _is_ours(x: Tensor) -> bool:
    return x.device.type == 'cpu'


def _without_mask(
    x: Tensor, offset: Tensor, weight: Tensor, sizes: tuple, im2col_step: int
) -> Tensor:
    from mmcv.ops import deform_conv2d

    height, width = offset.shape[-2:]
    missing = [max(k - size, 0) for k, size in zip(weight.shape[2:], x.shape[2:])]
    if any(missing):
        # The kernel refuses maps smaller than itself. What lies outside a map counts as zero, so
        # zeros may be appended; the outputs and offsets that belong to them are of no interest.
        x = F.pad(x, (0, missing[1], 0, missing[0]))
        offset = F.pad(offset, (0, missing[1], 0, missing[0]))
        stride = sizes[0]
        rows, columns = (-(-size // s) for size, s in zip(x.shape[2:], stride))
        offset = offset[:, :, :rows, :columns]
    tensors = (x.contiguous(), offset.contiguous(), weight.contiguous())
    return deform_conv2d(*tensors, *sizes, False, im2col_step)[:, :, :height, :width]
