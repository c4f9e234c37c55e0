"""Plain pickles of numpy arrays, as detectron2 and Caffe2 publish weights (``.pkl``), read without
running anything in them.

A pickle is a program that may call whatever its reader lets it name. This reader lets it name plain
containers and stand-ins for numpy's types: the stand-ins only note down what they are given, and
the arrays are made afterwards from the notes. Any other name ends the reading.
"""

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

# Numbers, booleans and text, by numpy's codes ('f4', '<i8', '?', 'U3'). Objects and records are
# not among them.
_CODE = re.compile(r'[<>=|]?(\?|[bBhHiIlLqQefd]|b1|[iufSU]\d+)')


class Refused(Exception):
    """The pickle needs something that is not on the list; the text is its name."""


def read_pickle(path: Path) -> Any:
    """The content of a pickle: containers, numbers, text and numpy arrays.

    Text of Python 2 is read as latin1, as these files need.

    Raises:
        Refused: it names anything but containers and numpy arrays; nothing was run.
        pickle.UnpicklingError: it is damaged, or no pickle.
    """
    with open(path, 'rb') as file:
        try:
            return _arrays(_reader(file).load())
        except (Refused, OSError, MemoryError):
            raise
        except Exception as error:  # damaged bytes end in nearly any exception
            raise pickle.UnpicklingError(f'{type(error).__name__}: {error}') from None


class _Note:
    """An array-to-be: ``value`` is set when its content has been read."""

    value: np.ndarray


def _arrays(content: Any) -> Any:
    """The content with arrays in place of the notes."""
    if isinstance(content, _Note):
        return content.value
    if isinstance(content, dict):
        return {key: _arrays(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(_arrays(value) for value in content)
    return content


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """A copy of bytes (or Python 2's text) as an array; every argument comes from the file."""
    if isinstance(data, str):
        data = data.encode('latin1')
    dtype = dtype.numpy()
    if len(data) != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f'{len(data)} bytes for an array {shape} of {dtype}')
    return np.ndarray(shape, dtype, bytes(data), order='F' if fortran else 'C').copy()


def _reader(file: Any) -> pickle.Unpickler:
    """An unpickler for one file.

    Its stand-ins are made anew every time: a pickle can set attributes of the Python classes and
    functions it is handed, which must not outlive it.
    """

    class Dtype:
        """``numpy.dtype(code, align, copy)``, then a state with the order of the bytes."""

        def __init__(self, code: str, align: object = False, copy: object = True) -> None:
            if not (isinstance(code, str) and _CODE.fullmatch(code)):
                raise Refused(f'a numpy array of {str(code)[:20]!r}')
            self.code = code
            self.order: Any = '='

        def __setstate__(self, state: tuple) -> None:
            self.order = state[1]

        def numpy(self) -> np.dtype:
            dtype = np.dtype(self.code)
            return dtype if self.order == '|' else dtype.newbyteorder(self.order)

    class Array(_Note):
        """What ``_reconstruct`` gives; its state is (version, shape, dtype, fortran, bytes)."""

        def __setstate__(self, state: tuple) -> None:
            _, shape, dtype, fortran, data = state
            self.value = _array(data, dtype, shape, fortran)

    def reconstruct(cls: object, shape: object, code: object) -> Array:
        return Array()

    def scalar(dtype: Dtype, data: Any) -> Any:
        return _array(data, dtype, (), False)[()]

    def from_buffer(data: Any, dtype: Dtype, shape: Any, order: str) -> np.ndarray:
        return _array(data, dtype, shape, order == 'F')

    def encode(text: str, encoding: str) -> bytes:  # how Python 3 writes bytes in protocol 2
        return text.encode('latin1')

    def no_bytes() -> bytes:
        return b''

    known: dict[tuple[str, str], Any] = {
        ('numpy', 'ndarray'): None,
        ('numpy', 'dtype'): Dtype,
        ('_codecs', 'encode'): encode,
        ('collections', 'OrderedDict'): OrderedDict,
    }
    for core in ('numpy.core', 'numpy._core'):  # the name changed with numpy 2
        known[f'{core}.multiarray', '_reconstruct'] = reconstruct
        known[f'{core}.multiarray', 'scalar'] = scalar
        known[f'{core}.numeric', '_frombuffer'] = from_buffer
    for builtins in ('builtins', '__builtin__'):
        known.update({(builtins, kind.__name__): kind for kind in (dict, list, tuple, set)})
        known[builtins, 'bytes'] = no_bytes

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return known[module, name]
            except KeyError:
                raise Refused(f'{module}.{name}') from None

    return Reader(file, encoding='latin1')
