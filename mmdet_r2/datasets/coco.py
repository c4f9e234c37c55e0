"""Images with instances in COCO's JSON format (https://cocodataset.org/#format-data)."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch.utils.data import get_worker_info

from mmdet_r2.datasets.coco_json import (
    CocoFile,
    CocoImage,
    Id,
    no_garbage_collection,
    parse_coco,
    read_content,
)
from mmdet_r2.datasets.metainfo import (
    COCO_METAINFO,
    check_metainfo,
    check_palette,
    palette_for,
)
from mmdet_r2.datasets.proposals import add_proposals
from mmdet_r2.datasets.transforms import LoadAnnotations, LoadImageFromFile, UnreadableImageError
from mmdet_r2.errors import ConfigError, DataError, did_you_mean
from mmdet_r2.registry import DATASETS, SCOPE

_FILTERS = {'filter_empty_gt', 'filter_crowd_only', 'min_size'}
#: Which transform gives what others need.
_GIVEN_BY: dict[Any, str] = {
    **dict.fromkeys(('img', 'img_shape', 'ori_shape'), 'LoadImageFromFile'),
    **dict.fromkeys(('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'), 'LoadAnnotations'),
    **dict.fromkeys(('gt_masks', 'gt_seg_map'), 'LoadAnnotations'),
}


@DATASETS.register_module()
class CocoDataset(BaseDataset):
    """Images and instances of one COCO annotation file, with mmdetection 3.x's rules.

    **Classes are mapped by name**: label i is ``metainfo['classes'][i]``, in whatever order and
    with whatever ids the file lists its categories. A class that the file does not have is an error
    (``allow_missing_classes`` accepts it: it keeps its label and has no instances); categories of
    the file that are not among the classes are left out.

    **Annotations**: ``ignore`` set, no box of four numbers, a side below one pixel, or no overlap
    with the image: skipped. ``iscrowd`` becomes ``ignore_flag``. Boxes that stick out of the image
    are kept as they are (``Resize`` clips them). All rules, of ids too, are those of
    :mod:`mmdet_r2.datasets.coco_json`, as in evaluation. What was skipped is counted and printed
    once, with the first of each kind. ``nothing_to_learn`` says why there is no object at all (all
    skipped, crowds, of other classes, or without the mask that the pipeline loads), '' if there is;
    training on nothing else is an error.

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
        proposal_file: proposals for ``LoadProposals`` (see :mod:`mmdet_r2.datasets.proposals`);
            relative to ``data_root``.

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
        proposal_file: str | None = None,
    ) -> None:
        self.proposal_file = proposal_file
        self.seg_map_suffix = seg_map_suffix
        self.backend_args = backend_args
        self.allow_missing_classes = allow_missing_classes
        self.max_unreadable = max_unreadable
        self.nothing_to_learn = ''
        # Category id of each label, None: not in the file.
        self.cat_ids: list[Id | None] = []
        self.cat2label: dict[Id, int] = {}
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
        if metainfo is not None:
            check_metainfo(metainfo)
        loaded = super()._load_metainfo(metainfo)
        given = set(metainfo or ())
        loaded['classes'] = _checked_classes(loaded['classes'])
        if 'classes' in given and 'palette' not in given:
            loaded['palette'] = palette_for(loaded['classes'])
        if loaded.get('palette') is not None:
            check_palette(loaded['palette'], loaded['classes'])
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
        with no_garbage_collection():
            coco = self._parse(self._read_json())
            coco.raise_error()
            self._map_classes(coco.categories)
            self._tally = Tally(self._NOUN, coco.num_annotations, coco.report())
            images = [self._parse_image(image) for image in coco.images]
            if self.proposal_file:
                path = os.path.join(self.data_root or '', self.proposal_file)
                add_proposals(images, path, self.backend_args)
            return images

    def _parse(self, content: dict) -> CocoFile:
        return parse_coco(content, self._called)

    def _read_json(self) -> dict:
        if not self.ann_file:
            raise DataError('CocoDataset needs ann_file')
        root = self.data_root
        if root and _is_local(root, self.backend_args) and not os.path.isdir(root):
            raise DataError(f'data_root {root} does not exist (seen from {os.getcwd()})')
        needed = ['images', 'categories'] + ([] if self.test_mode else ['annotations'])
        return read_content(
            self.ann_file,
            self.backend_args,
            needed,
            'annotation file (data_root + ann_file)',
        )

    def _map_classes(self, categories: list[dict]) -> None:
        """Fill ``cat_ids`` and ``cat2label`` by name; differences are errors."""
        ids: dict[str, Id] = {category['name']: category['id'] for category in categories}
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

    def _parse_image(self, image: CocoImage) -> dict:
        name, seg_map_path = image.file_name, None
        if self.data_prefix.get('seg'):
            seg_map_path = self._map_path(name.rsplit('.', 1)[0] + self.seg_map_suffix)
        return dict(
            img_path=os.path.join(self.data_prefix['img'], name),
            img_id=image.id,
            seg_map_path=seg_map_path,
            height=image.height,
            width=image.width,
            instances=self._instances(image.objects),
        )

    def _map_path(self, name: str) -> str:
        return os.path.join(self.data_prefix['seg'], name)

    def _instances(self, objects: list[dict]) -> list[dict]:
        tally, labels, instances = self._tally, self.cat2label, []
        for annotation in objects:
            label = labels.get(annotation['category_id'])
            if label is None:
                tally.of_other_classes += 1
                continue
            x, y, w, h = annotation['bbox']
            crowd = 1 if annotation.get('iscrowd') else 0
            instance: dict = dict(bbox=[x, y, x + w, y + h], bbox_label=label, ignore_flag=crowd)
            if mask := annotation.get('segmentation'):
                instance['mask'] = mask
            else:
                tally.without_mask += 1
            tally.crowds += crowd
            tally.per_class[label] += 1
            instances.append(instance)
        return instances

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
        if reason := self._nothing_to_learn(kept):
            self.nothing_to_learn = f'{self._called}: {reason} ({report})'
            print_log(
                f'{self._called}: nothing can be {"measured" if self.test_mode else "learnt"}: '
                f'{reason}',
                logger='current',
                level=logging.WARNING,
            )
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

    def _nothing_to_learn(self, images: list[dict]) -> str:
        """Why there is no object to be learnt, or to be measured; '' if there is."""
        instances = [i for info in images for i in info['instances'] if not i['ignore_flag']]
        if not instances:
            if not self._tally.num_annotations:
                return f'there are no {self._NOUN}'
            return f'none of its {self._NOUN} is sound, of one of the classes and no crowd'
        readers = [t for t in self.pipeline.transforms if isinstance(t, LoadAnnotations)]
        reader = next((t for t in readers if t.with_mask), None)
        if self.test_mode or reader is None:
            return ''
        # of run lengths no polygons are made
        kinds = (list, dict) if reader.poly2mask else list
        if any(isinstance(instance.get('mask'), kinds) for instance in instances):
            return ''
        return f'none of its {self._NOUN} has a mask that LoadAnnotations can use'

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
        if not self.test_mode and self.unreadable[idx]:
            return None
        try:
            _no_threads_in_workers()
            return super().prepare_data(idx)
        except KeyError as error:
            before = _GIVEN_BY.get(error.args[0] if error.args else None)
            if before is None:  # no fault of the order of transforms
                raise
            raise ConfigError(
                f'{self._called}: a transform of its pipeline needs {error}: put {before} before it'
            ) from None
        except UnreadableImageError as error:
            if self.test_mode:
                raise
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


@dataclass
class Tally:
    """Counts of what an annotation file contained, for the report.

    Args:
        noun: what the annotations are.
        num_annotations: in the file.
        lines: what was left out or mended while reading.
    """

    noun: str
    num_annotations: int
    lines: list[str]
    crowds: int = 0
    without_mask: int = 0
    of_other_classes: int = 0
    per_class: Counter[int] = field(default_factory=Counter)

    def report(self) -> list[str]:
        """Parts of the sentence."""
        objects = self.per_class.total()
        parts = [f'{objects} {self.noun}, {self.crowds} of them crowds', *self.lines]
        if self.of_other_classes:
            parts.append(f'{self.of_other_classes} of other classes left out')
        if 0 < self.without_mask < objects:  # none at all is a box data set
            parts.append(
                f'{self.without_mask} without a usable segmentation, ignored where masks are loaded'
            )
        return parts


def listing(names: Sequence[str] | Mapping[str, Any], most: int = 12) -> str:
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
