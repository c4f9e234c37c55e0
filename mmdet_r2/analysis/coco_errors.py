"""Why precision is lost: precision-recall curves with one kind of mistake after another forgiven
(https://cocodataset.org/#detection-eval, "Analysis of errors").

The curves, each above the one before:

- C75, C50: as evaluated, at an IoU of 0.75 and 0.5.
- Loc: at an IoU of 0.1, so that badly placed boxes count; duplicates are still wrong.
- Sim: detections on objects of another class of the same supercategory forgiven, too.
- Oth: detections on objects of any other class forgiven.
- BG: detections on the background forgiven; what is left is a step at the recall reached.
- FN: missed objects forgiven: 1 everywhere.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.logging import print_log
from pycocotools import mask as coco_mask

from ..datasets.coco_json import as_id, id_order
from ..errors import DataError
from ..evaluation.coco_format import ground_truth, read_annotations
from ..evaluation.collect import number_array
from ..evaluation.image_result import compressed_masks
from ..evaluation.matching import Comparison, Objects, compare, judge, precision_curves
from ..files import read_json
from ..progress import progress

KINDS = ('C75', 'C50', 'Loc', 'Sim', 'Oth', 'BG', 'FN')
AREAS = ('all', 'small', 'medium', 'large')
AREA_LIMITS = (1024, 9216, 10000000000)
RECALLS = np.linspace(0.0, 1.0, 101)
_COLORS = ('#ffffff', '#dddddd', '#4f82bd', '#bf4f4d', '#5ce661', '#8063a3', '#ff9900')


@dataclass
class ErrorCurves:
    """Curves of a results file.

    Attributes:
        names: of the K classes, by falling number of objects.
        objects: (K, 4) annotated objects of each class in each size of AREAS.
        precision: (7, 101, K, 4) by kind, recall, class and size; NaN where nothing is annotated.
    """

    names: list[str]
    objects: np.ndarray
    precision: np.ndarray

    def mean(self) -> np.ndarray:
        """(7, 101, 4), over the classes that have objects of the size; NaN without any."""
        known = np.isfinite(self.precision)
        total = np.where(known, self.precision, 0).sum(axis=2)
        number = known.sum(axis=2)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def to_dict(self) -> dict[str, Any]:
        """Areas below the curves, as JSON: overall and by class, by size, by kind; None where
        nothing is annotated.
        """

        def areas(curves: np.ndarray) -> dict[str, dict[str, float] | None]:
            return {
                area: None
                if np.isnan(curves[..., a]).any()
                else dict(zip(KINDS, curves[..., a].mean(axis=1).tolist()))
                for a, area in enumerate(AREAS)
            }

        classes = {
            name: dict(
                objects=dict(zip(AREAS, self.objects[k].tolist())),
                **areas(self.precision[:, :, k]),
            )
            for k, name in enumerate(self.names)
        }
        return {'all classes': areas(self.mean()), 'classes': classes}


def read_results(
    result_file: str | os.PathLike[str],
    ann_file: str | os.PathLike[str],
    *,
    iou_type: str = 'bbox',
    score_thr: float | None = None,
) -> tuple[Comparison, list[dict]]:
    """A results file in COCO's format, compared with the annotations; and the categories, by label.

    Args:
        result_file: such as ``PREFIX.bbox.json`` of ``mmdet-r2 test --outfile-prefix PREFIX``.
        ann_file: COCO annotations.
        iou_type: 'bbox' or 'segm'.
        score_thr: leave out detections of a lower score.

    Raises:
        DataError: a file is missing or not in its format, or the results are of other images,
            other classes, or without masks.
    """
    annotations = read_annotations(str(ann_file))
    if annotations['left_out']:
        print_log(f'{ann_file}: {annotations["left_out"]}', 'current', level=30)
    categories = sorted(annotations['categories'], key=lambda category: id_order(category['id']))
    label_of = {category['id']: label for label, category in enumerate(categories)}
    images = {image['id']: image for image in annotations['images']}
    found: dict[Any, list[dict]] = {image_id: [] for image_id in images}
    for number, record in enumerate(_read_records(result_file)):
        for key in ('image_id', 'category_id', 'score'):
            if key not in record:
                raise DataError(f'{result_file}: record {number} has no {key!r}.')
        _check_record(record, f'{result_file}: record {number}')
        for key, known, what in (
            ('image_id', images, 'image'),
            ('category_id', label_of, 'category'),
        ):
            number_or_text = as_id(record[key])
            if number_or_text not in known:
                raise DataError(
                    f'{result_file}: record {number} is of {what} {record[key]!r}, which '
                    f'{ann_file} does not have; use the annotations that were tested on.'
                )
            record[key] = number_or_text
        if score_thr is None or record['score'] >= score_thr:
            found[record['image_id']].append(record)
    truth: dict[Any, list[dict]] = {image_id: [] for image_id in images}
    for annotation in ground_truth(annotations, iou_type).dataset['annotations']:
        if annotation['category_id'] in label_of:
            truth[annotation['image_id']].append(annotation)

    def objects(records: list[dict], image: dict, detected: bool) -> Objects:
        masks = None
        if iou_type == 'segm':
            absent = [r for r in records if not r.get('segmentation')]
            if absent:
                raise DataError(
                    f'{result_file}: a record of image {image["id"]} has no segmentation; use '
                    '--types bbox, or the file PREFIX.segm.json.'
                )
            where = f'{result_file if detected else ann_file}: image {image["id"]}'
            height, width = image['height'], image['width']
            given = [r['segmentation'] for r in records]
            masks = compressed_masks(given, height, width, where)
        elif any('bbox' not in r for r in records):
            raise DataError(
                f'{result_file}: a record of image {image["id"]} has no bbox; use --types segm, '
                'or the file PREFIX.bbox.json.'
            )
        boxes = [r.get('bbox', (0, 0, 0, 0)) for r in records]
        areas: Sequence[float]
        if not detected:
            areas = [r['area'] for r in records]
        elif masks is not None:
            areas = [float(coco_mask.area(mask)) for mask in masks]
        else:
            areas = [box[2] * box[3] for box in boxes]
        return Objects(
            boxes=np.array(boxes, float).reshape(-1, 4),
            labels=np.array([label_of[r['category_id']] for r in records], np.int64),
            scores=np.array([r['score'] for r in records], float) if detected else None,
            crowd=np.array([r.get('iscrowd', 0) for r in records], bool),
            areas=np.array(areas, float),
            masks=masks,
        )

    ids = sorted(images, key=id_order)
    comparison = compare(
        (objects(truth[i], images[i], False) for i in ids),
        (objects(found[i], images[i], True) for i in progress(ids, 'comparing')),
        len(categories),
        iou_type,
    )
    return comparison, categories


def _check_record(record: dict, where: str) -> None:
    """Raise for ids, scores and boxes of a kind that nothing can be made of."""
    for key in ('image_id', 'category_id'):
        if not isinstance(record[key], int | str):
            raise DataError(f'{where}: {key} is {record[key]!r}, expected an id.')
    if number_array([record['score']], 1).shape != (1,) or not np.isfinite(record['score']):
        raise DataError(f'{where}: score is {record["score"]!r}, expected a number.')
    if 'bbox' in record:
        box = number_array(record['bbox'], 1)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise DataError(f'{where}: bbox is {record["bbox"]!r}, expected four numbers.')


def _read_records(path: str | os.PathLike[str]) -> list[dict]:
    records = read_json(path, 'results file')
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DataError(
            f'{path}: not a COCO results file, which is a list of records, such as '
            'PREFIX.bbox.json of mmdet-r2 test --outfile-prefix PREFIX.'
        )
    return records


def error_curves(
    data: Comparison, categories: Sequence[dict], area_limits: Sequence[float] = AREA_LIMITS
) -> ErrorCurves:
    """The curves of every class and size.

    Args:
        data: what was found and annotated.
        categories: of each label, with ``name`` and ``supercategory``; classes without one have
            none that are similar.
        area_limits: where small, medium and large end.
    """
    count = len(categories)
    families = [category.get('supercategory') or (i,) for i, category in enumerate(categories)]
    similar = np.array([[a == b for b in families] for a in families]).reshape(count, count)
    settings: list[tuple[float, np.ndarray | None]] = [(0.75, None), (0.5, None), (0.1, None)]
    settings += [(0.1, similar), (0.1, np.ones_like(similar))]
    small, medium, largest = area_limits
    ranges = [(0, largest), (0, small), (small, medium), (medium, largest)]
    precision = np.full((len(KINDS), len(RECALLS), count, len(AREAS)), np.nan)
    objects = np.zeros((count, len(AREAS)), np.int64)
    work = [(i, a) for i in range(len(settings)) for a in range(len(AREAS))]
    for i, a in progress(work, 'curves'):
        iou_thr, excuses = settings[i]
        result = judge(data, iou_thr, area=ranges[a], excuses=excuses)
        objects[:, a] = np.bincount(data.gt_label[result.counted], minlength=count)
        precision[i, ..., a] = precision_curves(data, result.verdict, result.counted, RECALLS).T
    unknown = np.isnan(precision[4])
    precision[5] = np.where(unknown, np.nan, precision[4] > 0)
    precision[6] = np.where(unknown, np.nan, 1.0)
    order = np.argsort(-objects[:, 0], kind='stable')
    names = [str(categories[k]['name']) for k in order]
    for name, number in Counter(names).items():
        if number > 1:
            raise DataError(f'two categories of the annotations are named {name!r}.')
    return ErrorCurves(names, objects[order], precision[:, :, order])


def plot_errors(curves: np.ndarray, title: str) -> Figure:
    """Four panels, one per size, with the area between two curves filled.

    Args:
        curves: (7, 101, 4) by kind, recall and size; NaN where nothing is annotated.
        title: above them.
    """
    figure = Figure(figsize=(11, 9), layout='constrained')
    figure.suptitle(title)
    for a, area in enumerate(AREAS):
        axes = figure.add_subplot(2, 2, a + 1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel='recall', ylabel='precision', title=area)
        if np.isnan(curves[..., a]).any():
            axes.text(0.5, 0.5, 'nothing annotated', ha='center', va='center')
            continue
        below = np.zeros(len(RECALLS))
        for kind, color, curve in zip(KINDS, _COLORS, curves[..., a]):
            axes.plot(RECALLS, curve, color='black', linewidth=0.5)
            label = f'{curve.mean():.3f} {kind}'
            axes.fill_between(RECALLS, below, curve, color=color)
            axes.fill_between([], [], color=color, edgecolor='black', linewidth=0.5, label=label)
            below = curve
        axes.legend(loc='lower left', framealpha=0.8, fontsize=8)
    return figure


def plot_bars(curves: np.ndarray, title: str) -> Figure:
    """The area below each curve as bars, by size; arguments of :func:`plot_errors`."""
    figure = Figure(figsize=(9, 5), layout='constrained')
    axes = figure.add_subplot()
    width = 0.8 / (len(KINDS) - 1)
    for i, kind in enumerate(KINDS[:-1]):
        heights = curves[i].mean(axis=0)
        bars = axes.bar(np.arange(len(AREAS)) + (i - 2.5) * width, heights, width, label=kind)
        axes.bar_label(bars, fmt=lambda v: '' if np.isnan(v) else f'{v:.2f}', fontsize=7)
    absent = np.isnan(curves).any(axis=(0, 1))
    axes.set_xticks(
        range(len(AREAS)),
        [f'{area}\n(nothing annotated)' if no else area for area, no in zip(AREAS, absent)],
    )
    axes.set(xlim=(-0.5, len(AREAS) - 0.5), ylim=(0, 1.15), ylabel='area below the curve')
    axes.set_title(title)
    axes.legend(ncols=6, loc='upper center', fontsize=8)
    return figure


def plot_objects(data: Comparison, objects: np.ndarray) -> Figure:
    """How many objects of each size there are, and a histogram of sizes.

    Args:
        data: what was annotated.
        objects: (K, 4) of :class:`ErrorCurves`.
    """
    figure = Figure(figsize=(11, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.bar_label(left.bar(AREAS, objects.sum(axis=0)))
    left.set(ylabel='annotated objects', title='by size')
    right.hist(np.sqrt(data.gt_area[~data.gt_crowd]), bins=100)
    right.set(xlabel='square root of the area, pixels', ylabel='annotated objects')
    return figure
