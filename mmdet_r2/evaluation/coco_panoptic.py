"""COCO's panoptic quality of a model's maps, measured image by image as they come."""

import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from terminaltables import AsciiTable

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import path_inside, plain_name, write_json
from mmdet_r2.registry import METRICS
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET, MAX_ID, check_values, values_of

from .collect import PerImageMetric, dataset_of
from .panoptic_format import PanopticFile, read_panoptic, write_ids
from .panoptic_quality import (
    ImageCounts,
    PanopticMap,
    compare,
    panoptic_table,
    quality,
    same_size,
)

SETS = {'All': '', 'Things': '_th', 'Stuff': '_st'}


@dataclass
class PanopticResult:
    """What is kept of one image: its counts, and its record in the results file."""

    img_id: int | str
    counts: ImageCounts | None = None
    record: dict | None = None
    dataset: int = 0


@METRICS.register_module()
class CocoPanopticMetric(PerImageMetric):
    """COCO panoptic evaluation; constructor and metric names of mmdetection 3.x.

    Every map is compared with its annotation as soon as the model has made it, and only counts are
    kept: nothing is written unless asked for, and processes send each other some hundred bytes per
    image. Numbers equal those that COCO's own evaluation gives for the written files, and come in
    percent: ``PQ SQ RQ`` over all categories, ``PQ_th ...`` over things, ``PQ_st ...`` over stuff;
    -1 where no such category occurs.

    Label i is the class ``dataset_meta['classes'][i]`` and is looked up **by name** among the
    annotation file's categories. Pixels of a class that the file does not have count as unlabelled.
    The images evaluated are those that were processed; if these are not all of the file, a warning
    gives both counts. An image that two processes saw counts once.

    After :meth:`evaluate`, ``report`` on the main process holds under 'PQ' all numbers and those of
    every class, in [0, 1], None where the class does not occur.

    Args:
        ann_file: COCO panoptic annotation file. Without it the ground truth is what data samples
            name (``PackDetInputs.meta_keys``): ``seg_map_path``, ``segments_info`` and, where there
            are any, ``void_ids``, as :class:`CocoPanopticDataset` has them; category ids are then
            the labels, and ``dataset_meta['thing_classes']`` tells things from stuff.
        seg_prefix: folder of the annotation's PNG images; by default ``ann_file`` without
            ``.json``.
        classwise: print a table of all classes.
        format_only: write result files, evaluate nothing; needs ``outfile_prefix``. Of
            ``ann_file`` only the categories are used, if it is given; else ids are the labels.
        outfile_prefix: write ``{prefix}.panoptic.json`` and the folder ``{prefix}.panoptic`` of PNG
            images in COCO's format. Every process writes the images that it has seen.
        nproc: accepted for compatibility: maps are compared while the model works. Written files
            are evaluated in parallel by :func:`evaluate_panoptic_files`.
        file_client_args: not supported any more; use ``backend_args``.
        backend_args: how mmengine reads ``ann_file`` and the PNG images.
        collect_device: accepted for compatibility; results travel over the process group's own
            device.
        prefix: of the metric names, default 'coco_panoptic'.

    Raises:
        ConfigError: ``format_only`` without prefix.
        DataError: the annotation file or folder is missing or no panoptic one.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str | None = None,
        seg_prefix: str | None = None,
        classwise: bool = False,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        nproc: int = 32,
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if file_client_args is not None:
            raise ConfigError(
                'CocoPanopticMetric.file_client_args is gone from mmengine; use backend_args '
                'instead'
            )
        if format_only and outfile_prefix is None:
            raise ConfigError(
                'CocoPanopticMetric.format_only needs outfile_prefix: where to write the results'
            )
        self.ann_file = ann_file
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.report: dict[str, Any] = {}
        self._names: dict[str, int | str] = {}
        self._truth: PanopticFile | None = None
        if ann_file is not None:
            # read before the first image is seen, so that a wrong path costs no inference
            self._truth = read_panoptic(ann_file, seg_prefix, backend_args)

    @property
    def dataset_meta(self) -> dict | None:
        """``classes`` of the data set; setting it compares them with the annotation file's
        categories.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        self._dataset_meta = dataset_meta
        if dataset_meta is not None:
            self._category_ids(warn=True)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Compare the maps of one batch with their annotations; write them if that is asked for.

        Args:
            data_batch: not used.
            data_samples: dicts with ``img_id`` and ``pred_panoptic_seg`` = dict(sem_seg (1, H, W)
                integers: label + object number * 1000, label ``num_classes`` or 255 for none), of
                the image's original size.

        Raises:
            ConfigError: the model makes no panoptic maps, or has labels beyond the classes.
            DataError: an image is not in the annotations; they disagree with their PNG, or have
                another size.
        """
        for sample in self.concerned(data_samples):
            self.results.append(self._image_result(sample))

    def result_names(self) -> set[str]:
        """See :class:`PerImageMetric`."""
        if self.format_only:
            return set()
        return {f'{name}{suffix}' for name in ('PQ', 'SQ', 'RQ') for suffix in SETS.values()}

    def output_files(self) -> list[str]:
        """See :class:`PerImageMetric`; the folder of the maps is beside it."""
        return [] if self.outfile_prefix is None else [f'{self.outfile_prefix}.panoptic.json']

    def known_ids(self) -> Container[Any] | None:
        """See :class:`PerImageMetric`."""
        return None if self._truth is None or self.format_only else self._truth.annotations

    def _image_result(self, sample: dict) -> PanopticResult:
        img_id: Any = sample['img_id']
        if isinstance(img_id, np.generic | torch.Tensor):
            img_id = img_id.item()
        if 'pred_panoptic_seg' not in sample:
            raise ConfigError(
                'CocoPanopticMetric needs panoptic maps, but this model gives no '
                'pred_panoptic_seg; use CocoMetric'
            )
        sem_seg = sample['pred_panoptic_seg']['sem_seg']
        if isinstance(sem_seg, torch.Tensor):
            sem_seg = sem_seg.detach().cpu().numpy()
        sem_seg = sem_seg.reshape(sem_seg.shape[-2:])
        category_ids = self._category_ids()
        values, _ = values_of(sem_seg)
        try:
            check_values(values, len(category_ids))
        except ValueError as error:
            raise ConfigError(f'image {img_id}: {error}') from None
        labels = values % INSTANCE_OFFSET
        categories = np.array([*category_ids, None], object)[np.minimum(labels, len(category_ids))]
        listed = np.array([category is not None for category in categories], bool)
        # from the values of the map to 1, 2, ... of those that are segments
        numbers = np.where(listed, np.cumsum(listed), 0)
        found = PanopticMap(
            index=_translated(sem_seg, values, numbers),
            categories=categories[listed].astype(np.int64),
        )
        result = PanopticResult(img_id, dataset=dataset_of(sample))
        if self.outfile_prefix is not None:
            result.record = self._write(sample, img_id, found)
        if not self.format_only:
            truth, name = self._truth_of(sample, img_id)
            same_size(truth.index, found.index, name, f'the predicted map of image {img_id}')
            result.counts = compare(truth, found)
        return result

    def _truth_of(self, sample: dict, img_id: int | str) -> tuple[PanopticMap, str]:
        """The annotation of one image, and the path of its PNG."""
        if self._truth is not None:
            if img_id not in self._truth.annotations:
                raise DataError(
                    f'{self.ann_file}: no annotation of image {img_id!r}; the data set and '
                    'CocoPanopticMetric.ann_file must use the same annotation file'
                )
            name = self._truth.annotations[img_id]['file_name']
            truth = self._truth.truth_of(img_id, self._truth.categories)
            return truth, os.path.join(self._truth.folder, name)
        path, records = sample.get('seg_map_path'), sample.get('segments_info')
        if path is None or records is None:
            raise ConfigError(
                "CocoPanopticMetric has no ann_file and the data samples have no 'seg_map_path' "
                "and 'segments_info': set ann_file, or add these to the meta_keys of PackDetInputs"
            )
        isthing = self._isthing()
        segments = []
        for record in records:
            label = int(record['category'])
            # the data set has crowds of things as stuff
            crowd = isthing.get(label) and not record.get('is_thing', True)
            segments.append(dict(id=int(record['id']), category_id=label, iscrowd=int(bool(crowd))))
        folder, name = os.path.split(path)
        annotation = dict(
            file_name=name, segments_info=segments, void_ids=sample.get('void_ids', ())
        )
        file = PanopticFile(
            'segments_info of the data samples', folder, {img_id: annotation}, {}, [img_id]
        )
        file.backend_args = self.backend_args
        return file.truth_of(img_id, isthing), path

    def _write(self, sample: dict, img_id: int | str, found: PanopticMap) -> dict:
        """Write one map as PNG; its record for the JSON file.

        Ids are 1, 2, ...: the values of the map may need more than three bytes, and its 0 is a
        class.
        """
        name = None
        if self._truth is not None and img_id in self._truth.annotations:
            name = self._truth.annotations[img_id]['file_name']
        elif sample.get('img_path'):
            name = os.path.basename(sample['img_path'])
        stem = os.path.splitext(name or plain_name(str(img_id)))[0]
        file_name = f'{stem}.png'
        if self._names.setdefault(file_name, img_id) != img_id:  # of another folder
            file_name = f'{stem}_{plain_name(str(img_id))}.png'
        areas = np.bincount(found.index.reshape(-1), minlength=len(found.categories) + 1)[1:]
        write_ids(path_inside(f'{self.outfile_prefix}.panoptic', file_name), found.index)
        isthing = self._isthing()
        return dict(
            image_id=img_id,
            file_name=file_name,
            segments_info=[
                dict(id=number, category_id=category, isthing=int(isthing[category]), area=area)
                for number, (category, area) in enumerate(
                    zip(found.categories.tolist(), areas.tolist()), start=1
                )
            ],
        )

    @staticmethod
    def pack(results: list[PanopticResult]) -> Any:
        """Results as :func:`gather_results` takes them."""
        return _pack(results)

    @staticmethod
    def unpack(packed: Any) -> list[PanopticResult]:
        """The inverse of :meth:`pack`."""
        return _unpack(packed)

    def evaluate(self, size: int) -> dict[str, float]:
        """See :meth:`PerImageMetric.evaluate`."""
        self._names = {}
        return super().evaluate(size)

    def compute_metrics(self, results: list[PanopticResult]) -> dict[str, float]:
        """The numbers of images in any order; of images met twice the first counts.

        Returns:
            ``PQ SQ RQ PQ_th ... RQ_st`` in percent, -1 where no such category occurs. Empty with
            ``format_only``.
        """
        images = self.distinct(results)
        if self.outfile_prefix is not None:
            self._write_json(images)
        self.report = {}
        if self.format_only:
            return {}
        if self._truth is not None and len(images) < len(self._truth.annotations):
            print_log(
                f'evaluating {len(images)} of the {len(self._truth.annotations)} images in '
                f'{self.ann_file}',
                'current',
                level=30,
            )
        counts = [image.counts for image in images if image.counts is not None]
        if images and not any(c.matched or c.wrong for c in counts):
            print_log(f'no segment that counts in any of {len(images)} maps', 'current', level=30)
        found = quality(counts, self._isthing())
        per_class = self._per_class(found['per_class'])
        sets = {
            name.lower(): {k: None if v == -1 else v for k, v in found[name].items()}
            for name in SETS
        }
        self.report['PQ'] = sets | {'per_class': per_class}
        print_log('\n' + panoptic_table(found), 'current')
        if self.classwise:
            print_log('\n' + _class_table(per_class), 'current')
        return {
            f'{key.upper()}{suffix}': -1.0 if found[name]['n'] == 0 else 100 * found[name][key]
            for name, suffix in SETS.items()
            for key in ('pq', 'sq', 'rq')
        }

    def _per_class(self, rows: dict[int, dict]) -> dict[str, dict]:
        """By class name, in the order of labels: PQ, SQ, RQ, num_gt and what they come from."""
        isthing = self._isthing()
        named = {}
        for name, category in zip(self._classes(), self._category_ids()):
            row = dict(pq=None, sq=None, rq=None, tp=0, fp=0, fn=0)
            if category is not None:
                row = rows[category]
            named[name] = dict(
                PQ=row['pq'],
                SQ=row['sq'],
                RQ=row['rq'],
                tp=row['tp'],
                fp=row['fp'],
                fn=row['fn'],
                isthing=None if category is None else isthing[category],
            )
        return named

    def _write_json(self, images: Sequence[PanopticResult]) -> None:
        """The results file, with the annotation file's categories, and its images where known."""
        truth = self._truth
        records = [image.record for image in images if image.record is not None]
        isthing = self._isthing()
        categories = []
        if truth is not None:
            records = [truth.as_written(record) for record in records]
            categories = [truth.as_written(category) for category in truth.categories.values()]
        for label, name in enumerate(self._classes() if truth is None else ()):
            categories.append(dict(id=label, name=name, isthing=int(isthing[label])))
        path = f'{self.outfile_prefix}.panoptic.json'
        write_json(path, dict(annotations=records, categories=categories))
        print_log(f'wrote {len(records)} maps to {path} and the folder {path[:-5]}', 'current')

    def _isthing(self) -> dict[int, bool]:
        """Whether each category is a thing."""
        if self._truth is not None:
            return self._truth.isthing
        classes = self._classes()
        things = (self._dataset_meta or {}).get('thing_classes')
        if things is None and not self.format_only:
            raise ConfigError(
                'CocoPanopticMetric has no ann_file, and dataset_meta no thing_classes: which '
                'classes are things?'
            )
        return {label: name in (things or ()) for label, name in enumerate(classes)}

    def _category_ids(self, warn: bool = False) -> list[int | None]:
        """Category id of every label, looked up by name; None for a class that the annotations do
        not know.
        """
        classes = self._classes()
        if len(classes) >= INSTANCE_OFFSET:
            raise ConfigError(
                f'metainfo.classes has {len(classes)} names; a panoptic map holds fewer than '
                f'{INSTANCE_OFFSET}'
            )
        if self._truth is None:
            return list(range(len(classes)))
        names = [category['name'] for category in self._truth.categories.values()]
        for where, given in (('metainfo.classes', classes), (self.ann_file, names)):
            twice = [name for name, count in Counter(given).items() if count > 1]
            if twice:
                raise DataError(
                    f'{where} names {twice[0]!r} twice: labels cannot be mapped by name'
                )
        by_name = {category['name']: number for number, category in self._truth.categories.items()}
        ids = [by_name.get(name) for name in classes]
        absent = [name for name, category in zip(classes, ids) if category is None]
        if len(absent) == len(classes):
            raise DataError(
                f'{self.ann_file}: none of the classes of the config is in the file; config: '
                f'{", ".join(classes[:10])}; file: {", ".join(names[:10])}'
            )
        if absent and warn:
            print_log(
                f'{self.ann_file} has no category {", ".join(absent[:10])} ({len(absent)} in all): '
                'segments of these classes are not evaluated',
                'current',
                level=30,
            )
        return ids


def _translated(values_map: np.ndarray, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """``values_map`` with each of ``values`` (ascending) replaced by that of ``numbers``."""
    if len(values) and values[-1] <= MAX_ID:
        table = np.zeros(values[-1] + 1, np.int32)
        table[values] = numbers
        return table.take(values_map)
    return numbers[np.searchsorted(values, values_map)]


def _pack(results: Sequence[PanopticResult]) -> list[tuple]:
    """Results as lists and numbers, which travel between processes."""
    return [
        (
            r.img_id,
            None
            if r.counts is None
            else (r.counts.matched, r.counts.ious, r.counts.missed, r.counts.wrong),
            r.record,
            r.dataset,
        )
        for r in results
    ]


def _unpack(packed: Sequence[tuple]) -> list[PanopticResult]:
    return [
        PanopticResult(img_id, None if counts is None else ImageCounts(*counts), record, dataset)
        for img_id, counts, record, dataset in packed
    ]


def _class_table(per_class: dict[str, dict]) -> str:
    rows = [['category', 'PQ', 'SQ', 'RQ', 'matched', 'wrong', 'missed']]
    for name, row in per_class.items():
        cells = ['-' if row[k] is None else f'{100 * row[k]:.3f}' for k in ('PQ', 'SQ', 'RQ')]
        rows.append([name, *cells, str(row['tp']), str(row['fp']), str(row['fn'])])
    return AsciiTable(rows).table
