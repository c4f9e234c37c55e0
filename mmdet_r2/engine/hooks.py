"""Checks and reports of a run that mmengine has no hooks for."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook
from mmengine.hooks import Hook
from mmengine.hooks import LoggerHook as _LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from torch import nn

from ..errors import ConfigError
from ..registry import HOOKS
from ..zoo import classes_differ, spelt_alike
from .work_folder import disk_errors


@HOOKS.register_module()
class NumClassCheckHook(Hook):
    """Compares ``num_classes`` of the box and mask heads with the classes of the data set, and
    classes of validation with those of training; on by default.

    Raises:
        ConfigError: they differ; the message names the head, both numbers and the annotation file.
    """

    def before_run(self, runner: Any) -> None:
        """Check the training data, before weights are fetched."""
        if isinstance(runner._train_loop, BaseLoop):
            self._check(runner, runner.train_dataloader.dataset)
            if isinstance(runner._val_loop, BaseLoop):
                check_same_classes(runner.train_dataloader.dataset, runner.val_dataloader.dataset)

    def before_val(self, runner: Any) -> None:
        """Check the validation data."""
        self._check(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Any) -> None:
        """Check the test data."""
        self._check(runner, runner.test_dataloader.dataset)

    @staticmethod
    def _check(runner: Any, dataset: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_num_classes(model, dataset)


def check_num_classes(model: nn.Module, dataset: Any) -> None:
    """Raise unless every box and mask head of ``model`` has as many classes as ``dataset``.

    Args:
        model: a detector; only modules whose name has ``bbox_head`` or ``mask_head`` and that have
            ``num_classes`` are looked at.
        dataset: anything with ``metainfo``; one without ``classes`` is not checked. Of a panoptic
            one, ``thing_classes`` count.

    Raises:
        ConfigError: a head has another number.
    """
    metainfo = getattr(dataset, 'metainfo', None) or {}
    classes = metainfo.get('thing_classes') or metainfo.get('classes')
    if classes is None:
        return
    if isinstance(classes, str):
        raise ConfigError(
            f"metainfo.classes: '{classes}' is a text, not a tuple of names (write ('{classes}',))."
        )
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        part = name.rstrip('.0123456789').rpartition('.')[2]
        if part not in ('bbox_head', 'mask_head') or not isinstance(number, int):
            continue
        if number != len(classes):
            shown = ', '.join(classes[:3]) + (', ...' if len(classes) > 3 else '')
            raise ConfigError(
                f'model.{name}.num_classes is {number} but the data set has {len(classes)} classes '
                f'({shown}; {_describe(dataset)}). Set it to {len(classes)}, or metainfo.classes '
                'of the data set.'
            )


def check_same_classes(train: Any, val: Any) -> None:
    """Raise where labels of training mean other classes in validation."""
    found, expected = ((getattr(d, 'metainfo', None) or {}).get('classes') for d in (train, val))
    if not found or not expected:
        return
    difference = classes_differ(spelt_alike(found), spelt_alike(expected), 'train_dataloader')
    if difference:
        raise ConfigError(
            f'val_dataloader.dataset.metainfo.classes are not those of training: {difference}. '
            f'({_describe(val)})'
        )


def _describe(dataset: Any) -> str:
    while hasattr(dataset, 'dataset'):  # wrappers
        dataset = dataset.dataset
    kind = type(dataset).__name__
    file = getattr(dataset, 'ann_file', None)
    return f'{kind}, {file}' if file else kind


@HOOKS.register_module()
class BoxConventionHook(Hook):
    """Compares how the detector and its training data measure boxes; on by default.

    Raises:
        ConfigError: one of the two counts pixels, the other does not.
    """

    def before_run(self, runner: Any) -> None:
        """Check the training data, before weights are fetched."""
        if isinstance(runner._train_loop, BaseLoop):
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            check_box_convention(model, runner.train_dataloader.dataset)


def check_box_convention(model: nn.Module, dataset: Any) -> None:
    """Raise where a detector that counts pixels (a box coder decodes with ``offset=1``) is given
    boxes that do not (no :class:`PixelBoxes` in a pipeline), or the other way round: every box
    would be a pixel off.

    Args:
        model: a detector.
        dataset: one with a ``pipeline``, or a wrapper of such; others are not checked.

    Raises:
        ConfigError: the two differ.
    """
    coders = [getattr(module, 'bbox_coder', None) for module in model.modules()]
    if not any(coder is not None for coder in coders):
        return
    model_counts = any(getattr(coder, 'decode_offset', 0) for coder in coders)
    for part in _parts(dataset):
        transforms = getattr(getattr(part, 'pipeline', None), 'transforms', None)
        if transforms is None:
            continue
        kinds = [type(transform).__name__ for transform in transforms]
        if 'LoadAnnotations' not in kinds or ('PixelBoxes' in kinds) == model_counts:
            continue
        if model_counts:
            raise ConfigError(
                'the model counts pixels (bbox_coder.offset=1), but the training pipeline of '
                f"{_describe(part)} gives other boxes: put dict(type='PixelBoxes') right before "
                'PackDetInputs.'
            )
        raise ConfigError(
            f'the training pipeline of {_describe(part)} counts pixels (PixelBoxes), but the model '
            'does not: remove that transform, or use a model of configs/maskrcnn_benchmark/.'
        )


def _parts(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from _parts(part)
    elif hasattr(dataset, 'dataset'):
        yield from _parts(dataset.dataset)
    else:
        yield dataset


@HOOKS.register_module()
class LoggerHook(_LoggerHook):
    """mmengine's hook, which logs validations of a run that counts steps at their step: its epoch
    is always 0."""

    def before_run(self, runner: Any) -> None:
        """Settle what validations are counted in."""
        super().before_run(runner)
        if isinstance(runner._train_loop, IterBasedTrainLoop):
            self.log_metric_by_epoch = False

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log."""
        with disk_errors(self._file(runner)):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Log."""
        with disk_errors(self._file(runner)):
            super().after_val_epoch(runner, metrics)

    @staticmethod
    def _file(runner: Any) -> Path:
        return Path(runner.log_dir) / 'vis_data/scalars.json'


@HOOKS.register_module()
class ProgressHook(Hook):
    """One line at the foot of a terminal: a bar, the step, the time left, the loss. Nothing where
    output goes to a file.

    Args:
        stream: where to draw; stderr by default.
        min_interval: seconds between two drawings.
    """

    priority = 'LOWEST'

    def __init__(self, stream: TextIO | None = None, min_interval: float = 0.2) -> None:
        self.stream = stream
        self.min_interval = min_interval
        self._start = (0, time.monotonic())
        self._drawn = -float('inf')
        self._line = ''

    def before_run(self, runner: Any) -> None:
        """Make log lines start on a clean line."""
        self.stream = self.stream or sys.stderr
        self.active = is_main_process() and self.stream.isatty()
        if self.active:
            for handler in runner.logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.addFilter(self._clear)

    def after_run(self, runner: Any) -> None:
        """Leave a clean line behind."""
        self._clear()
        for handler in runner.logger.handlers:
            handler.removeFilter(self._clear)

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._start = (runner.iter, time.monotonic())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw."""
        if self.active:
            loss = outputs.get('loss') if isinstance(outputs, dict) else None
            text = '' if loss is None else f'loss {float(loss.detach()):.4f}'
            self._draw('train', runner.iter + 1, runner.max_iters, text)

    def before_val_epoch(self, runner: Any) -> None:
        """Start the clock."""
        self._val_start = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw."""
        self.draw('val', batch_idx + 1, len(runner.val_dataloader), self._val_start)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw."""
        self.draw('test', batch_idx + 1, len(runner.test_dataloader), self._val_start)

    def draw(self, mode: str, done: int, total: int, began: float) -> None:
        """Draw ``done`` of ``total`` passes of something else than training, which ``began`` then
        (``time.monotonic()``)."""
        if self.active:
            start, self._start = self._start, (0, began)
            self._draw(mode, done, total, '')
            self._start = start

    def _draw(self, mode: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now - self._drawn < self.min_interval and done < total:
            return
        self._drawn = now
        first, began = self._start
        left = (now - began) / max(1, done - first) * (total - done)
        width = 24
        filled = width * done // max(1, total)
        line = f'{mode} [{"#" * filled}{"." * (width - filled)}] {done}/{total}'
        line += f'  ETA {timedelta(seconds=round(left))}  {text}'
        self._line = line[: max(20, shutil.get_terminal_size().columns - 1)]
        assert self.stream is not None
        self.stream.write(f'\r\033[K{self._line}')
        self.stream.flush()
        if done == total:
            self._clear()

    def _clear(self, record: logging.LogRecord | None = None) -> bool:
        """Wipe the line; as a filter of a log handler, let the record pass."""
        if self._line and self.stream is not None:
            self.stream.write('\r\033[K')
            self.stream.flush()
            self._line = ''
        return True


@HOOKS.register_module()
class EarlyStoppingHook(_EarlyStoppingHook):
    """mmengine's; a run that is resumed goes on counting where it was."""

    priority = 'LOW'  # counts before the checkpoint of the validation is written

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the best score, and how often it was not reached."""
        checkpoint['early_stopping'] = dict(
            monitor=self.monitor, wait_count=self.wait_count, best_score=self.best_score
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Take them up, where the run is resumed and watches the same number."""
        state = checkpoint.get('early_stopping')
        if runner._resume and isinstance(state, dict) and state.get('monitor') == self.monitor:
            self.wait_count, self.best_score = state['wait_count'], state['best_score']


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Says after an epoch, and at the end, how many images could not be read and were replaced by
    others; on by default."""

    def __init__(self) -> None:
        self._known = 0

    def after_train_epoch(self, runner: Any) -> None:
        """Report when the number has grown."""
        files = unreadable_images(runner.train_dataloader.dataset)
        if len(files) > self._known:
            self._known = len(files)
            shown = ', '.join(files[:5]) + (', ...' if len(files) > 5 else '')
            runner.logger.warning(
                f'{len(files)} training images cannot be read and were replaced by others: {shown}'
            )


def unreadable_images(dataset: Any) -> list[str]:
    """Paths of the images that ``dataset`` has failed to read so far in this process and its
    workers; wrappers are looked through."""
    if hasattr(dataset, 'datasets'):
        return [file for part in dataset.datasets for file in unreadable_images(part)]
    marks = getattr(dataset, 'unreadable', None)
    if marks is None:
        return unreadable_images(dataset.dataset) if hasattr(dataset, 'dataset') else []
    indices = marks.nonzero().flatten().tolist()
    return [str(dataset.get_data_info(index).get('img_path')) for index in indices]
