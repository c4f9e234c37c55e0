"""Writing checkpoints so that a killed process never loses the one it had, and keeping the last few
and the best."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook as _CheckpointHook

from ..errors import CheckpointError, ConfigError
from ..registry import HOOKS

_TEMPORARY = '.tmp-'


def write_atomically(content: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save(content)`` to ``path``, which is at every moment either the old file or the
    whole new one.

    The bytes go to a file beside it, are forced to disk, and take the name in one step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}{_TEMPORARY}{os.getpid()}')
    try:
        with open(temporary, 'wb') as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(text: str, path: str | os.PathLike[str]) -> None:
    """The same for a small text file."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}{_TEMPORARY}{os.getpid()}')
    with open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system lets us."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(handle)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete what a process killed while writing left in ``folder``."""
    for file in Path(folder).glob(f'.*{_TEMPORARY}*'):
        process = file.name.rpartition('-')[2]
        if not (process.isdigit() and _alive(int(process))):
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def latest_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest checkpoint of a work folder that can be read, or None.

    ``last_checkpoint`` is believed first; if what it names is gone or damaged, the ``epoch_*`` and
    ``iter_*`` files are tried, newest first.
    """
    from ..zoo import read_checkpoint

    folder = Path(folder)
    candidates = []
    pointer = folder / 'last_checkpoint'
    if pointer.is_file():
        name = pointer.read_text(encoding='utf-8').strip()
        # the folder may have been moved since
        candidates += [Path(name), folder / Path(name).name] if name else []
    files = [f for pattern in ('epoch_*.pth', 'iter_*.pth') for f in folder.glob(pattern)]
    candidates += sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    for file in candidates:
        if file.is_file():
            try:
                read_checkpoint(file)
            except CheckpointError:
                continue
            return str(file)
    return None


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
        work_dir = runner.work_dir
        self.out_dir = work_dir if self.out_dir is None else self.out_dir
        self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
        if self.out_dir != work_dir:
            name = Path(work_dir).name
            self.out_dir = self.file_backend.join_path(self.out_dir, name)
        runner.logger.info(f'Checkpoints will be saved to {self.out_dir}.')
        info = runner.message_hub.runtime_info
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        elif self.save_best:
            names = {key: f'best_ckpt_{key}' for key in self.key_indicators}
            self.best_ckpt_path_dict = {key: info.get(name) for key, name in names.items()}
        self.keep_ckpt_ids = deque(info.get('keep_ckpt_ids', []))
        self._saved = self._resumed_own(runner)
        if is_main_process() and Path(self.out_dir).is_dir():
            remove_leftovers(self.out_dir)

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
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [number for number in self.keep_ckpt_ids if number != step] + [step]
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._saved = (step, meta['iter'], getattr(runner.train_loop, 'validated', 0))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
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
            write_text_atomically(self.last_ckpt, Path(runner.work_dir) / 'last_checkpoint')
            for number in outdated:
                self._remove(
                    self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(number))
                )

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
        single = len(self.key_indicators) == 1
        names = {key: 'best_ckpt' if single else f'best_ckpt_{key}' for key in self.key_indicators}
        former = {key: info.get(name) for key, name in names.items()}
        if single:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(self.key_indicators)
        super()._save_best_checkpoint(runner, metrics)
        for key, name in names.items():
            current = info.get(name)
            if single:
                self.best_ckpt_path = current
            else:
                self.best_ckpt_path_dict[key] = current
            if former[key] and former[key] != current and is_main_process():
                self._remove(former[key])
        barrier()

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
