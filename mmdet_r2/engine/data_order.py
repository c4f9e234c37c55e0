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
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dataset.sampler import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import FUNCTIONS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from ..errors import ConfigError, DataError
from ..registry import DATA_SAMPLERS, DATASETS
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


def build_train_dataloader(config: dict[str, Any], seed: int) -> DataLoader:
    """The training ``DataLoader`` of an mmengine-style dictionary, with a
    :class:`PositionedBatchSampler`.

    Args:
        config: ``dataset``, ``sampler``, ``batch_sampler`` (optional), ``batch_size`` and keywords
            of ``DataLoader``; not changed.
        seed: of the run; the same on every rank.

    Raises:
        ConfigError: a part is missing, or a number impossible.
        DataError: the data has no object to be learnt.
    """
    check_loader(config)
    options = dict(config)
    batch_size, drop_last = options.pop('batch_size'), options.pop('drop_last', False)
    options.pop('shuffle', None)  # the sampler's affair
    dataset = _built(options.pop('dataset'), DATASETS.build)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if reason := nothing_to_learn(dataset):
        raise DataError(f'train_dataloader: nothing can be learnt: {reason}')
    per_epoch = options.pop('num_batch_per_epoch', None)
    if per_epoch is not None:
        dataset = _FirstImages(dataset, per_epoch * batch_size * get_world_size())
    sampler = options.pop('sampler', None) or {'type': 'DefaultSampler', 'shuffle': True}
    sampler = _built(
        sampler, partial(DATA_SAMPLERS.build, default_args={'dataset': dataset, 'seed': seed})
    )
    inner = options.pop('batch_sampler', None)
    if inner is None:
        inner = BatchSampler(sampler, batch_size, drop_last)
    else:
        defaults = {'sampler': sampler, 'batch_size': batch_size}
        if drop_last:  # not every batch sampler knows the word
            defaults['drop_last'] = True
        inner = _built(inner, partial(DATA_SAMPLERS.build, default_args=defaults))
    batches = PositionedBatchSampler(inner, seed, get_rank())
    if not len(dataset) or not (batches.endless or len(batches)):
        raise ConfigError(
            f'train_dataloader: its {len(dataset)} images make no batch of {batch_size}'
            f'{" with drop_last=True" if drop_last else ""}.'
        )
    workers = options.get('num_workers', 0)
    if workers == 0:
        for key in ('persistent_workers', 'prefetch_factor', 'timeout'):
            options.pop(key, None)  # DataLoader refuses them without workers
    collate = _function(options.pop('collate_fn', None), pseudo_collate)
    quiet = options.pop('disable_subprocess_warning', False)
    start = _function(options.pop('worker_init_fn', None), partial(_start_worker, quiet=quiet))
    return DataLoader(
        SeededDataset(dataset),
        batch_sampler=batches,
        collate_fn=collate,
        worker_init_fn=start,
        # Without a generator of its own every iterator would draw from the global one.
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def _start_worker(worker: int, quiet: bool) -> None:
    import warnings

    torch.set_num_threads(1)
    if quiet and worker:
        warnings.simplefilter('ignore')


def _built(part: Any, build: Callable[[Any], Any]) -> Any:
    return build(part) if isinstance(part, dict) else part


def _function(config: Any, default: Callable) -> Callable:
    if config is None:
        return default
    if callable(config):
        return config
    options = dict(config)
    kind = options.pop('type')
    return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **options)


def endless_batches(loader: DataLoader, position: int) -> Iterator[Any]:
    """Batches of ``loader``, pass after pass, beginning after the first ``position`` ones."""
    order: PositionedBatchSampler = loader.batch_sampler
    length = len(order)
    for epoch in itertools.count(0 if order.endless else position // length):
        order.seek(epoch, position if order.endless else position % length)
        position = 0
        yield from loader
