"""Layers of deformable convolution, ``DCN`` and ``DCNv2`` in configs; see
:mod:`mmdet_r2.ops.deformable` for how they are computed.
"""

import math

import torch
from torch import Tensor, nn

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError


# Wrapped: a traced graph of the backbone holds these calls, not what is inside. For the same reason
# sizes are passed as plain numbers: (stride, padding, dilation, groups, deform_groups).
@torch.fx.wrap
def _deform(x: Tensor, offset: Tensor, weight: Tensor, sizes: tuple, im2col_step: int) -> Tensor:
    return ops.deform_conv(x, offset, None, weight, None, *sizes, im2col_step)


@torch.fx.wrap
def _modulated_deform(
    x: Tensor, out: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple
) -> Tensor:
    # (B, 3*G*9, H, W): y and x offsets interleaved in the first two thirds, then the mask
    offset, logits = out.tensor_split([out.shape[1] // 3 * 2], 1)
    mask = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    return ops.deform_conv(x, offset, mask, weight, bias, *sizes)


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
