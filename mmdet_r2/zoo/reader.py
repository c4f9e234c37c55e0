"""Reading a checkpoint file without running anything that it carries.

``torch.load`` is called with ``weights_only=True`` alone. Training checkpoints of mmengine and
mmdetection also carry numpy arrays and scalars (logs), ``HistoryBuffer`` and ``ConfigDict``; those
inert types are allowed by name, every other global is refused. Pickles that torch did not write
(detectron2's and Caffe2's ``.pkl``) go through :mod:`.pickles`, which knows numpy arrays only.
Nothing here, nor anywhere else in the package, unpickles without that restriction. A
``.safetensors`` file holds tensors and texts, nothing that could run.
"""

import json
import os
import pickle
import re
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from .pickles import Refused, read_pickle

# torch's loader keeps the allow-list in a global: two threads must not remove each other's entries.
_LOCK = threading.Lock()

# How torch before 1.6 began its files: a pickle of a number.
_LEGACY = b'\x80\x02\x8a\x0a' + torch.serialization.MAGIC_NUMBER.to_bytes(10, 'little')

_DTYPES = ('?', 'b', 'B', 'h', 'H', 'i', 'I', 'l', 'L', 'q', 'Q', 'e', 'f', 'd', 'F', 'D', 'S', 'U')


def _no_attribute(owner: object, name: str) -> None:
    """Stand-in for ``getattr``, which HistoryBuffer's pickles call to name its own methods.

    A real ``getattr`` would let a file reach any function from any allowed class. The methods are
    not needed: the class has them.
    """


def _plain_dict(factory: object = None) -> dict[object, object]:
    """Stand-in for ``defaultdict``, which the restricted loader builds but refuses to fill."""
    return {}


def _history_buffer() -> type:
    """The class a pickled HistoryBuffer is built as; it turns into mmengine's own once its two
    arrays are set.

    mmengine's ``__setstate__`` would write a method table from the file into the class, for every
    buffer of the process.
    """
    from mmengine.logging import HistoryBuffer

    class _Restored(HistoryBuffer):
        def __setstate__(self, state: dict[str, Any]) -> None:
            self.__class__ = HistoryBuffer
            self._set_default_statistics()
            state = {
                k: v
                for k, v in state.items()
                if k in ('max_length', '_log_history', '_count_history')
            }
            self.__dict__.update(state)

    return _Restored


def _allowed_globals() -> list[Any]:
    """Types and constructors that mmengine's and mmdetection's checkpoints carry, each with the
    name files use."""
    core: Any = getattr(np, '_core', None) or np.core
    core = core.multiarray
    allowed: list[Any] = [
        np.dtype,
        np.ndarray,
        *{type(np.dtype(code)) for code in _DTYPES},
    ]
    for module in (
        'numpy.core.multiarray',
        'numpy._core.multiarray',
    ):  # the name changed with numpy 2
        allowed += [
            (core._reconstruct, f'{module}._reconstruct'),
            (core.scalar, f'{module}.scalar'),
        ]
    allowed += [(_no_attribute, 'builtins.getattr'), (_no_attribute, '__builtin__.getattr')]
    allowed += [
        (t, f'builtins.{t.__name__}') for t in (list, dict, tuple, int, float, str, bool, slice)
    ]
    allowed += [(_plain_dict, 'collections.defaultdict')]
    from mmengine.config import ConfigDict

    allowed += [
        (ConfigDict, f'{m}.ConfigDict') for m in ('mmengine.config.config', 'mmcv.utils.config')
    ]
    allowed += [(_history_buffer(), 'mmengine.logging.history_buffer.HistoryBuffer')]
    return allowed


def read_checkpoint(source: str | os.PathLike[str], map_location: Any = 'cpu') -> dict[str, Any]:
    """Return the dictionary stored in a checkpoint file, URL or zoo name, restricted to inert data.

    Arrays of a ``.pkl`` are numpy's; :func:`checkpoint_weights` makes tensors of them.

    Args:
        source: a path, an http(s) URL (downloaded once and verified), ``open-mmlab://NAME``,
            ``torchvision://NAME``, ``detectron2://PATH`` or a model name of the zoo index.
        map_location: as in :func:`torch.load`; tensors are on the CPU by default, and arrays
            always.

    Raises:
        CheckpointError: the file is missing, cut short, no checkpoint, or refers to code outside
            the allow-list, which is then named and never run.
    """
    from .names import fetch

    path = fetch(source)
    if path.suffix == '.safetensors':
        return _read_safetensors(path, map_location)
    try:
        if _is_plain_pickle(path):
            content = read_pickle(path)
        else:
            if _head(path).startswith(b'PK'):
                verify_checkpoint(path)
            with _LOCK, torch.serialization.safe_globals(_allowed_globals()):
                content = torch.load(path, map_location=map_location, weights_only=True)
    except Refused as error:
        raise CheckpointError(f'{path}: {_refusal(str(error))}') from None
    except (
        OSError,
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        KeyError,
        IndexError,
        AssertionError,
    ) as error:
        raise CheckpointError(f'{path}: {_reason(path, error)}') from None
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError, MemoryError) as error:
        raise CheckpointError(
            f'{path}: not a readable checkpoint ({_first_line(error)}).'
        ) from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(
            f'{path}: holds a {kind}, not a dictionary of weights (a state dict or checkpoint).'
        )
    return content


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Compare every part of a zip archive, as ``torch.save`` writes it, with the checksum stored
    beside it; about half a second per gigabyte. Other formats have none.

    Raises:
        CheckpointError: the file is missing, cut short, or other bytes than were written.
    """
    try:
        if not _head(Path(path)).startswith(b'PK'):
            return
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                # compressed parts may be a thousand times the size of the file; torch writes none
                if item.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f'{path}: {item.filename!r} in it is compressed')
                with archive.open(item) as part:
                    while part.read(1 << 22):
                        pass
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f'{path}: the file is cut short or damaged ({_first_line(error)}); download or copy '
            'it again'
        ) from None


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    """``state_dict``, and ``meta`` where the file has one (``tools/model_converters/
    publish_model.py`` writes it, as JSON)."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise CheckpointError(
            f'{path}: reading it needs a package that is not installed; run '
            '`pip install safetensors`.'
        ) from None
    place = str(map_location) if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        with safe_open(path, framework='pt', device=place) as file:
            texts = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(texts['meta']) if 'meta' in texts else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f'{path}: not a readable safetensors file ({_first_line(error)}); download or copy it '
            'again.'
        ) from None
    return dict(meta=meta, state_dict=weights)


def _first_line(error: BaseException) -> str:
    text = str(error).rpartition('WeightsUnpickler error:')[2] or str(error)
    lines = text.strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'.rstrip('. :')


def _reason(path: Path, error: BaseException) -> str:
    """One line for the user: which global was refused, or in what way the file is damaged."""
    text = str(error)
    if isinstance(error, PermissionError):
        return 'cannot be read (permission denied).'
    if 'older file format than PyTorch' in text or 'legacy .tar format' in text:
        return (
            'uses the tar format of PyTorch before 0.4, which cannot be read safely; '
            'save it again with torch.save.'
        )
    refused = re.search(r'GLOBAL\s+([\w.]+)', text) or re.search(
        r'reduce for unrecognized function\s+(.+)', text
    )
    refused = refused or re.search(r'allowlisted via `add_safe_globals`,? but got (.+)', text)
    if refused:
        return _refusal(refused.group(1).strip())
    size = path.stat().st_size
    if size == 0:
        return 'the file is empty (0 bytes); download or copy it again.'
    if _is_plain_pickle(path):
        reason = f'{size} bytes; {_first_line(error)}'
        return f'the pickle is cut short or damaged ({reason}); download or copy it again.'
    if _begins_as_checkpoint(path) and not zipfile.is_zipfile(path):
        reason = f'{size} bytes; {_first_line(error)}'
        return f'the file is cut short or damaged ({reason}); download or copy it again.'
    return f'not a PyTorch checkpoint that can be read ({size} bytes; {_first_line(error)}).'


def _refusal(name: str) -> str:
    return (
        f'refused: it needs {name}, which is not on the list of harmless types; it was not '
        'run. If you trust its origin, load it where it was made and save only its state_dict.'
    )


def _begins_as_checkpoint(path: Path) -> bool:
    """Whether the first bytes are those of ``torch.save``: a zip archive, or the older format's
    magic number."""
    head = _head(path)
    return _LEGACY.startswith(head) or head.startswith(b'PK')


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle that torch did not write. Before protocol 2 pickles had no mark:
    there the suffix decides."""
    if _begins_as_checkpoint(path):
        return False
    head = _head(path)
    return path.suffix == '.pkl' or (head[:1] == b'\x80' and head[1] <= pickle.HIGHEST_PROTOCOL)


def _head(path: Path) -> bytes:
    with open(path, 'rb') as file:
        return file.read(len(_LEGACY))
