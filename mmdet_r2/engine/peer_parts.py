"""Hooks and schedulers that mmdetection's configs name, under its names and with its arguments."""

from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from torch.optim import Optimizer

from ..errors import ConfigError
from ..registry import HOOKS, TRANSFORMS
from .invalid_loss import InvalidLossError
from .registries import PARAM_SCHEDULERS


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Stops when the loss of every ``interval``-th iteration is not finite, after its step.

    :class:`InvalidLossHook`, which is on by default, looks at every iteration, before the step, and
    says why; this one only counts where that is switched off.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at ``outputs['loss']``.

        Raises:
            InvalidLossError: it is NaN or infinite.
        """
        if outputs is None or not self.every_n_train_iters(runner, self.interval):
            return
        loss = torch.as_tensor(outputs['loss'])
        if not bool(torch.isfinite(loss).all()):
            raise InvalidLossError(f'iteration {runner.iter + 1}: the loss is {loss.sum().item()}')


@HOOKS.register_module()
class MemoryProfilerHook(Hook):
    """Logs the memory of the machine and of this process every ``interval`` iterations of an epoch,
    in training, validation and test. Needs psutil.

    Raises:
        ConfigError: psutil is not installed.
    """

    def __init__(self, interval: int = 50) -> None:
        try:
            import psutil
        except ImportError:
            raise ConfigError(
                'MemoryProfilerHook needs psutil, which is not installed: pip install psutil'
            ) from None
        self._psutil = psutil
        self.interval = interval

    def _after_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        """Called after each iteration of every loop."""
        if not self.every_n_inner_iters(batch_idx, self.interval):
            return
        memory, swap = self._psutil.virtual_memory(), self._psutil.swap_memory()
        process = self._psutil.Process().memory_info().rss
        mega = 2**20
        runner.logger.info(
            f'memory: {memory.available // mega} MB available, {memory.used // mega} MB used '
            f'({memory.percent} %); swap: {swap.free // mega} MB available, '
            f'{swap.used // mega} MB used ({swap.percent} %); this process: {process // mega} MB'
        )


@HOOKS.register_module()
class PipelineSwitchHook(Hook):
    """Gives the training data another pipeline from the epoch ``switch_epoch`` (counted from 0) on,
    also in a run that is resumed behind it.

    Args:
        switch_epoch: the first epoch with the new pipeline.
        switch_pipeline: its transforms. Data sets inside wrappers get it, too.
    """

    def __init__(self, switch_epoch: int, switch_pipeline: list[dict]) -> None:
        self.switch_epoch = switch_epoch
        self.switch_pipeline = switch_pipeline
        self._pipeline = Compose([TRANSFORMS.build(step) for step in switch_pipeline])
        self._switched = False

    def before_train_epoch(self, runner: Any) -> None:
        """Switch when it is time."""
        if self._switched or runner.epoch < self.switch_epoch:
            return
        loader = runner.train_dataloader
        for dataset in _innermost(loader.dataset):
            dataset.pipeline = self._pipeline
        loader._iterator = None  # workers that stay between epochs have the old one
        self._switched = True
        runner.logger.info(f'epoch {runner.epoch + 1}: the training pipeline is switched')


def _innermost(dataset: Any) -> list[Any]:
    """The data sets inside wrappers."""
    inner = vars(dataset).get('datasets') or [vars(dataset).get('dataset')]
    if inner == [None]:
        return [dataset]
    return [one for part in inner for one in _innermost(part)]


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupParamScheduler(_ParamScheduler):
    """Warm a parameter up along a parabola: after t of n = ``end - begin`` steps it is (t / n)^2 of
    its value.

    Args:
        optimizer: whose parameter groups have ``param_name``.
        begin: first step.
        end: the step at which the full value is reached; has to be given.
        by_epoch: steps are epochs, else iterations.

    Raises:
        ConfigError: ``end`` is missing or not after ``begin``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        param_name: str,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if end >= INF or end <= begin:
            raise ConfigError(
                f'{type(self).__name__}: end is {"missing" if end >= INF else end}, expected the '
                f'step after begin={begin} at which warm-up ends'
            )
        self.total_iters = end - begin
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **options: Any,
    ) -> '_ParamScheduler':
        """The same by iterations, of which an epoch has ``epoch_length``."""
        if not by_epoch or not epoch_length:
            raise ConfigError(
                f'{cls.__name__}: convert_to_iter_based needs by_epoch=True and the length of an '
                f'epoch, got by_epoch={by_epoch!r} and {epoch_length!r}'
            )
        begin = begin * epoch_length
        end = end if end >= INF else end * epoch_length
        return cls(*args, begin=begin, end=end, by_epoch=False, **options)

    def _get_value(self) -> list[float]:
        gain = (2 * self.last_step + 1) / self.total_iters**2  # (t + 1)^2 - t^2
        groups = self.optimizer.param_groups
        before = [0.0 if self.last_step == 0 else group[self.param_name] for group in groups]
        return [value + base * gain for value, base in zip(before, self.base_values, strict=True)]


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupLR(LRSchedulerMixin, QuadraticWarmupParamScheduler):
    """Of the learning rate; see :class:`QuadraticWarmupParamScheduler`."""


@PARAM_SCHEDULERS.register_module()
class QuadraticWarmupMomentum(MomentumSchedulerMixin, QuadraticWarmupParamScheduler):
    """Of the momentum; see :class:`QuadraticWarmupParamScheduler`."""
