"""Deformable convolutions: our own computation on the CPU, mmcv's kernels on a GPU.

Papers: https://arxiv.org/abs/1703.06211 (DCN), https://arxiv.org/abs/1811.11168 (DCNv2).

mmcv's kernels read tensors as contiguous whatever their strides are, know no bfloat16, and take
tens of times longer than necessary on the CPU.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_r2 import ops
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
    if ops.backend(x.device.type) == 'torchvision':
        return _torchvision(x, offset, None, weight, None, sizes).to(dtype)
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
    if ops.backend(x.device.type) == 'torchvision':
        return _torchvision(x, offset, mask, weight, bias, sizes).to(dtype)
    from mmcv.ops import modulated_deform_conv2d

    tensors = (x.contiguous(), offset.contiguous(), mask.contiguous(), weight.contiguous())
    return modulated_deform_conv2d(*tensors, bias, *sizes).to(dtype)


def _torchvision(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    sizes: tuple,
) -> Tensor:
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, offset, weight, bias, *sizes[:3], mask)


class _DeformConv(nn.Module):
    """Parameters of both: the convolution's own and ``conv_offset``'s, which start at zero."""

    outputs_per_sample: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int,
        groups: int,
        deform_groups: int,
        bias: bool,
        offset_groups: int,
    ) -> None:
        super().__init__()
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding = (stride, stride), (padding, padding)
        self.dilation = (dilation, dilation)
        self.groups, self.deform_groups = groups, deform_groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        outputs = deform_groups * self.outputs_per_sample * kernel_size**2
        if outputs % offset_groups:
            raise ConfigError(
                f'offset_groups is {offset_groups}, which does not divide the {outputs} offsets '
                f'of {deform_groups} deform_groups'
            )
        self.conv_offset = nn.Conv2d(
            in_channels, outputs, kernel_size, stride, padding, dilation, offset_groups
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)


class DeformConv(_DeformConv):
    """``DCN``: every sample of the 3x3 grid moves by an offset that ``conv_offset`` predicts.

    Args:
        deform_groups: groups of input channels with offsets of their own.
        offset_groups: groups of ``conv_offset``. 1, as in mmdetection, predicts from all channels;
            the ResNeSt detectors of the detectron2 lineage have as many as ``deform_groups``.

    The other arguments are mmcv's; ``bias`` has to be False, as there.

    Raises:
        ConfigError: ``offset_groups`` does not divide the number of offsets.
    """

    outputs_per_sample = 2

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
        if bias:
            raise ConfigError('bias is True; the first version of the operator has none')
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
            offset_groups,
        )
        self.im2col_step = im2col_step
        nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return _deform(x, self.conv_offset(x), self.weight, sizes, self.im2col_step)


class ModulatedDeformConv(_DeformConv):
    """``DCNv2``: offsets, and a weight between 0 and 1 for every sample.

    Arguments and errors are those of :class:`DeformConv`, without ``im2col_step``. Of the
    ``conv_offset``'s output the first two thirds are offsets, y before x for each sample, by
    deformable group; the last third are the weights' logits.
    """

    outputs_per_sample = 3

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
            offset_groups,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights; the model's own ``init_weights`` calls it again."""
        bound = 1 / math.sqrt(self.weight[0].numel() * self.groups)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return _modulated_deform(x, self.conv_offset(x), self.weight, self.bias, sizes)


DEFORM_CONVS = {'DCN': DeformConv, 'DCNv2': ModulatedDeformConv}
