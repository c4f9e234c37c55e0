"""Reference boxes on a regular grid."""

import functools

import numpy as np
import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import TASK_UTILS


@TASK_UTILS.register_module()
class AnchorGenerator:
    """Anchors of every cell of every level.

    Level l has ``len(ratios) * len(scales)`` anchors per cell, of area (base_size * scale)^2 and
    height/width = ratio, centred at ``center_offset * base_size + cell * stride``; corners are not
    rounded. Order inside a cell: ratios outer, scales inner (``scale_major``), or the other way
    round.

    Args:
        strides: input pixels per cell of each level; one number or (w, h).
        scales: anchor sizes in units of the base size; or ``octave_base_scale`` and
            ``scales_per_octave`` (RetinaNet): base * 2^(i / scales_per_octave).
        base_sizes: base size per level, the stride by default.
        centers: centre of the cell's anchors per level, in pixels, instead of ``center_offset``.
    """

    def __init__(
        self,
        strides: list[int | tuple[int, int]],
        ratios: list[float],
        scales: list[float] | None = None,
        base_sizes: list[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: list[tuple[float, float]] | None = None,
        center_offset: float = 0.0,
        use_box_type: bool = False,  # accepted, unused: anchors are tensors
    ) -> None:
        if (scales is None) == (octave_base_scale is None or scales_per_octave is None):
            raise ConfigError(
                'AnchorGenerator needs either scales or octave_base_scale with scales_per_octave'
            )
        if scales is None:
            scales = [
                octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)
            ]
        for name, values in (('ratios', ratios), ('scales', scales), ('strides', strides)):
            sides = [side for value in values for side in np.ravel(value)]
            if not sides or min(sides) <= 0:
                raise ConfigError(f'anchor_generator.{name} is {values!r}, expected sizes above 0')
        self.strides = [(s, s) if isinstance(s, int) else tuple(s) for s in strides]
        self.base_sizes = (
            list(base_sizes) if base_sizes is not None else [min(s) for s in self.strides]
        )
        if len(self.base_sizes) != len(self.strides) or (
            centers and len(centers) != len(self.strides)
        ):
            raise ConfigError(
                'AnchorGenerator: strides, base_sizes and centers must have one entry per level'
            )
        if centers is not None and center_offset != 0:
            raise ConfigError(
                f'AnchorGenerator: center_offset={center_offset} has no effect with centers'
            )
        self.base_anchors = [
            self._cell_anchors(
                size,
                torch.tensor(ratios),
                torch.tensor(scales, dtype=torch.float32),
                scale_major,
                centers[i] if centers else self._cell_centre(size, center_offset),
            )
            for i, size in enumerate(self.base_sizes)
        ]
        self._grid = functools.lru_cache(maxsize=64)(self._make_grid)

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    @property
    def num_base_anchors(self) -> list[int]:
        """Anchors per cell, by level."""
        return [len(a) for a in self.base_anchors]

    def grid_anchors(
        self, sizes: list[tuple[int, int]], device: torch.device | str = 'cpu'
    ) -> list[Tensor]:
        """Anchors of feature maps of ``sizes`` (height, width): L x (H*W*A, 4), rows of cells,
        anchors of a cell adjacent.

        The tensors are cached by size and must not be written to.
        """
        if len(sizes) != self.num_levels:
            raise ConfigError(
                f'AnchorGenerator has {self.num_levels} strides but was given {len(sizes)} levels'
            )
        return [
            self._grid(level, tuple(size), torch.device(device)) for level, size in enumerate(sizes)
        ]

    def _make_grid(self, level: int, size: tuple[int, int], device: torch.device) -> Tensor:
        height, width = size
        x = torch.arange(width, device=device, dtype=torch.float32) * self.strides[level][0]
        y = torch.arange(height, device=device, dtype=torch.float32) * self.strides[level][1]
        shift_y, shift_x = torch.meshgrid(y, x, indexing='ij')
        shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)  # (H, W, 4)
        return (shifts[:, :, None] + self.base_anchors[level].to(device)).view(-1, 4)

    def valid_flags(
        self,
        sizes: list[tuple[int, int]],
        pad_shape: tuple[int, int],
        device: torch.device | str = 'cpu',
    ) -> Tensor:
        """Which anchors have their cell inside an image padded to ``pad_shape`` (height, width):
        (sum H*W*A,) bool.

        The batch may be larger than the image; those cells are nobody's.
        """
        flags = []
        for (height, width), (stride_w, stride_h), num in zip(
            sizes, self.strides, self.num_base_anchors, strict=True
        ):
            rows = torch.arange(height, device=device) < -(-pad_shape[0] // stride_h)
            columns = torch.arange(width, device=device) < -(-pad_shape[1] // stride_w)
            flags.append((rows[:, None] & columns[None]).view(-1, 1).expand(-1, num).reshape(-1))
        return torch.cat(flags)

    def _cell_centre(self, base_size: float, center_offset: float) -> tuple[float, float]:
        return center_offset * base_size, center_offset * base_size

    def _cell_anchors(
        self,
        base_size: float,
        ratios: Tensor,
        scales: Tensor,
        scale_major: bool,
        centre: tuple[float, float],
    ) -> Tensor:
        """Anchors of one cell, (ratios * scales, 4) xyxy around ``centre``."""
        h_ratio = ratios.sqrt()
        w_ratio = 1 / h_ratio
        return _around(centre, _sizes(base_size, w_ratio, h_ratio, scales, scale_major))


@TASK_UTILS.register_module()
class LegacyAnchorGenerator(AnchorGenerator):
    """Anchors as pixel boxes (see ``structures.boxes``) with corners on whole pixels, of
    maskrcnn-benchmark and mmdetection 1.x.

    Arguments as :class:`AnchorGenerator`. Cells begin at their first pixel: both originals have
    ``center_offset=0.5``, which puts the centre at (base_size - 1) / 2.

    Args:
        rounding: 'corners' of the anchors, as in mmdetection 1.x; 'sides' of anchors of scale 1,
            width first and height from it, which are then scaled, as in maskrcnn-benchmark.
    """

    def __init__(
        self,
        strides: list[int | tuple[int, int]],
        ratios: list[float],
        scales: list[float] | None = None,
        base_sizes: list[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: list[tuple[float, float]] | None = None,
        center_offset: float = 0.0,
        use_box_type: bool = False,  # accepted, unused: anchors are tensors
        rounding: str = 'corners',
    ) -> None:
        if rounding not in ('corners', 'sides'):
            raise ConfigError(
                f'LegacyAnchorGenerator rounding={rounding!r}: expected corners or sides'
            )
        self.round_sides = rounding == 'sides'
        super().__init__(
            strides=strides,
            ratios=ratios,
            scales=scales,
            base_sizes=base_sizes,
            scale_major=scale_major,
            octave_base_scale=octave_base_scale,
            scales_per_octave=scales_per_octave,
            centers=centers,
            center_offset=center_offset,
        )

    def _cell_centre(self, base_size: float, center_offset: float) -> tuple[float, float]:
        return center_offset * (base_size - 1), center_offset * (base_size - 1)

    def _cell_anchors(
        self,
        base_size: float,
        ratios: Tensor,
        scales: Tensor,
        scale_major: bool,
        centre: tuple[float, float],
    ) -> Tensor:
        """Anchors of one cell, (ratios * scales, 4) xyxy around ``centre``."""
        if not self.round_sides:
            h_ratio = ratios.sqrt()
            sides = _sizes(base_size, 1 / h_ratio, h_ratio, scales, scale_major)
            return _around(centre, sides - 1).round()
        width = (base_size**2 / ratios).sqrt().round()  # halves to even
        height = (width * ratios).round()
        return _around(centre, _sizes(1, width, height, scales, scale_major) - 1)


def _sizes(
    base_size: float, widths: Tensor, heights: Tensor, scales: Tensor, scale_major: bool
) -> Tensor:
    """Widths and heights (ratios * scales, 2) of a cell's anchors, from those of each ratio in
    units of ``base_size``.
    """
    if scale_major:
        sizes = [base_size * side[:, None] * scales[None] for side in (widths, heights)]
    else:
        sizes = [base_size * scales[:, None] * side[None] for side in (widths, heights)]
    return torch.stack([side.reshape(-1) for side in sizes], dim=-1)


def _around(centre: tuple[float, float], sizes: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy of ``sizes`` (n, 2) around a point."""
    point, half = torch.tensor(centre), 0.5 * sizes
    return torch.cat([point - half, point + half], dim=-1)
