"""Curves of training logs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..errors import ConfigError
from .logs import Log


def plot_curves(
    logs: Sequence[Log],
    keys: Sequence[str],
    *,
    legend: Sequence[str] | None = None,
    title: str | None = None,
    x: str | None = None,
    start_epoch: float = 1,
) -> Figure:
    """One panel per key, in which the runs lie over each other.

    Args:
        logs: of the runs.
        keys: what to draw, such as loss, lr, memory, bbox_mAP; see :meth:`Log.full_key`.
        legend: a name per run, or per run and key (a run's keys adjacent).
        title: above all.
        x: 'iter' or 'epoch'; by default epochs where every run counts them and only validations
            are drawn.
        start_epoch: leave out what was before it.

    Raises:
        ConfigError: a key is unknown, or there are no epochs.
    """
    names = list(legend) if legend else _different([log.name for log in logs])
    if len(names) not in (len(logs), len(logs) * len(keys)):
        raise ConfigError(
            f'--legend has {len(names)} names for {len(logs)} runs and {len(keys)} keys; give one '
            'per run, or one per run and key.'
        )
    series = [[log.series(key) for log in logs] for key in keys]
    if x is None:
        each = [one for row in series for one in row]
        x = 'epoch' if all(one.of_val and one.epochs is not None for one in each) else 'iter'
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(1 + 5 * columns, 0.6 + 3.6 * rows), layout='constrained')
    for k, (key, row) in enumerate(zip(keys, series)):
        # one scale for all: validations begin later than training
        first = figure.axes[0] if k else None
        axes = figure.add_subplot(rows, columns, k + 1, sharex=first)
        for i, (log, one) in enumerate(zip(logs, row)):
            name = names[i * len(keys) + k] if len(names) > len(logs) else names[i]
            if one.epochs is None and (x == 'epoch' or start_epoch > 1):
                raise ConfigError(f'{log.name}: the run counts no epochs; use --x iter.')
            shown = np.ones(len(one.values), bool)
            if one.epochs is not None:
                # the first epoch goes from 0 to 1, and its validation is at 1
                shown = one.epochs >= start_epoch if one.of_val else one.epochs > start_epoch - 1
            at = one.epochs if x == 'epoch' else one.iterations
            assert at is not None
            marker = 'o' if one.of_val or np.count_nonzero(shown) == 1 else None
            axes.plot(
                at[shown], one.values[shown], label=name, marker=marker, markersize=4, linewidth=1.2
            )
        axes.set_xlabel('iteration' if x == 'iter' else 'epoch')
        axes.set_title(key)
        axes.grid(alpha=0.3)
        if len(logs) > 1 or legend:
            axes.legend()
    if title:
        figure.suptitle(title)
    return figure


def _different(names: Sequence[str]) -> list[str]:
    """Names with a number where several are alike."""
    result = []
    for i, name in enumerate(names):
        earlier = names[:i].count(name)
        result.append(f'{name} ({earlier + 1})' if names.count(name) > 1 else name)
    return result
