"""Pickles read as data, for checkpoints and results of every origin: the only unpickler of the
package.

A pickle is a program for a small stack machine, which may call whatever its reader lets it name.
This reader lets it name the entries of a table of functions that are written here, each of which
checks its arguments; nothing is looked up, and no state is set on an object that was not made
here. Arrays are of plain numbers and text, by name: a ``numpy.dtype`` with a state of its own
would make numpy follow addresses that the file chooses. What is made is bounded by the size of
the file, and neither deep nor cyclic, so that nothing that walks through it ends in the stack.

Python's own unpickler is not used: a file can make it allocate without bound, and can end the
process by nesting tuples that are then a key.
"""

import codecs
import itertools
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MAX_DEPTH = 100
"""Containers within containers."""
MAX_REPEATED = 1 << 28
"""Values that a file's tensors may have in all where they repeat what is stored."""

# numpy's names of numbers and booleans: 'f4', 'd', '?'. Text ('U3', 'S3') is allowed besides;
# objects, records, dates and arrays within arrays are not.
_CODES = {'?', *'bBhHiIlLqQefdFD', 'b1', 'f2', 'f4', 'f8', 'c8', 'c16'}
_CODES |= {f'{kind}{size}' for kind in 'iu' for size in (1, 2, 4, 8)}
_LAST_CHARACTER = 0x10FFFF

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_KEYS = frozenset(_PLAIN)
_LEAVES = frozenset(
    (*_PLAIN, bytearray, slice, np.ndarray, torch.Tensor, torch.dtype, torch.device, torch.Size)
)
_MAPPINGS = (dict, OrderedDict, Counter)


class _Stopped(Exception):
    def __init__(self, text: str) -> None:
        # names and keys of the file are in it
        plain = ''.join(c if c.isprintable() else '?' for c in text[:200])
        super().__init__(plain + ('...' if len(text) > 200 else ''))


class Refused(_Stopped):
    """The pickle needs something that is not on the list; the text is its name."""


class Damaged(_Stopped):
    """The bytes are no pickle, or not all of it; the text says where."""


@dataclass(frozen=True)
class Name:
    """What a pickle may name: ``call`` makes a value of a reader and the file's arguments; None
    for what is only named."""

    name: str
    call: Callable[..., Any] | None = None


class Unfinished:
    """A value whose content, a state, comes later in the file."""

    def finished(self, reader: 'Reader', state: Any) -> Any:
        """The value with that state."""
        raise NotImplementedError


class Reader:
    """Reads one pickle.

    Args:
        data: bytes that hold it.
        names: ``module.name`` -> what that gives.
        start: where in ``data`` it begins.
        persistent: what an id of something stored outside of the pickle stands for; None where
            there is no such thing.

    Attributes:
        at: position in ``data``; behind the pickle once it was read.
        leaves: types that the content may have besides containers; functions add what they make.
        mappings: types of dictionaries.
    """

    def __init__(
        self,
        data: bytes,
        names: Mapping[str, Any],
        start: int = 0,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data = data
        self.names = names
        self.at = start
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.leaves = set(_LEAVES)
        self.mappings = set(_MAPPINGS)
        # a file can hand the same bytes to any number of arrays
        self.budget = (1 << 26) + 16 * len(data)
        self.repeated = MAX_REPEATED

    def load(self, *, bare: bool = False) -> Any:
        """What the pickle holds.

        Args:
            bare: give back what a table's function made, whatever it is.

        Raises:
            Refused: it names anything that is not in the table, or is nested too deeply; nothing
                was run.
            Damaged: it is cut short, or no pickle.
        """
        start, data, operations = self.at, self.data, _OPERATIONS
        try:
            while (code := data[self.at]) != 0x2E:  # STOP
                self.at += 1
                operations[code](self)
            self.at += 1
            content = self.stack.pop()
            if not bare:
                _check(self, content, 1_000_000 + 10 * (self.at - start))
            return content
        except (Refused, Damaged):
            raise
        except Exception as error:  # damaged bytes end in nearly any exception
            if self.at >= len(data):
                raise Damaged('it ends too early') from None
            raise Damaged(f'{type(error).__name__}: {error} at byte {self.at}') from None

    def spend(self, size: int) -> None:
        """Note that ``size`` bytes are made."""
        self.budget -= size
        if self.budget < 0:
            raise Refused('far more memory than the file has bytes')

    def repeat(self, count: int) -> None:
        """Note a tensor of ``count`` values that repeats what is stored: a copy of it is larger
        than the file."""
        self.repeated -= count
        if self.repeated < 0:
            raise Refused(f'tensors that repeat what is stored to more than {MAX_REPEATED} values')

    # ---- bytes

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.data):
            self.at = len(self.data)
            raise Damaged('it ends too early')
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, size: int) -> int:
        if size == 1:
            self.at += 1
            return self.data[self.at - 1]
        return int.from_bytes(self.take(size), 'little')

    def line(self) -> bytes:
        end = self.data.find(b'\n', self.at)
        if end < 0:
            self.at = len(self.data)
            raise Damaged('it ends too early')
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    # ---- stack

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def named(self, module: str, name: str) -> Any:
        full = f'{module}.{name}'
        # modules that Python 3 and numpy 2 call otherwise
        known = full.replace('__builtin__.', 'builtins.', 1).replace('numpy.core.', 'numpy._core.')
        try:
            return self.names[known]
        except KeyError:
            raise Refused(full) from None

    def called(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Name or function.call is None or type(arguments) is not tuple:
            called = function.name if type(function) is Name else type(function).__name__
            raise Refused(f'a call of {called}')
        return function.call(self, *arguments)

    def fill(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Set entries of a dictionary. Keys are plain values: the hash of nested tuples takes
        time without bound, or ends the process."""
        kind = type(target)
        if kind not in self.mappings:
            raise Refused(f'entries of {kind.__name__}')
        pairs = list(pairs)
        self.spend(64 * len(pairs))
        # ConfigDict would copy each value
        put = OrderedDict.__setitem__ if kind is OrderedDict else dict.__setitem__
        for key, value in pairs:
            put(target, key if type(key) in _KEYS else _key(key), value)

    def build(self) -> None:
        """Set a state: of what is unfinished, or a state dict's versions of modules."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unfinished):
            value = self.stack[-1] = target.finished(self, state)
            # the file remembers it by a number that was given a moment ago
            for number in itertools.islice(reversed(self.memo), 64):
                if self.memo[number] is target:
                    self.memo[number] = value
                    break
        elif type(target) is OrderedDict:
            versions = state.get('_metadata') if type(state) is dict else None
            if isinstance(versions, dict) and all(
                isinstance(key, str) and isinstance(entry, dict) for key, entry in versions.items()
            ):
                target._metadata = versions  # type: ignore[attr-defined]
        elif type(target) in self.mappings and isinstance(state, dict):
            self.fill(target, state.items())
        else:
            raise Refused(f'a state of {type(target).__name__}')


def read_pickle(data: bytes, names: Mapping[str, Any] | None = None) -> Any:
    """The content of a pickle: containers, numbers, text and numpy arrays.

    Text of Python 2 is read as latin1, as Caffe2's files need.

    Args:
        names: what it may name besides.

    Raises:
        Refused: it names anything but containers and numpy arrays; nothing was run.
        Damaged: it is damaged, or no pickle.
    """
    return Reader(data, {**NAMES, **(names or {})}).load()


def _key(key: Any) -> Any:
    kind = type(key)
    if kind in _KEYS or isinstance(key, np.generic | torch.dtype | torch.device):
        return key
    if kind is tuple and len(key) <= 64 and all(type(part) in _KEYS for part in key):
        return key
    raise Refused(f'a key of type {kind.__name__}')


def _check(reader: Reader, content: Any, limit: int) -> None:
    """Refuse what is nested too deeply, holds itself, or would be too much written out, and names
    that are left over."""
    sizes: dict[int, int] = {}  # of finished containers, by id: values in it when written out
    above: set[int] = set()
    todo: list[Any] = [content]
    leaves = reader.leaves
    containers = reader.mappings | {list, tuple, set, frozenset}
    while todo:
        node = todo[-1]
        number = id(node)
        if number in sizes:
            todo.pop()
            continue
        if type(node) not in containers:  # the content itself
            parts: Iterable[Any] = (node,)
        else:
            parts = dict.values(node) if isinstance(node, dict) else node
        kinds = set(map(type, parts))
        size = 1 + (len(node) if type(node) in containers else 0)
        if not kinds <= leaves:
            for kind in kinds - leaves - containers:
                first: Any = next(part for part in parts if type(part) is kind)
                raise Refused(
                    first.name if isinstance(first, Name) else f'a bare {kind.__name__.lstrip("_")}'
                )
            inner = [part for part in parts if type(part) in containers]
            waiting = []
            for part in inner:
                if id(part) in sizes:
                    continue
                within = dict.values(part) if isinstance(part, dict) else part
                if type(part) is not OrderedDict and leaves.issuperset(map(type, within)):
                    sizes[id(part)] = 1 + len(part)  # most are of this kind
                else:
                    waiting.append(part)
            if waiting:
                if number in above:
                    raise Refused('a container that holds itself')
                above.add(number)
                if len(above) > MAX_DEPTH:
                    raise Refused(f'containers nested more than {MAX_DEPTH} deep')
                todo += waiting
                continue
            size += sum([sizes[id(part)] for part in inner])
        versions = getattr(node, '_metadata', None) if type(node) is OrderedDict else None
        if versions is not None and id(versions) not in sizes:
            above.add(number)
            if id(versions) in above or len(above) > MAX_DEPTH:
                raise Refused('a container that holds itself')
            todo.append(versions)
            continue
        if size > limit:
            raise Refused('far more values, written out, than the file has bytes')
        sizes[number] = size
        above.discard(number)
        todo.pop()


# ------------------------------------------------------------------------------------------- numpy


class _Dtype(Unfinished):
    """``numpy.dtype(code, align, copy)``; its state gives the order of the bytes."""

    def __init__(self, code: Any) -> None:
        kind, digits = (code[:1], code[1:]) if isinstance(code, str) else ('', '')
        text = kind in ('S', 'U') and len(digits) <= 6 and digits.isdecimal() and int(digits) > 0
        if not (isinstance(code, str) and (code.lstrip('<>=|') in _CODES or text)):
            raise Refused(f'a numpy array of {str(code)[:20]!r}')
        self.dtype = np.dtype(code)

    def finished(self, reader: Reader, state: Any) -> np.dtype:
        # version, order, subarray, names, fields, size, alignment, flags: of a plain type all but
        # the order is fixed, and nothing but the order is looked at
        if type(state) is not tuple or len(state) < 5 or state[2:5] != (None, None, None):
            raise Refused('a numpy.dtype with a state of its own')
        if state[1] not in ('<', '>', '=', '|'):
            raise Refused(f'a numpy.dtype with bytes in the order {state[1]!r:.20}')
        return self.dtype if state[1] == '|' else self.dtype.newbyteorder(state[1])


class _Array(Unfinished):
    """What ``_reconstruct`` gives; its state is (version, shape, dtype, fortran, bytes)."""

    def finished(self, reader: Reader, state: Any) -> np.ndarray:
        _, shape, dtype, fortran, data = state
        return _array(reader, data, dtype, shape, bool(fortran))


def _array(reader: Reader, data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """A copy of bytes (or Python 2's text) as an array; every argument comes from the file."""
    if isinstance(data, str):
        data = data.encode('latin1')
    if isinstance(dtype, _Dtype):
        dtype = dtype.dtype
    if not isinstance(dtype, np.dtype) or type(data) not in (bytes, bytearray):
        raise Refused('a numpy array of something else than bytes')
    shape = sizes_of(shape)
    if len(data) != dtype.itemsize * math.prod(shape):
        raise Damaged(f'{len(data)} bytes for an array {shape} of {dtype}')
    reader.spend(len(data) + 128)
    array = np.ndarray(shape, dtype, bytes(data), order='F' if fortran else 'C').copy(order='K')
    if dtype.kind == 'b':  # a byte of 2 is neither true nor false
        array = np.asarray(array.view(np.uint8) != 0)
    elif dtype.kind == 'U' and array.size:
        letters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max() > _LAST_CHARACTER:
            raise Damaged('text of characters that there are not')
    return array


def sizes_of(shape: Any) -> tuple[int, ...]:
    """A shape (or strides) of a file: a few whole numbers of at least 0."""
    if not isinstance(shape, tuple | list) or len(shape) > 32:
        raise Damaged(f'a shape of type {type(shape).__name__}')
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise Damaged(f'a shape of {list(map(type, shape))[:4]} or sizes out of range')
    return tuple(shape)


def _scalar(reader: Reader, dtype: Any, data: Any) -> Any:
    value = _array(reader, data, dtype, (), False)[()]
    reader.leaves.add(type(value))
    return value


def _from_buffer(reader: Reader, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(reader, data, dtype, shape, order == 'F')


# ---------------------------------------------------------------------------------- plain Python


def _encode(reader: Reader, text: Any, encoding: Any = 'latin1') -> bytes:
    """How Python 3 writes bytes in protocol 2."""
    if not (isinstance(text, str) and encoding in ('latin1', 'latin-1', 'ascii')):
        raise Refused(f'an encoding {str(encoding)[:20]!r}')
    reader.spend(len(text))
    return text.encode('latin1')


def _bytes(reader: Reader, data: Any = b'') -> bytes:
    return bytes(_bytearray(reader, data))


def _bytearray(reader: Reader, data: Any = b'', encoding: Any = 'latin1') -> bytearray:
    if isinstance(data, str):
        data = _encode(reader, data, encoding)
    if not isinstance(data, bytes | bytearray):  # a number would be a size
        raise Refused(f'bytes of a {type(data).__name__}')
    reader.spend(len(data))
    return bytearray(data)


def _ordered(reader: Reader, pairs: Any = ()) -> OrderedDict:
    result: OrderedDict = OrderedDict()
    reader.fill(result, pairs.items() if isinstance(pairs, dict) else pairs)
    return result


def _dict(reader: Reader, pairs: Any = ()) -> dict:
    result: dict = {}
    reader.fill(result, pairs.items() if isinstance(pairs, dict) else pairs)
    return result


def _counter(reader: Reader, counts: Any = ()) -> Counter:
    result: Counter = Counter()
    reader.fill(result, counts.items() if isinstance(counts, dict) else ())
    return result


def _default_dict(reader: Reader, factory: Any = None) -> dict:
    return {}


def _sequence(kind: type) -> Callable[..., Any]:
    def sequence(reader: Reader, items: Any = ()) -> Any:
        if not isinstance(items, tuple | list | set | frozenset):
            raise Refused(f'a {kind.__name__} of a {type(items).__name__}')
        reader.spend(64 * len(items))
        return kind(map(_key, items)) if kind in (set, frozenset) else kind(items)

    return sequence


def _complex(reader: Reader, real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not (isinstance(real, int | float) and isinstance(imaginary, int | float)):
        raise Damaged('a complex number that is none')
    return complex(real, imaginary)


def _slice(reader: Reader, *limits: Any) -> slice:
    if not all(limit is None or type(limit) is int for limit in limits):
        raise Refused('a slice of something else than numbers')
    return slice(*limits)


NAMES: dict[str, Any] = {
    'numpy.ndarray': Name('numpy.ndarray'),
    'numpy.dtype': Name('numpy.dtype', lambda reader, code, *_: _Dtype(code)),
    'numpy._core.multiarray._reconstruct': Name('numpy array', lambda reader, *_: _Array()),
    'numpy._core.multiarray.scalar': Name('numpy scalar', _scalar),
    'numpy._core.numeric._frombuffer': Name('numpy array', _from_buffer),
    '_codecs.encode': Name('_codecs.encode', _encode),
    'collections.OrderedDict': Name('collections.OrderedDict', _ordered),
    'collections.Counter': Name('collections.Counter', _counter),
    'collections.defaultdict': Name('collections.defaultdict', _default_dict),
    'builtins.dict': Name('builtins.dict', _dict),
    'builtins.bytes': Name('builtins.bytes', _bytes),
    'builtins.bytearray': Name('builtins.bytearray', _bytearray),
    'builtins.complex': Name('builtins.complex', _complex),
    'builtins.slice': Name('builtins.slice', _slice),
    **{
        f'builtins.{kind.__name__}': Name(f'builtins.{kind.__name__}', _sequence(kind))
        for kind in (list, tuple, set, frozenset)
    },
    **{
        f'builtins.{kind.__name__}': Name(f'builtins.{kind.__name__}')
        for kind in (int, float, str, bool)
    },
}
"""What every pickle may name."""


# -------------------------------------------------------------------------------------- operations
# One function per operation code; https://github.com/python/cpython/blob/main/Lib/pickletools.py
# describes each. Left out: registered extensions, buffers outside of the file, classes of Python 2.


def _push(value: Any) -> Callable[[Reader], None]:
    return lambda r: r.stack.append(value)


def _text_number(reader: Reader) -> None:
    line = reader.line()
    if len(line) > 64:
        raise Damaged('a number of more than 64 digits')
    if line in (b'00', b'01'):  # how protocol 0 wrote booleans
        reader.stack.append(line == b'01')
    else:
        reader.stack.append(int(line.rstrip(b'L')))


def _long(reader: Reader, size: int) -> None:
    if size > 255:
        raise Damaged(f'a number of {size} bytes')
    reader.stack.append(int.from_bytes(reader.take(size), 'little', signed=True))


def _byte_number(reader: Reader) -> None:
    reader.stack.append(reader.data[reader.at])
    reader.at += 1


def _quoted(reader: Reader) -> None:
    """Text of protocol 0: quoted, with escapes."""
    line = reader.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
        raise Damaged('text without quotes')
    reader.stack.append(codecs.escape_decode(line[1:-1])[0].decode('latin1'))


def _text(reader: Reader, size: int) -> None:
    # half of a surrogate pair: how Python has file names that are not UTF-8
    reader.stack.append(str(reader.take(size), 'utf-8', 'surrogatepass'))


def _old_text(reader: Reader, size: int) -> None:
    reader.stack.append(str(reader.take(size), 'latin1'))


def _raw(reader: Reader, size: int) -> None:
    reader.stack.append(reader.take(size))


def _sized(read: Callable[[Reader, int], None], width: int) -> Callable[[Reader], None]:
    return lambda r: read(r, r.number(width))


def _short_raw(reader: Reader) -> None:
    start = reader.at + 1
    reader.at = end = start + reader.data[reader.at]
    piece = reader.data[start:end]
    if end > len(reader.data):
        raise Damaged('it ends too early')
    reader.stack.append(piece)


def _short_text(reader: Reader) -> None:
    _short_raw(reader)
    reader.stack[-1] = str(reader.stack[-1], 'utf-8', 'surrogatepass')


def _two_bytes(reader: Reader) -> None:
    low, high = reader.data[reader.at : reader.at + 2]
    reader.at += 2
    reader.stack.append(low | high << 8)


def _mark(reader: Reader) -> None:
    reader.marks.append(reader.stack)
    reader.stack = []


def _append(reader: Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if type(target) is not list:
        raise Refused(f'items of {type(target).__name__}')
    target += items


def _set_items(reader: Reader) -> None:
    items = reader.since_mark()
    target = reader.stack[-1]
    if type(target) is dict:  # most are
        pairs = iter(items)
        for key in pairs:
            target[key if type(key) in _KEYS else _key(key)] = next(pairs)
    else:
        reader.fill(target, zip(items[::2], items[1::2], strict=True))


def _set_item(reader: Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.fill(reader.stack[-1], ((key, value),))


def _add_items(reader: Reader) -> None:
    items = reader.since_mark()
    if type(reader.stack[-1]) is not set:
        raise Refused(f'members of {type(reader.stack[-1]).__name__}')
    reader.stack[-1].update(map(_key, items))


def _new_dict(reader: Reader) -> None:
    items = reader.since_mark()
    reader.stack.append({})
    reader.fill(reader.stack[-1], zip(items[::2], items[1::2], strict=True))


def _tuple_of(count: int) -> Callable[[Reader], None]:
    def operation(reader: Reader) -> None:
        items = tuple(reader.stack[-count:])
        if len(items) < count:
            raise Damaged('a tuple of what is not there')
        reader.stack[-count:] = [items]

    return operation


def _global(reader: Reader) -> None:
    module, name = reader.line(), reader.line()
    reader.stack.append(reader.named(module.decode('utf-8'), name.decode('utf-8')))


def _stack_global(reader: Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Damaged('a name that is no text')
    reader.stack.append(reader.named(module, name))


def _reduce(reader: Reader) -> None:
    arguments = reader.stack.pop()
    reader.stack[-1] = reader.called(reader.stack[-1], arguments)


def _pop(reader: Reader) -> None:
    if reader.stack:
        reader.stack.pop()
    else:
        reader.since_mark()


def _persistent(reader: Reader) -> None:
    if reader.persistent is None:
        raise Refused('something that is stored outside of it')
    reader.stack[-1] = reader.persistent(reader.stack[-1])


def _memoize(reader: Reader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _put(width: int) -> Callable[[Reader], None]:
    def operation(reader: Reader) -> None:
        reader.memo[reader.number(width)] = reader.stack[-1]

    return operation


def _get_byte(reader: Reader) -> None:
    reader.stack.append(reader.memo[reader.data[reader.at]])
    reader.at += 1


def _double(reader: Reader) -> None:
    reader.stack.append(struct.unpack('>d', reader.take(8))[0])


_NAMED_OPERATIONS: dict[str, Callable[[Reader], None]] = {
    '\x80': lambda r: _protocol(r),
    '\x95': lambda r: _skip(r, 8),  # the size of a frame
    '(': _mark,
    '0': _pop,
    '1': lambda r: _skip_mark(r),
    '2': lambda r: r.stack.append(r.stack[-1]),
    # numbers
    'N': _push(None),
    '\x88': _push(True),
    '\x89': _push(False),
    'I': _text_number,
    'L': _text_number,
    'F': lambda r: r.stack.append(float(r.line())),
    'J': lambda r: r.stack.append(int.from_bytes(r.take(4), 'little', signed=True)),
    'K': _byte_number,
    'M': _two_bytes,
    'G': _double,
    '\x8a': _sized(_long, 1),
    '\x8b': _sized(_long, 4),
    # text and bytes
    'S': _quoted,
    'T': _sized(_old_text, 4),
    'U': _sized(_old_text, 1),
    'V': lambda r: r.stack.append(str(r.line(), 'raw-unicode-escape')),
    'X': _sized(_text, 4),
    '\x8c': _short_text,
    '\x8d': _sized(_text, 8),
    'B': _sized(_raw, 4),
    'C': _short_raw,
    '\x8e': _sized(_raw, 8),
    '\x96': lambda r: r.stack.append(_bytearray(r, r.take(r.number(8)))),
    # containers
    ']': lambda r: r.stack.append([]),
    '}': lambda r: r.stack.append({}),
    ')': _push(()),
    '\x8f': lambda r: r.stack.append(set()),
    'l': lambda r: _push(r.since_mark())(r),
    'd': _new_dict,
    't': lambda r: _push(tuple(r.since_mark()))(r),
    '\x91': lambda r: _push(frozenset(map(_key, r.since_mark())))(r),
    '\x85': _tuple_of(1),
    '\x86': _tuple_of(2),
    '\x87': _tuple_of(3),
    'a': lambda r: _append(r, [r.stack.pop()]),
    'e': lambda r: _append(r, r.since_mark()),
    's': _set_item,
    'u': _set_items,
    '\x90': _add_items,
    # what was read before
    'p': lambda r: r.memo.__setitem__(int(r.line()[:12]), r.stack[-1]),
    'q': _put(1),
    'r': _put(4),
    '\x94': _memoize,
    'g': lambda r: r.stack.append(r.memo[int(r.line()[:12])]),
    'h': _get_byte,
    'j': lambda r: r.stack.append(r.memo[r.number(4)]),
    # names, calls, states
    'c': _global,
    '\x93': _stack_global,
    'R': _reduce,
    '\x81': _reduce,  # a new object of a class: here, a call of what is named like it
    'b': Reader.build,
    'Q': _persistent,
}


def _protocol(reader: Reader) -> None:
    if reader.data[reader.at] > 5:
        raise Damaged(f'pickle protocol {reader.data[reader.at]}')
    reader.at += 1


def _skip(reader: Reader, size: int) -> None:
    reader.at += size


def _skip_mark(reader: Reader) -> None:
    reader.since_mark()


_OPERATIONS = {ord(code): operation for code, operation in _NAMED_OPERATIONS.items()}
