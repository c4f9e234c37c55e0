"""ResNeSt: a bottleneck whose 3x3 convolution weighs several splits of itself by attention.

Paper: https://arxiv.org/abs/2004.08955. Names of attributes (``conv2.conv``, ``conv2.bn0``,
``conv2.fc1`` ...) are those of the published checkpoints.

Shapes: ``B`` images, ``C`` channels of the block's width, ``H W`` cells, ``S`` splits (the paper's
radix), ``G`` groups (its cardinality).
"""

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones.resnet import (
    ResidualBlock,
    ResNet,
    add_norm,
    build_spatial_conv,
    conv_norm,
)
from mmdet_r2.registry import MODELS


# Wrapped: a traced graph of the backbone holds the call, so what is inside may look at the dtype.
@torch.fx.wrap
def _average(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), the mean over all cells."""
    if x.dtype == torch.float16:
        return x.mean((2, 3), keepdim=True)  # the sum may exceed 65504
    # The gradient of a mean is written out cell by cell before it is added to that of the splits;
    # the gradient of a sum stays one value per channel. With channels_last on a CPU the backward
    # pass of the attention is four times faster for it.
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


class SplitAttention(nn.Module):
    """3x3 convolution to ``S`` splits, summed with weights that depend on the whole image.

    The weights of a channel come from the global average of all splits through two 1x1 layers; over
    the splits they add up to 1 (with a single split they are a sigmoid gate). Zero padding takes
    part in that average: the result depends on how images were padded.

    Args:
        width: channels ``C`` of input and output.
        stride, dilation, conv_cfg, dcn: of the 3x3 convolution.
        groups: ``G``; the convolution has ``G * S`` groups, the 1x1 layers ``G``.
        radix: ``S``.
        reduction_factor: the hidden layer has ``max(C * S / reduction_factor, 32)`` channels.
    """

    def __init__(
        self,
        width: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        radix: int,
        reduction_factor: int,
        conv_cfg: dict | None,
        norm_cfg: dict,
        dcn: dict | None,
    ) -> None:
        super().__init__()
        self.width, self.groups, self.radix = width, groups, radix
        hidden = max(width * radix // reduction_factor, 32)
        if hidden % groups:
            raise ConfigError(
                f'backbone.groups is {groups}, which does not divide the {hidden} hidden channels '
                f'of the attention over {width} channels: max(width * radix / reduction_factor, '
                f'32) with radix {radix} and reduction_factor {reduction_factor}'
            )
        self.conv = build_spatial_conv(
            conv_cfg,
            dcn,
            width,
            width * radix,
            stride=stride,
            dilation=dilation,
            groups=groups * radix,
        )
        self.norm0_name = add_norm(self, norm_cfg, width * radix, 0)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(width, hidden, 1, groups=groups)
        self.norm1_name = add_norm(self, norm_cfg, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width * radix, 1, groups=groups)

    def forward(self, x: Tensor, direct: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W'); ``direct`` as in :func:`conv_norm`."""
        # (B, S * C, H', W'): all channels of split 0, then those of split 1, ...
        x = self.relu(conv_norm(x, self.conv, getattr(self, self.norm0_name), direct))
        logits = self._logits(x)
        # The splits are views of x, so each line below passes over the map once and x is all that
        # the backward pass needs.
        splits = x.chunk(self.radix, 1)
        if self.radix == 1:
            return x * logits.sigmoid().flatten(1, 3).to(x.dtype)
        if self.radix == 2:
            # A softmax of two is a sigmoid of their difference, the weighted sum an interpolation.
            share = (logits[:, :, 0] - logits[:, :, 1]).sigmoid().flatten(1, 2)
            return torch.lerp(splits[1], splits[0], share.to(x.dtype))
        shares = logits.softmax(2).transpose(1, 2).flatten(2, 3).to(x.dtype)  # (B, S, C, 1, 1)
        out = splits[0] * shares[:, 0]
        for i in range(1, self.radix):
            out = torch.addcmul(out, splits[i], shares[:, i])
        return out

    def _logits(self, x: Tensor) -> Tensor:
        """Splits (B, S * C, H, W) -> attention before softmax, (B, G, S, C / G, 1, 1)."""
        # Averaged first, summed over the splits then: the same, without a summed copy of the map.
        pooled = _average(x)
        if self.radix > 1:
            pooled = pooled.unflatten(1, (self.radix, self.width)).sum(1)
        try:
            hidden = getattr(self, self.norm1_name)(self.fc1(pooled))
        except ValueError as error:
            if len(x) > 1:
                raise
            raise ConfigError(
                'ResNeSt normalises one value per image and channel inside its attention, which '
                'needs statistics of more than one image: set train_dataloader.batch_size to 2 or '
                'more, train on several processes with SyncBN, or set backbone.norm_eval=True'
            ) from error
        logits = self.fc2(self.relu(hidden))
        return logits.unflatten(1, (self.groups, self.radix, self.width // self.groups))


class SplitAttentionBottleneck(ResidualBlock):
    """1x1 down, split-attention 3x3, 1x1 up to four times ``planes``.

    Args:
        style: ``'pytorch'`` strides behind conv1, ``'caffe'`` in conv1.
        groups, base_width, base_channels: width as in
            :class:`~mmdet_r2.models.backbones.resnet.Bottleneck`.
        radix, reduction_factor: see :class:`SplitAttention`.
        avg_down_stride: where the stride is behind conv1, a 3x3 average pool takes it after the
            attention, instead of the 3x3 convolution; zero padding counts in the average.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: str = 'pytorch',
        with_cp: bool = False,
        zero_init: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        dcn: dict | None = None,
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
        radix: int = 2,
        reduction_factor: int = 4,
        avg_down_stride: bool = True,
    ) -> None:
        super().__init__(with_cp=with_cp, zero_init=zero_init)
        norm_cfg = norm_cfg or dict(type='BN')
        width = planes
        if groups > 1:
            width = math.floor(planes * base_width / base_channels) * groups
        if width < 1 or width % (groups * radix):
            raise ConfigError(
                f'backbone.groups={groups}, radix={radix}, base_width={base_width}, '
                f'base_channels={base_channels} give {width} channels at {planes} planes, which '
                f'do not split into groups * radix = {groups * radix} equal parts'
            )
        stride1, stride2 = (1, stride) if style == 'pytorch' else (stride, 1)
        pooled = avg_down_stride and stride2 > 1
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, width, kernel_size=1, stride=stride1, bias=False
        )
        self.norm1_name = add_norm(self, norm_cfg, width, 1)
        self.conv2 = SplitAttention(
            width,
            stride=1 if pooled else stride2,
            dilation=dilation,
            groups=groups,
            radix=radix,
            reduction_factor=reduction_factor,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            dcn=dcn,
        )
        self.avd_layer = nn.AvgPool2d(3, stride2, padding=1) if pooled else None
        self.conv3 = build_conv_layer(
            conv_cfg, width, planes * self.expansion, kernel_size=1, bias=False
        )
        self.last_norm_name = self.norm3_name = add_norm(self, norm_cfg, planes * self.expansion, 3)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        direct = self.direct
        x = self.relu(conv_norm(x, self.conv1, getattr(self, self.norm1_name), direct))
        x = self.conv2(x, direct)
        if self.avd_layer is not None:
            x = self.avd_layer(x)
        return conv_norm(x, self.conv3, getattr(self, self.norm3_name), direct)


@MODELS.register_module()
class ResNeSt(ResNet):
    """ResNet with the deep stem, average-pooled shortcuts and :class:`SplitAttentionBottleneck`.

    The defaults are the published 2s1x64d models. ``dcn`` makes the 3x3 convolutions inside the
    attention deformable; detectors of the detectron2 lineage have ``dcn=dict(type='DCNv2',
    deform_groups=2, offset_groups=2)``.

    Args:
        depth: 50, 101, 152, 200 or 269.
        groups, base_width: the paper's cardinality and its width per group (2x40d is ``groups=2,
            base_width=40``); without groups the width is ``base_channels``, whatever
            ``base_width`` says.
        radix, reduction_factor, avg_down_stride: see the block.
        stem_channels: output channels of the stem; ``None`` is the published width: 64 at depth 50,
            128 at the others (with 64 base channels; mmdetection's ``None`` is 64 throughout).
        zero_init_residual: False: neither the original nor mmdetection (whatever it is told) starts
            ResNeSt's blocks as their shortcuts.

    All other arguments are those of :class:`ResNet`.

    Raises:
        ConfigError: an argument is out of range, or channels do not divide into groups and splits.
    """

    arch_settings = {
        50: (SplitAttentionBottleneck, (3, 4, 6, 3)),
        101: (SplitAttentionBottleneck, (3, 4, 23, 3)),
        152: (SplitAttentionBottleneck, (3, 8, 36, 3)),
        200: (SplitAttentionBottleneck, (3, 24, 36, 3)),
        269: (SplitAttentionBottleneck, (3, 30, 48, 8)),
    }

    def __init__(
        self,
        depth: int,
        groups: int = 1,
        base_width: int = 4,
        radix: int = 2,
        reduction_factor: int = 4,
        avg_down_stride: bool = True,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006  read only
        norm_eval: bool = True,
        dcn: dict | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: None = None,
        with_cp: bool = False,
        zero_init_residual: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        counts = dict(groups=groups, radix=radix, reduction_factor=reduction_factor)
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'backbone.{name} is {value!r}; expected a whole number from 1')
        super().__init__(
            depth,
            in_channels=in_channels,
            stem_channels=stem_channels or base_channels * (1 if depth == 50 else 2),
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            style=style,
            deep_stem=True,
            avg_down=True,
            frozen_stages=frozen_stages,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            norm_eval=norm_eval,
            dcn=dcn,
            stage_with_dcn=stage_with_dcn,
            plugins=plugins,
            with_cp=with_cp,
            zero_init_residual=zero_init_residual,
            block=SplitAttentionBottleneck,
            block_args=dict(
                groups=groups,
                base_width=base_width,
                base_channels=base_channels,
                radix=radix,
                reduction_factor=reduction_factor,
                avg_down_stride=avg_down_stride,
            ),
            pretrained=pretrained,
            init_cfg=init_cfg,
        )
