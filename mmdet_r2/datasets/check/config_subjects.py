"""The data sets that a config names, as subjects of a check."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet_r2.datasets.check.subject import Subject
from mmdet_r2.datasets.coco import CocoDataset
from mmdet_r2.datasets.coco_panoptic import CocoPanopticDataset
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import DATASETS, build, init_scope

_ROLES = ('train', 'val', 'test')


def config_subjects(config: Mapping) -> tuple[list[Subject], list[str]]:
    """The data sets of the three data loaders, wrapped ones too, and remarks to print.

    A data set that two loaders share is there once, with the role of the first.

    Args:
        config: loaded and checked (:func:`mmdet_r2.config.load_config`).

    Raises:
        DataError: an annotation file cannot be read.
        ConfigError: the config has no data set that can be checked.
    """
    init_scope()
    subjects: dict[tuple, Subject] = {}
    remarks = []
    for role in _ROLES:
        loader = config.get(f'{role}_dataloader')
        for settings in _plain_datasets((loader or {}).get('dataset')):
            kept = {k: v for k, v in settings.items() if k not in ('filter_cfg', 'indices')}
            options = {**kept, 'pipeline': [], 'lazy_init': True, 'test_mode': True}
            dataset = build(DATASETS, options, f'{role}_dataloader.dataset')
            name = getattr(dataset, 'ann_file', '') or type(dataset).__name__
            if isinstance(dataset, CocoPanopticDataset):
                remarks.append(
                    f'{role}: {name} is in the panoptic format, which is checked when training '
                    f'starts'
                )
                continue
            image_dir = dataset.data_prefix.get('img', '')
            key = (type(dataset), name, image_dir)
            if key in subjects:
                if role != 'train' and subjects[key].role == 'train':
                    remarks.append(f'{name} is used for training and for {role}')
            else:
                content = _content(dataset, image_dir)
                if tally := getattr(dataset, '_tally', None):  # what loading left out
                    remarks.append(f'{name}: {"; ".join(tally.report())}')
                classes = dataset.metainfo.get('classes')
                subjects[key] = Subject(str(name), content, image_dir, role, classes)
    _name_apart(list(subjects.values()))
    if not subjects:
        reason = remarks[0] if remarks else 'the config names no data set (train_dataloader, ...)'
        raise ConfigError(f'nothing to check: {reason}')
    return list(subjects.values()), remarks


def _name_apart(subjects: Sequence[Subject]) -> None:
    """Give data sets of one name, such as a class of one's own without a file, different ones."""
    counts = Counter(subject.name for subject in subjects)
    for subject in subjects:
        if counts[subject.name] > 1:
            subject.name = f'{subject.name} ({subject.role}, {subject.image_dir or "."})'


def _plain_datasets(settings: Any) -> Iterator[Mapping]:
    """What wrappers (RepeatDataset, ClassBalancedDataset, ConcatDataset, ...) are around."""
    if isinstance(settings, (list, tuple)):
        for one in settings:
            yield from _plain_datasets(one)
    elif isinstance(settings, Mapping):
        inner = settings.get('datasets', settings.get('dataset'))
        if inner is None:
            yield settings
        else:
            yield from _plain_datasets(inner)


def _content(dataset: Any, image_dir: str) -> dict:
    """A data set as the content of a COCO file: its own, or made of what it loads."""
    reads_coco = isinstance(dataset, CocoDataset)
    if reads_coco and type(dataset).load_data_list is CocoDataset.load_data_list:
        return dataset._read_json()
    names = dataset.metainfo['classes']
    content: dict = dict(images=[], annotations=[])
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
    for info in dataset.load_data_list():
        path = os.path.relpath(info['img_path'], image_dir or '.').replace(os.sep, '/')
        size = {key: info[key] for key in ('width', 'height') if key in info}
        content['images'].append(dict(id=info['img_id'], file_name=path, **size))
        for instance in info.get('instances', ()):
            x1, y1, x2, y2 = instance['bbox']
            annotation = dict(
                id=len(content['annotations']) + 1,
                image_id=info['img_id'],
                category_id=instance['bbox_label'],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                iscrowd=int(instance.get('ignore_flag', 0)),
            )
            mask = {'segmentation': instance['mask']} if instance.get('mask') else {}
            content['annotations'].append(annotation | mask)
    return content
