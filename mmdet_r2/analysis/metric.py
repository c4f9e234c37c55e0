"""The numbers of a results file, without the model."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from ..apis.test import test_config
from ..errors import ConfigError
from ..evaluation import Evaluator
from ..progress import progress
from ..registry import built_from
from .inputs import Tested, read_tested


def evaluate_results(
    config: str | os.PathLike[str],
    results: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
    classwise: bool = False,
    outfile_prefix: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """What ``mmdet-r2 test`` printed when it wrote ``results``, or other metrics of the same
    predictions.

    Args:
        config: that was tested.
        results: the ``.pkl`` file of ``mmdet-r2 test --out``.
        metrics: as ``mmdet-r2 test --eval`` takes them; by default the config's.
        classwise: also print a table of all classes.
        outfile_prefix: also write the results in COCO's format.
        overrides: dotted config keys and their values, as on the command line.

    Returns:
        The numbers, and the metrics' reports: twelve numbers of COCO's, those of each class, ...

    Raises:
        ConfigError, DataError: as of :func:`~mmdet_r2.analysis.inputs.read_tested`; a metric is
            unknown, or of something that the results do not have.
    """
    settings = test_config(
        str(config),
        metrics=metrics,
        classwise=classwise,
        outfile_prefix=outfile_prefix,
        overrides=overrides,
    )
    chosen = [e for e in settings.test_evaluator if e.get('type') != 'DumpDetResults']
    tested = read_tested(config, results, overrides)
    if any(evaluator.get('format_only') for evaluator in chosen) and outfile_prefix is None:
        raise ConfigError(
            'test_evaluator.format_only=True measures nothing; use --cfg-options '
            'test_evaluator.format_only=False.'
        )
    with built_from('test_evaluator', chosen):
        evaluator = Evaluator([dict(one) for one in chosen])
    evaluator.dataset_meta = tested.metainfo
    evaluator.check_dataset(tested.dataset, 'test_evaluator')
    samples = (_sample(tested, number) for number in range(len(tested)))
    for sample in progress(samples, 'reading', total=len(tested)):
        evaluator.process([sample])
    values = evaluator.evaluate(len(tested))
    report: dict[str, Any] = {}
    for metric in evaluator.metrics:
        report.update(getattr(metric, 'report', {}))
    return values, report


def _sample(tested: Tested, number: int) -> dict[str, Any]:
    """One image as a metric is given it in a test: predictions, and the ground truth that results
    files leave out.
    """
    info, result = tested.infos[number], tested.results[number]
    sample = {**result, 'instances': info.get('instances', [])}
    sample.setdefault('img_id', info.get('img_id'))
    sample.setdefault('dataset_index', info.get('dataset_index', 0))
    sample.setdefault('ori_shape', (info['height'], info['width']))
    for name, crowd in (('gt_instances', 0), ('ignored_instances', 1)):
        some = [i for i in sample['instances'] if i.get('ignore_flag', 0) == crowd]
        boxes = np.array([i['bbox'] for i in some], np.float32).reshape(-1, 4)
        labels = np.array([i['bbox_label'] for i in some], np.int64)
        objects = InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels))
        sample[name] = objects.to_dict()
    return sample
