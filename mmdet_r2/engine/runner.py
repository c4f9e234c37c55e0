"""mmengine's Runner with safe reading, atomic writing and exact resuming."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import mmengine
import torch
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import BaseLoop, set_random_seed
from mmengine.runner import Runner as _Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import __version__
from ..errors import CheckpointError, ConfigError
from ..evaluation.collect import run_on_main
from ..files import write_text
from ..launcher import end_with_launcher
from ..registry import LOOPS, MODELS, RUNNERS, build, built_from
from ..zoo import checkpoint_weights, read_checkpoint
from ..zoo import load_checkpoint as zoo_load_checkpoint
from .checkpoint import CheckpointHook, latest_checkpoint, write_atomically
from .checks import base_batch_size, check_loader, check_milestones, check_optimizer
from .data_order import build_eval_dataloader, build_train_dataloader
from .processes import COLLECTIVE_TIMEOUT, init_cpu_group, port_errors
from .resume import (
    Differences,
    check_classes,
    check_length,
    compare_configs,
    load_optimizer,
    load_schedules,
    read_resumable,
)
from .schedule import stretch_checkpoints, stretch_loop, stretch_schedulers
from .screen import keep_listings_off, stop_on_full_disk, summary
from .state import (
    RngState,
    gather_rng_states,
    get_rng_state,
    pending_gradients,
    restore_gradients,
    set_rng_state,
    unpack_rng_state,
    untouched_rng,
)
from .work_folder import disk_errors, held, new_log_folder, set_aside

_T = TypeVar('_T')


@RUNNERS.register_module()
class Runner(_Runner):
    """mmengine's Runner; build it with :func:`~mmdet_r2.engine.build_runner`.

    A checkpoint also holds the random states of every rank, the position in the data and gradients
    not yet applied, so that a resumed run is the run that was interrupted: bit for bit where the
    computation itself is deterministic.
    """

    # ------------------------------------------------------------------------------------- set-up

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Processes, threads and, if distributed, the process group: NCCL on GPUs, gloo on CPUs."""
        dist_cfg = dict(env_cfg.get('dist_cfg') or {})
        dist_cfg.setdefault('timeout', COLLECTIVE_TIMEOUT)
        if self.distributed:
            end_with_launcher()
        if not torch.cuda.is_available():
            dist_cfg['backend'] = 'gloo'
            if self.distributed and not is_distributed():
                # mmengine's set-up selects a GPU first
                with built_from(f'--launcher {self.launcher}'), port_errors():
                    init_cpu_group(self.launcher, dist_cfg['timeout'])
        with built_from('env_cfg'), port_errors():
            super().setup_env({**env_cfg, 'dist_cfg': dist_cfg})
        self._timestamp = run_on_main(lambda: new_log_folder(self.work_dir, self._timestamp))
        self.channels_last = env_cfg.get('channels_last')
        self._running = False
        self._replay: RngState | None = None
        self._as_of: RngState | None = None
        self._resumed: dict[str, Any] | None = None
        # what load_from holds, between the initialisation and its loading
        self._beginning: dict[str, Any] | None = None
        self._differences = Differences()
        # whether to resume was asked for; that training begins, for the first time
        self._asked_to_resume: bool | None = None
        self._begins = False
        #: File of the checkpoint that the run continues from.
        self.resumed_from: str | None = None

    def set_randomness(
        self, seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """mmengine's, with errors that name the key."""
        if (
            not isinstance(seed, int | None)
            or isinstance(seed, bool)
            or not 0 <= (seed or 0) < 2**32
        ):
            raise ConfigError(
                f'randomness.seed is {seed!r}, expected a whole number from 0 to 4294967295, or '
                'None'
            )
        with built_from('randomness'):
            super().set_randomness(seed, diff_rank_seed, deterministic)

    def build_logger(
        self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """mmengine's logger, whose listings go to the file only, and which does not lose a line
        where the disk is full."""
        named = isinstance(log_level, str) and isinstance(logging.getLevelName(log_level), int)
        if not named and not isinstance(log_level, int):
            raise ConfigError(f'log_level is {log_level!r}, expected DEBUG, INFO, WARNING or ERROR')
        logger = super().build_logger(log_level, log_file, **kwargs)
        keep_listings_off(logger)
        stop_on_full_disk(logger)
        return logger

    def build_log_processor(self, log_processor: Any) -> Any:
        """mmengine's, with errors that name the key."""
        with built_from('log_processor', log_processor):
            made = super().build_log_processor(log_processor)
        window = getattr(made, 'window_size', 1)
        if not isinstance(window, int) or window < 1:
            raise ConfigError(
                f'log_processor.window_size is {window!r}, expected a whole number from 1'
            )
        return made

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """mmengine's, with errors that name the key; backends are connected now rather than at
        their first use."""
        with built_from('visualizer', visualizer):
            made = super().build_visualizer(visualizer)
        if is_main_process():
            for i, backend in enumerate(made._vis_backends.values()):
                name = type(backend).__name__
                with built_from(f'visualizer.vis_backends.{i}: {name} cannot be used'):
                    backend.experiment  # noqa: B018
        return made

    def build_model(self, model: Any) -> nn.Module:
        """mmengine's, with errors that name the key."""
        return build(MODELS, model, 'model')

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        super()._log_env(env_cfg)
        self.logger.info(summary(self.logger, self.experiment_name, self.world_size, self.seed))

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Model on its device, in its memory layout, inside DDP if distributed.

        Options of DDP come from ``model_wrapper_cfg``; by default buffers are not broadcast and
        unused parameters are not searched for: every parameter gets a gradient in every step.
        """
        if is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        if self.channels_last is None:
            # a few per cent faster on CPUs; on GPUs it pays with mixed precision only
            self.channels_last = not torch.cuda.is_available()
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
            if getattr(getattr(model, 'data_preprocessor', None), 'channels_last', False) is None:
                model.data_preprocessor.channels_last = True
        kinds = {type(module).__name__ for module in model.modules()}
        if not self.distributed:
            if self._train_loop is not None and kinds & {'SyncBatchNorm', 'NaiveSyncBN'}:
                self.logger.warning(
                    'SyncBN has nobody to share statistics with: there is one process and no '
                    'process group, so it trains as BN.'
                )
            return super().wrap_model(model_wrapper_cfg, model)
        options = dict(model_wrapper_cfg or {})
        options.setdefault('type', 'MMDistributedDataParallel')
        options.setdefault('broadcast_buffers', False)
        options.setdefault('find_unused_parameters', self.cfg.get('find_unused_parameters', False))
        if torch.cuda.is_available():
            options.setdefault('gradient_as_bucket_view', True)
            return super().wrap_model(options, model)
        if 'SyncBatchNorm' in kinds:
            self.logger.warning(
                'SyncBN does not run on CPUs: its statistics are those of each process alone '
                "(norm_cfg type 'NaiveSyncBN' shares them)."
            )
            model = revert_sync_batchnorm(model)
        return build(MODEL_WRAPPERS, options, 'model_wrapper_cfg', module=model)

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """The training loop; ``by_epoch`` picks one where no ``type`` is given."""
        if isinstance(loop, BaseLoop):
            return loop
        loop = dict(loop)
        if 'by_epoch' in loop:
            by_epoch = loop.pop('by_epoch')
            loop.setdefault('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
        loop.setdefault('type', 'EpochBasedTrainLoop')
        if not isinstance(self._train_dataloader, DataLoader):
            self._train_dataloader = build_train_dataloader(self._train_dataloader, self._run_seed)
        return build(LOOPS, loop, 'train_cfg', runner=self, dataloader=self._train_dataloader)

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """mmengine's, with errors that name the key."""
        return self._evaluation_loop('val', loop, super().build_val_loop)

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """mmengine's, with errors that name the key."""
        return self._evaluation_loop('test', loop, super().build_test_loop)

    def _evaluation_loop(
        self, split: str, loop: Any, build_loop: Callable[[Any], BaseLoop]
    ) -> BaseLoop:
        if isinstance(loop, BaseLoop):
            return loop
        loader = getattr(self, f'_{split}_dataloader')
        if not isinstance(loader, DataLoader):
            loader = build_eval_dataloader(loader, self._run_seed, f'{split}_dataloader')
            setattr(self, f'_{split}_dataloader', loader)
        evaluator = getattr(self, f'_{split}_evaluator')
        if not isinstance(evaluator, Evaluator):
            evaluator = list(evaluator) if isinstance(evaluator, tuple) else evaluator
            with built_from(f'{split}_evaluator', evaluator):
                setattr(self, f'_{split}_evaluator', self.build_evaluator(evaluator))
        with built_from(f'{split}_cfg', loop):
            loop = build_loop(loop)
        return _checked(loop, f'{split}_evaluator')

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """mmengine's, with errors that name the key."""
        if isinstance(optim_wrapper, dict):
            check_optimizer(optim_wrapper)
        with built_from('optim_wrapper', optim_wrapper):
            return super().build_optim_wrapper(optim_wrapper)

    def build_evaluator(self, evaluator: Any) -> Any:
        """The metrics of a config, by :class:`mmdet_r2.evaluation.Evaluator` unless it says
        otherwise."""
        if isinstance(evaluator, dict) and 'metrics' in evaluator:
            evaluator = dict(evaluator)
        elif isinstance(evaluator, (dict, list, tuple)):
            evaluator = dict(metrics=evaluator)
        return super().build_evaluator(evaluator)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's, with errors that name the key, and a warning of what has no effect."""
        for warning in check_milestones(scheduler):
            self.logger.warning(warning)
        with built_from('param_scheduler', scheduler):
            return super().build_param_scheduler(scheduler)

    @property
    def _run_seed(self) -> int:
        """The seed that all ranks share."""
        different = self._randomness_cfg.get('diff_rank_seed', False)
        return self.seed - self.rank if different else self.seed

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None
    ) -> None:
        """Scale learning rates with the batch, as ``auto_scale_lr`` asks; say what was done, or
        what would be advisable.

        The batch is what makes one step: images per process x processes x accumulated batches.

        Raises:
            ConfigError: scaling is asked for but ``base_batch_size`` is missing or no number.
        """
        options = auto_scale_lr or {}
        enabled = options.get('enable', False)
        if not enabled and options.get('base_batch_size') is None:
            return
        base = base_batch_size(options)
        several = isinstance(optim_wrapper, OptimWrapperDict)
        wrappers = list(optim_wrapper.values()) if several else [optim_wrapper]
        for wrapper in wrappers:
            batch = self.train_dataloader.batch_sampler.batch_size * self.world_size
            batch *= wrapper._accumulative_counts
            before = wrapper.optimizer.param_groups[0]['lr']
            after = before * batch / base
            change = f'lr {before:g} -> {after:g} (batch {base} -> {batch})'
            if not enabled:
                if batch != base:
                    self.logger.warning(
                        f'The learning rate is that of batch {base}, the batch is {batch}: '
                        f'--auto-scale-lr would set {change}.'
                    )
                continue
            self.logger.info(change)
            for group in wrapper.optimizer.param_groups:
                group['lr'] = group['lr'] * batch / base
            if wrapper.base_param_settings is not None:
                wrapper.base_param_settings['lr'] *= batch / base

    def register_hooks(
        self,
        default_hooks: dict[str, Any] | None = None,
        custom_hooks: list[Any] | None = None,
    ) -> None:
        """Register the hooks of the config, those that count steps in those of the stretched
        schedule."""
        if self._train_loop is not None and (self.auto_scale_lr or {}).get('enable', False):
            default_hooks = self._stretch_schedule(default_hooks)
        super().register_hooks(default_hooks, custom_hooks)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """mmengine's, with errors that name the key."""
        with built_from('default_hooks', hooks):
            super().register_default_hooks(hooks)

    def register_custom_hooks(self, hooks: list[Any]) -> None:
        """mmengine's, with errors that name the key."""
        for i, hook in enumerate(hooks):
            with built_from(f'custom_hooks.{i}', hook):
                self.register_hook(hook)

    def _stretch_schedule(self, default_hooks: dict[str, Any] | None) -> dict[str, Any] | None:
        """Where ``auto_scale_lr.schedule`` asks for it, as many images as with the batch that the
        schedule was made for; returns the hooks with their intervals adapted.

        Raises:
            ConfigError: ``auto_scale_lr.base_batch_size`` is missing or no number.
        """
        options, loop = self.auto_scale_lr, self._train_loop
        if not options.get('schedule', False) or isinstance(loop, BaseLoop):
            return default_hooks
        base = base_batch_size(options)
        check_loader(self._train_dataloader)
        # Accumulated batches are steps of the loop, each with its own images.
        batch = self._train_dataloader['batch_size'] * self.world_size
        factor = base / batch
        self._train_loop = stretch_loop(loop, factor)
        self.param_schedulers = stretch_schedulers(self.param_schedulers, factor)
        before, after = loop.get('max_iters'), self._train_loop.get('max_iters')
        change = f'{before} -> {after} iterations' if after else 'as many epochs, warm-up adapted'
        self.logger.info(f'schedule: {change} (batch {base} -> {batch})')
        hooks = dict(default_hooks or {})
        if 'checkpoint' in hooks:
            hooks['checkpoint'] = stretch_checkpoints(hooks['checkpoint'], factor)
        return hooks

    def dump_config(self) -> None:
        """Called by mmengine as soon as there is a runner; but see :meth:`_write_config`."""

    @property
    def _config_file(self) -> Path:
        name = Path(self.cfg.filename).name if self.cfg.filename else f'{self.timestamp}.py'
        return Path(self.work_dir) / Path(name).with_suffix('.py').name

    def _write_config(self) -> None:
        """Write the config to the work folder, without the variables that were only used while its
        files were read."""
        if is_main_process():
            from ..config_check import known_keys

            write_text(self._config_file, known_keys(self.cfg).pretty_text)

    def _write_first_config(self) -> None:
        # one that is there is of the training, which may be going on
        if not self._config_file.exists():
            self._write_config()

    # ------------------------------------------------------------------------------------- folder

    @contextmanager
    def _own_folders(self) -> Iterator[None]:
        """Within, no other run trains in the folders of this one.

        Raises:
            ConfigError: one does already; on every rank.
        """
        with ExitStack() as stack:

            def hold() -> None:
                for folder in self._folders():
                    if not stack.enter_context(held(folder)):
                        self.logger.warning(
                            f'{folder}: its file system has no locks; another run in it would not '
                            'be noticed'
                        )

            run_on_main(hold)
            yield

    def _folders(self) -> list[str]:
        """The work folder, and that of the checkpoints where it is another."""
        hooks = [hook for hook in self.hooks if isinstance(hook, CheckpointHook)]
        folders = [hook.folder(self.work_dir) for hook in hooks]
        return list(dict.fromkeys([self.work_dir, *(f for f in folders if '://' not in f)]))

    def _set_earlier_aside(self) -> None:
        """Move what an earlier run left in the folders, unless it is this one that is resumed; when
        all that is read from there has been read."""
        folders = self._folders()
        inside = self.resumed_from is None or any(
            os.path.realpath(os.path.dirname(self.resumed_from)) == os.path.realpath(folder)
            for folder in folders
        )
        if (self._asked_to_resume and inside) or not is_main_process():
            return
        hooks = [hook for hook in self.hooks if isinstance(hook, CheckpointHook)]
        template = hooks[0].filename_tmpl if hooks else 'iter_{}.pth'
        for folder in folders:
            moved = set_aside(
                folder,
                f'earlier_{self.timestamp}',
                template,
                self.timestamp,
                str(self._config_file),
            )
            if moved:
                self.logger.warning(moved)

    # -------------------------------------------------------------------------------- random states

    def restore_rng(self) -> None:
        """Called by the loops right before a step: the first one after a resume continues with the
        saved random states."""
        if self._replay is not None:
            set_rng_state(self._replay)
            self._replay = None

    def validate(self) -> None:
        """Called by the training loops: a validation that leaves the random numbers of training as
        they are, also those that a resumed run has yet to continue with."""
        if self._replay is not None:
            set_rng_state(self._replay)
        with untouched_rng() as state, self.rng_as_of(state):
            self.val_loop.run()

    @contextmanager
    def rng_as_of(self, state: RngState) -> Iterator[None]:
        """Checkpoints written within carry ``state``: that of training, not of what runs in
        between."""
        former, self._as_of = self._as_of, state
        try:
            yield
        finally:
            self._as_of = former

    # ---------------------------------------------------------------------------------- checkpoints

    def train(self) -> nn.Module:
        """Train, from the start or from where a checkpoint left off; returns the (wrapped)
        model."""
        if self._asked_to_resume is None:
            self._asked_to_resume, self._begins = self._resume, True
        with disk_errors(self.work_dir), self._own_folders():
            if self._resume:
                self._find_checkpoint()
            self._check_parts()
            return self._set_up_and_run(super().train)

    def val(self) -> dict[str, Any]:
        """Metrics on the validation data."""
        self._write_first_config()
        return self._set_up_and_run(super().val)

    def test(self) -> dict[str, Any]:
        """Metrics on the test data."""
        self._write_first_config()
        return self._set_up_and_run(super().test)

    def _check_parts(self) -> None:
        """Raise for names of parts that the model has not."""
        modules = dict(_unwrapped(self.model).named_modules())
        for key in ('activation_checkpointing', 'efficient_conv_bn_eval'):
            names = self.cfg.get(key) or []
            for name in [names] if isinstance(names, str) else names:
                if name not in modules:
                    raise ConfigError(f'{key}: the model has no part {name!r}')

    def _set_up_and_run(self, run: Callable[[], _T]) -> _T:
        """What fails before the loop starts is the config's fault; a failure of the loop keeps its
        traceback."""
        self._running = False
        try:
            with disk_errors(self.work_dir):
                return run()
        except Exception:
            if self._running:
                raise
            with built_from('config', self.cfg):
                raise

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """mmengine's; notes when setting up ends."""
        self._running |= fn_name in ('before_train', 'before_val', 'before_test')
        super().call_hook(fn_name, **kwargs)

    def _maybe_compile(self, target: str) -> None:
        with built_from('compile'):
            super()._maybe_compile(target)

    def _init_model_weights(self) -> None:
        if self._resumed is not None:  # all are about to be replaced
            return
        if self._load_from is not None:
            self._leave_out_pretrained(self._load_from)
        with built_from('model', self.cfg.model):
            super()._init_model_weights()

    def _leave_out_pretrained(self, checkpoint: str) -> None:
        """Fetch no weights for a backbone that ``checkpoint`` is about to replace."""
        modules = [module for module in self.model.modules() if _is_pretrained(module)]
        if not modules:
            return
        self._beginning = read_checkpoint(checkpoint)
        weights = checkpoint_weights(self._beginning, checkpoint)
        if not any('backbone' in name for name in weights):
            return
        for module in modules:
            module.init_cfg = None  # type: ignore[assignment]
        self.logger.info(
            f'load_from={checkpoint!r} has the backbone: its pretrained weights are not fetched'
        )

    def _find_checkpoint(self) -> None:
        """Read the checkpoint to resume from before anything is built: the data order needs its
        seed."""
        if self._load_from is None:
            path = run_on_main(lambda: latest_checkpoint(self.work_dir))
            if path is None:
                self.logger.warning(
                    f'Nothing to resume in {self.work_dir}: training starts from the beginning.'
                )
                self._resume = False
                return
            self._load_from = path
        checkpoint = read_resumable(self._load_from)
        meta = checkpoint['meta']
        self._differences = compare_configs(self._load_from, meta, self.cfg)
        if self._differences:
            self.logger.warning(
                f'{self._load_from} is resumed with other settings: {self._differences}'
            )
        self._resumed = checkpoint
        seed, wanted = meta.get('seed'), self._randomness_cfg.get('seed')
        if not isinstance(seed, int):
            return
        if self._randomness_cfg.get('diff_rank_seed', False) and 'mmdet_r2' not in checkpoint:
            seed = None
        if wanted is not None and seed is not None and wanted != seed:
            self.logger.warning(
                f'randomness.seed is {wanted}, but the run being resumed has {seed}, which is used.'
            )
        self._randomness_cfg = {**self._randomness_cfg, 'seed': seed}
        self._seed = set_random_seed(
            seed=seed,
            deterministic=self._randomness_cfg.get('deterministic', False),
            diff_rank_seed=self._randomness_cfg.get('diff_rank_seed', False),
        )

    def load_or_resume(self) -> None:
        """Load the weights of ``load_from``, or continue the run it belongs to."""
        if not self._has_loaded and self._load_from is not None:
            if self._resume:
                self.resume(self._load_from)
            else:
                self.load_checkpoint(self._load_from)
        if self._begins:
            self._begins = False
            self._set_earlier_aside()
            self._write_config()

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = False
    ) -> dict[str, Any]:
        """Weights of any known layout into the model; returns the checkpoint as read, with the
        weights as the model has them.

        Raises:
            CheckpointError: unreadable, or of another model; see
                :func:`mmdet_r2.zoo.load_checkpoint`.
        """
        beginning, self._beginning = self._beginning, None
        checkpoint = dict(beginning or read_checkpoint(filename, map_location))
        model = _unwrapped(self.model)
        # a test has its own check of the classes, and changes nothing
        loop = self._train_loop
        dataset = loop.dataloader.dataset if isinstance(loop, BaseLoop) else None
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        zoo_load_checkpoint(model, checkpoint, strict=strict, classes=classes)
        # Hooks (EMA) copy what they are given: the converted names, not those of the file.
        checkpoint['state_dict'] = model.state_dict()
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self._has_loaded = True
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'cpu',
    ) -> None:
        """Continue the run that wrote ``filename``: weights, optimiser, schedules, logs, position
        in the data, random states.

        Raises:
            CheckpointError: unreadable, without what resuming needs, or of another model.
        """
        if self._resumed is None:
            self._load_from = filename
            self._find_checkpoint()
        assert self._resumed is not None
        checkpoint, self._resumed = self._resumed, None
        self._resume = True
        meta = checkpoint['meta']
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = _unwrapped(self.model)
        check_classes(filename, checkpoint, self.train_dataloader.dataset)
        zoo_load_checkpoint(model, checkpoint, strict=True)
        self.train_loop._epoch = meta['epoch']
        self.train_loop._iter = meta['iter']
        if isinstance(checkpoint.get('message_hub'), dict):
            self.message_hub.load_state_dict(checkpoint['message_hub'])
        self._continue(checkpoint.get('mmdet_r2'), filename)
        end = check_length(filename, self.train_loop)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        same = True
        if resume_param_scheduler:
            if self.param_schedulers is not None:
                self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            saved = checkpoint.get('param_schedulers')
            same = load_schedules(
                filename, self.param_schedulers, saved, self.train_loop, self._differences
            )
        if resume_optimizer:
            if 'optimizer' not in checkpoint:
                raise CheckpointError(
                    f'{filename}: has no optimizer and cannot be resumed; '
                    'to start from its weights set load_from instead.'
                )
            load_optimizer(
                filename,
                self.optim_wrapper,
                checkpoint['optimizer'],
                model,
                self._differences,
                keep_settings=not same,
            )
        self._has_loaded = True
        self.resumed_from = filename
        where = f'epoch {self.epoch + 1}, iteration {self.iter + 1}'
        self.logger.info(f'resumed {filename}: {where}')
        if end:
            self.logger.warning(f'{filename}{end}')

    def _continue(self, extra: dict[str, Any] | None, filename: str) -> None:
        """Position in the data and random states, or a warning why the run will not be the very
        same."""
        if not isinstance(extra, dict) or not set(extra) >= _EXTRA:
            self.logger.warning(
                f'{filename} was not written by mmdet_r2: weights and optimiser are resumed, '
                'random states are not.'
            )
            return
        self.train_loop.validated = extra.get('validated', 0)
        ranks, batch = len(extra['rng']), extra['batch_size']
        here = self.train_dataloader.batch_sampler.batch_size
        if (ranks, batch) != (self.world_size, here):
            self.logger.warning(
                f'{filename} was written by {ranks} processes with batch {batch}, this run has '
                f'{self.world_size} with {here}: it continues at the same iteration with other '
                'data.'
            )
            loop, done = self.train_loop, extra['epoch_progress']
            if not self.train_dataloader.batch_sampler.endless and loop.max_epochs > 1:
                # as many epochs, and as much of the current one, as before
                length = len(self.train_dataloader)
                loop._iter = loop._epoch * length + min(length, round(done * length))
        if self.rank < ranks:
            self._replay = unpack_rng_state(extra['rng'][self.rank])
        restore_gradients(_unwrapped(self.model), extra['gradients'])

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint, atomically where ``out_dir`` is a local folder. All ranks have to
        call it; the first one writes.

        The file is mmengine's (``meta``, ``state_dict``, ``message_hub``, ``optimizer``,
        ``param_schedulers``) and an entry ``mmdet_r2`` with what an exact resume needs besides. It
        can be read with ``torch.load(weights_only=True)`` and mmengine's and numpy's inert types
        allowed.

        Args:
            out_dir, filename: where to.
            file_client_args: not used; in mmengine's signature.
            save_optimizer, save_param_scheduler: include them.
            meta: entries beside the usual ones; ``epoch`` and ``iter`` are those to continue with.
            by_epoch: whether, without ``meta``, the call comes from the end of an epoch or of a
                step.
            backend_args: of mmengine's file backend, for remote folders.
        """
        rng = gather_rng_states(self._as_of or get_rng_state())
        gradients = self._pending_gradients() if save_optimizer else {}
        if not is_main_process():
            return
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
        meta.update(
            cfg=self.cfg.pretty_text,
            seed=self._run_seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            mmengine_version=mmengine.__version__,
            mmdet_r2_version=__version__,
        )
        dataset = self.train_dataloader.dataset
        if getattr(dataset, 'metainfo', None):
            meta['dataset_meta'] = _plain(dataset.metainfo)
        length = len(self.train_dataloader)
        checkpoint: dict[str, Any] = {
            'meta': meta,
            'state_dict': _on_cpu(_unwrapped(self.model).state_dict()),
            'message_hub': _on_cpu(self.message_hub.state_dict()),
            'mmdet_r2': {
                'rng': rng,
                'batch_size': self.train_dataloader.batch_sampler.batch_size,
                'epoch_progress': (meta['iter'] - meta['epoch'] * length) / max(1, length),
                'validated': getattr(self.train_loop, 'validated', 0),
                'gradients': gradients,
            },
        }
        if save_optimizer:
            checkpoint['optimizer'] = _on_cpu(self.optim_wrapper.state_dict())
        if save_param_scheduler and self.param_schedulers is not None:
            schedulers = self.param_schedulers
            if isinstance(schedulers, dict):
                states: Any = {
                    name: [s.state_dict() for s in part] for name, part in schedulers.items()
                }
            else:
                states = [scheduler.state_dict() for scheduler in schedulers]
            checkpoint['param_schedulers'] = states
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        if '://' in str(out_dir) or backend_args:
            mmengine.runner.save_checkpoint(
                checkpoint,
                mmengine.fileio.join_path(out_dir, filename, backend_args=backend_args),
                backend_args=backend_args,
            )
        else:
            write_atomically(checkpoint, Path(out_dir) / filename)

    def _pending_gradients(self) -> dict[str, Tensor]:
        wrapper = self.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict) or wrapper._accumulative_counts == 1:
            return {}
        gradients = pending_gradients(_unwrapped(self.model))
        if self.world_size > 1:
            # Ranks have not exchanged theirs yet; the mean, on every rank, gives the same step.
            for gradient in gradients.values():
                all_reduce(gradient, op='mean')
        return gradients


# What of a checkpoint's entry `mmdet_r2` every version has written.
_EXTRA = {'rng', 'batch_size', 'epoch_progress', 'gradients'}


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _on_cpu(state: Any) -> Any:
    return apply_to(state, lambda x: hasattr(x, 'cpu'), lambda x: x.cpu())


def _plain(value: Any) -> Any:
    """``value`` of tuples, lists, dictionaries, texts and numbers only: readable without unpickling
    objects."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            type(value)(_plain(item) for item in value)
            if type(value) in (list, tuple)
            else [_plain(item) for item in value]
        )
    if hasattr(value, 'tolist'):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _checked(loop: BaseLoop, key: str) -> BaseLoop:
    """The loop, if its evaluator, which may be of any kind, takes its data set."""
    check = getattr(getattr(loop, 'evaluator', None), 'check_dataset', None)
    if check is not None:
        check(loop.dataloader.dataset, key)
    return loop


def _is_pretrained(module: nn.Module) -> bool:
    init_cfg = getattr(module, 'init_cfg', None)
    return isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'
