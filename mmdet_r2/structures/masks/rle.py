"""COCO's run lengths of bitmaps."""

import cv2
import numpy as np
import pycocotools.mask as coco_mask
from torch import Tensor


def encode_rle(masks: Tensor | np.ndarray) -> list[dict]:
    """Masks (n, H, W), bool or 0/1, as COCO run lengths: n x dict(size=[H, W], counts=bytes)."""
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    array = array.view(np.uint8) if array.dtype == bool else array.astype(np.uint8, copy=False)
    if array.shape[1] == 0 or array.shape[2] == 0:
        return [dict(size=list(array.shape[1:]), counts=b'') for _ in array]
    return [_encode(mask) for mask in array]


def _encode(mask: np.ndarray) -> dict:
    """One mask (H, W) uint8 of 0 and 1. Of a narrow one only its own columns are looked at."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return coco_mask.frPyObjects(dict(size=[height, width], counts=[mask.size]), height, width)
    first, end = int(columns[0]), int(columns[-1]) + 1
    # COCO counts down the columns. cv2.transpose is vectorised; the transposed copy seen from
    # behind is column-major.
    if 2 * (end - first) > width:
        return coco_mask.encode(cv2.transpose(mask).T)
    return encode_columns(mask[:, first:end], first, width)


def encode_columns(part: np.ndarray, first: int, width: int) -> dict:
    """Run lengths of a mask (H, ``width``) that is empty but for the columns ``part`` (H, w), uint8
    of 0 and 1, from ``first`` on.
    """
    height, columns = part.shape
    pixels = cv2.transpose(part).reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    # runs of 0 and 1 in turn, beginning with 0
    edges = [0, *([0] if pixels[0] else []), *changes.tolist(), pixels.size]
    counts = np.diff(edges).tolist()
    counts[0] += first * height
    after = (width - first - columns) * height
    if len(counts) % 2:
        counts[-1] += after
    elif after:  # COCO's encoder writes no run of zero length at the end
        counts.append(after)
    return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)
