"""What can be wrong with one annotation, and its correction.

Both sides use the same measurements, so that a corrected annotation passes the check.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from mmdet_r2.datasets.coco_json import MASKS, normal_box, normal_shape, shorten
from mmdet_r2.datasets.image_annotations import mask_box, to_rle
from mmdet_r2.structures.masks import encode_rle

# Pixels that a box may stick out of its image: annotation tools round.
BEYOND = 1.0
# Of box and mask: drawn by hand, they differ by some pixels; below this IoU they are of two things.
MIN_BOX_IOU = 0.5
# Of the area: outlines count differently from pixels, by a pixel along the border.
AREA_TOLERANCE = 0.25
AREA_PIXELS = 24

Problem = tuple[str, str]  # kind of finding, message


def object_problems(annotation: dict, width: int, height: int) -> list[Problem]:
    """Kinds and descriptions of what is wrong with the shape of an annotation in normal form."""
    found = []
    box, mask = annotation['bbox'], annotation.get('segmentation') or None
    if message := _beyond(box, width, height):
        found.append(('box-beyond', message))
    area = _true_area(annotation, mask, width, height)
    if mask is not None:
        if area == 0:
            return [*found, ('mask-empty', 'its mask has no pixel')]
        tight = _box_of(mask, width, height)
        if not _same_place(box, tight, width, height):
            text = f'bbox is {shorten(box)}, but its mask lies in {shorten(tight)}'
            found.append(('box-mask', text))
    if message := _area_problem(annotation, area, mask is not None):
        found.append(('area', message))
    if annotation.get('iscrowd') and isinstance(mask, list):
        found.append(('crowd-polygons', 'iscrowd is 1 with polygons, expected run lengths'))
    return found


def _beyond(box: list, width: int, height: int) -> str:
    """How far a box sticks out of its image, '' if it does not."""
    x, y, w, h = box
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond <= BEYOND:
        return ''
    return f'bbox {shorten(box)} sticks {beyond:g} pixels out of {width} x {height}'


def _same_place(bbox: list, tight: list, width: int, height: int) -> bool:
    """Whether two boxes x, y, w, h are of one object; what is outside the image does not count."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = bbox, tight
    limit = (width, height, width, height)
    one = np.clip([x1, y1, x1 + w1, y1 + h1], 0, limit)
    other = np.clip([x2, y2, x2 + w2, y2 + h2], 0, limit)
    if (np.abs(one - other) <= 2).all():
        return True
    common = float((np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod())
    union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - common
    return common >= MIN_BOX_IOU * union


def _area_problem(annotation: dict, true_area: float, has_mask: bool) -> str:
    """Why ``area`` is not that of the mask, or of the box, '' if it is."""
    area = annotation.get('area')
    if area is None:
        return ''  # taken from the box
    # COCO's own crowds have areas of something else; nothing reads them.
    if annotation.get('iscrowd'):
        return ''
    margin = max(AREA_TOLERANCE * true_area, AREA_PIXELS)
    too_small = has_mask and area < true_area - margin
    if too_small or area > true_area + margin:
        return f'area is {area:g}, its {"mask" if has_mask else "box"} has {true_area:g}'
    return ''


def _true_area(annotation: dict, mask: Any, width: int, height: int) -> float:
    if mask is not None:
        return float(coco_mask.area(to_rle(mask, height, width)))
    return float(annotation['bbox'][2] * annotation['bbox'][3])


def fix_object(annotation: dict, width: int, height: int) -> tuple[dict | None, list[str]]:
    """A corrected copy in normal form, or None to drop it, and what was done."""
    fixed, found = normal_shape(annotation, width, height)
    done = [f'{message}: set to 0' for kind, message in found if kind == 'flag-malformed']
    mask = fixed.get('segmentation')
    if any(kind in MASKS for kind, _ in found):
        kept = f'{len(mask)} polygons kept' if mask else 'mask removed'
        done.append(f'{kept}: {next(message for kind, message in found if kind in MASKS)}')
    if mask is not None and not coco_mask.area(to_rle(mask, height, width)):
        del fixed['segmentation']
        mask = None
        done.append('empty mask removed')
    tight = None
    if mask is not None:
        tight, _ = normal_box(_box_of(mask, width, height), width, height)
    box = fixed.get('bbox')
    if box is None and tight is None:
        return None, [*done, 'dropped: no usable box, and no mask to take one from']
    if box is None or (tight is not None and not _same_place(box, tight, width, height)):
        fixed['bbox'] = tight
        done.append('box taken from its mask')
    elif (
        mask is not None
        and tight is None
        and not _same_place(box, _box_of(mask, width, height), width, height)
    ):
        del fixed['segmentation']
        mask = None
        done.append('mask removed, which is too small for a box and lies elsewhere')
    if _beyond(fixed['bbox'], width, height):
        x, y, w, h = fixed['bbox']
        x1, y1 = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        w, h = max(min(x + w, width) - x1, 1), max(min(y + h, height) - y1, 1)
        fixed['bbox'] = [x1, y1, w, h]
        done.append('box cut to the image')
    if mask is not None and fixed.get('iscrowd') and isinstance(mask, list):
        fixed['segmentation'] = _plain_rle(to_rle(mask, height, width))
        done.append('polygons turned into run lengths')
    area = _true_area(fixed, mask, width, height)
    if any(kind == 'area' for kind, _ in found) or _area_problem(fixed, area, mask is not None):
        fixed['area'] = area
        done.append(f'area set to {fixed["area"]:g}')
    return fixed, done


def _box_of(mask: Any, width: int, height: int) -> list[float]:
    """x, y, width, height of a mask, inside the image."""
    x1, y1, x2, y2 = mask_box(mask, height, width)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    return [x1, y1, x2 - x1, y2 - y1]


def move_object(
    annotation: dict,
    move: Callable[[np.ndarray], np.ndarray],
    warp: Callable[[np.ndarray], np.ndarray],
) -> dict:
    """A copy of a sound annotation in other coordinates.

    Args:
        move: (n, 2) points to (n, 2) points.
        warp: (H, W) uint8 mask to the mask of the new size; for run lengths.
    """
    x, y, w, h = annotation['bbox']
    corners = move(np.array([[x, y], [x + w, y + h]], dtype=np.float64))
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    # no smaller than what can be learnt
    moved = dict(annotation, bbox=[x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)])
    if 'area' in moved and w * h > 0:
        moved['area'] = moved['area'] * (x2 - x1) * (y2 - y1) / (w * h)
    mask = annotation.get('segmentation')
    if isinstance(mask, dict):
        bitmap = coco_mask.decode(to_rle(mask, *mask['size']))
        moved['segmentation'] = _plain_rle(encode_rle(np.ascontiguousarray(warp(bitmap))[None])[0])
    elif mask:
        moved['segmentation'] = [
            move(np.array(p, dtype=np.float64).reshape(-1, 2)).reshape(-1).tolist() for p in mask
        ]
    return moved


def _plain_rle(rle: dict) -> dict:
    """Run lengths that can be written as JSON."""
    counts = rle['counts']
    counts = counts.decode('ascii') if isinstance(counts, bytes) else counts
    return dict(size=[int(side) for side in rle['size']], counts=counts)
