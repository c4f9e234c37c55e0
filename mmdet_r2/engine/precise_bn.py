"""Exact batch-norm statistics for evaluation, instead of the running averages of training.

While the weights change, a running average mixes statistics of many sets of weights. Here they are
measured for the present weights alone: training batches go through the model, which learns nothing
from them, and every batch norm gets the plain average of the means and variances that it saw
("precise BN", section 3 of https://arxiv.org/abs/2105.07576).
"""

import itertools
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_comm_device, get_world_size
from mmengine.hooks import EMAHook, Hook, IterTimerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import DataLoader

from ..errors import ConfigError
from ..registry import HOOKS
from .data_order import build_train_dataloader
from .hooks import ProgressHook
from .state import untouched_rng

_LINE_EVERY = 50  # batches between two lines of the log
_ORDER = 0xB4  # any constant: keeps the order and augmentation apart from those of training


def bn_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Batch norms of ``model`` that are in training mode and keep running statistics, by name.

    Those of torch (synchronised or not), of mmcv and of :mod:`mmdet_r2.models.norms`. Frozen layers
    and those of ``norm_eval`` are in evaluation mode, hence left out; instance norms, too.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if module.training
        and isinstance(getattr(module, 'running_var', None), Tensor)
        and not isinstance(module, _InstanceNorm)
    }


@torch.no_grad()
def recompute_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]
) -> dict[str, str]:
    """Set the running statistics of :func:`bn_layers` to the averages over ``batches``.

    Averaged is what the layer itself would put into its running statistics with a momentum of 1:
    per channel the mean and the variance of each batch, unbiased for torch's layers, biased for
    ``NaiveSyncBN`` on several processes. Every call of a layer counts the same; a call without
    input (a head without RoIs) does not count. In a distributed run all processes have to call it
    with equally many batches, and calls of all of them are averaged.

    All else stays as it is, also after an error: weights, gradients, other buffers, the number of
    batches that a layer has counted, modes, momenta, random states. Sums of two vectors per layer
    are all that is kept over batches.

    Args:
        model: in the modes of training; not inside DDP.
        batches: passed to ``forward`` one by one.
        forward: runs ``model``; what it returns is dropped. Called without autograd.

    Returns:
        The layers, by name, that keep their former statistics, and why.
    """
    layers = bn_layers(model)
    if not layers:
        return {}
    sums = [torch.zeros_like(_stacked(layer), dtype=torch.float64) for layer in layers.values()]
    index = {layer: number for number, layer in enumerate(layers.values())}

    def collect(layer: nn.Module, args: Any, output: Any) -> None:
        # A variance is never negative: where it is, the layer has not replaced our mark. (A NaN is
        # a value and goes into the sum.)
        batch = _stacked(layer)
        sums[index[layer]] += torch.where(batch[1] < 0, 0, batch)
        _mark(layer)

    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    momenta = [layer.momentum for layer in index]
    handles = [layer.register_forward_hook(collect) for layer in index]
    try:
        with untouched_rng():
            for layer in index:
                layer.momentum = 1.0
                _mark(layer)
            for batch in batches:
                forward(batch)
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum in zip(index, momenta):
            layer.momentum = momentum
        for buffer, value in kept:
            buffer.copy_(value)
    return _set_averages(layers, sums)


def _stacked(layer: nn.Module) -> Tensor:
    """(3, C): mean, variance, 1."""
    return torch.stack([layer.running_mean, layer.running_var, torch.ones_like(layer.running_var)])


def _mark(layer: nn.Module) -> None:
    layer.running_mean.zero_()
    layer.running_var.fill_(-1)


def _set_averages(layers: dict[str, nn.Module], sums: list[Tensor]) -> dict[str, str]:
    """Averages of ``sums`` (3, C each) over all processes into ``layers``, where they are sound."""
    if get_world_size() > 1:  # one message for all layers
        flat = torch.cat([part.flatten() for part in sums]).to(get_comm_device())
        all_reduce(flat)
        parts = flat.split([part.numel() for part in sums])
        sums = [part.view_as(old).to(old.device) for part, old in zip(parts, sums)]
    averages = [part[:2] / part[2] for part in sums]
    seen = torch.stack([part[2].amin() > 0 for part in sums]).tolist()
    sound = torch.stack([torch.isfinite(average).all() for average in averages]).tolist()
    left = {}
    for (name, layer), average, was_seen, is_sound in zip(layers.items(), averages, seen, sound):
        if was_seen and is_sound:
            layer.running_mean.copy_(average[0])
            layer.running_var.copy_(average[1])
        else:
            left[name] = 'not finite' if was_seen else 'no input'
    return left


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Measures batch-norm statistics on training batches before each evaluation and at the end of
    training, as detectron2's hook of that name does.

    It runs right after a training step, hence before a checkpoint is written and before the
    evaluation. ``num_iters`` batches (of each process) pass through the losses of the model, in the
    precision of training and without autograd; every batch norm in training mode then holds the
    average over these batches and all processes, see :func:`recompute_statistics`. Running averages
    go on from there. The batches come from the training data, with its augmentation and batch size,
    in an order and with random numbers that depend on the run's seed and on the step alone:
    training itself, resumed or not, goes on as if nothing had happened. A checkpoint that is
    written at another step holds the running averages.

    With an ``EMAHook`` the averaged weights are what is evaluated and saved as ``state_dict``, so
    they are what passes through, and the statistics are theirs. Unless that hook averages buffers
    (``update_buffers=True``) both models share one set of statistics: the weights being trained,
    which do not use them, have them, too.

    Args:
        num_iters: batches per process. Where a pass over the data has fewer, these are used, and a
            warning says how many.
        interval: -1: before each evaluation; otherwise every so many epochs (or steps, in a loop
            that counts steps). At the end of training in any case.

    Raises:
        ConfigError: ``num_iters`` below 1, or ``interval`` neither -1 nor above 0.
    """

    priority = 'LOW'  # after EMAHook's step, before CheckpointHook

    def __init__(self, num_iters: int = 200, interval: int = -1) -> None:
        if not isinstance(num_iters, int) or num_iters < 1:
            raise ConfigError(f'PreciseBNHook.num_iters is {num_iters!r}; expected 1 or more.')
        if not isinstance(interval, int) or (interval < 1 and interval != -1):
            raise ConfigError(
                f'PreciseBNHook.interval is {interval!r}; expected -1 (before each evaluation) '
                'or a number of epochs or steps.'
            )
        self.num_iters = num_iters
        self.interval = interval
        self._told = False

    def before_train(self, runner: Any) -> None:
        """Say now, not after hours, that there are too few batches."""
        order = runner.train_dataloader.batch_sampler
        if not order.endless and len(order) < self.num_iters:
            runner.logger.warning(
                f'PreciseBNHook.num_iters is {self.num_iters}, but the training data are '
                f'{len(order)} batches (of each process): these {len(order)} will be used.'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Recompute, if it is time."""
        if self._due(runner, batch_idx):
            self._recompute(runner)

    def _due(self, runner: Any, batch_idx: int) -> bool:
        loop, done = runner.train_loop, runner.iter + 1
        if done == runner.max_iters:
            return True
        if isinstance(loop, EpochBasedTrainLoop):
            if not self.end_of_epoch(loop.dataloader, batch_idx):
                return False
            done = runner.epoch + 1
        if self.interval > 0:
            return done % self.interval == 0
        if runner.val_loop is None or done < loop.val_begin:
            return False
        # the loop itself takes this interval only after the hooks
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, done + 1) - 1]
        return done % interval == 0

    def _recompute(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        number_of_layers = len(bn_layers(model))
        if number_of_layers == 0:
            if not self._told:
                self._told = True
                runner.logger.info('PreciseBN: no batch norm is in training mode, nothing to do.')
            return
        began = time.monotonic()
        loader, number = training_batches(runner, self.num_iters)

        def forward(batch: Any) -> None:
            wrapper = runner.optim_wrapper
            if isinstance(wrapper, OptimWrapper):
                with wrapper.optim_context(model):
                    _losses(model, batch)
            else:  # several optimisers: the model itself knows where it wants which precision
                _losses(model, batch)

        averaging = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        for hook in averaging:
            hook.before_val_epoch(runner)  # averaged weights into the model
        try:
            left = recompute_statistics(model, _reported(runner, loader, number), forward)
        finally:
            for hook in reversed(averaging):
                hook.after_val_epoch(runner)
        for hook in averaging:
            if not hook.ema_model.update_buffers:  # its buffers are copies of the model's
                for copy, buffer in zip(hook.ema_model.module.buffers(), model.buffers()):
                    copy.copy_(buffer)
        seconds = time.monotonic() - began
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook):
                hook.t += seconds  # not the time that the next batch takes
        processes = f' on each of {runner.world_size} processes' if runner.world_size > 1 else ''
        runner.logger.info(
            f'PreciseBN: statistics of {number_of_layers - len(left)} BN layers from {number} '
            f'training batches{processes}, {seconds:.1f} s.'
        )
        for why in sorted(set(left.values())):
            names = [name for name, reason in left.items() if reason == why]
            shown = ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
            what = 'saw no input' if why == 'no input' else 'had infinite or undefined values'
            runner.logger.warning(
                f'PreciseBN: {len(names)} BN layers {what} and keep their running averages: {shown}'
            )


def training_batches(runner: Any, num_iters: int) -> tuple[DataLoader, int]:
    """A loader of the training data beside that of training, and how many of its batches to take.

    Same data, augmentation, sampler type and batch size, no worker processes. Order and random
    numbers follow from the run's seed and ``runner.iter``; nothing of the training loader changes.

    Returns:
        The loader; the smaller of ``num_iters`` and the batches of a pass, equal on all ranks.
    """
    words = [runner._run_seed, runner.iter, _ORDER]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    options = {**runner.cfg.train_dataloader, 'num_workers': 0}
    options['dataset'] = runner.train_dataloader.dataset.dataset  # already built, already cut
    options.pop('num_batch_per_epoch', None)
    sampler = options.get('sampler')
    if isinstance(sampler, dict):  # a seed of its own would give the order of training
        options['sampler'] = {key: value for key, value in sampler.items() if key != 'seed'}
    with untouched_rng():  # a sampler may draw when it is made
        loader = build_train_dataloader(options, seed)
    order = loader.batch_sampler
    number = num_iters if order.endless else min(num_iters, len(order))
    if get_world_size() > 1:  # layers that share statistics need every rank in every pass
        least = torch.tensor([number], device=get_comm_device())
        all_reduce(least, op='min')
        number = int(least.item())
    return loader, number


def _losses(model: nn.Module, batch: Any) -> None:
    data = model.data_preprocessor(batch, True)
    if isinstance(data, dict):
        model(**data, mode='loss')
    else:
        model(*data, mode='loss')


def _reported(runner: Any, loader: DataLoader, number: int) -> Iterator[Any]:
    """``number`` batches, with a line of the log now and then, and the bar of a terminal."""
    bars = [hook for hook in runner.hooks if isinstance(hook, ProgressHook)]
    began = time.monotonic()
    for done, batch in enumerate(itertools.islice(loader, number), 1):
        yield batch
        for bar in bars:
            bar.draw('precise BN', done, number, began)
        if done % _LINE_EVERY == 0 and done < number:
            runner.logger.info(f'PreciseBN [{done}/{number}]')
