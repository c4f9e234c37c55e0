"""Mistakes in a config that mmengine and torch would answer with a traceback."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapper

from ..errors import ConfigError

#: Optimisers whose steps are not those of a training loop.
_UNUSABLE = {
    'LBFGS': 'computes the loss several times in a step, which training does once',
    'SparseAdam': 'takes sparse gradients only, and those of detectors are dense',
}


def check_optimizer(config: Mapping[str, Any]) -> None:
    """Raise where there is no optimiser, or ``optim_wrapper.paramwise_cfg`` scales what it is not
    given, limits gradients to none, or cannot be stepped."""
    several = bool(config) and all(isinstance(one, OptimWrapper) for one in config.values())
    if config.get('optimizer') is None and 'constructor' not in config and not several:
        raise ConfigError('optim_wrapper.optimizer: missing, expected a dictionary with type')
    optimizer, paramwise = config.get('optimizer') or {}, config.get('paramwise_cfg') or {}
    kind = str(optimizer.get('type')).rpartition('.')[2]
    if kind in _UNUSABLE:
        raise ConfigError(f'optim_wrapper.optimizer.type: {kind} {_UNUSABLE[kind]}')
    clip = config.get('clip_grad')
    for key in ('max_norm', 'clip_value'):
        limit = clip.get(key) if isinstance(clip, Mapping) else None
        if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
            raise ConfigError(
                f'optim_wrapper.clip_grad.{key} is {limit!r}, expected a number above 0'
            )
    for scaled, key in (('lr_mult', 'lr'), ('decay_mult', 'weight_decay')):
        scales = [one for one in paramwise if str(one).endswith(scaled)]
        if scales and optimizer.get(key) is None:
            raise ConfigError(
                f'optim_wrapper.optimizer.{key}: missing, and paramwise_cfg.{scales[0]} is a '
                'factor of it.'
            )


def check_milestones(schedulers: Any, key: str = 'param_scheduler') -> list[str]:
    """Warnings of milestones that are never reached, as the scheduler ends before them.

    Args:
        schedulers: configs: one, a list, or a dictionary of lists.
        key: where they stand.

    Raises:
        ConfigError: milestones are no list of whole numbers, and would be passed over in silence;
            a length is no whole number from 1, or a linear start no number above 0.
    """
    if isinstance(schedulers, Mapping) and 'type' not in schedulers:
        parts = [(f'{key}.{name}', part) for name, part in schedulers.items()]
    elif isinstance(schedulers, (list, tuple)):
        parts = [(f'{key}.{index}', part) for index, part in enumerate(schedulers)]
    else:
        if isinstance(schedulers, Mapping):
            _check_divisors(schedulers, key)
        steps = schedulers.get('milestones') if isinstance(schedulers, Mapping) else None
        if steps is None:
            return []
        if not isinstance(steps, (list, tuple)) or not all(map(_is_whole, steps)):
            raise ConfigError(f'{key}.milestones is {steps!r}, expected a list of whole numbers.')
        begin, end = schedulers.get('begin', 0), schedulers.get('end')
        late = [str(step) for step in steps if isinstance(end, int) and step > end - begin]
        if not late:
            return []
        return [f'{key} ends at {end} ({key}.end), before its milestones {", ".join(late)}.']
    return [warning for name, part in parts for warning in check_milestones(part, name)]


def _check_divisors(scheduler: Mapping[str, Any], key: str) -> None:
    for name in ('T_max', 'step_size', 'total_steps'):
        value = scheduler.get(name)
        if value is not None and not (_is_number(value) and _is_whole(value) and value >= 1):
            raise ConfigError(f'{key}.{name} is {value!r}, expected a whole number from 1.')
    start = scheduler.get('start_factor', 1)
    if 'Linear' in str(scheduler.get('type')) and not (_is_number(start) and start > 0):
        raise ConfigError(f'{key}.start_factor is {start!r}, expected a number above 0.')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == int(value)


def base_batch_size(options: Mapping[str, Any]) -> int:
    """``auto_scale_lr.base_batch_size``, of ``options``, which are ``auto_scale_lr``'s."""
    base = options.get('base_batch_size')
    if isinstance(base, int) and base > 0:
        return base
    found = 'missing' if base is None else f'{base!r} is no whole number from 1'
    raise ConfigError(
        f'auto_scale_lr.base_batch_size: {found}; it is the batch size that the learning rate and '
        'the schedule were chosen for.'
    )


def check_loader(config: Mapping[str, Any], key: str = 'train_dataloader') -> None:
    """Raise unless the data loader at ``key`` has a data set, and numbers that a loader can
    have."""
    needed = ('dataset', 'batch_size') if key == 'train_dataloader' else ('dataset',)
    for name in needed:
        if config.get(name) is None:
            raise ConfigError(f'{key}.{name}: missing')
    for name, least in (('batch_size', 1), ('num_workers', 0), ('prefetch_factor', 1)):
        value = config.get(name)
        if value is None and (name == 'prefetch_factor' or name not in config):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f'{key}.{name} is {value!r}, expected a whole number from {least}')
    for name in ('drop_last', 'persistent_workers', 'pin_memory'):
        value = config.get(name)
        if value not in (None, False, True):  # the text 'False' would be true
            raise ConfigError(f'{key}.{name} is {value!r}, expected True or False')
