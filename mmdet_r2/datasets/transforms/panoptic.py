"""Panoptic ground truth: the segment ids in the colours of a PNG -> instance masks and a label map.

The format is COCO's (https://cocodataset.org/#format-data, "Panoptic Segmentation"): a pixel of
segment i has the colour (i % 256, i // 256 % 256, i // 65536), in the order red, green, blue; 0 is
unlabelled.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from mmdet_r2.datasets.image_contents import UnreadableImageError
from mmdet_r2.datasets.transforms.loading import (
    LoadAnnotations,
    decode,
    png_defect,
    read_content,
)
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import TRANSFORMS
from mmdet_r2.structures.masks import BitmapMasks
from mmdet_r2.structures.panoptic import MAX_ID, VOID_LABEL


def read_segment_ids(
    path: str, imdecode_backend: str = 'cv2', backend_args: dict | None = None
) -> np.ndarray:
    """(H, W) uint32 segment ids of a panoptic PNG.

    Raises:
        DataError: the file is missing, corrupt, or no colour PNG of 8 bits per channel.
    """
    try:
        content = read_content(path, 'panoptic PNG', backend_args)
    except UnreadableImageError as error:
        raise DataError(
            f'{error}; every image needs one (data_prefix.seg + file_name of its annotation)'
        ) from None
    if reason := png_defect(content):
        raise DataError(f'cannot read panoptic PNG {path}: {reason}')
    try:
        pixels, _ = decode(path, content, 'color', imdecode_backend, 'panoptic PNG')
    except UnreadableImageError as error:
        raise DataError(str(error)) from None
    # Red is then the lowest byte of a little-endian number; the highest one is opacity.
    ids: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGBA).view('<u4')[..., 0]
    return ids & np.uint32(MAX_ID)


def index_segments(ids: np.ndarray, segments: Sequence[int], path: str) -> np.ndarray:
    """Which segment every pixel belongs to: (H, W) uint8, uint16 where there are more than 255.

    Value k is ``segments[k - 1]``, 0 is unlabelled.

    Args:
        ids: (H, W) uint32, of :func:`read_segment_ids`.
        segments: the ids that the annotation file lists for the image, all different and not 0.
        path: of the PNG, for messages.

    Raises:
        DataError: an id is in the PNG but not listed, or listed but not in the PNG.
    """
    known = np.array([0, *segments], dtype=np.uint32)
    order = np.argsort(known)
    # Neighbours mostly belong together: there are a hundred times fewer runs than pixels.
    flat = ids.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    values = flat[starts]
    place = np.minimum(np.searchsorted(known, values, sorter=order), len(known) - 1)
    index = order[place]
    if (strange := known[index] != values).any():
        first = int(np.argmax(strange))
        y, x = divmod(int(starts[first]), ids.shape[1])
        found = np.unique(values[strange])
        more = f' (and {len(found) - 1} more)' if len(found) > 1 else ''
        raise DataError(
            f'panoptic PNG {path} has the segment id {values[first]}{more} at x={x}, y={y}, which '
            f"is not in the segments_info of the image's annotation: the two belong to different "
            f'versions or images; correct one of them'
        )
    present = np.zeros(len(known), dtype=bool)
    present[0] = present[index] = True
    if not present.all():
        absent = [segment for segment, there in zip(segments, present[1:]) if not there]
        more = f' (and {len(absent) - 1} more)' if len(absent) > 1 else ''
        raise DataError(
            f'panoptic PNG {path} has no pixel of segment {absent[0]}{more}, which is in the '
            f"segments_info of the image's annotation: the two belong to different versions or "
            f'images; correct one of them'
        )
    lengths = np.diff(starts, append=flat.size)
    kind = np.uint8 if len(known) <= 256 else np.uint16
    return np.repeat(index.astype(kind), lengths).reshape(ids.shape)


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(LoadAnnotations):
    """Load the ground truth of an image of :class:`~mmdet_r2.datasets.CocoPanopticDataset`.

    Adds what :class:`LoadAnnotations` does, from the panoptic PNG: ``gt_bboxes``,
    ``gt_bboxes_labels`` and ``gt_ignore_flags`` of the things, ``gt_masks``
    (:class:`~mmdet_r2.structures.masks.BitmapMasks`, one per box, never overlapping), and
    ``gt_seg_map``, (H, W) uint8 with the labels of things and stuff alike, 255 where there is no
    segment. (mmdetection's map has the same values as int32.)

    A crowd is in the map but among neither the boxes nor the masks, not as an ignored one either,
    as in mmdetection.

    Without a PNG (a data set without ``data_prefix.seg``, for testing) there are boxes and labels
    only. A PNG that is missing, of another size than the image, or whose ids are not exactly those
    of the annotation is a DataError that names it.

    Args:
        with_bbox: load boxes and ignore flags.
        with_label: load labels.
        with_mask: load masks.
        with_seg: load the label map.
        box_type: only 'hbox' (axis-aligned); None means the same.
        imdecode_backend: for the PNG, as mmcv's.
        backend_args: where to read the PNG from, as mmengine's file back-ends take it.
    """

    map_name = 'panoptic PNG'

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = True,
        with_seg: bool = True,
        box_type: str | None = 'hbox',
        imdecode_backend: str = 'cv2',
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(
            with_bbox=with_bbox,
            with_label=with_label,
            with_mask=with_mask,
            with_seg=with_seg,
            box_type=box_type,
            ignore_index=VOID_LABEL,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )

    @property
    def reads_map(self) -> bool:
        """Whether the PNG is needed."""
        return self.with_mask or self.with_seg

    def transform(self, results: dict) -> dict:
        """``results`` with the ground truth asked for."""
        segments = results.get('segments_info')
        if segments is None:
            raise ConfigError(
                f'LoadPanopticAnnotations: {results.get("img_path")} comes with no segments_info; '
                f"the dataset must be of type 'CocoPanopticDataset'"
            )
        self._load_boxes_and_labels(results)
        path = results.get('seg_map_path')
        if path is None or not self.reads_map:
            return results
        ids = read_segment_ids(path, self.imdecode_backend, self.backend_args)
        height, width = results.get('ori_shape') or (results['height'], results['width'])
        if ids.shape != (height, width):
            raise DataError(
                f'panoptic PNG {path} is {ids.shape[1]}x{ids.shape[0]} pixels but its image '
                f'{results.get("img_path")} is {width}x{height} (width x height): it belongs to '
                f'another image or size'
            )
        listed = [segment['id'] for segment in segments]
        listed += results.get('void_ids', ())
        index = index_segments(ids, listed, path)
        if self.with_mask:
            things = [k for k, segment in enumerate(segments, start=1) if segment['is_thing']]
            masks = index == np.array(things, dtype=index.dtype)[:, None, None]  # (n, H, W)
            results['gt_masks'] = BitmapMasks(masks, height, width)
        if self.with_seg:
            labels = np.full(len(listed) + 1, VOID_LABEL, dtype=np.uint8)
            labels[1 : len(segments) + 1] = [segment['category'] for segment in segments]
            results['gt_seg_map'] = labels[index]
            results['ignore_index'] = VOID_LABEL
        return results
