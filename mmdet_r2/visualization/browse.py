"""Drawings of what a pipeline gives the model, beside the images as they are annotated."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData

from mmdet_r2.datasets.transforms import LoadAnnotations, LoadImageFromFile
from mmdet_r2.errors import ConfigError
from mmdet_r2.files import path_inside, plain_name, write_image
from mmdet_r2.registry import DATASETS, build, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import PolygonMasks

from .drawing import draw_instances, draw_panoptic, shown_text
from .palette import Color, get_palette
from .visualizer import _true_map

SPLITS = ('train', 'val', 'test')

_GREY = (150, 150, 150)
_CAPTION = 24  # pixels above every picture


def browse(
    config: Mapping,
    split: str = 'train',
    number: int | None = None,
    seed: int = 0,
    with_original: bool = True,
) -> Iterator[tuple[str, np.ndarray]]:
    """Samples of a data loader's data set, each as the path of its image and a drawing.

    A drawing (H, W, 3) uint8 RGB has the annotated image on the left, then what the pipeline made
    of it: every view of one for test-time augmentation, and semantic maps as a further picture.
    Ignored objects are grey. Boxes of pipelines that count pixels (``PixelBoxes``) are drawn around
    the pixels that they count.

    Args:
        config: loaded and checked (:func:`mmdet_r2.config.load_config`).
        split: 'train', 'val' or 'test'.
        number: of samples, chosen at random; None: all, in their order.
        seed: of the choice and of the pipeline's own random numbers; sample i looks the same
            whichever others are drawn.
        with_original: draw the annotated image, too.

    Raises:
        ConfigError: the config has no such data loader.
        DataError: the data cannot be used.
    """
    loader = config.get(f'{split}_dataloader')
    if not loader or loader.get('dataset') is None:
        raise ConfigError(f'the config has no {split}_dataloader with a dataset')
    init_scope()
    dataset = build(DATASETS, loader['dataset'], f'{split}_dataloader.dataset')
    indices = list(range(len(dataset)))
    if number is not None and number < len(indices):
        indices = random.Random(seed).sample(indices, number)
    painter = _Painter(dataset)
    for index in indices:
        _seed(seed * 1_000_003 + index)
        packed = dataset[index]
        inputs, samples = packed['inputs'], packed['data_samples']
        if not isinstance(samples, (list, tuple)):
            inputs, samples = [inputs], [samples]
        pictures = [painter.original(index, samples[0])] if with_original else []
        for image, sample in zip(inputs, samples):
            pictures += painter.augmented(image, sample)
        yield samples[0].img_path, _side_by_side(pictures)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


Picture = tuple[str, np.ndarray]  # caption, RGB image


class _Painter:
    """Draws samples of one data set in its classes' names and colours."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.meta = dataset.metainfo
        kinds = [type(transform).__name__ for transform in _transforms(dataset)]
        self.counts_pixels = 'PixelBoxes' in kinds
        # Pipelines for testing load annotations after resizing: they are those of the original.
        resizes = [i for i, kind in enumerate(kinds) if 'Resize' in kind or 'Augment' in kind]
        loads = [i for i, kind in enumerate(kinds) if 'Annotations' in kind]
        self.unscaled = bool(resizes and loads and resizes[0] < loads[0])

    def original(self, index: int, sample: DetDataSample) -> Picture:
        """The annotated image; without annotations where the pipeline put another in its place."""
        info = dict(self.dataset.get_data_info(index))
        if info['img_path'] != sample.img_path:
            info = dict(img_path=sample.img_path)
        results = LoadImageFromFile()(info)
        image = np.ascontiguousarray(results['img'][..., ::-1])
        with_mask = any(instance.get('mask') for instance in info.get('instances', ()))
        results = LoadAnnotations(with_mask=with_mask)(results)
        flags = results['gt_ignore_flags']
        for ignored, chosen in ((True, flags), (False, ~flags)):
            fields = dict(
                bboxes=results['gt_bboxes'][chosen], labels=results['gt_bboxes_labels'][chosen]
            )
            if with_mask:
                fields['masks'] = results['gt_masks'][chosen]
            image = self._draw(image, InstanceData(**fields), ignored)
        name = os.path.basename(sample.img_path)
        return f'{name} {image.shape[1]}x{image.shape[0]}', image

    def augmented(self, inputs: torch.Tensor, sample: DetDataSample) -> list[Picture]:
        """What the pipeline made, and its semantic map where it has one."""
        pixels = inputs.detach().cpu().float().clamp(0, 255).round().byte()
        plain = np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0)[..., ::-1])
        image = plain
        for key, ignored in (('ignored_instances', True), ('gt_instances', False)):
            if key in sample:
                image = self._draw(image, self._drawable(sample, key, plain.shape[:2]), ignored)
        flipped = f', flipped {sample.flip_direction}' if sample.get('flip') else ''
        size = f'{plain.shape[1]}x{plain.shape[0]}'
        pictures = [(f'{size}{flipped}', image)]
        labels = _true_map(sample, plain)
        if labels is not None:
            known = 'stuff_classes' in self.meta
            classes = self.meta['classes'] if known else None
            palette = self.meta.get('palette') if known else None
            colors = get_palette(palette, len(classes) if known else 255)
            drawn = draw_panoptic(plain, labels, classes=classes, colors=colors)
            pictures.append(('semantic map', drawn))
        return pictures

    def _drawable(self, sample: DetDataSample, key: str, shape: tuple[int, int]) -> InstanceData:
        """A sample's instances with boxes and masks where they lie in the picture."""
        instances = sample.get(key)
        height, width = shape
        fields = {k: instances[k] for k in ('bboxes', 'labels', 'masks') if k in instances}
        boxes = np.asarray(fields['bboxes'], dtype=np.float64).reshape(-1, 4).copy()
        masks = fields.get('masks')
        flip = sample.get('flip_direction') if sample.get('flip') else None
        if self.unscaled:
            boxes *= np.tile(sample.get('scale_factor', (1, 1)), 2)
            masks = masks.resize(shape) if masks is not None else None
            if flip is not None:
                boxes = _flipped(boxes, flip, width, height)
                masks = masks.flip(flip) if masks is not None else None
        if self.counts_pixels:  # the last pixel counts
            boxes[:, 2:] += 1
            if flip is not None and isinstance(masks, PolygonMasks):
                masks = masks.expand(height, width, 0, 1)
        fields['bboxes'] = boxes
        if masks is not None:
            fields['masks'] = masks
        return InstanceData(**fields)

    def _draw(self, image: np.ndarray, instances: InstanceData, ignored: bool) -> np.ndarray:
        classes = list(self.meta.get('classes', ()))
        labels = [int(label) for label in instances.get('labels', ())]
        count = max([len(classes), *(label + 1 for label in labels)])
        colors: list[Color] = get_palette(self.meta.get('palette'), count)
        if ignored:
            classes = [f'{name} (ignored)' for name in classes]
            colors = [_GREY] * count
        return draw_instances(
            image, instances, classes=classes or None, box_colors=colors, line_width=2
        )


def _transforms(dataset: Any) -> list[Any]:
    """The transforms of a data set, of the first one inside wrappers."""
    while not hasattr(dataset, 'pipeline'):
        inner = getattr(dataset, 'datasets', None)
        dataset = inner[0] if inner else dataset.dataset
    return list(dataset.pipeline.transforms)


def _flipped(boxes: np.ndarray, direction: str, width: int, height: int) -> np.ndarray:
    x1, y1, x2, y2 = boxes.T
    if direction != 'vertical':
        x1, x2 = width - x2, width - x1
    if direction != 'horizontal':
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def _side_by_side(pictures: Sequence[Picture]) -> np.ndarray:
    """Pictures of any size in a row, on black, each under its caption."""
    height = max(image.shape[0] for _, image in pictures) + _CAPTION
    columns = []
    for caption, image in pictures:
        column = np.zeros((height, image.shape[1], 3), np.uint8)
        column[_CAPTION : _CAPTION + image.shape[0]] = image
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(
            column, shown_text(caption), (4, 17), font, 0.5, (255, 255, 255), 1, cv2.LINE_AA
        )
        columns.append(column)
    return np.concatenate(columns, axis=1)


def write_drawing(
    folder: str | os.PathLike, img_path: str, drawing: np.ndarray, taken: set[str]
) -> Path:
    """Write a drawing under its image's own name, numbered where it is in ``taken``; its path."""
    name = plain_name(os.path.basename(img_path))
    stem, suffix = os.path.splitext(name)
    following = 1
    while name in taken:
        following += 1
        name = f'{stem}_{following}{suffix}'
    taken.add(name)
    path = path_inside(folder, name)
    write_image(path, drawing)
    return path
