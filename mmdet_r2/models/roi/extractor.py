"""RoI features from the pyramid level that fits each RoI (https://arxiv.org/abs/1612.03144,
equation 1).
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS
from mmdet_r2.structures.boxes import box_area, check_offset


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """RoIAlign on one level per RoI.

    Args:
        roi_layer: ``dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=True)``;
            ``aligned=False`` is the grid of the older lineages: maskrcnn-benchmark's, and with
            ``end_offset=1`` that of mmdetection 1.x (see :func:`mmdet_r2.ops.roi_align`).
        out_channels: channels of the pyramid.
        featmap_strides: input pixels per cell, finest level first.
        finest_scale: RoIs of this scale (sqrt of area) or less go to the finest level; each
            doubling one level up.
        offset: 1 for pixel boxes (see ``structures.boxes``), which changes their area.
    """

    def __init__(
        self,
        roi_layer: dict,
        out_channels: int,
        featmap_strides: list[int],
        finest_scale: int = 56,
        init_cfg: dict | None = None,
        offset: int = 0,
    ) -> None:
        super().__init__(init_cfg)
        layer = dict(roi_layer)
        kind = layer.pop('type')
        if kind != 'RoIAlign':
            raise ConfigError(f'roi_layer.type={kind!r}: only RoIAlign is implemented')
        size = layer.pop('output_size')
        self.output_size = (size, size) if isinstance(size, int) else tuple(size)
        self.sampling_ratio = layer.pop('sampling_ratio', 0)
        self.aligned = layer.pop('aligned', True)
        self.offset = check_offset('roi_extractor.offset', offset)
        self.end_offset = check_offset('roi_layer.end_offset', layer.pop('end_offset', 0))
        if self.end_offset and (self.aligned or not offset):
            raise ConfigError(
                f'roi_layer={roi_layer}: end_offset needs aligned=False, and offset=1 of the '
                'extractor'
            )
        pool_mode = layer.pop('pool_mode', 'avg')
        layer.pop('use_torchvision', None)  # `ops` chooses the implementation
        if layer or pool_mode != 'avg':
            raise ConfigError(
                f'roi_layer={roi_layer}: RoIAlign takes output_size, sampling_ratio, aligned, '
                'end_offset'
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
        area = box_area(rois[:, 1:], self.offset)
        scale = torch.sqrt(area.clamp(min=0))  # of a box turned inside out: the finest level
        level = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return level.clamp(min=0, max=self.num_inputs - 1).long()

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """L x (B, C, H, W), rois (R, 5) of image index and xyxy in input pixels -> (R, C, h, w), in
        the features' dtype.

        More levels than ``num_inputs`` may be given; the coarser ones are left alone. With ``size``
        (h, w), cells are averaged down from ``output_size`` to it.
        """
        rois = rois.to(feats[0].device)
        average = 1
        if size is not None and tuple(size) != self.output_size:
            average = self.output_size[0] // size[0]
            if (size[0] * average, size[1] * average) != self.output_size:
                return F.adaptive_avg_pool2d(self(feats, rois), size)
        if self.num_inputs == 1:
            return self._pool(feats[0], rois, 0, average)

        level = self.map_levels(rois)
        order, pooled = [], []
        for i in range(self.num_inputs):
            index = (level == i).nonzero()[:, 0]
            # Also where no RoI is: an empty result costs nothing, and the level's parameters get a
            # (zero) gradient as DDP expects.
            pooled.append(self._pool(feats[i], rois[index], i, average))
            order.append(index)
        return _rows(torch.cat(pooled), torch.cat(order).argsort())

    def _pool(self, feature: Tensor, rois: Tensor, level: int, average: int) -> Tensor:
        return ops.roi_align(
            feature,
            rois,
            self.output_size,
            1 / self.featmap_strides[level],
            self.sampling_ratio,
            self.aligned,
            average,
            self.end_offset,
        )


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` of a feature (R, C, h, w), copied in whole rows whatever its memory layout."""
    if x.is_contiguous():
        return x.flatten(1).index_select(0, index).view_as(x)
    x = x.permute(0, 2, 3, 1)
    return x.flatten(1).index_select(0, index).view_as(x).permute(0, 3, 1, 2)
