"""From the RPN's outputs to proposals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.matching import DeltaXYWHBBoxCoder
from mmdet_r2.structures.boxes import box_limits, box_sizes, check_offset


@dataclass
class Proposals:
    """Proposals of B images: ``boxes`` B x (p, 4) xyxy in network-input pixels, ``scores`` B x (p,)
    descending.
    """

    boxes: list[Tensor]
    scores: list[Tensor]


@dataclass
class ProposalSelector:
    """Top-scoring anchors of each level, moved by their deltas, after non-maximum suppression
    inside each level.

    Field names are mmdetection's ``rpn_proposal`` / ``test_cfg.rpn``.

    Attributes:
        nms_pre: candidates per level before suppression; non-positive: all.
        max_per_img: proposals kept per image, over all levels.
        max_per_batch: proposals kept of all images together, so that an image with better ones
            keeps more (maskrcnn-benchmark's training); None: all.
        nms: ``dict(type='nms', iou_threshold=...)``; its ``offset`` is the one below unless given.
        min_bbox_size: boxes must be wider and higher than this many pixels; negative: keep all.
        offset: 1 for pixel boxes (see ``structures.boxes``).
    """

    nms_pre: int = 2000
    max_per_img: int = 1000
    max_per_batch: int | None = None
    nms: dict | None = None
    min_bbox_size: float = 0
    nms_across_levels: bool = False  # accepted for old configs; only False is implemented
    offset: int = 0

    def __post_init__(self) -> None:
        nms = dict(self.nms or {'type': 'nms', 'iou_threshold': 0.7})
        kind = nms.pop('type', 'nms')
        self.iou_threshold = nms.pop('iou_threshold', 0.7)
        check_offset('rpn_proposal.offset', self.offset)
        self.nms_offset = check_offset('rpn_proposal.nms.offset', nms.pop('offset', self.offset))
        if kind != 'nms' or nms or self.nms_across_levels:
            raise ConfigError(
                f'rpn proposals: nms={self.nms}, nms_across_levels={self.nms_across_levels}: only '
                "dict(type='nms', iou_threshold=..., offset=...) inside each level is implemented"
            )
        if self.max_per_batch is not None and self.max_per_batch < 1:
            raise ConfigError(
                f'rpn_proposal.max_per_batch={self.max_per_batch}: expected at least 1, or None'
            )

    @torch.no_grad()
    def select(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        coder: DeltaXYWHBBoxCoder,
        img_shapes: list[tuple[int, int]],
    ) -> Proposals:
        """Proposals of a batch.

        Args:
            logits: L x (B, A) objectness, A = H*W*anchors of the level; deltas: L x (B, A, 4);
                anchors: L x (A, 4).
            img_shapes: (height, width) of each image without padding; proposals are clipped to it.
        """
        num_images, num_levels = logits[0].shape[0], len(logits)
        top_logits, top_deltas, top_anchors, levels = [], [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            if 0 < self.nms_pre < logit.shape[1]:
                logit, index = logit.topk(self.nms_pre, dim=1)
                delta = delta.gather(1, index[..., None].expand(-1, -1, 4))
                anchor = anchor[index]
            else:
                anchor = anchor.expand(num_images, -1, -1)
            top_logits.append(logit)
            top_deltas.append(delta)
            top_anchors.append(anchor)
            levels.append(torch.full_like(logit, level, dtype=torch.long))
        anchor = torch.cat(top_anchors, dim=1)  # (B, P, 4), P candidates of an image
        limits = box_limits(img_shapes, anchor)[:, None]
        boxes = coder.decode(anchor, torch.cat(top_deltas, dim=1), limits)
        scores = torch.cat(top_logits, dim=1).float().sigmoid()
        if self.min_bbox_size >= 0:
            wide = (box_sizes(boxes, self.offset) > self.min_bbox_size).all(-1)
            scores = torch.where(wide, scores, -1.0)  # last in line; dropped below

        image = torch.arange(num_images, device=boxes.device)[:, None]
        group = image * num_levels + torch.cat(levels, dim=1)
        boxes, scores = boxes.flatten(0, 1), scores.flatten()
        keep = ops.batched_nms(boxes, scores, group.flatten(), self.iou_threshold, self.nms_offset)
        boxes, scores, image = boxes[keep], scores[keep], image.expand_as(group).flatten()[keep]

        chosen = []
        for i in range(num_images):  # ragged: each image keeps its own number
            chosen.append(((image == i) & (scores >= 0)).nonzero()[: self.max_per_img, 0])
        if self.max_per_batch is not None and sum(map(len, chosen)) > self.max_per_batch:
            # Rows are in the order of scores over all images.
            end = torch.cat(chosen).sort().values[self.max_per_batch]
            chosen = [c[c < end] for c in chosen]
        return Proposals([boxes[c] for c in chosen], [scores[c] for c in chosen])
