"""Detection in large images, window by window."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..datasets.transforms import LoadImageFromFile
from ..inference.slicing import (
    Window,
    check_merging,
    merge_detections,
    place_mask,
    slice_windows,
    touches_cut,
)
from ..progress import progress
from ..structures import DetDataSample
from .images import Image, ImageSource, image_source
from .inference import image_pipeline
from .stream import Pipeline, TestPipeline, stream


def slice_inference(
    model: nn.Module,
    img: Image | ImageSource,
    slice_size: int | tuple[int, int] = 640,
    overlap: float = 0.25,
    *,
    whole_image: bool = False,
    merge_iou_thr: float = 0.25,
    merge_nms_type: str = 'nms',
    merge_metric: str = 'ios',
    class_agnostic: bool = False,
    max_per_img: int = -1,
    test_pipeline: Pipeline | Sequence[dict] | None = None,
    batch_size: int = 1,
    num_workers: int = 2,
    tta: bool = False,
    show_progress: bool = False,
) -> DetDataSample:
    """Detections of one large image, from overlapping windows of it.

    Objects up to the size of the overlap lie whole in some window. Memory does not depend on the
    image's size, but for the image itself: windows pass in batches, masks as run lengths.

    Args:
        model: from :func:`~mmdet_r2.apis.init_detector`.
        img: an image in any form that :func:`~mmdet_r2.apis.inference_detector` takes.
        slice_size: of the windows, in pixels: of the sides, or (height, width). Each is scaled by
            the test pipeline as an image would be.
        overlap: of neighbours, as part of their side.
        whole_image: look at the whole image, too, for objects larger than the windows.
        merge_iou_thr: overlap from which a detection suppresses another of the same class from
            another window.
        merge_nms_type: 'nms' or 'soft_nms'.
        merge_metric: what the overlap is: 'ios', intersection over the smaller box, which also
            removes the parts that borders cut off; or 'iou', over the union.
        class_agnostic: classes suppress each other, too.
        max_per_img: detections kept, the best; negative: all.
        test_pipeline, batch_size, num_workers, tta: as in
            :func:`~mmdet_r2.apis.inference_detector`.
        show_progress: a bar on stderr.

    Returns:
        A sample as of :func:`~mmdet_r2.apis.inference_detector` with ``masks='rle'``, in pixels of
        the image, on the CPU. Panoptic models give their instances only.

    Raises:
        DataError: the image cannot be read.
        ConfigError: an option has a wrong value; or as of
            :func:`~mmdet_r2.apis.inference_detector`.
    """
    check_merging(merge_metric, merge_nms_type)
    if hasattr(model, 'panoptic_fusion_head'):
        print_log(
            'slice_inference: gives instances only, no panoptic map, also of a panoptic model.',
            logger='current',
            level=logging.WARNING,
        )
    pipeline = image_pipeline(model, test_pipeline, tta)
    source = img if isinstance(img, ImageSource) else image_source(img, 'img')
    loader: LoadImageFromFile | None = None
    if isinstance(pipeline, TestPipeline):
        loader = pipeline.loader
    image = source.decode(loader)
    height, width = image.shape[:2]
    windows = slice_windows(height, width, slice_size, overlap)
    whole = (0, 0, width, height)
    if whole_image and windows != [whole]:
        windows.append(whole)
    results = stream(
        model,
        (image[y1:y2, x1:x2] for x1, y1, x2, y2 in windows),
        pipeline,
        batch_size=batch_size,
        num_workers=num_workers,
        tta=tta,
        masks='rle',
    )
    found = _Found(height, width)
    for result in progress(results, 'Windows', len(windows), show=show_progress):
        assert result.sample is not None
        found.add(result.sample.pred_instances, result.index, windows[result.index])
    instances = found.merged(
        windows,
        max_per_img,
        threshold=merge_iou_thr,
        metric=merge_metric,
        kind=merge_nms_type,
        class_agnostic=class_agnostic,
    )
    meta: dict[str, Any] = dict(img_id=0, ori_shape=(height, width), img_shape=(height, width))
    if source.path is not None:
        meta['img_path'] = source.path
    sample = DetDataSample(metainfo=meta)
    sample.pred_instances = instances
    return sample


class _Found:
    """Detections of the windows so far, in pixels of the image; masks in their windows."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.boxes: list[np.ndarray] = []
        self.scores: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.windows: list[np.ndarray] = []
        self.cut: list[np.ndarray] = []
        self.masks: list[dict] = []
        self.with_masks = False

    def add(self, instances: InstanceData, index: int, window: Window) -> None:
        """Take over the detections of one window, in its pixels."""
        instances = instances.cpu()
        boxes = instances.bboxes.float().numpy() + np.array([*window[:2], *window[:2]], np.float32)
        self.boxes.append(boxes)
        self.scores.append(instances.scores.float().numpy())
        self.labels.append(instances.labels.numpy())
        self.windows.append(np.full(len(boxes), index))
        self.cut.append(touches_cut(boxes, window, self.height, self.width))
        if 'masks' in instances:
            self.with_masks = True
            self.masks += instances.masks

    def merged(
        self,
        windows: Sequence[Window],
        max_per_img: int,
        *,
        threshold: float,
        metric: str,
        kind: str,
        class_agnostic: bool,
    ) -> InstanceData:
        """What is left of all after suppression."""
        boxes, labels = np.concatenate(self.boxes), np.concatenate(self.labels)
        index = np.concatenate(self.windows)
        keep, scores = merge_detections(
            boxes,
            np.concatenate(self.scores),
            labels,
            index,
            np.concatenate(self.cut),
            threshold=threshold,
            metric=metric,
            kind=kind,
            class_agnostic=class_agnostic,
        )
        if max_per_img >= 0:
            keep, scores = keep[:max_per_img], scores[:max_per_img]
        fields: dict[str, Tensor | list[dict]] = dict(
            bboxes=torch.from_numpy(boxes[keep]),
            scores=torch.from_numpy(scores.astype(np.float32)),
            labels=torch.from_numpy(labels[keep]),
        )
        if self.with_masks:
            fields['masks'] = [
                place_mask(self.masks[i], windows[index[i]], self.height, self.width) for i in keep
            ]
        return InstanceData(**fields)
