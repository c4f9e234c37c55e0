"""RoI features from the pyramid level that fits each RoI (https://arxiv.org/abs/1612.03144,
equation 1).
"""

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """RoIAlign on one level per RoI.

    Args:
        roi_layer: ``dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=True)``.
        out_channels: channels of the pyramid.
        featmap_strides: input pixels per cell, finest level first.
        finest_scale: RoIs of this scale (sqrt of area) or less go to the finest level; each
            doubling one level up.
    """

    def __init__(
        self,
        roi_layer: dict,
        out_channels: int,
        featmap_strides: list[int],
        finest_scale: int = 56,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        layer = dict(roi_layer)
        kind = layer.pop('type')
        if kind != 'RoIAlign':
            raise ValueError(f'roi_layer.type={kind!r}: only RoIAlign is implemented')
        size = layer.pop('output_size')
        self.output_size = (size, size) if isinstance(size, int) else tuple(size)
        self.sampling_ratio = layer.pop('sampling_ratio', 0)
        self.aligned = layer.pop('aligned', True)
        pool_mode = layer.pop('pool_mode', 'avg')
        layer.pop('use_torchvision', None)  # `ops` chooses the implementation
        if layer or pool_mode != 'avg':
            raise ValueError(
                f'roi_layer={roi_layer}: RoIAlign takes output_size, sampling_ratio, aligned'
            )
        self.out_channels = out_channels
        self.featmap_strides = list(featmap_strides)
        self.finest_scale = finest_scale

    @property
    def num_inputs(self) -> int:
        """How many pyramid levels are pooled from (the coarsest is the RPN's alone)."""
        return len(self.featmap_strides)

    def map_levels(self, rois: Tensor) -> Tensor:
        """Level of each RoI: (R, 5) -> (R,) int64 in [0, num_inputs)."""
        scale = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
        level = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return level.clamp(min=0, max=self.num_inputs - 1).long()

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """L x (B, C, H, W), rois (R, 5) of image index and xyxy in input pixels -> (R, C, h, w), in
        the features' dtype.

        More levels than ``num_inputs`` may be given; the coarser ones are left alone.
        """
        rois = rois.to(feats[0].device)
        pooled = feats[0].new_zeros(rois.shape[0], self.out_channels, *self.output_size)
        level = self.map_levels(rois)
        for i, stride in enumerate(self.featmap_strides):
            index = (level == i).nonzero()[:, 0]
            if len(index):
                crops = ops.roi_align(
                    feats[i],
                    rois[index],
                    self.output_size,
                    1 / stride,
                    self.sampling_ratio,
                    self.aligned,
                )
                pooled = pooled.index_put((index,), crops.to(pooled))
            elif feats[i].requires_grad:
                # An empty slice: costs nothing, and the level's parameters get a (zero) gradient as
                # DDP expects.
                pooled = pooled + feats[i].flatten()[:0].sum()
        return pooled
