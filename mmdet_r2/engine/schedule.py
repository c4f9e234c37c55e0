"""A schedule in steps, made longer or shorter with the batch so that as many images are seen."""

from copy import deepcopy
from typing import Any

#: Keys of schedulers that count steps. ``begin`` and ``end`` are treated apart.
_COUNTS = ('T_max', 'step_size', 'total_steps', 'total_iters')
_NO_END = 10**9  # what mmengine takes for "to the end"
# Their last value is reached end - begin - 1 steps after the first.
_RAMPS = ('LinearLR', 'ConstantLR', 'PolyLR', 'LinearMomentum', 'ConstantMomentum', 'PolyMomentum')


def stretch_loop(train_cfg: dict[str, Any], factor: float) -> dict[str, Any]:
    """``train_cfg`` with ``factor`` times the steps, and validation as much rarer; one that counts
    passes over the data is returned as it is.
    """
    kind = str(train_cfg.get('type')).rpartition('.')[2]
    if train_cfg.get('by_epoch', kind != 'IterBasedTrainLoop'):
        return train_cfg
    stretched = dict(train_cfg)
    for key in ('max_iters', 'val_begin', 'val_interval'):
        if key in stretched:
            stretched[key] = _times(stretched[key], factor)
    if stretched.get('dynamic_intervals'):
        stretched['dynamic_intervals'] = [
            (_times(step, factor) if step else 0, _times(interval, factor))
            for step, interval in stretched['dynamic_intervals']
        ]
    return stretched


def stretch_schedulers(schedulers: Any, factor: float) -> Any:
    """Configs of schedulers (one, a list, or a dictionary of lists) with ``factor`` times the steps
    of those that count steps; those that count passes over the data stay.
    """
    if isinstance(schedulers, dict) and 'type' not in schedulers:
        return {name: stretch_schedulers(part, factor) for name, part in schedulers.items()}
    if isinstance(schedulers, list | tuple):
        return [stretch_schedulers(part, factor) for part in schedulers]
    if not isinstance(schedulers, dict) or schedulers.get('by_epoch', True):
        return schedulers
    stretched = deepcopy(schedulers)
    begin = stretched.get('begin', 0)
    if begin:
        stretched['begin'] = _times(begin, factor)
    end = stretched.get('end')
    if isinstance(end, int) and end < _NO_END:
        ramp = str(stretched['type']).rpartition('.')[2] in _RAMPS
        extra = 1 if ramp else 0
        length = _times(end - begin - extra, factor)
        stretched['end'] = stretched.get('begin', 0) + length + extra
    for key in _COUNTS:
        if isinstance(stretched.get(key), int):
            stretched[key] = _times(stretched[key], factor)
    for key in ('milestones', 'periods'):
        if stretched.get(key):
            stretched[key] = [_times(step, factor) for step in stretched[key]]
    return stretched


def stretch_checkpoints(hook: Any, factor: float) -> Any:
    """The config of a checkpoint hook that counts steps, writing as much more rarely."""
    if not isinstance(hook, dict) or hook.get('by_epoch', True) or hook.get('interval', -1) < 1:
        return hook
    return {**hook, 'interval': _times(hook['interval'], factor)}


def _times(steps: int, factor: float) -> int:
    return max(1, round(steps * factor))
