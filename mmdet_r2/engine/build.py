"""A run set up from its config."""

import itertools
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from ..config import load_config
from ..errors import ConfigError
from ..registry import built_from
from ..zoo import read_checkpoint
from .runner import Runner
from .work_folder import disk_errors

#: Hooks of every run, by the name that ``default_hooks`` overrides (or switches off with None).
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    'num_class_check': {'type': 'NumClassCheckHook'},
    'box_convention': {'type': 'BoxConventionHook'},
    'invalid_loss': {'type': 'InvalidLossHook'},
    'unreadable_images': {'type': 'UnreadableImagesHook'},
    'progress': {'type': 'ProgressHook'},
}

#: What of a config is given together.
_TOGETHER = {
    'training': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'validation': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}

_number_of_runs = itertools.count()


def build_runner(config: Config) -> Runner:
    """A Runner for ``config``: checked, in our scope, with our hooks; nothing is trained or read
    yet but the config.

    Args:
        config: as :func:`mmdet_r2.config.load_config` gives it, or any ``Config``; it is copied.
            Without ``work_dir`` the work folder is ``work_dirs/<name of the config>``.

    Raises:
        ConfigError: see :func:`mmdet_r2.config.load_config`; the work folder cannot be written
            to; or the model cannot be built.
    """
    config = load_config(config)
    for key in ('env_cfg', 'randomness'):
        if config.get(key, ()) is None:
            del config[key]
    for split, parts in _TOGETHER.items():
        missing = [key for key in parts if config.get(key) is None]
        if 0 < len(missing) < len(parts):
            raise ConfigError(
                f'{missing[0]} is missing: {", ".join(parts)} go together (None for each: no '
                f'{split})'
            )
    stem = Path(config.filename).stem if config.filename else 'run'
    if not config.get('work_dir'):
        config.work_dir = str(Path('work_dirs') / stem)
    # Loggers and message hubs are found by name: two runs of one process must not share them.
    number = next(_number_of_runs)
    name = config.get('experiment_name') or stem
    config.experiment_name = name if number == 0 else f'{name}-{number}'
    if config.get('visualizer') is not None and number:
        base = config.visualizer.get('name') or 'visualizer'
        config.visualizer.name = f'{base}-{number}'
    hooks = deepcopy(DEFAULT_HOOKS)
    own = [h.get('type') for h in config.get('custom_hooks') or [] if isinstance(h, dict)]
    hooks = {key: hook for key, hook in hooks.items() if hook['type'] not in own}
    for key, hook in (config.get('default_hooks') or {}).items():
        if hook is None and key in hooks:
            del hooks[key]
        else:
            hooks[key] = hook
    config.default_hooks = hooks
    config = Config(
        config._cfg_dict,
        cfg_text=config.text,
        filename=config.filename,
        env_variables=config.env_variables,
        format_python_code=False,  # takes up to a second, and a run asks for its text five times
    )
    safe_loading()
    _check_folder(config.work_dir)
    with built_from('config', config), disk_errors(config.work_dir):
        return Runner.from_cfg(config)


def _check_folder(work_dir: str) -> None:
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        problem = '' if os.access(work_dir, os.W_OK | os.X_OK) else 'it is read-only'
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise ConfigError(
            f'work_dir {work_dir}: nothing can be written there ({problem}); choose another with '
            '--work-dir.'
        )


def safe_loading() -> None:
    """Let every checkpoint that mmengine itself reads pass through our reader, which runs nothing
    that a file carries."""

    def load_safely(filename: str, map_location: Any = None) -> dict[str, Any]:
        return read_checkpoint(filename, map_location or 'cpu')

    for prefix in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefix, load_safely, force=True)
