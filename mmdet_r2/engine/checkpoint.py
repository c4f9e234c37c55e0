"""Writing checkpoints so that a killed process never loses the one it had, and keeping the last few
and the best."""

import logging
import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.logging import print_log

from ..errors import CheckpointError, ConfigError
from ..files import remove_unfinished, replacing, write_text
from ..registry import HOOKS
from .resume import read_resumable

#: In a work folder, the name of its newest checkpoint; relative to the folder, which may be moved.
POINTER = 'last_checkpoint'


def write_atomically(content: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save(content)`` to ``path``, which is at every moment either the old file or the
    whole new one, also after a power cut.

    Raises:
        DataError: it cannot be written, such as where the disk is full.
    """
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        noting = _Noting(file)
        try:
            torch.save(content, noting)
            file.flush()
        except RuntimeError:  # what torch's writer makes of a full disk
            if noting.error is None:
                raise
            raise noting.error from None


class _Noting:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def latest_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest checkpoint of a work folder that a run can continue from; None if it has none.

    ``last_checkpoint`` is believed first: a checkpoint of that name in the folder, else the one at
    that place. If it is gone or damaged the one before is taken, with a warning that names both.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    problems = []
    for file in _newest_first(Path(folder)):
        if '://' not in file and not os.path.isfile(file):
            problems.append(f'{file}: no such file')
            continue
        try:
            read_resumable(file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            print_log(f'{problems[0]}; resuming {file} instead', 'current', logging.WARNING)
        return file
    if problems:
        raise CheckpointError(f'{problems[0]}; {folder} has no other checkpoint to resume from')
    return None


def _newest_first(folder: Path) -> list[str]:
    """What may be the newest checkpoint of a work folder, likeliest first."""
    pointer = folder / POINTER
    name = pointer.read_text(encoding='utf-8', errors='replace').strip() if _exists(pointer) else ''
    if '://' in name:
        return [name]
    found: list[Path] = []
    if name:
        named = [folder / Path(name).name, folder / name]  # the latter is `name` if absolute
        found.append(next(filter(_exists, named), named[-1]))
    # those before it, of a file name's last number; then whatever is there
    kinds = [_numbered(path.parent, path.name) for path in found]
    default = [_numbered(folder, name) for name in ('epoch_0.pth', 'iter_0.pth')]
    for files in [*kinds, *sorted(filter(None, default), key=_changed, reverse=True)]:
        found += [file for file in files if file not in found]
    return [str(file) for file in found]


def _numbered(folder: Path, example: str) -> list[Path]:
    """The files of ``folder`` whose names are ``example`` but for its last number: those of smaller
    numbers first, from the largest on, then the larger ones."""
    match = re.fullmatch(r'(.*?)(\d+)(\D*)', example)
    if match is None or not folder.is_dir():
        return []
    head, own, tail = match.groups()
    names = re.compile(f'{re.escape(head)}(\\d+){re.escape(tail)}')
    numbers = {
        int(found.group(1)): file
        for file in folder.iterdir()
        if (found := names.fullmatch(file.name))
    }
    order = sorted(numbers, key=lambda number: (number > int(own) > 0, -number))
    return [numbers[number] for number in order]


def _changed(files: list[Path]) -> float:
    return max(file.stat().st_mtime for file in files)


def _exists(path: Path) -> bool:
    return os.path.isfile(path)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's hook, which never deletes an old checkpoint before the new one is on disk, and
    keeps few by default.

    Args:
        interval: epochs (or steps) between checkpoints; -1 for none but the last.
        by_epoch: whether ``interval`` counts epochs or steps.
        save_optimizer: include the optimiser, without which a run cannot be resumed.
        save_param_scheduler: include the schedules.
        out_dir: parent of the folder for checkpoints; the work folder by default.
        max_keep_ckpts: how many to keep beside the best; -1 keeps all.
        save_last: save at the end of training whatever ``interval`` says.
        save_best: metric (or metrics) whose best checkpoint is kept too; 'auto' takes the
            evaluator's first; None for no best.
        rule: 'greater' or 'less' is better, per metric; by default told from the metric's name.
        greater_keys, less_keys: parts of metric names that tell the rule.
        filename_tmpl: name of a checkpoint, with ``{}`` for its epoch or step.
        backend_args: of mmengine's file backend, where ``out_dir`` is remote.
        published_keys: write, at the end, copies that hold only these keys, with a hash in the
            name.
        save_begin: epoch (or step) before which nothing is saved.
    """

    # what mmengine tells from a metric's name, and panoptic quality
    _default_greater_keys = [*_CheckpointHook._default_greater_keys, 'PQ']

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = 3,
        save_last: bool = True,
        save_best: str | list[str] | None = 'auto',
        rule: str | list[str] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        filename_tmpl: str | None = None,
        backend_args: dict[str, Any] | None = None,
        published_keys: str | list[str] | None = None,
        save_begin: int = 0,
    ) -> None:
        if max_keep_ckpts == 0:
            raise ConfigError(
                'default_hooks.checkpoint.max_keep_ckpts: 0 would keep nothing; use -1 to keep all.'
            )
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            out_dir=out_dir,
            max_keep_ckpts=max_keep_ckpts,
            save_last=save_last,
            save_best=save_best,
            rule=rule,
            greater_keys=greater_keys,
            less_keys=less_keys,
            filename_tmpl=filename_tmpl,
            backend_args=backend_args,
            published_keys=published_keys,
            save_begin=save_begin,
        )

    def before_train(self, runner: Any) -> None:
        """Settle the folder, recall what a resumed run had kept, clear what a killed one left."""
        self.out_dir = self.folder(runner.work_dir)
        self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        runner.logger.info(f'Checkpoints will be saved to {self.out_dir}.')
        hub = runner.message_hub
        for key, name in self._best_names().items():
            # the best of this folder, which may have been moved or copied, not of where it was
            best = self._here(hub.runtime_info.get(name) or '')
            hub.update_info(name, best)
            if name == 'best_ckpt':
                self.best_ckpt_path = best
            else:
                self.best_ckpt_path_dict[key] = best
        self.keep_ckpt_ids = deque(hub.runtime_info.get('keep_ckpt_ids', []))
        self._former: dict[str, str | None] = {}
        self._saved = self._resumed_own(runner)
        if is_main_process():
            if Path(self.out_dir).is_dir():
                remove_unfinished(self.out_dir)
            if self._saved is not None:
                for name in hub.runtime_info.get('outdated_ckpts', []):
                    self._remove(name)

    def folder(self, work_dir: str) -> str:
        """Where the checkpoints of a run with this work folder go."""
        if self.out_dir is None or self.out_dir == work_dir:
            return work_dir
        backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        return backend.join_path(self.out_dir, Path(work_dir).name)

    def _best_names(self) -> dict[str, str]:
        """By metric, the entry of the message hub with the path of its best checkpoint."""
        if not self.save_best:
            return {}
        single = len(self.key_indicators) == 1
        return {key: 'best_ckpt' if single else f'best_ckpt_{key}' for key in self.key_indicators}

    def _here(self, path: str) -> str | None:
        """The file of that name in the folder of this run; None if there is none."""
        path = self.file_backend.join_path(self.out_dir, os.path.basename(path))
        return path if self.file_backend.isfile(path) else None

    def _resumed_own(self, runner: Any) -> tuple[int, int, int] | None:
        """What :meth:`_save_checkpoint_with_step` noted of the checkpoint that the run continues
        from, if it is one of this folder."""
        step = runner.epoch if self.by_epoch else runner.iter
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        if runner.resumed_from is None or not _same_file(runner.resumed_from, path):
            return None
        self.last_ckpt = path
        return step, runner.iter, getattr(runner.train_loop, 'validated', 0)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        hub = runner.message_hub
        outdated: list[str] = []
        if self.max_keep_ckpts > 0:
            kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
            outdated = [self.filename_tmpl.format(n) for n in kept[: -self.max_keep_ckpts]]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :])
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        outdated += self._former_best(hub.runtime_info)
        # in the checkpoint, too: a run that is killed before they are removed does it on resume
        hub.update_info('outdated_ckpts', outdated)
        self._saved = (step, meta['iter'], getattr(runner.train_loop, 'validated', 0))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            inside = self.out_dir == runner.work_dir
            write_text(Path(runner.work_dir) / POINTER, name if inside else self.last_ckpt)
            for name in outdated:
                self._remove(name)

    def _former_best(self, info: dict[str, Any]) -> list[str]:
        """Names of best checkpoints that are no longer the best."""
        formers = [path for name, path in self._former.items() if path and path != info.get(name)]
        return [os.path.basename(path) for path in formers]

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any]) -> None:
        """Keep the best; let the checkpoint of this step hold that it has been validated, so that a
        resumed run does not do it again."""
        super().after_val_epoch(runner, metrics)
        if self._saved is None:
            return
        step, iteration, validated = self._saved
        if iteration == runner.iter and validated != runner.train_loop.validated:
            meta = {'epoch': runner.epoch, 'iter': runner.iter}
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            first = next(iter(metrics))
            try:
                self._init_rule(self.rules, [first])
            except ValueError:
                runner.logger.warning(
                    f'No best checkpoint will be kept: whether more or less of {first} is better '
                    'is not known; '
                    'set default_hooks.checkpoint.save_best and rule.'
                )
                self.save_best = None
                return
        unknown = [key for key in self.key_indicators if key not in metrics]
        if unknown:
            raise ConfigError(
                f'default_hooks.checkpoint.save_best: no metric {", ".join(unknown)}; '
                f'the evaluator gives {", ".join(metrics)}.'
            )
        # mmengine removes the former best before it writes the new one: hide it, and remove it
        # afterwards
        info = runner.message_hub.runtime_info
        names = self._best_names()
        self._former = {name: info.get(name) for name in names.values()}
        if 'best_ckpt' in self._former:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(self.key_indicators)
        super()._save_best_checkpoint(runner, metrics)
        for key, name in names.items():
            if name == 'best_ckpt':
                self.best_ckpt_path = info.get(name)
            else:
                self.best_ckpt_path_dict[key] = info.get(name)
        if is_main_process():
            for name in self._former_best(info):
                self._remove(name)
        self._former = {}
        barrier()

    def _remove(self, name: str) -> None:
        if path := self._here(name):
            self.file_backend.remove(path)
