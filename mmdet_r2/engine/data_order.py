"""Training data whose order and augmentation depend on (seed, rank, epoch, position) alone.

A batch sampler that can start anywhere makes resuming O(1) in images: indices are counted off,
nothing is read. Seeding each sample from its position makes what an augmentation draws independent
of the number of workers and of what was drawn before, so that a run continued in mid-epoch sees the
very pixels it would have seen.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dataset import worker_init_fn as default_worker_init_fn
from mmengine.dataset.sampler import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import FUNCTIONS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..errors import ConfigError, DataError, reason_of
from ..registry import DATA_SAMPLERS, DATASETS, build, built_from, find_component
from .checks import check_loader

Draw = tuple[int, int, int, int]  # seed, rank, epoch, position in the epoch


class PositionedBatchSampler(Sampler):
    """Batches of ``inner``, from any position, each index paired with the numbers that seed it.

    Args:
        inner: batch sampler of this rank.
        seed: of the run; the same on every rank.
        rank: of this process.
    """

    def __init__(self, inner: Any, seed: int, rank: int) -> None:
        self.inner = inner
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> Any:
        """The index sampler below, which mmengine's hooks look for."""
        return getattr(self.inner, 'sampler', self.inner)

    @property
    def batch_size(self) -> int:
        """Images of a full batch on this rank."""
        return getattr(self.inner, 'batch_size', 1)

    @property
    def endless(self) -> bool:
        """Whether one pass never ends (``InfiniteSampler``)."""
        return isinstance(self.sampler, InfiniteSampler)

    def seek(self, epoch: int, start: int) -> None:
        """Let the next pass be that of ``epoch``, without its first ``start`` batches."""
        self.epoch = epoch
        self.start = start
        for sampler in {id(s): s for s in (self.sampler, self.inner)}.values():
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[tuple[int, Draw]]]:
        start, self.start = self.start, 0
        position = 0
        for number, batch in enumerate(self.inner):
            if number >= start:
                yield [
                    (index, (self.seed, self.rank, self.epoch, position + slot))
                    for slot, index in enumerate(batch)
                ]
            position += len(batch)

    def __len__(self) -> int:
        return len(self.inner)


class SeededDataset(Dataset):
    """``dataset`` with every sample drawn under random numbers of its own; all else is the data
    set's.

    ``dataset[index, draw]`` seeds ``random``, numpy and torch from ``draw`` and gives them back
    their states afterwards: with no worker processes this runs between two training steps, whose
    random numbers must not depend on the data.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, Draw]) -> Any:
        index, draw = item
        with seeded(draw):
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        # `dataset` itself is looked up here while unpickling, and torch asks for `__getitems__`
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


@contextmanager
def seeded(draw: Draw) -> Iterator[None]:
    """Within, ``random``, numpy's and torch's CPU generators start from ``draw``; after, they are
    as before."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    words = np.random.SeedSequence([part % 2**32 for part in draw]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed CUDA too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


class _FirstImages:
    """The first ``length`` samples of ``dataset``: what ``num_batch_per_epoch`` leaves of it."""

    def __init__(self, dataset: Any, length: int) -> None:
        self._dataset = dataset
        self._length = min(length, len(dataset))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name in ('_dataset', '_length') or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self._dataset, name)


def nothing_to_learn(dataset: Any) -> str:
    """Why a data set has no object to be learnt, '' if it has; wrappers are looked through.

    Images without objects are of use beside others only.
    """
    if hasattr(dataset, 'datasets'):
        reasons = [nothing_to_learn(part) for part in dataset.datasets]
        return '; '.join(dict.fromkeys(reasons)) if all(reasons) else ''
    if not hasattr(dataset, 'nothing_to_learn') and hasattr(dataset, 'dataset'):
        return nothing_to_learn(dataset.dataset)
    return str(getattr(dataset, 'nothing_to_learn', ''))


def build_train_dataloader(
    config: dict[str, Any], seed: int, key: str = 'train_dataloader'
) -> DataLoader:
    """The training ``DataLoader`` of an mmengine-style dictionary, with a
    :class:`PositionedBatchSampler`.

    Args:
        config: ``dataset``, ``sampler``, ``batch_sampler`` (optional), ``batch_size`` and keywords
            of ``DataLoader``; not changed.
        seed: of the run; the same on every rank.
        key: where ``config`` stands, which errors name.

    Raises:
        ConfigError: a part is missing or cannot be built, or a number impossible.
        DataError: the data has no object to be learnt.
    """
    parts = _parts(config, key, seed, train=True)
    options, batch_size = parts.options, parts.batch_size
    drop_last = options.pop('drop_last', False)
    inner = parts.batch_sampler
    if inner is None:
        inner = BatchSampler(parts.sampler, batch_size, drop_last)
    batches = PositionedBatchSampler(inner, seed, get_rank())
    if not len(parts.dataset) or not (batches.endless or len(batches)):
        raise ConfigError(
            f'{key}: its {len(parts.dataset)} images make no batch of {batch_size}'
            f'{" with drop_last=True" if drop_last else ""}'
        )
    quiet = options.pop('disable_subprocess_warning', False)
    with built_from(key):
        return DataLoader(
            SeededDataset(parts.dataset),
            batch_sampler=batches,
            worker_init_fn=parts.worker_init or partial(_start_worker, quiet=quiet),
            # Without a generator of its own every iterator would draw from the global one.
            generator=torch.Generator().manual_seed(seed),
            **options,
        )


def build_eval_dataloader(config: dict[str, Any], seed: int, key: str) -> DataLoader:
    """The ``DataLoader`` of a validation or test, of such a dictionary; see
    :func:`build_train_dataloader`.

    Args:
        config: as there.
        seed: of the run; the same on every rank.
        key: where ``config`` stands, which errors name.

    Raises:
        ConfigError: a part is missing or cannot be built, or a number impossible.
    """
    parts = _parts(config, key, seed, train=False)
    options = parts.options
    quiet = options.pop('disable_subprocess_warning', False)
    start = parts.worker_init
    if start is None:
        start = partial(
            default_worker_init_fn,
            num_workers=options.get('num_workers', 0),
            rank=get_rank(),
            seed=seed,
            disable_subprocess_warning=quiet,
        )
    if parts.batch_sampler is None:
        options.update(sampler=parts.sampler, batch_size=parts.batch_size)
    else:
        options.pop('drop_last', None)
        options['batch_sampler'] = parts.batch_sampler
    with built_from(key):
        return DataLoader(parts.dataset, worker_init_fn=start, **options)


class _Parts(NamedTuple):
    dataset: Any
    sampler: Any
    batch_sampler: Any | None
    batch_size: int
    worker_init: Callable | None
    options: dict[str, Any]  # of the ``DataLoader``


def _parts(config: dict[str, Any], key: str, seed: int, train: bool) -> _Parts:
    """The parts of a data loader, built."""
    if not isinstance(config, dict):
        raise ConfigError(f'{key} is {config!r}, expected a dictionary with dataset')
    check_loader(config, key)
    options = dict(config)
    batch_size = options.pop('batch_size', 1)
    options.pop('shuffle', None)  # the sampler's affair
    dataset = build(DATASETS, options.pop('dataset'), f'{key}.dataset')
    with built_from(f'{key}.dataset'):
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        len(dataset)
    if train and (reason := nothing_to_learn(dataset)):
        raise DataError(f'{key}: nothing can be learnt: {reason}')
    per_epoch = options.pop('num_batch_per_epoch', None)
    if per_epoch is not None:
        if not isinstance(per_epoch, int) or per_epoch < 1:
            raise ConfigError(
                f'{key}.num_batch_per_epoch is {per_epoch!r}, expected a whole number from 1'
            )
        dataset = _FirstImages(dataset, per_epoch * batch_size * get_world_size())
    sampler = options.pop('sampler', None) or {'type': 'DefaultSampler', 'shuffle': train}
    sampler = build(DATA_SAMPLERS, sampler, f'{key}.sampler', dataset=dataset, seed=seed)
    batches = options.pop('batch_sampler', None)
    if batches is not None:
        defaults = {'sampler': sampler, 'batch_size': batch_size}
        if options.get('drop_last'):  # not every batch sampler knows the word
            defaults['drop_last'] = True
        batches = build(DATA_SAMPLERS, batches, f'{key}.batch_sampler', **defaults)
    if options.get('num_workers', 0) == 0:
        for name in ('persistent_workers', 'prefetch_factor', 'timeout'):
            options.pop(name, None)  # DataLoader refuses them without workers
    collate = options.pop('collate_fn', None)
    collate = _function(collate, f'{key}.collate_fn')
    options['collate_fn'] = collate or partial(_collate, key=key)
    start = _function(options.pop('worker_init_fn', None), f'{key}.worker_init_fn')
    return _Parts(dataset, sampler, batches, batch_size, start, options)


def _collate(samples: list[Any], key: str) -> Any:
    try:
        return pseudo_collate(samples)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ConfigError(
            f'{key}: its samples make no batch ({reason_of(error)}): the pipeline has to end with '
            'PackDetInputs'
        ) from None


def _start_worker(worker: int, quiet: bool) -> None:
    import warnings

    torch.set_num_threads(1)
    if quiet and worker:
        warnings.simplefilter('ignore')


def _function(config: Any, key: str) -> Callable | None:
    if config is None or callable(config):
        return config
    if not isinstance(config, dict) or 'type' not in config:
        raise ConfigError(f'{key} is {config!r}, expected a function or a dictionary with type')
    options = dict(config)
    kind = options.pop('type')
    function = find_component(FUNCTIONS, kind) if isinstance(kind, str) else kind
    if not callable(function):
        raise ConfigError(f'{key}.type is {kind!r}, which is not registered as a function')
    return partial(function, **options)


def endless_batches(loader: DataLoader, position: int) -> Iterator[Any]:
    """Batches of ``loader``, pass after pass, beginning after the first ``position`` ones."""
    order: PositionedBatchSampler = loader.batch_sampler
    length = len(order)
    for epoch in itertools.count(0 if order.endless else position // length):
        order.seek(epoch, position if order.endless else position % length)
        position = 0
        yield from loader
