"""A training checkpoint made fit to be given away: weights, class names, config; a hash in its
name.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..engine.checkpoint import write_atomically
from ..errors import CheckpointError, ConfigError
from ..files import settle, temporary_name
from ..zoo import checkpoint_weights, read_checkpoint
from ..zoo.download import expected_hash, sha256
from .files import make_folder

SUFFIXES = ('.pth', '.safetensors')
_META = ('cfg', 'config', 'dataset_meta', 'CLASSES', 'PALETTE', 'epoch', 'iter', 'converted_from')


def publish(
    in_file: str | os.PathLike[str],
    out_file: str | os.PathLike[str],
    *,
    save_keys: Sequence[str] = ('meta', 'state_dict'),
) -> Path:
    """Write ``OUT-HASH.pth`` (or ``.safetensors``), which is there whole or not at all.

    The hash, the first eight digits of the file's SHA-256, is checked wherever the package loads
    the file. Optimiser, schedules and logs stay behind, and so does what ``meta`` says about the
    machine. The weights are on the CPU; a ``module.`` that all names share is cut off.

    Args:
        in_file: a checkpoint: path, URL or zoo name.
        out_file: folder and name; the hash goes before the suffix, which decides on the format.
        save_keys: entries of the checkpoint to keep; of 'meta' the config, the class names,
            progress and versions. A ``.safetensors`` file has room for these two only.

    Returns:
        The path written.

    Raises:
        CheckpointError: ``in_file`` cannot be read, has no weights, or lacks one of ``save_keys``;
            what was written cannot be read back.
        ConfigError: ``out_file`` has another suffix, or cannot be written.
    """
    out_file = Path(out_file)
    suffix = out_file.suffix
    if suffix not in SUFFIXES:
        raise ConfigError(f'{out_file}: a published file ends in {" or ".join(SUFFIXES)}.')
    if 'state_dict' not in save_keys:
        raise ConfigError('--save-keys: state_dict must be among them.')
    checkpoint = read_checkpoint(in_file)
    content: dict[str, Any] = {}
    for key in save_keys:
        if key == 'state_dict':
            content[key] = _weights(checkpoint, os.fspath(in_file))
        elif key not in checkpoint:
            keys = ', '.join(map(str, list(checkpoint)[:10]))
            raise CheckpointError(f'{in_file}: has no entry {key!r} (--save-keys); it has {keys}.')
        else:
            content[key] = _public(checkpoint[key]) if key == 'meta' else checkpoint[key]
    folder = make_folder(out_file.parent)
    temporary = temporary_name(out_file, suffix)
    try:
        if suffix == '.safetensors':
            _write_safetensors(content, temporary)
        else:
            write_atomically(content, temporary)
        stem = out_file.stem
        if (former := expected_hash(out_file.name)) is not None:
            stem = stem.removesuffix(f'-{former}')
        final = folder / f'{stem}-{sha256(temporary)[:8]}{suffix}'
        settle(temporary, final)
    except OSError as error:
        raise ConfigError(f'{out_file}: cannot be written ({error.strerror or error}).') from None
    finally:
        temporary.unlink(missing_ok=True)
    _check(final, content['state_dict'])
    return final


def _weights(checkpoint: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Tensors of their own: a slice would be saved with the whole that it is cut from."""
    weights: OrderedDict[str, Tensor] = OrderedDict(
        (key, value.detach().cpu().clone().contiguous())
        for key, value in checkpoint_weights(checkpoint, name).items()
    )
    # module versions, which layers of old files are converted by
    versions = getattr(checkpoint.get('state_dict'), '_metadata', None)
    if versions is not None:
        weights._metadata = versions  # type: ignore[attr-defined]
    return weights


def _public(meta: Any) -> dict[str, Any]:
    """What others need of ``meta``: no host, user, environment or time."""
    if not isinstance(meta, dict):
        return {}
    return {key: value for key, value in meta.items() if key in _META or key.endswith('_version')}


def _write_safetensors(content: dict[str, Any], path: Path) -> None:
    others = [key for key in content if key not in ('meta', 'state_dict')]
    if others:
        raise ConfigError(
            f'--save-keys {others[0]}: a .safetensors file holds meta and state_dict only.'
        )
    texts = {'format': 'pt'}
    if 'meta' in content:
        texts['meta'] = json.dumps(content['meta'], default=str)
    save_file(dict(content['state_dict']), path, metadata=texts)
    # safetensors lets nobody else read its files
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _check(path: Path, weights: dict[str, Tensor]) -> None:
    found = checkpoint_weights(read_checkpoint(path), str(path))
    same = found.keys() == weights.keys() and all(
        value.equal(weights[key]) or value.isnan().any() for key, value in found.items()
    )
    if not same:
        raise CheckpointError(f'{path}: reads back with other weights than were written.')
