"""Test-time augmentation: what a detector finds in several views of an image, merged.

A view is the image at some scale, flipped or not. Boxes are merged as in mmdetection 3.x and
detectron2: found in every view, mapped to the original image, suppressed per class together, the
best kept. Masks (which mmdetection 3.x does not merge) as in detectron2: the merged boxes are
mapped into every view, its mask probabilities inside them are averaged over the views, and pasted
once. Of a panoptic detector the probabilities of the pixels' classes are averaged too, and the map
is made of both averages.

Shape legend: V views, B images, N boxes of an image, M mask side.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.detectors import PanopticFPN
from mmdet_r2.models.postprocess import Detections, DetectionSelector, paste
from mmdet_r2.registry import MODELS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import move_ends

# direction -> which of x (0) and y (1) run backwards
_MIRRORED = {None: (), 'horizontal': (0,), 'vertical': (1,), 'diagonal': (0, 1)}


@MODELS.register_module()
class DetTTAModel(BaseTTAModel):
    """A detector that looks at several views of each image.

    Views pass one at a time, each twice where there are masks and once more for a panoptic map:
    features are computed again rather than kept, so that memory does not grow with the number of
    views.

    Args:
        module: the detector, or its config: a
            :class:`~mmdet_r2.models.detectors.two_stage.TwoStageDetector` with a RoI head.
        tta_cfg: ``nms`` between the detections of all views (default: type nms, iou_threshold 0.5)
            and ``max_per_img`` (default: 100), with the meaning of ``test_cfg.rcnn``.
        data_preprocessor: of a ``module`` config that has none.

    Raises:
        ConfigError: ``tta_cfg`` has a wrong value; the detector only proposes.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            module = dict(module)
            if data_preprocessor is not None and module.get('data_preprocessor') is None:
                module['data_preprocessor'] = data_preprocessor
            module = MODELS.build(module)
        if getattr(module, 'roi_head', None) is None:
            raise ConfigError(
                f'DetTTAModel merges detections, but {type(module).__name__} without '
                'model.roi_head proposes only: test it without test-time augmentation.'
            )
        super().__init__(module)
        tta_cfg = dict(tta_cfg or {})
        if unknown := sorted(tta_cfg.keys() - {'nms', 'max_per_img'}):
            raise ConfigError(
                f'tta_model.tta_cfg.{unknown[0]}: no such key; expected nms, max_per_img.'
            )
        try:
            self.selector = DetectionSelector(**tta_cfg)
        except ValueError as error:
            reason = str(error).replace('test_cfg.rcnn', 'tta_model.tta_cfg')
            raise ConfigError(f'{reason}.') from error

    @torch.no_grad()
    def test_step(self, data: dict) -> list[DetDataSample]:
        """Detections of each image from all of its views.

        Args:
            data: ``inputs``, V x B images (3, h, w), and ``data_samples``, V x B, as mmcv's
                ``TestTimeAug`` gives them, collated. Images of one view are computed together.

        Returns:
            One sample per image, that of its first view without a flip, with ``pred_instances`` in
            pixels of the original image, and of a panoptic detector ``pred_panoptic_seg``.

        Raises:
            ConfigError: a sample does not tell how its view came about.
        """
        views = [
            dict(inputs=list(inputs), data_samples=list(samples))
            for inputs, samples in zip(data['inputs'], data['data_samples'], strict=True)
        ]
        found = [self._detect(view) for view in views]
        merged = self.merge_preds(list(zip(*found, strict=True)))
        if self.module.with_mask:
            self._add_masks(merged, views)
        if isinstance(self.module, PanopticFPN):
            self._add_maps(merged, views)
        return merged

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[DetDataSample]]
    ) -> list[DetDataSample]:
        """One sample for each image, from the B x V samples of its views.

        Args:
            data_samples_list: with ``pred_instances.bboxes`` rescaled to the original image's size
                but still flipped where the view is, as a detector gives them; masks are ignored.
        """
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [view.pred_instances for view in views]
        boxes = torch.cat(
            [
                flip_boxes(f.bboxes, view.ori_shape, flip_direction(view))
                for f, view in zip(found, views, strict=True)
            ]
        )
        scores = torch.cat([f.scores for f in found])
        labels = torch.cat([f.labels for f in found])
        keep, scores = self.selector.suppress(boxes, scores, labels, torch.zeros_like(labels), 1)
        limit = self.selector.max_per_img if self.selector.max_per_img >= 0 else len(keep)
        keep, scores = keep[:limit], scores[:limit]
        sample = next((view for view in views if flip_direction(view) is None), views[0])
        sample.pred_instances = InstanceData(bboxes=boxes[keep], scores=scores, labels=labels[keep])
        return sample

    def _detect(self, view: dict) -> list[DetDataSample]:
        """Samples of one view with boxes, scores and labels, flipped as the view is."""
        inputs, samples = self._prepared(view)
        with self._precision():
            detections = self.module.detect(inputs, samples, rescale=True)
        for sample, found in zip(samples, detections, strict=True):
            sample.pred_instances = found.to_instances()
        return samples

    def _add_masks(self, merged: list[DetDataSample], views: list[dict]) -> None:
        """Put ``masks`` (N, H, W), of the original size, to the merged boxes."""
        found = [sample.pred_instances for sample in merged]
        head = self.module.roi_head
        offset = head.offset
        sums: list[Tensor] = [f.scores.new_zeros(len(f), 1, 1) for f in found]
        for view in views if any(map(len, found)) else ():
            inputs, samples = self._prepared(view)
            boxes = [
                _to_view(f.bboxes, sample, offset) for f, sample in zip(found, samples, strict=True)
            ]
            with self._precision():
                probs = self.module.segment(inputs, boxes, [f.labels for f in found])
            sums = [
                total + flip_masks(prob, flip_direction(sample))
                for total, prob, sample in zip(sums, probs, samples, strict=True)
            ]
        for f, total, sample in zip(found, sums, merged, strict=True):
            boxes = move_ends(f.bboxes, -offset)
            averaged = Detections(boxes, f.scores, f.labels, total / len(views))
            (pasted,) = paste([averaged], [sample.ori_shape], head.mask_threshold, head.mask_paste)
            f.masks = pasted.masks

    def _add_maps(self, merged: list[DetDataSample], views: list[dict]) -> None:
        """Put the panoptic map of the merged instances and of all views' classes of the pixels."""
        sums: list[Tensor] = []
        for view in views:
            inputs, samples = self._prepared(view)
            with self._precision():
                logits = self.module.classify_pixels(inputs, samples)
            probs = [
                flip_masks(own.float().softmax(0), flip_direction(sample))
                for own, sample in zip(logits, samples, strict=True)
            ]
            sums = [total + own for total, own in zip(sums, probs, strict=True)] if sums else probs
        found = [
            Detections(f.bboxes, f.scores, f.labels, f.masks)
            for f in (sample.pred_instances for sample in merged)
        ]
        maps = self.module.panoptic_fusion_head.predict(found, sums)
        for sample, panoptic in zip(merged, maps, strict=True):
            sample.pred_panoptic_seg = panoptic

    def _prepared(self, view: dict) -> tuple[Tensor, list[DetDataSample]]:
        """The batch (B, 3, H, W) of one view, and its samples on the detector's device."""
        for sample in view['data_samples']:
            _check(sample)
        data = self.module.data_preprocessor(view, False)
        return data['inputs'], data['data_samples']

    def _precision(self) -> AbstractContextManager:
        """The mixed precision that the detector was prepared for: its ``forward``, which would
        switch it on, is passed by.
        """
        dtype = getattr(self.module, '_autocast_dtype', None)
        if dtype is None:
            return nullcontext()
        return torch.autocast(next(self.module.parameters()).device.type, dtype=dtype)


def flip_direction(sample: DetDataSample) -> str | None:
    """How the sample's image was flipped: 'horizontal', 'vertical', 'diagonal' (both), or None."""
    return sample.metainfo.get('flip_direction') if sample.metainfo['flip'] else None


def flip_boxes(boxes: Tensor, shape: Sequence[int], direction: str | None) -> Tensor:
    """Boxes (n, 4) xyxy mirrored within an image of ``shape`` (height, width); its own inverse."""
    flipped = boxes.clone()
    for axis in _MIRRORED[direction]:
        flipped[:, axis] = shape[1 - axis] - boxes[:, axis + 2]
        flipped[:, axis + 2] = shape[1 - axis] - boxes[:, axis]
    return flipped


def flip_masks(masks: Tensor, direction: str | None) -> Tensor:
    """Masks (n, M, M) mirrored; its own inverse."""
    axes = [-1 - axis for axis in _MIRRORED[direction]]
    return masks.flip(axes) if axes else masks


def _to_view(boxes: Tensor, sample: DetDataSample, offset: int) -> Tensor:
    """Boxes (n, 4) from original-image pixels to those of the sample's network input, and to the
    kind that a model with ``offset`` knows.

    Mirrored first: after padding, the resized image's own width is not known any more.
    """
    flipped = flip_boxes(boxes, sample.ori_shape, flip_direction(sample))
    scale = flipped.new_tensor([*sample.metainfo.get('scale_factor', (1, 1))] * 2)
    return move_ends(flipped, -offset) * scale


def _check(sample: DetDataSample) -> None:
    """Raise unless the sample tells how to map its boxes back."""
    meta = sample.metainfo
    missing = [key for key in ('ori_shape', 'img_shape', 'flip') if key not in meta]
    if meta.get('flip') and meta.get('flip_direction') is None:
        missing.append('flip_direction')
    resized = meta.get('img_shape') != meta.get('ori_shape')
    if not missing and resized and 'scale_factor' not in meta:
        missing.append('scale_factor')
    if missing:
        raise ConfigError(
            f'{meta.get("img_path", "a view")}: its metainfo lacks {", ".join(missing)}, without '
            'which boxes cannot be mapped back; name them in PackDetInputs.meta_keys of '
            'tta_pipeline, whose TestTimeAug needs a RandomFlip (prob=0. for none).'
        )
    if meta['flip'] and meta['flip_direction'] not in _MIRRORED:
        raise ConfigError(
            f'{meta.get("img_path", "a view")}: flip_direction is {meta["flip_direction"]!r}; '
            'expected horizontal, vertical or diagonal.'
        )
