"""Average precision and recall of boxes by the rules of Pascal VOC."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from terminaltables import AsciiTable

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import METRICS

from .collect import PerImageMetric, dataset_of, meta_of, number_array
from .image_result import (
    ImageResult,
    as_array,
    check_labels,
    detection_arrays,
    finite_detections,
    pack,
    unpack,
)
from .recall import greedy_iou, top_boxes
from .voc_ap import EVAL_MODES, ClassResult, FlatBoxes, evaluate_classes

METRIC_NAMES = ('mAP', 'recall')


@METRICS.register_module()
class VOCMetric(PerImageMetric):
    """Pascal VOC's evaluation of boxes; constructor and metric names of mmdetection 3.x.

    The rule, with a worked example, is in :mod:`mmdet_r2.evaluation.voc_ap`; the numbers are those
    of the official development kit, but for two corner cases: a recall of exactly 0.6 or 0.7 (see
    ``RECALL_LEVELS`` there), and a detection that overlaps a difficult and another object equally,
    which counts for the other one here and for the one written first there. As in the kit, boxes
    are ranges of whole pixels (width x2 - x1 + 1), which is how :class:`VOCDataset` reads them.
    Objects that are ignored in the data set (VOC's difficult ones) are neither asked for nor does a
    detection of them count.

    Ground truth comes with the samples: ``LoadAnnotations`` has to be in the test pipeline, *after*
    ``Resize``, so that boxes stay those of the original image. Any data set will do. An image that
    two processes saw (a padded sampler) counts once.

    A table of all classes is always printed. A class without objects has no AP: it is ``-`` in the
    table, None in ``report``, and not part of the mean. If no class has any, mAP is NaN.

    After :meth:`evaluate`, ``report['mAP']`` on the main process holds ``AP50`` etc. and
    ``per_class``: of every class the AP at each threshold, ``num_gt``, ``num_difficult`` and
    ``num_det``.

    Where mmdetection differs: it rounds ``AP50`` to three digits, calls the AP at 0.57 ``AP56``,
    prints classes without objects as 0.000 and VOC's names for any classes, breaks ties between
    equal scores by chance, and fails on ``scale_ranges`` and ``metric='recall'``.

    Args:
        iou_thrs: overlap (IoU) that a detection needs, or several.
        scale_ranges: (low, high) sides in pixels, for ``mAP_{low}-{high}`` of the objects whose
            area is from low² to below high².
        metric: 'mAP'; 'recall' of the best boxes, whatever their class; or both.
        proposal_nums: detections per image at which 'recall' is measured.
        eval_mode: '11points' (VOC2007's rule) or 'area' (VOC2010's and later).
        collect_device: accepted for compatibility; results travel over the process group's own
            device.
        prefix: of the metric names, default 'pascal_voc'.

    Raises:
        ConfigError: an argument is not one of these.
    """

    default_prefix = 'pascal_voc'
    pack = staticmethod(pack)
    unpack = staticmethod(unpack)

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        scale_ranges: Sequence[tuple[float, float]] | None = None,
        metric: str | Sequence[str] = 'mAP',
        proposal_nums: int | Sequence[int] = (100, 300, 1000),
        eval_mode: str = '11points',
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        several = list(metric) if isinstance(metric, list | tuple) else []
        self.metrics = [metric] if isinstance(metric, str) else several
        if not self.metrics or not all(name in METRIC_NAMES for name in self.metrics):
            raise ConfigError(
                f'VOCMetric.metric is {metric!r}; known are {", ".join(METRIC_NAMES)}'
            )
        if eval_mode not in EVAL_MODES:
            raise ConfigError(
                f'VOCMetric.eval_mode is {eval_mode!r}; known are {", ".join(EVAL_MODES)}'
            )
        thresholds = number_array(iou_thrs, 1)
        if not thresholds.size or not ((thresholds > 0) & (thresholds <= 1)).all():
            raise ConfigError(f'VOCMetric.iou_thrs is {iou_thrs!r}, expected numbers in (0, 1]')
        self.iou_thrs = thresholds.tolist()
        ranges = number_array(scale_ranges, 2) if scale_ranges else np.zeros((0, 2))
        if ranges.shape[1] != 2 or not ((ranges[:, 0] >= 0) & (ranges[:, 0] < ranges[:, 1])).all():
            raise ConfigError(
                f'VOCMetric.scale_ranges is {scale_ranges!r}, expected pairs (low, high)'
            )
        self.scale_ranges = ranges.tolist()
        numbers = number_array(proposal_nums, 1)
        if not numbers.size or not ((numbers >= 1) & (numbers % 1 == 0)).all():
            raise ConfigError(
                f'VOCMetric.proposal_nums is {proposal_nums!r}, expected positive integers'
            )
        self.proposal_nums = [int(number) for number in numbers]
        self.eval_mode = eval_mode
        self.report: dict[str, Any] = {}
        self._warned: set[str] = set()

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections and objects of one batch.

        Args:
            data_batch: not used.
            data_samples: dicts with ``img_id``, ``ori_shape`` (h, w), ``pred_instances`` =
                dict(bboxes (n, 4), scores (n,), labels (n,)), and the objects: ``instances``, or
                ``gt_instances`` and ``ignored_instances`` = dict(bboxes (g, 4), labels (g,)).
                Tensors or arrays; boxes xyxy in pixels of the original image.

        Raises:
            ConfigError: detections or ground truth are missing.
        """
        for sample in self.concerned(data_samples):
            self.results.append(self._image_result(sample))

    def result_names(self) -> set[str]:
        """See :class:`PerImageMetric`."""
        names: set[str] = set()
        if 'mAP' in self.metrics:
            names |= {'mAP', *map(_ap_name, self.iou_thrs)}
            names |= {f'mAP_{low:g}-{high:g}' for low, high in self.scale_ranges}
        if 'recall' in self.metrics:
            names |= {f'recall@{n}@{t:g}' for n in self.proposal_nums for t in self.iou_thrs}
            if len(self.iou_thrs) > 1:
                names |= {f'AR@{n}' for n in self.proposal_nums}
        return names

    def _image_result(self, sample: dict) -> ImageResult:
        if 'pred_instances' not in sample:
            raise ConfigError(
                'VOCMetric needs detections, but this model gives no pred_instances; use another '
                'evaluator'
            )
        img_id, height, width = meta_of(sample)
        arrays = detection_arrays(sample['pred_instances'], f'results of image {img_id!r}')
        result, number = finite_detections(
            ImageResult(
                img_id=img_id,
                height=height,
                width=width,
                instances=_objects(sample),
                dataset=dataset_of(sample),
                bboxes=arrays['bboxes'],
                scores=arrays['scores'],
                labels=arrays['labels'],
            )
        )
        if number:
            self._warn(
                'finite',
                f'image {result.img_id}: {number} detections are NaN or infinite and are left out '
                '(said once; are the weights sound?)',
            )
        if self._dataset_meta is not None:
            _check_all_labels([result], len(self._classes()))
        limits = (width + 1, height + 1) * 2
        if any(c > limit for o in result.instances or () for c, limit in zip(o['bbox'], limits)):
            self._warn(
                'outside',
                f'image {result.img_id} is {width}x{height}, but objects lie outside of it (said '
                'once): are their boxes those of the original image? In test_pipeline '
                'LoadAnnotations has to come after Resize',
            )
        return result

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            print_log(text, 'current', level=30)

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Evaluate the detections of images in any order; of images met twice the first counts.

        Returns:
            ``mAP`` (mean over thresholds), ``AP50`` etc., ``mAP_{low}-{high}``; ``recall@N@T`` and,
            with several thresholds T, their mean ``AR@N``. In [0, 1], NaN where there is no object.
        """
        images = self.distinct(results)
        classes = self._classes()
        _check_all_labels(images, len(classes))
        if not any(len(image.bboxes) for image in images):
            print_log(f'no detection in any of {len(images)} images', 'current', level=30)
        if not any(not o['ignore_flag'] for image in images for o in image.instances or ()):
            print_log(
                f'no object to find in any of {len(images)} images: there is nothing to measure',
                'current',
                level=30,
            )
        self.report = {}
        values: dict[str, float] = {}
        if 'mAP' in self.metrics:
            values |= self._average_precision(images, classes)
        if 'recall' in self.metrics:
            values |= self._recall(images)
        return values

    def _average_precision(
        self, images: list[ImageResult], classes: Sequence[str]
    ) -> dict[str, float]:
        year = (self._dataset_meta or {}).get('dataset_type')
        usual = {'VOC2007': '11points', 'VOC2012': 'area'}.get(year or '', self.eval_mode)
        if usual != self.eval_mode:
            print_log(
                f"eval_mode is '{self.eval_mode}', but {year} is commonly measured by '{usual}'",
                'current',
            )
        found, truth = _flat(images)
        results = evaluate_classes(found, truth, len(classes), self.iou_thrs, self.eval_mode)
        means = [_mean([row.ap for row in rows]) for rows in results]
        values = dict(mAP=_mean(means))
        for threshold, rows, mean in zip(self.iou_thrs, results, means):
            values[_ap_name(threshold)] = mean
            title = f'IoU {threshold:g}, {self.eval_mode}'
            print_log(f'\n{_table(title, classes, rows, mean)}', 'current')
        for low, high in self.scale_ranges:
            of_size = evaluate_classes(
                found, truth, len(classes), self.iou_thrs, self.eval_mode, (low, high)
            )
            name = f'mAP_{low:g}-{high:g}'
            values[name] = _mean([_mean([row.ap for row in rows]) for rows in of_size])
            print_log(
                f'{name} (sides of {low:g} to {high:g} pixels): {values[name]:.3f}', 'current'
            )
        numbers = {_ap_name(t): _or_none(mean) for t, mean in zip(self.iou_thrs, means)}
        per_class = {}
        for i, name in enumerate(classes):
            row = results[0][i]
            per_class[name] = {
                **{_ap_name(t): rows[i].ap for t, rows in zip(self.iou_thrs, results)},
                'num_gt': row.num_gt,
                'num_difficult': row.num_ignored,
                'num_det': row.num_det,
            }
        self.report['mAP'] = {**numbers, 'per_class': per_class}
        return values

    def _recall(self, images: list[ImageResult]) -> dict[str, float]:
        """Share of the objects that the best N boxes of their image overlap; each box is used once,
        the best pair first.
        """
        values: dict[str, float] = {}
        for number in self.proposal_nums:
            best = [np.zeros(0)]
            for image in images:
                objects = [o['bbox'] for o in image.instances or () if not o['ignore_flag']]
                boxes = top_boxes(image, number)
                boxes[:, 2:] += 1  # pixels at both ends included
                truth = [(x1, y1, x2 - x1 + 1, y2 - y1 + 1) for x1, y1, x2, y2 in objects]
                best.append(greedy_iou(boxes, truth))
            overlaps = np.concatenate(best)
            recalls = [
                float(np.mean(overlaps >= t)) if len(overlaps) else float('nan')
                for t in self.iou_thrs
            ]
            values |= {f'recall@{number}@{t:g}': r for t, r in zip(self.iou_thrs, recalls)}
            if len(self.iou_thrs) > 1:
                values[f'AR@{number}'] = float(np.mean(recalls))
        lines = [f'{name}\t{value:.4f}' for name, value in values.items()]
        print_log('\n' + '\n'.join(lines), 'current')
        return values


def _check_all_labels(images: Sequence[ImageResult], number: int) -> None:
    """Raise where a detection or an object is not of one of so many classes."""
    check_labels(images, number)
    for image in images:
        labels = [o['bbox_label'] for o in image.instances or ()]
        if labels and not 0 <= min(labels) <= max(labels) < number:
            raise ConfigError(
                f'image {image.img_id}: an object has a label outside of 0 to {number - 1}, but '
                f'metainfo.classes has {number} names'
            )


def _objects(sample: dict) -> list[dict]:
    """The annotated objects of an image as plain values."""
    if 'instances' in sample:
        return [
            dict(
                bbox=[float(c) for c in instance['bbox']],
                bbox_label=int(instance['bbox_label']),
                ignore_flag=int(instance['ignore_flag']),
            )
            for instance in sample['instances']
        ]
    if 'bboxes' not in (sample.get('gt_instances') or {}):
        raise ConfigError(
            'VOCMetric found no ground truth in the samples: test_pipeline (val_dataloader and '
            "test_dataloader) needs dict(type='LoadAnnotations', with_bbox=True) after Resize"
        )
    objects = []
    for name, ignored in (('gt_instances', 0), ('ignored_instances', 1)):
        part = sample.get(name) or {}
        if 'bboxes' not in part:
            continue
        boxes = as_array(part['bboxes']).reshape(-1, 4).tolist()
        for box, label in zip(boxes, as_array(part['labels']).tolist()):
            objects.append(dict(bbox=box, bbox_label=label, ignore_flag=ignored))
    return objects


def _flat(images: Sequence[ImageResult]) -> tuple[FlatBoxes, FlatBoxes]:
    """Detections and objects of all images."""
    counts = [len(image.bboxes) for image in images]
    found = FlatBoxes(
        images=np.arange(len(images)).repeat(counts),
        labels=np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)]),
        boxes=np.concatenate([np.zeros((0, 4)), *(image.bboxes for image in images)]),
        scores=np.concatenate([np.zeros(0), *(image.scores for image in images)]),
    )
    objects = [(i, o) for i, image in enumerate(images) for o in image.instances or ()]
    truth = FlatBoxes(
        images=np.array([i for i, _ in objects], np.int64),
        labels=np.array([o['bbox_label'] for _, o in objects], np.int64),
        boxes=np.array([o['bbox'] for _, o in objects], float).reshape(-1, 4),
        ignored=np.array([o['ignore_flag'] for _, o in objects], bool),
    )
    return found, truth


def _ap_name(threshold: float) -> str:
    """AP50, AP57, AP62.5"""
    return f'AP{threshold * 100:g}'


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float('nan')


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _table(title: str, classes: Sequence[str], rows: Sequence[ClassResult], mean: float) -> str:
    lines = [['class', 'objects', 'difficult', 'detections', 'recall', 'AP']]
    for name, row in zip(classes, rows):
        shares = ['-' if value is None else f'{value:.3f}' for value in (row.recall, row.ap)]
        lines.append([name, str(row.num_gt), str(row.num_ignored), str(row.num_det), *shares])
    totals = [str(sum(getattr(row, key) for row in rows)) for key in ('num_gt', 'num_ignored')]
    lines.append(['mAP', *totals, str(sum(row.num_det for row in rows)), '', f'{mean:.3f}'])
    table = AsciiTable(lines, title)
    table.inner_footing_row_border = True
    return table.table
