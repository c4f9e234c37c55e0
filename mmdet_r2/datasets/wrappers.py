"""Data sets made of others: several in a row, and rare classes more often.

mmengine's RepeatDataset needs no addition and is found through the registry.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import ClassBalancedDataset as MMEngineClassBalancedDataset
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.logging import print_log

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import DATASETS


@DATASETS.register_module()
class ConcatDataset(MMEngineConcatDataset):
    """Data sets one after another, all with the same classes in the same order.

    mmengine's, which also answers :meth:`get_cat_ids`, so that :class:`ClassBalancedDataset` can be
    put around it; and that says which entry of the metainfo differs, and how. ``dataset_type`` of
    :class:`VOCDataset` may always differ, ``palette`` too: the first data set's is used.

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
        super().__init__(datasets, lazy_init=lazy_init, ignore_keys=ignored)

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
