"""Boxes, masks, panoptic maps and labels drawn into an image with OpenCV: milliseconds, and no
display.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmdet_r2.errors import ConfigError
from mmdet_r2.structures.masks import to_rle
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET, VOID_LABEL, values_of

from .palette import Color

SMALL_SEGMENT = 0.001
"""Part of the image below which a segment of a panoptic map gets no name."""


def draw_instances(
    image: np.ndarray,
    instances: InstanceData,
    *,
    classes: Sequence[str] | None = None,
    box_colors: Sequence[Color],
    mask_colors: Sequence[Color] | None = None,
    text_colors: Sequence[Color] | None = None,
    line_width: int = 3,
    alpha: float = 0.8,
) -> np.ndarray:
    """A copy of ``image`` with the instances drawn in, those of low score below the others.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: any of ``bboxes`` (n, 4) xyxy in pixels of ``image``, ``labels`` (n,),
            ``scores`` (n,), ``masks`` (n, H, W), mask objects or n RLE. Without labels all have the
            first colour.
        classes: names of the labels; None writes ``class i``.
        box_colors, mask_colors, text_colors: RGB of each label; masks have their box's colour
            by default, text is light grey.
        line_width: of boxes, in pixels; 0 draws none.
        alpha: opacity of the ground under the text; masks have half of it, so that the object
            remains to be seen.
    """
    image = np.array(image, order='C')
    number = len(instances)
    if not number:
        return image
    labels = _array(instances.get('labels', np.zeros(number))).astype(int)
    scores = None if 'scores' not in instances else _array(instances.scores)
    order = np.argsort(scores, kind='stable') if scores is not None else np.arange(number)
    if 'masks' in instances:
        masks = _masks(instances.masks)
        colors = mask_colors or box_colors
        for i in order:
            _draw_mask(image, masks[i], colors[labels[i]], alpha / 2)
    if 'bboxes' not in instances:
        return image
    boxes = _array(instances.bboxes).astype(float)
    # far corners of runaway boxes would overflow OpenCV's integers
    boxes = np.nan_to_num(boxes).clip(-(2**14), 2**14).round().astype(int)
    if line_width > 0:
        for i in order:
            x1, y1, x2, y2 = boxes[i].tolist()
            cv2.rectangle(image, (x1, y1), (x2, y2), box_colors[labels[i]], line_width)
    for i in order:
        label = labels[i]
        text = classes[label] if classes is not None and label < len(classes) else f'class {label}'
        if scores is not None:
            text += f': {100 * scores[i]:.1f}'
        color = text_colors[label] if text_colors else (200, 200, 200)
        _draw_text(image, text, boxes[i], color, alpha)
    return image


def draw_panoptic(
    image: np.ndarray,
    sem_seg: Any,
    *,
    classes: Sequence[str] | None = None,
    colors: Sequence[Color],
    text_colors: Sequence[Color] | None = None,
    alpha: float = 0.8,
) -> np.ndarray:
    """A copy of ``image`` tinted by the segments of a panoptic map, each with its outline and name.

    The first thing of a class and all stuff have the colour of their class, further things a
    similar one each.

    Args:
        image: (H, W, 3) uint8 RGB.
        sem_seg: (1, H, W) or (H, W) integers, label + number * ``INSTANCE_OFFSET``. Pixels with
            label 255, or one beyond ``classes``, are left as they are.
        classes: names of the labels; None writes ``class i``.
        colors, text_colors: RGB of each label; text is light grey by default.
        alpha: opacity of the ground under the text; segments have half of it.
    """
    image = np.array(image, order='C')
    panoptic = _array(sem_seg)
    panoptic = panoptic.reshape(panoptic.shape[-2:])
    if panoptic.shape != image.shape[:2]:
        raise ValueError(
            f'panoptic map of shape {panoptic.shape} for an image of shape {image.shape[:2]}'
        )
    values, areas = values_of(panoptic)
    labels = values % INSTANCE_OFFSET
    real = (values >= 0) & (labels < len(colors))
    real &= (labels != VOID_LABEL) if classes is None else (labels < len(classes))
    if not real.any():
        return image
    index = np.searchsorted(values, panoptic)
    tints = np.zeros((len(values), 3))
    seen: set[int] = set()
    for k in np.flatnonzero(real):
        tints[k] = colors[labels[k]]
        if int(labels[k]) in seen:
            # a generator of its own: drawing must not move the random state of a training run
            shift = np.random.RandomState(values[k] % 2**32).randint(-50, 51, 3)
            tints[k] = (tints[k] + shift).clip(0, 255)
        seen.add(int(labels[k]))
    inside = real[index]
    edge = np.zeros_like(inside)
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    edge[1:] |= index[1:] != index[:-1]
    weight = np.where(edge, 1.0, alpha / 2)[..., None]
    tinted = (image * (1 - weight) + tints[index] * weight).round().astype(np.uint8)
    image[inside] = tinted[inside]
    # names of large segments below those of small ones
    for k in sorted(np.flatnonzero(real), key=lambda k: -areas[k]):
        if areas[k] >= SMALL_SEGMENT * index.size:
            label = int(labels[k])
            text = classes[label] if classes is not None else f'class {label}'
            color = text_colors[label] if text_colors else (200, 200, 200)
            _draw_text_inside(image, text, index == k, color, alpha)
    return image


def _draw_text_inside(
    image: np.ndarray, text: str, mask: np.ndarray, color: Color, alpha: float
) -> None:
    """Text around the pixel of ``mask`` (H, W) bool that is farthest from its border."""
    text = shown_text(text)
    padded = np.pad(mask.astype(np.uint8), 1)  # the image's edge is a border, too
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    scale, thickness = _text_style(image)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    corner = np.array([x - width // 2, y + height // 2 + below])
    _draw_text(image, text, corner, color, alpha)


def _draw_mask(image: np.ndarray, mask: Any, color: Color, alpha: float) -> None:
    """Tint the pixels of ``mask``, (H, W) bool or run lengths, and outline them in full colour.

    Run lengths are decoded here, one after the other: all together may be gigabytes. All but the
    decoding is done in the object's window alone, which is small in a large photo.
    """
    if isinstance(mask, dict):
        rle = to_rle(mask, *image.shape[:2])
        x, y, width, height = coco_mask.toBbox(rle).astype(int).tolist()
        mask = coco_mask.decode(rle)
    elif np.shape(mask) != image.shape[:2]:
        raise ConfigError(
            f'a mask of shape {np.shape(mask)} cannot be drawn on an image of shape '
            f'{image.shape[:2]}; in a test pipeline LoadAnnotations comes after Resize'
        )
    else:
        mask = np.ascontiguousarray(mask, dtype=np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
    if width == 0 or height == 0:
        return
    part = np.ascontiguousarray(mask[y : y + height, x : x + width])
    inside = part.astype(bool)
    window = image[y : y + height, x : x + width]
    tinted = window[inside] * (1 - alpha) + np.array(color) * alpha
    window[inside] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    cv2.drawContours(image, outlines, -1, color, 1)


def _draw_text(image: np.ndarray, text: str, box: np.ndarray, color: Color, alpha: float) -> None:
    """Text on dark ground above the box, or below its upper edge where that leaves the image."""
    height, width = image.shape[:2]
    scale, thickness = _text_style(image)
    font, text = cv2.FONT_HERSHEY_SIMPLEX, shown_text(text)
    (text_width, text_height), below = cv2.getTextSize(text, font, scale, thickness)
    left = int(np.clip(box[0], 0, max(0, width - text_width)))
    bottom = box[1] - below if box[1] >= text_height + below else box[1] + text_height + 1
    bottom = int(np.clip(bottom, text_height, max(text_height, height - below)))
    ground = image[max(0, bottom - text_height) : bottom + below, left : left + text_width]
    ground[:] = (ground * (1 - alpha)).astype(np.uint8)
    cv2.putText(image, text, (left, bottom), font, scale, color, thickness, cv2.LINE_AA)


def shown_text(text: str) -> str:
    """``text`` for OpenCV, which crashes on half characters, as names of files and of classes in
    JSON may have them.
    """
    return text.encode('utf-8', 'replace').decode()


def _text_style(image: np.ndarray) -> tuple[float, int]:
    """Scale and thickness of a font that suits the image's size."""
    height, width = image.shape[:2]
    scale = float(np.clip(np.sqrt(height * width) / 1200, 0.3, 1.2))
    return scale, 1 if scale < 0.9 else 2


def _masks(masks: Any) -> Sequence[Any]:
    """Masks that can be taken one by one, each (H, W) or run lengths: of a tensor or array (n, H,
    W), of mask objects, or of run lengths.
    """
    if hasattr(masks, 'to_ndarray'):
        return masks.to_ndarray()
    return masks.detach().cpu().numpy() if isinstance(masks, torch.Tensor) else masks


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)
