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


# of a tensor's name, which reports show
_LONGEST_NAME = 500


def checkpoint_weights(
    checkpoint: Mapping[str, Any], name: str = 'checkpoint'
) -> dict[str, Tensor]:
    """The tensors of a checkpoint or bare state dict, by name, without a ``module.`` that all names
    share. numpy's arrays become tensors of the same memory.

    Raises:
        CheckpointError: it holds no tensors, or tensors of another kind than plain numbers in
            memory; ``name`` says which file.
    """
    source: Mapping[str, Any] = checkpoint
    for key in _CONTAINERS:
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping) and any(_is_array(v) for v in inner.values()):
            source = inner
            break
        if key == 'state_dict' and inner is not None and not isinstance(inner, Mapping):
            raise CheckpointError(
                f'{name}: state_dict is a {type(inner).__name__}, expected a dictionary of tensors'
            )
    weights = {}
    for key, value in source.items():
        if _is_array(value):
            if not (isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_NAME):
                raise CheckpointError(
                    f'{name}: a tensor is called {key!r:.80}, expected a line of at most '
                    f'{_LONGEST_NAME} characters'
                )
            weights[key] = _tensor(value, f'{name}: {key!r:.200}')
    if not weights:
        keys = ', '.join(f'{key!s:.40}' for key in list(checkpoint)[:6]) or 'nothing'
        raise CheckpointError(
            f'{name}: has no weights; found {keys}, expected state_dict, model or tensors'
        )
    if all(key.startswith('module.') for key in weights):
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    return weights


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, np.ndarray) and value.dtype.kind in 'biufc'
    )


def _tensor(value: Any, where: str) -> Tensor:
    """A tensor of plain numbers, or an array as one."""
    if isinstance(value, np.ndarray):
        value = np.asarray(value, value.dtype.newbyteorder('='), order='C')
        return torch.from_numpy(value)
    kind = (
        'quantized'
        if value.is_quantized
        else 'nested'
        if value.is_nested
        else 'without data (of the meta device)'
        if value.is_meta
        else str(value.layout).removeprefix('torch.')
        if value.layout is not torch.strided
        else ''
    )
    if kind:
        raise CheckpointError(f'{where} is a tensor {kind}, expected one of plain numbers')
    return value


def check_values(weights: Mapping[str, Tensor], target: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that a model would take without a word and be worthless with.

    A tensor of NaN or infinity makes every detection (or every loss) NaN; whole numbers in place
    of real ones are those of a quantized model. About 0.1 s per gigabyte.

    Args:
        weights: by the model's names, in its shapes.
        target: the model's own.

    Raises:
        CheckpointError: names the file and the first parameter.
    """
    spoilt = []
    for key, value in weights.items():
        wanted = target[key].dtype
        # a counter that nothing depends on
        if not key.endswith('num_batches_tracked') and _kind(value.dtype) != _kind(wanted):
            raise CheckpointError(f'{name}: {key} is of {value.dtype}, the model has {wanted}')
        if value.is_floating_point() and not _finite(value, wanted):
            spoilt.append(key)
    if spoilt:
        first = weights[spoilt[0]]
        number = int((~torch.isfinite(first.float())).sum()) or first.numel()
        more = f', and {len(spoilt) - 1} more parameters' if len(spoilt) > 1 else ''
        raise CheckpointError(
            f'{name}: {number} of {first.numel()} values of {spoilt[0]} are NaN or infinite'
            f'{more}; the training that wrote it had diverged, or the file is damaged'
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return 'complex'
    return 'real' if dtype.is_floating_point else 'whole'


def _finite(value: Tensor, wanted: torch.dtype) -> bool:
    # the sum is not finite where a value is not; it may be too large where all are
    if value.itemsize <= wanted.itemsize and bool(torch.isfinite(value.sum(dtype=torch.float32))):
        return True
    return bool(torch.isfinite(value.to(wanted)).all())


def check_meta(checkpoint: Mapping[str, Any], name: str) -> None:
    """Refuse a ``meta`` that is not one, and class names and colours that are none.

    Raises:
        CheckpointError: names the file and the entry.
    """
    meta = checkpoint.get('meta')
    if meta is None or isinstance(meta, Tensor | np.ndarray):  # a weight that is called so
        return
    if not isinstance(meta, Mapping):
        raise CheckpointError(
            f'{name}: meta is a {type(meta).__name__} ({meta!r:.60}), expected a dictionary'
        )
    stored = meta.get('dataset_meta')
    if stored is not None and not isinstance(stored, Mapping):
        raise CheckpointError(
            f'{name}: meta.dataset_meta is a {type(stored).__name__} ({stored!r:.60}), expected a '
            'dictionary'
        )
    for prefix, entries in (('meta', meta), ('meta.dataset_meta', stored or {})):
        for key, value in entries.items():
            kind = key.lower() if isinstance(key, str) else ''
            if value is None or kind not in ('classes', 'palette'):
                continue
            if not (_is_names(value) if kind == 'classes' else _is_colours(value)):
                expected = 'texts' if kind == 'classes' else 'three whole numbers (0 to 255) each'
                raise CheckpointError(
                    f'{name}: {prefix}.{key} is {value!r:.60}, expected a list of {expected}'
                )


def _is_names(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list | tuple | set | frozenset)
        and all(isinstance(name, str | int) and not isinstance(name, bool) for name in value)
    )


def _is_colours(value: object) -> bool:
    """Whether ``get_palette`` takes it: a name, a colour, or a list of colours."""
    if isinstance(value, str):
        return True
    if not isinstance(value, list | tuple):
        return False
    rows = [value] if all(isinstance(part, int) for part in value) else value
    return all(
        isinstance(row, list | tuple)
        and len(row) == 3
        and all(isinstance(part, int | np.integer) and 0 <= part <= 255 for part in row)
        for row in rows
        if len(value)
    )


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


def classes_differ(
    found: Sequence[str], expected: Sequence[str], where: str = 'the file'
) -> str | None:
    """How two lists of class names differ, in one phrase; None if they are the same in the same
    order.

    Args:
        where: ``found`` was found.
    """
    found, expected = tuple(found), tuple(expected)
    if found == expected:
        return None
    if sorted(found) == sorted(expected):
        first = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
        there, here = found[first], expected[first]
        return f'same names in another order (label {first} is {there!r} in {where}, {here!r} here)'
    extra = [c for c in found if c not in expected]
    lacking = [c for c in expected if c not in found]
    parts = [f'{len(found)} classes in {where}, {len(expected)} here']
    if extra:
        parts.append(f'only in {where}: {_some(extra)}')
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
        if isinstance(versions, Mapping):
            # modules compare them with numbers
            result._metadata = {  # type: ignore[attr-defined]
                key: entry
                for key, entry in versions.items()
                if isinstance(entry, Mapping) and isinstance(entry.get('version', 1), int)
            }
            break
    return result
