"""Feature pyramid: lateral 1x1 convolutions, a top-down sum, one 3x3 convolution per level.

Paper: https://arxiv.org/abs/1612.03144. Keys are mmdetection 3.x's: ``lateral_convs.{i}.conv``,
``fpn_convs.{i}.conv`` (``.bn``/``.gn`` with a norm).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS

_EXTRA_SOURCES = ('on_input', 'on_lateral', 'on_output')


@torch.fx.wrap  # so that a traced graph checks its inputs too
def _check_count(inputs: Sequence[Tensor], expected: int) -> None:
    if len(inputs) != expected:
        raise ConfigError(
            f'FPN got {len(inputs)} feature maps, but its in_channels has {expected}: compare '
            'backbone.out_indices with neck.in_channels'
        )


@MODELS.register_module()
class FPN(BaseModule):
    """Turns backbone maps into ``num_outs`` maps of ``out_channels``, each half the one before.

    Args:
        in_channels: channels of every backbone map handed over.
        out_channels: channels of every output.
        num_outs: number of outputs; those beyond the used inputs are made from the last one.
        start_level, end_level: first and last (inclusive; -1 is the last) input that is used.
        add_extra_convs: how further outputs are made: False by taking every second cell of the last
            output, otherwise by stride-2 3x3 convolutions of the last backbone map (True or
            ``'on_input'``), of the last top-down map (``'on_lateral'``) or of the last output
            (``'on_output'``).
        relu_before_extra_convs: ReLU before the second and later extra convolution.
        no_norm_on_lateral: leave the norm out of the lateral convolutions.
        conv_cfg, norm_cfg, act_cfg: mmcv layer configs; by default biased convolutions, no norm, no
            activation.
        upsample_cfg: arguments of ``F.interpolate``; unless it holds ``scale_factor``, maps are
            enlarged to the size of the map they are added to.
        init_cfg: mmengine initialisation; by default uniform Xavier.

    Raises:
        ConfigError: the level numbers do not fit together.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        upsample_cfg: dict = dict(mode='nearest'),  # noqa: B006  read only
        init_cfg: dict | list[dict] | None = dict(  # noqa: B006  read only
            type='Xavier', layer='Conv2d', distribution='uniform'
        ),
    ) -> None:
        super().__init__(init_cfg)
        num_ins = len(in_channels)
        last = num_ins - 1 if end_level == -1 else end_level
        if not 0 <= start_level <= last < num_ins:
            raise ConfigError(
                f'neck: start_level {start_level} and end_level {end_level} do not fit the '
                f'{num_ins} inputs of in_channels'
            )
        num_used = last - start_level + 1
        num_extra = num_outs - num_used
        if num_extra < 0 or (num_extra > 0 and last < num_ins - 1):
            raise ConfigError(
                f'neck.num_outs is {num_outs}, but start_level {start_level} and '
                f'end_level {end_level} use {num_used} of {num_ins} inputs'
                + ('; more outputs need end_level -1' if num_extra > 0 else '')
            )
        if add_extra_convs is True:
            add_extra_convs = 'on_input'
        if add_extra_convs and add_extra_convs not in _EXTRA_SOURCES:
            raise ConfigError(
                f'neck.add_extra_convs is {add_extra_convs!r}; expected a bool or one of '
                + ', '.join(_EXTRA_SOURCES)
            )
        self.in_channels = tuple(in_channels)
        self.start_level = start_level
        self.end_level = last
        self.num_outs = num_outs
        self.add_extra_convs = add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = dict(upsample_cfg)

        layer = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, inplace=False)
        lateral = dict(layer, norm_cfg=None) if no_norm_on_lateral else layer
        used = range(start_level, last + 1)
        # torch's ModuleList, not mmengine's: that one would let every ConvModule initialise itself
        # after, and in place of, init_cfg.
        self.lateral_convs = nn.ModuleList(
            ConvModule(in_channels[i], out_channels, 1, **lateral) for i in used
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **layer) for _ in used
        )
        if add_extra_convs:
            for i in range(num_extra):
                from_input = i == 0 and add_extra_convs == 'on_input'
                channels = in_channels[last] if from_input else out_channels
                self.fpn_convs.append(
                    ConvModule(channels, out_channels, 3, stride=2, padding=1, **layer)
                )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone maps, each ``(B, in_channels[i], H_i, W_i)`` -> ``num_outs`` maps ``(B,
        out_channels, H, W)``."""
        _check_count(inputs, len(self.in_channels))
        merged = [
            conv(inputs[i]) for i, conv in enumerate(self.lateral_convs, start=self.start_level)
        ]
        for i in range(len(merged) - 1, 0, -1):
            size = {} if 'scale_factor' in self.upsample_cfg else {'size': merged[i - 1].shape[2:]}
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], **size, **self.upsample_cfg)

        outs = [conv(x) for conv, x in zip(self.fpn_convs, merged)]
        if not self.add_extra_convs:
            while len(outs) < self.num_outs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
            return tuple(outs)
        x = {'on_input': inputs[self.end_level], 'on_lateral': merged[-1], 'on_output': outs[-1]}[
            self.add_extra_convs
        ]
        for i, conv in enumerate(self.fpn_convs[len(merged) :]):
            outs.append(conv(F.relu(x) if self.relu_before_extra_convs and i > 0 else x))
            x = outs[-1]
        return tuple(outs)
