"""From the disk to arrays: images, boxes, labels, masks, semantic maps."""

import logging
import mmap
import os
import zlib
from typing import Any

import cv2
import mmcv
import numpy as np
import pycocotools.mask as coco_mask
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from PIL.Image import DecompressionBombError

from mmdet_r2.datasets.image_contents import (
    MAX_IMAGE_BYTES,
    Contents,
    DamagedImageError,
    UnreadableImageError,
    UnsupportedImageError,
    filled_up,
    look_into,
    pillow_size,
    too_large,
    unused_bits,
)
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import read_bytes
from mmdet_r2.registry import TRANSFORMS
from mmdet_r2.structures.masks import (  # noqa: F401 (two are imported from here)
    MAX_COORDINATE,
    BitmapMasks,
    PolygonMasks,
    compressed,
    usable_mask,
    usable_masks,
)

_LOCAL = {'backend': 'local'}
# Pillow's are all but the first.
_DECODER_ERRORS = (
    cv2.error,
    OSError,
    ValueError,
    SyntaxError,
    MemoryError,
    DecompressionBombError,
)


def read_content(path: str, kind: str, backend_args: dict | None = None) -> bytes:
    """The bytes of an image file, of at most ``MAX_IMAGE_BYTES``.

    Args:
        kind: what messages call it.
        backend_args: where to read it from, as mmengine's file back-ends take it.

    Raises:
        UnreadableImageError: missing, no regular file, too large; names it.
    """
    try:
        if '://' not in path and (backend_args or _LOCAL) == _LOCAL:
            return read_bytes(path, kind, MAX_IMAGE_BYTES)
        return fileio.get(path, backend_args=backend_args)
    except DataError as error:
        raise UnreadableImageError(str(error)) from None
    except (OSError, ImportError) as error:  # mmengine's backends need packages
        reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        raise UnreadableImageError(f'cannot read {kind} {path}: {reason}') from None


def decode(
    path: str, content: bytes, flag: str, backend: str | None, kind: str = 'image'
) -> tuple[np.ndarray, Contents]:
    """An image file's pixels, as ``mmcv.imfrombytes`` gives them, and what its bytes are.

    Args:
        path, kind: what messages call it.
        flag, backend: mmcv's.

    Raises:
        UnsupportedImageError: of a kind that is not read, or more pixels than are let through.
        UnreadableImageError: empty, truncated, corrupt.
    """
    found = look_into(content)
    width, height = found.width, found.height
    backend = backend or mmcv.image.io.imread_backend
    reason, sound = found.defect, False
    if not reason and not found.kind:
        # Other decoders than OpenCV know more formats.
        width, height = (0, 0) if backend in ('cv2', 'turbojpeg') else pillow_size(content)
        if not width:
            reason, sound = found.unread, bool(found.unread)
            reason = reason or 'not an image, or corrupt'
    if not reason:
        reason = too_large(width, height)
        sound = bool(reason)
    image = None
    if not reason:
        try:
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        except _DECODER_ERRORS as error:
            reason = ' '.join(str(error).split())
        if image is None and found.unread:
            reason, sound = found.unread, True
    if image is None:
        failure = UnsupportedImageError if sound else UnreadableImageError
        raise failure(f'cannot read {kind} {path}: {reason or "not an image, or corrupt"}')
    return image, found


def _distorts_labels(content: bytes, backend: str) -> str:
    """How decoding an image file gives other numbers than the labels stored in it, '' if it does
    not: the end of a sentence that begins with the file's name.
    """
    if content[:2] == b'\xff\xd8':
        return 'is a JPEG, whose compression changes labels: save maps as 8-bit greyscale PNG'
    if content[:8] != b'\x89PNG\r\n\x1a\n' or len(content) < 26:
        return ''
    depth, grey = content[24], content[25] == 0
    if grey and depth < 8:
        return (
            f'is a PNG of {depth} bit, whose labels would be stretched to 0..255: save it with 8 '
            f'bits per pixel'
        )
    if _is_palette_png(content) and backend != 'pillow' and not _palette_is_plain(content):
        return (
            "is a PNG with a palette, of which the colours would be read: save the palette's "
            'indices as 8-bit greyscale PNG, or take them as labels with '
            "LoadAnnotations(imdecode_backend='pillow')"
        )
    return ''


def png_defect(content: bytes) -> str:
    """Why the bytes of a file cannot be a panoptic PNG, '' if they can: its colours are numbers, in
    three channels of 8 bits (or a palette of such colours).
    """
    if content[:8] != b'\x89PNG\r\n\x1a\n' or len(content) < 26:
        return 'not a PNG'
    depth, kind = content[24], content[25]
    if kind in (0, 4):
        return 'greyscale, expected colours that code the ids of segments'
    return f'{depth} bits per channel, expected 8' if depth != 8 and kind != 3 else ''


def _is_palette_png(content: bytes) -> bool:
    return content[:8] == b'\x89PNG\r\n\x1a\n' and content[25:26] == b'\x03'


def _palette_is_plain(content: bytes) -> bool:
    """Whether index i of a PNG's palette is grey level i, so that all decoders see the same."""
    start = content.find(b'PLTE')
    size = int.from_bytes(content[start - 4 : start], 'big') if start > 0 else 0
    palette = content[start + 4 : start + 4 + size]
    return palette == np.arange(size // 3, dtype=np.uint8).repeat(3).tobytes()


# A byte for each of 4,096 groups of folders, shared with worker processes that are forked.
_warned = mmap.mmap(-1, 4096)


def _warn_once(path: str, what: str) -> None:
    """Log ``what`` of the first such image of a folder."""
    place = zlib.crc32(os.path.dirname(path).encode('utf-8', 'replace')) % len(_warned)
    if not _warned[place]:
        _warned[place] = 1
        text = f'{path}: {what} (said of the first such image of its folder)'
        print_log(text, logger='current', level=logging.WARNING)


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """Load an image: ``img_path`` -> ``img`` (BGR uint8), ``img_shape``, ``ori_shape``.

    Takes mmcv's arguments and gives mmcv's pixels: grey, palette, RGBA, CMYK and 16-bit files all
    become 8-bit BGR, and EXIF orientation is applied. What it adds:

    * A file that is missing, no regular file, empty, truncated or cannot be decoded is an
      :class:`UnreadableImageError` that names it, never an assertion or a half-grey image; one of a
      kind that is not read, or of more pixels than ``$MMDET_R2_MAX_PIXELS``, an
      :class:`UnsupportedImageError` that says which. What is missing in the middle of a progressive
      JPEG, or is zero in other formats, is not seen: ``mmdet-r2 check`` sees more.
    * An image of 16 bits per sample of which only 14 or fewer are used, as cameras and scanners
      write them, is nearly black in 8 bits: a warning.
    * Where the annotation file says the image's ``height`` and ``width``, they are compared. An
      image that only fits without its EXIF rotation was annotated without it, and is loaded so;
      any other difference means that boxes would lie in the wrong place: :class:`DataError`.
    """

    def transform(self, results: dict) -> dict | None:
        """``results`` with the image, or None for an unreadable one with ``ignore_empty``."""
        path = results['img_path']
        try:
            content = self._read(path)
            image = self._decode(path, content, self.color_type)
        except UnreadableImageError:
            if self.ignore_empty:
                return None
            raise
        height, width = results.get('height'), results.get('width')
        if height and width and image.shape[:2] != (height, width):
            image = self._as_annotated(path, content, image, (height, width))
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> bytes:
        if self.file_client_args is not None:
            try:
                return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
            except OSError as error:
                reason = error.strerror or str(error) or type(error).__name__
                raise UnreadableImageError(f'cannot read image {path}: {reason}') from None
        return read_content(path, 'image', self.backend_args)

    def _decode(self, path: str, content: bytes, color_type: str) -> np.ndarray:
        image, found = decode(path, content, color_type, self.imdecode_backend)
        if found.scan and (reason := filled_up(content, found.scan, image)):
            raise DamagedImageError(f'cannot read image {path}: {reason}')
        if found.bits > 8 and (dark := unused_bits(found, image)):
            _warn_once(path, dark)
        return image

    def _as_annotated(
        self, path: str, content: bytes, image: np.ndarray, shape: tuple[int, int]
    ) -> np.ndarray:
        """The image without its EXIF rotation if that has the annotated (height, width)."""
        if image.shape[1::-1] == shape and self.color_type in ('color', 'grayscale'):
            raw = self._decode(path, content, f'{self.color_type}_ignore_orientation')
            if raw.shape[:2] == shape:
                return raw
        raise DataError(
            f'image {path} is {image.shape[1]}x{image.shape[0]} pixels but its annotation file '
            f'says {shape[1]}x{shape[0]} (width x height): the boxes belong to another image or '
            f'size; correct the file, or its width and height in the annotations'
        )


@TRANSFORMS.register_module()
class LoadImageFromNDArray(LoadImageFromFile):
    """Take an image that is there already: ``img``, an array (H, W, 3) BGR or (H, W) grey, as
    OpenCV gives it. Adds ``img_shape`` and ``ori_shape``; ``img_path`` is None. Its arguments are
    :class:`LoadImageFromFile`'s, of which only ``to_float32`` matters."""

    def transform(self, results: dict) -> dict:
        """``results`` with the image's sizes.

        Raises:
            DataError: ``img`` is no image.
        """
        image = results.get('img')
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            shape = f' of shape {image.shape}' if isinstance(image, np.ndarray) else ''
            raise DataError(
                f'img is a {type(image).__name__}{shape}; LoadImageFromNDArray takes an array '
                '(H, W, 3) BGR or (H, W) grey'
            )
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_path'] = None
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class InferencerLoader(BaseTransform):
    """Load an image in whatever form it is given: a path, an array (H, W, 3) BGR, or a dict with
    ``img`` or ``img_path``. Arguments are :class:`LoadImageFromFile`'s.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.from_file = LoadImageFromFile(**kwargs)
        self.from_array = LoadImageFromNDArray(**kwargs)

    def transform(self, results: Any) -> dict:
        """The same as a dict with the image."""
        if isinstance(results, (str, os.PathLike)):
            results = dict(img_path=os.fspath(results))
        elif not isinstance(results, dict):
            results = dict(img=results)
        return (self.from_array if 'img' in results else self.from_file).transform(results)


@TRANSFORMS.register_module()
class LoadAnnotations(MMCVLoadAnnotations):
    """Load the ground truth of an image from ``instances`` (and ``seg_map_path``).

    Adds ``gt_bboxes`` (n, 4) float32 xyxy, ``gt_bboxes_labels`` (n,) int64, ``gt_ignore_flags``
    (n,) bool, ``gt_masks``, and ``gt_seg_map`` (H, W) with ``ignore_index``. Without instances n is
    0. A semantic map that is missing, of another size than the image, or whose file does not hold
    one label per pixel is a DataError that names it.

    An instance without a usable mask (no polygon of three points, run lengths of another size, ...)
    is turned into an ignored one where masks are loaded, as in mmdetection.

    Args:
        with_bbox: load boxes and ignore flags.
        with_label: load labels.
        with_mask: load masks.
        with_seg: load the semantic map.
        poly2mask: True gives :class:`BitmapMasks`; False :class:`PolygonMasks`, and instances given
            as run lengths are ignored.
        box_type: only 'hbox' (axis-aligned); None means the same.
        reduce_zero_label: in the semantic map, label 0 becomes ``ignore_index`` and others move
            down by one.
        ignore_index: label of pixels without a semantic class.
        imdecode_backend: for the semantic map, as mmcv's.
        backend_args: where to read the semantic map from, as mmengine's file back-ends take it.
    """

    map_name = 'semantic map'  # what data_prefix.seg holds, in messages

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        with_seg: bool = False,
        poly2mask: bool = True,
        box_type: str | None = 'hbox',
        reduce_zero_label: bool = False,
        ignore_index: int = 255,
        imdecode_backend: str = 'cv2',
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(
            with_bbox=with_bbox,
            with_label=with_label,
            with_seg=with_seg,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )
        if box_type not in ('hbox', None):
            raise ConfigError(f"LoadAnnotations.box_type is {box_type!r}: only 'hbox' is supported")
        self.with_mask = with_mask
        self.poly2mask = poly2mask
        self.reduce_zero_label = reduce_zero_label
        self.ignore_index = ignore_index

    @property
    def reads_map(self) -> bool:
        """Whether the file in ``data_prefix.seg`` is needed."""
        return self.with_seg

    def transform(self, results: dict) -> dict:
        """``results`` with the ground truth asked for."""
        self._load_boxes_and_labels(results)
        if self.with_mask:
            self._load_masks(results, results.get('instances', []))
        if self.with_seg:
            self._load_seg_map(results)
        return results

    def _load_boxes_and_labels(self, results: dict) -> None:
        instances = results.get('instances', [])
        if self.with_bbox:
            boxes = [instance['bbox'] for instance in instances]
            results['gt_bboxes'] = np.array(boxes, dtype=np.float32).reshape(-1, 4)
            flags = [instance['ignore_flag'] for instance in instances]
            results['gt_ignore_flags'] = np.array(flags, dtype=bool)
        if self.with_label:
            labels = [instance['bbox_label'] for instance in instances]
            results['gt_bboxes_labels'] = np.array(labels, dtype=np.int64)

    def _load_masks(self, results: dict, instances: list[dict]) -> None:
        height, width = results['ori_shape']
        given = [instance.get('mask') for instance in instances]
        masks = usable_masks(given, height, width, self.poly2mask)
        flags = [i['ignore_flag'] or mask is None for i, mask in zip(instances, masks)]
        results['gt_ignore_flags'] = np.array(flags, dtype=bool)
        if self.poly2mask:
            bitmaps = np.empty((len(masks), height, width), dtype=np.uint8)
            if masks:
                rles = [compressed(mask, height, width) for mask in masks]
                # Decoding fills columns: .T is (n, width, height) without gaps.
                for bitmap, columns in zip(bitmaps, coco_mask.decode(rles).T):
                    cv2.transpose(columns, dst=bitmap)
            results['gt_masks'] = BitmapMasks(bitmaps, height, width)
        else:
            # Ignored instances keep a dummy so that masks and boxes stay aligned until packing.
            polygons = [[np.zeros(6)] if mask is None else mask for mask in masks]
            results['gt_masks'] = PolygonMasks(polygons, height, width)

    def _load_seg_map(self, results: dict) -> None:
        path = results.get('seg_map_path')
        if path is None:
            raise DataError(
                f'no semantic map for {results.get("img_path")}: LoadAnnotations(with_seg=True) '
                f"needs data_prefix=dict(seg='...') in the dataset"
            )
        labels = self._read_labels(path)
        shape = results.get('ori_shape') or (results.get('height'), results.get('width'))
        if all(shape) and labels.shape != tuple(shape):
            raise DataError(
                f'semantic map {path} is {labels.shape[1]}x{labels.shape[0]} pixels but its image '
                f'{results.get("img_path")} is {shape[1]}x{shape[0]} (width x height): it belongs '
                f'to another image or size; make one label per pixel of the image'
            )
        results['gt_seg_map'] = labels
        if self.reduce_zero_label:
            labels = results['gt_seg_map'].astype(np.int64)
            labels = np.where(labels == 0, self.ignore_index + 1, labels) - 1
            labels[results['gt_seg_map'] == self.ignore_index] = self.ignore_index
            results['gt_seg_map'] = labels.astype(results['gt_seg_map'].dtype)
        results['ignore_index'] = self.ignore_index

    def _read_labels(self, path: str) -> np.ndarray:
        """(H, W) labels of a map's file: uint8, or int32 where the file has 16 bits."""
        try:
            content = read_content(path, 'semantic map', self.backend_args)
        except UnreadableImageError as error:
            raise DataError(
                f'{error}; every image needs one (data_prefix.seg, image name + seg_map_suffix)'
            ) from None
        if distortion := _distorts_labels(content, self.imdecode_backend):
            raise DataError(f'semantic map {path} {distortion}')
        try:
            labels, _ = decode(path, content, 'unchanged', self.imdecode_backend, 'semantic map')
        except UnreadableImageError as error:
            raise DataError(f'{error}; make it again') from None
        if labels.ndim == 3 and (labels.shape[2] == 1 or _is_palette_png(content)):
            labels = labels[..., 0]
        if labels.ndim != 2 or labels.dtype.kind not in 'iu':
            found = f'{labels.shape[2]} channels' if labels.ndim == 3 else f'{labels.dtype} numbers'
            raise DataError(
                f'semantic map {path} has {found}, expected one label per pixel (8-bit greyscale '
                f'PNG); colours, such as the segment ids of a panoptic PNG, must be turned into '
                f'labels first ("Panoptic data" in docs/your_data.md)'
            )
        # torch has few operations on uint16.
        return labels if labels.dtype == np.uint8 else labels.astype(np.int32)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(with_bbox={self.with_bbox}, with_label={self.with_label}, '
            f'with_mask={self.with_mask}, with_seg={self.with_seg}, poly2mask={self.poly2mask}, '
            f'ignore_index={self.ignore_index})'
        )


@TRANSFORMS.register_module()
class FilterAnnotations(BaseTransform):
    """Drop small instances, from boxes, labels, flags and masks together.

    Args:
        min_gt_bbox_wh: a box is kept when it is wider and higher than this, in pixels.
        min_gt_mask_area: a mask is kept when it has at least this many pixels.
        by_box: judge by boxes.
        by_mask: judge by masks.
        keep_empty: when nothing is left, True returns None, so that the data set picks another
            image; False returns the image without instances. (mmdetection's meaning of the name.)
    """

    def __init__(
        self,
        min_gt_bbox_wh: tuple[int | float, int | float] = (1, 1),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        if not (by_box or by_mask):
            raise ConfigError('FilterAnnotations: by_box and by_mask are both False')
        self.min_gt_bbox_wh = tuple(min_gt_bbox_wh)
        self.min_gt_mask_area = min_gt_mask_area
        self.by_box = by_box
        self.by_mask = by_mask
        self.keep_empty = keep_empty

    def transform(self, results: dict) -> dict | None:
        """``results`` with the instances that are large enough."""
        boxes = results['gt_bboxes']
        if len(boxes) == 0:
            return results
        keep = np.ones(len(boxes), dtype=bool)
        if self.by_box:
            keep &= ((boxes[:, 2:] - boxes[:, :2]) > np.array(self.min_gt_bbox_wh)).all(axis=1)
        if self.by_mask:
            keep &= results['gt_masks'].areas >= self.min_gt_mask_area
        if not keep.any() and self.keep_empty:
            return None
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            if key in results:
                results[key] = results[key][keep]
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(min_gt_bbox_wh={self.min_gt_bbox_wh}, '
            f'min_gt_mask_area={self.min_gt_mask_area}, by_box={self.by_box}, '
            f'by_mask={self.by_mask}, keep_empty={self.keep_empty})'
        )
