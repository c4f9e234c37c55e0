"""Segment each RoI (https://arxiv.org/abs/1703.06870).

Attribute names ``convs``, ``upsample``, ``conv_logits`` are bound by checkpoints.
Shape legend: P positive RoIs of the batch, K classes, M mask side (28).
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_conv_layer, build_upsample_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.losses import build_loss
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class FCNMaskHead(BaseModule):
    """Convolutions, a 2x upsampling, and one mask per class.

    Args:
        roi_feat_size: cells per side of the RoI feature; the mask has ``scale_factor`` times as
            many.
        upsample_cfg: type 'deconv' (default), 'nearest' or 'bilinear'; None: no upsampling.
        predictor_cfg: conv type of the last 1x1.
    """

    def __init__(
        self,
        num_convs: int = 4,
        roi_feat_size: int | tuple[int, int] = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        class_agnostic: bool = False,
        upsample_cfg: dict | None = dict(type='deconv', scale_factor=2),  # noqa: B006 - never written to
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        predictor_cfg: dict | None = None,
        loss_mask: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        upsample = dict(upsample_cfg or dict(type=None))
        kind = upsample.pop('type')
        if kind not in (None, 'deconv', 'nearest', 'bilinear'):
            raise ConfigError(
                f'mask_head.upsample_cfg.type={kind!r}: expected deconv, nearest, bilinear or None'
            )
        self.roi_feat_size = (
            (roi_feat_size, roi_feat_size)
            if isinstance(roi_feat_size, int)
            else tuple(roi_feat_size)
        )
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        loss_mask = loss_mask or dict(type='CrossEntropyLoss', use_mask=True)
        self.loss_mask = build_loss(loss_mask, 'loss_mask', num_classes, 'masks')

        self.convs = nn.ModuleList(
            ConvModule(
                in_channels if i == 0 else conv_out_channels,
                conv_out_channels,
                conv_kernel_size,
                padding=(conv_kernel_size - 1) // 2,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            for i in range(num_convs)
        )
        channels = conv_out_channels if num_convs else in_channels
        scale = upsample.pop('scale_factor', 2) if kind else 1
        self.mask_size = (self.roi_feat_size[0] * scale, self.roi_feat_size[1] * scale)
        self.upsample: nn.Module | None = None
        self.relu_after_upsample = kind == 'deconv'
        if kind == 'deconv':
            layer = dict(
                type='deconv', in_channels=channels, out_channels=conv_out_channels, **upsample
            )
            self.upsample = build_upsample_layer(layer | dict(kernel_size=scale, stride=scale))
            channels = conv_out_channels
        elif kind:
            align = dict(align_corners=False) if kind == 'bilinear' else {}
            self.upsample = build_upsample_layer(
                dict(type=kind, scale_factor=scale, **align, **upsample)
            )
        self.plain_predictor = predictor_cfg is None or predictor_cfg['type'] in ('Conv', 'Conv2d')
        self.conv_logits = build_conv_layer(
            predictor_cfg, channels, 1 if class_agnostic else num_classes, 1
        )

    def init_weights(self) -> None:
        """He initialisation of the deconvolution and the predictor, unless ``init_cfg`` says
        otherwise; ConvModule did the rest.
        """
        super().init_weights()
        if self.init_cfg:
            return
        for layer in (self.upsample if self.relu_after_upsample else None, self.conv_logits):
            if layer is not None:
                nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
                nn.init.constant_(layer.bias, 0)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """RoI features (P, C, h, w) -> mask logits (P, K, M, M), or (P, 1, M, M) when
        class-agnostic; with ``labels`` (P,) only the mask of each row's class, (P, M, M).
        """
        return self.predict(self.features(x), labels)

    def features(self, x: Tensor) -> Tensor:
        """The convolutions: (P, C, h, w) -> (P, C', h, w)."""
        for conv in self.convs:
            x = conv(x)
        return x

    def predict(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The rest of :meth:`forward`: upsampling and logits of :meth:`features`."""
        if self.upsample is not None:
            x = self.upsample(x)
            if self.relu_after_upsample:
                x = F.relu(x, inplace=True)
        if labels is None:
            return self.conv_logits(x)
        if self.class_agnostic:
            return self.conv_logits(x)[:, 0]
        if not self.plain_predictor:
            return self.conv_logits(x)[torch.arange(len(x), device=x.device), labels]
        # One channel out of K: a K-th of the work and of the memory.
        weight = self.conv_logits.weight.flatten(1)[labels]  # (P, C)
        logits = torch.einsum('pchw,pc->phw', x, weight.to(x.dtype))
        return logits + self.conv_logits.bias[labels].to(logits.dtype)[:, None, None]

    def loss(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Binary loss of each positive's own class: logits and 0/1 targets, both (P, M, M)."""
        return dict(loss_mask=self.loss_mask(logits, targets))


@MODELS.register_module()
class HTCMaskHead(FCNMaskHead):
    """A mask head that also sees the features of the stage before it
    (https://arxiv.org/abs/1901.07518, section 3.3). Arguments as :class:`FCNMaskHead`.

    Args:
        with_conv_res: own the 1x1 convolution ``conv_res`` through which those features come; not
            in the first stage.
    """

    def __init__(
        self,
        with_conv_res: bool = True,
        num_convs: int = 4,
        roi_feat_size: int | tuple[int, int] = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        class_agnostic: bool = False,
        upsample_cfg: dict | None = dict(type='deconv', scale_factor=2),  # noqa: B006 - never written to
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        predictor_cfg: dict | None = None,
        loss_mask: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            num_convs=num_convs,
            roi_feat_size=roi_feat_size,
            in_channels=in_channels,
            conv_kernel_size=conv_kernel_size,
            conv_out_channels=conv_out_channels,
            num_classes=num_classes,
            class_agnostic=class_agnostic,
            upsample_cfg=upsample_cfg,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            predictor_cfg=predictor_cfg,
            loss_mask=loss_mask,
            init_cfg=init_cfg,
        )
        self.with_conv_res = with_conv_res
        if with_conv_res:
            self.conv_res = ConvModule(
                conv_out_channels, conv_out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )

    def features(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The convolutions, after adding the features ``before`` of the previous stage's head on
        the same RoIs (P, C', h, w).
        """
        return super().features(x if before is None else x + self.conv_res(before))
