"""Res2Net: a bottleneck whose 3x3 convolution is a hierarchy of smaller ones.

Paper: https://arxiv.org/abs/1904.01169. Names of attributes (``convs``, ``bns``) are those of the
published checkpoints.

Four code bases trained published models with slightly different first blocks. They are all reached
by keywords:

=========================================  ===========  =========  =========  ==================
weights or detector from                   deep_stem    avg_down   style      first_block_pool
=========================================  ===========  =========  =========  ==================
mmdetection 2.x and 3.x (defaults)         True         True       pytorch    strided
Res2Net ImageNet v1                        False        False      pytorch    always
Res2Net ImageNet v1b, mmdetection 1.x      True         True       pytorch    always
Res2Net-maskrcnn (maskrcnn-benchmark)      False        False      caffe      always
Res2Net-detectron2                         True         True       caffe      strided
=========================================  ===========  =========  =========  ==================
"""

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones.resnet import (
    Bottleneck,
    ResidualBlock,
    ResNet,
    add_norm,
    build_spatial_conv,
    conv_norm,
)
from mmdet_r2.registry import MODELS


class Bottle2neck(ResidualBlock):
    """Bottleneck that convolves ``scales`` groups of channels one after the other.

    After the 1x1 convolution the channels are split into ``scales`` groups. Group 0 is convolved;
    every further group is added to the result before it and convolved; the last group is passed on
    as it is. In the first block of a stage (the one with a ``downsample``) groups are not added to
    each other, because their resolution may change.

    Args:
        scales: number of groups, at least 2.
        base_width: channels per group at 64 planes: ``floor(planes * base_width / base_channels)``.
        first_block_pool: whether the last group of a stage's first block passes a 3x3 average pool:
            ``'strided'`` only where the other groups are strided, ``'always'`` also at stride 1.
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
        scales: int = 4,
        base_width: int = 26,
        base_channels: int = 64,
        first_block_pool: str = 'strided',
    ) -> None:
        super().__init__(with_cp=with_cp, zero_init=zero_init)
        norm_cfg = norm_cfg or dict(type='BN')
        width = math.floor(planes * base_width / base_channels)
        stride1, stride2 = (1, stride) if style == 'pytorch' else (stride, 1)
        self.width = width
        self.hierarchical = downsample is None
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, width * scales, kernel_size=1, stride=stride1, bias=False
        )
        self.norm1_name = add_norm(self, norm_cfg, width * scales, 1)
        pooled = downsample is not None and (stride2 > 1 or first_block_pool == 'always')
        # Padding counts in this average, unlike in the shortcut's.
        self.pool = nn.AvgPool2d(3, stride=stride2, padding=1) if pooled else None
        self.conv3 = build_conv_layer(
            conv_cfg, width * scales, planes * self.expansion, kernel_size=1, bias=False
        )
        self.last_norm_name = self.norm3_name = add_norm(self, norm_cfg, planes * self.expansion, 3)
        self.downsample = downsample
        # After conv3, as in mmdetection: optimiser states are matched by parameter order.
        self.convs = nn.ModuleList(
            build_spatial_conv(conv_cfg, dcn, width, width, stride=stride2, dilation=dilation)
            for _ in range(scales - 1)
        )
        self.bns = nn.ModuleList(build_norm_layer(norm_cfg, width)[1] for _ in range(scales - 1))

    def residual(self, x: Tensor) -> Tensor:
        direct = self.direct
        x = self.relu(conv_norm(x, self.conv1, getattr(self, self.norm1_name), direct))
        groups = torch.split(x, self.width, dim=1)  # views, scales x (B, width, H, W)
        outs = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.bns)):
            y = groups[i] + outs[-1] if self.hierarchical and i > 0 else groups[i]
            outs.append(self.relu(conv_norm(y, conv, norm, direct)))
        outs.append(groups[-1] if self.pool is None else self.pool(groups[-1]))
        x = torch.cat(outs, dim=1)
        return conv_norm(x, self.conv3, getattr(self, self.norm3_name), direct)


@MODELS.register_module()
class Res2Net(ResNet):
    """ResNet with :class:`Bottle2neck` blocks; the defaults are mmdetection's "v1d" variant.

    ``style``, ``deep_stem`` and ``avg_down`` are honoured here; mmdetection accepts them and builds
    ``'pytorch'``, True, True whatever they say. The table in this module's docstring lists the
    combinations of the published weights.

    Args:
        depth: 50, 101 or 152.
        scales, base_width: 4 and 26 are "26w4s".
        first_block_pool: see :class:`Bottle2neck`.

    All other arguments are those of :class:`ResNet`.
    """

    arch_settings = {
        depth: setting
        for depth, setting in ResNet.arch_settings.items()
        if setting[0] is Bottleneck
    }

    def __init__(
        self,
        depth: int,
        scales: int = 4,
        base_width: int = 26,
        style: str = 'pytorch',
        deep_stem: bool = True,
        avg_down: bool = True,
        first_block_pool: str = 'strided',
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006  read only
        norm_eval: bool = True,
        dcn: dict | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if scales < 2:
            raise ConfigError(
                f'backbone.scales is {scales}; Res2Net needs at least 2 (1 is a plain ResNet)'
            )
        if first_block_pool not in ('strided', 'always'):
            raise ConfigError(
                f"backbone.first_block_pool is {first_block_pool!r}; expected 'strided' or 'always'"
            )
        super().__init__(
            depth,
            in_channels=in_channels,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            style=style,
            deep_stem=deep_stem,
            avg_down=avg_down,
            frozen_stages=frozen_stages,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            norm_eval=norm_eval,
            dcn=dcn,
            stage_with_dcn=stage_with_dcn,
            plugins=plugins,
            with_cp=with_cp,
            zero_init_residual=zero_init_residual,
            block=Bottle2neck,
            block_args=dict(
                scales=scales,
                base_width=base_width,
                base_channels=base_channels,
                first_block_pool=first_block_pool,
            ),
            pretrained=pretrained,
            init_cfg=init_cfg,
        )
