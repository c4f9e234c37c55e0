"""Files that ``torch.save`` wrote, read without ``torch.load``: the zip archives of today and the
older format, with tensors of plain numbers that lie inside of what was stored for them.

``torch.load(weights_only=True)`` compares no checksums, takes offsets and shapes into C++ code,
and lets a file set the state of the types that it is allowed.
"""

import io
import math
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mmdet_r2.pickles import NAMES, Damaged, Name, Reader, Refused, sizes_of

LEGACY = b'\x80\x02\x8a\x0a' + torch.serialization.MAGIC_NUMBER.to_bytes(10, 'little')
"""How torch before 1.6 began its files: a pickle of a number."""
ARCHIVE = b'PK'

_LEGACY_PROTOCOL = 1001


class Storage:
    """The bytes of a file's storage, (N,) uint8, and their type; None where it has none."""

    def __init__(self, data: Tensor, dtype: torch.dtype | None) -> None:
        self.data = data
        self.dtype = dtype


def read_torch(
    file: BinaryIO, names: Mapping[str, Any] | None = None, device: torch.device | str = 'cpu'
) -> Any:
    """The content of a file of ``torch.save``.

    Args:
        file: an open file of either format, which can be sought in.
        names: what its pickle may name besides containers, arrays and tensors.
        device: of the tensors.

    Raises:
        Refused: it needs anything else; nothing was run.
        Damaged: it is cut short, its checksums are not those of its bytes, or it is neither
            format.
        OSError: it cannot be read.
    """
    table = {**NAMES, **TENSORS, **(names or {})}
    head = file.read(len(LEGACY))
    file.seek(0)
    if head.startswith(ARCHIVE):
        try:
            return _Archive(file).load(table, device)
        except (Refused, Damaged, OSError):
            raise
        except Exception as error:  # zipfile's are many
            raise Damaged(f'{type(error).__name__}: {error}') from None
    if head != LEGACY:
        raise Damaged('it does not begin as torch.save begins')
    return _read_legacy(file.read(), table, device)


def verify(file: BinaryIO) -> None:
    """Compare all parts of an archive with its checksums; other formats have none.

    Raises:
        Damaged: it is cut short, or other bytes than were written.
    """
    head = file.read(len(ARCHIVE))
    file.seek(0)
    if head == ARCHIVE:
        try:
            archive = _Archive(file)
            for item in archive.items.values():
                archive.bytes(item)
        except (Damaged, OSError):
            raise
        except Exception as error:
            raise Damaged(f'{type(error).__name__}: {error}') from None


# ---------------------------------------------------------------------------------------- archives


class _Archive:
    """A zip archive whose parts are stored as they are, as torch writes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        self.left = self.size  # bytes that parts may have in all: none may be there twice
        with zipfile.ZipFile(file) as archive:
            self.items = {item.filename: item for item in archive.infolist()}
        # torch.serialization.set_crc32_options(False) writes no checksums
        self.checked = any(item.CRC for item in self.items.values())

    def bytes(self, item: zipfile.ZipInfo) -> Tensor:
        """A part, (N,) uint8, compared with its checksum."""
        if item.compress_type != zipfile.ZIP_STORED or item.compress_size != item.file_size:
            # a thousand times as large, perhaps; torch compresses nothing
            raise Damaged(f'{item.filename!r} in it is compressed; torch.save compresses nothing')
        if item.flag_bits & 1:
            raise Damaged(f'{item.filename!r} in it is encrypted')
        self.file.seek(item.header_offset)
        header = self.file.read(30)
        if len(header) < 30 or header[:4] != b'PK\x03\x04':
            raise Damaged(f'{item.filename!r} in it has no header')
        names = int.from_bytes(header[26:28], 'little') + int.from_bytes(header[28:30], 'little')
        start = item.header_offset + 30 + names
        self.left -= item.file_size
        if start + item.file_size > self.size or self.left < 0:
            raise Damaged(
                f'{item.filename!r} in it has {item.file_size} bytes, more than there are'
            )
        data = torch.empty(item.file_size, dtype=torch.uint8)
        self.file.seek(start)
        view, done = data.numpy().data, 0
        while done < item.file_size:
            read = self.file.readinto(view[done:])  # type: ignore[attr-defined]
            if not read:
                raise Damaged('it ends too early')
            done += read
        if self.checked and zlib.crc32(view) != item.CRC:
            raise Damaged(f'the bytes of {item.filename!r} in it do not have their checksum')
        return data

    def load(self, names: Mapping[str, Any], device: torch.device | str) -> Any:
        folders = [name.removesuffix('/data.pkl') for name in self.items if '/data.pkl' in name]
        folders = [folder for folder in folders if '/' not in folder]
        if any(name.endswith(('/constants.pkl', '/model.json')) for name in self.items):
            raise Refused('a TorchScript program')
        if len(folders) != 1:
            raise Damaged('an archive, but not one of torch.save (no data.pkl)')
        folder = folders[0]
        order = self.items.get(f'{folder}/byteorder')
        swapped = order is not None and self.bytes(order).numpy().tobytes().decode(
            'latin1'
        ) not in (
            '',
            sys.byteorder,
        )
        storages: dict[str, Storage] = {}

        def persistent(identity: Any) -> Storage:
            kind, key, count = _storage_identity(identity)
            dtype = kind.dtype
            if key not in storages:
                item = self.items.get(f'{folder}/data/{key}')
                if item is None:
                    raise Damaged(f'it lacks the tensor data {key!r}')
                expected = count * (dtype.itemsize if dtype else 1)
                if item.file_size != expected:
                    raise Damaged(
                        f'tensor data {key!r} has {item.file_size} bytes, expected {expected}'
                    )
                data = self.bytes(item)
                if swapped:
                    data = _swapped(data, dtype)
                storages[key] = Storage(_true_or_false(data, dtype).to(device), dtype)
            return _same_type(storages[key], kind, key)

        pickled = self.bytes(self.items[f'{folder}/data.pkl']).numpy().tobytes()
        return Reader(pickled, names, persistent=persistent).load()


def _storage_identity(identity: Any) -> tuple['_StorageType', str, int]:
    """Type, key and number of values of ('storage', type, key, place, number, ...)."""
    if not (isinstance(identity, tuple) and len(identity) in (5, 6) and identity[0] == 'storage'):
        raise Refused('something that is stored outside of it and is no tensor')
    _, kind, key, _, count = identity[:5]
    if not (isinstance(kind, _StorageType) and isinstance(key, str) and type(count) is int):
        raise Damaged('tensor data without type, name or size')
    if kind.quantized:
        raise Refused(_QUANTIZED)
    if count < 0:
        raise Damaged(f'tensor data of {count} values')
    return kind, key, count


def _same_type(storage: Storage, kind: '_StorageType', key: str) -> Storage:
    if storage.dtype is not kind.dtype:
        raise Damaged(f'tensor data {key!r} of two types')
    return storage


def _swapped(data: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None:
        raise Refused('bytes of another order')
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    return torch.from_numpy(data.numpy().view(f'u{width}').byteswap().view(np.uint8))


def _true_or_false(data: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A byte of 2 is neither true nor false."""
    return data.ne_(0) if dtype is torch.bool else data


# ---------------------------------------------------------------------------------- older format


def _read_legacy(
    data: bytes, names: Mapping[str, Any], device: torch.device | str, bare: bool = False
) -> Any:
    """Pickles of a number, the format's version, the machine, the content and the names of the
    storages; then each storage, with its size before it."""
    if not data.startswith(LEGACY + b'.'):
        raise Damaged('it does not begin as torch.save begins')
    at = len(LEGACY) + 1
    header = []
    for _ in range(2):
        reader = Reader(data, NAMES, at)
        header.append(reader.load())
        at = reader.at
    if header[0] != _LEGACY_PROTOCOL:
        raise Damaged(f'version {header[0]!r:.20} of the format')
    if isinstance(header[1], dict) and header[1].get('little_endian') is not True:
        raise Refused('bytes of another order')
    roots: dict[str, Storage] = {}
    left = len(data)

    def persistent(identity: Any) -> Storage:
        nonlocal left
        kind, key, count = _storage_identity(identity)
        width = kind.dtype.itemsize if kind.dtype else 1
        if key not in roots:
            left -= count * width
            if left < 0:
                raise Damaged(f'tensor data {key!r} of {count} values, more than there are')
            roots[key] = Storage(torch.empty(count * width, dtype=torch.uint8), kind.dtype)
        root = _same_type(roots[key], kind, key).data
        part = identity[5] if len(identity) == 6 else None
        if part is not None:  # a piece of a storage: its name, where it begins, and how long it is
            _, offset, size = part
            offset, size = sizes_of((offset, size))
            if (offset + size) * width > len(root):
                raise Damaged(f'a piece of tensor data {key!r} that is not in it')
            root = root[offset * width : (offset + size) * width]
        return Storage(root, kind.dtype)

    reader = Reader(data, names, at, persistent)
    content = reader.load(bare=bare)
    reader = Reader(data, NAMES, reader.at)
    keys = reader.load()
    at = reader.at
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(roots):
        raise Damaged('its list of tensor data is another one than its tensors need')
    for key in keys:
        storage = roots[key]
        width = storage.dtype.itemsize if storage.dtype else 1
        size = len(storage.data)
        if int.from_bytes(data[at : at + 8], 'little') * width != size:
            raise Damaged(f'tensor data {key!r} has another size than its tensors need')
        at += 8
        if at + size > len(data):
            raise Damaged('it ends too early')
        if size:
            storage.data.copy_(torch.frombuffer(bytearray(data[at : at + size]), dtype=torch.uint8))
            _true_or_false(storage.data, storage.dtype)
        at += size
    return content if str(device) == 'cpu' else _moved(content, device)


def _moved(content: Any, device: torch.device | str) -> Any:
    """The content with tensors on a device: the older format has the bytes behind its content."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, dict):
        for key, value in list(content.items()):
            content[key] = _moved(value, device)
    elif type(content) in (list, tuple):
        return type(content)(_moved(value, device) for value in content)
    return content


# ----------------------------------------------------------------------------------------- tensors


class _StorageType:
    """What ``torch.FloatStorage`` stands for."""

    def __init__(self, dtype: torch.dtype | None, quantized: bool = False) -> None:
        self.dtype = dtype
        self.quantized = quantized


_QUANTIZED = 'quantized tensors (weights are read as plain numbers)'
_STORAGES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexDoubleStorage': torch.complex128,
    'ComplexFloatStorage': torch.complex64,
}
# torch 2.4, the oldest that is supported, has the last ones, too
_NUMBERS = (
    *_STORAGES.values(),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
)


def _tensor(
    reader: Reader,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``torch._utils._rebuild_tensor``: a view of a storage, after it was made sure that every
    element lies in it."""
    if not isinstance(storage, Storage):
        raise Refused(f'a tensor of a {type(storage).__name__}')
    if metadata:
        raise Refused('a tensor with a conjugate or negative bit')
    dtype = dtype or storage.dtype
    if dtype is None:
        raise Refused('a tensor without a type')
    size, stride = sizes_of(size), sizes_of(stride)
    (offset,) = sizes_of((offset,))
    stored = len(storage.data) // dtype.itemsize
    count = math.prod(size)
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset
    if len(size) != len(stride) or end > stored:
        raise Damaged(f'a tensor {list(size)} of {stored} stored values that is not in them')
    if count > stored:  # as torch's expand() makes it
        reader.repeat(count)
    values = storage.data[: stored * dtype.itemsize].view(dtype)
    return values.as_strided(size, stride, offset + values.storage_offset())


def _tensor_of_type(
    reader: Reader,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    # for types younger than typed storages; a byte that is neither true nor false is of no use
    if not isinstance(dtype, torch.dtype) or dtype is torch.bool:
        raise Refused(f'a tensor of type {dtype!r:.20}')
    return _tensor(reader, storage, offset, size, stride, metadata=metadata, dtype=dtype)


def _parameter(reader: Reader, data: Any, *_: Any) -> Tensor:
    """Whether it trains, its hooks and attributes are the model's to say."""
    if not isinstance(data, Tensor):
        raise Refused(f'a parameter of a {type(data).__name__}')
    return data


def _of_class(reader: Reader, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if kind not in (TENSORS['torch.Tensor'], TENSORS['torch.nn.parameter.Parameter']):
        raise Refused('tensors of a class of their own')
    return reader.called(function, arguments)


def _from_array(reader: Reader, data: Any, dtype: Any, *_: Any) -> Tensor:
    """How tensors of other devices (TPU) are stored."""
    if isinstance(data, np.ndarray) and isinstance(dtype, torch.dtype):
        reader.spend(data.size * dtype.itemsize)
        return torch.from_numpy(data).to(dtype)
    if isinstance(data, Tensor) and data.dtype is dtype:  # its bytes may come behind it
        return data
    raise Refused('a tensor of something else than an array')


def _size(reader: Reader, sizes: Any = ()) -> torch.Size:
    return torch.Size(sizes_of(sizes))


def _device(reader: Reader, kind: Any, index: Any = None) -> torch.device:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise Damaged('a device without a name')
    return torch.device(kind) if index is None else torch.device(kind, index)


def _storage_of_bytes(reader: Reader, data: Any) -> Storage:
    """``torch.storage._load_from_bytes``, which is how pickles of others than torch have tensors:
    each is a file of its own. torch's own function of this name unpickles anything."""
    if type(data) is not bytes:
        raise Refused('tensor data of something else than bytes')
    reader.spend(len(data) + 512)
    content = _read_legacy(data, _ONLY_STORAGES, 'cpu', bare=True)
    if not isinstance(content, Storage):
        raise Refused('tensor data that is none')
    return content


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise Refused(what)

    return refuse


_FUNCTIONS: dict[str, Callable[..., Any] | None] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_type,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._utils._rebuild_device_tensor_from_numpy': _from_array,
    'torch._utils._rebuild_device_tensor_from_cpu_tensor': _from_array,
    'torch._utils._rebuild_xla_tensor': _from_array,
    'torch._utils._rebuild_qtensor': _refusing(_QUANTIZED),
    'torch._utils._rebuild_sparse_tensor': _refusing('sparse tensors (save dense ones)'),
    'torch._utils._rebuild_nested_tensor': _refusing('nested tensors'),
    'torch._utils._rebuild_meta_tensor_no_storage': _refusing(
        'tensors without data (of the meta device)'
    ),
    'torch._tensor._rebuild_from_type_v2': _of_class,
    'torch.serialization._get_layout': lambda reader, *_: None,
    'torch.storage._load_from_bytes': _storage_of_bytes,
    'torch.Size': _size,
    'torch.device': _device,
    'torch.Tensor': None,
    'torch.nn.parameter.Parameter': None,
}
TENSORS: dict[str, Any] = {
    **{name: Name(name, function) for name, function in _FUNCTIONS.items()},
    **{f'torch.{name}': _StorageType(dtype) for name, dtype in _STORAGES.items()},
    # a tensor on a GPU, before torch 0.4
    **{f'torch.cuda.{name}': _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{
        f'torch.{name}Storage': _StorageType(torch.uint8, quantized=True)
        for name in ('QInt8', 'QUInt8', 'QInt32', 'QUInt4x2', 'QUInt2x4')
    },
    'torch.storage.UntypedStorage': _StorageType(None),
    **{str(dtype): dtype for dtype in _NUMBERS},
    **{
        f'torch.per_{kind}': Name(f'torch.per_{kind}')
        for kind in ('tensor_affine', 'tensor_symmetric', 'channel_affine')
    },
}
"""What a pickle with tensors may name besides :data:`mmdet_r2.pickles.NAMES`."""
_ONLY_STORAGES = {name: kind for name, kind in TENSORS.items() if isinstance(kind, _StorageType)}
