"""One stage of a RoI head: who belongs to which object, what the stage is trained for, where it
moves the boxes. Standard heads have one, cascades several.

Shape legend: B images, R sampled RoIs of the batch, P positives among them, G objects of an image,
K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.matching import MaxIoUAssigner, PseudoSampler, RandomSampler, positive_weight
from mmdet_r2.models.roi.box_head import BoxOutput, ConvFCBBoxHead
from mmdet_r2.models.roi.extractor import SingleRoIExtractor
from mmdet_r2.models.roi.mask_head import FCNMaskHead
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import TASK_UTILS
from mmdet_r2.structures.boxes import box_limits, boxes_to_rois
from mmdet_r2.structures.masks import mask_targets
from mmdet_r2.structures.pixel_masks import pixel_mask_targets

# How ground truth is cut from the image: 'truncated' as in mmdetection 1.x, 'aligned' as elsewhere.
MASK_TARGETS = {'aligned': mask_targets, 'truncated': pixel_mask_targets}


@dataclass
class Picked:
    """The RoIs a stage trains on: images in order, and within each its positives first.

    ``rois`` (R, 5); ``labels`` (R,) int64, K for background; ``is_gt`` (R,) bool: the RoI is an
    object's own box, put among the candidates; ``pos`` (P,) int64 rows of the positives;
    ``gt_boxes`` (P, 4) their objects; ``gt_index`` B x (p,) int64 index of the positives' objects
    within their image; ``counts``: RoIs of each image.
    """

    rois: Tensor
    labels: Tensor
    is_gt: Tensor
    pos: Tensor
    gt_boxes: Tensor
    gt_index: list[Tensor]
    counts: list[int]


@dataclass
class Stage:
    """The parts of one stage. Not a module: the RoI head owns the networks under their checkpoint
    names.
    """

    box_extractor: SingleRoIExtractor
    box_head: ConvFCBBoxHead
    mask_extractor: SingleRoIExtractor | None = None
    mask_head: FCNMaskHead | None = None
    assigner: MaxIoUAssigner | None = None
    sampler: RandomSampler | PseudoSampler | None = None
    mask_size: tuple[int, int] = (28, 28)
    mask_target: str = 'aligned'
    pos_weight: float = 1.0
    loss_weight: float = 1.0
    loss_prefix: str = ''

    def set_train_cfg(self, train_cfg: dict, sampled: bool = True) -> None:
        """Take ``assigner``, ``sampler``, ``mask_size``, ``mask_target`` (a key of
        :data:`MASK_TARGETS`) and ``pos_weight`` (factor on the classification loss of positives;
        not above 0: 1) from a ``train_cfg.rcnn``, in which ``debug`` means nothing; a stage that is
        not ``sampled`` trains on all candidates.
        """
        self.assigner = TASK_UTILS.build(train_cfg['assigner'])
        self.sampler = TASK_UTILS.build(train_cfg['sampler']) if sampled else PseudoSampler()
        size = train_cfg.get('mask_size', self.mask_size)
        self.mask_size = (size, size) if isinstance(size, int) else tuple(size)
        self.pos_weight = positive_weight('rcnn', train_cfg)
        self.mask_target = train_cfg.get('mask_target', self.mask_target)
        if self.mask_target not in MASK_TARGETS:
            raise ConfigError(
                f'train_cfg.rcnn.mask_target={self.mask_target!r}: expected one of '
                f'{", ".join(MASK_TARGETS)}'
            )

    @torch.no_grad()
    def sample(
        self, boxes: list[Tensor], targets: Targets, box_forward: Callable[[Tensor], BoxOutput]
    ) -> Picked:
        """Assign candidates to objects and choose the RoIs to train on.

        Args:
            boxes: B x (p, 4) proposals, xyxy in network-input pixels.
            box_forward: this stage's output on RoIs (R, 5), for samplers that rank candidates by
                their loss.
        """
        if self.assigner is None or self.sampler is None:
            raise ConfigError('train_cfg.rcnn is not set: it says how to assign and sample RoIs')
        background = self.box_head.num_classes
        candidates, matches = [], []
        for proposals, gt_boxes, ignored in zip(boxes, targets.boxes, targets.ignored, strict=True):
            added = gt_boxes if self.sampler.add_gt_as_proposals else gt_boxes[:0]
            if self.sampler.gt_in_front:
                match = self.assigner.assign(proposals, gt_boxes, ignored).with_gt(len(added))
                proposals = torch.cat([added, proposals])
            else:
                proposals = torch.cat([proposals, added])
                match = self.assigner.assign(proposals, gt_boxes, ignored)
            candidates.append(proposals)
            matches.append(match)

        losses: list[Tensor | None] = [None] * len(boxes)
        if self.sampler.needs_loss:
            labels = [
                _labels(m.gt_index, t, background)
                for m, t in zip(matches, targets.labels, strict=True)
            ]
            losses = _candidate_losses(box_forward, candidates, labels)
        picked, labels, is_gt, pos, pos_gt_boxes, gt_index = [], [], [], [], [], []
        start = 0
        for i, (match, proposals) in enumerate(zip(matches, candidates, strict=True)):
            sample = self.sampler.sample(match, losses[i])
            own = sample.gt_index[: sample.num_pos]
            picked.append(proposals[sample.index])
            labels.append(_labels(sample.gt_index, targets.labels[i], background))
            first = 0 if self.sampler.gt_in_front else len(boxes[i])
            num_added = len(proposals) - len(boxes[i])
            is_gt.append((sample.index >= first) & (sample.index < first + num_added))
            pos.append(torch.arange(start, start + sample.num_pos, device=proposals.device))
            pos_gt_boxes.append(targets.boxes[i][own])
            gt_index.append(own)
            start += len(sample.index)
        return Picked(
            boxes_to_rois(picked),
            torch.cat(labels),
            torch.cat(is_gt),
            torch.cat(pos),
            torch.cat(pos_gt_boxes),
            gt_index,
            [len(p) for p in picked],
        )

    def box_loss(self, output: BoxOutput, picked: Picked) -> dict[str, Tensor]:
        """Classification and regression losses under the stage's prefix and weight."""
        losses = self.box_head.loss(
            output, picked.rois, picked.labels, picked.pos, picked.gt_boxes, self.pos_weight
        )
        return self._scaled(losses)

    def mask_loss(self, logits: Tensor, picked: Picked, targets: Targets) -> dict[str, Tensor]:
        """Loss of the positives' masks: logits (P, h, w) of each one's own class."""
        assert self.mask_head is not None
        if targets.masks is None:
            raise ConfigError(
                'the model has a mask head but the samples have no masks: set with_mask=True in '
                'LoadAnnotations'
            )
        rois = picked.rois[picked.pos]
        boxes = list(rois[:, 1:].split([len(g) for g in picked.gt_index]))
        cut = MASK_TARGETS[self.mask_target]
        goal = cut(targets.masks, boxes, picked.gt_index, self.mask_size)
        return self._scaled(self.mask_head.loss(logits, goal))

    def _scaled(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """``acc`` is a measurement and keeps its value."""
        return {
            self.loss_prefix + name: value if name == 'acc' else value * self.loss_weight
            for name, value in losses.items()
        }

    @torch.no_grad()
    def refine(
        self,
        output: BoxOutput,
        rois: Tensor,
        shapes: list[tuple[int, int]],
        labels: Tensor | None = None,
    ) -> Tensor:
        """RoIs (R, 5) moved by this stage's deltas and cut to their images, for the next stage.

        A class-specific head moves each to the box of its label (R,), and of its most likely class
        where that is the background, or without ``labels``.
        """
        if output.deltas is None:
            return rois
        head, deltas = self.box_head, output.deltas
        if not head.reg_class_agnostic:
            best = output.logits[:, :-1].argmax(1)
            if labels is not None:
                best = torch.where(labels == head.num_classes, best, labels)
            deltas = head.deltas_of(deltas, best)
        limits = box_limits(shapes, rois)[rois[:, 0].long()]
        return torch.cat([rois[:, :1], head.bbox_coder.decode(rois[:, 1:], deltas, limits)], dim=1)

    @torch.no_grad()
    def refine_picked(
        self, output: BoxOutput, picked: Picked, shapes: list[tuple[int, int]], resampled: bool
    ) -> list[Tensor]:
        """Boxes B x (p, 4) to train the next stage on: the picked RoIs, moved.

        Where the next stage samples from them (``resampled``) the objects' own boxes are left out,
        which come back as perfect proposals; where it takes them all, those without area are.
        """
        boxes = self.refine(output, picked.rois, shapes, picked.labels)[:, 1:]
        keep = ~picked.is_gt if resampled else (boxes[:, 2:] > boxes[:, :2]).all(1)
        parts = zip(boxes.split(picked.counts), keep.split(picked.counts), strict=True)
        return [own[kept] for own, kept in parts]


def _candidate_losses(
    box_forward: Callable[[Tensor], BoxOutput], candidates: list[Tensor], labels: list[Tensor]
) -> list[Tensor]:
    """Classification loss of every candidate, B x (p,)."""
    logits = box_forward(boxes_to_rois(candidates)).logits.float()
    loss = torch.nn.functional.cross_entropy(logits, torch.cat(labels), reduction='none')
    return list(loss.split([len(c) for c in candidates]))


def _labels(gt_index: Tensor, gt_labels: Tensor, background: int) -> Tensor:
    """Class of each RoI: index into the image's objects (r,) -> (r,) int64, ``background`` where
    negative.
    """
    if len(gt_labels) == 0:
        return torch.full_like(gt_index, background)
    return torch.where(gt_index >= 0, gt_labels[gt_index.clamp(min=0)], background)
