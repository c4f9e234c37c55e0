"""Deformable convolutions: mmcv's layers and GPU kernels, our own computation on the CPU.

Papers: https://arxiv.org/abs/1703.06211 (DCN), https://arxiv.org/abs/1811.11168 (DCNv2).

mmcv's kernels read tensors as contiguous whatever their strides are, know no bfloat16, and take
tens of times longer than necessary on the CPU. Importing this module needs mmcv's compiled
operators.
"""

import torch
import torch.nn.functional as F
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    deform_conv2d,
    modulated_deform_conv2d,
)
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.ops.deform_conv_cpu import deform_conv_cpu


def _is_ours(x: Tensor) -> bool:
    return x.device.type == 'cpu'


def _cast(x: Tensor, *others: Tensor | None) -> list:
    """The tensors in a type that the operators compute in: float32 instead of a low one."""
    low = x.dtype == torch.bfloat16 or (x.device.type == 'cpu' and x.dtype == torch.float16)
    dtype = torch.float32 if low else x.dtype
    return [None if tensor is None else tensor.to(dtype) for tensor in (x, *others)]


def _of_nothing(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple
) -> Tensor:
    """(0, O, Y, X) of no images, which mmcv's kernels refuse; every input has its part in it."""
    stride, padding, dilation, groups, _ = sizes
    x, weight, bias = (None if t is None else t.float() for t in (x, weight, bias))
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups) + offset.float().sum()


# Wrapped: a traced graph of the backbone holds these calls, not what is inside. For the same reason
# sizes are passed as plain numbers: (stride, padding, dilation, groups, deform_groups).
@torch.fx.wrap
def _deform(x: Tensor, offset: Tensor, weight: Tensor, sizes: tuple, im2col_step: int) -> Tensor:
    dtype = offset.dtype  # under autocast that of the convolution, not of x
    if not len(x):
        return _of_nothing(x, offset, weight, None, sizes).to(dtype)
    offset, x, weight = _cast(offset, x, weight)
    if _is_ours(x):
        return deform_conv_cpu(x, offset, None, weight, None, *sizes).to(dtype)
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
    out = deform_conv2d(*tensors, *sizes, False, im2col_step)
    return out[:, :, :height, :width].to(dtype)


@torch.fx.wrap
def _modulated_deform(
    x: Tensor, out: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple
) -> Tensor:
    dtype = out.dtype
    if not len(x):
        return _of_nothing(x, out, weight, bias, sizes).to(dtype)
    out, x, weight, bias = _cast(out, x, weight, bias)
    # (B, 3*G*9, H, W): y and x offsets interleaved in the first two thirds, then the mask
    cut = out.shape[1] // 3 * 2
    offset, mask = out[:, :cut], out[:, cut:].sigmoid()
    if _is_ours(x):
        return deform_conv_cpu(x, offset, mask, weight, bias, *sizes).to(dtype)
    tensors = (x.contiguous(), offset.contiguous(), mask.contiguous(), weight.contiguous())
    return modulated_deform_conv2d(*tensors, bias, *sizes).to(dtype)


def _group_offsets(layer: DeformConv2dPack | ModulatedDeformConv2dPack, groups: int) -> None:
    """Replace a layer's dense ``conv_offset`` by a grouped one, which starts with zeros too."""
    dense = layer.conv_offset
    if groups == 1:
        return
    if dense.out_channels % groups:
        raise ConfigError(
            f'offset_groups is {groups}, which does not divide the {dense.out_channels} offsets '
            f'of {layer.deform_groups} deform_groups'
        )
    layer.conv_offset = nn.Conv2d(
        dense.in_channels,
        dense.out_channels,
        dense.kernel_size,
        dense.stride,
        dense.padding,
        dense.dilation,
        groups,
    )
    nn.init.zeros_(layer.conv_offset.weight)
    nn.init.zeros_(layer.conv_offset.bias)


class DeformConv(DeformConv2dPack):
    """``DCN``: every sample of the 3x3 grid moves by an offset that ``conv_offset`` predicts.

    Args:
        deform_groups: groups of input channels with offsets of their own.
        offset_groups: groups of ``conv_offset``. 1, as in mmdetection, predicts from all channels;
            the ResNeSt detectors of the detectron2 lineage have as many as ``deform_groups``.

    The other arguments are mmcv's; it knows no ``bias`` here.

    Raises:
        ValueError: ``offset_groups`` does not divide the number of offsets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
        offset_groups: int = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deform_groups,
            bias,
            im2col_step,
        )
        _group_offsets(self, offset_groups)

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return _deform(x, self.conv_offset(x), self.weight, sizes, self.im2col_step)


class ModulatedDeformConv(ModulatedDeformConv2dPack):
    """``DCNv2``: offsets, and a weight between 0 and 1 for every sample.

    Arguments and errors are those of :class:`DeformConv`, without ``im2col_step``. Of the
    ``conv_offset``'s output the first two thirds are offsets, y before x for each sample, by
    deformable group; the last third are the weights' logits.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        offset_groups: int = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deform_groups,
            bias,
        )
        _group_offsets(self, offset_groups)

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return _modulated_deform(x, self.conv_offset(x), self.weight, self.bias, sizes)


DEFORM_CONVS = {'DCN': DeformConv, 'DCNv2': ModulatedDeformConv}
