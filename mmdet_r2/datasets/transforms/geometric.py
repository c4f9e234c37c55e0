"""Resizing, flipping and padding of images, boxes, masks and semantic maps together.

mmcv's RandomResize and RandomChoiceResize choose a scale and leave the work to :class:`Resize`, or
to :class:`ResizeShortestEdge` where their ``resize_type`` says so.
"""

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms import Pad as MMCVPad
from mmcv.transforms import RandomFlip as MMCVRandomFlip
from mmcv.transforms import Resize as MMCVResize
from PIL import Image

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import TRANSFORMS

_CV2_FLIP = {'horizontal': 1, 'vertical': 0, 'diagonal': -1}


def _tuple(value: object) -> object:
    """Lists, which JSON and command lines give, as the tuples mmcv insists on."""
    return tuple(value) if isinstance(value, list) else value


@TRANSFORMS.register_module()
class Resize(MMCVResize):
    """Resize ``img``, ``gt_bboxes``, ``gt_masks`` and ``gt_seg_map``; sets ``scale_factor`` (w, h).

    With ``keep_ratio`` the image becomes as large as fits into ``scale``: its long side at most the
    larger number, its short side at most the smaller one, each rounded by int(side * factor + 0.5).
    ``scale_factor`` is the ratio of the rounded sizes, so the two axes differ slightly.

    Args:
        scale: (width, height) to reach, or one number for both.
        scale_factor: factor of the size, used when ``scale`` is None.
        keep_ratio: keep the aspect ratio.
        clip_object_border: cut boxes to the image.
        backend: 'cv2' or 'pillow', which averages over all pixels where it shrinks (8-bit images
            only).
        interpolation: of the image; masks and maps take the nearest pixel, maps by the rule of the
            backend.
        exact_factor: boxes take the factor itself on both axes, and ``scale_factor`` is that one
            twice, as in mmdetection 1.x; needs ``keep_ratio``.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = 'cv2',
        interpolation: str = 'bilinear',
        exact_factor: bool = False,
    ) -> None:
        if exact_factor and not keep_ratio:
            raise ConfigError('Resize: exact_factor needs keep_ratio=True, else there are two')
        self.exact_factor = exact_factor
        super().__init__(
            scale=_tuple(scale),
            scale_factor=_tuple(scale_factor),
            keep_ratio=keep_ratio,
            clip_object_border=clip_object_border,
            backend=backend,
            interpolation=interpolation,
        )

    def transform(self, results: dict) -> dict:
        """``results`` with everything at the new size."""
        results = super().transform(results)
        if results.get('gt_masks') is not None:
            results['gt_masks'] = results['gt_masks'].resize(results['img_shape'])
        return results

    def _resize_img(self, results: dict) -> None:
        size = results['img'].shape[1::-1] if results.get('img') is not None else None
        super()._resize_img(results)
        if self.exact_factor and size is not None:
            _, factor = mmcv.rescale_size(size, results['scale'], return_scale=True)
            results['scale_factor'] = (factor, factor)

    def _resize_bboxes(self, results: dict) -> None:
        if results.get('gt_bboxes') is None:
            return
        # In float32 throughout, as mmdetection's box tensors.
        factor = np.tile(np.array(results['scale_factor'], dtype=np.float32), 2)
        boxes = results['gt_bboxes'] * factor
        if self.clip_object_border:
            height, width = results['img_shape']
            limit = np.array([width, height, width, height], dtype=np.float32)
            np.clip(boxes, 0, limit, out=boxes)
        results['gt_bboxes'] = boxes

    def _resize_seg(self, results: dict) -> None:
        labels = results.get('gt_seg_map')
        if labels is None or self.backend != 'pillow':
            super()._resize_seg(results)
            return
        # mmcv's way to Pillow takes 8-bit labels only.
        height, width = results['img_shape']
        resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        results['gt_seg_map'] = np.array(resized)


@TRANSFORMS.register_module()
class ResizeShortestEdge(BaseTransform):
    """Resize until the shorter side is ``scale`` or the longer one ``max_size``, whichever is less.

    The two rules round differently; with ``backend='pillow'`` the pixels are the originals' too.

    * 'detectron2': both sides are scaled in floating point, once more where the longer one exceeds
      its limit, and each becomes int(side + 0.5). ``Resize(scale=(max_size, scale),
      keep_ratio=True)`` gives the same size but for one image in about a thousand, where a side
      ends half-way between two pixels.
    * 'maskrcnn_benchmark': where the longer side would exceed its limit, the shorter one becomes
      the whole number nearest to its share; the longer one, in proportion to it (a pixel above the
      limit at times), is cut to a whole number.

    Args:
        scale: length of the shorter side, in pixels; of two numbers (which mmcv's RandomResize and
            RandomChoiceResize give) the smaller one.
        max_size: limit of the longer side; None: no limit.
        clip_object_border, backend, interpolation: of :class:`Resize`.
        rule: 'detectron2' or 'maskrcnn_benchmark'.
        resize_type: transform that resizes to the size found; it takes the arguments of
            :class:`Resize`.
        keep_ratio: let the sides keep their exact ratio within that size, which may make one of
            them a pixel shorter.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        max_size: int | None = None,
        clip_object_border: bool = True,
        backend: str = 'cv2',
        interpolation: str = 'bilinear',
        rule: str = 'detectron2',
        resize_type: str = 'Resize',
        keep_ratio: bool = False,
    ) -> None:
        if rule not in ('detectron2', 'maskrcnn_benchmark'):
            raise ConfigError(
                f'ResizeShortestEdge.rule is {rule!r}, '
                f"expected 'detectron2' or 'maskrcnn_benchmark'"
            )
        self.scale = scale
        self.max_size = max_size
        self.rule = rule
        self.resize = TRANSFORMS.build(
            {
                'type': resize_type,
                'scale': 1,  # replaced for every image
                'keep_ratio': keep_ratio,
                'clip_object_border': clip_object_border,
                'backend': backend,
                'interpolation': interpolation,
            }
        )

    def transform(self, results: dict) -> dict:
        """``results`` with everything at the new size; sets what :class:`Resize` does."""
        self.resize.scale = self.target_size(results['img'].shape[:2])
        return self.resize(results)

    def target_size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that an image of ``shape`` (height, width) becomes."""
        short = self.scale if isinstance(self.scale, int) else min(self.scale)
        if self.rule == 'maskrcnn_benchmark':
            return self._cut_size(short, shape)
        factor = float(short) / min(shape)
        # The shorter side is set, not multiplied: that could be off by a rounding error.
        sides = [factor * side for side in shape]
        sides[int(np.argmin(shape))] = float(short)
        if self.max_size is not None and max(sides) > self.max_size:
            factor = float(self.max_size) / max(sides)
            sides = [factor * side for side in sides]
        height, width = (int(side + 0.5) for side in sides)
        return width, height

    def _cut_size(self, short: int, shape: tuple[int, int]) -> tuple[int, int]:
        height, width = shape
        small, large = float(min(shape)), float(max(shape))
        # The order of the operations is the original's: ratios like 1333 / 800 sit on a boundary.
        if self.max_size is not None and large / small * short > self.max_size:
            short = round(self.max_size * small / large)
        if width < height:
            return short, int(short * height / width)
        return int(short * width / height), short

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale={self.scale}, max_size={self.max_size}, '
            f'backend={self.resize.backend!r}, rule={self.rule!r})'
        )


@TRANSFORMS.register_module()
class RandomFlip(MMCVRandomFlip):
    """Flip ``img``, ``gt_bboxes`` (x -> W - x), ``gt_masks`` and ``gt_seg_map`` with a probability.

    Takes mmcv's arguments: ``prob`` and ``direction``, each a value or a list. Sets ``flip`` and
    ``flip_direction`` (None where not flipped).
    """

    def _flip(self, results: dict) -> None:
        direction = results['flip_direction']
        # A real copy: packing a reversed view byte by byte costs more than flipping does.
        results['img'] = cv2.flip(results['img'], _CV2_FLIP[direction])
        shape = results['img'].shape[:2]
        if results.get('gt_bboxes') is not None:
            results['gt_bboxes'] = self._flip_bbox(results['gt_bboxes'], shape, direction)
        if results.get('gt_masks') is not None:
            results['gt_masks'] = results['gt_masks'].flip(direction)
        if results.get('gt_seg_map') is not None:
            results['gt_seg_map'] = self._flip_seg_map(results['gt_seg_map'], direction=direction)
            results['swap_seg_labels'] = self.swap_seg_labels


@TRANSFORMS.register_module()
class Pad(MMCVPad):
    """Pad ``img``, ``gt_masks`` and ``gt_seg_map`` right and below; ``img_shape`` includes it.

    Configs rarely need it: the preprocessor pads batches, and there ``img_shape`` stays the
    image's own.

    Args:
        size: (width, height) to reach; or
        size_divisor: pad to the next multiple of this; or
        pad_to_square: pad to a square (then to the next multiple of ``size_divisor``).
        pad_val: under the keys ``img`` (default 0; or one per channel), ``seg`` (255) and ``masks``
            (0); a number is the image's.
        padding_mode: of image and map: 'constant', 'edge', 'reflect' or 'symmetric'.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_to_square: bool = False,
        pad_val: int | dict = 0,
        padding_mode: str = 'constant',
    ) -> None:
        if size is not None if pad_to_square else (size is None) == (size_divisor is None):
            raise ConfigError(
                'Pad needs one of size, size_divisor and pad_to_square; of two together only '
                'pad_to_square with size_divisor'
            )
        super().__init__(
            size=_tuple(size),
            size_divisor=size_divisor,
            pad_to_square=pad_to_square,
            pad_val=(
                {key: _tuple(value) for key, value in pad_val.items()}
                if isinstance(pad_val, dict)
                else pad_val
            ),
            padding_mode=padding_mode,
        )

    def transform(self, results: dict) -> dict:
        """``results`` with everything at the padded size."""
        results = super().transform(results)
        if results.get('gt_masks') is not None:
            results['gt_masks'] = results['gt_masks'].pad(
                results['img_shape'], pad_val=self.pad_val.get('masks', 0)
            )
        return results
