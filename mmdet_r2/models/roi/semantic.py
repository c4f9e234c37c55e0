"""The semantic branch of HTC (https://arxiv.org/abs/1901.07518, section 3.4).

Attribute names are bound by checkpoints. Shape legend: B images, C semantic classes, D channels,
H W the map of the fusion level.
"""

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.losses import build_loss
from mmdet_r2.models.targets import Targets, check_labels
from mmdet_r2.registry import MODELS

_LOSS = dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2)


@MODELS.register_module()
class FusedSemanticHead(BaseModule):
    """All pyramid levels, each through a 1x1 convolution, summed at one level's resolution; then
    3x3 convolutions, and from these both class logits and an embedding that the RoI branches pool.

    Args:
        num_ins: pyramid levels taken.
        fusion_level: index of the level whose resolution is used.
        seg_scale_factor: that resolution over the image's; labels are shrunk by it.
        num_classes: of the stuff maps (COCO-Stuff: 183).
        ignore_label, loss_weight: older names for ``loss_seg.ignore_index`` and
            ``loss_seg.loss_weight``.
    """

    def __init__(
        self,
        num_ins: int,
        fusion_level: int,
        seg_scale_factor: float = 1 / 8,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        num_classes: int = 183,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        ignore_label: int | None = None,
        loss_weight: float | None = None,
        loss_seg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        init_cfg = init_cfg or dict(type='Kaiming', override=dict(name='conv_logits'))
        super().__init__(init_cfg)
        if not 0 <= fusion_level < num_ins:
            raise ConfigError(
                f'semantic_head.fusion_level={fusion_level}: expected an index below num_ins='
                f'{num_ins}'
            )
        self.fusion_level = fusion_level
        self.seg_scale_factor = seg_scale_factor
        self.num_classes = num_classes
        norms = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.lateral_convs = nn.ModuleList(
            ConvModule(in_channels, in_channels, 1, inplace=False, **norms) for _ in range(num_ins)
        )
        self.convs = nn.ModuleList(
            ConvModule(
                in_channels if i == 0 else conv_out_channels,
                conv_out_channels,
                3,
                padding=1,
                **norms,
            )
            for i in range(num_convs)
        )
        channels = conv_out_channels if num_convs else in_channels
        self.conv_embedding = ConvModule(channels, conv_out_channels, 1, **norms)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        loss_seg = dict(loss_seg or _LOSS)
        if ignore_label is not None:
            loss_seg['ignore_index'] = ignore_label
        if loss_weight is not None:
            loss_seg['loss_weight'] = loss_weight
        self.criterion = build_loss(loss_seg, 'loss_seg', num_classes, 'map')

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """L x (B, D, h, w), finest first -> logits (B, C, H, W) and embedding (B, D, H, W)."""
        fused = self.fuse(feats)
        return self.conv_logits(fused), self.conv_embedding(fused)

    def embed(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The embedding alone, for inference."""
        return self.conv_embedding(self.fuse(feats))

    def fuse(self, feats: tuple[Tensor, ...]) -> Tensor:
        """What logits and embedding are made from: (B, D, H, W)."""
        size = feats[self.fusion_level].shape[-2:]
        fused = self.lateral_convs[self.fusion_level](feats[self.fusion_level])
        for i, (feat, lateral) in enumerate(zip(feats, self.lateral_convs, strict=True)):
            if i != self.fusion_level:
                feat = F.interpolate(feat, size, mode='bilinear', align_corners=True)
                fused = fused + lateral(feat)
        for conv in self.convs:
            fused = conv(fused)
        return fused

    def loss(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Cross entropy of logits (B, C, H, W) with the stuff maps, shrunk by nearest neighbour.

        Raises:
            DataError: the samples have no maps, maps of unequal or unfit size, or labels that the
                head has no class for.
        """
        if targets.semantic is None:
            raise DataError(
                'roi_head.semantic_head needs stuff maps, the samples have none: set '
                "data_prefix=dict(seg='stuffthingmaps/train2017/') in the dataset and "
                'with_seg=True in LoadAnnotations, or use a config without semantics'
            )
        maps = targets.semantic_maps()[:, None].float()
        labels = F.interpolate(maps, scale_factor=self.seg_scale_factor, mode='nearest')
        labels = labels[:, 0].long()
        if labels.shape[-2:] != logits.shape[-2:]:
            raise DataError(
                f'stuff map of {targets.names[0]}: {tuple(maps.shape[-2:])} padded pixels shrunk '
                f'by semantic_head.seg_scale_factor={self.seg_scale_factor} are '
                f'{tuple(labels.shape[-2:])}, the features of level {self.fusion_level} are '
                f'{tuple(logits.shape[-2:])}: the map must have the size of its image, and the '
                "factor must be one over the level's stride"
            )
        head = f'roi_head.semantic_head (num_classes={self.num_classes})'
        check_labels(labels, self.criterion.ignore_index, self.num_classes, targets.names, head)
        return dict(loss_semantic_seg=self.criterion(logits, labels))
