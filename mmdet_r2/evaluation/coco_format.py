"""COCO's JSON formats: annotation files in, result files out, and the columns of both."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from pycocotools import mask as coco_mask

from mmdet_r2.datasets.coco_json import Id, no_garbage_collection, read_coco
from mmdet_r2.errors import DataError
from mmdet_r2.files import write_json
from mmdet_r2.structures.masks import compressed, usable_masks

from .coco_backends import Objects, mask_areas
from .image_result import ImageResult


def read_annotations(path: str, backend_args: dict | None = None) -> dict:
    """A COCO annotation file's ``images``, ``categories`` and ``annotations``, by the
    rules of :mod:`mmdet_r2.datasets.coco_json`, as for training. ``left_out`` says what they leave
    out.

    ``iscrowd`` and ``area`` are filled in where missing (0, the box's area). ``written_images`` and
    ``written_categories`` are ids as the file writes them, where that differs.

    Raises:
        DataError: missing, unreadable or not in COCO's format; names the file and the key.
    """
    with no_garbage_collection():
        coco = read_coco(path, backend_args, 'annotation file (CocoMetric.ann_file)')
        annotations: list[dict[str, Any]] = []
        for image in coco.images:
            for a in image.objects:  # nobody else has them: changed in place
                a.setdefault('iscrowd', 0)
                if a.get('area') is None:
                    a['area'] = a['bbox'][2] * a['bbox'][3]
                annotations.append(a)
        return dict(
            images=[dict(id=i.id, height=i.height, width=i.width) for i in coco.images],
            categories=coco.categories,
            annotations=annotations,
            written_images=coco.written_images,
            written_categories=coco.written_categories,
            left_out='; '.join(coco.report()),
        )


def check_measurable(
    annotations: dict, category_ids: Sequence[Id | None], metrics: Iterable[str], path: str
) -> None:
    """Raises:
    DataError: there is no object of these categories to be found, or 'segm' is to be measured and
        none has a mask.
    """
    wanted = {category for category in category_ids if category is not None}
    objects = annotations['annotations']
    objects = [a for a in objects if not a['iscrowd'] and a['category_id'] in wanted]
    what = 'has no annotations' if not annotations['annotations'] else 'has crowds only'
    if not objects and any(not a['iscrowd'] for a in annotations['annotations']):
        what = 'has no object of the classes'
    if objects and 'segm' in metrics:
        objects = [a for a in objects if a.get('segmentation')]
        what = "has no usable segmentation, which metric 'segm' needs"
    if not objects:
        raise DataError(
            f'{path}: nothing can be measured: it {what}; use an annotated file, or format_only '
            'to write results'
        )


def annotations_of(images: Sequence[ImageResult], classes: Sequence[str]) -> dict:
    """The data samples' own ground truth in COCO's format; the category id is the label.

    Without ``instances`` (results are only written) there are no annotations.
    """
    annotations: list[dict[str, Any]] = []
    for image in images:
        instances = image.instances or ()
        given = [instance.get('mask') for instance in instances]
        masks = usable_masks(given, image.height, image.width)
        for instance, mask in zip(instances, masks):
            x1, y1, x2, y2 = instance['bbox']
            area = instance.get('area')
            if area is None and mask:
                # without any pixel: the box's
                area = float(coco_mask.area(compressed(mask, image.height, image.width))) or None
            annotation = dict(
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


def annotated(
    annotations: dict, images: Mapping[Id, int], labels: Mapping[Id, int], iou_type: str
) -> Objects:
    """The objects of some images and categories; for masks without those that have none (a warning
    gives their number).

    Args:
        annotations: as :func:`read_annotations` gives them.
        images, labels: number of each image id and category id that counts.
        iou_type: 'bbox' or 'segm'.
    """
    objects = annotations['annotations']
    if iou_type == 'segm':
        with_mask = [a for a in objects if a.get('segmentation')]
        if len(with_mask) < len(objects):
            print_log(
                f'{len(objects) - len(with_mask)} of {len(objects)} annotations have no usable '
                'segmentation and are left out of the evaluation of masks',
                'current',
                level=30,
            )
        objects = with_mask
    objects = [a for a in objects if a['image_id'] in images and a['category_id'] in labels]
    return Objects(
        image=[images[a['image_id']] for a in objects],
        label=[labels[a['category_id']] for a in objects],
        boxes=[a['bbox'] for a in objects],
        area=[a['area'] for a in objects],
        crowd=[a['iscrowd'] for a in objects],
        masks=[a['segmentation'] for a in objects] if iou_type == 'segm' else None,
    )


def detected(images: Sequence[ImageResult], labels: np.ndarray, iou_type: str) -> Objects:
    """The detections of the images.

    Args:
        images: in order.
        labels: (classes,) the number of each label, -1 where it does not count.
        iou_type: 'bbox' or 'segm'. Sizes of masks are those of the mask, not of its box.
    """
    masks: list[dict] | None = None
    if iou_type == 'segm':
        masks = [mask for image in images for mask in image.masks or ()]
    boxes = np.concatenate([np.zeros((0, 4)), *(i.bboxes.astype(np.float64) for i in images)])
    boxes[:, 2:] -= boxes[:, :2]
    scores = [
        i.mask_scores if masks is not None and i.mask_scores is not None else i.scores
        for i in images
    ]
    label = np.concatenate([np.zeros(0, np.int64), *(i.labels for i in images)])
    found = Objects(
        image=np.repeat(np.arange(len(images)), [len(i.bboxes) for i in images]),
        label=labels[label],
        boxes=boxes,
        area=None if masks is None else mask_areas(masks),
        scores=np.concatenate([np.zeros(0), *scores]),
        masks=masks,
    )
    return found if (found.label >= 0).all() else found.select(found.label >= 0)


def bbox_records(images: Sequence[ImageResult], category_ids: Sequence[Id | None]) -> list[dict]:
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


def segm_records(images: Sequence[ImageResult], category_ids: Sequence[Id | None]) -> list[dict]:
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
    images: Sequence[ImageResult],
    category_ids: Sequence[Id | None],
    prefix: str,
    annotations: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write ``{prefix}.bbox.json`` and, if any image has masks, ``{prefix}.segm.json``; the paths
    written. Ids are those of the data set, or as the file of ``annotations`` writes them.
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
    written = annotations or {}
    of_image = written.get('written_images') or {}
    of_category = written.get('written_categories') or {}
    for path, records in files.items():
        for record in records if of_image or of_category else ():
            image_id, category = record['image_id'], record['category_id']
            record['image_id'] = of_image.get(image_id, image_id)
            record['category_id'] = of_category.get(category, category)
        write_json(path, records)
        print_log(f'wrote {len(records)} results to {path}', 'current')
    return list(files)
