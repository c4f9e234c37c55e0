"""The RoI head of Faster and Mask R-CNN: one loop over stages, of which it has one."""

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmdet_r2.models.postprocess import Detections, DetectionSelector, paste
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS, TASK_UTILS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import boxes_to_rois


@MODELS.register_module()
class StandardRoIHead(BaseModule):
    """Box branch, and a mask branch where ``mask_head`` is given.

    Args:
        mask_roi_extractor: the box branch's extractor serves both when None.
        train_cfg: ``assigner``, ``sampler``, ``mask_size``.
        test_cfg: fields of :class:`~mmdet_r2.models.postprocess.DetectionSelector`, and
            ``mask_thr_binary``.
    """

    def __init__(
        self,
        bbox_roi_extractor: dict,
        bbox_head: dict,
        mask_roi_extractor: dict | None = None,
        mask_head: dict | None = None,
        shared_head: None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if shared_head is not None:
            raise ValueError(
                'roi_head.shared_head (C4 models) is not implemented: use an FPN config'
            )
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)
        mask_extractor = None
        if mask_head is not None:
            if mask_roi_extractor is not None:
                self.mask_roi_extractor = mask_extractor = MODELS.build(mask_roi_extractor)
            else:
                mask_extractor = self.bbox_roi_extractor
            self.mask_head = MODELS.build(mask_head)

        stage = Stage(
            box_extractor=self.bbox_roi_extractor,
            box_head=self.bbox_head,
            mask_extractor=mask_extractor,
            mask_head=self.mask_head if mask_head is not None else None,
        )
        if train_cfg is not None:
            stage.assigner = TASK_UTILS.build(train_cfg['assigner'])
            stage.sampler = TASK_UTILS.build(train_cfg['sampler'])
            size = train_cfg.get('mask_size', stage.mask_size)
            stage.mask_size = (size, size) if isinstance(size, int) else tuple(size)
        self.stages = [stage]
        self.selector = self.mask_threshold = None
        if test_cfg is not None:
            options = dict(test_cfg)
            self.mask_threshold = options.pop('mask_thr_binary', 0.5)
            self.selector = DetectionSelector(**options)

    @property
    def with_mask(self) -> bool:
        """Whether the head segments."""
        return self.stages[-1].mask_head is not None

    @property
    def num_classes(self) -> int:
        """Number of object classes."""
        return self.stages[-1].box_head.num_classes

    def loss(
        self, feats: tuple[Tensor, ...], proposals: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Losses of the batch from proposals B x (p, 4), xyxy in network-input pixels."""
        losses: dict[str, Tensor] = {}
        for stage in self.stages:
            picked = stage.sample(proposals, targets, feats)
            box = stage.box_forward(feats, picked.rois)
            losses |= _scaled(stage.box_loss(box, picked), stage)
            if stage.mask_head is not None:
                masks = stage.mask_forward(feats, picked.rois[picked.pos])
                losses |= _scaled(stage.mask_loss(masks, picked, targets), stage)
        return losses

    def predict(
        self,
        feats: tuple[Tensor, ...],
        proposals: list[Tensor],
        samples: list[DetDataSample],
        rescale: bool = True,
    ) -> list[Detections]:
        """Detections of each image, in original-image pixels with ``rescale``, else in
        network-input pixels.
        """
        if self.selector is None:
            raise ValueError('test_cfg.rcnn is not set: it says how to select detections')
        stage = self.stages[-1]
        rois = boxes_to_rois(proposals)
        box = stage.box_forward(feats, rois)
        # As in mmdetection, suppression sees original pixels in box-only models and network pixels
        # before a mask branch.
        early = rescale and not self.with_mask
        detections = self.selector.select(box, rois, stage.box_head, samples, rescale=early)
        if not self.with_mask:
            return detections

        labels = torch.cat([d.labels for d in detections])
        masks = stage.mask_forward(feats, boxes_to_rois([d.boxes for d in detections]))
        probs = stage.mask_head.logits_of(masks, labels).float().sigmoid()
        return paste(detections, probs, samples, self.mask_threshold, rescale)

    def forward(self, feats: tuple[Tensor, ...], proposals: list[Tensor]) -> tuple:
        """Raw outputs on given proposals: box logits, box deltas and, with a mask branch, mask
        logits.
        """
        rois = boxes_to_rois(proposals)
        box = self.stages[-1].box_forward(feats, rois)
        masks = (self.stages[-1].mask_forward(feats, rois),) if self.with_mask else ()
        return (box.logits, box.deltas, *masks)


def _scaled(losses: dict[str, Tensor], stage: Stage) -> dict[str, Tensor]:
    """Losses under the stage's prefix and weight; ``acc`` is a measurement and keeps its value."""
    return {
        stage.loss_prefix + name: value if name == 'acc' else value * stage.loss_weight
        for name, value in losses.items()
    }
