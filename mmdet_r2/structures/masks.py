"""Instance masks: ground truth, training targets cut from it, predictions pasted into images.

Pixels have area: pixel (row i, column j) covers [j, j + 1] x [i, i + 1], its centre is at j + 0.5,
i + 0.5, and boxes are x1, y1, x2, y2 with width x2 - x1. Everything here is mmdetection 3.x's
arithmetic unless a docstring says otherwise.

Legend: n masks, H x W image, h x w mask of a box, r boxes of one image, R boxes of the batch.
"""

from collections.abc import Iterator, Sequence

import cv2
import mmcv
import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.structures.boxes import clip_boxes

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor
Shape = tuple[int, int]

_DIRECTIONS = ('horizontal', 'vertical', 'diagonal')
# Pixels worked on at a time where masks are held as float32: 64 MiB on the host, 256 MiB on a GPU.
_CHUNK_PIXELS = {'cpu': 2**24, 'cuda': 2**26}


def _numpy_index(index: Index) -> slice | np.ndarray:
    """An index as numpy takes it; an int becomes a list of one: a mask set stays a mask set."""
    if isinstance(index, slice):
        return index
    if isinstance(index, Tensor):
        index = index.detach().cpu().numpy()
    array = np.atleast_1d(np.asarray(index))
    return array.astype(np.int64) if array.size == 0 and array.dtype != bool else array


def _check_direction(direction: str) -> None:
    if direction not in _DIRECTIONS:
        raise ValueError(
            f'flip direction is {direction!r}, expected one of {", ".join(_DIRECTIONS)}'
        )


def _crop_window(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """An integer box clipped to the image, as x1, y1, width, height; both sides at least 1."""
    x1, x2 = np.clip(np.asarray(box)[[0, 2]], 0, width)
    y1, y2 = np.clip(np.asarray(box)[[1, 3]], 0, height)
    return int(x1), int(y1), max(int(x2 - x1), 1), max(int(y2 - y1), 1)


class BitmapMasks:
    """Masks as a stack of bitmaps.

    Args:
        masks: (n, H, W) array, or a list of (H, W) arrays; 0 is background, non-zero the object.
            Stored as uint8.
        height: H, needed because there may be no mask.
        width: W.
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        if len(masks) == 0:
            self.masks = np.zeros((0, self.height, self.width), dtype=np.uint8)
            return
        array = np.asarray(masks) if isinstance(masks, np.ndarray) else np.stack(list(masks))
        if array.ndim != 3 or array.shape[1:] != (self.height, self.width):
            raise ValueError(
                f'masks have shape {array.shape}, expected (n, {self.height}, {self.width})'
            )
        self.masks = (
            array.view(np.uint8) if array.dtype == bool else array.astype(np.uint8, copy=False)
        )

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.masks)

    def __getitem__(self, index: Index) -> 'BitmapMasks':
        return BitmapMasks(self.masks[_numpy_index(index)], self.height, self.width)

    def __repr__(self) -> str:
        return f'BitmapMasks(num_masks={len(self)}, height={self.height}, width={self.width})'

    # Data-loader workers hand tensors to the main process through shared memory but would push
    # arrays, tens of megabytes per image, through a pipe.
    def __getstate__(self) -> dict:
        return dict(
            masks=torch.from_numpy(np.ascontiguousarray(self.masks)),
            height=self.height,
            width=self.width,
        )

    def __setstate__(self, state: dict) -> None:
        self.masks, self.height, self.width = (
            state['masks'].numpy(),
            state['height'],
            state['width'],
        )

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask, (n,) int64."""
        return np.array([cv2.countNonZero(mask) for mask in self.masks], dtype=np.int64)

    def resize(self, out_shape: Shape, interpolation: str = 'nearest') -> 'BitmapMasks':
        """Masks of an image stretched to ``out_shape`` (height, width)."""
        height, width = out_shape
        resized = np.empty((len(self), height, width), dtype=np.uint8)
        for source, target in zip(self.masks, resized, strict=True):
            mmcv.imresize(
                source, (width, height), interpolation=interpolation, out=target, backend='cv2'
            )
        return BitmapMasks(resized, height, width)

    def rescale(
        self, scale: float | tuple[int, int], interpolation: str = 'nearest'
    ) -> 'BitmapMasks':
        """Masks of an image scaled by a factor, or to the largest size that fits ``scale``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def flip(self, direction: str = 'horizontal') -> 'BitmapMasks':
        """Masks of the flipped image."""
        _check_direction(direction)
        flipped: np.ndarray = self.masks
        if direction in ('vertical', 'diagonal'):
            flipped = np.ascontiguousarray(flipped[:, ::-1])
        if direction in ('horizontal', 'diagonal') and flipped.size:
            # One vectorised call on all rows; numpy copies reversed bytes one by one.
            rows = np.ascontiguousarray(flipped).reshape(-1, self.width)
            flipped = cv2.flip(rows, 1).reshape(flipped.shape)
        return BitmapMasks(flipped, self.height, self.width)

    def pad(self, out_shape: Shape, pad_val: int = 0) -> 'BitmapMasks':
        """Masks of an image padded on the right and at the bottom to ``out_shape``."""
        if tuple(out_shape) == (self.height, self.width):
            return self
        padded = np.full((len(self), *out_shape), pad_val, dtype=np.uint8)
        padded[:, : self.height, : self.width] = self.masks
        return BitmapMasks(padded, *out_shape)

    def crop(self, bbox: np.ndarray) -> 'BitmapMasks':
        """Masks inside an integer box (4,) xyxy cut to the image, of at least 1 x 1 pixels."""
        x1, y1, width, height = _crop_window(bbox, self.height, self.width)
        cropped = self.masks[:, y1 : y1 + height, x1 : x1 + width]
        return BitmapMasks(np.ascontiguousarray(cropped), *cropped.shape[1:])

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'BitmapMasks':
        """Masks of the image placed at (``top``, ``left``) of a larger canvas."""
        canvas = np.zeros((len(self), expanded_h, expanded_w), dtype=np.uint8)
        canvas[:, top : top + self.height, left : left + self.width] = self.masks
        return BitmapMasks(canvas, expanded_h, expanded_w)

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: Shape,
        inds: np.ndarray | Tensor,
        device: str | torch.device = 'cpu',
    ) -> 'BitmapMasks':
        """Mask ``inds[i]`` inside ``bboxes[i]``, resampled to ``out_shape`` (RoIAlign, >= 0.5).

        Args:
            bboxes: (r, 4) xyxy, float.
            inds: (r,) indices into the masks.
            device: where to compute.
        """
        boxes = torch.as_tensor(bboxes).to(device)
        index = torch.as_tensor(inds).to(boxes.device)
        targets = _bitmap_targets(self, boxes, index, out_shape)
        return BitmapMasks(targets.bool().cpu().numpy(), *out_shape)

    def get_bboxes(self) -> np.ndarray:
        """Tight boxes (n, 4) float32 xyxy; zeros for a mask without pixels."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            x, y, width, height = cv2.boundingRect(mask)
            if width:
                box[:] = x, y, x + width, y + height
        return boxes

    def to_ndarray(self) -> np.ndarray:
        """(n, H, W) uint8; not a copy."""
        return self.masks

    def to_tensor(self, dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """(n, H, W) of ``dtype`` on ``device``; moved as bytes, converted there."""
        return torch.from_numpy(np.ascontiguousarray(self.masks)).to(device).to(dtype)

    @classmethod
    def cat(cls, masks: Sequence['BitmapMasks']) -> 'BitmapMasks':
        """Several mask sets of one image size as one."""
        if len(masks) == 0:
            raise ValueError('no masks to concatenate')
        return cls(np.concatenate([m.masks for m in masks]), masks[0].height, masks[0].width)


class PolygonMasks:
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
        picked = np.arange(len(self))[_numpy_index(index)]
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

    def flip(self, direction: str = 'horizontal') -> 'PolygonMasks':
        """Masks of the flipped image: x -> W - x, y -> H - y."""
        _check_direction(direction)
        mirror_x, mirror_y = direction != 'vertical', direction != 'horizontal'
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
        x1, y1, width, height = _crop_window(bbox, self.height, self.width)
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
    def cat(cls, masks: Sequence['PolygonMasks']) -> 'PolygonMasks':
        """Several mask sets of one image size as one."""
        if len(masks) == 0:
            raise ValueError('no masks to concatenate')
        return cls(
            [polygons for m in masks for polygons in m.masks], masks[0].height, masks[0].width
        )


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


def polygons_to_rle(polygons: Sequence[np.ndarray], height: int, width: int) -> dict:
    """Union of one object's polygons as COCO run lengths; without polygons, an empty mask."""
    if len(polygons) == 0:
        return coco_mask.frPyObjects(
            {'size': [height, width], 'counts': [height * width]}, height, width
        )
    parts = coco_mask.frPyObjects(
        [np.asarray(p, dtype=np.float64) for p in polygons], height, width
    )
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def mask_targets(
    masks: Sequence[BitmapMasks | PolygonMasks],
    boxes: Sequence[Tensor],
    gt_index: Sequence[Tensor],
    size: Shape,
) -> Tensor:
    """What the mask head should predict: (R, h, w) float32 of 0 and 1, images in order.

    Bitmaps are resampled on the boxes' device by one RoIAlign call per image (aligned, adaptive
    sampling, >= 0.5), which indexes the ground truth instead of copying a mask per box. Polygons
    are scaled into the box and rasterised on the CPU.

    Args:
        masks: ground truth of each image, at the size the boxes refer to.
        boxes: of each image, (r_i, 4) xyxy; cut to the masks' size first.
        gt_index: of each image, (r_i,): which mask a box is for.
        size: (h, w).
    """
    targets = []
    for image_masks, image_boxes, index in zip(masks, boxes, gt_index, strict=True):
        clipped = clip_boxes(image_boxes.detach().float(), (image_masks.height, image_masks.width))
        if isinstance(image_masks, BitmapMasks):
            targets.append(_bitmap_targets(image_masks, clipped, index, size))
        else:
            cut = image_masks.crop_and_resize(clipped, size, index)
            targets.append(cut.to_tensor(torch.float32, image_boxes.device))
    return torch.cat(targets)


def _bitmap_targets(masks: BitmapMasks, boxes: Tensor, index: Tensor, size: Shape) -> Tensor:
    """(r, h, w) float32 of 0 and 1: bitmap ``index[i]`` resampled inside ``boxes[i]`` (r, 4)."""
    if len(boxes) == 0 or len(masks) == 0:
        return boxes.new_zeros((len(boxes), *size), dtype=torch.float32)
    bitmaps = torch.from_numpy(np.ascontiguousarray(masks.masks)).to(
        boxes.device
    )  # (n, H, W) uint8
    rois = torch.cat([index.to(boxes.dtype)[:, None], boxes], dim=1).float()  # (r, 5)
    # RoIAlign wants floats, four times the bytes: a crowded image goes through in groups of masks.
    group = max(1, _CHUNK_PIXELS.get(boxes.device.type, 2**24) // (masks.height * masks.width))
    if len(masks) <= group:
        return _align(bitmaps, rois, size)
    targets = boxes.new_zeros((len(boxes), *size), dtype=torch.float32)
    for start in range(0, len(masks), group):
        here = (index >= start) & (index < start + group)
        shift = rois.new_tensor([start, 0, 0, 0, 0])
        targets[here] = _align(bitmaps[start : start + group], rois[here] - shift, size)
    return targets


def _align(bitmaps: Tensor, rois: Tensor, size: Shape) -> Tensor:
    """(n, H, W) uint8, (r, 5) -> (r, h, w) float32 of 0 and 1."""
    if len(rois) == 0:
        return rois.new_zeros((0, *size))
    if ops.backend(rois.device.type) == 'mmcv':
        # The compiled kernel on the CPU too: for one channel it is faster than our matrix product,
        # and an average of exactly one half, common where boxes meet masks, is decided by rounding.
        from mmcv.ops import roi_align

        soft = roi_align(bitmaps[:, None].float(), rois, size, 1.0, 0, 'avg', True)
    else:
        soft = ops.roi_align(bitmaps[:, None].float(), rois, size, 1.0, 0, aligned=True)
    return (soft[:, 0] >= 0.5).float()


def paste_masks(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float = 0.5) -> Tensor:
    """Masks predicted inside boxes, placed into the image: (n, H, W) bool.

    Pixel centres are mapped into the box and the mask is read there by bilinear interpolation, zero
    outside of it; a pixel belongs to the object where the result is >= ``threshold``. This is what
    grid sampling with half-pixel centres (mmdetection 3.x, detectron2) gives over the whole image.
    Bilinear interpolation is the product of two matrices, one per axis, so that no (n, H, W, 2)
    grid is built; on the CPU only the pixels of each box are visited.

    Args:
        probs: (n, h, w) in [0, 1]; a channel axis of one, (n, 1, h, w), is dropped.
        boxes: (n, 4) xyxy in pixels of the image; may exceed it. Without area, or not finite: an
            empty mask.
        shape: (H, W) of the image.
        threshold: in (0, 1]; below 0 returns the probabilities themselves, (n, H, W) uint8 of
            0..255, rounded down.
    """
    probs = probs.detach().float()
    probs = probs[:, 0] if probs.ndim == 4 else probs
    boxes = boxes.detach()
    if probs.device.type == 'cpu':
        return _paste_windows(probs, boxes, shape, threshold)
    return _paste_images(probs, boxes, shape, threshold)


def _interpolation(positions: Tensor, size: int) -> Tensor:
    """Weights (..., p, size) of an axis' cells at positions (..., p): linear, zero outside."""
    cells = torch.arange(size, device=positions.device, dtype=positions.dtype)
    return (1 - (positions[..., None] - cells).abs()).clamp_(min=0).float()


def _paste_windows(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float) -> Tensor:
    """:func:`paste_masks` on the CPU, one box at a time and only inside it."""
    (height, width), (num, h, w) = shape, probs.shape
    out = torch.zeros((num, height, width), dtype=torch.uint8 if threshold < 0 else torch.bool)
    corners = boxes.double().numpy()
    sides = corners[:, 2:] - corners[:, :2]
    with np.errstate(invalid='ignore'):
        solid = np.isfinite(corners).all(axis=1) & (sides > 0).all(axis=1)
    # Half a cell around the box the mask fades out. What is there is below 0.5, so that it matters
    # to lower thresholds only.
    fade = sides / (2 * np.array([w, h])) if threshold < 0.5 else 0
    limit = np.array([width, height])
    corners[~solid] = 0
    first = np.clip(np.floor(corners[:, :2] - fade - 0.5), 0, limit).astype(int)
    last = np.clip(np.ceil(corners[:, 2:] + fade + 0.5), 0, limit).astype(int)
    for i in np.flatnonzero(solid):
        (x1, y1), (x2, y2) = first[i], last[i]
        if x2 <= x1 or y2 <= y1:
            continue
        xs = (torch.arange(x1, x2, dtype=torch.float64) + 0.5 - corners[i, 0]) * (
            w / sides[i, 0]
        ) - 0.5
        ys = (torch.arange(y1, y2, dtype=torch.float64) + 0.5 - corners[i, 1]) * (
            h / sides[i, 1]
        ) - 0.5
        window = _interpolation(ys, h) @ (probs[i] @ _interpolation(xs, w).T)
        target = out[i, y1:y2, x1:x2]
        if threshold < 0:
            target.copy_(window.mul_(255))
        else:
            torch.ge(window, threshold, out=target)
    return out


def _paste_images(probs: Tensor, boxes: Tensor, shape: Shape, threshold: float) -> Tensor:
    """:func:`paste_masks` on a GPU: whole images, a group at a time; never waits for the host."""
    (height, width), (num, h, w) = shape, probs.shape
    out = torch.empty(
        (num, height, width),
        dtype=torch.uint8 if threshold < 0 else torch.bool,
        device=probs.device,
    )
    boxes = boxes.double()
    solid = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes = torch.where(solid[:, None], boxes, boxes.new_tensor([0, 0, 1, 1]))
    probs = torch.where(solid[:, None, None], probs, 0)
    scale = probs.new_tensor([w, h], dtype=torch.float64) / (boxes[:, 2:] - boxes[:, :2])
    columns = torch.arange(width, device=probs.device, dtype=torch.float64) + 0.5
    rows = torch.arange(height, device=probs.device, dtype=torch.float64) + 0.5
    group = max(1, _CHUNK_PIXELS.get(probs.device.type, 2**24) // max(1, height * width))
    # Half precision would move the masks' edges.
    with torch.autocast(probs.device.type, enabled=False):
        for start in range(0, num, group):
            i = slice(start, start + group)
            xs = (columns - boxes[i, 0:1]) * scale[i, 0:1] - 0.5  # (k, W)
            ys = (rows - boxes[i, 1:2]) * scale[i, 1:2] - 0.5  # (k, H)
            image = _interpolation(ys, h) @ (probs[i] @ _interpolation(xs, w).mT)  # (k, H, W)
            if threshold < 0:
                out[i] = image.mul_(255).to(torch.uint8)
            else:
                torch.ge(image, threshold, out=out[i])
    return out


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
