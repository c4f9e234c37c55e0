"""Masks as bitmaps, and their resampling inside boxes."""

from collections.abc import Iterator, Sequence

import cv2
import mmcv
import numpy as np
import torch
from torch import Tensor

from mmdet_r2 import ops
from mmdet_r2.ops.backends import problem_of
from mmdet_r2.structures.masks.affine import AffineMasks, Shape

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor

_DIRECTIONS = ('horizontal', 'vertical', 'diagonal')
# Pixels worked on at a time where masks are held as float32: 64 MiB on the host, 256 MiB on a GPU.
_CHUNK_PIXELS = {'cpu': 2**24, 'cuda': 2**26}


class BitmapMasks(AffineMasks):
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
        return BitmapMasks(self.masks[numpy_index(index)], self.height, self.width)

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

    def flip(self, flip_direction: str = 'horizontal') -> 'BitmapMasks':
        """Masks of the flipped image."""
        check_direction(flip_direction)
        flipped: np.ndarray = self.masks
        if flip_direction in ('vertical', 'diagonal'):
            flipped = np.ascontiguousarray(flipped[:, ::-1])
        if flip_direction in ('horizontal', 'diagonal') and flipped.size:
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
        x1, y1, width, height = crop_window(bbox, self.height, self.width)
        cropped = self.masks[:, y1 : y1 + height, x1 : x1 + width]
        return BitmapMasks(np.ascontiguousarray(cropped), *cropped.shape[1:])

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'BitmapMasks':
        """Masks of the image placed at (``top``, ``left``) of a larger canvas."""
        canvas = np.zeros((len(self), expanded_h, expanded_w), dtype=np.uint8)
        canvas[:, top : top + self.height, left : left + self.width] = self.masks
        return BitmapMasks(canvas, expanded_h, expanded_w)

    def _warp(
        self, matrix: np.ndarray, out_shape: Shape, border_value: int, interpolation: str
    ) -> 'BitmapMasks':
        # cut or filled up before it moves, as in mmdetection
        fitted = self.crop(np.array([0, 0, out_shape[1], out_shape[0]])).pad(out_shape)
        warped = np.empty((len(self), *out_shape), dtype=np.uint8)
        for source, target in zip(fitted.masks, warped, strict=True):
            cv2.warpAffine(
                source,
                matrix,
                (out_shape[1], out_shape[0]),
                dst=target,
                flags=mmcv.image.geometric.cv2_interp_codes[interpolation],
                borderValue=border_value,
            )
        return BitmapMasks(warped, *out_shape)

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
        targets = crop_bitmaps(self, boxes, index, out_shape)
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
    def random(
        cls,
        num_masks: int = 3,
        height: int = 32,
        width: int = 32,
        dtype: type = np.uint8,
        rng: int | np.random.RandomState | None = None,
    ) -> 'BitmapMasks':
        """Masks for trying things out: each pixel belongs to each with probability 0.9. ``dtype``
        is ignored, it is uint8."""
        values = random_state(rng).rand(num_masks, height, width)
        return cls((values > 0.1).astype(np.uint8), height, width)

    @classmethod
    def cat(cls, masks: Sequence['BitmapMasks']) -> 'BitmapMasks':
        """Several mask sets of one image size as one."""
        if len(masks) == 0:
            raise ValueError('no masks to concatenate')
        return cls(np.concatenate([m.masks for m in masks]), masks[0].height, masks[0].width)


def crop_bitmaps(masks: BitmapMasks, boxes: Tensor, index: Tensor, size: Shape) -> Tensor:
    """(r, h, w) float32 of 0 and 1: bitmap ``index[i]`` resampled inside ``boxes[i]`` (r, 4)."""
    if len(boxes) == 0 or len(masks) == 0:
        return boxes.new_zeros((len(boxes), *size), dtype=torch.float32)
    bitmaps = masks.to_tensor(torch.uint8, boxes.device)  # (n, H, W)
    rois = torch.cat([index.to(boxes.dtype)[:, None], boxes], dim=1).float()  # (r, 5)
    # RoIAlign wants floats, four times the bytes: a crowded image goes through in groups of masks.
    group = group_size(boxes.device, (masks.height, masks.width))
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
    if not problem_of('mmcv', rois.device.type):
        # The compiled kernel on the CPU too: for one channel it is faster than our matrix product,
        # and an average of exactly one half, common where boxes meet masks, is decided by rounding.
        from mmcv.ops import roi_align

        soft = roi_align(bitmaps[:, None].float(), rois, size, 1.0, 0, 'avg', True)
    else:
        soft = ops.roi_align(bitmaps[:, None].float(), rois, size, 1.0, 0, aligned=True)
    return (soft[:, 0] >= 0.5).float()


def group_size(device: torch.device, shape: Shape) -> int:
    """How many masks (H, W) to hold as float32 at a time, at least 1."""
    return max(1, _CHUNK_PIXELS.get(device.type, 2**24) // max(1, shape[0] * shape[1]))


def numpy_index(index: Index) -> slice | np.ndarray:
    """An index as numpy takes it; an int becomes a list of one: a mask set stays a mask set."""
    if isinstance(index, slice):
        return index
    if isinstance(index, Tensor):
        index = index.detach().cpu().numpy()
    array = np.atleast_1d(np.asarray(index))
    return array.astype(np.int64) if array.size == 0 and array.dtype != bool else array


def random_state(rng: int | np.random.RandomState | None) -> np.random.RandomState:
    """A generator: the one given, one of that seed, or numpy's own."""
    if rng is None:
        return np.random.mtrand._rand
    return rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng)


def check_direction(direction: str) -> None:
    if direction not in _DIRECTIONS:
        raise ValueError(
            f'flip direction is {direction!r}, expected one of {", ".join(_DIRECTIONS)}'
        )


def crop_window(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """An integer box clipped to the image, as x1, y1, width, height; both sides at least 1."""
    x1, x2 = np.clip(np.asarray(box)[[0, 2]], 0, width)
    y1, y2 = np.clip(np.asarray(box)[[1, 3]], 0, height)
    return int(x1), int(y1), max(int(x2 - x1), 1), max(int(y2 - y1), 1)
