"""Panoptic maps: every pixel has the label of its class and the number of its object.

Two codings of a map are in use. Predictions are label + number * :data:`INSTANCE_OFFSET`, as
mmdetection 3.x has them, where stuff has number 0 and things count from 1 (of all classes together
or of each). Files are PNG images whose colours are arbitrary ids, R + 256 G + 65536 B, with 0 for
pixels of no segment, and a list of segments beside it that says each id's category
(https://cocodataset.org/#format-data, "Panoptic Segmentation").
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

INSTANCE_OFFSET = 1000
"""What one more object adds to a map's value; labels are below it."""

MAX_ID = 2**24 - 1
"""The largest id that a colour of three bytes can have."""

VOID_LABEL = 255
"""Label of ignored pixels in ground truth; like the label ``num_classes``, it is no class."""


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Colours of ids: (...) integers from 0 to :data:`MAX_ID` -> (..., 3) uint8, R, G, B.

    Raises:
        ValueError: an id does not fit into three bytes.
    """
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise ValueError(f'ids from {ids.min()} to {ids.max()}; a colour holds 0 to {MAX_ID}')
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def segments(
    sem_seg: Tensor | np.ndarray, num_classes: int, num_things: int | None = None
) -> list[dict[str, Any]]:
    """The segments of a predicted map, in the order of their values.

    Args:
        sem_seg: (1, H, W) or (H, W) integers, label + number * ``INSTANCE_OFFSET``; on any device.
        num_classes: labels from 0 to this are classes; it and 255 mean no segment.
        num_things: labels below it are things; None takes what has a number for a thing.

    Returns:
        For each segment ``id`` (its value in the map), ``label``, ``instance`` (its number, 0 for
        stuff), ``isthing`` and ``area`` (pixels).

    Raises:
        ValueError: a value is negative, or has another label.
    """
    values, areas = values_of(sem_seg)
    check_values(values, num_classes)
    found = []
    for value, area in zip(values.tolist(), areas.tolist()):
        instance, label = divmod(value, INSTANCE_OFFSET)
        if label >= num_classes:
            continue
        isthing = instance > 0 if num_things is None else label < num_things
        found.append(dict(id=value, label=label, instance=instance, isthing=isthing, area=area))
    return found


def values_of(sem_seg: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values of a map, ascending, and how many pixels each has; both (n,) int64."""
    if isinstance(sem_seg, Tensor):
        values, areas = torch.unique(sem_seg, return_counts=True)
        return values.long().cpu().numpy(), areas.cpu().numpy()
    flat = np.asarray(sem_seg).reshape(-1)
    if flat.size and flat.min() >= 0 and flat.max() < 4 * max(flat.size, INSTANCE_OFFSET):
        # counting is ten times as fast as sorting
        areas = np.bincount(flat)
        values = np.flatnonzero(areas)
        return values, areas[values]
    values, areas = np.unique(flat, return_counts=True)
    return values.astype(np.int64), areas


def check_values(values: np.ndarray, num_classes: int) -> None:
    """Raise ValueError if the values of a map are not those of ``num_classes`` classes or void."""
    labels = values % INSTANCE_OFFSET
    wrong = (values < 0) | ((labels > num_classes) & (labels != VOID_LABEL))
    if wrong.any():
        value = int(values[wrong][0])
        raise ValueError(
            f'value {value} in the panoptic map: label {value % INSTANCE_OFFSET} is none of '
            f'{num_classes} classes (value = label + {INSTANCE_OFFSET} * number)'
        )
