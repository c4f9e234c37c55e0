"""mmengine's training loops, continued exactly where they stopped.

Registered under mmengine's names, which configs use. They differ from it in four things: after a
resume they start at the batch that was next, without reading the ones before; random states are
restored right before that batch; a validation that was due at the checkpoint and not done is done
first; validation leaves the random numbers of training alone.

``validated`` of a loop is the epoch (or step) of its last validation; checkpoints hold it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch import nn

from ..errors import ConfigError
from ..registry import LOOPS
from .data_order import endless_batches

_WITHOUT_VALIDATION = (
    '; to train without validation set val_dataloader, val_cfg and val_evaluator to None'
)


@LOOPS.register_module()
class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """Passes over the data; validates every ``val_interval`` epochs.

    Args:
        runner: the runner that owns the loop.
        dataloader: from :func:`build_train_dataloader`.
        max_epochs: passes over the data.
        val_begin: first epoch after which to validate.
        val_interval: epochs between validations.
        dynamic_intervals: ``(epoch, interval)`` pairs that change ``val_interval`` later on.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        _check_counts('max_epochs', max_epochs, val_interval, dynamic_intervals or ())
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        self.validated = 0

    def run(self) -> nn.Module:
        """Train; returns the (wrapped) model."""
        self.runner.call_hook('before_train')
        if self._iter <= self._epoch * len(self.dataloader):  # not in mid-epoch
            _validate_if_due(self, self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            _validate_if_due(self, self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """One pass, or what is left of it."""
        # A checkpoint written after the last batch of an epoch, but before the epoch's end, leaves
        # none.
        start = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.batch_sampler.seek(self._epoch, start)
        if start < len(self.dataloader):
            for index, data_batch in enumerate(self.dataloader, start):
                self.runner.restore_rng()
                self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_IterBasedTrainLoop):
    """A number of steps, over endless or repeated passes; validates every ``val_interval`` steps.

    Args:
        runner: the runner that owns the loop.
        dataloader: from :func:`build_train_dataloader`.
        max_iters: steps.
        val_begin: first step after which to validate.
        val_interval: steps between validations.
        dynamic_intervals: ``(step, interval)`` pairs that change ``val_interval`` later on.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        _check_counts('max_iters', max_iters, val_interval, dynamic_intervals or ())
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals)
        self.validated = 0

    def run(self) -> nn.Module:
        """Train; returns the (wrapped) model."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        _validate_if_due(self, self._iter, self._max_iters)
        batches: Iterator[Any] = endless_batches(self.dataloader, self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            data_batch = next(batches)
            self.runner.restore_rng()
            self.run_iter(data_batch)
            _validate_if_due(self, self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


def _check_counts(length: str, steps: Any, interval: Any, later: Sequence[Any]) -> None:
    """Raise for a training of no step, or validation every 0 of them."""
    counts = [(length, steps, ''), ('val_interval', interval, _WITHOUT_VALIDATION)]
    counts += [(f'dynamic_intervals.{i}.1', part[1], '') for i, part in enumerate(later)]
    for key, count, hint in counts:
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f'train_cfg.{key} is {count!r}, expected a whole number from 1{hint}')


def _validate_if_due(loop: Any, done: int, total: int) -> None:
    """Validate where ``done`` of ``total`` epochs (or steps) ask for it and it was not done yet."""
    loop._decide_current_val_interval()
    if loop.runner.val_loop is None or done < max(1, loop.val_begin) or loop.validated == done:
        return
    if done % loop.val_interval == 0 or done == total:
        # at once: the checkpoint that its hooks write at the end is one of after the validation
        loop.validated = done
        loop.runner.validate()
