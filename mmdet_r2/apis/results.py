"""Detections as plain data: COCO's result and annotation formats, mmdetection 3.x's dictionaries,
JSON files.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from ..datasets.metainfo import COCO_METAINFO, COCO_PANOPTIC_METAINFO
from ..errors import DataError
from ..evaluation.coco_format import bbox_records
from ..evaluation.image_result import ImageResult, as_array, finite_detections, mask_results
from ..files import read_json, replacing, writing
from ..structures import DetDataSample
from ..structures.masks import encode_rle
from ..structures.panoptic import INSTANCE_OFFSET, ids_to_rgb

# Ids that COCO leaves out among its things (1 to 90) and the stuff of its panoptic task (to 200).
_NO_THINGS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_STUFF_IDS = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145),
    *(147, 148, 149, 151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)
COCO_CATEGORY_IDS = (*(i for i in range(1, 91) if i not in _NO_THINGS), *_STUFF_IDS)
"""COCO's ids of its 80 things, then of its 53 kinds of stuff, in the order of mmdet_r2's labels."""


def coco_results(
    results: DetDataSample | Iterable[DetDataSample],
    *,
    classes: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    ann_file: str | os.PathLike[str] | None = None,
    score_thr: float = 0.0,
    kind: str | None = None,
) -> list[dict[str, Any]]:
    """Detections in COCO's result format (https://cocodataset.org/#format-results), ready for
    ``json.dump`` and for pycocotools' ``loadRes``. No annotation file is needed.

    Args:
        results: one image's sample with ``pred_instances``, or those of several.
        classes: names of the labels (``model.dataset_meta['classes']``): written beside the ids,
            and what ``ann_file`` is searched for.
        category_ids: id of each label. Without it (and ``ann_file``) COCO's own where ``classes``
            are COCO's, else the label itself.
        ann_file: a COCO annotation file to take the ids of images (by file name) and of
            categories (by name) from. Without it an image's id is its ``img_id``: its number
            among the images given to :func:`~mmdet_r2.apis.inference_detector`.
        score_thr: findings of at most this score are left out.
        kind: 'bbox' leaves masks out; 'segm' leaves boxes out, so that a reader takes the object's
            size from its mask, as COCO's evaluation of masks by size does; None writes both.

    Returns:
        A dictionary for each finding: ``image_id``; ``file_name`` of an image that is a file;
        ``category_id``; ``category_name`` if known; ``bbox`` [x, y, width, height] in pixels;
        ``score``; and of models with masks ``segmentation`` {size: [height, width], counts: str}.

    Raises:
        DataError: ``ann_file`` cannot be read, or lacks an image or a class.
    """
    if kind not in (None, 'bbox', 'segm'):
        raise ValueError(f"kind is {kind!r}; expected 'bbox', 'segm' or None")
    samples = [results] if isinstance(results, DetDataSample) else results
    file = None if ann_file is None else _annotation_file(ann_file)
    if category_ids is None:
        if file is not None and classes is not None:
            category_ids = file.category_ids(classes)
        elif classes is not None:
            category_ids = default_category_ids(classes)
    records = []
    for number, sample in enumerate(samples):
        path = sample.metainfo.get('img_path')
        image_id = sample.metainfo.get('img_id', number)
        if file is not None:
            image_id = file.image_id(path)
        image = _image_result(sample, image_id, score_thr)
        top = int(image.labels.max()) + 1 if len(image.labels) else 0
        ids = list(range(top)) if category_ids is None else list(category_ids)
        if top > len(ids):
            raise DataError(
                f'label {top - 1} of image {image_id} has no category id: {len(ids)} are given.'
            )
        for i, record in enumerate(bbox_records([image], ids)):
            label = int(image.labels[i])
            if path is not None:
                record['file_name'] = path
            if classes is not None and label < len(classes):
                record['category_name'] = classes[label]
            if image.masks is not None and kind != 'bbox':
                record['segmentation'] = plain_rle(image.masks[i])
                if kind == 'segm':
                    del record['bbox']
            records.append(record)
    return records


def coco_dataset(
    results: Iterable[DetDataSample], classes: Sequence[str], *, score_thr: float = 0.5
) -> dict[str, list[dict]]:
    """Detections as a COCO annotation file (pseudo-labels), to be trained on or converted.

    Args:
        results: samples of inference on files.
        classes: names of the labels.
        score_thr: findings of at most this score are left out.

    Returns:
        ``images``, ``categories`` and ``annotations``, whose ids count from 1 (a category's: COCO's
        where ``classes`` are COCO's). ``area`` is that of the mask, else of the box.
    """
    ids = default_category_ids(classes, first=1)
    images: list[dict] = []
    annotations: list[dict] = []
    for number, sample in enumerate(results, start=1):
        height, width = sample.ori_shape[:2]
        name = sample.metainfo.get('img_path') or f'{number}'
        images.append(dict(id=number, file_name=name, height=height, width=width))
        for record in coco_results(sample, category_ids=ids, score_thr=score_thr):
            mask = record.get('segmentation')
            _, _, w, h = record['bbox']
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=record['category_id'],
                    bbox=record['bbox'],
                    area=float(coco_mask.area(mask)) if mask else w * h,
                    iscrowd=0,
                    score=record['score'],
                    **(dict(segmentation=mask) if mask else {}),
                )
            )
    categories = [dict(id=i, name=name) for i, name in zip(ids, classes)]
    return dict(images=images, categories=categories, annotations=annotations)


def prediction(sample: DetDataSample, num_classes: int = 0) -> dict[str, Any]:
    """One image's findings as mmdetection 3.x's ``DetInferencer`` returns them.

    Args:
        sample: with ``pred_instances``, ``pred_panoptic_seg``, or both.
        num_classes: of a panoptic model: the label of pixels without a segment.

    Returns:
        ``labels`` [n], ``scores`` [n], ``bboxes`` [n] of [x1, y1, x2, y2], with masks ``masks``
        [n] of {size, counts: str}; of a panoptic model also ``panoptic_seg`` (H, W, 3) uint8, whose
        colours R + 256 G + 65536 B are the ids of ``segments_info``, 0 for none.
    """
    result: dict[str, Any] = {}
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu()
        result = dict(
            labels=found.labels.tolist(), scores=found.scores.tolist(), bboxes=found.bboxes.tolist()
        )
        if 'masks' in found:
            result['masks'] = [plain_rle(rle) for rle in _run_lengths(found)]
    if 'pred_panoptic_seg' in sample:
        values = as_array(sample.pred_panoptic_seg.sem_seg)
        values = values.reshape(values.shape[-2:])
        labels = values % INSTANCE_OFFSET
        result['panoptic_seg'] = ids_to_rgb(np.where(labels == num_classes, 0, values))
        result['segments_info'] = sample.pred_panoptic_seg.metainfo.get('segments_info', [])
    return result


def panoptic_record(
    sample: DetDataSample, file_name: str, category_ids: Sequence[int]
) -> dict[str, Any]:
    """One image's entry in COCO's panoptic result format.

    Args:
        sample: with ``pred_panoptic_seg`` and its ``segments_info``.
        file_name: of the PNG image with the segments' ids.
        category_ids: id of each label.
    """
    return dict(
        image_id=sample.metainfo.get('img_id', 0),
        file_name=file_name,
        segments_info=[
            dict(
                id=segment['id'],
                category_id=category_ids[segment['label']],
                area=segment['area'],
                iscrowd=0,
            )
            for segment in sample.pred_panoptic_seg.segments_info
        ],
    )


def default_category_ids(classes: Sequence[str], first: int = 0) -> list[int]:
    """Category id of each class: COCO's where the names are COCO's, else counted from ``first``."""
    for names in (COCO_METAINFO['classes'], COCO_PANOPTIC_METAINFO['classes']):
        if list(names) == list(classes):
            return list(COCO_CATEGORY_IDS[: len(names)])
    return list(range(first, first + len(classes)))


def plain_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Run lengths as JSON can hold them: ``counts`` as text."""
    counts = rle['counts']
    text = counts.decode('ascii') if isinstance(counts, bytes) else counts
    return dict(size=[int(side) for side in rle['size']], counts=text)


class JsonList:
    """A JSON file with a list that is written as it comes, for lists that memory does not hold.

    A context manager: the file gets its name when the list is complete, and is removed if an error
    ends it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.length = 0

    def __enter__(self) -> 'JsonList':
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            with writing(self.path):
                self._file = stack.enter_context(open(temporary, 'w', encoding='utf-8'))
            self._file.write('[')
            self._stack = stack.pop_all()
        return self

    def extend(self, values: Iterable[Any]) -> None:
        """Write some more items."""
        with writing(self.path):
            for value in values:
                self._file.write((',\n' if self.length else '\n') + json.dumps(value))
                self.length += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            with self._stack:
                self._file.write('\n]\n')
                self._file.close()
        else:
            with contextlib.suppress(OSError):
                self._file.close()
            self._stack.__exit__(kind, error, trace)


def _annotation_file(path: str | os.PathLike[str]) -> '_AnnotationFile':
    """The file, read once where it is asked for image by image."""
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        changed = 0
    return _cached_file(os.fspath(path), changed)


@functools.lru_cache(maxsize=1)
def _cached_file(path: str, changed: int) -> '_AnnotationFile':
    return _AnnotationFile(path)


class _AnnotationFile:
    """What a COCO annotation file calls images and classes."""

    def __init__(self, path: str) -> None:
        self.path = path
        data = read_json(self.path, 'annotation file')
        try:
            self._categories = {c['name']: c['id'] for c in data['categories']}
            images = [(str(image['file_name']), image['id']) for image in data['images']]
        except (TypeError, KeyError) as error:
            raise DataError(
                f'{self.path}: cannot be read as a COCO annotation file ({error}).'
            ) from None
        self._images: dict[str, list[tuple[str, Any]]] = {}
        for name, number in images:
            self._images.setdefault(os.path.basename(name), []).append((name, number))

    def category_ids(self, classes: Sequence[str]) -> list[int]:
        missing = [name for name in classes if name not in self._categories]
        if missing:
            raise DataError(f'{self.path}: has no category {missing[0]!r}.')
        return [self._categories[name] for name in classes]

    def image_id(self, path: str | None) -> Any:
        where = Path(path or '').as_posix()
        named = self._images.get(os.path.basename(where), [])
        found = [n for name, n in named if f'/{where}'.endswith(f'/{Path(name).as_posix()}')]
        if len(found) != 1:
            found = [number for _, number in named]
        if len(found) != 1:
            reason = 'several images are' if found else 'no image is'
            raise DataError(f'{self.path}: {reason} called {path}.')
        return found[0]


def _image_result(sample: DetDataSample, image_id: Any, score_thr: float) -> ImageResult:
    found = sample.pred_instances.cpu()
    found = found[found.scores > score_thr]
    height, width = sample.ori_shape[:2]
    masks = None
    if 'masks' in found:
        masks = mask_results(found.masks, len(found), height, width, f'image {image_id!r}')
    result = ImageResult(
        img_id=image_id,
        height=height,
        width=width,
        bboxes=as_array(found.bboxes),
        scores=as_array(found.scores),
        labels=as_array(found.labels),
        masks=masks,
    )
    return finite_detections(result)[0]  # JSON has no NaN


def _run_lengths(found: InstanceData) -> list[dict]:
    masks = found.masks
    return list(masks) if isinstance(masks, list) else encode_rle(masks)
