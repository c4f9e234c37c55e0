"""The results of a test and what they are compared with, image by image."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..apis.tta import datasets_of
from ..config import load_config
from ..errors import ConfigError, DataError
from ..evaluation import load_results
from ..evaluation.coco_backends import CocoData, Objects, joined, mask_areas
from ..evaluation.collect import meta_of
from ..evaluation.image_result import detection_arrays, mask_results
from ..ops import nms
from ..registry import DATASETS, build, init_scope
from ..structures.masks import compressed, usable_masks


@dataclass
class Tested:
    """A test's images.

    Attributes:
        config: that was tested.
        metainfo: of the data set.
        classes: names of the objects' classes; of a panoptic data set those of its things.
        infos: of every image what the data set knows: img_id, img_path, height, width, instances.
        results: of every image its entry in the results file.
        dataset: that was tested, without its pipeline.
    """

    config: Config
    metainfo: dict[str, Any]
    classes: tuple[str, ...]
    infos: list[dict]
    results: list[dict]
    dataset: Any

    def __len__(self) -> int:
        return len(self.infos)


def read_tested(
    config: str | os.PathLike[str] | Config,
    results: str | os.PathLike[str],
    overrides: dict[str, Any] | None = None,
) -> Tested:
    """The results file that ``mmdet-r2 test CONFIG ... --out FILE.pkl`` wrote, and its data set.

    Images need not be there: none is read.

    Args:
        config: of the test.
        results: the file.
        overrides: dotted config keys and their values, as on the command line.

    Raises:
        ConfigError: the config has no test data.
        DataError: a file is missing or damaged, or the results are of other images.
    """
    config = load_config(config, overrides)
    name = config.filename or 'config'
    if config.get('test_dataloader') is None:
        raise ConfigError(f'{name}: test_dataloader is missing, which says what was tested.')
    init_scope()
    found = load_results(results)
    settings = config.test_dataloader.dataset
    for part in datasets_of(settings):
        part.pipeline = []
        part.test_mode = True
    dataset = build(DATASETS, settings, 'test_dataloader.dataset')
    if len(found) != len(dataset):
        raise DataError(
            f'{results}: has the results of {len(found)} images, but the test data of {name} has '
            f'{len(dataset)}; use the config that was tested, with the same --cfg-options.'
        )
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    metainfo = dict(dataset.metainfo)
    classes = tuple(metainfo.get('thing_classes') or metainfo.get('classes') or ())
    not_finite = 0
    for number, (info, result) in enumerate(zip(infos, found)):
        if 'img_id' in result and not _same_id(result['img_id'], info.get('img_id')):
            raise DataError(
                f'{results}: entry {number} is of image {result["img_id"]!r}, but the test data '
                f'of {name} has image {info.get("img_id")!r} there; use the config that was tested.'
            )
        of = result.get('dataset_index', info.get('dataset_index', 0))
        if not _same_id(of, info.get('dataset_index', 0)):
            raise DataError(
                f'{results}: entry {number} is of data set {of!r}, but the '
                f'test data of {name} has one of data set {info.get("dataset_index", 0)!r} there; '
                'use the config that was tested.'
            )
        where = f'{results}: entry {number}, image {info.get("img_id")!r}'
        if result.get('pred_instances') is not None:  # else semantic or panoptic maps only
            size = _size(info, result, where)
            not_finite += _check_instances(result, size, len(classes), where, name)
    if not_finite:
        print_log(
            f'{results}: {not_finite} detections are NaN or infinite and are left out (are the '
            'weights sound?)',
            'current',
            level=logging.WARNING,
        )
    return Tested(config, metainfo, classes, infos, found, dataset)


def _size(info: dict, result: dict, entry: str) -> tuple[int, int]:
    """Height and width of an image, as the data set and its result say."""
    known = [info.get('height'), info.get('width')]
    try:
        _, *stated = meta_of({'img_id': info.get('img_id'), 'ori_shape': known, **result})
    except ConfigError as error:
        raise DataError(f'{entry}: {error}') from None
    if all(known) and stated != known:
        raise DataError(
            f'{entry}: ori_shape is {stated}, but the image has height and width {known}; use the '
            'config that was tested.'
        )
    return stated[0], stated[1]


def _same_id(one: Any, other: Any) -> bool:
    """Whether two image ids are equal; other than numbers and texts never are."""
    return isinstance(one, int | str) and not isinstance(one, bool) and one == other


def _check_instances(
    result: dict, size: tuple[int, int], num_classes: int, entry: str, config: str
) -> int:
    """Check ``pred_instances``, and make masks run lengths; how many detections are NaN or
    infinite.
    """
    instances = result['pred_instances']
    arrays = detection_arrays(instances, entry)
    labels = arrays['labels']
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f'{entry}: there is a detection with label {wrong}, but the test data of {config} has '
            f'{num_classes} classes; use the config that was tested.'
        )
    masks = instances.get('masks')
    if masks is not None:
        masks = mask_results(masks, len(labels), *size, entry)
        result['pred_instances'] = {**instances, 'masks': masks}
    finite = np.isfinite(arrays['scores']) & np.isfinite(arrays['bboxes']).all(axis=1)
    return int(np.count_nonzero(~finite))


def compared(
    tested: Tested, *, iou_type: str = 'bbox', nms_iou_thr: float | None = None
) -> CocoData:
    """All detections and all objects; for masks those objects that have one.

    Args:
        tested: the images.
        iou_type: 'bbox' or 'segm': which overlap is to be compared.
        nms_iou_thr: first suppress detections that overlap one of their class by more.

    Raises:
        DataError: there are no detections, or no masks, in the results.
    """
    masks = iou_type == 'segm'
    return CocoData(
        sizes=[
            _size(info, result, 'results') for info, result in zip(tested.infos, tested.results)
        ],
        num_classes=len(tested.classes),
        truth=joined([truth_of(info, masks) for info in tested.infos]),
        found=joined(
            [
                detections_of(info, result, masks, nms_iou_thr)
                for info, result in zip(tested.infos, tested.results)
            ]
        ),
        iou_type=iou_type,
    )


def truth_of(info: dict, masks: bool = False) -> Objects:
    """The annotated objects of an image, as if it were the only one; with ``masks`` those that have
    one.
    """
    instances = info.get('instances', [])
    rles = None
    if masks:
        height, width = info['height'], info['width']
        usable = usable_masks([i.get('mask') for i in instances], height, width)
        instances = [i for i, mask in zip(instances, usable) if mask is not None]
        rles = [compressed(mask, height, width) for mask in usable if mask is not None]
    boxes = np.array([instance['bbox'] for instance in instances], float).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return Objects(
        image=np.zeros(len(instances)),
        label=[instance['bbox_label'] for instance in instances],
        boxes=boxes,
        area=None if rles is None else mask_areas(rles),
        crowd=[instance.get('ignore_flag', 0) for instance in instances],
        masks=rles,
    )


def detections_of(
    info: dict, result: dict, masks: bool = False, nms_iou_thr: float | None = None
) -> Objects:
    """The detections of an image, as if it were the only one; see :func:`compared`."""
    instances = result.get('pred_instances')
    if instances is None:
        raise DataError(f'the results of image {info.get("img_id")!r} have no pred_instances.')
    if masks and 'masks' not in instances and len(instances['labels']):
        raise DataError('the results have no masks; use bbox.')
    boxes = np.array(instances['bboxes'], float).reshape(-1, 4)
    scores, labels = np.array(instances['scores'], float), np.array(instances['labels'], np.int64)
    rles = list(instances.get('masks', ())) if masks else None
    keep = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    if nms_iou_thr is not None:
        keep &= _not_suppressed(instances, nms_iou_thr)
    boxes[:, 2:] -= boxes[:, :2]
    return Objects(
        image=np.zeros(len(labels)),
        label=labels,
        boxes=boxes,
        area=None if rles is None else mask_areas(rles),
        scores=scores,
        masks=rles,
    ).select(keep)


def _not_suppressed(instances: dict, iou_thr: float) -> np.ndarray:
    boxes, scores, labels = (torch.as_tensor(instances[k]) for k in ('bboxes', 'scores', 'labels'))
    keep = np.zeros(len(labels), bool)
    for label in labels.unique():
        index = (labels == label).nonzero().flatten()
        keep[index[nms(boxes[index], scores[index], iou_thr)].numpy()] = True
    return keep
