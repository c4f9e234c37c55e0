"""Mistakes in a config that mmengine and torch would answer with a traceback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError, UserError


@contextmanager
def built_from(key: str) -> Iterator[None]:
    """What is raised within becomes a :class:`ConfigError` of one line that begins with ``key``.

    For building components of mmengine and torch: in code of the user's own, such as a data set, a
    traceback says more.
    """
    try:
        yield
    except UserError:
        raise
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        text = str(error.args[0] if error.args else error).strip()
        raise ConfigError(f'{key}: {text.splitlines()[0] if text else repr(error)}') from error


def check_optimizer(config: Mapping[str, Any]) -> None:
    """Raise where ``optim_wrapper.paramwise_cfg`` scales what the optimiser is not given."""
    optimizer, paramwise = config.get('optimizer') or {}, config.get('paramwise_cfg') or {}
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
        ConfigError: milestones are no list of whole numbers, and would be passed over in silence.
    """
    if isinstance(schedulers, Mapping) and 'type' not in schedulers:
        parts = [(f'{key}.{name}', part) for name, part in schedulers.items()]
    elif isinstance(schedulers, (list, tuple)):
        parts = [(f'{key}.{index}', part) for index, part in enumerate(schedulers)]
    else:
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


def check_loader(config: Mapping[str, Any]) -> None:
    """Raise unless ``train_dataloader`` has a data set, and ``batch_size`` and ``num_workers`` that
    a loader can have."""
    for key in ('dataset', 'batch_size'):
        if config.get(key) is None:
            raise ConfigError(f'train_dataloader.{key}: missing')
    for key, least in (('batch_size', 1), ('num_workers', 0)):
        value = config.get(key, least)
        if not isinstance(value, int) or value < least:
            raise ConfigError(
                f'train_dataloader.{key} is {value!r}, expected a whole number from {least}.'
            )
