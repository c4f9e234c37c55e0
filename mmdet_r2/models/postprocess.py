"""From the RoI head's outputs to detections.

Shape legend: B images, R RoIs of the batch, K classes, N detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.targets import img_shapes
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import box_limits, check_offset, clip_boxes, move_ends
from mmdet_r2.structures.masks import encode_rle, paste_masks
from mmdet_r2.structures.pixel_masks import paste_pixel_masks

if TYPE_CHECKING:
    from mmdet_r2.models.roi.box_head import BoxOutput, ConvFCBBoxHead

_NMS_KEYS = {
    'nms': {'iou_threshold', 'class_agnostic', 'offset'},
    'soft_nms': {'iou_threshold', 'class_agnostic', 'offset', 'sigma', 'min_score', 'method'},
}

# How masks get into the image: (N, M, M), (N, 4), (height, width), threshold -> (N, H, W).
PasteRule = Callable[[Tensor, Tensor, tuple[int, int], float], Tensor]
MASK_PASTES: dict[str, PasteRule] = {
    'aligned': paste_masks,
    'padded': partial(paste_pixel_masks, padding=1),  # maskrcnn-benchmark
    'truncated': paste_pixel_masks,  # mmdetection 1.x
}

# A byte each: what masks may take on their way to run lengths.
_PASTED_PIXELS = 2**26
# Not an argument: between who asks and who pastes lie the detectors, heads and wrappers.
_ENCODED: ContextVar[bool] = ContextVar('encoded_masks', default=False)


@dataclass
class Detections:
    """One image's detections, best first: ``boxes`` (N, 4) xyxy, ``scores`` (N,), ``labels`` (N,)
    int64, ``masks`` (N, H, W) bool, before :func:`paste` (N, M, M) probabilities, or None.

    Within :func:`encoded_masks`, :func:`paste` leaves N run lengths in ``masks``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | Any = None

    def __getitem__(self, index: Tensor) -> Detections:
        """Some of the detections, by index or bool mask."""
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index], masks)

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
            ``class_agnostic=True`` lets classes suppress each other; ``offset`` is the one below
            unless given.
        max_per_img: detections kept per image; negative: all.
        keep_ties: also those that score the same as the last one kept, as in maskrcnn-benchmark.
        nms_after_rescale: suppress in original-image pixels, as mmdetection 3.x does in box-only
            models, and 1.x in all ('always'); False, and True where there are masks: in those of
            the network input.
        drop_empty: leave out detections without area in the original image, as detectron2 does;
            only where suppression comes first.
        offset: 1 where the model's boxes are pixel boxes (see ``structures.boxes``).
    """

    score_thr: float = 0.05
    nms: dict | None = None
    max_per_img: int = 100
    keep_ties: bool = False
    nms_after_rescale: bool | str = True
    drop_empty: bool = False
    offset: int = 0

    def __post_init__(self) -> None:
        nms = dict(self.nms or dict(type='nms', iou_threshold=0.5))
        self.kind = nms.pop('type', 'nms')
        known = _NMS_KEYS.get(self.kind)
        if known is None or set(nms) - known:
            raise ConfigError(
                f'test_cfg.rcnn.nms={self.nms}: expected type nms or soft_nms, with the keys '
                f'{sorted(_NMS_KEYS.get(self.kind, _NMS_KEYS["soft_nms"]))}'
            )
        self.options = {'offset': check_offset('test_cfg.rcnn.offset', self.offset), **nms}
        check_offset('test_cfg.rcnn.nms.offset', self.options['offset'])
        if self.nms_after_rescale not in (True, False, 'always'):
            raise ConfigError(
                f'test_cfg.rcnn.nms_after_rescale={self.nms_after_rescale!r}: expected True, False '
                "or 'always'"
            )
        if self.drop_empty and self.nms_after_rescale:
            raise ConfigError(
                'test_cfg.rcnn.drop_empty=True needs nms_after_rescale=False: it drops what is '
                'empty after suppression'
            )

    def suppresses_rescaled(self, with_mask: bool) -> bool:
        """Whether suppression sees original-image pixels."""
        return self.nms_after_rescale == 'always' or (self.nms_after_rescale and not with_mask)

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

        detections = []
        for i in range(len(samples)):  # ragged: each image has its own number
            own = (image == i).nonzero()[:, 0]
            own = own[: self._limit(score[own])]
            detections.append(Detections(boxes[own], score[own], label[own]))
        return detections

    def _limit(self, scores: Tensor) -> int:
        """How many of an image's detections of descending scores (n,) are kept."""
        limit = self.max_per_img
        if not 0 <= limit < len(scores):
            return len(scores)
        if self.keep_ties and limit > 0:
            return int((scores >= scores[limit - 1]).sum())
        return limit

    def suppress(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Indices kept (k,), by descending score, and their scores (k,), which soft-NMS lowers."""
        group = image if self.options.get('class_agnostic', False) else image * num_classes + labels
        threshold, offset = self.options.get('iou_threshold', 0.5), self.options['offset']
        if self.kind == 'nms':
            keep = ops.batched_nms(boxes, scores, group, threshold, offset)
            return keep, scores[keep]
        shift = group.to(boxes) * (boxes.max() + 1) if len(boxes) else group.to(boxes)
        scores, keep = ops.soft_nms(
            boxes + shift[:, None],
            scores,
            threshold,
            self.options.get('sigma', 0.5),
            self.options.get('min_score', 1e-3),
            self.options.get('method', 'linear'),
            offset,
        )
        return keep, scores


def to_original(
    detections: list[Detections], samples: list[DetDataSample], drop_empty: bool
) -> list[Detections]:
    """Detections from network-input to original-image pixels; ``masks`` stay as they are.

    Args:
        drop_empty: also cut the boxes to the image, and leave out those without area.
    """
    scales = _scale_rows(samples, detections[0].boxes, inverse=False) if detections else []
    done = []
    for found, sample, scale in zip(detections, samples, scales, strict=True):
        moved = replace(found, boxes=found.boxes / scale)
        if drop_empty:
            moved.boxes = clip_boxes(moved.boxes, sample.ori_shape[:2])
            moved = moved[(moved.boxes[:, 2:] > moved.boxes[:, :2]).all(1)]
        done.append(moved)
    return done


def to_network(boxes: list[Tensor], samples: list[DetDataSample]) -> list[Tensor]:
    """Boxes B x (N, 4) from original-image to network-input pixels."""
    scales = _scale_rows(samples, boxes[0], inverse=False) if boxes else []
    return [own * scale for own, scale in zip(boxes, scales, strict=True)]


def to_results(detections: list[Detections], offset: int) -> list[Detections]:
    """Detections of a model whose boxes have ``offset``, with boxes of width x2 - x1."""
    return [replace(found, boxes=move_ends(found.boxes, offset)) for found in detections]


def paste(
    detections: list[Detections],
    shapes: list[tuple[int, int]],
    threshold: float,
    rule: str = 'aligned',
) -> list[Detections]:
    """Detections whose ``masks`` are pasted from the boxes into images of ``shapes`` (height,
    width): bool, or run lengths within :func:`encoded_masks`.

    Args:
        detections: with ``masks`` (N, M, M), the probabilities inside each box.
        threshold: probability from which a pixel is inside; negative: masks are uint8 probabilities
            x 255.
        rule: a key of :data:`MASK_PASTES`.
    """
    paste_all = MASK_PASTES[rule]
    if _ENCODED.get() and threshold >= 0:
        paste_all = partial(_paste_encoded, MASK_PASTES[rule])
    return [
        replace(found, masks=paste_all(found.masks, found.boxes, tuple(shape[:2]), threshold))
        for found, shape in zip(detections, shapes, strict=True)
    ]


@contextmanager
def encoded_masks() -> Iterator[None]:
    """Within it, in this thread, masks are pasted a few at a time and kept as COCO run lengths.

    300 masks of a photo of 12 megapixels are 3.6 GB as bool, and some hundred kB so.
    """
    token = _ENCODED.set(True)
    try:
        yield
    finally:
        _ENCODED.reset(token)


def _paste_encoded(
    rule: PasteRule, probs: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float
) -> list[dict]:
    """What ``rule`` pastes, as N x dict(size=[H, W], counts=bytes)."""
    group = max(1, _PASTED_PIXELS // max(1, shape[0] * shape[1]))
    return [
        rle
        for part, own in zip(probs.split(group), boxes.split(group), strict=True)
        for rle in encode_rle(rule(part, own, shape, threshold))
    ]


def pixel_sizes(samples: list[DetDataSample], like: Tensor) -> Tensor:
    """Width and height (B, 2) of a pixel of each original image, in network-input pixels."""
    return _scale_rows(samples, like, inverse=False)[:, :2]


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
