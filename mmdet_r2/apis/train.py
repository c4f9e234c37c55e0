"""Training a config."""

from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config import load_config
from ..engine import Runner, build_runner
from ..errors import CheckpointError, ConfigError


def train(
    config: 'str | Path | Config',
    *,
    work_dir: str | Path | None = None,
    resume: 'bool | str | Path' = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    auto_scale_schedule: bool = False,
    launcher: str = 'none',
    overrides: dict[str, Any] | None = None,
) -> Runner:
    """Train ``config`` and return the Runner that did it (``runner.model`` is the trained model).

    Args:
        config: path, bare name, or ``Config``; see :func:`mmdet_r2.config.load_config`.
        work_dir: folder for checkpoints and logs; else the config's, else ``work_dirs/<name of the
            config>``.
        resume: True continues from the newest checkpoint of the work folder, and starts from the
            beginning if there is none; a path continues from that checkpoint.
        amp: compute in bfloat16, or float16 on GPUs without it.
        auto_scale_lr: scale the learning rate with the batch, from
            ``auto_scale_lr.base_batch_size``.
        auto_scale_schedule: scale the learning rate, and the number of steps so that as many images
            are seen: iterations, milestones, warm-up, validation and checkpoint intervals.
        launcher: 'pytorch' (torchrun), 'slurm', 'mpi', or 'none' for one process.
        overrides: dotted config keys and their values, as on the command line.

    Raises:
        UserError: config, data or checkpoint cannot be used; see there.
        InvalidLossError: a loss was not finite; see :class:`mmdet_r2.engine.InvalidLossHook`.
    """
    runner = build_runner(
        training_config(
            config,
            work_dir=work_dir,
            resume=resume,
            amp=amp,
            auto_scale_lr=auto_scale_lr,
            auto_scale_schedule=auto_scale_schedule,
            launcher=launcher,
            overrides=overrides,
        )
    )
    runner.train()
    return runner


def training_config(
    config: 'str | Path | Config',
    *,
    work_dir: str | Path | None = None,
    resume: 'bool | str | Path' = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    auto_scale_schedule: bool = False,
    launcher: str = 'none',
    overrides: dict[str, Any] | None = None,
) -> Config:
    """The config that :func:`train` runs, for the same arguments."""
    config = load_config(config, overrides)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if config.get(key) is None:
            raise ConfigError(f'{config.filename or "config"}: {key} is missing, needed to train.')
    if work_dir is not None:
        config.work_dir = str(work_dir)
    config.launcher = launcher
    if amp:
        _use_amp(config)
    if auto_scale_lr or auto_scale_schedule:
        if (config.get('auto_scale_lr') or {}).get('base_batch_size') is None:
            flag = '--auto-scale-schedule' if auto_scale_schedule else '--auto-scale-lr'
            raise ConfigError(
                f'{flag}: the config has no auto_scale_lr.base_batch_size, the batch size '
                'that its learning rate was chosen for.'
            )
        config.auto_scale_lr.enable = True
        if auto_scale_schedule:
            config.auto_scale_lr.schedule = True
    if isinstance(resume, (str, Path)):
        if '://' not in str(resume) and not Path(resume).is_file():
            raise CheckpointError(f'--resume {resume}: no such file.')
        config.resume, config.load_from = True, str(resume)
    elif resume:
        # what load_from names are the weights to start from, not the run to continue
        config.resume, config.load_from = True, None
    return config


def _use_amp(config: Config) -> None:
    kind = config.optim_wrapper.get('type', 'OptimWrapper')
    if kind == 'AmpOptimWrapper':
        return
    if kind != 'OptimWrapper':
        raise ConfigError(f"--amp: optim_wrapper.type is {kind}; it replaces 'OptimWrapper' only.")
    config.optim_wrapper.type = 'AmpOptimWrapper'
    config.optim_wrapper.setdefault('loss_scale', 'dynamic')
