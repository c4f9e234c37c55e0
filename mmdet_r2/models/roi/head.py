"""The one loop over stages that every RoI head runs: sample, pool, classify, refine, segment.

A head is a list of stages. Faster and Mask R-CNN have one; a cascade hands each stage's refined
boxes to the next; HTC overrides what features the stages see (:meth:`RoIHead.context_loss` to
:meth:`RoIHead.mask_logits`), never the loop.

Shape legend: B images, R RoIs of the batch, N detections of an image, K classes, M mask side.
"""

from functools import partial
from itertools import groupby, pairwise
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.postprocess import (
    MASK_PASTES,
    Detections,
    DetectionSelector,
    paste,
    to_network,
    to_original,
    to_results,
)
from mmdet_r2.models.roi.box_head import BoxOutput
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.models.targets import Targets, img_shapes
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import boxes_to_rois

Feats = tuple[Tensor, ...]  # the pyramid: L x (B, C, H, W), finest first


class RoIHead(BaseModule):
    """Box branch and, where stages have mask heads, mask branch.

    Subclasses fill ``stages`` and own the stages' networks under the names of checkpoints.

    Args:
        test_cfg: fields of :class:`~mmdet_r2.models.postprocess.DetectionSelector`, and
            ``mask_thr_binary``, ``mask_paste`` (a key of
            :data:`~mmdet_r2.models.postprocess.MASK_PASTES`).

    Attributes:
        resample: later stages sample from the boxes refined before them, objects added anew;
            otherwise they train on all of them.
        resample_for_masks: the mask branch trains on RoIs sampled from the stage's refined boxes
            instead of on those of the box branch.
        average_probs: stages' class probabilities are averaged, instead of their logits.
        feature_grad_scale: factor on the gradient that a box head sends back to its features.
    """

    resample_for_masks = False
    resample = True
    average_probs = False
    feature_grad_scale = 1.0

    def __init__(self, test_cfg: dict | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.stages: list[Stage] = []
        self.selector: DetectionSelector | None = None
        self.mask_threshold, self.mask_paste = 0.5, 'aligned'
        if test_cfg is not None:
            options = dict(test_cfg)
            self.mask_threshold = options.pop('mask_thr_binary', 0.5)
            self.mask_paste = options.pop('mask_paste', 'aligned')
            if self.mask_paste not in MASK_PASTES:
                raise ConfigError(
                    f'test_cfg.rcnn.mask_paste={self.mask_paste!r}: expected one of '
                    f'{", ".join(MASK_PASTES)}'
                )
            self.selector = DetectionSelector(**options)

    @property
    def with_mask(self) -> bool:
        """Whether the head segments."""
        return any(stage.mask_head is not None for stage in self.stages)

    @property
    def num_classes(self) -> int:
        """Number of object classes."""
        return self.stages[-1].box_head.num_classes

    @property
    def offset(self) -> int:
        """1 where the head's boxes are pixel boxes (see ``structures.boxes``), though its results
        are not.
        """
        return getattr(self.stages[0].box_head.bbox_coder, 'decode_offset', 0)

    # ------------------------------------------------------------------ what a head may override

    def context_loss(self, feats: Feats, targets: Targets) -> tuple[Any, dict[str, Tensor]]:
        """What all stages share besides the pyramid, and the losses of making it: nothing here."""
        return None, {}

    def context(self, feats: Feats) -> Any:
        """The same for inference."""
        return None

    def box_features(self, stage: Stage, feats: Feats, context: Any, rois: Tensor) -> Tensor:
        """What the box head of a stage sees: rois (R, 5) -> (R, C, h, w)."""
        return stage.box_extractor(feats, rois)

    def mask_features(self, stage: Stage, feats: Feats, context: Any, rois: Tensor) -> Tensor:
        """What the mask head of a stage sees: rois (R, 5) -> (R, C, h, w)."""
        return stage.mask_extractor(feats, rois)

    def mask_logits(
        self, stages: list[Stage], features: Tensor, labels: Tensor | None
    ) -> list[Tensor]:
        """What mask heads make of the same features (R, C, h, w): each (R, M, M), the mask of each
        row's label (R,); all classes' (R, K, M, M) without labels.
        """
        return [stage.mask_head(features, labels) for stage in stages]

    def mask_stages(self) -> list[Stage]:
        """The stages whose mask probabilities are averaged at inference."""
        return [stage for stage in self.stages if stage.mask_head is not None]

    # ------------------------------------------------------------------------------ training

    def box_forward(self, stage: Stage, feats: Feats, context: Any, rois: Tensor) -> BoxOutput:
        """Pool and classify: rois (R, 5) -> logits and deltas of one stage."""
        features = self.box_features(stage, feats, context, rois)
        if self.feature_grad_scale != 1 and features.requires_grad:
            features.register_hook(lambda grad: grad * self.feature_grad_scale)
        output = stage.box_head(features)
        shared = stage.mask_extractor is stage.box_extractor and self.feature_grad_scale == 1
        if shared and self.training:
            output.features = features
        return output

    def loss(self, feats: Feats, proposals: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Losses of the batch from proposals B x (p, 4), xyxy in network-input pixels."""
        context, losses = self.context_loss(feats, targets)
        boxes = proposals
        for stage in self.stages:
            box_forward = partial(self.box_forward, stage, feats, context)
            picked = stage.sample(boxes, targets, box_forward)
            output = box_forward(picked.rois)
            losses |= stage.box_loss(output, picked)
            if stage is not self.stages[-1] or self.resample_for_masks:
                boxes = stage.refine_picked(output, picked, targets.img_shapes, self.resample)
            if stage.mask_head is not None:
                if self.resample_for_masks:
                    picked = stage.sample(boxes, targets, box_forward)
                if output.features is not None and not self.resample_for_masks:
                    features = output.features[picked.pos]  # pooled for both
                else:
                    rois = picked.rois[picked.pos]
                    features = self.mask_features(stage, feats, context, rois)
                (logits,) = self.mask_logits([stage], features, picked.labels[picked.pos])
                losses |= stage.mask_loss(logits, picked, targets)
        return losses

    # ----------------------------------------------------------------------------- inference

    def predict(
        self,
        feats: Feats,
        proposals: list[Tensor],
        samples: list[DetDataSample],
        rescale: bool = True,
    ) -> list[Detections]:
        """Detections of each image, in original-image pixels with ``rescale``, else in
        network-input pixels.
        """
        context = self.context(feats)
        found = self._detect(feats, context, proposals, samples, rescale)
        if self.with_mask:
            boxes = [d.boxes for d in found]
            if rescale and self._selector().suppresses_rescaled(self.with_mask):
                boxes = to_network(boxes, samples)
            probs = self._segment(feats, context, boxes, [d.labels for d in found])
            for each, own in zip(found, probs.split([len(d.boxes) for d in found]), strict=True):
                each.masks = own
        found = self._located(found, samples, rescale)
        if self.with_mask:
            shapes = [s.ori_shape if rescale else s.img_shape for s in samples]
            found = paste(found, shapes, self.mask_threshold, self.mask_paste)
        return to_results(found, self.offset)

    def detect(
        self,
        feats: Feats,
        proposals: list[Tensor],
        samples: list[DetDataSample],
        rescale: bool = True,
    ) -> list[Detections]:
        """:meth:`predict` without the mask branch: the same boxes."""
        found = self._detect(feats, self.context(feats), proposals, samples, rescale)
        return to_results(self._located(found, samples, rescale), self.offset)

    def segment(self, feats: Feats, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Mask probabilities B x (N, M, M) of given boxes B x (N, 4), xyxy in network-input pixels,
        with labels B x (N,). The boxes are the model's own, with its :attr:`offset`.
        """
        probs = self._segment(feats, self.context(feats), boxes, labels)
        return list(probs.split([len(b) for b in boxes]))

    def _detect(
        self,
        feats: Feats,
        context: Any,
        proposals: list[Tensor],
        samples: list[DetDataSample],
        rescale: bool,
    ) -> list[Detections]:
        """Detections in network-input pixels, or in original ones where ``selector`` suppresses
        there.
        """
        rois, output = self._classify(feats, context, proposals, img_shapes(samples))
        original = rescale and self._selector().suppresses_rescaled(self.with_mask)
        return self._selector().select(
            output, rois, self.stages[-1].box_head, samples, rescale=original
        )

    def _located(
        self, found: list[Detections], samples: list[DetDataSample], rescale: bool
    ) -> list[Detections]:
        """What :meth:`_detect` found, in the pixels asked for."""
        if not rescale or self._selector().suppresses_rescaled(self.with_mask):
            return found
        return to_original(found, samples, self._selector().drop_empty)

    def _selector(self) -> DetectionSelector:
        if self.selector is None:
            raise ConfigError('test_cfg.rcnn is not set: it says how to select detections')
        return self.selector

    def _classify(
        self,
        feats: Feats,
        context: Any,
        proposals: list[Tensor],
        shapes: list[tuple[int, int]],
    ) -> tuple[Tensor, BoxOutput]:
        """The last stage's RoIs (R, 5), its deltas on them, and logits of what the stages think on
        average (https://arxiv.org/abs/1712.00726, section 4.2).
        """
        rois = boxes_to_rois(proposals)
        output = self.box_forward(self.stages[0], feats, context, rois)
        logits = [output.logits]
        for before, stage in pairwise(self.stages):
            rois = before.refine(output, rois, shapes)
            output = self.box_forward(stage, feats, context, rois)
            logits.append(output.logits)
        if self.average_probs:
            probs = sum(each.float().softmax(1) for each in logits) / len(logits)
            return rois, BoxOutput(probs.log(), output.deltas)
        return rois, BoxOutput(sum(logits) / len(logits), output.deltas)

    def _segment(
        self, feats: Feats, context: Any, boxes: list[Tensor], labels: list[Tensor]
    ) -> Tensor:
        """Mask probabilities (sum N, M, M), averaged over the stages that segment."""
        logits = self.mask_forward(feats, context, boxes_to_rois(boxes), torch.cat(labels))
        return sum(each.float().sigmoid() for each in logits) / len(logits)

    def mask_forward(
        self, feats: Feats, context: Any, rois: Tensor, labels: Tensor | None
    ) -> list[Tensor]:
        """:meth:`mask_logits` of :meth:`mask_stages` on the same RoIs (R, 5)."""
        logits = []
        for _, group in groupby(self.mask_stages(), key=lambda stage: id(stage.mask_extractor)):
            stages = list(group)  # these see the same features: they are pooled once
            features = self.mask_features(stages[0], feats, context, rois)
            logits += self.mask_logits(stages, features, labels)
        return logits

    def forward(
        self, feats: Feats, proposals: list[Tensor], shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, ...]:
        """Raw outputs on given proposals B x (p, 4) of images of ``shapes`` (height, width): mean
        box logits, the last stage's deltas and, with a mask branch, the mask logits of each stage
        on the last stage's RoIs.
        """
        context = self.context(feats)
        rois, output = self._classify(feats, context, proposals, shapes)
        masks = self.mask_forward(feats, context, rois, None)
        return (output.logits, output.deltas, *masks)
