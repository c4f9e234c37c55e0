"""How the cells inside a RoI become a fixed number of them: the ``roi_layer`` of an extractor.

Each pools one level: (B, C, H, W), rois (R, 5) of image index and xyxy in input pixels ->
(R, C, h, w), in the feature's dtype. ``average`` gives the mean of blocks of that many cells.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS
from mmdet_r2.structures.boxes import check_offset


class _RoILayer(nn.Module):
    """Sizes that all have.

    Args:
        output_size: cells, (h, w) or one number for both.
        spatial_scale: feature cells per input pixel, which the extractor knows.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.output_size = (height, width)
        self.spatial_scale = spatial_scale

    def forward(self, feature: Tensor, rois: Tensor, average: int = 1) -> Tensor:
        if not len(rois):
            # part of the feature's graph: parameters get a (zero) gradient, which DDP waits for
            height, width = (side // average for side in self.output_size)
            return feature[:0, :, :1, :1].expand(-1, -1, height, width) + 0 * sum(
                parameter.sum() for parameter in self.parameters()
            )
        # positions need more digits than float16 has
        pooled = self._pool(feature.float(), rois.float()).to(feature.dtype)
        return F.avg_pool2d(pooled, average) if average > 1 else pooled

    def _pool(self, feature: Tensor, rois: Tensor) -> Tensor:
        raise NotImplementedError


@MODELS.register_module()
class RoIAlign(_RoILayer):
    """Means of bilinear samples (https://arxiv.org/abs/1703.06870), see :func:`ops.roi_align`.

    Args:
        sampling_ratio: samples per cell and axis; 0 takes ceil(RoI side / output side).
        aligned: False is the grid of the older lineages, maskrcnn-benchmark's.
        end_offset: 1, with ``aligned=False``, is the grid of mmdetection 1.x.
        pool_mode: 'avg' alone.
        use_torchvision: ignored, :mod:`mmdet_r2.ops` chooses.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int = 0,
        aligned: bool = True,
        end_offset: int = 0,
        pool_mode: str = 'avg',
        use_torchvision: bool = False,
    ) -> None:
        super().__init__(output_size, spatial_scale)
        if pool_mode != 'avg':
            raise ConfigError(f"roi_layer.pool_mode={pool_mode!r}: RoIAlign has 'avg' only")
        if end_offset and aligned:
            raise ConfigError('roi_layer.end_offset=1 needs aligned=False')
        self.sampling_ratio, self.aligned = sampling_ratio, aligned
        self.end_offset = check_offset('roi_layer.end_offset', end_offset)

    def forward(self, feature: Tensor, rois: Tensor, average: int = 1) -> Tensor:
        return ops.roi_align(
            feature,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            average,
            self.end_offset,
        )


@MODELS.register_module()
class RoIPool(_RoILayer):
    """Greatest values of whole cells (https://arxiv.org/abs/1504.08083), as mmcv's."""

    def _pool(self, feature: Tensor, rois: Tensor) -> Tensor:
        return ops.roi_pool(feature, rois, self.output_size, self.spatial_scale)


@MODELS.register_module()
class DeformRoIPoolPack(_RoILayer):
    """RoIAlign whose cells move by what linear layers predict from the cells at rest
    (https://arxiv.org/abs/1703.06211).

    Args:
        output_channels: of the feature.
        deform_fc_channels: of the two hidden layers.
        sampling_ratio: as for :class:`RoIAlign`.
        gamma: what offsets are multiplied with, beside the RoI's sides.
    """

    modulated = False

    def __init__(
        self,
        output_size: int | tuple[int, int],
        output_channels: int,
        spatial_scale: float,
        deform_fc_channels: int = 1024,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(output_size, spatial_scale)
        self.sampling_ratio, self.gamma = sampling_ratio, gamma
        cells = self.output_size[0] * self.output_size[1]
        self.offset_fc = nn.Sequential(
            nn.Linear(cells * output_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, cells * 2),
        )
        _start_at_zero(self.offset_fc[-1])
        if self.modulated:
            self.mask_fc = nn.Sequential(
                nn.Linear(cells * output_channels, deform_fc_channels),
                nn.ReLU(inplace=True),
                nn.Linear(deform_fc_channels, cells),
                nn.Sigmoid(),
            )
            _start_at_zero(self.mask_fc[2])

    def _pool(self, feature: Tensor, rois: Tensor) -> Tensor:
        return self._move(feature, rois, self._at_rest(feature, rois))

    def _at_rest(self, feature: Tensor, rois: Tensor) -> Tensor:
        """The cells without offsets, in a row each RoI: (R, C*h*w)."""
        size, scale = self.output_size, self.spatial_scale
        return ops.roi_align(feature, rois, size, scale, self.sampling_ratio).flatten(1)

    def _move(self, feature: Tensor, rois: Tensor, cells: Tensor) -> Tensor:
        offset = self.offset_fc(cells).float().view(-1, 2, *self.output_size)
        return ops.deform_roi_pool(
            feature,
            rois,
            offset,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.gamma,
        )


@MODELS.register_module()
class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """:class:`DeformRoIPoolPack` with a weight between 0 and 1 for every cell
    (https://arxiv.org/abs/1811.11168)."""

    modulated = True

    def _pool(self, feature: Tensor, rois: Tensor) -> Tensor:
        cells = self._at_rest(feature, rois)
        weight = self.mask_fc(cells).view(-1, 1, *self.output_size)
        return self._move(feature, rois, cells) * weight


def _start_at_zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
