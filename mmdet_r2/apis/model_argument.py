"""What a user may give as MODEL on a command line or in Python: a name, a checkpoint, the folder of
a run, or a config with a checkpoint.
"""

import ast
import logging
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..config import load_config
from ..config_text import config_values, foreign_code
from ..engine.checkpoint import latest_checkpoint
from ..errors import CheckpointError, ConfigError
from ..zoo import find_model, read_checkpoint, weights_of

_WEIGHTS = ('.pth', '.pt', '.pkl', '.safetensors')


def find_detector(
    model: str | os.PathLike[str] | None, weights: str | os.PathLike[str] | None = None
) -> tuple[str | Config, str]:
    """Config and checkpoint for :func:`~mmdet_r2.apis.init_detector`, from what a user gives of
    them.

    Args:
        model: name of a published model (its weights are meant, unless ``weights`` says otherwise);
            a config file; a checkpoint (path, URL or zoo name), whose config is the published one
            or the one inside; or the folder of a run: its newest ``best_*.pth``, else its last
            checkpoint, which is printed.
        weights: a checkpoint for ``model``, or alone as ``model`` would be.

    Raises:
        ConfigError: no model is given, or weights of a config are not known.
        CheckpointError: nobody published weights of the model; the checkpoint has no config inside
            that can be used; a folder without checkpoints.
    """
    if weights is not None and os.path.isdir(weights):
        weights = run_checkpoint(weights)
    if model is not None and weights is not None:
        return os.fspath(model), os.fspath(weights)
    given = weights if model is None else model
    if given is None:
        raise ConfigError('give the name of a model, a config, or weights of the zoo.')
    if os.path.isdir(given):
        given = run_checkpoint(given)
    elif model is not None and Path(given).suffix not in _WEIGHTS:
        if is_config_file(given) and find_model(given) is None:
            raise ConfigError(
                f'{given}: no published weights belong to this config; give a checkpoint, too.'
            )
        return os.fspath(given), weights_of(given)
    known = find_model(given)
    return known.name if known else config_in(given), os.fspath(given)


def run_checkpoint(folder: str | os.PathLike[str]) -> str:
    """The checkpoint that the folder of a run stands for: its newest ``best_*.pth``, else the
    newest; says which.

    Raises:
        CheckpointError: there is none.
    """
    best = sorted(Path(folder).glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    found = str(best[-1]) if best else latest_checkpoint(folder)
    if found is None:
        raise CheckpointError(f'{folder}: a folder without checkpoints of a run.')
    print_log(f'{folder}: {found}', 'current', logging.INFO)
    return found


def config_in(checkpoint: str | os.PathLike[str]) -> Config:
    """The config inside a checkpoint, taken as data.

    Raises:
        CheckpointError: it has none, or one that needs code to be read or run.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get('meta')
    text = next((meta[key] for key in ('cfg', 'config') if meta.get(key)), None) if meta else None

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(
            f'{checkpoint}: the config inside needs code to be run ({what:.80}); give the config '
            'before the checkpoint.'
        )

    def code(node: ast.expr) -> Any:
        raise refuse(ast.unparse(node))

    values = config_values(text, code)
    if not values or 'model' not in values:
        raise CheckpointError(f'{checkpoint}: no config is inside; give the config before it.')
    if values.get('custom_imports'):
        raise refuse(f'custom_imports: {values["custom_imports"]}')
    if found := foreign_code(values):
        raise refuse(found)
    try:
        return load_config(Config(values))
    except ConfigError as error:
        raise CheckpointError(f'{checkpoint}: the config inside: {error}') from None


def is_config_file(model: Any) -> bool:
    """Whether ``model`` is the path of a config file."""
    return model is not None and Path(model).suffix == '.py' and Path(model).is_file()
