"""COCO's panoptic format, one JSON file and a folder of PNG images: read, checked, written; and the
panoptic quality of a set of such files.
"""

import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from mmdet_r2.datasets.coco_json import (
    as_id,
    image_ids,
    panoptic_categories,
    panoptic_segments,
    read_content,
)
from mmdet_r2.datasets.transforms.panoptic import index_segments, read_segment_ids
from mmdet_r2.errors import DataError
from mmdet_r2.files import write_image
from mmdet_r2.structures.panoptic import ids_to_rgb

from .panoptic_quality import ImageCounts, PanopticMap, compare, quality, same_size


@dataclass
class PanopticFile:
    """A panoptic JSON file with the folder of its PNG images.

    Attributes:
        path: of the JSON file.
        folder: of the images.
        annotations: for each image id ``file_name``, ``segments_info`` and, where there are any,
            ``void_ids`` (of segments to be taken for unlabelled), in the file's order.
        categories: for each category id ``name`` and ``isthing``; empty in a file of results that
            does not list them.
        images: ids of all images listed under ``images``.
        written_images, written_categories: ids as the file writes them; all others are in normal
            form (:mod:`mmdet_r2.datasets.coco_json`).
    """

    path: str
    folder: str
    annotations: dict[int | str, dict]
    categories: dict[int, dict]
    images: list[int | str]
    backend_args: dict | None = None
    written_images: Mapping[Any, Any] = field(default_factory=dict)
    written_categories: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def isthing(self) -> dict[int, bool]:
        """Which categories are things."""
        return {number: bool(c['isthing']) for number, c in self.categories.items()}

    def as_written(self, record: dict) -> dict:
        """A record of the results file, or a category, with ids as this file writes them."""
        categories = self.written_categories
        if 'id' in record:
            return record | dict(id=categories.get(record['id'], record['id']))
        segments = [
            s | dict(category_id=categories.get(s['category_id'], s['category_id']))
            for s in record['segments_info']
        ]
        image_id = self.written_images.get(record['image_id'], record['image_id'])
        return record | dict(image_id=image_id, segments_info=segments)

    def map_of(self, image_id: int | str, categories: Mapping[int, Any]) -> PanopticMap:
        """Read the segments of one image.

        Args:
            image_id: of an image in ``annotations``.
            categories: the known category ids.

        Raises:
            DataError: the PNG is missing or of another kind; it and the JSON file disagree.
        """
        annotation = self.annotations[image_id]
        path = os.path.join(self.folder, annotation['file_name'])
        where = f'{self.path}: image {image_id}'
        records = annotation['segments_info']
        listed = [record['id'] for record in records]
        for record in records:
            if record['category_id'] not in categories:
                raise DataError(
                    f'{where}: segment {record["id"]} has category_id {record["category_id"]!r}, '
                    'which is not among the categories'
                )
        void = list(annotation.get('void_ids', ()))
        index = index_segments(
            read_segment_ids(path, backend_args=self.backend_args), [*listed, *void], path
        )
        if void:
            index[index > len(listed)] = 0
        return PanopticMap(
            index=index,
            categories=np.array([r['category_id'] for r in records], np.int64),
            crowd=np.array([bool(r.get('iscrowd', 0)) for r in records], bool),
        )

    def truth_of(self, image_id: int | str, categories: Mapping[int, Any]) -> PanopticMap:
        """Read one image's annotation: :meth:`map_of` with the areas that the file states, if
        it states all.
        """
        truth = self.map_of(image_id, categories)
        records = self.annotations[image_id]['segments_info']
        areas = [record.get('area') for record in records]
        if None in areas:
            return truth
        for record, area in zip(records, areas):
            if isinstance(area, bool) or not isinstance(area, int | float) or not area > 0:
                raise DataError(
                    f'{self.path}: image {image_id}: segment {record["id"]} has area {area!r}; '
                    'expected its number of pixels'
                )
        truth.areas = np.array(areas, np.int64)
        return truth


def read_panoptic(
    path: str,
    folder: str | None = None,
    backend_args: dict | None = None,
    *,
    need_categories: bool = True,
) -> PanopticFile:
    """Read a panoptic JSON file, no image yet.

    Args:
        path: of the JSON file.
        folder: of its images; by default the path without ``.json``, as COCO has it.
        backend_args: how mmengine reads both.
        need_categories: whether a file without categories is an error.

    Raises:
        DataError: a file or folder is missing, or not in COCO's panoptic format.
    """
    path = str(path)
    data = read_content(path, backend_args, (), 'panoptic annotation file')
    if need_categories:
        categories = panoptic_categories(data, path)
        if not categories:
            raise DataError(f"{path}: not a COCO panoptic file: it has no 'categories'")
    else:
        categories = {}
    annotations: dict[int | str, dict] = {}
    for annotation in data['annotations']:
        found = panoptic_segments(annotation, path, categories if need_categories else None)
        if found.image_id in annotations:
            raise DataError(f'{path}: two annotations have the image_id {found.image_id!r}')
        if found.problems:
            number, _, message = found.problems[0]
            print_log(
                f'{path}: {len(found.problems)} segments of image {found.image_id!r} are taken '
                f'for unlabelled: segment {number}: {message}',
                'current',
                level=logging.WARNING,
            )
        annotations[found.image_id] = annotation | dict(
            segments_info=found.segments,
            void_ids=[*annotation.get('void_ids', ()), *(n for n, *_ in found.problems)],
        )
    folder = os.path.splitext(path)[0] if folder is None else str(folder)
    local = '://' not in folder and (backend_args or {}).get('backend', 'local') == 'local'
    if annotations and local and not os.path.isdir(folder):
        raise DataError(f'{folder}: no such folder; expected the PNG images of {path} in it')
    images = image_ids(data, path) if data.get('images') else list(annotations)
    written_images = {as_id(i['id']): i['id'] for i in data.get('images') or ()}
    written_categories = {}
    if need_categories:
        written_categories = {as_id(c['id']): c['id'] for c in data['categories']}
    return PanopticFile(
        path,
        folder,
        annotations,
        categories,
        images,
        backend_args,
        written_images,
        written_categories,
    )


def write_ids(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write ids (H, W) from 0 to ``MAX_ID`` as a panoptic PNG, all or nothing."""
    write_image(path, ids_to_rgb(ids))


def evaluate_panoptic_files(
    gt_json_file: str,
    pred_json_file: str,
    gt_folder: str | None = None,
    pred_folder: str | None = None,
    *,
    nproc: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Panoptic quality of written results: a JSON file and a folder of PNG images.

    Args:
        gt_json_file: COCO panoptic annotations.
        pred_json_file: results in the same format; each of the annotated images must be there.
        gt_folder, pred_folder: of the PNG images; by default the JSON file's name without
            ``.json``.
        nproc: processes, at most one for each core that this process may use (the default).

    Returns:
        As :func:`mmdet_r2.evaluation.panoptic_quality.quality`, the same for any ``nproc``.

    Raises:
        DataError: a file is missing or in another format, PNG and JSON disagree, an image has no
            prediction.
    """
    truth = read_panoptic(gt_json_file, gt_folder)
    found = read_panoptic(pred_json_file, pred_folder, need_categories=False)
    absent = [i for i in truth.annotations if i not in found.annotations]
    if absent:
        raise DataError(
            f'{pred_json_file}: no prediction for {len(absent)} of {len(truth.annotations)} '
            f'images of {gt_json_file}, the first with id {absent[0]!r}'
        )
    ids = list(truth.annotations)
    work = partial(_compare_files, truth.categories, truth.backend_args)
    pairs = [(_only(truth, image_id), _only(found, image_id), image_id) for image_id in ids]
    return quality(_in_parallel(work, pairs, nproc), truth.isthing)


def _only(file: PanopticFile, image_id: int | str) -> tuple[str, str, dict]:
    """What another process needs to know of one image."""
    return file.path, file.folder, file.annotations[image_id]


def _compare_files(
    categories: dict[int, dict],
    backend_args: dict | None,
    pair: tuple[tuple[str, str, dict], tuple[str, str, dict], int | str],
) -> ImageCounts:
    truth, found, image_id = pair
    files = [
        PanopticFile(path, folder, {image_id: annotation}, {}, [], backend_args)
        for path, folder, annotation in (truth, found)
    ]
    true_map = files[0].truth_of(image_id, categories)
    found_map = files[1].map_of(image_id, categories)
    names = [os.path.join(file.folder, file.annotations[image_id]['file_name']) for file in files]
    same_size(true_map.index, found_map.index, *names)
    return compare(true_map, found_map)


def _in_parallel(work: Any, items: Sequence[Any], nproc: int | None) -> list[Any]:
    """``work`` of every item, in order, by at most ``nproc`` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    number = min(nproc or cores or 1, cores or 1, len(items) // 4)
    if number <= 1:
        return [work(item) for item in items]
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('fork' if 'fork' in methods else 'spawn')
    # OpenCV's threads would fight the other processes for the cores
    with ProcessPoolExecutor(number, context, cv2.setNumThreads, (0,)) as pool:
        return list(pool.map(work, items, chunksize=max(1, min(32, len(items) // (4 * number)))))
