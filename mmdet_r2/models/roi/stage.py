"""One stage of a RoI head: sample, pool, classify, refine, segment. Standard heads have one,
cascades several.

Shape legend: R sampled RoIs of the batch, P positives among them, G objects of an image, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2.models.matching import MaxIoUAssigner, PseudoSampler, RandomSampler
from mmdet_r2.models.roi.box_head import BoxOutput, ConvFCBBoxHead
from mmdet_r2.models.roi.extractor import SingleRoIExtractor
from mmdet_r2.models.roi.mask_head import FCNMaskHead
from mmdet_r2.models.targets import Targets
from mmdet_r2.structures.boxes import boxes_to_rois
from mmdet_r2.structures.masks import mask_targets


@dataclass
class Picked:
    """The RoIs a stage trains on: images in order, and within each its positives first.

    ``rois`` (R, 5); ``labels`` (R,) int64, K for background; ``is_gt`` (R,) bool: the RoI is an
    object's own box, put among the candidates; ``pos`` (P,) int64 rows of the positives;
    ``gt_boxes`` (P, 4) their objects; ``gt_index`` B x (p,) int64 index of the positives' objects
    within their image.
    """

    rois: Tensor
    labels: Tensor
    is_gt: Tensor
    pos: Tensor
    gt_boxes: Tensor
    gt_index: list[Tensor]


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
    loss_weight: float = 1.0
    loss_prefix: str = ''

    def sample(self, boxes: list[Tensor], targets: Targets, feats: tuple[Tensor, ...]) -> Picked:
        """Assign candidates to objects and choose the RoIs to train on.

        Args:
            boxes: B x (p, 4) proposals, xyxy in network-input pixels.
            feats: pyramid, for samplers that rank candidates by their loss.
        """
        if self.assigner is None or self.sampler is None:
            raise ValueError('train_cfg.rcnn is not set: it says how to assign and sample RoIs')
        background = self.box_head.num_classes
        candidates, matches = [], []
        for proposals, gt_boxes, ignored in zip(boxes, targets.boxes, targets.ignored, strict=True):
            match = self.assigner.assign(proposals, gt_boxes, ignored)
            if self.sampler.add_gt_as_proposals and len(gt_boxes):
                match = match.with_gt(len(gt_boxes))
                proposals = torch.cat([gt_boxes, proposals])
            candidates.append(proposals)
            matches.append(match)

        losses: list[Tensor | None] = [None] * len(boxes)
        if self.sampler.needs_loss:
            labels = [
                _labels(m.gt_index, t, background)
                for m, t in zip(matches, targets.labels, strict=True)
            ]
            losses = self._candidate_losses(feats, candidates, labels)
        picked, labels, is_gt, pos, pos_gt_boxes, gt_index = [], [], [], [], [], []
        start = 0
        for i, (match, proposals) in enumerate(zip(matches, candidates, strict=True)):
            sample = self.sampler.sample(match, losses[i])
            own = sample.gt_index[: sample.num_pos]
            picked.append(proposals[sample.index])
            labels.append(_labels(sample.gt_index, targets.labels[i], background))
            num_added = len(proposals) - len(boxes[i])
            is_gt.append(sample.index < num_added)
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
        )

    @torch.no_grad()
    def _candidate_losses(
        self, feats: tuple[Tensor, ...], candidates: list[Tensor], labels: list[Tensor]
    ) -> list[Tensor]:
        """Classification loss of every candidate, B x (p,)."""
        logits = self.box_forward(feats, boxes_to_rois(candidates)).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float(), torch.cat(labels), reduction='none'
        )
        return list(loss.split([len(c) for c in candidates]))

    def box_forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> BoxOutput:
        """Pool and classify: rois (R, 5) -> logits and deltas."""
        return self.box_head(self.box_extractor(feats[: self.box_extractor.num_inputs], rois))

    def box_loss(self, output: BoxOutput, picked: Picked) -> dict[str, Tensor]:
        """Classification and regression losses."""
        return self.box_head.loss(output, picked.rois, picked.labels, picked.pos, picked.gt_boxes)

    def mask_forward(self, feats: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Pool and segment: rois (P, 5) -> mask logits (P, K or 1, M, M)."""
        assert self.mask_extractor is not None and self.mask_head is not None
        return self.mask_head(self.mask_extractor(feats[: self.mask_extractor.num_inputs], rois))

    def mask_loss(self, logits: Tensor, picked: Picked, targets: Targets) -> dict[str, Tensor]:
        """Loss of the positives' masks."""
        if targets.masks is None:
            raise ValueError(
                'the model has a mask head but the samples have no masks: set with_mask=True in '
                'LoadAnnotations'
            )
        rois = picked.rois[picked.pos]
        boxes = list(rois[:, 1:].split([len(g) for g in picked.gt_index]))
        goal = mask_targets(targets.masks, boxes, picked.gt_index, self.mask_size)
        return self.mask_head.loss(logits, goal, picked.labels[picked.pos])


def _labels(gt_index: Tensor, gt_labels: Tensor, background: int) -> Tensor:
    """Class of each RoI: index into the image's objects (r,) -> (r,) int64, ``background`` where
    negative.
    """
    if len(gt_labels) == 0:
        return torch.full_like(gt_index, background)
    return torch.where(gt_index >= 0, gt_labels[gt_index.clamp(min=0)], background)
