"""From the RoI head's outputs to detections.

Shape legend: B images, R RoIs of the batch, K classes, N detections of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.models.targets import img_shapes
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import box_limits
from mmdet_r2.structures.masks import paste_masks

if TYPE_CHECKING:
    from mmdet_r2.models.roi.box_head import BoxOutput, ConvFCBBoxHead

_NMS_KEYS = {
    'nms': {'iou_threshold', 'class_agnostic'},
    'soft_nms': {'iou_threshold', 'class_agnostic', 'sigma', 'min_score', 'method'},
}


@dataclass
class Detections:
    """One image's detections, best first: ``boxes`` (N, 4) xyxy, ``scores`` (N,), ``labels`` (N,)
    int64, ``masks`` (N, H, W)
    bool or None."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def to_instances(self) -> InstanceData:
        """The same as ``pred_instances`` of a data sample."""
        fields = dict(bboxes=self.boxes, scores=self.scores, labels=self.labels)
        if self.masks is not None:
            fields['masks'] = self.masks
        return InstanceData(**fields)


@dataclass
class DetectionSelector:
    """Threshold, suppress per class, keep the best. Field names are mmdetection's
    ``test_cfg.rcnn``.

    Attributes:
        score_thr: detections must score more than this.
        nms: ``dict(type='nms', iou_threshold=0.5)`` or ``dict(type='soft_nms', ...)``;
            ``class_agnostic=True`` lets classes suppress each other.
        max_per_img: detections kept per image; negative: all.
    """

    score_thr: float = 0.05
    nms: dict | None = None
    max_per_img: int = 100

    def __post_init__(self) -> None:
        nms = dict(self.nms or dict(type='nms', iou_threshold=0.5))
        self.kind = nms.pop('type', 'nms')
        known = _NMS_KEYS.get(self.kind)
        if known is None or set(nms) - known:
            raise ValueError(
                f'test_cfg.rcnn.nms={self.nms}: expected type nms or soft_nms, with the keys '
                f'{sorted(_NMS_KEYS.get(self.kind, _NMS_KEYS["soft_nms"]))}'
            )
        self.options = nms

    def select(
        self,
        output: BoxOutput,
        rois: Tensor,
        head: ConvFCBBoxHead,
        samples: list[DetDataSample],
        rescale: bool,
    ) -> list[Detections]:
        """Detections of each image, from class logits and deltas of its RoIs.

        Only the (RoI, class) pairs above the threshold are decoded: a handful of the R x K.

        Args:
            rois: (R, 5) in network-input pixels.
            rescale: give boxes in original-image pixels, and suppress there.
        """
        scores = output.logits.float().softmax(-1)[:, :-1]
        row, label = (scores > self.score_thr).nonzero(as_tuple=True)
        score, roi = scores[row, label], rois[row]
        image = roi[:, 0].long()
        limits = box_limits(img_shapes(samples), roi)[image]
        if output.deltas is not None:
            deltas = head.deltas_of(output.deltas[row], label)
            boxes = head.bbox_coder.decode(roi[:, 1:], deltas, limits)
        else:
            boxes = torch.minimum(roi[:, 1:].clamp(min=0), limits)
        if rescale:
            boxes = boxes * _scale_rows(samples, boxes, inverse=True)[image]
        keep, score = self.suppress(boxes, score, label, image, head.num_classes)
        boxes, label, image = boxes[keep], label[keep], image[keep]

        limit = self.max_per_img if self.max_per_img >= 0 else len(boxes)
        detections = []
        for i in range(len(samples)):  # ragged: each image has its own number
            own = (image == i).nonzero()[:limit, 0]
            detections.append(Detections(boxes[own], score[own], label[own]))
        return detections

    def suppress(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Indices kept (k,), by descending score, and their scores (k,), which soft-NMS lowers."""
        group = image if self.options.get('class_agnostic', False) else image * num_classes + labels
        threshold = self.options.get('iou_threshold', 0.5)
        if self.kind == 'nms':
            keep = ops.batched_nms(boxes, scores, group, threshold)
            return keep, scores[keep]
        shift = group.to(boxes) * (boxes.max() + 1) if len(boxes) else group.to(boxes)
        scores, keep = ops.soft_nms(
            boxes + shift[:, None],
            scores,
            threshold,
            self.options.get('sigma', 0.5),
            self.options.get('min_score', 1e-3),
            self.options.get('method', 'linear'),
        )
        return keep, scores


def paste(
    detections: list[Detections],
    probs: Tensor,
    samples: list[DetDataSample],
    threshold: float,
    rescale: bool,
) -> list[Detections]:
    """Detections with their masks, and with boxes in original pixels when ``rescale``.

    Args:
        detections: boxes in network-input pixels; probs: (sum N, M, M) mask probabilities in the
            same order.
        threshold: probability from which a pixel is inside; negative: masks are uint8 probabilities
            x 255.
    """
    scales = _scale_rows(samples, probs, inverse=False)
    done = []
    for found, prob, sample, scale in zip(
        detections, probs.split([len(d.boxes) for d in detections]), samples, scales, strict=True
    ):
        if rescale:
            boxes, shape = found.boxes / scale, tuple(sample.ori_shape[:2])
        else:
            boxes, shape = found.boxes, tuple(sample.img_shape[:2])
        masks = paste_masks(prob, boxes, shape, threshold)
        done.append(Detections(boxes, found.scores, found.labels, masks))
    return done


def _scale_rows(samples: list[DetDataSample], like: Tensor, inverse: bool) -> Tensor:
    """Resized pixels per original pixel as rows of w, h, w, h (B, 4), or the inverse."""
    rows = []
    for sample in samples:
        w, h = sample.metainfo.get('scale_factor', (1.0, 1.0))
        rows.append([1 / w, 1 / h] * 2 if inverse else [w, h] * 2)
    return torch.tensor(rows, dtype=torch.float32, device=like.device)


def rescale_boxes(boxes: list[Tensor], samples: list[DetDataSample]) -> list[Tensor]:
    """Boxes B x (p, 4) from network-input to original-image pixels."""
    if not boxes:
        return []
    scales = _scale_rows(samples, boxes[0], inverse=True)
    return [b * s for b, s in zip(boxes, scales, strict=True)]
