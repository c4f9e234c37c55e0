"""The semantic branch of Panoptic FPN (https://arxiv.org/abs/1901.02446, section 3).

It tells the kinds of stuff apart and counts all things as one class, the last: that is mmdetection
3.x's order of channels. detectron2 has the things first; its weights are put into this order when
they are loaded (:mod:`mmdet_r2.zoo.detectron2`).

Attribute names are bound by checkpoints. Shape legend: B images, C classes (stuff and one), D
channels, H W the batch's size, h w the map of the finest level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.losses import build_loss
from mmdet_r2.models.targets import Targets, check_labels
from mmdet_r2.registry import MODELS
from mmdet_r2.structures import DetDataSample

_NORM = dict(type='GN', num_groups=32, requires_grad=True)
_LOSS = dict(type='CrossEntropyLoss', ignore_index=-1, loss_weight=1.0)
_INIT = dict(type='Normal', std=0.01, override=dict(name='conv_logits'))

LABEL_ORDERS = ('all_classes', 'things_first')


class ConvUpsample(nn.Module):
    """3x3 convolutions, the first of which are each followed by a bilinear enlargement to twice the
    size: (B, D, h, w) -> (B, inner_channels, h * 2 ** num_upsample, w * 2 ** num_upsample).
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        num_layers: int,
        num_upsample: int,
        conv_cfg: dict | None,
        norm_cfg: dict | None,
        bias: bool | str,
    ) -> None:
        super().__init__()
        self.num_upsample = num_upsample
        self.conv = nn.ModuleList(
            ConvModule(
                in_channels if i == 0 else inner_channels,
                inner_channels,
                3,
                padding=1,
                bias=bias,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            for i in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.conv):
            x = conv(x)
            if i < self.num_upsample:
                x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        return x


@MODELS.register_module()
class PanopticFPNHead(BaseModule):
    """Pyramid levels brought to the finest one's resolution by convolutions and enlargements,
    summed, and classified.

    mmdetection 3.x compares with labels shrunk to the logits' size and averages over all pixels,
    the defaults here. detectron2 enlarges the logits to the labels' size
    (``full_resolution=True``) and averages over the pixels that have a label
    (``loss_seg.avg_non_ignore=True``).

    Args:
        num_things_classes, num_stuff_classes: of the data set, things first: 80 and 53 in COCO.
        inner_channels: of the convolutions.
        start_level, end_level: levels ``start_level`` to ``end_level - 1`` of the pyramid are
            taken. Level i is enlarged i times, by as many convolutions (level 0 by one, without
            enlargement).
        norm_cfg: of the convolutions; None: without norm.
        bias: of the convolutions; ``'auto'``: those without a norm have one.
        full_resolution: the loss compares at the labels' resolution.
        label_order: what the maps hold. ``'all_classes'``: the number of the class, things before
            stuff; ``'things_first'``: 0 for any thing, and stuff from 1 on, as in the maps that
            detectron2 prepares.
        init_cfg: by default the logits are small (mmdetection's).

    Raises:
        ConfigError: the levels are not in order, or the label order is unknown.
    """

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        in_channels: int = 256,
        inner_channels: int = 128,
        start_level: int = 0,
        end_level: int = 4,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = _NORM,
        bias: bool | str = 'auto',
        full_resolution: bool = False,
        label_order: str = 'all_classes',
        loss_seg: dict = _LOSS,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or _INIT)
        if not 0 <= start_level < end_level:
            raise ConfigError(
                f'semantic_head: start_level {start_level} and end_level {end_level} leave no '
                'level of the pyramid'
            )
        if label_order not in LABEL_ORDERS:
            raise ConfigError(
                f'semantic_head.label_order is {label_order!r}; expected one of '
                + ', '.join(LABEL_ORDERS)
            )
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_stuff_classes + 1
        self.start_level = start_level
        self.stride = 2 ** (start_level + 2)  # of the logits
        self.full_resolution = full_resolution
        self.label_order = label_order
        self.conv_upsample_layers = nn.ModuleList(
            ConvUpsample(in_channels, inner_channels, max(i, 1), i, conv_cfg, norm_cfg, bias)
            for i in range(start_level, end_level)
        )
        self.conv_logits = nn.Conv2d(inner_channels, self.num_classes, 1)
        self.criterion = build_loss(
            loss_seg, 'loss_seg', self.num_classes, 'map', said=' (things as one, last)'
        )

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """L x (B, D, ., .), finest first -> logits (B, C, h, w); the things are the last class."""
        used = feats[self.start_level :]
        if len(used) < len(self.conv_upsample_layers):
            raise ConfigError(
                f'semantic_head takes levels up to {self.start_level}'
                f'+{len(self.conv_upsample_layers)}, the neck gives {len(feats)}'
            )
        fused = self.conv_upsample_layers[0](used[0])
        for layer, feat in zip(self.conv_upsample_layers[1:], used[1:], strict=False):
            fused = fused + layer(feat)
        return self.conv_logits(fused)

    def loss(self, feats: tuple[Tensor, ...], targets: Targets) -> dict[str, Tensor]:
        """``loss_seg``: cross entropy with the semantic maps of the batch.

        Raises:
            DataError: the samples have no maps, maps of unequal or unfit size, or labels that are
                no class.
        """
        return self.loss_by_logits(self(feats), targets)

    def loss_by_logits(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """:meth:`loss` of logits (B, C, h, w)."""
        maps = self._maps(targets, logits.shape[-2:])
        if not self.full_resolution:
            step, (height, width) = self.stride, maps.shape[-2:]
            maps = maps[:, ::step, ::step][:, : height // step, : width // step]
        labels = self._labels(maps.long(), targets.names)
        if labels.shape[-2:] != logits.shape[-2:]:
            logits = _resize(logits, labels.shape[-2:])
        return dict(loss_seg=self.criterion(logits, labels))

    @torch.no_grad()
    def predict(
        self,
        feats: tuple[Tensor, ...],
        samples: list[DetDataSample],
        input_shape: Sequence[int],
        rescale: bool = True,
    ) -> list[Tensor]:
        """Logits of each image without its padding, B x (C, height, width): of the original
        image's size with ``rescale``, else of the network input's.

        Args:
            input_shape: height and width of the padded batch.
        """
        logits = _resize(self(feats), input_shape)
        results = []
        for own, sample in zip(logits, samples, strict=True):  # ragged: each image has its size
            height, width = sample.img_shape[:2]
            own = own[:, :height, :width]
            results.append(_resize(own[None], sample.ori_shape[:2])[0] if rescale else own)
        return results

    def _maps(self, targets: Targets, size: Sequence[int]) -> Tensor:
        """The batch's maps (B, H, W), which fit logits of ``size``."""
        if targets.semantic is None:
            raise DataError(
                'semantic_head needs semantic maps, the samples have none (no gt_sem_seg): load '
                'them with LoadPanopticAnnotations, or with LoadAnnotations(with_seg=True) and '
                "data_prefix=dict(seg='...') in the dataset"
            )
        maps = targets.semantic_maps()
        found = tuple(maps.shape[-2:])
        if tuple(-(-side // self.stride) for side in found) != tuple(size):
            raise DataError(
                f'semantic map of {targets.names[0]}: {found} pixels, expected {self.stride} '
                f'times those of the logits, {tuple(size)}: a map has the size of its image '
                '(set data_preprocessor.pad_seg=True)'
            )
        return maps

    def _labels(self, maps: Tensor, names: list[str]) -> Tensor:
        """Labels of the data (B, ., .) as channels of the head: stuff from 0 on, then things."""
        num_things = self.num_things_classes if self.label_order == 'all_classes' else 1
        ignore_index, limit = self.criterion.ignore_index, num_things + self.num_stuff_classes
        head = f'semantic_head (label_order={self.label_order!r})'
        check_labels(maps, ignore_index, limit, names, head)
        labels = torch.where(maps < num_things, self.num_stuff_classes, maps - num_things)
        return torch.where(maps == ignore_index, maps, labels)


def _resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, ., .) -> (B, C, *size), bilinear."""
    return F.interpolate(logits, tuple(size), mode='bilinear', align_corners=False)
