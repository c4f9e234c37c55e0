"""Boxes as offsets from a reference box (https://arxiv.org/abs/1311.2524, appendix C)."""

import math

import torch
from torch import Tensor

from mmdet_r2.registry import TASK_UTILS


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Deltas dx, dy (in reference widths and heights) and dw, dh (log ratios), normalised by mean
    and std.

    Args:
        clip_border: cut decoded boxes to the image.
        add_ctr_clamp, ctr_clamp: limit the shift of the centre to this many pixels and clamp dw, dh
            from above only (YOLOF's variant).
    """

    def __init__(
        self,
        target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
        target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: int = 32,
    ) -> None:
        self.means = tuple(target_means)
        self.stds = tuple(target_stds)
        self.clip_border = clip_border
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp

    def encode(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Deltas (..., 4) that move ``boxes`` (..., 4) onto ``targets`` (..., 4); both xyxy with
        positive size.
        """
        boxes, targets = boxes.float(), targets.float()
        centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
        goal_centre, goal_size = (
            (targets[..., :2] + targets[..., 2:]) * 0.5,
            targets[..., 2:] - targets[..., :2],
        )
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
            wh_ratio_clip: dw and dh are clamped to +-log of this, so a wild prediction cannot
                overflow.
        """
        deltas = deltas.float() * deltas.new_tensor(self.stds, dtype=torch.float32)
        deltas = deltas + deltas.new_tensor(self.means)
        centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
        shift, log_scale = size * deltas[..., :2], deltas[..., 2:]
        limit = abs(math.log(wh_ratio_clip))
        if self.add_ctr_clamp:
            shift = shift.clamp(-self.ctr_clamp, self.ctr_clamp)
            log_scale = log_scale.clamp(max=limit)
        else:
            log_scale = log_scale.clamp(-limit, limit)
        new_centre, half = centre + shift, size * log_scale.exp() * 0.5
        decoded = torch.cat([new_centre - half, new_centre + half], dim=-1)
        if self.clip_border and limits is not None:
            decoded = torch.minimum(decoded.clamp(min=0), limits)
        return decoded
