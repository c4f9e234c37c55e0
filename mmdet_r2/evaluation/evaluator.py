"""All metrics of a test or validation, and what can be said about them before the first image."""

import os
import time
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator as MMEngineEvaluator
from mmengine.logging import print_log

from mmdet_r2.datasets.wrappers import Source, sources_of
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import check_writable
from mmdet_r2.registry import EVALUATOR

from .collect import PerImageMetric


@EVALUATOR.register_module()
class Evaluator(MMEngineEvaluator):
    """mmengine's, which fails before inference where metrics and data do not fit.

    Of data sets in a ``ConcatDataset`` each may have a metric of its own: where every data set's
    annotation file is the ``ann_file`` of one, each measures the images of its file only.

    Args:
        metrics: metrics or their configs: one or several.
    """

    def check_dataset(self, dataset: Any, key: str) -> None:
        """Compare the metrics with each other and with the data set; call it before inference, and
        after ``dataset_meta`` was set.

        Args:
            dataset: whose samples will be measured.
            key: of the evaluator in the config, for messages.

        Raises:
            ConfigError: two metrics give numbers of one name; a metric cannot tell the images of
                two data sets apart.
            DataError: a metric's annotation file does not have an image of the data set; what it
                is to write cannot be written.
        """
        self._check_outputs(key)
        metrics = [m for m in self.metrics if isinstance(m, PerImageMetric)]
        self._check_names(metrics, key)
        sources = sources_of(dataset)
        for kind in {type(metric) for metric in metrics}:
            same = [metric for metric in metrics if type(metric) is kind]
            own = [_numbers(sources, metric.ann_file) for metric in same]
            each_has_one = set().union(*own) == set(range(len(sources)))
            for metric, numbers in zip(same, own):
                metric.confine(None)
                if metric.left_out and not numbers:  # a data set of the file has said it
                    print_log(f'{metric.ann_file}: {metric.left_out}', 'current', level=30)
                measured = sources
                if each_has_one and 0 < len(numbers) < len(sources):
                    measured = [sources[number] for number in sorted(numbers)]
                    size = sum(len(d) for source in measured for d in source.datasets)
                    metric.confine(numbers, size)
                    print_log(f'{_called(metric)}: {size} entries of that file only', 'current')
                _check_ids(metric, measured, key)

    def _check_outputs(self, key: str) -> None:
        writer: dict[str, Any] = {}
        for metric in self.metrics:
            files = metric.output_files() if hasattr(metric, 'output_files') else []
            for path in files:
                other = writer.setdefault(path, metric)
                if getattr(other, 'ann_file', None) != getattr(metric, 'ann_file', None):
                    raise ConfigError(
                        f'{key}: {_called(other)} and {_called(metric)} would both write {path}: '
                        'set a different outfile_prefix for each'
                    )
                check_writable(path)

    def _check_names(self, metrics: Sequence[PerImageMetric], key: str) -> None:
        seen: dict[str, PerImageMetric] = {}
        for metric in metrics:
            for name in sorted(metric.result_names()):
                other = seen.setdefault(f'{metric.prefix}/{name}', metric)
                if other is not metric:
                    raise ConfigError(_name_twice(f'{metric.prefix}/{name}', other, metric, key))

    def evaluate(self, size: int) -> dict[str, float]:
        """The numbers of all metrics.

        Args:
            size: images in the data set.

        Raises:
            ConfigError: two metrics give a number of one name.
        """
        start = time.perf_counter()
        values: dict[str, float] = {}
        of: dict[str, Any] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in values:
                    raise ConfigError(_name_twice(name, of[name], metric, 'evaluator'))
                values[name], of[name] = value, metric
        seconds = time.perf_counter() - start
        print_log(f'evaluation of {size} images took {seconds:.1f} s', 'current')
        return values


def _name_twice(name: str, one: Any, other: Any, key: str) -> str:
    return (
        f'{key}: two metrics give {name!r}, {_called(one)} and {_called(other)}: set a different '
        "prefix for each, such as prefix='first'"
    )


def _called(metric: Any) -> str:
    ann_file = getattr(metric, 'ann_file', None)
    return type(metric).__name__ + (f' ({ann_file})' if ann_file else '')


def _numbers(sources: Sequence[Source], ann_file: str | None) -> set[int]:
    """Which sources are of a file."""
    if not ann_file:
        return set()
    path = os.path.realpath(ann_file)
    return {
        number
        for number, source in enumerate(sources)
        if source.ann_file and os.path.realpath(source.ann_file) == path
    }


def _check_ids(metric: PerImageMetric, sources: Sequence[Source], key: str) -> None:
    """Raise where images cannot be told apart, or are not in the metric's file."""
    same_file = len(sources) == 1 and _numbers(sources, metric.ann_file)
    if same_file or (len(sources) == 1 and metric.ann_file is None):
        return
    by_id = metric.ann_file is not None or metric.outfile_prefix is not None
    owner: dict[Any, Source] = {}
    for source in sources:
        for number in source.ids():
            other = owner.setdefault(number, source)
            if other is source or not (by_id or not source.numbered):
                continue
            if not by_id:
                raise ConfigError(
                    f'image id {number!r} is in {other.name} and in {source.name}, and samples do '
                    "not tell which they are of: combine the data sets by mmdet_r2's ConcatDataset"
                )
            option = 'outfile_prefix' if metric.ann_file is None else 'ann_file'
            raise ConfigError(
                f'{key}: image id {number!r} is in {other.name} and in {source.name}, which '
                f'{_called(metric)} cannot tell apart ({option}); give each of the two a metric '
                'with its own ann_file and prefix, or number the images of all files differently'
            )
    known = metric.known_ids()
    if known is None:
        return
    foreign = next((number for number in owner if number not in known), None)
    if foreign is not None:
        raise DataError(
            f'{metric.ann_file}: has no image {foreign!r}, which {owner[foreign].name} has: '
            f'{key} needs an ann_file with all images of the data set, or one metric with its own '
            'ann_file and prefix for each data set'
        )
