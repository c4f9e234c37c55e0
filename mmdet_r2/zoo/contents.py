"""What a checkpoint holds, whoever wrote it: its weights, and its classes."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError

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
    if sorted(found) == sorted(expected):
        first = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
        there, here = found[first], expected[first]
        return (
            f'same names in another order (label {first} is {there!r} in the file, {here!r} here)'
        )
    extra = [c for c in found if c not in expected]
    lacking = [c for c in expected if c not in found]
    parts = [f'{len(found)} classes in the file, {len(expected)} here']
    if extra:
        parts.append(f'only in the file: {_some(extra)}')
    if lacking:
        parts.append(f'only here: {_some(lacking)}')
    return '; '.join(parts)


def spelt_alike(names: Sequence[str]) -> list[str]:
    """Class names without differences of spelling: early checkpoints have ``traffic_light``."""
    return [name.replace('_', ' ').lower().strip() for name in names]


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def with_versions(
    weights: dict[str, Tensor], checkpoint: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Give the state dict the module versions that it was saved with, which load hooks look at."""
    result: OrderedDict[str, Tensor] = OrderedDict(weights)
    for source in (*(checkpoint.get(key) for key in _CONTAINERS), checkpoint):
        versions = getattr(source, '_metadata', None)
        if versions is not None:
            result._metadata = versions  # type: ignore[attr-defined]
            break
    return result
