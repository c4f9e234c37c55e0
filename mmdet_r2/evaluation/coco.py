"""COCO's average precision and recall of boxes, masks and proposals
(https://cocodataset.org/#detection-eval).

hotcoco matches and accumulates (or pycocotools, by ``eval_backend``); here detections become
columns, classes are mapped by name, images of all processes are brought together, and the arrays
become named numbers, a table and JSON files.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmdet_r2.datasets.coco_json import Id, id_order
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import METRICS

from .coco_backends import BACKENDS, IOU_THRS, MAX_DETS, CocoData, Evaluation
from .coco_format import (
    annotated,
    annotations_of,
    check_measurable,
    detected,
    read_annotations,
    write_results,
)
from .coco_numbers import AP_ITEMS, TWELVE, class_table, mean_of, number_of
from .collect import PerImageMetric, dataset_of, meta_of, number_array
from .image_result import (
    ImageResult,
    check_labels,
    detection_arrays,
    finite_detections,
    mask_results,
    pack,
    unpack,
)
from .mistakes import summary, worst_table
from .recall import greedy_iou, top_boxes

UNKNOWN = dict.fromkeys(('precision', 'recall', 'f1', 'score_thr', 'taken_for'))
METRIC_NAMES = ('bbox', 'segm', 'proposal', 'proposal_fast')


@METRICS.register_module()
class CocoMetric(PerImageMetric):
    """COCO evaluation of boxes, masks and proposals; constructor and metric names of mmdetection
    3.x.

    Label i is the class ``dataset_meta['classes'][i]`` and is looked up **by name** among the
    annotation file's categories, whatever their order or ids. The images evaluated are those that
    were processed; if these are not all of the file, a warning gives both counts. An image that two
    processes saw (a padded sampler) counts once.

    AP is measured at 100 detections per image, as COCO defines it; recall as its name says. Without
    ``ann_file`` the ground truth is taken from the data samples' ``instances`` (name it in
    ``PackDetInputs.meta_keys``); object sizes are then those of the mask or box.

    After :meth:`evaluate`, ``report`` on the main process holds for each of bbox, segm the 12 COCO
    numbers, those of every class, precision and recall where F1 is best, the confusion matrix and
    the kinds of mistakes (:mod:`.mistakes`), None where nothing is annotated.

    Args:
        ann_file: COCO annotation file.
        metric: 'bbox', 'segm', 'proposal', 'proposal_fast', or several. 'proposal_fast' is
            recall without object sizes and categories, quick to compute; beside 'proposal' its
            numbers are ``proposal_fast_AR@N``.
        classwise: print a table of all classes and return ``{class}_precision`` of those
            annotated; with several metrics ``{metric}_{class}_precision``, the other being the last
            metric's.
        proposal_nums: detections per image at which 'proposal' measures recall.
        iou_thrs: IoU thresholds; default 0.50, 0.55, ..., 0.95.
        metric_items: which numbers to return: mAP, mAP_50, mAP_75, mAP_s, mAP_m, mAP_l, AR@N,
            AR_s@N, AR_m@N, AR_l@N for any N. Default: the six mAP; for 'proposal' AR at each of
            ``proposal_nums`` and by size at the last.
        format_only: write result files, evaluate nothing; needs ``outfile_prefix``. No
            annotation file is needed: category ids are then the labels.
        outfile_prefix: write ``{prefix}.bbox.json`` and, with masks, ``{prefix}.segm.json`` in
            COCO's result format.
        file_client_args: not supported any more; use ``backend_args``.
        backend_args: how mmengine reads ``ann_file``.
        collect_device: accepted for compatibility; results travel over the process group's own
            device.
        prefix: of the metric names, default 'coco'.
        sort_categories: accepted for compatibility; the mapping by name does not depend on order.
        use_mp_eval: accepted for compatibility; without effect.
        eval_backend: 'hotcoco', or 'pycocotools': the same numbers, slower.

    Raises:
        ConfigError: unknown metric or item; ``format_only`` without prefix.
        DataError: ``ann_file`` is missing or is no COCO file.
    """

    default_prefix = 'coco'
    pack = staticmethod(pack)
    unpack = staticmethod(unpack)

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        sort_categories: bool = False,
        use_mp_eval: bool = False,
        eval_backend: str = 'hotcoco',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = [metric] if isinstance(metric, str) else metric
        if not isinstance(self.metrics, list | tuple) or not self.metrics:
            raise ConfigError(f'CocoMetric.metric is {metric!r}, expected a name or several')
        self.metrics = list(self.metrics)
        for name in self.metrics:
            if name not in METRIC_NAMES:
                raise ConfigError(
                    f'CocoMetric.metric is {name!r}; known are {", ".join(METRIC_NAMES)}'
                )
        if file_client_args is not None:
            raise ConfigError(
                'CocoMetric.file_client_args is gone from mmengine; use backend_args instead'
            )
        if format_only and outfile_prefix is None:
            raise ConfigError(
                'CocoMetric.format_only needs outfile_prefix: where to write the results'
            )
        if eval_backend not in BACKENDS:
            raise ConfigError(
                f'CocoMetric.eval_backend is {eval_backend!r}; known are {", ".join(BACKENDS)}'
            )
        self.eval_backend = eval_backend
        self.classwise = classwise
        numbers = number_array(proposal_nums, 1)
        if not numbers.size or not ((numbers >= 1) & (numbers % 1 == 0)).all():
            raise ConfigError(
                f'CocoMetric.proposal_nums is {proposal_nums!r}, expected positive integers'
            )
        self.proposal_nums = tuple(int(number) for number in numbers)
        self.iou_thrs = IOU_THRS
        if iou_thrs is not None:
            self.iou_thrs = number_array(iou_thrs, 1)
        if not self.iou_thrs.size or not ((self.iou_thrs > 0) & (self.iou_thrs <= 1)).all():
            raise ConfigError(f'CocoMetric.iou_thrs is {iou_thrs!r}, expected numbers in (0, 1]')
        self.metric_items: list[str] | None = None
        if metric_items is not None:
            items = [metric_items] if isinstance(metric_items, str) else metric_items
            if not isinstance(items, list | tuple) or not items:
                raise ConfigError(
                    f'CocoMetric.metric_items is {metric_items!r}, expected a list of names'
                )
            self.metric_items = list(items)
            for item in self.metric_items:
                number_of(item)
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.ann_file = ann_file
        self.report: dict[str, Any] = {}
        self._without_finite_scores: set = set()
        # read before the first image is seen, so that a wrong path costs no inference
        self._annotations = None if ann_file is None else read_annotations(ann_file, backend_args)
        self._known: frozenset | None = None
        if self._annotations is not None:
            self._known = frozenset(image['id'] for image in self._annotations['images'])
            self.left_out = self._annotations['left_out']

    @property
    def dataset_meta(self) -> dict | None:
        """``classes`` of the data set; setting it compares them with the annotation file's
        categories.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        self._dataset_meta = dataset_meta
        if dataset_meta is not None and self._annotations is not None:
            ids = self._category_ids(self._annotations)
            if not self.format_only:
                check_measurable(self._annotations, ids, self.metrics, str(self.ann_file))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of one batch, masks as run lengths.

        Args:
            data_batch: not used.
            data_samples: dicts with ``img_id``, ``ori_shape`` (h, w), ``pred_instances`` =
                dict(bboxes (n, 4), scores (n,), labels (n,), masks (n, h, w) bool or n RLE,
                mask_scores (n,)), tensors or arrays; and ``instances`` without an annotation file.

        Raises:
            ConfigError: masks are to be measured but the model predicts none, or ground truth
                is missing.
        """
        for sample in self.concerned(data_samples):
            self.results.append(self._image_result(sample))

    def result_names(self) -> set[str]:
        """See :class:`PerImageMetric`."""
        if self.format_only:
            return set()
        names: set[str] = set()
        for metric in self.metrics:
            if metric in ('bbox', 'segm'):
                names |= {f'{metric}_{item}' for item in self.metric_items or AP_ITEMS}
                if self.classwise:
                    for name in self._classes():
                        names |= set(self._class_keys(metric, name))
            elif metric == 'proposal':
                names |= set(self._proposal_items())
            else:
                names |= set(self._fast_items().values())
        return names

    def output_files(self) -> list[str]:
        """See :class:`PerImageMetric`."""
        if self.outfile_prefix is None:
            return []
        return [f'{self.outfile_prefix}.{kind}.json' for kind in ('bbox', 'segm')]

    def known_ids(self) -> Container[Any] | None:
        """See :class:`PerImageMetric`."""
        return self._known

    def _class_keys(self, metric: str, name: str) -> list[str]:
        """Names of a class's AP: the plain one is the last metric's, as in mmdetection."""
        keys = [f'{name}_precision']
        return keys if len(self.metrics) == 1 else [f'{metric}_{name}_precision', *keys]

    def _proposal_items(self) -> list[str]:
        last = self.proposal_nums[-1]
        return self.metric_items or [
            *(f'AR@{n}' for n in self.proposal_nums),
            *(f'AR_{size}@{last}' for size in 'sml'),
        ]

    def _fast_items(self) -> dict[int, str]:
        """Names of proposal_fast's numbers, by proposals per image: not those of 'proposal'."""
        before = 'proposal_fast_' if 'proposal' in self.metrics else ''
        return {n: f'{before}AR@{n}' for n in self.proposal_nums}

    def _image_result(self, sample: dict) -> ImageResult:
        if 'pred_instances' not in sample:
            raise ConfigError(
                'CocoMetric needs detections, but this model gives no pred_instances; use another '
                'evaluator'
            )
        img_id, height, width = meta_of(sample)
        _check_known(img_id, self._known, self.ann_file)
        predicted = sample['pred_instances']
        where = f'results of image {img_id!r}'
        arrays = detection_arrays(predicted, where)
        number, masks = len(arrays['labels']), predicted.get('masks')
        if 'segm' in self.metrics and masks is None and number:
            raise ConfigError(
                "metric 'segm' needs masks, but this model predicts boxes only; use 'bbox'"
            )
        if masks is not None:
            masks = mask_results(masks, number, height, width, where)
        instances = None
        if self._annotations is None and 'instances' in sample:
            instances = [_plain(instance) for instance in sample['instances']]
        elif self._annotations is None and not self.format_only:
            raise ConfigError(
                "CocoMetric has no ann_file and the data samples have no 'instances': set "
                "ann_file, or add 'instances' to the "
                'meta_keys of PackDetInputs'
            )
        result = ImageResult(
            img_id=img_id,
            height=height,
            width=width,
            masks=masks,
            instances=instances,
            dataset=dataset_of(sample),
            **arrays,
        )
        if self._dataset_meta is not None:  # at its first image, not after the last
            check_labels([result], len(self._classes()))
        result, number = finite_detections(result)
        if number:
            self._without_finite_scores.add(result.img_id)
            if len(self._without_finite_scores) == 1:
                print_log(
                    f'image {result.img_id}: {number} detections are NaN or '
                    'infinite and are left out '
                    '(said once; are the weights sound?)',
                    'current',
                    level=30,
                )
        return result

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Evaluate (or only write) the detections of images in any order; of images met twice the
        first counts.

        Returns:
            ``bbox_mAP`` etc. in [0, 1], -1 where nothing of that size is annotated. Empty with
            ``format_only``.
        """
        images = self.distinct(results)
        annotations = self._annotations
        if annotations is None:
            annotations = annotations_of(images, self._classes())
        category_ids = self._category_ids(annotations)
        check_labels(images, len(category_ids))
        if self._known is not None and len(images) < len(self._known):
            print_log(
                f'evaluating {len(images)} of the {len(self._known)} images in {self.ann_file}',
                'current',
                level=30,
            )
        if self.outfile_prefix is not None:
            write_results(images, category_ids, self.outfile_prefix, annotations)
        self.report = {}
        if self.format_only:
            return {}
        values: dict[str, float] = {}
        for metric in self.metrics:
            print_log(f'Evaluating {metric}...', 'current')
            if not any(len(image.bboxes) for image in images):
                print_log(f'no detection in any of {len(images)} images', 'current', level=30)
            if metric == 'proposal_fast':
                values |= self._proposal_recall(images, annotations)
            else:
                values |= self._evaluate(metric, images, annotations, category_ids)
        return values

    def _category_ids(self, annotations: dict) -> list[Id | None]:
        """Category id of every label, looked up by name; None for a class that the annotations do
        not know.
        """
        classes = self._classes()
        by_name = {category['name']: category['id'] for category in annotations['categories']}
        for where, names in (
            ('metainfo.classes', classes),
            (self.ann_file, [c['name'] for c in annotations['categories']]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise DataError(
                    f'{where} names {twice[0]!r} twice: labels cannot be mapped by name'
                )
        ids = [by_name.get(name) for name in classes]
        absent = [name for name, category in zip(classes, ids) if category is None]
        if len(absent) == len(classes):
            raise DataError(
                f'{self.ann_file}: none of the classes of the config is in the file; config: '
                f'{_some(classes)}; '
                f'file: {_some(by_name)}'
            )
        # a panoptic data set names them; annotations of instances have things only
        stuff = (self._dataset_meta or {}).get('stuff_classes') or ()
        absent = [name for name in absent if name not in stuff]
        if absent:
            print_log(
                f'{self.ann_file} has no category {_some(absent)}: detections of these classes '
                'are not evaluated',
                'current',
                level=30,
            )
        return ids

    def _evaluate(
        self,
        metric: str,
        images: list[ImageResult],
        annotations: dict,
        category_ids: list[Id | None],
    ) -> dict[str, float]:
        """Numbers of bbox, segm or proposal; prints the table."""
        items = self.metric_items or list(AP_ITEMS)
        max_dets = {*MAX_DETS, *(number_of(item).max_dets for item in items)}
        iou_type = 'segm' if metric == 'segm' else 'bbox'
        # in the order of category ids, as pycocotools sorts them: it decides on last digits
        known = sorted((c for c in category_ids if c is not None), key=id_order)
        place = {category: k for k, category in enumerate(known)}
        labels = np.array([-1 if c is None else place[c] for c in category_ids])
        if metric == 'proposal':
            items = self._proposal_items()
            max_dets = {*self.proposal_nums, *(number_of(item).max_dets for item in items)}
            # proposals have no class, whatever label they carry
            labels[labels < 0] = labels[labels >= 0][0]
        data = CocoData(
            sizes=[(image.height, image.width) for image in images],
            num_classes=len(place),
            truth=annotated(
                annotations,
                {image.img_id: i for i, image in enumerate(images)},
                place,
                iou_type,
            ),
            found=detected(images, labels, iou_type),
            iou_type=iou_type,
        )
        evaluation = Evaluation(
            data.without_classes() if metric == 'proposal' else data,
            self.iou_thrs,
            sorted(max_dets),
            backend=self.eval_backend,
        )
        if metric == 'proposal':
            numbers = [number_of(item) for item in items]
            print_log(
                '\n' + '\n'.join(n.line(evaluation, n.of(evaluation)) for n in numbers), 'current'
            )
            return {item: number.of(evaluation) for item, number in zip(items, numbers)}
        twelve = {name: number.of(evaluation) for name, number in TWELVE.items()}
        lines = [TWELVE[name].line(evaluation, value) for name, value in twelve.items()]
        print_log('\n' + '\n'.join(lines), 'current')
        values = {f'{metric}_{item}': number_of(item).of(evaluation) for item in items}
        per_class = self._per_class(evaluation, labels)
        names = {int(k): name for k, name in zip(labels, self._classes()) if k >= 0}
        more, rows = summary(evaluation, names)
        for name, row in per_class.items():
            row |= rows.get(name, UNKNOWN)
        self.report[metric] = {
            **{name: None if value == -1 else value for name, value in twelve.items()},
            'per_class': per_class,
            **more,
        }
        print_log('\n' + worst_table(per_class), 'current')
        if self.classwise:
            print_log('\n' + class_table(per_class), 'current')
            for name, row in per_class.items():
                if row['AP'] is not None:
                    values |= dict.fromkeys(self._class_keys(metric, name), row['AP'])
        return values

    def _per_class(self, evaluation: Evaluation, labels: np.ndarray) -> dict[str, dict]:
        """For each class AP, AP50, AP75, APs, APm, APl, AR100 (None without such an object) and the
        number of objects, no crowds.
        """
        truth = evaluation.data.truth
        counts = np.bincount(truth.label[~truth.crowd], minlength=len(labels))
        last = list(evaluation.max_dets).index(100)
        precision, recall = evaluation.precision[..., last], evaluation.recall[..., last]
        rows = {}
        stuff = (self._dataset_meta or {}).get('stuff_classes') or ()
        for name, k in zip(self._classes(), labels.tolist()):
            if k < 0 and name in stuff:
                continue
            row: dict[str, Any] = dict.fromkeys(
                ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR100')
            )
            if k >= 0:
                for key in ('AP', 'AP50', 'AP75'):
                    iou = TWELVE[key].iou
                    of = slice(None) if iou is None else np.where(iou == evaluation.iou_thrs)[0]
                    row[key] = mean_of(precision[of][:, :, k, 0])
                for a, key in enumerate(('APs', 'APm', 'APl'), start=1):
                    row[key] = mean_of(precision[:, :, k, a])
                row['AR100'] = mean_of(recall[:, k, 0])
            row = {key: None if value == -1 else value for key, value in row.items()}
            rows[name] = row | {'num_gt': int(counts[k]) if k >= 0 else 0}
        return rows

    def _proposal_recall(self, images: list[ImageResult], annotations: dict) -> dict[str, float]:
        """Recall of boxes at each of ``proposal_nums``, averaged over IoU thresholds; crowds are
        not asked for.

        Objects and proposals are paired greedily by IoU, each used once.
        """
        truth: dict[Any, list] = {image.img_id: [] for image in images}
        for a in annotations['annotations']:
            if a['image_id'] in truth and not a['iscrowd'] and not a.get('ignore', False):
                truth[a['image_id']].append(a['bbox'])
        values = {}
        for number, name in self._fast_items().items():
            best = np.concatenate(
                [greedy_iou(top_boxes(image, number), truth[image.img_id]) for image in images]
                or [np.zeros(0)]
            )
            recall = [
                np.mean(best >= threshold) if len(best) else -1.0 for threshold in self.iou_thrs
            ]
            values[name] = float(np.mean(recall))
        print_log(
            '\n' + '\n'.join(f'{name}\t{value:.4f}' for name, value in values.items()), 'current'
        )
        return values


def _check_known(img_id: Any, known: Container[Any] | None, path: str | None) -> None:
    """Raise where an image is not in the annotation file: when it comes, not after all images."""
    if known is not None and img_id not in known:
        raise DataError(
            f'{path}: has no image with the id {img_id!r}; the data set and CocoMetric.ann_file '
            'must use the same annotation file'
        )


def _some(names: Iterable[str], limit: int = 10) -> str:
    names = list(names)
    more = f', ... ({len(names)} in all)' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _plain(value: Any) -> Any:
    """An instance of the pipeline with numpy values as lists and numbers, so that it can travel."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
