"""The settings of a YAML file of theirs, over its defaults, and what each means here."""

import ast
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import ConfigError, DataError, did_you_mean
from ..files import MAX_YAML, parse_yaml, read_bytes


@dataclass(frozen=True)
class Set:
    """A key that sets ``paths`` of our config, the ones whose component is there.

    Where a path leads to a list (a cascade's stages), it sets all of its items.
    """

    paths: tuple[str, ...]
    via: Callable[[Any], Any]


def to(*paths: str, via: Callable[[Any], Any] = lambda value: value) -> Set:
    """The rule of a key whose value ``via`` goes to ``paths``."""
    return Set(paths, via)


def inverse(weights: tuple[float, ...]) -> list[float]:
    """Standard deviations for what they multiply deltas with."""
    return [1 / weight for weight in weights]


#: Rules of the other keys: read by name; only its default can be computed here; changes no number.
READ, ONLY, FREE = 'read', 'only', 'free'

#: Key -> default, rule.
Table = dict[str, tuple[Any, Set | str]]


class Source:
    """What a file says, over the defaults of its project.

    Args:
        path: of the file, for messages.
        given: its keys, dotted, with their values.
        table: of all keys of the project.
        unused: beginnings of keys that belong to models of other kinds.
    """

    def __init__(
        self, path: Path, given: dict[str, Any], table: Table, unused: tuple[str, ...] = ()
    ) -> None:
        self.path, self.table = path, table
        self.given: dict[str, Any] = {}
        free = []
        for key, value in given.items():
            if key.startswith(unused):
                continue
            if key not in table:
                raise ConfigError(f'{path}: {key} is no known key{did_you_mean(key, table)}')
            default, rule = table[key]
            value = self._typed(key, value, default)
            self.given[key] = value
            if rule == ONLY and value != default:
                raise self.error(key, repr(default))
            if rule == FREE and value != default:
                free.append(key)
        if free:
            print_log(f'{path}: left out, for they change no number: {", ".join(free)}', 'current')

    def __getitem__(self, key: str) -> Any:
        return self.given.get(key, self.table[key][0])

    def error(self, key: str, expected: str) -> ConfigError:
        """That ``key`` has a value that cannot be taken over."""
        return ConfigError(f'{self.path}: {key} is {self[key]!r:.100}; here it can be {expected}')

    def one_of(self, key: str, *values: Any) -> Any:
        """Its value, which must be one of ``values``."""
        if self[key] not in values:
            raise self.error(key, ' or '.join(map(repr, values)))
        return self[key]

    def warn(self, message: str) -> None:
        """Say what the user has to know of this file."""
        print_log(f'{self.path}: {message}', 'current', logging.WARNING)

    def apply(self, config: dict[str, Any]) -> None:
        """Set in ``config`` whatever the table says."""
        for key, (default, rule) in self.table.items():
            if isinstance(rule, Set):
                value = rule.via(self[key])
                for path in rule.paths:
                    put(config, path, value, add=value != rule.via(default))

    def _typed(self, key: str, value: Any, default: Any) -> Any:
        """The value in the type of the default, as yacs has it: a text may be written in Python."""
        if isinstance(value, str) and not isinstance(default, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                pass  # not of that type, which is said below
        if isinstance(default, tuple):
            if isinstance(value, Number):
                value = (value,)
            value = _tuples(value)
        if not _fits(value, default):
            raise ConfigError(
                f'{self.path}: {key} is {value!r:.100}, expected a value like {default!r:.100}'
            )
        return value


def put(node: Any, path: str, value: Any, *, add: bool = True) -> None:
    """Set a dotted path where what holds it exists; ``add``: also where it has no such key yet."""
    name, _, rest = path.partition('.')
    if isinstance(node, list):
        for item in node:
            put(item, path, value, add=add)
    elif isinstance(node, dict):
        if rest:
            put(node.get(name), rest, value, add=add)
        elif add or name in node:
            node[name] = value


def read_chain(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of a file and its ``_BASE_`` files. All of them are data.

    Raises:
        ConfigError: a base that is missing, no mapping, or leads back to a file before it.
    """
    return dict(_flat(_merged(path, content, (os.path.realpath(path),))))


def _merged(path: Path, content: dict[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
    bases = content.get('_BASE_', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f'{path}: _BASE_ is {bases!r:.80}, expected a file or a list of files')
    merged: dict[str, Any] = {}
    for base in bases:
        file = path.parent / os.path.expanduser(base)
        real = os.path.realpath(file)
        if real in above:
            raise ConfigError(f'{path}: _BASE_ {base!r} leads back to {file}')
        try:
            text = read_bytes(file, 'config', MAX_YAML).decode('utf-8')
        except (DataError, UnicodeDecodeError) as error:
            raise ConfigError(f'{path}: _BASE_ {base!r}: {error}') from None
        inherited = parse_yaml(text, file, ConfigError)
        if not isinstance(inherited, dict):
            raise ConfigError(f'{file}: expected keys and values')
        _merge(merged, _merged(file, inherited, (*above, real)))
    _merge(merged, {key: value for key, value in content.items() if key != '_BASE_'})
    return merged


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _flat(node: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        if not isinstance(value, tuple):
            return False
        return not default or all(_fits(item, default[0]) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if default is None or isinstance(default, Number):  # None: as another key
        return isinstance(value, Number)
    return isinstance(value, type(default))
