"""Boxes as offsets from a reference box (https://arxiv.org/abs/1311.2524, appendix C)."""

import math

import torch
from torch import Tensor

from mmdet_r2.errors import ArgumentError, ConfigError
from mmdet_r2.registry import TASK_UTILS
from mmdet_r2.structures.boxes import box_sizes, check_offset


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Deltas dx, dy (in reference widths and heights) and dw, dh (log ratios), normalised by mean
    and std.

    Args:
        clip_border: cut decoded boxes to the image.
        add_ctr_clamp, ctr_clamp: limit the shift of the centre to this many pixels and clamp dw, dh
            from above only (YOLOF's variant).
        size_clamp: 'both': a box becomes at most 62.5 times as large or as small; 'above': as
            large, as in detectron2 and maskrcnn-benchmark.
        offset: 1 for pixel boxes (see ``structures.boxes``), as in maskrcnn-benchmark and
            mmdetection 1.x; the image's border is its last pixel then.
    """

    def __init__(
        self,
        target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
        target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: int = 32,
        size_clamp: str = 'both',
        offset: int = 0,
    ) -> None:
        if size_clamp not in ('both', 'above'):
            raise ConfigError(f'bbox_coder.size_clamp={size_clamp!r}: expected both or above')
        for name, values, least in (
            ('target_means', target_means, -math.inf),
            ('target_stds', target_stds, 0),
        ):
            if len(values) != 4 or not all(least < value < math.inf for value in values):
                above = ' above 0' if least == 0 else ''
                raise ArgumentError(name, f' is {values!r}, expected four numbers{above}')
        self.means = tuple(target_means)
        self.stds = tuple(target_stds)
        self.clip_border = clip_border
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp
        self.clamp_below = size_clamp == 'both' and not add_ctr_clamp
        self.offset = self.decode_offset = check_offset('bbox_coder.offset', offset)

    def encode(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Deltas (..., 4) that move ``boxes`` (..., 4) onto ``targets`` (..., 4); both xyxy with
        positive size.
        """
        boxes, targets = boxes.float(), targets.float()
        centre, size = _centre(boxes), box_sizes(boxes, self.offset)
        goal_centre, goal_size = _centre(targets), box_sizes(targets, self.offset)
        deltas = torch.cat([(goal_centre - centre) / size, torch.log(goal_size / size)], dim=-1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(
        self,
        boxes: Tensor,
        deltas: Tensor,
        limits: Tensor | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Boxes (..., 4) moved by ``deltas`` (..., 4), in float32.

        Args:
            boxes: reference xyxy, broadcastable to ``deltas``.
            limits: rows of w, h, w, h to clip to (broadcastable), see
                ``structures.boxes.box_limits``; None: no clipping.
            wh_ratio_clip: dw and dh are clamped to +-log of this (``size_clamp``), so a wild
                prediction cannot overflow.
        """
        deltas = deltas.float() * deltas.new_tensor(self.stds, dtype=torch.float32)
        deltas = deltas + deltas.new_tensor(self.means)
        centre, size = _centre(boxes), box_sizes(boxes, self.offset)
        shift, log_scale = size * deltas[..., :2], deltas[..., 2:]
        limit = abs(math.log(wh_ratio_clip))
        if self.add_ctr_clamp:
            shift = shift.clamp(-self.ctr_clamp, self.ctr_clamp)
        log_scale = log_scale.clamp(min=-limit if self.clamp_below else None, max=limit)
        new_centre, half = centre + shift, (size * log_scale.exp() - self.decode_offset) * 0.5
        decoded = torch.cat([new_centre - half, new_centre + half], dim=-1)
        if self.clip_border and limits is not None:
            decoded = torch.minimum(decoded.clamp(min=0), limits - self.offset)
        return decoded


@TASK_UTILS.register_module()
class LegacyDeltaXYWHBBoxCoder(DeltaXYWHBBoxCoder):
    """mmdetection 3.x's coder of this name, which its configs for weights of 1.x use.

    It encodes pixel boxes, but decodes to boxes whose width is x2 - x1: half a pixel larger on
    every side, and results as they are. That of 1.x itself, whose decoding is the inverse of its
    encoding, is ``DeltaXYWHBBoxCoder(offset=1)``.
    """

    def __init__(
        self,
        target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
        target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(target_means, target_stds, offset=1)
        self.decode_offset = 0


def _centre(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5
