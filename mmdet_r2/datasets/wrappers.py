"""Data sets made of others: several in a row, and rare classes more often; which they are.

mmengine's RepeatDataset needs no addition and is found through the registry.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dataset import ClassBalancedDataset as MMEngineClassBalancedDataset
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.logging import print_log

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import DATASETS


@dataclass
class Source:
    """Where images come from: an annotation file and a folder, within which ids are unique.

    Attributes:
        key: equal for equal sources.
        name: what messages call it.
        ann_file: '' where there is none.
        datasets: those that read it; several where one file is used in parts.
        numbered: whether samples tell which source they are of (:class:`ConcatDataset`).
    """

    key: Any
    name: str
    ann_file: str
    datasets: list[Any] = field(default_factory=list)
    numbered: bool = True

    def ids(self) -> list[Any]:
        """Of every image; empty where the data sets do not tell without reading images."""
        if not all(hasattr(dataset, 'get_data_info') for dataset in self.datasets):
            return []
        infos = (d.get_data_info(i) for d in self.datasets for i in range(len(d)))
        return [info['img_id'] for info in infos if 'img_id' in info]


def sources_of(dataset: Any, parts: Sequence[Any] | None = None) -> list[Source]:
    """The different sources of a data set inside any wrappers, in order.

    Args:
        dataset: the outermost.
        parts: what it consists of, while it is being built.
    """
    found: dict[Any, Source] = {}
    for leaf, numbered in _leaves(dataset, parts):
        ann_file = getattr(leaf, 'ann_file', '') or ''
        folder = (getattr(leaf, 'data_prefix', None) or {}).get('img', '')
        paths = tuple(os.path.realpath(str(path)) for path in (ann_file, folder))
        key = (type(leaf), *paths) if ann_file else id(leaf)
        name = ann_file or type(leaf).__name__
        if any(source.name == name and source.key != key for source in found.values()):
            name += f' ({folder})'  # one file for images of several folders
        source = found.setdefault(key, Source(key, name, ann_file))
        source.datasets.append(leaf)
        source.numbered &= numbered
    return list(found.values())


def _leaves(dataset: Any, parts: Sequence[Any] | None = None) -> Iterator[tuple[Any, bool]]:
    """The data sets inside wrappers, and whether samples tell which one they are of."""
    parts = getattr(dataset, 'datasets', None) if parts is None else parts
    if isinstance(parts, (list, tuple)):
        for part in parts:
            for leaf, numbered in _leaves(part):
                yield leaf, numbered and isinstance(dataset, ConcatDataset)
    elif hasattr(getattr(dataset, 'dataset', None), '__getitem__'):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset, True


@DATASETS.register_module()
class ConcatDataset(MMEngineConcatDataset):
    """Data sets one after another, all with the same classes in the same order.

    mmengine's, which also answers :meth:`get_cat_ids`, so that :class:`ClassBalancedDataset` can be
    put around it; and that says which entry of the metainfo differs, and how. ``dataset_type`` of
    :class:`VOCDataset` may always differ, ``palette`` too: the first data set's is used.

    Image ids are unique in one annotation file only. Samples therefore carry ``dataset_index`` in
    their metainfo, whatever ``PackDetInputs.meta_keys`` says: the number of their data set among
    :func:`sources_of` this one. Metrics count images by both.

    Args:
        datasets: data sets or their configs.
        lazy_init: read annotations on first use.
        ignore_keys: further entries of the metainfo that may differ.

    Raises:
        ConfigError: the metainfo of two data sets differs.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        ignored = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise ConfigError('ConcatDataset.datasets is no list of data sets, or empty')
        datasets = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        for i, dataset in enumerate(datasets):
            if not isinstance(dataset, BaseDataset):
                raise ConfigError(
                    f'ConcatDataset.datasets.{i} is a {type(dataset).__name__}, expected a data '
                    'set without wrappers: put the wrapper around ConcatDataset'
                )
        # A class list that differs is a wrong label; colours that differ are no reason to stop.
        ignored += ['dataset_type', 'palette']
        first = datasets[0].metainfo
        for i, dataset in enumerate(datasets):
            other = dataset.metainfo
            for key in sorted({*first, *other} - set(ignored)):
                if key not in first or key not in other or not _same(first[key], other[key]):
                    raise ConfigError(
                        f'ConcatDataset: metainfo.{key} of datasets.{i} is '
                        f'{_short(other.get(key))}, that of datasets.0 {_short(first.get(key))}; '
                        f'make them equal, or name it in ignore_keys'
                    )
        # where each comes among the sources
        sources = enumerate(sources_of(self, datasets))
        numbers = {id(d): number for number, source in sources for d in source.datasets}
        self._numbers = [numbers[id(dataset)] for dataset in datasets]
        super().__init__(datasets, lazy_init=lazy_init, ignore_keys=ignored)

    def __getitem__(self, idx: int) -> Any:
        packed = super().__getitem__(idx)
        known = dict(dataset_index=self._numbers[self._get_ori_dataset_idx(idx)[0]])
        if not isinstance(packed, dict):
            return packed
        samples = packed.get('data_samples')
        if samples is None:
            return packed | known
        # several of test-time augmentation
        for sample in samples if isinstance(samples, (list, tuple)) else [samples]:
            sample.set_metainfo(known)
        return packed

    def get_data_info(self, idx: int) -> dict:
        """What is known of one image without reading it, and its ``dataset_index``."""
        number = self._numbers[self._get_ori_dataset_idx(idx)[0]]
        return super().get_data_info(idx) | dict(dataset_index=number)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of the objects of one image."""
        dataset, inner = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset].get_cat_ids(inner)


@DATASETS.register_module()
class ClassBalancedDataset(MMEngineClassBalancedDataset):
    """Images with rare classes several times: repeat factor sampling, LVIS
    (https://arxiv.org/abs/1908.03195), appendix B.2.

    A class that occurs in the fraction f of the images has the factor max(1, sqrt(t / f)); an image
    is there as often as the largest factor of its classes says, rounded up. For t = 0.1, a class in
    1 of 100 images has the factor sqrt(10) = 3.16, and its image is there four times. mmengine's,
    which also says what came of it.

    Args:
        dataset: data set, or its config, that answers ``get_cat_ids(i)``.
        oversample_thr: t; classes in a smaller fraction of the images are repeated.
        lazy_init: read annotations on first use.

    Raises:
        ConfigError: ``oversample_thr`` is not in (0, 1]; the data set does not know its classes.
    """

    def __init__(self, dataset: Any, oversample_thr: float, lazy_init: bool = False) -> None:
        if not 0 < oversample_thr <= 1:
            raise ConfigError(
                f'ClassBalancedDataset.oversample_thr is {oversample_thr!r}, expected a fraction '
                f'of the images, in (0, 1]'
            )
        dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not hasattr(dataset, 'get_cat_ids'):
            raise ConfigError(
                f'ClassBalancedDataset.dataset is a {type(dataset).__name__}, which does not tell '
                f'the classes in an image (get_cat_ids): put that one around ClassBalancedDataset'
            )
        self.dataset = dataset
        self.oversample_thr = oversample_thr
        self._metainfo = dataset.metainfo
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the annotations and list every image as often as it is to be seen; once."""
        if self._fully_initialized:
            return
        super().full_init()
        before, after = len(self.dataset), len(self.repeat_indices)
        most = max(Counter(self.repeat_indices).values(), default=0)
        print_log(
            f'ClassBalancedDataset: {before} images become {after}, some {most} times '
            f'(oversample_thr {self.oversample_thr:g})',
            logger='current',
        )

    def _get_repeat_factors(self, dataset: Any, repeat_thr: float) -> list[float]:
        # mmengine's numbers; it reads every annotation twice
        labels = [frozenset(dataset.get_cat_ids(i)) for i in range(len(dataset))]
        counts = Counter(label for image in labels for label in image)
        factors = {
            label: max(1.0, math.sqrt(repeat_thr / (count / len(labels))))
            for label, count in counts.items()
        }
        return [max((factors[label] for label in image), default=1.0) for image in labels]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + '...'
