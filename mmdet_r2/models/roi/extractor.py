"""RoI features from the pyramid level that fits each RoI (https://arxiv.org/abs/1612.03144,
equation 1).
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS
from mmdet_r2.structures.boxes import box_area, check_offset


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """One level per RoI, pooled there.

    Args:
        roi_layer: ``dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=True)``, or
            another of :mod:`mmdet_r2.models.roi.layers`; each level has its own.
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
        self.offset = check_offset('roi_extractor.offset', offset)
        self.roi_layers = nn.ModuleList(
            MODELS.build({**roi_layer, 'spatial_scale': 1 / stride}) for stride in featmap_strides
        )
        if roi_layer.get('end_offset') and not offset:
            raise ConfigError(f'roi_layer={roi_layer}: end_offset needs offset=1 of the extractor')
        self.output_size: tuple[int, int] = self.roi_layers[0].output_size  # type: ignore[assignment]
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
            return self.roi_layers[0](feats[0], rois, average)

        level = self.map_levels(rois)
        order, pooled = [], []
        for i in range(self.num_inputs):
            index = (level == i).nonzero()[:, 0]
            # Also where no RoI is: an empty result costs nothing, and the level's parameters get a
            # (zero) gradient as DDP expects.
            pooled.append(self.roi_layers[i](feats[i], rois[index], average))
            order.append(index)
        return _rows(torch.cat(pooled), torch.cat(order).argsort())


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` of a feature (R, C, h, w), copied in whole rows whatever its memory layout."""
    if x.is_contiguous():
        return x.flatten(1).index_select(0, index).view_as(x)
    x = x.permute(0, 2, 3, 1)
    return x.flatten(1).index_select(0, index).view_as(x).permute(0, 3, 1, 2)
