"""Resume means the same run: a checkpoint beside the run that is to continue from it.

What would give the weights or the optimiser's state another meaning is an error. What else differs
is named, and is as the present config says; the schedule then is that of the config, at the step
that was reached.
"""

import ast
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from ..config_text import config_values
from ..errors import CheckpointError
from ..zoo import checkpoint_dataset_meta, classes_differ, read_checkpoint, spelt_alike

_INSTEAD = 'to start from its weights set load_from instead'
# Of a config what a run computes; paths of logs and the like may change.
_COMPARED = (
    'model',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'val_dataloader',
    'val_cfg',
    'val_evaluator',
    'custom_hooks',
    'randomness',
)
# Keys below these without a say in what is computed.
_NO_MATTER = {
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'timeout',
    'disable_subprocess_warning',
    'init_cfg',  # the weights are the checkpoint's
    'with_cp',
    'outfile_prefix',
    'classwise',
    'seed',  # that of the run is kept
}
_SETTINGS = ('optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'optim_wrapper.constructor')
_SCHEDULE = ('param_scheduler', 'auto_scale_lr', *_SETTINGS)
# State of optimisers that has a value for each one of a weight.
_LIKE_WEIGHTS = {'momentum_buffer', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'sum'}
_SHOWN = 10


def read_resumable(path: str) -> dict[str, Any]:
    """A checkpoint that a run can continue from.

    Raises:
        CheckpointError: unreadable, or it has weights only.
    """
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta')
    places = [meta.get(key) for key in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
    if not all(type(place) is int and place >= 0 for place in places):
        raise CheckpointError(f'{path}: holds weights only and cannot be resumed; {_INSTEAD}')
    return checkpoint


# --------------------------------------------------------------------------------------- configs


class Differences(dict[str, tuple[Any, Any]]):
    """Dotted keys of a config whose values are others than a checkpoint was written with, as
    (there, here); a missing one is None."""

    def touch(self, parts: Iterable[str]) -> bool:
        """Whether one of them is one of ``parts``, or below it."""
        return any(f'{key}.'.startswith(f'{part}.') for key in self for part in parts)

    def __str__(self) -> str:
        shown = [f'{key} {_short(a)} -> {_short(b)}' for key, (a, b) in self.items()]
        more = f' and {len(shown) - _SHOWN} more' if len(shown) > _SHOWN else ''
        return ', '.join(shown[:_SHOWN]) + more


def compare_configs(path: str, meta: Mapping[str, Any], config: Mapping[str, Any]) -> Differences:
    """What of ``config`` differs from the one that ``meta`` of a checkpoint holds; nothing where it
    has none that can be read.

    Raises:
        CheckpointError: the model is another.
    """
    there = config_values(meta.get('cfg'), ast.unparse)
    if there is None:
        return Differences()
    before, now = _flat(there), _flat(config)
    pairs = {key: (before.get(key), now.get(key)) for key in {**now, **before}}
    differences = Differences({key: pair for key, pair in pairs.items() if pair[0] != pair[1]})
    for key, (old, new) in differences.items():
        if old is None or new is None:  # a default, which may be the same; weights are compared
            continue
        if key == 'model.type' or (key.startswith('model.') and key.endswith('.num_classes')):
            raise CheckpointError(
                f'{path}: {key} was {old!r} and is {new!r} now, its weights mean something else; '
                f'{_INSTEAD}'
            )
    return differences


def check_classes(path: str, checkpoint: Mapping[str, Any], dataset: Any) -> None:
    """Raise unless the classes of a checkpoint are those of ``dataset``, in their order."""
    found = (checkpoint_dataset_meta(checkpoint) or {}).get('classes')
    here = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not found or not here or isinstance(here, str):
        return
    difference = classes_differ(spelt_alike(found), spelt_alike(here))
    if difference:
        raise CheckpointError(
            f'{path}: was trained for other classes than train_dataloader has (metainfo.classes): '
            f'{difference}; {_INSTEAD}'
        )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key in _COMPARED:
        _flatten(key, config.get(key), flat)
    return flat


def _flatten(key: str, value: Any, flat: dict[str, Any]) -> None:
    if key.rpartition('.')[2] in _NO_MATTER:
        return
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = _lists(value)
        elif not isinstance(value, (str, int, float, type(None))):
            value = str(value)
        if value is not None:
            flat[key] = value
        return
    for name, item in items:
        _flatten(f'{key}.{name}', item, flat)


def _lists(values: Sequence[Any]) -> list[Any]:
    return [_lists(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for v in values]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:28]}...{text[-28:]}'


# ------------------------------------------------------------------------- optimiser and schedule


def load_optimizer(
    path: str,
    wrapper: Any,
    state: Any,
    model: nn.Module,
    differences: Differences,
    keep_settings: bool,
) -> None:
    """Give an optimiser the state that ``path`` holds; with ``keep_settings`` all but its settings
    (learning rate, weight decay, ...), which stay as they are.

    Raises:
        CheckpointError: it is the state of another optimiser, or of other parameters.
    """
    if isinstance(wrapper, OptimWrapperDict):
        for name, part in wrapper.items():
            load_optimizer(path, part, _entry(path, state, name), model, differences, keep_settings)
        return
    old, new = differences.get('optim_wrapper.optimizer.type', (None, None))
    if old != new:
        raise CheckpointError(
            f'{path}: its optimizer is {old}, optim_wrapper.optimizer.type is {new}; {_INSTEAD}'
        )
    _check_state(path, wrapper.optimizer, state, model)
    groups = wrapper.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != 'params'} for group in groups]
    base = wrapper.base_param_settings
    wrapper.load_state_dict(state)
    if keep_settings:
        for group, kept in zip(wrapper.optimizer.param_groups, settings):
            group.update(kept)
        wrapper.base_param_settings = base


def _entry(path: str, state: Any, name: str) -> Any:
    if not isinstance(state, Mapping) or name not in state:
        raise CheckpointError(f'{path}: its optimizer has no part {name!r}; {_INSTEAD}')
    return state[name]


def _check_state(path: str, optimizer: Any, state: Any, model: nn.Module) -> None:
    def other(reason: str) -> CheckpointError:
        return CheckpointError(
            f'{path}: its optimizer is another than optim_wrapper.optimizer '
            f'({type(optimizer).__name__}): {reason}; {_INSTEAD}'
        )

    groups, values = (
        (state.get('param_groups'), state.get('state')) if isinstance(state, Mapping) else (0, 0)
    )
    if not isinstance(groups, list) or not isinstance(values, Mapping):
        raise other('no param_groups and state')
    here = optimizer.param_groups
    if len(groups) != len(here):
        raise other(f'{len(groups)} param_groups in it, {len(here)} here')
    # flags come with versions of torch, numbers belong to the method
    numbers = {
        key
        for key, value in optimizer.defaults.items()
        if isinstance(value, (float, tuple)) or type(value) is int
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for index, (group, mine) in enumerate(zip(groups, here)):
        if not isinstance(group, Mapping) or not isinstance(group.get('params'), list):
            raise other(f'param_groups.{index} is none')
        lacking = sorted(numbers - set(group))
        if lacking:
            raise other(f'param_groups.{index} has no {", ".join(lacking)}')
        if len(group['params']) != len(mine['params']):
            raise other(
                f'{len(group["params"])} parameters in param_groups.{index}, '
                f'{len(mine["params"])} here'
            )
        for number, parameter in zip(group['params'], mine['params']):
            part = values.get(number)
            for key, value in part.items() if isinstance(part, Mapping) else ():
                if not isinstance(value, Tensor) or key not in _LIKE_WEIGHTS:
                    continue
                if value.shape != parameter.shape:
                    name = names.get(id(parameter), number)
                    raise other(
                        f'{key} of {name} is {tuple(value.shape)}, the parameter '
                        f'{tuple(parameter.shape)}'
                    )


def load_schedules(
    path: str, schedules: Any, saved: Any, loop: Any, differences: Differences
) -> bool:
    """Give schedules of learning rates the state that ``path`` holds; False where they, or what
    they start from, are others than they were: then they are brought to the step that ``loop`` has
    reached, as if they had been in force from the first, and so is the optimiser."""
    flat, states = _all(schedules), _all(saved)
    changed = differences.touch(_SCHEDULE)
    if not changed:
        if len(flat) == len(states) and all(map(_fits, flat, states)):
            for scheduler, state in zip(flat, states):
                scheduler.load_state_dict(state)
            return True
        print_log(
            f'{path}: its schedules (param_schedulers) are others than param_scheduler, which '
            'is used',
            'current',
            logging.WARNING,
        )
    by_steps = isinstance(loop, IterBasedTrainLoop)
    epoch_ends = set() if by_steps else {n * len(loop.dataloader) for n in range(1, loop.epoch + 1)}
    with warnings.catch_warnings():
        # torch: a schedule is stepped before the optimiser
        warnings.filterwarnings('ignore', category=UserWarning)
        for step in range(1, loop.iter + 1):
            for scheduler in flat:
                if not scheduler.by_epoch or step in epoch_ends:
                    scheduler.step()
    return False


def _fits(scheduler: Any, state: Any) -> bool:
    return isinstance(state, Mapping) and set(scheduler.state_dict()) == set(state)


def _all(schedules: Any) -> list[Any]:
    if isinstance(schedules, Mapping):
        return [scheduler for part in schedules.values() for scheduler in part]
    return list(schedules) if isinstance(schedules, Iterable) else []


def check_length(path: str, loop: Any) -> str:
    """'' or, of a run that has reached its end, half a sentence that says so.

    Raises:
        CheckpointError: it is beyond the end.
    """
    for done, total, key in _lengths(loop):
        if done > total:
            raise CheckpointError(
                f'{path}: has reached {key.rpartition("max_")[2]} {done}, but train_cfg.{key} is '
                f'{total}'
            )
        if done == total:
            return f', which is the last (train_cfg.{key}): this run is finished'
    return ''


def _lengths(loop: Any) -> Iterator[tuple[int, int, str]]:
    if isinstance(loop, IterBasedTrainLoop):
        yield loop.iter, loop.max_iters, 'max_iters'
    else:
        yield loop.epoch, loop.max_epochs, 'max_epochs'
