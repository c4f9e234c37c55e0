"""Images annotated with boxes in Pascal VOC's XML files
(http://host.robots.ox.ac.uk/pascal/VOC/).
"""

import difflib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mmcv import transforms as mmcv_transforms
from mmengine import fileio
from mmengine.logging import print_log

from mmdet_r2.datasets.coco import CocoDataset, listing
from mmdet_r2.datasets.image_files import SUFFIXES, read_header
from mmdet_r2.datasets.metainfo import VOC_METAINFO, check_metainfo
from mmdet_r2.datasets.transforms import LoadImageFromFile, RandomCrop, ResizeShortestEdge
from mmdet_r2.datasets.voc_xml import XMLImage, XMLObject, parse_split, parse_xml
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import refuse_special
from mmdet_r2.registry import DATASETS

_MOVES_BOXES = (
    mmcv_transforms.Resize,
    mmcv_transforms.RandomResize,
    mmcv_transforms.RandomChoiceResize,
    mmcv_transforms.RandomFlip,
    RandomCrop,
    ResizeShortestEdge,
)


@DATASETS.register_module()
class XMLDataset(CocoDataset):
    """Boxes from one XML file per image, in a folder laid out as Pascal VOC's, with mmdetection
    3.x's rules::

        VOCdevkit/VOC2007/ImageSets/Main/trainval.txt    names of images, one per line
                         /Annotations/000001.xml
                         /JPEGImages/000001.jpg

    **Boxes**: VOC counts pixels from 1 and includes the last one. As in mmdetection, fractions are
    cut off and 1 is taken from all four numbers: x2 is the *index* of the last pixel, and the width
    of a box is x2 - x1 + 1 pixels. :class:`VOCMetric` measures so, like the official kit, and
    published models have learnt such boxes. (COCO's x + w lies one pixel further; converted files
    are one pixel larger.)

    **Objects**: difficult ones become ``ignore_flag``, and so do those with a side below
    ``filter_cfg.bbox_min_size``. Objects of other names than the classes are left out; a class that
    has no object while a similar name has is an error (``allow_missing_classes`` accepts it).
    Objects with xmax < xmin or outside of the image are skipped, for training also those one pixel
    wide or high. What was left out or skipped is counted and printed once, with the first files.

    **Images** are ``{name}.jpg``; where that does not exist, another image of this name. An image
    whose XML file does not say its size is looked at. All else, such as the treatment of unreadable
    images, is :class:`CocoDataset`'s. There are no masks.

    Args:
        ann_file: the list of names; relative to ``data_root``.
        metainfo: ``classes`` (tuple of names, or a text file with one per line) and ``palette``.
        data_root: folder that ``ann_file`` and ``data_prefix`` are relative to.
        data_prefix: ``sub_data_root``: folder that holds ``ann_subdir`` and ``img_subdir``, such as
            'VOC2007/'; ``seg``: folder of semantic maps.
        filter_cfg: ``filter_empty_gt``, ``min_size`` (as :class:`CocoDataset`'s; difficult objects
            keep an image), ``filter_crowd_only`` (those with nothing but ignored objects), and
            ``bbox_min_size`` (pixels; not with ``test_mode``).
        indices, serialize_data, pipeline, test_mode, lazy_init, max_refetch: as
            :class:`CocoDataset`'s, and so are ``seg_map_suffix``, ``backend_args`` and
            ``max_unreadable``.
        img_subdir: folder of the images below ``sub_data_root``.
        ann_subdir: folder of the XML files below ``sub_data_root``.
        allow_missing_classes: accept classes without an object, whatever other names there are.

    Raises:
        DataError: a file or folder is not what it should be.
        ConfigError: there are no classes, an unknown filter, or the pipeline needs masks.
    """

    METAINFO: dict = {}

    def __init__(
        self,
        ann_file: str = '',
        metainfo: Mapping | None = None,
        data_root: str | None = '',
        data_prefix: Mapping[str, str] = dict(sub_data_root=''),
        filter_cfg: Mapping | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        img_subdir: str = 'JPEGImages',
        ann_subdir: str = 'Annotations',
        seg_map_suffix: str = '.png',
        backend_args: dict | None = None,
        allow_missing_classes: bool = False,
        max_unreadable: int | float | None = None,
    ) -> None:
        filters = dict(filter_cfg or {})
        self.bbox_min_size = filters.pop('bbox_min_size', None)
        if self.bbox_min_size and test_mode:
            raise ConfigError(
                f'{type(self).__name__}: filter_cfg.bbox_min_size with test_mode would measure on '
                f'other objects than there are; remove one of the two'
            )
        prefix = dict(data_prefix)
        self._written = (ann_file, prefix.get('sub_data_root', ''))  # for messages
        prefix.setdefault('sub_data_root', '')
        prefix.setdefault('img', os.path.join(prefix['sub_data_root'], img_subdir))
        prefix.setdefault('ann', os.path.join(prefix['sub_data_root'], ann_subdir))
        self.img_subdir = img_subdir
        self.ann_subdir = ann_subdir
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=prefix,
            filter_cfg=filters,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=pipeline,
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
            seg_map_suffix=seg_map_suffix,
            backend_args=backend_args,
            allow_missing_classes=allow_missing_classes,
            max_unreadable=max_unreadable,
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        check_metainfo(metainfo or {})
        if 'classes' not in {**cls.METAINFO, **(metainfo or {})}:
            raise ConfigError(f"{cls.__name__} needs metainfo=dict(classes=('...', ...))")
        return super()._load_metainfo(metainfo)

    @property
    def sub_data_root(self) -> str:
        """Folder of the images' and the XML files' folders."""
        return self.data_prefix['sub_data_root']

    # ---------------------------------------------------------------- reading

    def full_init(self) -> None:
        """Read all files, filter, and keep what is left as bytes; once."""
        if not self._fully_initialized:
            self._check_pipeline()
        super().full_init()

    def _check_pipeline(self) -> None:
        name = type(self).__name__
        loaded = False
        for transform in self.pipeline.transforms:
            if isinstance(transform, mmcv_transforms.LoadAnnotations):
                loaded = True
                if getattr(transform, 'with_mask', False):
                    raise ConfigError(
                        f'{name} has no masks, but LoadAnnotations(with_mask=True) asks for them: '
                        f'train on boxes, or write the masks to a COCO file (CocoDataset)'
                    )
            elif self.test_mode and loaded and _moves_boxes(transform):
                raise ConfigError(
                    f'{name}: {type(transform).__name__} comes after LoadAnnotations in a pipeline '
                    f'for testing, so that objects would not be measured in the original image: '
                    f'put LoadAnnotations after it'
                )

    def load_data_list(self) -> list[dict]:
        """One dict per image of the split: paths, name, size and ``instances``."""
        split = self._read_split()
        labels = {name: i for i, name in enumerate(self._metainfo['classes'])}
        self.cat_ids = list(labels.values())
        self._tally = _Tally()
        file_names = self._image_names(split)
        data_list = []
        for line, name in split:
            path = os.path.join(self.data_prefix['ann'], f'{name}.xml')
            image = parse_xml(self._read_xml(path, name, line, split), path)
            img_path = os.path.join(self.data_prefix['img'], file_names.get(name, f'{name}.jpg'))
            width, height = image.size or self._size_of(img_path, path)
            info = dict(
                img_path=img_path,
                img_id=name,
                xml_path=path,
                height=height,
                width=width,
                instances=self._instances(image, path, labels, width, height),
            )
            if 'seg' in self.data_prefix:
                info['seg_map_path'] = self._map_path(name + self.seg_map_suffix)
            data_list.append(info)
        self._check_names(len(split))
        return data_list

    def _read_split(self) -> list[tuple[int, str]]:
        path, (ann_file, _) = self.ann_file, self._written
        if not path:
            raise DataError(
                f'{type(self).__name__} needs ann_file, such as ImageSets/Main/test.txt'
            )
        if path.endswith(('.json', '.xml')):
            raise DataError(
                f'ann_file {path}: expected a text file with the names of images; for annotations '
                f'in one JSON file use CocoDataset'
            )
        try:
            if self._is_local(path):
                refuse_special(path, 'ann_file')
            text = fileio.get_text(path, backend_args=self.backend_args)
        except UnicodeDecodeError:
            raise DataError(f'ann_file {path} is not a text file') from None
        except OSError as error:
            hint = self._data_root_hint('ann_file', ann_file)
            raise DataError(
                f'cannot read {path} (data_root + ann_file, seen from {os.getcwd()}): '
                f'{error.strerror or error}{hint}'
            ) from None
        return parse_split(text, path)

    def _data_root_hint(self, key: str, written: str) -> str:
        """What may be wrong with a path that does not exist."""
        root = self.data_root or ''
        if root and not os.path.isabs(written) and os.path.exists(written):
            return f'; {written} exists: {key} is relative to data_root {root}, leave that part out'
        if root and not os.path.isdir(root):
            return f'; data_root {root} does not exist'
        nested = os.path.join(root, 'VOCdevkit', written)
        if root and os.path.exists(nested):
            return f'; {nested} exists: add VOCdevkit to data_root'
        return ''

    def _read_xml(self, path: str, name: str, line: int, split: list[tuple[int, str]]) -> bytes:
        try:
            if self._is_local(path):
                refuse_special(path)
            return fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            reason = error.strerror or str(error)
        folder = self.data_prefix['ann']
        if self._is_local(folder) and not os.path.isdir(folder):
            above = os.path.dirname(os.path.dirname(os.path.dirname(self.ann_file)))
            hint = self._data_root_hint('data_prefix.sub_data_root', self._written[1])
            if not hint and os.path.isdir(os.path.join(above, self.ann_subdir)):
                inside = os.path.relpath(above, self.data_root or '.')
                hint = f"; did you mean data_prefix=dict(sub_data_root='{inside}/')?"
            raise DataError(
                f'folder {folder} of the XML files does not exist (data_root + '
                f'data_prefix.sub_data_root + ann_subdir, seen from {os.getcwd()}){hint}'
            )
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in (*SUFFIXES, '.xml'):
            reason += f'; names have no suffix: write {stem!r}'
        elif self._is_local(folder):
            missing = sum(
                not os.path.isfile(os.path.join(folder, f'{other}.xml')) for _, other in split
            )
            reason += f'; {missing} of {len(split)} names have no XML file'
        raise DataError(f'{self.ann_file}, line {line}: cannot read {path}: {reason}')

    def _is_local(self, path: str) -> bool:
        return '://' not in path and (self.backend_args or {}).get('backend', 'local') == 'local'

    def _image_names(self, split: list[tuple[int, str]]) -> dict[str, str]:
        """Name -> file of the images that are not ``.jpg``."""
        if not self._is_local(self.data_prefix['img']):
            return {}
        found: dict[str, str] = {}
        for inside in sorted({os.path.dirname(name) for _, name in split}):
            folder = os.path.join(self.data_prefix['img'], inside)
            for file_name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                stem, suffix = os.path.splitext(os.path.join(inside, file_name))
                if suffix == '.jpg' or (suffix.lower() in SUFFIXES and stem not in found):
                    found[stem] = stem + suffix
        return {stem: name for stem, name in found.items() if not name.endswith('.jpg')}

    def _size_of(self, img_path: str, xml_path: str) -> tuple[int, int]:
        try:
            with fileio.get_local_path(img_path, backend_args=self.backend_args) as local:
                return read_header(local).size
        except (DataError, OSError) as error:
            raise DataError(f'{xml_path} has no <size>, and {error}') from None

    def _instances(
        self, image: XMLImage, path: str, labels: Mapping[str, int], width: int, height: int
    ) -> list[dict]:
        tally, instances = self._tally, []
        for thing in image.objects:
            label = labels.get(thing.name)
            if label is None:
                tally.other(thing.name, path)
                continue
            # the index of the first and of the last pixel, from 0
            x1, y1, x2, y2 = (int(number) - 1 for number in thing.box)
            if problem := _problem((x1, y1, x2, y2), width, height, self.test_mode):
                tally.invalid(problem, thing, path)
                continue
            small = bool(self.bbox_min_size) and min(x2 - x1, y2 - y1) < self.bbox_min_size
            tally.difficult += thing.difficult
            tally.small += small and not thing.difficult
            tally.per_class[label] += 1
            instances.append(
                dict(
                    bbox=[x1, y1, x2, y2],
                    bbox_label=label,
                    ignore_flag=int(thing.difficult or small),
                )
            )
        return instances

    def _check_names(self, num_images: int) -> None:
        """A class that has no object where a similar name has is a mistake in writing."""
        classes, tally = self._metainfo['classes'], self._tally
        absent = [name for i, name in enumerate(classes) if not tally.per_class[i]]
        if not tally.others or self.allow_missing_classes:
            return
        if len(absent) == len(classes):
            raise DataError(
                f'{self.ann_file}: no object of its {num_images} images is of one of the classes; '
                f'metainfo.classes: {listing(classes)}; names in the XML files: '
                f'{listing(tally.others)}'
            )
        hints = []
        for name in absent:
            if near := _similar(name, tally.others):
                hints.append(f'{name!r} (but {tally.others[near]} are named {near!r})')
        if hints:
            raise DataError(
                f'{self.ann_file}: no object is named {", ".join(hints[:10])}; correct the names '
                f'in metainfo.classes or in the XML files, or set allow_missing_classes=True in '
                f'the dataset'
            )
        for other, count in tally.others.items():
            meant = [name for name in classes if _plain(name) == _plain(other)]
            if meant:
                print_log(
                    f'{self.ann_file}: objects named {other!r} ({count}, the first in '
                    f'{tally.first_of[other]}) are left out; the class is {meant[0]!r}',
                    logger='current',
                    level=logging.WARNING,
                )

    def _check_image_folder(self) -> None:
        """Missing images are all found at the start: one listing instead of a look at every
        file.
        """
        super()._check_image_folder()
        folder = self.data_prefix['img']
        reads_files = any(isinstance(t, LoadImageFromFile) for t in self.pipeline.transforms)
        if not reads_files or not self._is_local(folder):
            return
        present = set(os.listdir(folder))
        missing = []
        for i in range(len(self)):
            path = self.get_data_info(i)['img_path']
            if os.path.relpath(path, folder) not in present and not os.path.exists(path):
                missing.append(path)
        if not missing:
            return
        text = (
            f'{len(missing)} of {len(self)} images of {self.ann_file} do not exist: '
            f'{", ".join(missing[:3])}{", ..." if len(missing) > 3 else ""}'
        )
        if self.test_mode or len(missing) > self._unreadable_limit():
            raise DataError(f'{text}; add them, or remove their names')
        print_log(text, logger='current', level=logging.WARNING)


@DATASETS.register_module()
class VOCDataset(XMLDataset):
    """Pascal VOC 2007 and 2012: :class:`XMLDataset` with VOC's 20 classes.

    ``metainfo['dataset_type']`` is 'VOC2007' or 'VOC2012' where ``data_prefix.sub_data_root``
    contains that, otherwise None; :class:`ConcatDataset` of both does not mind.
    """

    METAINFO: dict = VOC_METAINFO

    def _join_prefix(self) -> None:
        super()._join_prefix()
        years = [year for year in ('VOC2007', 'VOC2012') if year in self.sub_data_root]
        self._metainfo['dataset_type'] = years[0] if years else None


class _Tally:
    """Counts of what the XML files contained, for the report."""

    def __init__(self) -> None:
        self.difficult = 0
        self.small = 0
        self.per_class: Counter[int] = Counter()
        self.others: Counter[str] = Counter()  # names that are no classes
        self.first_of: dict[str, str] = {}
        self._kinds: Counter[str] = Counter()
        self._first: list[str] = []

    @property
    def num_annotations(self) -> int:
        """All objects of the files."""
        return self.per_class.total() + self.others.total() + self._kinds.total()

    def other(self, name: str, path: str) -> None:
        """Count an object of no class."""
        self.others[name] += 1
        self.first_of.setdefault(name, path)

    def invalid(self, kind: str, thing: XMLObject, path: str) -> None:
        """Count an object that is skipped."""
        self._kinds[kind] += 1
        if len(self._first) < 5:
            self._first.append(f'{path} object {thing.number} ({thing.name!r})')

    def report(self) -> list[str]:
        """Parts of the sentence."""
        parts = [f'{self.per_class.total()} objects, {self.difficult} of them difficult']
        if self.small:
            parts.append(f'{self.small} smaller than filter_cfg.bbox_min_size: ignored')
        if self.others:
            parts.append(f'{self.others.total()} of other names left out: {listing(self.others)}')
        if self._kinds:
            kinds = ', '.join(f'{count} {kind}' for kind, count in self._kinds.items())
            total = self._kinds.total()
            more = ', ...' if total > len(self._first) else ''
            parts.append(f'{total} skipped ({kinds}): {", ".join(self._first)}{more}')
        return parts


def _moves_boxes(transform: Callable) -> bool:
    """Whether boxes loaded before it are not those of the original image after it."""
    if isinstance(transform, mmcv_transforms.TestTimeAug):  # of flips the unflipped view counts
        steps = [step for view in transform.subroutines for step in view.transforms]
        return any(
            isinstance(s, _MOVES_BOXES) and not isinstance(s, mmcv_transforms.RandomFlip)
            for s in steps
        )
    return isinstance(transform, _MOVES_BOXES)


def _problem(box: tuple[int, int, int, int], width: int, height: int, test_mode: bool) -> str:
    """Why an object cannot be used, '' if it can.

    Args:
        box: indices of the first and last pixel, from 0.
    """
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return 'with xmax < xmin or ymax < ymin'
    if x1 >= width or y1 >= height or x2 < 0 or y2 < 0:
        return 'outside the image'
    # Its x2 - x1 of 0 has no logarithm, which is what a detector learns of a width.
    if not test_mode and (x2 == x1 or y2 == y1):
        return 'one pixel wide or high'
    return ''


def _plain(name: str) -> str:
    return ''.join(letter for letter in name.lower() if letter.isalnum())


def _similar(name: str, others: Mapping[str, int]) -> str:
    """The one of ``others`` that ``name`` is probably meant to be, '' if there is none."""
    plain = {_plain(other): other for other in others}
    match = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.75)
    return plain[match[0]] if match else ''
