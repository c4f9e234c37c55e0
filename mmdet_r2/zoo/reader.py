"""Reading a checkpoint file without running anything that it carries.

Files of ``torch.save`` go through :mod:`mmdet_r2.torch_files`, other pickles (detectron2's and
Caffe2's ``.pkl``) through :mod:`mmdet_r2.pickles`. Training checkpoints of mmengine and mmdetection
also carry ``HistoryBuffer`` and ``ConfigDict``, which are made here; every other name is refused.
A ``.safetensors`` file holds tensors and texts, nothing that could run.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..pickles import Damaged, Name, Reader, Refused, Unfinished, read_pickle
from ..torch_files import ARCHIVE, LEGACY, read_torch, verify
from .contents import check_meta


def _no_attribute(reader: Reader, owner: object, name: object) -> None:
    """Stand-in for ``getattr``, which HistoryBuffer's pickles call to name its own methods.

    A real ``getattr`` would let a file reach any function from any allowed class. The methods are
    not needed: the class has them.
    """


class _History(Unfinished):
    """mmengine's HistoryBuffer before its two arrays are read.

    Its own ``__setstate__`` would write a method table from the file into the class, for every
    buffer of the process.
    """

    def finished(self, reader: Reader, state: Any) -> Any:
        from mmengine.logging import HistoryBuffer

        logs, counts, most = (
            state.get(key) for key in ('_log_history', '_count_history', 'max_length')
        )
        for array in (logs, counts):
            if not (
                isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in 'biuf'
            ):
                raise Refused('a HistoryBuffer of something else than numbers')
        if len(logs) != len(counts) or type(most) is not int or most < 1:
            raise Damaged('a HistoryBuffer with more logs than counts')
        reader.spend(logs.nbytes + counts.nbytes + 512)
        reader.leaves.add(HistoryBuffer)
        return HistoryBuffer(logs, counts, most)


def _config(reader: Reader, content: Any = None) -> Any:
    from mmengine.config import ConfigDict

    reader.mappings.add(ConfigDict)
    result = ConfigDict()
    # those within it are such themselves
    reader.fill(result, (content or {}).items())
    return result


_NAMES = {
    'builtins.getattr': Name('builtins.getattr', _no_attribute),
    'mmengine.config.config.ConfigDict': Name('mmengine.config.config.ConfigDict', _config),
    'mmcv.utils.config.ConfigDict': Name('mmcv.utils.config.ConfigDict', _config),
    'mmengine.logging.history_buffer.HistoryBuffer': Name(
        'mmengine.logging.history_buffer.HistoryBuffer', lambda reader, *_: _History()
    ),
}


def read_checkpoint(source: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """Return the dictionary stored in a checkpoint file, URL or zoo name, restricted to inert data.
    The checksums of its parts are compared, where the format has them.

    Arrays of a ``.pkl`` are numpy's; :func:`checkpoint_weights` makes tensors of them.

    Args:
        source: a path, an http(s) URL (downloaded once and verified), ``open-mmlab://NAME``,
            ``torchvision://NAME``, ``detectron2://PATH`` or a model name of the zoo index.
        map_location: device of the tensors, by name or as ``torch.device``; anything else means
            the CPU, where arrays always are.

    Raises:
        CheckpointError: the file is missing, cut short, not what was written, no checkpoint, or
            refers to code outside the allow-list, which is then named and never run.
    """
    from .names import fetch

    path = fetch(source)
    device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
    if path.suffix == '.safetensors':
        content: Any = _read_safetensors(path, device)
    else:
        try:
            with open(path, 'rb') as file:
                if _is_plain_pickle(path):
                    content = read_pickle(file.read())
                else:
                    content = read_torch(file, _NAMES, device)
        except Refused as error:
            raise CheckpointError(f'{path}: {_refusal(str(error))}') from None
        except (Damaged, OSError, RuntimeError, MemoryError) as error:
            raise CheckpointError(f'{path}: {_reason(path, error)}') from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(
            f'{path}: holds a {kind}, not a dictionary of weights (a state dict or checkpoint)'
        )
    check_meta(content, str(path))
    return content


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Compare every part of a zip archive, as ``torch.save`` writes it, with the checksum stored
    beside it; about half a second per gigabyte. Other formats have none.

    Raises:
        CheckpointError: the file is missing, cut short, or other bytes than were written.
    """
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            verify(file)
    except (Damaged, OSError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f'{path}: {_reason(path, error)}') from None


def _read_safetensors(path: Path, device: str | torch.device) -> dict[str, Any]:
    """``state_dict``, and ``meta`` where the file has one (``tools/model_converters/
    publish_model.py`` writes it, as JSON)."""
    try:
        with safe_open(path, framework='pt', device=str(device)) as file:
            texts = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(texts['meta']) if 'meta' in texts else {}
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise CheckpointError(
            f'{path}: not a readable safetensors file ({_first_line(error)}); download or copy it '
            'again'
        ) from None
    return dict(meta=meta, state_dict=weights)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ['']
    text = lines[0] if isinstance(error, Damaged) else f'{type(error).__name__}: {lines[0]}'
    return text[:300].rstrip('. :')


def _reason(path: Path, error: BaseException) -> str:
    """For the user: in what way the file is damaged, or something else."""
    if isinstance(error, OSError):
        return f'cannot be read ({error.strerror or error})'
    if isinstance(error, MemoryError):
        return 'takes more memory than there is'
    if isinstance(error, RuntimeError):  # torch's, of a device
        return f'cannot be read ({_first_line(error)})'
    size = path.stat().st_size
    if size == 0:
        return 'the file is empty (0 bytes); download or copy it again'
    reason = f'{size} bytes; {_first_line(error)}'
    if _is_plain_pickle(path):
        return f'the pickle is cut short or damaged ({reason}); download or copy it again'
    if _begins_as_checkpoint(path):
        return f'the file is cut short or damaged ({reason}); download or copy it again'
    with open(path, 'rb') as file:
        file.seek(257)
        if file.read(5) == b'ustar':
            return (
                'uses the tar format of PyTorch before 0.4, which cannot be read safely; '
                'save it again with torch.save'
            )
    return f'not a PyTorch checkpoint that can be read ({reason})'


def _refusal(name: str) -> str:
    return (
        f'refused: it needs {name}, which is not on the list of harmless types; it was not '
        'run. If you trust its origin, load it where it was made and save only its state_dict'
    )


def _begins_as_checkpoint(path: Path) -> bool:
    """Whether the first bytes are those of ``torch.save``: a zip archive, or the older format's
    magic number."""
    head = _head(path)
    return LEGACY.startswith(head) or head.startswith(ARCHIVE)


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle that torch did not write. Before protocol 2 pickles had no mark:
    there the suffix decides."""
    if _begins_as_checkpoint(path):
        return False
    head = _head(path)
    return path.suffix == '.pkl' or (head[:1] == b'\x80' and head[1:2] <= b'\x05')


def _head(path: Path) -> bytes:
    with open(path, 'rb') as file:
        return file.read(len(LEGACY))
