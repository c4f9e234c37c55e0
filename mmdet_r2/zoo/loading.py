"""Weights into a model; what does not belong to it is refused before anything is changed."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from . import settings
from .arrangement import classes_by_name, classifier_outputs, fitted
from .contents import (
    check_meta,
    check_values,
    checkpoint_dataset_meta,
    checkpoint_weights,
    spelt_alike,
    with_versions,
)
from .identify import (
    another_backbone,
    backbone_difference,
    identify,
)
from .layouts import MMDETECTION, detect, origin
from .reader import read_checkpoint
from .report import LoadReport, Mismatch, described, grouped, grouped_shapes

# Below this share of the backbone's weights a checkpoint is taken to be of another model.
MIN_BACKBONE = 0.5


def load_checkpoint(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    map_location: Any = 'cpu',
    strict: bool = False,
    prefix: str | None = None,
    may_differ: Callable[[str], bool] | None = None,
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Copy weights into ``model`` and report, tensor by tensor, what fitted. The summary is also
    logged.

    Takes state dicts as they are, or inside ``state_dict`` or ``model``; strips ``module.`` where
    all names have it; converts other layouts (:data:`~mmdet_r2.zoo.LAYOUTS`: mmdetection 1.x,
    maskrcnn-benchmark, detectron2, ImageNet files of Caffe2 and others); accepts a detector's file
    for its bare backbone, and the reverse. Heads for another number of classes keep their initial
    values and are listed.

    Args:
        model: a detector or a part of one; wrappers (DDP) are looked through.
        source: path, URL, ``open-mmlab://NAME``, ``torchvision://NAME``, ``detectron2://PATH``,
            zoo model name, or a checkpoint already read.
        map_location: where tensors are put while loading; the model's own device decides where they
            end.
        strict: refuse anything but a perfect fit.
        prefix: take only names that begin so, without it (``'backbone.'``).
        may_differ: with ``strict``, says of a name that it may be in only one of the two.
        classes: of the model. Where the file says that it was trained for others, heads take what
            they have for those of the same name, and keep their initial values for the others.

    Raises:
        CheckpointError: unreadable (see :func:`read_checkpoint`); of another backbone (other depth,
            radix, ..., or less than half of its weights fit), in which case the message says which
            architecture the file seems to be; with values that are NaN or infinite, or whole
            numbers for real ones; or ``strict`` and not a perfect fit. The model is unchanged
            then.
    """
    name = 'the given state dict' if isinstance(source, Mapping) else os.fspath(source)
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source, map_location)
    check_meta(checkpoint, name)
    model = _unwrapped(model)
    target = model.state_dict()
    weights = checkpoint_weights(checkpoint, name)
    layout = detect(weights)
    refusal = layout.refusal(weights)
    if refusal and any(key.startswith('backbone.') for key in target):
        raise CheckpointError(f'{name}: {refusal}.')
    meta = checkpoint.get('meta')
    trained = origin(weights, meta)
    note = trained.note(weights, model)
    weights = layout.convert(weights, target)
    if trained is MMDETECTION:
        note = settings.recorded_boxes(model, meta, weights)
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        weights = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
        if not weights:
            raise CheckpointError(
                f'{name}: no tensor begins with {prefix!r} (config key init_cfg.prefix).'
            )
    weights = fitted(_fit_prefix(weights, target), target)
    if classes is not None:
        weights = _of_classes(weights, target, checkpoint, classes, name)
    mismatched = [
        Mismatch(key, tuple(value.shape), tuple(target[key].shape))
        for key, value in weights.items()
        if key in target and value.shape != target[key].shape
    ]
    _check_backbone(weights, target, name)
    if strict:
        _check_strict(weights, target, mismatched, name, may_differ)
    if another_backbone(weights, target):
        raise CheckpointError(
            f'{name}: its backbone is another one; {architectures(weights, target)}. Use the '
            'config that belongs to the checkpoint.'
        )
    wrong = {m.key for m in mismatched}
    fitting = {key: value for key, value in weights.items() if key not in wrong}
    known = {key: value for key, value in fitting.items() if key in target}
    check_values(known, target, name)
    # Through load_state_dict, not by copying: modules of older files rename their entries there
    # (mmcv's DCN).
    result = model.load_state_dict(with_versions(fitting, checkpoint), strict=False)
    missing = [key for key in result.missing_keys if key not in wrong]
    kept = wrong | set(missing)
    counted = {k: v.numel() for k, v in target.items() if not k.endswith('num_batches_tracked')}
    loaded = {k: n for k, n in counted.items() if k not in kept}
    report = LoadReport(
        source=name,
        layout=layout.name,
        loaded=len(loaded),
        total=len(counted),
        weight_fraction=sum(loaded.values()) / max(1, sum(counted.values())),
        mismatched=[m for m in mismatched if m.key in counted],
        missing=[k for k in missing if k in counted],
        unexpected=[k for k in result.unexpected_keys if not k.endswith('num_batches_tracked')],
        found=identify(weights),
        expected=identify(target),
        note=note,
        dataset_meta=checkpoint_dataset_meta(checkpoint),
    )
    _log(report)
    return report


def _of_classes(
    weights: dict[str, Tensor],
    target: Mapping[str, Tensor],
    checkpoint: Mapping[str, Any],
    classes: Sequence[str],
    name: str,
) -> dict[str, Tensor]:
    trained = (checkpoint_dataset_meta(checkpoint) or {}).get('classes')
    if not trained:
        return weights
    given, wanted = spelt_alike(trained), spelt_alike(classes)
    counted = [classifier_outputs(state) - 1 for state in (weights, target)]
    if given == wanted or counted != [len(given), len(wanted)]:
        return weights
    from mmengine.logging import print_log

    known = [one for one in wanted if one in given]
    print_log(
        f'{name}: was trained for other classes, or another order: heads take what they have for '
        f'{len(known)} of {len(wanted)} by name ({", ".join(known[:10]) or "none"}); the others '
        'start anew',
        'current',
        logging.WARNING,
    )
    return classes_by_name(weights, target, given, wanted)


def _unwrapped(model: nn.Module) -> nn.Module:
    from mmengine.model import is_model_wrapper

    while is_model_wrapper(model):
        model = model.get_submodule('module')
    return model


def _fit_prefix(weights: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a bare backbone's names under ``backbone.``, or the reverse, where that is what makes
    them fit."""
    if any(key in target for key in weights if not key.endswith('num_batches_tracked')):
        return weights
    added = {f'backbone.{key}': value for key, value in weights.items()}
    if any(key in target for key in added):
        return added
    stripped = {
        k.removeprefix('backbone.'): v for k, v in weights.items() if k.startswith('backbone.')
    }
    return stripped if any(key in target for key in stripped) else weights


def _check_backbone(weights: Mapping[str, Tensor], target: Mapping[str, Tensor], name: str) -> None:
    """Refuse a file of which most of the backbone does not fit: training or testing on from it
    would be from noise."""
    backbone = {k: v for k, v in target.items() if k.startswith('backbone.')} or dict(target)
    total = sum(v.numel() for v in backbone.values())
    fits = sum(
        v.numel() for k, v in backbone.items() if k in weights and weights[k].shape == v.shape
    )
    if fits >= MIN_BACKBONE * total:
        return
    raise CheckpointError(
        f'{name}: only {100 * fits / max(1, total):.0f} % of the backbone weights fit the model; '
        f'{architectures(weights, target)}. Use the config that belongs to the checkpoint.'
    )


def architectures(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
    """What a file looks like and what the model is, for an error; with the config keys of the
    backbone that differ."""
    found, here = identify(weights), identify(target)
    text = (
        f'it looks like {described(found)}'
        if found.backbone
        else f'its names begin like {next(iter(weights))!r}'
    )
    text += f', the model is {here}'
    changes = backbone_difference(weights, target)
    return f'{text} (the file needs {changes})' if changes else text


def _check_strict(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    mismatched: Sequence[Mismatch],
    name: str,
    may_differ: Callable[[str], bool] | None,
) -> None:
    def real(keys: set[str]) -> list[str]:
        return sorted(
            key
            for key in keys
            if not key.endswith('num_batches_tracked') and not (may_differ and may_differ(key))
        )

    missing, unexpected = real(target.keys() - weights.keys()), real(weights.keys() - target.keys())
    parts = []
    if mismatched:
        parts.append(f'other shapes: {grouped_shapes(mismatched)}')
    if missing:
        parts.append(f'not in the file: {grouped(missing)}')
    if unexpected:
        parts.append(f'not in the model: {grouped(unexpected)}')
    if parts:
        changes = backbone_difference(weights, target)
        needs = f' (the file needs {changes})' if changes else ''
        raise CheckpointError(f'{name}: does not fit the model exactly{needs}; {"; ".join(parts)}.')


def _log(report: LoadReport) -> None:
    from mmengine.logging import print_log

    text = f'{report.source}: {report}'
    # A classifier left over from ImageNet is expected; parts of the model that stay random are
    # worth a warning.
    level = logging.INFO if report.complete else logging.WARNING
    if not report.complete:
        text += f'\n{report.table()}'
    print_log(text, logger='current', level=level)
    if report.note:
        # What a bare backbone's images will be is not known here: that is told, not warned of.
        level = logging.WARNING if report.expected.family else logging.INFO
        print_log(f'{report.source}: {report.note}.', logger='current', level=level)
