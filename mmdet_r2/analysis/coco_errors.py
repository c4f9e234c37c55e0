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

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.logging import print_log

from ..datasets.coco_json import as_id, id_order
from ..errors import DataError
from ..evaluation.coco_backends import RECALLS, CocoData, Evaluation, Objects, mask_areas
from ..evaluation.coco_format import annotated, read_annotations
from ..evaluation.collect import number_array
from ..evaluation.image_result import compressed_masks
from ..files import read_json
from ..progress import progress

KINDS = ('C75', 'C50', 'Loc', 'Sim', 'Oth', 'BG', 'FN')
AREAS = ('all', 'small', 'medium', 'large')
AREA_LIMITS = (1024, 9216, 10000000000)
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
) -> tuple[CocoData, list[dict]]:
    """A results file in COCO's format, beside the annotations; and the categories, by label.

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
    order = {image_id: number for number, image_id in enumerate(sorted(images, key=id_order))}
    found: list[dict] = []
    for number, record in enumerate(_read_records(result_file)):
        where = f'{result_file}: record {number}'
        for key in ('image_id', 'category_id', 'score'):
            if key not in record:
                raise DataError(f'{where} has no {key!r}.')
        _check_record(record, where)
        for key, known, what in (
            ('image_id', images, 'image'),
            ('category_id', label_of, 'category'),
        ):
            number_or_text = as_id(record[key])
            if number_or_text not in known:
                raise DataError(
                    f'{where} is of {what} {record[key]!r}, which '
                    f'{ann_file} does not have; use the annotations that were tested on.'
                )
            record[key] = number_or_text
        needed, other = ('bbox', 'segm') if iou_type == 'bbox' else ('segmentation', 'bbox')
        if not record.get(needed):
            raise DataError(
                f'{where} has no {needed}; use --types {other}, or the file PREFIX.{iou_type}.json.'
            )
        if score_thr is None or record['score'] >= score_thr:
            found.append(record)
    found.sort(key=lambda r: order[r['image_id']])
    masks = None
    if iou_type == 'segm':
        masks = []
        for i, records in itertools.groupby(found, key=lambda r: r['image_id']):
            given = [r['segmentation'] for r in records]
            size = images[i]['height'], images[i]['width']
            masks += compressed_masks(given, *size, f'{result_file}: image {i}')
    data = CocoData(
        sizes=[(images[i]['height'], images[i]['width']) for i in order],
        num_classes=len(categories),
        truth=annotated(annotations, order, label_of, iou_type),
        found=Objects(
            image=[order[r['image_id']] for r in found],
            label=[label_of[r['category_id']] for r in found],
            boxes=[r.get('bbox', (0, 0, 0, 0)) for r in found],
            area=None if masks is None else mask_areas(masks),
            scores=[r['score'] for r in found],
            masks=masks,
        ),
        iou_type=iou_type,
    )
    return data, categories


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
    data: CocoData, categories: Sequence[dict], area_limits: Sequence[float] = AREA_LIMITS
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
    small, medium, largest = area_limits
    ranges = dict(zip(AREAS, [(0, largest), (0, small), (small, medium), (medium, largest)]))
    precision = np.full((len(KINDS), len(RECALLS), count, len(AREAS)), np.nan)
    found = _curves(data, (0.1, 0.5, 0.75), ranges)
    precision[:3] = found[::-1]
    truth, label = data.truth, data.truth.label
    for k in progress(range(count), 'curves'):
        own = replace(data, num_classes=1, found=data.found.select(data.found.label == k))
        own.found.label[:] = 0
        for i, excused in ((3, similar[k]), (4, np.ones(count, bool))):
            # others become crowds of this class: detections on them count neither way
            marked = truth.select((label == k) | excused[label])
            marked.crowd |= marked.label != k
            marked.label[:] = 0
            precision[i, :, k] = _curves(replace(own, truth=marked), (0.1,), ranges)[0, :, 0]
    objects = np.zeros((count, len(AREAS)), np.int64)
    for a, (least, most) in enumerate(ranges.values()):
        counted = ~truth.crowd & (truth.area >= least) & (truth.area <= most)
        objects[:, a] = np.bincount(label[counted], minlength=count)
    unknown = np.isnan(precision[4])
    precision[5] = np.where(unknown, np.nan, precision[4] > 0)
    precision[6] = np.where(unknown, np.nan, 1.0)
    order = np.argsort(-objects[:, 0], kind='stable')
    names = [str(categories[k]['name']) for k in order]
    for name, number in Counter(names).items():
        if number > 1:
            raise DataError(f'two categories of the annotations are named {name!r}.')
    return ErrorCurves(names, objects[order], precision[:, :, order])


def _curves(
    data: CocoData, iou_thrs: Sequence[float], areas: dict[str, tuple[float, float]]
) -> np.ndarray:
    """Precision (T, 101, K, A), NaN where nothing is annotated."""
    precision = Evaluation(data, np.array(iou_thrs), (100,), areas).precision[..., 0]
    return np.where(precision < 0, np.nan, precision)


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


def plot_objects(data: CocoData, objects: np.ndarray) -> Figure:
    """How many objects of each size there are, and a histogram of sizes.

    Args:
        data: what was annotated.
        objects: (K, 4) of :class:`ErrorCurves`.
    """
    figure = Figure(figsize=(11, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.bar_label(left.bar(AREAS, objects.sum(axis=0)))
    left.set(ylabel='annotated objects', title='by size')
    right.hist(np.sqrt(data.truth.area[~data.truth.crowd]), bins=100)
    right.set(xlabel='square root of the area, pixels', ylabel='annotated objects')
    return figure
