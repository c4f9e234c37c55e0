"""COCO's JSON formats: annotation files in, result files out, and pycocotools' view of both."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmdet_r2.errors import DataError
from mmdet_r2.files import read_json, write_json
from mmdet_r2.structures.masks import to_rle, usable_masks

from .image_result import ImageResult


def read_annotations(path: str, backend_args: dict | None = None) -> dict:
    """A COCO annotation file's ``images``, ``categories`` and ``annotations``, ready for
    pycocotools.

    ``iscrowd`` and ``area`` are filled in where missing (0, the box's area), and annotations are
    numbered anew from 1: pycocotools takes a match with id 0 for a miss, and loses annotations that
    share an id.

    Raises:
        DataError: missing, unreadable or not in COCO's format.
    """
    data = read_json(path, 'annotation file (CocoMetric.ann_file)', backend_args)
    if not isinstance(data, dict) or not {'images', 'categories'} <= data.keys():
        raise DataError(
            f"{path}: not a COCO annotation file, which has 'images', 'categories' and "
            "'annotations'"
        )
    # test sets come without annotations; only format_only has a use for them
    objects = data.get('annotations', [])
    ids = [a.get('id') for a in objects]
    if len(set(ids)) < len(ids) or any(not isinstance(i, int) or i <= 0 for i in ids):
        print_log(
            f'{path}: annotation ids are not unique numbers above 0; numbered anew', 'current'
        )
    known = {image['id'] for image in data['images']}
    annotations = []
    for number, a in enumerate(objects, start=1):
        for key in ('image_id', 'category_id', 'bbox'):
            if key not in a:
                raise DataError(f'{path}: annotation {a.get("id")} has no {key!r}')
        if a['image_id'] not in known:
            raise DataError(
                f'{path}: annotation {a.get("id")} is of image {a["image_id"]}, not in the file'
            )
        a = dict(a, id=number, iscrowd=int(a.get('iscrowd', 0)))
        a.setdefault('area', a['bbox'][2] * a['bbox'][3])
        annotations.append(a)
    return dict(
        images=[
            dict(id=i['id'], height=i.get('height'), width=i.get('width')) for i in data['images']
        ],
        categories=data['categories'],
        annotations=annotations,
    )


def annotations_of(images: Sequence[ImageResult], classes: Sequence[str]) -> dict:
    """The data samples' own ground truth in COCO's format; the category id is the label.

    Without ``instances`` (results are only written) there are no annotations.
    """
    annotations: list[dict[str, Any]] = []
    for image in images:
        for instance in image.instances or ():
            x1, y1, x2, y2 = instance['bbox']
            mask = instance.get('mask')
            area = instance.get('area')
            if area is None and mask:
                # without any: the box's
                area = float(coco_mask.area(to_rle(mask, image.height, image.width))) or None
            annotation = dict(
                id=len(annotations) + 1,
                image_id=image.img_id,
                category_id=int(instance['bbox_label']),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1) if area is None else area,
                iscrowd=int(instance.get('ignore_flag', 0)),
            )
            annotations.append(annotation | ({'segmentation': mask} if mask else {}))
    return dict(
        images=[dict(id=image.img_id, height=image.height, width=image.width) for image in images],
        categories=[dict(id=label, name=name) for label, name in enumerate(classes)],
        annotations=annotations,
    )


def ground_truth(annotations: dict, iou_type: str) -> COCO:
    """pycocotools' view of the annotations; for masks without objects that have none (a warning
    gives their number).
    """
    objects = annotations['annotations']
    if iou_type == 'segm':
        with_mask = _with_usable_masks(objects, annotations['images'])
        if len(with_mask) < len(objects):
            print_log(
                f'{len(objects) - len(with_mask)} of {len(objects)} annotations have no usable '
                'segmentation and are left out of the evaluation of masks',
                'current',
                level=30,
            )
        objects = with_mask
    coco = COCO()
    # shallow copies: pycocotools writes into the annotations
    coco.dataset = annotations | {'annotations': [dict(a) for a in objects]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _with_usable_masks(objects: Sequence[dict], images: Sequence[dict]) -> list[dict]:
    """The annotations whose mask pycocotools can take, with that mask."""
    of_image: dict[Any, list[int]] = {}
    for k, annotation in enumerate(objects):
        of_image.setdefault(annotation['image_id'], []).append(k)
    masks: list[Any] = [None] * len(objects)
    for image in images:
        here = of_image.get(image['id'], [])
        given = [objects[k].get('segmentation') for k in here]
        if any(given) and not (image['height'] and image['width']):
            raise DataError(f'image {image["id"]!r} has masks, but no height and width')
        for k, mask in zip(here, usable_masks(given, image['height'], image['width'])):
            masks[k] = mask
    return [dict(a, segmentation=m) for a, m in zip(objects, masks) if m is not None]


def detections(
    images: Sequence[ImageResult],
    category_ids: Sequence[int | None],
    truth: COCO,
    iou_type: str,
) -> COCO:
    """Detections as pycocotools' ``loadRes`` would make them of a file, but also where there are
    none.

    Sizes of masks are those of the mask, not of its box.
    """
    records = (
        segm_records(images, category_ids)
        if iou_type == 'segm'
        else bbox_records(images, category_ids)
    )
    areas: Iterable[float]
    if iou_type == 'segm':
        # one by one: pycocotools counts its list in a byte, and fails beyond 255 (numpy 2)
        areas = (coco_mask.area(record['segmentation']) for record in records)
    else:
        areas = (record['bbox'][2] * record['bbox'][3] for record in records)
    for number, (record, area) in enumerate(zip(records, areas), start=1):
        record.update(id=number, area=area, iscrowd=0)
    coco = COCO()
    coco.dataset = dict(
        images=truth.dataset['images'], categories=truth.dataset['categories'], annotations=records
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def bbox_records(images: Sequence[ImageResult], category_ids: Sequence[int | None]) -> list[dict]:
    """COCO box results: image_id, bbox (x, y, width, height), score, category_id; classes without a
    category are left out.
    """
    records = []
    for image in images:
        boxes = image.bboxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), image.scores.tolist(), image.labels.tolist()):
            if (category := category_ids[label]) is not None:
                records.append(
                    dict(image_id=image.img_id, bbox=box, score=score, category_id=category)
                )
    return records


def segm_records(images: Sequence[ImageResult], category_ids: Sequence[int | None]) -> list[dict]:
    """COCO mask results: image_id, category_id, score, segmentation (RLE, counts in bytes).

    No box: readers of such a file would take the object's size from it.
    """
    records = []
    for image in images:
        scores = image.scores if image.mask_scores is None else image.mask_scores
        for rle, score, label in zip(image.masks or (), scores.tolist(), image.labels.tolist()):
            if (category := category_ids[label]) is not None:
                records.append(
                    dict(image_id=image.img_id, category_id=category, score=score, segmentation=rle)
                )
    return records


def write_results(
    images: Sequence[ImageResult], category_ids: Sequence[int | None], prefix: str
) -> list[str]:
    """Write ``{prefix}.bbox.json`` and, if any image has masks, ``{prefix}.segm.json``; the paths
    written.
    """
    files = {f'{prefix}.bbox.json': bbox_records(images, category_ids)}
    if any(image.masks is not None for image in images):
        records = segm_records(images, category_ids)
        for record in records:
            rle = record['segmentation']
            counts = rle['counts']
            text = counts.decode('ascii') if isinstance(counts, bytes) else counts
            record['segmentation'] = dict(size=[int(side) for side in rle['size']], counts=text)
        files[f'{prefix}.segm.json'] = records
    for path, records in files.items():
        write_json(path, records)
        print_log(f'wrote {len(records)} results to {path}', 'current')
    return list(files)
