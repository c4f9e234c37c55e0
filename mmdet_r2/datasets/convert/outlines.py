"""Outlines of masks, exact to the pixel, for formats that know polygons only.

A ring is an (n, 2) array of points x, y without the first one repeated. Filling rings by the
even-odd rule, as pycocotools, OpenCV and PIL do, gives the mask back, holes included.
"""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as coco_mask

from mmdet_r2.structures.masks import polygons_to_rle, to_rle

# Unit steps right, down, left, up; the object is on the right-hand side of its outline.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Rings (n, 2) int along the edges of the pixels of ``mask`` (H, W) bool, corners only.

    Pixels that touch at a corner belong to different rings. Outer rings run clockwise on the
    screen, holes the other way.
    """
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width == 0:
        return []
    inside = np.pad(mask[y0 : y0 + height, x0 : x0 + width].astype(bool), 1)
    leaving: dict[tuple[int, int], list[int]] = defaultdict(list)  # corner -> directions
    centre = inside[1:-1, 1:-1]
    for direction, (neighbour, dx, dy) in enumerate(
        (
            (inside[:-2, 1:-1], 0, 0),  # nothing above: the upper edge, from the left corner on
            (inside[1:-1, 2:], 1, 0),
            (inside[2:, 1:-1], 1, 1),
            (inside[1:-1, :-2], 0, 1),
        )
    ):
        ys, xs = np.nonzero(centre & ~neighbour)
        for corner in zip((xs + dx).tolist(), (ys + dy).tolist()):
            leaving[corner].append(direction)
    rings = []
    while leaving:
        start = next(iter(leaving))
        first = leaving[start][0]
        x, y = start
        direction = first
        points: list[tuple[int, int]] = []
        while True:
            choices = leaving[x, y]
            if not points or len(choices) == 1:
                taken = choices[0] if points else first
            else:  # two pixels touch here: stay with the one we go around
                taken = (direction + 1) % 4
            if taken != direction or not points:
                points.append((x, y))
            choices.remove(taken)
            if not choices:
                del leaving[x, y]
            direction = taken
            x, y = x + _STEPS[direction][0], y + _STEPS[direction][1]
            # Where two pixels touch at the start, a ring may pass by before it ends.
            if (x, y) == start and (start not in leaving or (direction + 1) % 4 == first):
                break
        if direction == first:  # it began in the middle of an edge
            points = points[1:]
        rings.append(np.array(points) + (x0, y0))
    return rings


def parts(segmentation: list | dict, height: int, width: int) -> list[list[np.ndarray]]:
    """The parts of an object, each as its outer ring followed by its holes.

    Polygons are taken as they are, without holes; run lengths are traced, a part for each
    connected set of pixels (touching along an edge).
    """
    if isinstance(segmentation, list):
        return [[np.asarray(p, dtype=np.float64).reshape(-1, 2)] for p in segmentation]
    return _traced_parts(coco_mask.decode(to_rle(segmentation, height, width)))


def _traced_parts(mask: np.ndarray) -> list[list[np.ndarray]]:
    mask = np.ascontiguousarray(mask)
    count, labels = cv2.connectedComponents(mask, connectivity=4)
    found = []
    for label in range(1, count):
        rings = trace(labels == label)
        found.append(sorted(rings, key=lambda ring: -_extent(ring)))  # the outer one is largest
    return found


def _extent(ring: np.ndarray) -> float:
    width, height = np.ptp(ring, axis=0)
    return float(width) * float(height)


def single_ring(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The whole object as one ring: parts and holes are joined by cuts of no width.

    A cut runs there and back along the same line, so that filling the ring gives the same pixels.
    Polygons of one object that overlap are united first.
    """
    found = parts(segmentation, height, width)
    if isinstance(segmentation, list) and len(found) > 1:
        union = coco_mask.decode(polygons_to_rle(segmentation, height, width))
        odd = np.zeros_like(union)
        for polygon in segmentation:
            odd ^= coco_mask.decode(polygons_to_rle([polygon], height, width))
        if (odd != union).any():
            found = _traced_parts(union)
    return joined([ring for part in found for ring in part])


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Several rings as one, from left to right: each is joined by its leftmost point to the nearest
    point of those before it.
    """
    first, *rest = sorted(rings, key=lambda ring: ring[:, 0].min())
    whole = first
    for ring in rest:
        j = int(ring[:, 0].argmin())
        i = int(((whole - ring[j]) ** 2).sum(axis=1).argmin())
        detour = [ring[j:], ring[: j + 1], whole[i : i + 1]]
        whole = np.concatenate([whole[: i + 1], *detour, whole[i + 1 :]])
    return whole
