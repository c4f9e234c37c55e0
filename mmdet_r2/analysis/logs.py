"""Training logs: what a run wrote, line by line, whichever toolbox it was.

Known are mmengine's ``vis_data/scalars.json`` (this package's, and mmdetection 3.x's) and
mmdetection 2.x's ``*.log.json``. Both have one JSON object per line.
"""

import difflib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..files import read_bytes

_BOOKKEEPING = ('mode', 'epoch', 'iter', 'step')


@dataclass
class Log:
    """A run's log.

    Attributes:
        name: to be shown.
        train: records of training, by iteration: ``iteration`` (from 1, over the whole run) and
            ``epoch`` (None where the run counts none) beside what was logged.
        val: records of validations, the same; ``iteration`` is the last one before.
    """

    name: str
    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)

    def keys(self) -> list[str]:
        """Everything that can be drawn, in the order of its first record."""
        found: dict[str, None] = {}
        for record in [*self.train, *self.val]:
            for key, value in record.items():
                if isinstance(value, int | float) and key not in (*_BOOKKEEPING, 'iteration'):
                    found[key] = None
        return list(found)

    def full_key(self, key: str) -> str:
        """The key as it is logged: 'bbox_mAP' may mean 'coco/bbox_mAP'.

        Raises:
            ConfigError: there is no such key.
        """
        keys = self.keys()
        if key in keys:
            return key
        ends = [each for each in keys if each.rpartition('/')[2] == key]
        if ends:
            return ends[0]
        near = difflib.get_close_matches(key, {*keys, *(k.rpartition('/')[2] for k in keys)}, 3)
        hint = f'; did you mean {" or ".join(near)}?' if near else f'; it has {", ".join(keys)}.'
        if not self.val and ('mAP' in key or 'PQ' in key):
            hint = ': the run has not been validated yet.'
        elif key == 'memory':
            hint = ': it was not trained on a GPU, whose memory is logged.'
        raise ConfigError(f'--keys {key}: {self.name} has no such entry{hint}')

    def series(self, key: str) -> 'Series':
        """What was logged under ``key``.

        Numbers that COCO's metric reports as -1 (nothing annotated), and what is not finite, are
        left out.
        """
        full = self.full_key(key)
        of_val = not any(full in record for record in self.train)
        records = [r for r in (self.val if of_val else self.train) if full in r]
        values = np.array([r[full] for r in records], float)
        good = np.isfinite(values) & ~(of_val & (values == -1))
        iterations = np.array([r['iteration'] for r in records], float)
        epochs = None
        if of_val and all(r['epoch'] for r in records):
            epochs = np.array([r['epoch'] for r in records], float)[good]
        elif not of_val and (length := self._epoch_length()):
            epochs = iterations[good] / length
        return Series(values[good], iterations[good], epochs, of_val)

    def _epoch_length(self) -> float:
        """Iterations of an epoch; 0 for a run that counts no epochs."""
        # only what is logged is known: the longest is a whole one, up to the log's interval
        ends = {r['epoch']: r['iteration'] for r in self.train if r['epoch']}
        return max((end / epoch for epoch, end in ends.items()), default=0)


@dataclass
class Series:
    """Values (n,) of one key, at which iterations (n,) and epochs (n,; 1.5 is the middle of the
    second; None for a run that counts none), and whether they are of validations.
    """

    values: np.ndarray
    iterations: np.ndarray
    epochs: np.ndarray | None
    of_val: bool


def read_log(path: str | os.PathLike[str]) -> Log:
    """A log file, or all logs of a work folder as one run: what was trained again after a resume
    counts in its last version.

    Raises:
        DataError: there is no such file or folder, or it is no log.
    """
    path = Path(path)
    files = _files_of(path)
    log = Log(name=_name_of(path))
    for file in files:
        _append(log, file)
    if not log.train and not log.val:
        raise DataError(f'{path}: no line of a training log in it (vis_data/scalars.json).')
    return log


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f'{path}: no such log file or work folder.')
    for pattern in ('scalars.json', 'vis_data/scalars.json', '*/vis_data/scalars.json'):
        if files := sorted(path.glob(pattern)):
            # folders of one work folder are named by the time the run began
            return files
    if files := sorted(path.glob('*.log.json')):
        return files
    raise DataError(
        f'{path}: no log in this folder; expected TIME/vis_data/scalars.json, or *.log.json of '
        'mmdetection 2.x.'
    )


def _name_of(path: Path) -> str:
    """The work folder's name rather than 'scalars'."""
    if path.name == 'scalars.json' and path.parent.name == 'vis_data':
        path = path.parent.parent
        # TIME is no name, but the folder above it is
        if path.name.replace('_', '').isdigit() and path.parent.name:
            return f'{path.parent.name}/{path.name}'
    return path.name.removesuffix('.json').removesuffix('.log') or str(path)


def _append(log: Log, file: Path) -> None:
    try:
        lines = read_bytes(file, 'log').decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f'{file}: not a readable log ({error}).') from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # a run that is being written, or was killed
                continue
            raise DataError(
                f'{file}: line {number} is no JSON; expected one record per line, as in '
                'vis_data/scalars.json.'
            ) from None
        if not isinstance(record, dict):
            raise DataError(f'{file}: line {number} is no record (a JSON object).')
        records.append(record)
    old = any('mode' in record for record in records)
    length = _epoch_length(records) if old else 0
    by_epoch = any(record.get('epoch') for record in [*log.train, *records])
    for record in records:
        validation = _is_validation(record)
        if validation is None:
            continue
        if validation:
            last = log.train[-1] if log.train else {}
            iteration = int(last.get('iteration', 0))
            epoch = record.get('epoch', last.get('epoch'))
            if not last:  # nothing but validations: steps are all there is
                iteration = int(record.get('step') or record.get('epoch') or 0)
            elif not by_epoch:  # a step is an iteration; the last is seldom logged
                iteration = max(iteration, int(record.get('step') or 0))
            if log.val and _same_validation(log.val[-1], record, iteration):
                log.val.pop()
            log.val.append({**record, 'iteration': iteration, 'epoch': epoch})
            continue
        if old:
            iteration = (record.get('epoch', 1) - 1) * length + record.get('iter', 0)
        else:
            iteration = int(record.get('step') or record.get('iter') or 0)
        for part in (log.train, log.val):
            while part and part[-1]['iteration'] >= iteration:
                part.pop()
        log.train.append({**record, 'iteration': int(iteration), 'epoch': record.get('epoch')})


def _same_validation(before: dict, record: dict, iteration: int) -> bool:
    """Whether a validation was done again: that of a checkpoint, by a run resumed from it."""
    same_step = (before['iteration'], before.get('step')) == (iteration, record.get('step'))
    return same_step and set(before) == {*record, 'iteration', 'epoch'}


def _epoch_length(records: Sequence[dict]) -> int:
    """Iterations of an epoch, as far as mmdetection 2.x logs them: it counts anew in each. 0 for a
    run by iterations, which counts on.
    """
    train = [r for r in records if r.get('mode') == 'train']
    pairs = itertools.pairwise(train)
    new = [(a, b) for a, b in pairs if b.get('epoch', 1) > a.get('epoch', 1)]
    if new and all(b.get('iter', 0) > a.get('iter', 0) for a, b in new):
        return 0
    return max((r.get('iter', 0) for r in train), default=0)


def _is_validation(record: dict) -> bool | None:
    """None for a line that is neither: mmdetection 2.x begins with the environment."""
    if 'mode' in record:
        return record['mode'] == 'val'
    if not any(key in record for key in ('step', 'iter', 'epoch')):
        return None
    return 'lr' not in record and 'iter' not in record and 'loss' not in record


@dataclass
class TrainTime:
    """Seconds per iteration of a run, by epoch (or by stretch between validations).

    Attributes:
        unit: 'epoch', or 'part' for a run that counts none.
        means: of each one's records, by number.
        total: seconds of all iterations that are logged, validations and pauses left out.
    """

    unit: str
    means: dict[int, float]
    total: float

    @property
    def slowest(self) -> int:
        """Number of the slowest epoch."""
        return max(self.means, key=lambda key: self.means[key])

    @property
    def fastest(self) -> int:
        """Number of the fastest epoch."""
        return min(self.means, key=lambda key: self.means[key])

    @property
    def mean(self) -> float:
        """Mean over epochs."""
        return float(np.mean(list(self.means.values())))

    @property
    def std(self) -> float:
        """Standard deviation over epochs."""
        return float(np.std(list(self.means.values())))


def train_time(log: Log, *, include_outliers: bool = False) -> TrainTime:
    """Seconds per iteration of each epoch.

    Args:
        log: of the run.
        include_outliers: count each epoch's first record, too, which has the start of the data
            loader in it. It counts in any case where it is the only one.

    Raises:
        DataError: no times are logged.
    """
    parts: dict[int, list[dict]] = {}
    unit = 'epoch' if any(record.get('epoch') for record in log.train) else 'part'
    stops = [record['iteration'] for record in log.val]
    for record in log.train:
        if 'time' not in record:
            continue
        part = sum(stop < record['iteration'] for stop in stops) + 1
        parts.setdefault(record.get('epoch') or part, []).append(record)
    if not parts:
        raise DataError(f"{log.name}: no 'time' in any record of training.")
    means, total, before = {}, 0.0, 0
    for number, records in parts.items():
        chosen = records if include_outliers else (records[1:] or records)
        means[number] = float(np.mean([record['time'] for record in chosen]))
        for record in records:
            total += record['time'] * max(0, record['iteration'] - before)
            before = record['iteration']
    return TrainTime(unit, means, total)
