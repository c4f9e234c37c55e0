"""Weights into a model, with a report of what happened to every tensor."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import settings
from .arrangement import fitted
from .identify import (
    UNKNOWN,
    Architecture,
    another_backbone,
    backbone_difference,
    guess_models,
    identify,
)
from .layouts import MMDETECTION, detect, origin
from .reader import read_checkpoint

# Below this share of the backbone's weights a checkpoint is taken to be of another model.
MIN_BACKBONE = 0.5
# Where weights are kept in a checkpoint, best first. mmengine's EMA hook stores the averaged
# weights as `state_dict`.
_CONTAINERS = (
    'state_dict',
    'model',
    'blobs',
    'state_dict_ema',
    'ema_state_dict',
    'model_ema',
    'model_state_dict',
)


# Parts that feed what is behind them, and words of the families for which that holds: offsets of
# deformable convolutions, and HTC's branches
_FEEDS = (
    ('backbone.conv_offset', re.compile(r'(backbone\.)?layer.*\.conv_offset\.'), ('',)),
    ('roi_head.semantic_head', re.compile(r'roi_head\.semantic_head\.'), ('cascade', 'htc')),
    (
        'roi_head.mask_head.conv_res',
        re.compile(r'roi_head\.mask_head\.\d+\.conv_res\.'),
        ('mask', 'htc'),
    ),
)


@dataclass(frozen=True)
class Mismatch:
    """A tensor that has another shape in the file than in the model."""

    key: str
    found: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass
class LoadReport:
    """What :func:`load_checkpoint` did. ``str(report)`` is the one-line summary, :meth:`table` the
    details.

    ``num_batches_tracked`` counters are never counted: old files lack them and nothing depends on
    them.

    Attributes:
        source: what was asked for.
        layout: name of the layout the file was recognised as.
        loaded, total: tensors copied, and tensors that the model has.
        weight_fraction: share of the model's weights (elements) that was copied, in [0, 1].
        mismatched: in both, with different shapes; the model keeps its initial values.
        missing: the model's tensors that the file lacks; they keep their initial values.
        unexpected: the file's tensors that the model lacks; ignored.
        found, expected: the architectures of the file and of the model.
        note: what the weights alone do not bring along, or ''; logged as a warning.
        dataset_meta: ``classes`` and ``palette`` as the file carries them, or None.
    """

    source: str
    layout: str
    loaded: int
    total: int
    weight_fraction: float
    mismatched: list[Mismatch] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    found: Architecture = UNKNOWN
    expected: Architecture = UNKNOWN
    note: str = ''
    dataset_meta: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was loaded, and nothing that their outputs depend on
        was left out (otherwise the file may have had more)."""
        return not self.problem

    @property
    def problem(self) -> str:
        """What the results would suffer from, as the end of a sentence that begins with the file;
        '' where the load is :attr:`complete`."""
        if self.loaded < self.total:
            return 'does not fill the model, whose other parts would be untrained'
        if self.cut_off:
            return 'does not belong to the model, which lacks what its heads were trained with'
        return ''

    @property
    def cut_off(self) -> list[str]:
        """Parts of the file without which the heads that were loaded compute something else:
        offsets of deformable convolutions; HTC's semantic branch and mask information flow, in a
        model that has HTC's heads but not those."""
        return [
            part
            for part, pattern, fed in _FEEDS
            if any(word in self.expected.family for word in fed)
            and any(pattern.match(key) for key in self.unexpected)
        ]

    def __str__(self) -> str:
        percent = 100 * self.weight_fraction
        # 99.96 must not read as 100.0: something was left out
        shown = '100' if self.loaded == self.total else f'{min(percent, 99.9):.1f}'
        text = f'loaded {self.loaded}/{self.total} tensors ({shown} % of weights)'
        if self.layout != MMDETECTION.name:
            text += f' from the layout {self.layout!r}'
        if self.mismatched:
            text += f'; re-initialised: {_grouped_shapes(self.mismatched)}'
        if self.missing:
            text += f'; not in the file: {_grouped(self.missing)}'
        if self.unexpected:
            text += f'; ignored: {_grouped(self.unexpected)}'
        if self.cut_off:
            text += f'; its heads were trained with {" and ".join(self.cut_off)}'
        here, there = self.expected, self.found
        if there.family and here.family and there.family != here.family:
            text += f'; the file is {_described(there)}, the model {here.family}'
        return text

    def table(self, limit: int = 60) -> str:
        """Table with a row per tensor that was not loaded or not used (at most ``limit``); '' if
        there is none."""
        rows = [('tensor', 'in the file', 'in the model')]
        rows += [(m.key, str(list(m.found)), str(list(m.expected))) for m in self.mismatched]
        rows += [(key, 'missing', '') for key in self.missing]
        rows += [(key, '', 'missing') for key in self.unexpected]
        if len(rows) == 1:
            return ''
        left_out = max(0, len(rows) - 1 - limit)
        rows = rows[: limit + 1]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        lines.insert(1, '  '.join('-' * width for width in widths))
        if left_out:
            lines.append(f'... and {left_out} more')
        return '\n'.join(lines)


def load_checkpoint(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    map_location: Any = 'cpu',
    strict: bool = False,
    prefix: str | None = None,
    may_differ: Callable[[str], bool] | None = None,
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

    Raises:
        CheckpointError: unreadable (see :func:`read_checkpoint`); of another backbone (other depth,
            radix, ..., or less than half of its weights fit), in which case the message says which
            architecture the file seems to be; or ``strict`` and not a perfect fit. The model is
            unchanged then.
    """
    name = 'the given state dict' if isinstance(source, Mapping) else os.fspath(source)
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source, map_location)
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
    # Through load_state_dict, not by copying: modules of older files rename their entries there
    # (mmcv's DCN).
    result = model.load_state_dict(_with_versions(fitting, checkpoint), strict=False)
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


def checkpoint_weights(
    checkpoint: Mapping[str, Any], name: str = 'checkpoint'
) -> dict[str, Tensor]:
    """The tensors of a checkpoint or bare state dict, by name, without a ``module.`` that all names
    share. numpy's arrays become tensors of the same memory.

    Raises:
        CheckpointError: it holds no tensors; ``name`` says which file.
    """
    source: Mapping[str, Any] = checkpoint
    for key in _CONTAINERS:
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping) and any(_tensor(v) is not None for v in inner.values()):
            source = inner
            break
    found = {str(key): _tensor(value) for key, value in source.items()}
    weights = {key: value for key, value in found.items() if value is not None}
    if not weights:
        keys = ', '.join(map(str, list(checkpoint)[:6])) or 'nothing'
        raise CheckpointError(
            f'{name}: has no weights; found {keys}, expected state_dict, model or tensors.'
        )
    if all(key.startswith('module.') for key in weights):
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    return weights


def _tensor(value: object) -> Tensor | None:
    """A tensor, or an array of numbers as one; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return torch.from_numpy(np.asarray(value, value.dtype.newbyteorder('='), order='C'))
    return value if isinstance(value, Tensor) else None


def checkpoint_dataset_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Class names and colours stored with the weights: ``{'classes': (...), 'palette': [...]}``, or
    None.

    mmdetection 3.x has them in ``meta.dataset_meta`` (in upper case in early files), 2.x in
    ``meta.CLASSES``.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping):
        return None
    stored = meta.get('dataset_meta')
    stored = stored if isinstance(stored, Mapping) else meta
    found = {
        str(k).lower(): v for k, v in stored.items() if str(k).lower() in ('classes', 'palette')
    }
    if not found.get('classes'):
        return None
    classes = found['classes']
    found['classes'] = (classes,) if isinstance(classes, str) else tuple(str(c) for c in classes)
    return found


def classes_differ(found: Sequence[str], expected: Sequence[str]) -> str | None:
    """How two lists of class names differ, in one phrase; None if they are the same in the same
    order."""
    found, expected = tuple(found), tuple(expected)
    if found == expected:
        return None
    if set(found) == set(expected):
        first = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
        there, here = found[first], expected[first]
        return (
            f'same names in another order (label {first} is {there!r} in the file, {here!r} here)'
        )
    extra = [c for c in found if c not in expected]
    lacking = [c for c in expected if c not in found]
    parts = []
    if extra:
        parts.append(f'only in the file: {_some(extra)}')
    if lacking:
        parts.append(f'only here: {_some(lacking)}')
    return f'{len(found)} classes in the file, {len(expected)} here; {"; ".join(parts)}'


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


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
        f'it looks like {_described(found)}'
        if found.backbone
        else f'its names begin like {next(iter(weights))!r}'
    )
    text += f', the model is {here}'
    changes = backbone_difference(weights, target)
    return f'{text} (the file needs {changes})' if changes else text


def _described(found: Architecture) -> str:
    names = guess_models(found)
    return f'{found} ({", ".join(names)})' if names else str(found)


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
        parts.append(f'other shapes: {_grouped_shapes(mismatched)}')
    if missing:
        parts.append(f'not in the file: {_grouped(missing)}')
    if unexpected:
        parts.append(f'not in the model: {_grouped(unexpected)}')
    if parts:
        changes = backbone_difference(weights, target)
        needs = f' (the file needs {changes})' if changes else ''
        raise CheckpointError(f'{name}: does not fit the model exactly{needs}; {"; ".join(parts)}.')


def _with_versions(
    weights: dict[str, Tensor], checkpoint: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Give the state dict the module versions that it was saved with, which load hooks look at."""
    from collections import OrderedDict

    result: OrderedDict[str, Tensor] = OrderedDict(weights)
    for source in (*(checkpoint.get(key) for key in _CONTAINERS), checkpoint):
        versions = getattr(source, '_metadata', None)
        if versions is not None:
            result._metadata = versions  # type: ignore[attr-defined]
            break
    return result


def _module_of(key: str) -> str:
    return key.rpartition('.')[0] or key


def _grouped(keys: Sequence[str], limit: int = 6) -> str:
    """Keys by module: 'fc (2 tensors), neck.fpn_convs.0.conv (2 tensors), ...'; by first parts
    where they are many."""
    for depth in (None, 4, 3, 2, 1):
        groups: dict[str, int] = {}
        for key in keys:
            module = _module_of(key)
            module = module if depth is None else '.'.join(module.split('.')[:depth])
            groups[module] = groups.get(module, 0) + 1
        if len(groups) <= limit:
            break
    shown = [
        f'{module} ({count} tensor{"s" if count > 1 else ""})' for module, count in groups.items()
    ]
    return ', '.join(shown[:limit]) + (
        f', ... {len(shown) - limit} more' if len(shown) > limit else ''
    )


def _grouped_shapes(mismatched: Sequence[Mismatch], limit: int = 8) -> str:
    """'roi_head.bbox_head.fc_cls (81 -> 6 rows), ...': one entry per module, with what changed."""
    groups: dict[str, str] = {}
    for item in mismatched:
        same_rest = len(item.found) == len(item.expected) and item.found[1:] == item.expected[1:]
        if same_rest and item.found:
            change = f'{item.found[0]} -> {item.expected[0]} rows'
        else:
            change = f'{list(item.found)} -> {list(item.expected)}'
        groups.setdefault(_module_of(item.key), change)
    shown = [f'{module} ({change})' for module, change in groups.items()]
    return ', '.join(shown[:limit]) + (
        f', ... {len(shown) - limit} more' if len(shown) > limit else ''
    )


def _log(report: LoadReport) -> None:
    import logging

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
