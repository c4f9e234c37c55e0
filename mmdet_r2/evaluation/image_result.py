"""One image's detections between a metric's ``process`` and the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.structures.masks import compressed, encode_rle, rle_problems, usable_masks


@dataclass
class ImageResult:
    """Detections of one image, n of them in the model's order.

    Attributes:
        img_id: as the data set has it.
        height, width: of the original image.
        bboxes: (n, 4) float32 xyxy, pixels of the original image.
        scores: (n,) float32.
        labels: (n,) int64, index into the data set's classes.
        masks: n x dict(size=[height, width], counts=bytes); None if the model has no masks.
        mask_scores: (n,) float32 where masks are scored on their own.
        instances: ground truth that came with the data sample; kept without an annotation file.
        dataset: number of its data set in a :class:`~mmdet_r2.datasets.ConcatDataset`, else 0.
    """

    img_id: int | str
    height: int
    width: int
    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None = None
    mask_scores: np.ndarray | None = None
    instances: list[dict] | None = None
    dataset: int = 0


def select(result: ImageResult, keep: np.ndarray) -> ImageResult:
    """The detections where ``keep`` (n,) is true."""
    return replace(
        result,
        bboxes=result.bboxes[keep],
        scores=result.scores[keep],
        labels=result.labels[keep],
        masks=None if result.masks is None else [mask for mask, k in zip(result.masks, keep) if k],
        mask_scores=None if result.mask_scores is None else result.mask_scores[keep],
    )


def finite_detections(result: ImageResult) -> tuple[ImageResult, int]:
    """``result`` without detections whose score or box is NaN or infinite, and how many those
    were.
    """
    finite = np.isfinite(result.scores) & np.isfinite(result.bboxes).all(axis=1)
    if finite.all():
        return result, 0
    return select(result, finite), int(np.count_nonzero(~finite))


def detection_arrays(predicted: Any, where: str) -> dict[str, np.ndarray]:
    """The numbers of an image's n detections: ``bboxes`` (n, 4), ``scores`` (n,) and, if there are
    any, ``mask_scores`` (n,), float32; ``labels`` (n,) int64.

    Args:
        predicted: mapping with tensors, arrays or lists under these names.
        where: begins the message: which image, of which file.

    Raises:
        DataError: one is missing, of another shape, or holds anything but numbers.
    """
    if not hasattr(predicted, 'keys'):
        raise DataError(f'{where}: pred_instances is a {type(predicted).__name__}, expected a dict')
    found: dict[str, np.ndarray] = {}
    for key in ('labels', 'bboxes', 'scores', 'mask_scores'):
        if key not in predicted:
            if key == 'mask_scores':
                continue
            raise DataError(f'{where}: pred_instances has no {key!r}')
        try:
            array = as_array(predicted[key])
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise DataError(f'{where}: {key} is no array of numbers ({error})') from None
        number = len(found['labels']) if found else array.size
        shape = (number, 4) if key == 'bboxes' else (number,)
        if array.size == 0 and number == 0:
            array = array.reshape(shape)
        if array.shape != shape:
            raise DataError(
                f'{where}: {key} has the shape {array.shape}, expected {shape}'
                + (f' for {number} labels' if found else ', one for each detection')
            )
        if array.size and array.dtype.kind not in 'fiu':
            raise DataError(f'{where}: {key} is of type {array.dtype}, expected numbers')
        if key == 'labels' and array.dtype.kind == 'f' and not (array == np.floor(array)).all():
            raise DataError(f'{where}: labels are no integers, such as {array.flat[0]!r}')
        found[key] = array.astype(np.int64 if key == 'labels' else np.float32)
    return found


def mask_results(masks: Any, number: int, height: int, width: int, where: str) -> list[dict]:
    """The masks of an image's detections as run lengths.

    Args:
        masks: (n, H, W) bool or 0/1, or n run lengths.
        number: of detections, n.
        height, width: of the original image.
        where: begins the message: which image, of which file.

    Raises:
        DataError: there are not n masks of the image's size.
    """
    if not isinstance(masks, list | tuple):
        shape = tuple(np.shape(masks))
        if number and shape != (number, height, width):
            raise DataError(
                f'{where}: masks are of shape {shape}, expected {(number, height, width)}: a mask '
                'for each box, of the size of the image (ori_shape)'
            )
        bitmaps = as_array(masks)
        if bitmaps.dtype != bool and not ((bitmaps == 0) | (bitmaps == 1)).all():
            raise DataError(
                f'{where}: masks are {bitmaps.dtype} numbers up to {bitmaps.max()}, expected bool, '
                'or 0 and 1'
            )
        return encode_rle(bitmaps) if number else []
    if len(masks) != number:
        raise DataError(f'{where}: {len(masks)} masks for {number} boxes')
    return compressed_masks(masks, height, width, where)


def compressed_masks(masks: Sequence[Any], height: int, width: int, where: str) -> list[dict]:
    """COCO segmentations of one image, each of which must be usable, as compressed run lengths.

    Raises:
        DataError: one is not usable; begins with ``where``.
    """
    usable = usable_masks(masks, height, width)
    if None in usable:
        i = usable.index(None)
        problem = 'no polygon of three points or more'
        if not isinstance(masks[i], list):
            (problem,) = rle_problems([masks[i]], [(height, width)])
        raise DataError(f'{where}: mask {i} cannot be used: {problem}')
    return [compressed(mask, height, width) for mask in usable]


def check_labels(images: Sequence[ImageResult], num_classes: int) -> None:
    """Raise a ConfigError where a label is not one of the data set's classes."""
    for image in images:
        if len(image.labels) and not 0 <= image.labels.min() <= image.labels.max() < num_classes:
            raise ConfigError(
                f'image {image.img_id}: a detection has label {image.labels.max()}, but the data '
                f'set has {num_classes} '
                'classes; num_classes of the heads must be that number'
            )


def as_array(value: Any) -> np.ndarray:
    """A tensor of any device and precision, or an array, as numpy."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # numpy has no bfloat16
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def pack(results: Sequence[ImageResult]) -> dict:
    """Images as a few flat tensors and lists: thousands of small ones would take long to send."""

    def flat(name: str) -> torch.Tensor | None:
        arrays = [getattr(r, name) for r in results if getattr(r, name) is not None]
        return torch.from_numpy(np.concatenate(arrays)) if arrays else None

    masks = [mask for r in results for mask in r.masks or ()]
    counts = [m['counts'].encode() if isinstance(m['counts'], str) else m['counts'] for m in masks]
    return dict(
        img_id=[r.img_id.item() if isinstance(r.img_id, np.generic) else r.img_id for r in results],
        size=[(r.height, r.width) for r in results],
        number=[len(r.bboxes) for r in results],
        bboxes=flat('bboxes'),
        scores=flat('scores'),
        labels=flat('labels'),
        mask_scores=flat('mask_scores'),
        has_masks=[r.masks is not None for r in results],
        has_mask_scores=[r.mask_scores is not None for r in results],
        rle_size=torch.tensor([m['size'] for m in masks], dtype=torch.int32),
        rle_length=torch.tensor([len(c) for c in counts], dtype=torch.int32),
        rle=b''.join(counts),
        instances=[r.instances for r in results],
        dataset=[r.dataset for r in results],
    )


def unpack(packed: dict) -> list[ImageResult]:
    """The inverse of :func:`pack`."""
    sizes = packed['rle_size'].tolist()
    ends = packed['rle_length'].cumsum(0, dtype=torch.int64).tolist()
    rles = [
        dict(size=size, counts=packed['rle'][end - length : end])
        for size, length, end in zip(sizes, packed['rle_length'].tolist(), ends)
    ]
    results = []
    start = mask_start = score_start = 0
    for i, number in enumerate(packed['number']):
        rows = slice(start, start + number)
        start += number
        masks = mask_scores = None
        if packed['has_masks'][i]:
            masks = rles[mask_start : mask_start + number]
            mask_start += number
        if packed['has_mask_scores'][i]:
            mask_scores = packed['mask_scores'][score_start : score_start + number].numpy()
            score_start += number
        height, width = packed['size'][i]
        results.append(
            ImageResult(
                img_id=packed['img_id'][i],
                height=height,
                width=width,
                bboxes=packed['bboxes'][rows].numpy(),
                scores=packed['scores'][rows].numpy(),
                labels=packed['labels'][rows].numpy(),
                masks=masks,
                mask_scores=mask_scores,
                instances=packed['instances'][i],
                dataset=packed['dataset'][i],
            )
        )
    return results
