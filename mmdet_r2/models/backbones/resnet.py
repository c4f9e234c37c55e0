"""ResNet and ResNeXt: the container every backbone here is built from, and its two blocks.

Papers: https://arxiv.org/abs/1512.03385 (ResNet), https://arxiv.org/abs/1611.05431 (ResNeXt),
https://arxiv.org/abs/1812.01187 (the V1b/V1d stems and shortcuts).

Attribute names (``conv1``, ``bn1``, ``stem``, ``layer1`` ... ``downsample``) are those of
torchvision and mmdetection 3.x: checkpoints are keyed by them.

Shapes: ``B`` images, ``C`` channels, ``H W`` cells of a feature map.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partialmethod

import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer, build_plugin_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

import mmdet_r2.models.norms  # noqa: F401  registers its norms
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones.deform import DEFORM_CONVS
from mmdet_r2.registry import MODELS


def add_norm(module: nn.Module, norm_cfg: dict, channels: int, index: int) -> str:
    """Register a norm layer as ``bn1``, ``gn2``, ... (its kind and ``index``) and return that name.

    The kind is part of the name, hence of the checkpoint's keys; ``BN`` and ``SyncBN`` share
    ``bn``.
    """
    name, norm = build_norm_layer(norm_cfg, channels, postfix=index)
    module.add_module(name, norm)
    return name


def build_spatial_conv(
    conv_cfg: dict | None,
    dcn: dict | None,
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    dilation: int,
    groups: int = 1,
) -> nn.Module:
    """A block's 3x3 convolution without bias: deformable if ``dcn`` is given, else ``conv_cfg``.

    ``dcn`` is mmcv's layer config (``type='DCN'`` or ``'DCNv2'``, ``deform_groups``) plus
    ``offset_groups`` (see :class:`~mmdet_r2.models.backbones.deform.DeformConv`) and
    ``fallback_on_stride``: True keeps a plain convolution.

    Raises:
        ConfigError: ``dcn`` is not a deformable convolution or does not fit the channels.
    """
    layer = dict(
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    if dcn is not None:
        dcn = dict(dcn)
        if not dcn.pop('fallback_on_stride', False):
            kind = dcn.pop('type', None)
            if kind not in DEFORM_CONVS:
                known = ', '.join(DEFORM_CONVS)
                raise ConfigError(f'backbone.dcn.type is {kind!r}; expected one of {known}')
            for key in ('deform_groups', 'offset_groups'):
                count = dcn.get(key, 1)
                if not isinstance(count, int) or count < 1 or in_channels % count:
                    raise ConfigError(
                        f'backbone.dcn.{key} is {count!r}, which does not divide the {in_channels} '
                        'channels of a deformable convolution'
                    )
            try:
                return DEFORM_CONVS[kind](in_channels, out_channels, **layer, **dcn)
            except (TypeError, ValueError) as error:
                raise ConfigError(f'backbone.dcn: {error}') from error
    return build_conv_layer(conv_cfg, in_channels, out_channels, **layer)


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module, direct: bool) -> Tensor:
    """``norm(conv(x))``; with ``direct``, by the cheapest arithmetic that trains the same.

    A batch norm in eval mode only scales and shifts. Scaling the convolution's weights instead
    gives the same result and the same gradients; it costs a pass over the weights rather than
    several over the feature map, and the convolution's output need not be stored for the backward
    pass (https://arxiv.org/abs/2305.11624).
    """
    if not direct or type(conv) is not nn.Conv2d or conv._forward_hooks or norm._forward_hooks:
        return norm(conv(x))
    folds = (
        isinstance(norm, _BatchNorm)
        and not norm.training
        and norm.affine
        and norm.track_running_stats
        and conv.bias is None
    )
    weight, bias = conv.weight, conv.bias
    if folds:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight = weight * scale.view(-1, 1, 1, 1)
    dilation = conv.dilation
    if (
        conv.kernel_size == (1, 1)
        and x.device.type == 'cpu'
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() == 1
    ):
        # With one thread torch computes 1x1 convolutions as matrix products of MKL, unless they are
        # dilated, which means nothing to a single cell: then oneDNN does, twice as fast on AMD.
        dilation = (2, 2)
    x = F.conv2d(x, weight, bias, conv.stride, conv.padding, dilation, conv.groups)
    return x if folds else norm(x)


def run_layers(x: Tensor, layers: nn.Sequential, direct: bool) -> Tensor:
    """Apply a sequence in which every convolution is followed by its norm."""
    if not direct:
        return layers(x)
    rest = iter(layers)
    for layer in rest:
        x = conv_norm(x, layer, next(rest), direct) if isinstance(layer, nn.Conv2d) else layer(x)
    return x


class ResidualBlock(BaseModule):
    """What all blocks share: ``relu(residual(x) + shortcut(x))``.

    A subclass defines ``expansion``, ``residual``, ``last_norm_name`` and ``downsample``. With
    ``with_cp`` the backward pass recomputes the block instead of having stored its activations.
    """

    expansion: int
    last_norm_name: str

    downsample: nn.Module | None

    def __init__(self, *, with_cp: bool, zero_init: bool) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.zero_init = zero_init
        self.direct = False  # see conv_norm; the container sets it while it trains
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        """The branch beside the shortcut, up to and including its last norm."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise children; with ``zero_init`` the block starts as its shortcut."""
        first_time = not self.is_init
        super().init_weights()
        if first_time and self.zero_init:
            nn.init.zeros_(getattr(self, self.last_norm_name).weight)

    def _add(self, x: Tensor) -> Tensor:
        out = self.residual(x)
        # The last norm's output is needed by nobody else, so the sum may overwrite it.
        if self.downsample is not None:
            x = run_layers(x, self.downsample, self.direct)
        out += x
        return out

    def forward(self, x: Tensor) -> Tensor:
        if not (self.with_cp and self.training and x.requires_grad):
            return self.relu(self._add(x))
        if torch.compiler.is_compiling():  # which takes no context of ours
            return self.relu(checkpoint(self._add, x, use_reentrant=False))
        return self.relu(
            checkpoint(self._add, x, use_reentrant=False, context_fn=self._checkpoint_contexts)
        )

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), self._same_batch_again()

    @contextmanager
    def _same_batch_again(self) -> Iterator[None]:
        """Keep batch norms from moving their statistics again while the block is recomputed."""
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm) and m.training]
        kept = [dict(norm._buffers) for norm in norms]
        for norm in norms:  # copies to move instead
            for name, buffer in norm._buffers.items():
                norm._buffers[name] = None if buffer is None else buffer.clone()
        try:
            yield
        finally:
            for norm, buffers in zip(norms, kept):
                norm._buffers.update(buffers)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (ResNet-18 and -34); the first carries the stride."""

    expansion = 1

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
    ) -> None:
        super().__init__(with_cp=with_cp, zero_init=zero_init)
        if dcn is not None:
            raise ConfigError(
                'backbone.dcn: ResNet-18 and -34 have no deformable variant; use depth 50 or more'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv1 = build_spatial_conv(
            conv_cfg, None, in_channels, planes, stride=stride, dilation=dilation
        )
        self.norm1_name = add_norm(self, norm_cfg, planes, 1)
        self.conv2 = build_spatial_conv(conv_cfg, None, planes, planes, stride=1, dilation=1)
        self.last_norm_name = self.norm2_name = add_norm(self, norm_cfg, planes, 2)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        direct = self.direct
        x = self.relu(conv_norm(x, self.conv1, getattr(self, self.norm1_name), direct))
        return conv_norm(x, self.conv2, getattr(self, self.norm2_name), direct)


class Bottleneck(ResidualBlock):
    """1x1 down, 3x3 (plain, grouped or deformable), 1x1 up to four times ``planes``.

    Args:
        style: ``'pytorch'`` strides in the 3x3 convolution, ``'caffe'`` in the first 1x1.
        groups, base_width, base_channels: ResNeXt's cardinality and width per group. With one group
            the width is ``planes``, otherwise ``floor(planes * base_width / base_channels) *
            groups``.
        plugins: mmcv's plugin layers, dicts of ``cfg`` and ``position`` (one of
            ``plugin_positions``).
    """

    expansion = 4
    plugin_positions = ('after_conv1', 'after_conv2', 'after_conv3')

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
        base_width: int = 64,
        base_channels: int = 64,
        plugins: Sequence[dict] = (),
    ) -> None:
        super().__init__(with_cp=with_cp, zero_init=zero_init)
        norm_cfg = norm_cfg or dict(type='BN')
        width = planes
        if groups > 1:
            width = math.floor(planes * base_width / base_channels) * groups
        stride1, stride2 = (1, stride) if style == 'pytorch' else (stride, 1)
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels, width, kernel_size=1, stride=stride1, bias=False
        )
        self.norm1_name = add_norm(self, norm_cfg, width, 1)
        self.conv2 = build_spatial_conv(
            conv_cfg, dcn, width, width, stride=stride2, dilation=dilation, groups=groups
        )
        self.norm2_name = add_norm(self, norm_cfg, width, 2)
        self.conv3 = build_conv_layer(
            conv_cfg, width, planes * self.expansion, kernel_size=1, bias=False
        )
        self.last_norm_name = self.norm3_name = add_norm(self, norm_cfg, planes * self.expansion, 3)
        self.downsample = downsample
        # Names of layers, which are keys of the checkpoint, by position.
        self.plugin_names: dict[str, list[str]] = {name: [] for name in self.plugin_positions}
        for plugin in plugins:
            self._add_plugin(
                plugin['position'],
                dict(plugin['cfg']),
                planes * self.expansion if plugin['position'] == 'after_conv3' else width,
            )

    def _add_plugin(self, position: str, cfg: dict, channels: int) -> None:
        try:
            postfix = cfg.pop('postfix', '')
            name, layer = build_plugin_layer(cfg, postfix=postfix, in_channels=channels)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'backbone.plugins: {error}') from error
        if hasattr(self, name):
            raise ConfigError(f'backbone.plugins has {name} twice: give each cfg its postfix')
        self.add_module(name, layer)
        self.plugin_names[position].append(name)

    def _plugged(self, x: Tensor, position: str) -> Tensor:
        for name in self.plugin_names[position]:
            x = getattr(self, name)(x)
        return x

    def residual(self, x: Tensor) -> Tensor:
        direct = self.direct
        x = self.relu(conv_norm(x, self.conv1, getattr(self, self.norm1_name), direct))
        x = self._plugged(x, 'after_conv1')
        x = self.relu(conv_norm(x, self.conv2, getattr(self, self.norm2_name), direct))
        x = self._plugged(x, 'after_conv2')
        x = conv_norm(x, self.conv3, getattr(self, self.norm3_name), direct)
        return self._plugged(x, 'after_conv3')


def stage_plugins(plugins: Sequence[dict], stage: int, num_stages: int) -> list[dict]:
    """The plugins of one stage: those whose ``stages`` (all, if left out) say so."""
    for plugin in plugins:
        if plugin.get('position') not in Bottleneck.plugin_positions or 'cfg' not in plugin:
            raise ConfigError(
                f'backbone.plugins: {plugin!r} needs a cfg and a position, one of '
                + ', '.join(Bottleneck.plugin_positions)
            )
        if len(plugin.get('stages') or (True,) * num_stages) != num_stages:
            raise ConfigError(f'backbone.plugins: stages needs {num_stages} values (num_stages)')
    return [p for p in plugins if not p.get('stages') or p['stages'][stage]]


def default_init(
    init_cfg: dict | list[dict] | None, pretrained: str | None, key: str
) -> dict | list[dict]:
    """Initialisation of a backbone or a part of one: what is given, else Kaiming convolutions and
    unit norms; ``pretrained`` is the old name of a file to load."""
    if pretrained is not None:
        if init_cfg is not None:
            raise ConfigError(f'{key}: give either pretrained or init_cfg, not both')
        return dict(type='Pretrained', checkpoint=pretrained)
    if init_cfg is not None:
        return init_cfg
    return [
        dict(type='Kaiming', layer='Conv2d'),
        dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
    ]


def build_stage(
    block: type[ResidualBlock],
    num_blocks: int,
    in_channels: int,
    planes: int,
    *,
    stride: int,
    avg_down: bool,
    conv_cfg: dict | None,
    norm_cfg: dict,
    block_args: dict,
) -> Sequential:
    """A stage of ``num_blocks`` residual blocks of ``planes``, the first with ``stride``."""
    out_channels = planes * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        layers: list[nn.Module] = []
        if avg_down:
            # At stride 1 there is nothing to pool; the place is kept because later keys count
            # on it.
            layers.append(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
                if stride != 1
                else nn.Identity()
            )
        layers += [
            build_conv_layer(
                conv_cfg,
                in_channels,
                out_channels,
                kernel_size=1,
                stride=1 if avg_down else stride,
                bias=False,
            ),
            build_norm_layer(norm_cfg, out_channels)[1],
        ]
        downsample = nn.Sequential(*layers)
    blocks = [block(in_channels, planes, stride=stride, downsample=downsample, **block_args)]
    blocks += [block(out_channels, planes, **block_args) for _ in range(1, num_blocks)]
    return Sequential(*blocks)


def set_modes(module: nn.Module, mode: bool, norm_eval: bool) -> None:
    """What training mode means for residual stages: with ``norm_eval`` batch norms stay in eval
    mode; blocks compute directly, where they have to."""
    for child in module.modules():
        if mode and norm_eval and isinstance(child, _BatchNorm):
            child.eval()
        if isinstance(child, ResidualBlock):
            child.direct = mode


@MODELS.register_module()
class ResNet(BaseModule):
    """Stem and up to four stages of residual blocks; returns the feature maps of ``out_indices``.

    The stages of depth 50 with the default base give C2...C5 = 256, 512, 1024, 2048 channels at
    strides 4, 8, 16, 32. Any :class:`ResidualBlock` can be plugged in through ``block``; variants
    are presets of this class.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the input image.
        stem_channels: output channels of the stem; ``None`` is ``base_channels``.
        base_channels: ``planes`` of the first stage, doubled at each further one.
        num_stages: how many stages are built, 1 to 4.
        strides, dilations: of each stage's first block and of all its 3x3 convolutions.
        out_indices: stages (0-based) whose output is returned.
        style: ``'pytorch'`` strides in the 3x3 convolution, ``'caffe'`` in the first 1x1 of a
            bottleneck.
        deep_stem: three 3x3 convolutions (V1b, V1d) instead of one 7x7.
        avg_down: shortcuts that pool before a stride-1 1x1 convolution (V1d) instead of striding in
            it.
        frozen_stages: -1 trains everything; 0 freezes the stem, ``n`` also the first ``n`` stages:
            no gradients, norm statistics kept, no activations stored.
        conv_cfg: kind of the plain convolutions, ``None`` is Conv2d.
        norm_cfg: mmcv norm config (BN, SyncBN, GN, ...) or one of :mod:`mmdet_r2.models.norms`
            (NaiveSyncBN, FrozenBN); ``requires_grad=False`` keeps its weight and bias constant.
        norm_eval: keep the running statistics of all batch norms while training; weight and bias
            still train.
        dcn: mmcv config of a deformable convolution (DCN or DCNv2) for the 3x3 convolutions of the
            stages for which ``stage_with_dcn`` is True.
        plugins: layers of mmcv (ContextBlock, GeneralizedAttention, NonLocal2d) in the bottlenecks,
            dicts of ``cfg``, ``stages`` (a bool each) and ``position``.
        with_cp: recompute each block in the backward pass instead of storing its activations.
        zero_init_residual: start each block as its shortcut (weight of the last norm is 0).
        groups, base_width: ResNeXt's cardinality and width per group.
        block, block_args: block class and its further keyword arguments, for other backbones.
        pretrained: old name of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: mmengine initialisation; ``None`` is Kaiming convolutions and unit norms.

    Raises:
        ConfigError: an argument is out of range or two contradict each other.
    """

    arch_settings = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006  read only
        norm_eval: bool = True,
        dcn: dict | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[dict] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        groups: int = 1,
        base_width: int = 64,
        block: type[ResidualBlock] | None = None,
        block_args: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        plain_init = init_cfg is None and pretrained is None
        super().__init__(default_init(init_cfg, pretrained, 'backbone'))

        if depth not in self.arch_settings:
            known = ', '.join(map(str, self.arch_settings))
            raise ConfigError(
                f'backbone.depth is {depth}; {type(self).__name__} has the depths {known}'
            )
        if style not in ('pytorch', 'caffe'):
            raise ConfigError(f"backbone.style is {style!r}; expected 'pytorch' or 'caffe'")
        if not 1 <= num_stages <= 4:
            raise ConfigError(f'backbone.num_stages is {num_stages}; expected 1 to 4')
        for name, values in (
            ('strides', strides),
            ('dilations', dilations),
            ('stage_with_dcn', stage_with_dcn if dcn is not None else (False,) * num_stages),
        ):
            if len(values) != num_stages:
                raise ConfigError(
                    f'backbone.{name} has {len(values)} values, but num_stages is {num_stages}'
                )
        if not out_indices or not all(0 <= i < num_stages for i in out_indices):
            raise ConfigError(
                f'backbone.out_indices is {tuple(out_indices)}; '
                f'expected stages 0 to {num_stages - 1} (num_stages is {num_stages})'
            )
        if not -1 <= frozen_stages <= num_stages:
            raise ConfigError(
                f'backbone.frozen_stages is {frozen_stages}; expected -1 to {num_stages}'
            )

        default_block, stage_blocks = self.arch_settings[depth]
        block = block or default_block
        block_args = dict(block_args or {})
        if plugins and block is not Bottleneck:
            raise ConfigError(
                'backbone.plugins is not supported without the bottlenecks of ResNet and ResNeXt'
            )
        if groups > 1:
            if block is not Bottleneck:
                raise ConfigError(f'backbone.groups needs bottleneck blocks, not depth {depth}')
            block_args.update(groups=groups, base_width=base_width, base_channels=base_channels)

        self.depth = depth
        self.out_indices = tuple(out_indices)
        self.deep_stem = deep_stem
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        channels = base_channels if stem_channels is None else stem_channels
        self._build_stem(in_channels, channels, conv_cfg, norm_cfg)
        self.res_layers = []
        for i in range(num_stages):
            planes = base_channels * 2**i
            stage = build_stage(
                block,
                stage_blocks[i],
                channels,
                planes,
                stride=strides[i],
                avg_down=avg_down,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                block_args=dict(
                    block_args,
                    **dict(plugins=stage_plugins(plugins, i, num_stages)) if plugins else {},
                    dilation=dilations[i],
                    style=style,
                    with_cp=with_cp,
                    zero_init=zero_init_residual and plain_init,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    dcn=dcn if dcn is not None and stage_with_dcn[i] else None,
                ),
            )
            channels = planes * block.expansion
            self.res_layers.append(f'layer{i + 1}')
            self.add_module(self.res_layers[-1], stage)
        self._freeze()

    def _build_stem(
        self, in_channels: int, channels: int, conv_cfg: dict | None, norm_cfg: dict
    ) -> None:
        if self.deep_stem:
            layers = []
            widths = (in_channels, channels // 2, channels // 2, channels)
            for i in range(3):
                layers += [
                    build_conv_layer(
                        conv_cfg,
                        widths[i],
                        widths[i + 1],
                        kernel_size=3,
                        stride=2 if i == 0 else 1,
                        padding=1,
                        bias=False,
                    ),
                    build_norm_layer(norm_cfg, widths[i + 1])[1],
                    nn.ReLU(inplace=True),
                ]
            self.stem = nn.Sequential(*layers)
        else:
            self.conv1 = build_conv_layer(
                conv_cfg, in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False
            )
            self.norm1_name = add_norm(self, norm_cfg, channels, 1)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; deformable convolutions start with zero offsets."""
        first_time = not self.is_init
        super().init_weights()
        configs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg
        if not first_time or any(cfg['type'] == 'Pretrained' for cfg in configs):
            return  # a file may hold trained offsets; where it has none, they are zero already
        for module in self.modules():
            if hasattr(module, 'conv_offset'):
                nn.init.zeros_(module.conv_offset.weight)
                nn.init.zeros_(module.conv_offset.bias)

    def _stem_modules(self) -> list[nn.Module]:
        return [self.stem] if self.deep_stem else [self.conv1, getattr(self, self.norm1_name)]

    def _freeze(self) -> None:
        frozen = self._stem_modules() if self.frozen_stages >= 0 else []
        frozen += [getattr(self, name) for name in self.res_layers[: max(self.frozen_stages, 0)]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'ResNet':
        """Switch modes; frozen parts (with ``norm_eval``, every batch norm) stay in eval mode."""
        super().train(mode)
        self._freeze()
        set_modes(self, mode, self.norm_eval)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images ``(B, in_channels, H, W)`` -> one ``(B, C, H', W')`` per entry of
        ``out_indices``."""
        direct = self.training
        if self.deep_stem:
            x = run_layers(x, self.stem, direct)
        else:
            x = self.relu(conv_norm(x, self.conv1, getattr(self, self.norm1_name), direct))
        x = self.maxpool(x)
        # Frozen stages see no tensor that requires a gradient, so autograd records and stores
        # nothing for them.
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


@MODELS.register_module()
class ResNetV1d(ResNet):
    """ResNet with the deep stem and average-pooled shortcuts."""

    __init__ = partialmethod(ResNet.__init__, deep_stem=True, avg_down=True)


@MODELS.register_module()
class ResNeXt(ResNet):
    """ResNet with grouped 3x3 convolutions; ``groups=32, base_width=4`` is 32x4d."""

    __init__ = partialmethod(ResNet.__init__, base_width=4)
