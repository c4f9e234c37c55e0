"""Whether a config's values are of the types that constructors are annotated with.

Only what a file can hold is judged (texts, numbers, None, lists, dictionaries); an annotation that
says nothing of these, such as ``nn.Module`` or a type variable, takes any value.
"""

import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Any

from torch import nn

_PLAIN = (str, bytes, int, float, list, tuple, dict, type(None))
_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Sized)
_TABLES = (dict, collections.abc.Mapping)


@functools.cache
def annotations_of(target: Callable) -> dict[str, Any]:
    """Annotation of each parameter of a class of ours (of its bases, too) or function of ours; {}
    for those of others, whose annotations are not meant so strictly."""
    bases = target.__mro__ if inspect.isclass(target) else (target,)
    found: dict[str, Any] = {}
    for base in bases:
        if base in (object, nn.Module) or not base.__module__.startswith('mmdet_r2.'):
            break
        function = vars(base).get('__init__') if inspect.isclass(base) else base
        if function is None:
            continue
        function = getattr(function, 'func', function)  # of a partialmethod
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError):  # names that are imported for type checkers only
            hints = {}
        found = {**hints, **found}
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    found.pop('return', None)
    return found


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type, or one that is as good: a whole float for an int,
    an int for a float, a list for a tuple."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(value, _PLAIN):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if origin is typing.Literal:
        return value in inner
    kind = origin or hint
    if kind in (None, type(None)):
        return value is None
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind is float or value == value // 1)
    if kind in (str, os.PathLike):
        return isinstance(value, str)
    if kind in _TABLES:
        return isinstance(value, dict)
    if kind in _LISTS:
        if not isinstance(value, (list, tuple)):
            return False
        if not inner or (kind is tuple and len(inner) > 1 and inner[1] is not ...):
            exact = not inner or len(inner) == len(value)
            return exact and all(map(fits, value, inner or [Any] * len(value)))
        return all(fits(one, inner[0]) for one in value)
    return True


def readable(hint: Any) -> str:
    """An annotation as an error shows it."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ' or '.join(readable(one) for one in inner)
    if typing.get_origin(hint) is typing.Literal:
        return ' or '.join(map(repr, inner))
    if hint is type(None):
        return 'None'
    if not inner:
        return getattr(hint, '__name__', str(hint))
    text = ', '.join('...' if one is ... else readable(one) for one in inner)
    name = getattr(typing.get_origin(hint), '__name__', str(hint))
    return f'{name}[{text}]'
