"""Testing a checkpoint on a data set."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

from ..config import load_config
from ..engine import Runner, build_runner, check_num_classes
from ..errors import CheckpointError, ConfigError
from ..files import write_json
from ..inference import prepare_for_inference
from ..models.tta import DetTTAModel
from ..zoo import LoadReport, classes_differ, load_checkpoint, spelt_alike
from .tta import datasets_of, has_views, tta_model, tta_pipeline

#: What --eval takes, by the evaluator that measures it.
METRICS_OF = {
    'CocoMetric': ('bbox', 'segm', 'proposal', 'proposal_fast'),
    'CocoPanopticMetric': ('PQ',),
    'VOCMetric': ('mAP', 'recall'),
}
METRICS = tuple(metric for metrics in METRICS_OF.values() for metric in metrics)


def test(
    config: 'str | Path | Config',
    checkpoint: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    classwise: bool = False,
    out: str | Path | None = None,
    format_only: bool = False,
    outfile_prefix: str | Path | None = None,
    show: bool = False,
    show_dir: str | Path | None = None,
    score_thr: float | None = None,
    wait_time: float = 0.0,
    work_dir: str | Path | None = None,
    launcher: str = 'none',
    prepare: bool = True,
    tta: bool = False,
    overrides: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Run ``checkpoint`` on the config's test data and measure it; the numbers, the same on every
    process.

    ``metrics.json`` in the work folder gets the numbers, COCO's twelve of each metric and those of
    every class.

    Args:
        config: path, bare name, or ``Config``; see :func:`mmdet_r2.config.load_config`.
        checkpoint: path, URL or zoo name; see :func:`mmdet_r2.zoo.load_checkpoint`.
        metrics: of 'bbox', 'segm', 'proposal', 'proposal_fast', 'PQ', 'mAP', 'recall', instead of
            what ``test_evaluator`` says. The first four are CocoMetric's, 'PQ' is
            CocoPanopticMetric's (beside its ``panoptic_X.json`` the file ``instances_X.json`` is
            used for the first four if there is no CocoMetric), the last two are VOCMetric's.
        classwise: also print a table of all classes; VOCMetric always does.
        out: write all predictions to this ``.pkl`` file; see
            :class:`mmdet_r2.evaluation.DumpDetResults`.
        format_only: write COCO result files and measure nothing; ground truth is not needed.
        outfile_prefix: where COCO result files go (``PREFIX.bbox.json``, ``PREFIX.segm.json``,
            ``PREFIX.panoptic.json`` and the folder ``PREFIX.panoptic``); with ``format_only`` by
            default ``results`` in the work folder.
        show: open a window with every image's predictions.
        show_dir: draw every image's predictions beside the ground truth into this folder.
        score_thr: predictions of at most this score are not drawn; else the config's, else 0.3.
        wait_time: seconds that a window stays; 0 waits for a key.
        work_dir: folder for logs and ``metrics.json``; else the config's, else
            ``work_dirs/<name of the config>``.
        launcher: 'pytorch' (torchrun), 'slurm', 'mpi', or 'none' for one process.
        prepare: fold batch norms and use channels-last layout; results agree within 1e-3.
        tta: merge what is found in several views of each image, those of the config's
            ``tta_pipeline`` by its ``tta_model``; by default the config's test scale and those of
            0.5 and 1.5 times the size, each also flipped.
        overrides: dotted config keys and their values, as on the command line.

    Raises:
        ConfigError: the model cannot give what is to be measured; its classes are not the data
            set's.
        CheckpointError: the checkpoint is unreadable, does not fill the model, or has other
            class names than the data set.
        DataError: data cannot be used.
    """
    config = test_config(
        config,
        metrics=metrics,
        classwise=classwise,
        out=out,
        format_only=format_only,
        outfile_prefix=outfile_prefix,
        show=show,
        show_dir=show_dir,
        score_thr=score_thr,
        wait_time=wait_time,
        work_dir=work_dir,
        launcher=launcher,
        tta=tta,
        overrides=overrides,
    )
    runner = build_runner(config)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    # the merging of views has no weights
    detector = model.module if isinstance(model, DetTTAModel) else model
    dataset = runner.test_loop.dataloader.dataset
    check_num_classes(detector, dataset)
    _load(detector, str(checkpoint), dataset)
    if prepare:
        prepare_for_inference(detector)
    values = runner.test()
    if is_main_process() and not format_only:
        _write_report(runner, str(checkpoint), values, augmented=model is not detector)
    return values


# pytest would take the function for a test of its own wherever it is imported
test.__test__ = False  # type: ignore[attr-defined]


def test_config(
    config: 'str | Path | Config',
    *,
    metrics: Sequence[str] | None = None,
    classwise: bool = False,
    out: str | Path | None = None,
    format_only: bool = False,
    outfile_prefix: str | Path | None = None,
    show: bool = False,
    show_dir: str | Path | None = None,
    score_thr: float | None = None,
    wait_time: float = 0.0,
    work_dir: str | Path | None = None,
    launcher: str = 'none',
    tta: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """The config that :func:`test` runs, for the same arguments."""
    config = load_config(config, overrides)
    name = config.filename or 'config'
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        if config.get(key) is None:
            raise ConfigError(f'{name}: {key} is missing, needed to test.')
    if metrics is not None and format_only:
        raise ConfigError('--eval measures and --format-only does not: leave one of them out.')
    if work_dir is not None:
        config.work_dir = str(work_dir)
    elif not config.get('work_dir'):
        config.work_dir = str(
            Path('work_dirs') / (Path(config.filename).stem if config.filename else 'run')
        )
    config.launcher = launcher
    # the checkpoint is read once, before batch norms are folded
    config.load_from, config.resume = None, False
    _choose_views(config, tta)

    evaluators = config.test_evaluator
    evaluators = [*evaluators] if isinstance(evaluators, list | tuple) else [evaluators]
    types = ', '.join(str(e.get('type')) for e in evaluators)
    for wanted, options, takers in (
        (metrics is not None or classwise, '--eval and --classwise', list(METRICS_OF)),
        (
            format_only or outfile_prefix is not None,
            '--format-only and --outfile-prefix',
            ['CocoMetric', 'CocoPanopticMetric'],
        ),
    ):
        if wanted and not any(e.get('type') in takers for e in evaluators):
            raise ConfigError(
                f'{name}: {options} are for {" and ".join(takers)}; test_evaluator is {types}.'
            )
    if metrics is not None:
        evaluators = _chosen(evaluators, metrics, name)
    if format_only and outfile_prefix is None:
        outfile_prefix = Path(config.work_dir) / 'results'
    for evaluator in evaluators:
        if evaluator.get('type') == 'VOCMetric':
            _check_metrics(evaluator.get('metric', 'mAP'), config)
        if evaluator.get('type') not in ('CocoMetric', 'CocoPanopticMetric'):
            continue
        if classwise:
            evaluator.classwise = True
        if format_only:
            evaluator.format_only = True
        if outfile_prefix is not None:
            evaluator.outfile_prefix = str(outfile_prefix)
        if not evaluator.get('format_only'):
            panoptic = evaluator.type == 'CocoPanopticMetric'
            _check_metrics('PQ' if panoptic else evaluator.get('metric', 'bbox'), config)
    if out is not None:
        evaluators.append(ConfigDict(type='DumpDetResults', out_file_path=str(out)))
    config.test_evaluator = evaluators
    if show or show_dir is not None:
        _draw(config, show, show_dir, score_thr, wait_time)
    elif score_thr is not None:
        raise ConfigError('--score-thr is for drawings: give --show-dir or --show with it.')
    return config


test_config.__test__ = False  # type: ignore[attr-defined]


def _chosen(
    evaluators: Sequence[ConfigDict], metrics: Sequence[str], name: str
) -> list[ConfigDict]:
    """The evaluators that measure ``metrics``; those of other kinds stay as they are."""
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f'--eval {metric}: not known; expected {", ".join(METRICS)}.')
    asked = {kind: [m for m in metrics if m in names] for kind, names in METRICS_OF.items()}
    kept = [e for e in evaluators if asked.get(e.get('type'), True)]
    types = {e.get('type') for e in kept}
    for kind in ('CocoPanopticMetric', 'VOCMetric'):
        if asked[kind] and kind not in types:
            raise ConfigError(
                f'{name}: --eval {" ".join(asked[kind])} is for {kind}, which test_evaluator has '
                f'not{_instead(evaluators)}.'
            )
    boxes = asked['CocoMetric']
    panoptic = next((e for e in evaluators if e.get('type') == 'CocoPanopticMetric'), None)
    if boxes and 'CocoMetric' not in types and panoptic is None:
        raise ConfigError(
            f'{name}: --eval {" ".join(boxes)} is for CocoMetric, which test_evaluator has not'
            f'{_instead(evaluators)}.'
        )
    if boxes and 'CocoMetric' not in types and panoptic is not None:
        path = panoptic.get('ann_file') or ''
        folder, file_name = os.path.split(path)
        # COCO's own names: the panoptic file has no masks, but there are those of its things
        instances = os.path.join(folder, file_name.replace('panoptic_', 'instances_', 1))
        if not file_name.startswith('panoptic_') or not os.path.isfile(instances):
            raise ConfigError(
                f'{name}: --eval {" ".join(boxes)} is for CocoMetric, which test_evaluator has '
                f'not; add one with the instance annotations of {path or "the test images"}.'
            )
        kept.append(ConfigDict(type='CocoMetric', ann_file=instances))
    for evaluator in kept:
        if evaluator.get('type') in ('CocoMetric', 'VOCMetric'):
            evaluator.metric = asked[evaluator.type]
    return kept


def _instead(evaluators: Sequence[ConfigDict]) -> str:
    """What --eval could measure with these evaluators."""
    known = [m for e in evaluators for m in METRICS_OF.get(str(e.get('type')), ())]
    return f' (--eval {" or ".join(known)})' if known else ''


def _choose_views(config: Config, tta: bool) -> None:
    """Switch test-time augmentation on where it is asked for."""
    datasets = list(datasets_of(config.test_dataloader.dataset))
    augmented = config.model.get('type') == 'DetTTAModel'
    if tta:
        for dataset in datasets:
            if dataset.get('pipeline'):
                dataset.pipeline = tta_pipeline(config, dataset.pipeline)
        if not augmented:
            config.model = ConfigDict(**tta_model(config), module=config.model)
            augmented = True
    for dataset in datasets:
        if has_views(dataset.get('pipeline') or ()) != augmented:
            have = (
                'the model is DetTTAModel but a test pipeline has no TestTimeAug'
                if augmented
                else 'a test pipeline has TestTimeAug but the model is not DetTTAModel'
            )
            raise ConfigError(f'{config.filename or "config"}: {have}; use --tta.')


def _check_metrics(metrics: str | Sequence[str], config: Config) -> None:
    """Raise unless the model predicts what ``metrics`` measure: said now rather than after all
    images.
    """
    model = config.model.get('module', config.model)  # inside test-time augmentation
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if metric not in METRICS:
            raise ConfigError(f'--eval {metric}: not known; expected {", ".join(METRICS)}.')
        roi_head = model.get('roi_head')
        panoptic = model.get('panoptic_fusion_head') is not None or model.get('rpn_head') is None
        if metric == 'PQ' and not panoptic:
            raise ConfigError(
                f"metric 'PQ' needs panoptic maps, but {model.get('type')} "
                '(model.panoptic_fusion_head is not set) predicts objects only; use --eval bbox.'
            )
        if metric == 'segm' and roi_head is not None and roi_head.get('mask_head') is None:
            raise ConfigError(
                f"metric 'segm' needs masks, but {model.get('type')} (model.roi_head.mask_head is "
                'not set) predicts boxes only; '
                'use --eval bbox.'
            )
        proposals_only = roi_head is None and model.get('rpn_head') is not None
        if metric in ('bbox', 'segm', 'mAP') and proposals_only:
            raise ConfigError(
                f'metric {metric!r} needs classes, but {model.get("type")} without model.roi_head '
                'predicts proposals only; '
                f'use --eval {"recall" if metric == "mAP" else "proposal"}.'
            )


def _draw(
    config: Config,
    show: bool,
    show_dir: str | Path | None,
    score_thr: float | None,
    wait_time: float,
) -> None:
    """Switch the drawing hook on."""
    hooks = config.setdefault('default_hooks', ConfigDict())
    hook = hooks.get('visualization') or ConfigDict(type='DetVisualizationHook')
    hook.update(draw=True, show=show, wait_time=wait_time)
    if show_dir is not None:
        # as given; a relative folder of the hook would lie inside the work folder
        hook.test_out_dir = str(Path(show_dir).absolute())
    if score_thr is not None:
        hook.score_thr = score_thr
    hooks.visualization = hook
    if (config.get('visualizer') or {}).get('type', 'Visualizer') == 'Visualizer':
        config.visualizer = ConfigDict(type='DetLocalVisualizer', name='visualizer')


def _load(model: nn.Module, checkpoint: str, dataset: Any) -> LoadReport:
    """Load the weights of a model to be measured: all of them, for the data set's classes in its
    order.
    """
    report = load_checkpoint(model, checkpoint)
    if report.problem:
        raise CheckpointError(f'{checkpoint} {report.problem}: {report}')
    found = (report.dataset_meta or {}).get('classes')
    metainfo = getattr(dataset, 'metainfo', None) or {}
    expected = metainfo.get('classes')
    # proposals have no class
    if found and expected and getattr(model, 'roi_head', True) is not None:
        difference = classes_differ(spelt_alike(found), spelt_alike(expected))
        if difference:
            raise CheckpointError(
                f"{checkpoint} was trained for other classes than the data set's "
                f'metainfo.classes: {difference}. '
                "Labels would be read wrongly; give metainfo.classes the checkpoint's names in "
                "the checkpoint's order."
            )
    return report


def _write_report(
    runner: Runner, checkpoint: str, values: dict[str, float], augmented: bool
) -> None:
    """``metrics.json``: every number of the run, and by metric the twelve of COCO and each class;
    null where nothing is annotated.
    """
    report: dict[str, Any] = dict(
        config=runner.cfg.filename,
        checkpoint=checkpoint,
        tta=augmented,
        # nothing of the kind is annotated: -1 of CocoMetric, NaN of VOCMetric
        metrics={name: None if v == -1 or v != v else v for name, v in values.items()},
    )
    metrics: Sequence[BaseMetric] = runner.test_loop.evaluator.metrics
    for metric in metrics:
        report.update(getattr(metric, 'report', {}))
    path = Path(runner.work_dir) / 'metrics.json'
    write_json(path, report, indent=1)
    print_log(f'wrote {path}', 'current')
