"""Images with instances in COCO's JSON format (https://cocodataset.org/#format-data)."""

import contextlib
import gc
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import torch
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch.utils.data import get_worker_info

from mmdet_r2.datasets.coco_annotations import (
    MALFORMED,
    Tally,
    annotation_problem,
    is_id,
    is_size,
    plausible_mask,
)
from mmdet_r2.datasets.metainfo import COCO_METAINFO, palette_for
from mmdet_r2.datasets.transforms import LoadAnnotations, LoadImageFromFile, UnreadableImageError
from mmdet_r2.datasets.transforms.loading import usable_mask
from mmdet_r2.errors import ConfigError, DataError, did_you_mean
from mmdet_r2.registry import DATASETS, SCOPE

_FILTERS = {'filter_empty_gt', 'filter_crowd_only', 'min_size'}


@DATASETS.register_module()
class CocoDataset(BaseDataset):
    """Images and instances of one COCO annotation file, with mmdetection 3.x's rules.

    **Classes are mapped by name**: label i is ``metainfo['classes'][i]``, in whatever order and
    with whatever ids the file lists its categories. A class that the file does not have is an error
    (``allow_missing_classes`` accepts it: it keeps its label and has no instances); categories of
    the file that are not among the classes are left out.

    **Annotations**: ``ignore`` set, area <= 0, a side below one pixel, or no overlap with the
    image: skipped. ``iscrowd`` becomes ``ignore_flag``. Boxes that stick out of the image are kept
    as they are (``Resize`` clips them). Numbers that are not finite and annotations without a box
    are skipped too. What was skipped is counted and printed once, with the first ids.

    **Images** (training only): ``filter_cfg.filter_empty_gt`` drops those without an instance (a
    crowd counts as one), ``filter_cfg.filter_crowd_only`` those with nothing but crowds (as
    detectron2 does), ``filter_cfg.min_size`` those whose shorter side is below it. mmdetection
    keeps images whose annotations are all invalid; they would teach that nothing is there.

    **Unreadable images**: training replaces one by another, random image, reports each file once
    and stops when there are more than ``max_unreadable``. With ``test_mode`` the first is an error,
    since a result without it would be wrong.

    Args:
        ann_file: the JSON file; relative to ``data_root``.
        metainfo: ``classes`` (tuple of names, or a text file with one per line) and ``palette``;
            default COCO's 80 classes. Without a palette one is made.
        data_root: folder that ``ann_file`` and ``data_prefix`` are relative to.
        data_prefix: ``img``: folder of the images; ``seg``: folder of the semantic maps.
        filter_cfg: ``filter_empty_gt``, ``filter_crowd_only`` (bool, default False) and
            ``min_size`` (pixels, default 0).
        indices: use only the first (or, negative, last) this many images, or these.
        serialize_data: keep annotations as bytes that worker processes share.
        pipeline: transforms.
        test_mode: evaluation: keep every image, tolerate no unreadable one, need no annotations.
        lazy_init: read the annotation file on first use.
        max_refetch: how often in a row another image is tried where a transform returns None.
        seg_map_suffix: of the semantic maps, whose other name is the image's.
        backend_args: where to read the annotation file from, as mmengine's file back-ends take it.
        allow_missing_classes: accept classes that the file has no category for.
        max_unreadable: files, or a fraction of the images if a float. None: 10, or 0.1 % of the
            images where that is more; for fewer than 100 images a tenth of them, at least one.

    Raises:
        DataError: the file, a key in it, or a folder is not what it should be.
        ConfigError: ``classes`` is not a list of different names, or an unknown filter is set.
    """

    METAINFO: dict = COCO_METAINFO
    _NOUN = 'objects'

    def __init__(
        self,
        ann_file: str = '',
        metainfo: Mapping | None = None,
        data_root: str | None = '',
        data_prefix: Mapping[str, str] = dict(img=''),
        filter_cfg: Mapping | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        seg_map_suffix: str = '.png',
        backend_args: dict | None = None,
        allow_missing_classes: bool = False,
        max_unreadable: int | float | None = None,
    ) -> None:
        self.seg_map_suffix = seg_map_suffix
        self.backend_args = backend_args
        self.allow_missing_classes = allow_missing_classes
        self.max_unreadable = max_unreadable
        # Category id of each label, None: not in the file.
        self.cat_ids: list[int | str | None] = []
        self.cat2label: dict[int | str, int] = {}
        if unknown := set(filter_cfg or ()) - _FILTERS:
            raise ConfigError(
                f'filter_cfg has the unknown key {min(unknown)!r}, '
                f'expected {", ".join(sorted(_FILTERS))}'
            )
        if 'img' not in data_prefix:
            raise ConfigError(f"data_prefix is {dict(data_prefix)}, expected dict(img='...')")
        # The transforms are ours whatever the default scope is (none without a Runner), and so is
        # the Resize that mmcv's RandomResize builds by name.
        with DefaultScope.overwrite_default_scope(SCOPE):
            super().__init__(
                ann_file=ann_file,
                metainfo=metainfo,
                data_root=data_root,
                data_prefix=dict(data_prefix),
                filter_cfg=filter_cfg,
                indices=indices,
                serialize_data=serialize_data,
                pipeline=list(pipeline),
                test_mode=test_mode,
                lazy_init=lazy_init,
                max_refetch=max_refetch,
            )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        if metainfo is not None and not isinstance(metainfo, Mapping):
            raise ConfigError(f'metainfo is {metainfo!r}, expected dict(classes=(...))')
        loaded = super()._load_metainfo(metainfo)
        given = set(metainfo or ())
        loaded['classes'] = _checked_classes(loaded['classes'])
        if 'classes' in given and 'palette' not in given:
            loaded['palette'] = palette_for(loaded['classes'])
        return loaded

    # ---------------------------------------------------------------- reading the annotation file

    def full_init(self) -> None:
        """Read the annotation file, filter, and keep what is left as bytes; once."""
        if self._fully_initialized:
            return
        super().full_init()
        self._reset_unreadable()
        self._check_image_folder()

    @property
    def _called(self) -> str:
        """What messages call this data set."""
        return self.ann_file or type(self).__name__

    def load_data_list(self) -> list[dict]:
        """One dict per image of the file: path, id, size and ``instances``."""
        with _no_garbage_collection():
            content = self._read_json()
            self._map_classes(content['categories'])
            annotations = self._annotations_by_image(content.pop('annotations', []))
            self._tally = Tally(self._NOUN)
            data_list = [
                self._parse_image(image, annotations.pop(image['id'], ()))
                for image in self._checked_images(content.pop('images'))
            ]
        self._tally.of_no_image = sum(len(rest) for rest in annotations.values())
        return data_list

    def _read_json(self) -> dict:
        path = self.ann_file
        if not path:
            raise DataError('CocoDataset needs ann_file')
        root = self.data_root
        if root and _is_local(root, self.backend_args) and not os.path.isdir(root):
            raise DataError(f'data_root {root} does not exist (seen from {os.getcwd()})')
        try:
            text = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise DataError(
                f'cannot read annotation file {path} (data_root + ann_file, seen from '
                f'{os.getcwd()}): {error.strerror or error}'
            ) from None
        try:
            content = json.loads(text)
        except ValueError as error:  # also bytes that are not text
            raise DataError(f'annotation file {path} is not valid JSON: {error}') from None
        needed = ['images', 'categories'] + ([] if self.test_mode else ['annotations'])
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        for key in needed:
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise DataError(
                    f'annotation file {path} is not in COCO format: expected an object with lists '
                    f'images, annotations and categories, found {found}, no list {key!r}'
                )
        return content

    def _map_classes(self, categories: list[dict]) -> None:
        """Fill ``cat_ids`` and ``cat2label`` by name; differences are errors."""
        ids: dict[str, int] = {}
        for category in categories:
            sound = isinstance(category, dict) and isinstance(category.get('name'), str)
            if not sound or not is_id(category.get('id')):
                raise DataError(
                    f'{self._called}: category {category} has no id or no name, a text'[:300]
                )
            if category['name'] in ids:
                raise DataError(
                    f'{self._called}: two categories are named {category["name"]!r} '
                    f'(ids {ids[category["name"]]} and {category["id"]})'
                )
            ids[category['name']] = category['id']
        if len(set(ids.values())) < len(ids):
            raise DataError(f'{self._called}: category ids are not unique')
        classes = self._metainfo['classes']
        missing = [name for name in classes if name not in ids]
        if len(missing) == len(classes):
            raise DataError(
                f"{self._called}: none of its categories is among the config's classes; "
                f'metainfo.classes: {listing(classes)}; categories: {listing(ids)}'
            )
        if missing and not self.allow_missing_classes:
            unused = [name for name in ids if name not in classes]
            hints = [f'{name!r}{did_you_mean(name, unused)}' for name in missing[:10]]
            more = f' and {len(missing) - 10} more' if len(missing) > 10 else ''
            raise DataError(
                f'{self._called} has no category for {len(missing)} of the {len(classes)} names '
                f'in metainfo.classes: {", ".join(hints)}{more}; correct the names, or set '
                f'allow_missing_classes=True in the dataset'
            )
        self.cat_ids = [ids.get(name) for name in classes]
        self.cat2label = {ids[name]: i for i, name in enumerate(classes) if name in ids}
        self._other_cat_ids = set(ids.values()) - set(self.cat2label)

    def _annotations_by_image(self, annotations: list[dict]) -> dict[int, list[dict]]:
        by_image: dict[int, list[dict]] = defaultdict(list)
        seen = set()
        for annotation in annotations:
            if not isinstance(annotation, dict) or not is_id(annotation.get('image_id')):
                raise DataError(f'{self._called}: annotation without image_id: {annotation}'[:300])
            by_image[annotation['image_id']].append(annotation)
            number = annotation.get('id')
            if number is not None:
                if not is_id(number):
                    raise DataError(f'{self._called}: annotation id {number!r} is no number'[:300])
                if number in seen:
                    raise DataError(
                        f'{self._called}: annotation id {number} occurs twice; '
                        f'evaluation would keep only one of the two'
                    )
                seen.add(number)
        return by_image

    def _checked_images(self, images: list[dict]) -> Iterator[dict]:
        seen = set()
        for image in images:
            if not isinstance(image, dict):
                raise DataError(
                    f'{self._called}: image {image!r:.200} is no object; '
                    f'expected one with id, file_name, width and height'
                )
            missing = {'id', 'file_name', 'width', 'height'} - set(image)
            if not is_id(image.get('id')):
                missing.add('id')
            if not isinstance(image.get('file_name'), str):
                missing.add('file_name')
            if missing:
                raise DataError(
                    f'{self._called}: image {image.get("file_name", image.get("id"))} has no '
                    f'{" and no ".join(sorted(missing))}'
                )
            if image['id'] in seen:
                raise DataError(f'{self._called}: image id {image["id"]} occurs twice')
            if not is_size(image['width']) or not is_size(image['height']):
                raise DataError(
                    f'{self._called}: image {image["file_name"]} has the size '
                    f'{image["width"]} x {image["height"]}, expected two positive integers'
                )
            seen.add(image['id'])
            yield image

    def _parse_image(self, image: dict, annotations: Sequence[dict]) -> dict:
        name = image['file_name']
        seg_map_path = None
        if self.data_prefix.get('seg'):
            seg_map_path = self._map_path(name.rsplit('.', 1)[0] + self.seg_map_suffix)
        instances = []
        for annotation in annotations:
            instance = self._parse_annotation(annotation, image['width'], image['height'])
            if instance is not None:
                instances.append(instance)
        return dict(
            img_path=os.path.join(self.data_prefix['img'], name),
            img_id=image['id'],
            seg_map_path=seg_map_path,
            height=int(image['height']),
            width=int(image['width']),
            instances=instances,
        )

    def _map_path(self, name: str) -> str:
        return os.path.join(self.data_prefix['seg'], name)

    def _parse_annotation(self, annotation: dict, width: int, height: int) -> dict | None:
        """An instance, or None for an annotation to skip, counted if it is invalid."""
        tally, number = self._tally, annotation.get('id')
        category = annotation.get('category_id')
        label = self.cat2label.get(category) if is_id(category) else None
        if annotation.get('ignore', False) or (is_id(category) and category in self._other_cat_ids):
            return None
        problem = annotation_problem(annotation, width, height) if label is not None else MALFORMED
        if problem or label is None:
            tally.invalid(problem, number)
            return None
        x, y, w, h = annotation['bbox']
        instance: dict = dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=label,
            ignore_flag=1 if annotation.get('iscrowd', False) else 0,
        )
        if mask := annotation.get('segmentation'):
            instance['mask'] = mask
            if not plausible_mask(mask) and usable_mask(mask, height, width) is None:
                tally.bad_mask(number)
        else:
            tally.without_mask += 1
        tally.crowds += instance['ignore_flag']
        tally.per_class[label] += 1
        return instance

    def filter_data(self) -> list[dict]:
        """The images to use, by ``filter_cfg``; prints what was found and what is left."""
        config = dict(self.filter_cfg or {})
        drop_empty = config.get('filter_empty_gt', False) and not self.test_mode
        min_size = 0 if self.test_mode else config.get('min_size', 0)
        drop_crowds = config.get('filter_crowd_only', False) and not self.test_mode
        kept, num_empty, num_crowded, num_small = [], 0, 0, 0
        for info in self.data_list:
            instances = info['instances']
            small = min(info['width'], info['height']) < min_size
            empty = not instances
            crowded = not empty and all(instance['ignore_flag'] for instance in instances)
            num_small += small
            num_empty += empty
            num_crowded += crowded
            if not (small or (empty and drop_empty) or (crowded and drop_crowds)):
                kept.append(info)
        parts = [f'{len(self.data_list)} images']
        if num_empty:
            fate = 'dropped' if drop_empty else 'kept'
            reason = f'filter_cfg.filter_empty_gt={config.get("filter_empty_gt", False)}'
            parts.append(f'{num_empty} without objects: {fate} ({reason})')
            if self.test_mode:
                parts[-1] = f'{num_empty} without objects: kept (test_mode)'
        if num_crowded and drop_crowds:
            parts.append(f'{num_crowded} of crowds only: dropped (filter_cfg.filter_crowd_only)')
        if num_small:
            parts.append(f'{num_small} with a side below {min_size}: dropped (filter_cfg.min_size)')
        report = '; '.join([', '.join(parts), *self._tally.report()])
        print_log(f'{self._called}: {report}', logger='current')
        if not self.test_mode:
            absent = [
                n for i, n in enumerate(self._metainfo['classes']) if not self._tally.per_class[i]
            ]
            if absent:
                print_log(
                    f'{self._called}: no instance of {listing(absent)}: '
                    f'the model cannot learn {"it" if len(absent) == 1 else "them"}',
                    logger='current',
                    level=logging.WARNING,
                )
        del self._tally
        if not kept:
            raise DataError(f'{self._called}: no image left to use ({report})')
        self._check_seg_maps(kept)
        return kept

    def _check_seg_maps(self, images: list[dict]) -> None:
        """A missing map is found at the start, not by a worker after some hours.

        One listing per folder instead of a look at every file: a second for COCO.
        """
        readers = [t for t in self.pipeline.transforms if isinstance(t, LoadAnnotations)]
        reader = next((t for t in readers if t.reads_map), None)
        if reader is None:
            return
        folder = self.data_prefix.get('seg')
        if not folder:
            if self._maps_are_optional():
                return
            asked = '(with_seg=True)' if type(reader) is LoadAnnotations else ''
            raise ConfigError(
                f'{type(reader).__name__}{asked} needs {reader.map_name}s, but the data set of '
                f"{self._called} has data_prefix={self.data_prefix}: add seg='...' with their "
                f'folder'
            )
        # With ``indices`` most images are never loaded.
        if self._indices is not None or not _is_local(folder, self.backend_args):
            return
        if not os.path.isdir(folder):
            raise DataError(
                f'{reader.map_name} folder {folder} does not exist (data_root + data_prefix.seg, '
                f'seen from {os.getcwd()})'
            )
        present: dict[str, set[str]] = {}
        missing = []
        for info in images:
            path = info['seg_map_path']
            where, name = os.path.split(path)
            if where not in present:
                present[where] = set(os.listdir(where)) if os.path.isdir(where) else set()
            if name not in present[where]:
                missing.append(path)
        if missing:
            raise DataError(
                f'{len(missing)} of {len(images)} images of {self._called} have no '
                f'{reader.map_name}: {missing[0]} does not exist; correct data_prefix.seg or '
                f'seg_map_suffix, or make the missing maps'
            )

    def _maps_are_optional(self) -> bool:
        return False

    def _check_image_folder(self) -> None:
        """A wrong image folder is found at the start, not by a worker after some minutes."""
        reads_files = any(isinstance(t, LoadImageFromFile) for t in self.pipeline.transforms)
        folder = self.data_prefix['img']
        if not reads_files or not _is_local(folder, self.backend_args):
            return
        if folder and not os.path.isdir(folder):
            raise DataError(
                f'image folder {folder} does not exist (data_root + data_prefix.img, seen from '
                f'{os.getcwd()})'
            )
        first = [self.get_data_info(i)['img_path'] for i in range(min(5, len(self)))]
        if not any(os.path.exists(path) for path in first):
            raise DataError(
                f'{first[0]} does not exist, nor do the next {len(first) - 1} images of '
                f'{self._called}: data_prefix.img={folder!r} is probably the wrong folder'
            )

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of the instances of one image, as ClassBalancedDataset wants them."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    # ---------------------------------------------------------------- fetching, unreadable images

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only these images (mmengine's meaning of ``indices``)."""
        super().get_subset_(indices)
        self._reset_unreadable()

    def get_subset(self, indices: int | Sequence[int]) -> 'CocoDataset':
        """A copy with only these images (mmengine's meaning of ``indices``)."""
        subset = super().get_subset(indices)
        subset._reset_unreadable()
        return subset

    def _reset_unreadable(self) -> None:
        # One byte per image, in memory that all worker processes share: an image is tried, reported
        # and counted once, whichever worker meets it.
        self.unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def prepare_data(self, idx: int) -> dict | None:
        """The image after the pipeline; None for an unreadable one in training."""
        if self.test_mode:
            _no_threads_in_workers()
            return super().prepare_data(idx)
        if self.unreadable[idx]:
            return None
        try:
            _no_threads_in_workers()
            return super().prepare_data(idx)
        except UnreadableImageError as error:
            self.unreadable[idx] = 1
            count, limit = int(self.unreadable.sum()), self._unreadable_limit()
            if count > limit:
                raise DataError(
                    f'{error}; {count} of {len(self)} images of {self._called} are unreadable so '
                    f'far, more than the {limit} that max_unreadable allows'
                ) from None
            print_log(
                f'{error}; another image takes its place (number {count} of at most {limit})',
                logger='current',
                level=logging.WARNING,
            )
            return None

    def _unreadable_limit(self) -> int:
        total, limit = len(self), self.max_unreadable
        if limit is None:
            limit = max(min(10, total // 10), total // 1000, 1)
        elif isinstance(limit, float):
            limit = int(limit * total)
        return min(limit, total - 1)  # some image must be left to take the place


def listing(names: Sequence[str] | Mapping[str, int], most: int = 12) -> str:
    """'a', 'b', ... and 5 more"""
    names = list(names)
    text = ', '.join(map(repr, names[:most]))
    return text + (f' and {len(names) - most} more' if len(names) > most else '')


def _checked_classes(classes: object) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ConfigError(
            f'metainfo.classes is the string {classes!r}, which is no file with one name per line '
            f'either; for a single class write classes=({classes!r},)'
        )
    if not isinstance(classes, (list, tuple)) or not all(isinstance(c, str) for c in classes):
        raise ConfigError(f'metainfo.classes is {classes!r}, expected a tuple of names')
    if not classes:
        raise ConfigError('metainfo.classes is empty')
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ConfigError(f'metainfo.classes has {listing(twice)} more than once')
    return tuple(classes)


def _is_local(path: str, backend_args: Mapping | None) -> bool:
    return '://' not in path and (backend_args or {}).get('backend', 'local') == 'local'


def _no_threads_in_workers() -> None:
    """OpenCV's thread pool does not survive a fork and would fight the other workers for cores."""
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of new lists make Python's cycle search take longer than reading the file."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
