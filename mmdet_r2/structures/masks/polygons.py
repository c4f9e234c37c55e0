"""Masks as polygons, and their cutting at a crop's edges."""

from collections.abc import Iterator, Sequence

import mmcv
import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

from mmdet_r2.structures.masks.affine import AffineMasks, Shape
from mmdet_r2.structures.masks.bitmaps import (
    BitmapMasks,
    Index,
    check_direction,
    crop_window,
    numpy_index,
    random_state,
)

MAX_OUTLINE = 10_000_000
"""Of one object, in pixels: the larger of its sides for every edge, all polygons together.
pycocotools takes 40 bytes for each of them."""


class PolygonMasks(AffineMasks):
    """Masks as polygons: n objects, each a list of arrays x0, y0, x1, y1, ... in pixels.

    Args:
        masks: the polygons; converted to float64 arrays.
        height: of the image.
        width: of the image.
    """

    def __init__(self, masks: Sequence[Sequence[np.ndarray]], height: int, width: int) -> None:
        self.masks = [[np.asarray(p, dtype=np.float64) for p in polygons] for polygons in masks]
        self.height, self.width = int(height), int(width)

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.masks)

    def __getitem__(self, index: Index) -> 'PolygonMasks':
        picked = np.arange(len(self))[numpy_index(index)]
        return PolygonMasks([self.masks[i] for i in picked], self.height, self.width)

    def __repr__(self) -> str:
        return f'PolygonMasks(num_masks={len(self)}, height={self.height}, width={self.width})'

    @property
    def areas(self) -> np.ndarray:
        """Sum of the polygons' areas (shoelace formula; overlaps count twice), (n,) float64."""

        def area(polygon: np.ndarray) -> float:
            x, y = polygon[0::2], polygon[1::2]
            return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))

        return np.array([sum(map(area, polygons)) for polygons in self.masks], dtype=np.float64)

    def _affine(
        self, scale: tuple[float, float], shift: tuple[float, float], shape: Shape
    ) -> 'PolygonMasks':
        """Every point times ``scale`` (x, y), plus ``shift`` (x, y), in an image of ``shape``."""
        moved = [
            [(p.reshape(-1, 2) * np.array(scale) + np.array(shift)).reshape(-1) for p in polygons]
            for polygons in self.masks
        ]
        return PolygonMasks(moved, *shape)

    def resize(self, out_shape: Shape, interpolation: str = 'none') -> 'PolygonMasks':
        """Masks of an image stretched to ``out_shape`` (height, width); nothing to interpolate."""
        scale = (out_shape[1] / self.width, out_shape[0] / self.height)
        return self._affine(scale, (0, 0), out_shape)

    def rescale(
        self, scale: float | tuple[int, int], interpolation: str = 'none'
    ) -> 'PolygonMasks':
        """Masks of an image scaled by a factor, or to the largest size that fits ``scale``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def flip(self, flip_direction: str = 'horizontal') -> 'PolygonMasks':
        """Masks of the flipped image: x -> W - x, y -> H - y."""
        check_direction(flip_direction)
        mirror_x, mirror_y = flip_direction != 'vertical', flip_direction != 'horizontal'
        scale = (-1 if mirror_x else 1, -1 if mirror_y else 1)
        shift = (self.width if mirror_x else 0, self.height if mirror_y else 0)
        return self._affine(scale, shift, (self.height, self.width))

    def pad(self, out_shape: Shape, pad_val: int = 0) -> 'PolygonMasks':
        """Masks of an image padded on the right and at the bottom; points do not move."""
        return PolygonMasks(self.masks, *out_shape)

    def crop(self, bbox: np.ndarray) -> 'PolygonMasks':
        """Masks inside an integer box (4,) xyxy cut to the image, of at least 1 x 1 pixels.

        A polygon that the crop splits becomes several. An object with nothing inside becomes one
        point, so that masks and boxes stay aligned.
        """
        x1, y1, width, height = crop_window(bbox, self.height, self.width)
        cropped = []
        for polygons in self.masks:
            parts = [
                part - np.tile([x1, y1], len(part) // 2)
                for polygon in polygons
                for part in _clip_polygon(polygon, x1, y1, x1 + width, y1 + height)
            ]
            cropped.append(parts or [np.zeros(6)])
        return PolygonMasks(cropped, height, width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'PolygonMasks':
        """Masks of the image placed at (``top``, ``left``) of a larger canvas."""
        return self._affine((1, 1), (left, top), (expanded_h, expanded_w))

    def _warp(
        self, matrix: np.ndarray, out_shape: Shape, border_value: int, interpolation: str
    ) -> 'PolygonMasks':
        limits = (out_shape[1], out_shape[0])
        moved = [
            [
                (p.reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]).clip(0, limits).reshape(-1)
                for p in polygons
            ]
            for polygons in self.masks
        ]
        return PolygonMasks(moved, *out_shape)

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: Shape,
        inds: np.ndarray | Tensor,
        device: str | torch.device = 'cpu',
    ) -> 'PolygonMasks':
        """Mask ``inds[i]`` in the coordinates of ``bboxes[i]``, scaled to ``out_shape``, not cut.

        Args:
            bboxes: (r, 4) xyxy, float. Sides below one pixel count as one.
            inds: (r,) indices into the masks.
            device: ignored; polygons are handled on the CPU.
        """
        boxes = torch.as_tensor(bboxes).detach().cpu().numpy()
        index = torch.as_tensor(inds).detach().cpu().numpy()
        # In the boxes' own precision, as mmdetection does: a polygon point on a pixel's edge may
        # fall either way.
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
        scales = np.array(out_shape[::-1], dtype=boxes.dtype) / sides
        moved = []
        for box, scale, i in zip(boxes, scales, index, strict=True):
            moved.append(
                [((p.reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in self.masks[i]]
            )
        return PolygonMasks(moved, *out_shape)

    def get_bboxes(self) -> np.ndarray:
        """Tight boxes (n, 4) float32 xyxy of the points; zeros for an object without polygons."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, polygons in zip(boxes, self.masks, strict=True):
            if polygons:
                points = np.concatenate(polygons).reshape(-1, 2)
                box[:2], box[2:] = points.min(axis=0), points.max(axis=0)
        return boxes

    def to_ndarray(self) -> np.ndarray:
        """Rasterised by COCO's rule: (n, H, W) uint8."""
        if len(self) == 0:
            return np.zeros((0, self.height, self.width), dtype=np.uint8)
        rles = [polygons_to_rle(polygons, self.height, self.width) for polygons in self.masks]
        return np.ascontiguousarray(coco_mask.decode(rles).transpose(2, 0, 1))

    def to_bitmap(self) -> BitmapMasks:
        """The same masks, rasterised."""
        return BitmapMasks(self.to_ndarray(), self.height, self.width)

    def to_tensor(self, dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """Rasterised: (n, H, W) of ``dtype`` on ``device``."""
        return torch.from_numpy(self.to_ndarray()).to(device).to(dtype)

    @classmethod
    def random(
        cls,
        num_masks: int = 3,
        height: int = 32,
        width: int = 32,
        n_verts: int = 5,
        dtype: type = np.float64,
        rng: int | np.random.RandomState | None = None,
    ) -> 'PolygonMasks':
        """Masks for trying things out: star-shaped polygons of ``n_verts`` points inside the image.
        ``dtype`` is ignored, it is float64."""
        generator, size = random_state(rng), np.array([width, height])
        masks = []
        for _ in range(num_masks):
            angle = np.sort(generator.uniform(0, 2 * np.pi, n_verts))
            radius = generator.uniform(0.1, 0.5, n_verts)
            points = 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            masks.append([(points * size).reshape(-1)])
        return cls(masks, height, width)

    @classmethod
    def cat(cls, masks: Sequence['PolygonMasks']) -> 'PolygonMasks':
        """Several mask sets of one image size as one."""
        if len(masks) == 0:
            raise ValueError('no masks to concatenate')
        return cls(
            [polygons for m in masks for polygons in m.masks], masks[0].height, masks[0].width
        )


def polygons_to_rle(polygons: Sequence[np.ndarray], height: int, width: int) -> dict:
    """Union of one object's polygons as COCO run lengths; without polygons, an empty mask.

    Polygons whose outline is longer than ``MAX_OUTLINE``, as of an object far larger than its box
    that is scaled up, are cut to the image first.
    """
    polygons = [np.asarray(p, dtype=np.float64) for p in polygons]
    if polygons and not outline_fits(polygons):
        limits = (-1, -1, width + 1, height + 1)
        polygons = [part for p in polygons for part in _clip_polygon(p, *limits)]
    if len(polygons) == 0:
        return coco_mask.frPyObjects(
            {'size': [height, width], 'counts': [height * width]}, height, width
        )
    parts = coco_mask.frPyObjects(polygons, height, width)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def outline_fits(polygons: Sequence[np.ndarray]) -> bool:
    """Whether polygons x0, y0, x1, y1, ... together have an outline of at most ``MAX_OUTLINE``."""
    # No edge is longer than twice the largest coordinate: most need no closer look.
    if sum(len(p) * float(np.abs(p).max(initial=0)) for p in polygons) <= MAX_OUTLINE:
        return True
    total = 0.0
    for polygon in polygons:
        points = polygon.reshape(-1, 2)
        total += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    return total <= MAX_OUTLINE


def _clip_polygon(
    polygon: np.ndarray, x1: float, y1: float, x2: float, y2: float
) -> list[np.ndarray]:
    """What of a polygon x0, y0, x1, y1, ... lies inside a box: no polygon, one or several."""
    parts = [polygon.reshape(-1, 2)]
    for axis, limit, sign in ((0, x1, 1), (0, x2, -1), (1, y1, 1), (1, y2, -1)):
        parts = [piece for part in parts for piece in _cut(part, axis, limit, sign)]
    return [part.reshape(-1) for part in parts]


def _cut(points: np.ndarray, axis: int, limit: float, sign: int) -> list[np.ndarray]:
    """The pieces (n, 2) of a polygon (n, 2) on one side of a line: above ``limit`` on ``axis`` for
    ``sign`` 1, below for -1.

    The outline inside is a number of paths from the line to the line. Between the first and the
    second of their ends, in order along the line, lies the polygon's inside, as between the third
    and the fourth, and so on: there the paths are joined.
    """
    depth = sign * (points[:, axis] - limit)
    if (depth <= 0).all():
        return []
    if (depth >= 0).all():
        return [points]

    def crossing(i: int, j: int) -> np.ndarray:
        """Where the edge between two points meets the line."""
        point = points[i] + depth[i] / (depth[i] - depth[j]) * (points[j] - points[i])
        point[axis] = limit
        return point

    inside = depth > 0
    paths = []
    for start in np.flatnonzero(inside & ~np.roll(inside, 1)).tolist():
        stop = start  # one past the path's last point; beyond the end it goes on at the beginning
        while inside[stop % len(points)]:
            stop += 1
        run = np.arange(start, stop) % len(points)
        first, last = crossing(start, start - 1), crossing(int(run[-1]), stop % len(points))
        paths.append(np.concatenate([[first], points[run], [last]]))

    along = 1 - axis
    ends = [(path[0, along], True, i) for i, path in enumerate(paths)]  # where, begins, of which
    ends += [(path[-1, along], False, i) for i, path in enumerate(paths)]
    ends.sort(key=lambda end: end[0])
    following = {}
    for k in range(0, len(ends), 2):
        same = ends[k][1] == ends[k + 1][1]
        if same and k + 2 < len(ends) and ends[k + 1][0] == ends[k + 2][0]:
            ends[k + 1], ends[k + 2] = ends[k + 2], ends[k + 1]  # one point: in either order
        (_, begins, one), (_, other_begins, two) = ends[k], ends[k + 1]
        if begins == other_begins:  # the outline crosses itself: no telling what is its inside
            return [np.concatenate(paths)]
        following.update({two: one} if begins else {one: two})
    pieces = []
    while following:
        members = [next(iter(following))]
        while (after := following.pop(members[-1])) != members[0]:
            members.append(after)
        pieces.append(np.concatenate([paths[i] for i in members]))
    return pieces
