"""What can be wrong with one annotation, and its correction.

Both sides use the same measurements, so that a corrected annotation passes the check.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

from mmdet_r2.datasets.coco_annotations import annotation_problem
from mmdet_r2.datasets.image_annotations import mask_box, to_rle
from mmdet_r2.datasets.transforms.loading import usable_mask
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
    """Kinds and descriptions of all that is wrong with the shape of an annotation."""
    found = mask_problems(annotation, width, height)
    mask = None if found else annotation.get('segmentation') or None
    found += box_problems(annotation, width, height)
    if any(kind != 'box-beyond' for kind, _ in found):
        return found
    area = _true_area(annotation, mask, width, height)
    if mask is not None:
        if area == 0:
            return [*found, ('mask-empty', 'its mask has no pixel')]
        tight = _box_of(mask, width, height)
        if not _same_place(annotation['bbox'], tight, width, height):
            text = f'bbox is {_text(annotation["bbox"])}, but its mask lies in {_text(tight)}'
            found.append(('box-mask', text))
    if message := _area_problem(annotation, area, mask is not None):
        found.append(('area', message))
    if annotation.get('iscrowd') and isinstance(mask, list):
        found.append(('crowd-polygons', 'iscrowd is 1 with polygons, expected run lengths'))
    return found


def box_problems(annotation: dict, width: int, height: int) -> list[Problem]:
    """What is wrong with ``bbox``: at most one thing."""
    box = annotation.get('bbox')
    reason = annotation_problem({'bbox': box}, width, height)
    if not reason:
        x, y, w, h = annotation['bbox']
        beyond = max(-x, -y, x + w - width, y + h - height)
        if beyond > BEYOND:
            text = f'bbox {_text(box)} sticks {beyond:g} pixels out of {width} x {height}'
            return [('box-beyond', text)]
        return []
    if 'zero' in reason:
        return [('box-empty', f'bbox is {_text(box)} (x, y, width, height)')]
    if 'outside' in reason:
        return [('box-outside', f'bbox is {_text(box)}, outside of {width} x {height}')]
    return [('box-malformed', f'bbox is {_text(box)}, expected four finite numbers')]


def mask_problems(annotation: dict, width: int, height: int) -> list[Problem]:
    """What is wrong with ``segmentation`` as it is written."""
    mask = annotation.get('segmentation')
    if not mask:
        return []
    if isinstance(mask, dict):
        return [('rle-bad', reason)] if (reason := _rle_problem(mask, width, height)) else []
    if not isinstance(mask, list) or not all(isinstance(p, list) for p in mask):
        return [('mask-malformed', f'segmentation is {_text(mask)}, expected a list of polygons')]
    found = []
    for number, polygon in enumerate(mask):
        if len(polygon) % 2:
            text = f'polygon {number} has {len(polygon)} numbers, expected pairs x, y'
            found.append(('polygon-odd', text))
        elif len(polygon) < 6:
            found.append(('polygon-short', f'polygon {number} has {len(polygon) // 2} points'))
        elif usable_mask([polygon], height, width) is None:
            found.append(('polygon-not-finite', f'polygon {number} has a value that is no pixel'))
    return found


def _rle_problem(mask: dict, width: int, height: int) -> str:
    """Why run lengths cannot be used, '' if they can."""
    size, counts = mask.get('size'), mask.get('counts')
    if size not in ([height, width], (height, width)):
        return f'size of its run lengths is {size}, expected [{height}, {width}]'
    if isinstance(counts, list):
        if not all(isinstance(n, int) and n >= 0 for n in counts):
            return 'its run lengths are not all integers from 0'
        total = sum(counts)
    elif isinstance(counts, str):
        runs = _decode_counts(counts)
        if runs is None or min(runs, default=0) < 0:
            return 'its compressed run lengths cannot be decoded'
        total = sum(runs)
    else:
        return f'counts of its run lengths are {_text(counts)}'
    if total != width * height:
        return f'its run lengths cover {total} pixels, the image has {width * height}'
    return ''


def _decode_counts(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed text; None if it is none. pycocotools would read beyond it.

    Six bits per character from '0' on: five of the number, lowest first, and whether more follow;
    from the fourth run on the difference to the one before last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else None


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
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not math.isfinite(area):
        return f'area is {_text(area)}, expected a number'
    # COCO's own crowds have areas of something else; nothing reads them.
    if annotation.get('iscrowd') and area > 0:
        return ''
    margin = max(AREA_TOLERANCE * true_area, AREA_PIXELS)
    too_small = area <= 0 or (has_mask and area < true_area - margin)
    if too_small or area > true_area + margin:
        return f'area is {area:g}, its {"mask" if has_mask else "box"} has {true_area:g}'
    return ''


def _true_area(annotation: dict, mask: Any, width: int, height: int) -> float:
    if mask is not None:
        return float(coco_mask.area(to_rle(mask, height, width)))
    return float(annotation['bbox'][2] * annotation['bbox'][3])


def fix_object(annotation: dict, width: int, height: int) -> tuple[dict | None, list[str]]:
    """A corrected copy, or None to drop it, and what was done."""
    fixed, done = dict(annotation), []
    if mask_problems(fixed, width, height):
        mask = fixed.pop('segmentation')
        sound = []
        if isinstance(mask, list):
            polygons = [p for p in mask if isinstance(p, list)]
            sound = [p for p in polygons if not mask_problems({'segmentation': [p]}, width, height)]
        if sound:
            fixed['segmentation'] = sound
        done.append(f'{len(sound)} of {len(mask)} polygons kept' if sound else 'mask removed')
    mask = fixed.get('segmentation') or None
    if mask is not None and not coco_mask.area(to_rle(mask, height, width)):
        del fixed['segmentation']
        mask = None
        done.append('empty mask removed')
    for kind, _ in box_problems(fixed, width, height):
        if kind == 'box-beyond':
            x, y, w, h = fixed['bbox']
            x1, y1 = max(x, 0), max(y, 0)
            fixed['bbox'] = [x1, y1, min(x + w, width) - x1, min(y + h, height) - y1]
            done.append('box cut to the image')
        elif mask is None:
            return None, [*done, 'dropped: no usable box, and no mask to take one from']
        else:
            fixed['bbox'] = _box_of(mask, width, height)
            done.append('box taken from its mask')
    tight = _box_of(mask, width, height) if mask is not None else fixed['bbox']
    if not _same_place(fixed['bbox'], tight, width, height):
        fixed['bbox'] = tight
        done.append('box taken from its mask')
    if box_problems(fixed, width, height):
        return None, [*done, 'dropped: nothing of it is in the image']
    if mask is not None and fixed.get('iscrowd') and isinstance(mask, list):
        fixed['segmentation'] = _plain_rle(to_rle(mask, height, width))
        done.append('polygons turned into run lengths')
    area = _true_area(fixed, mask, width, height)
    if _area_problem(fixed, area, mask is not None):
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
    moved = dict(annotation, bbox=[x1, y1, x2 - x1, y2 - y1])
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


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return '[' + ', '.join(_text(v) for v in value) + ']'
    if isinstance(value, float):
        return f'{value:.6g}'
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
