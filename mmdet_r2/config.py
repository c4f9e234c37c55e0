"""From a config file, name or object to a checked mmengine ``Config``: the one door every tool and
API goes through.

Order of work: find the file, read its ``_base_`` chain, apply overrides, move mmdetection's scope
to ours, import what ``custom_imports`` asks for, and check every key
(:mod:`mmdet_r2.config_check`). :func:`origins` tells which line of which file a value came from; it
reads the files' syntax trees and runs nothing.
"""

import ast
import copy
import difflib
import functools
import importlib
import json
import logging
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import YamlHandler, register_handler
from mmengine.logging import print_log

from .config_imports import (
    base_files,
    is_pure_python,
    read_pure_python,
    registered_name,
    resolve_imports,
)
from .config_text import foreign_code
from .config_yaml import is_theirs, translate
from .errors import ConfigError, DataError
from .files import MAX_NESTING, MAX_YAML, parse_yaml, read_bytes
from .registry import PEER_SCOPE, SCOPE, without_scope

#: Of config files: Python, which is run, and data.
SUFFIXES = ('.py', '.json', '.yaml', '.yml')

# A config made for one of these scopes names the same components as ours does.
_FOREIGN_SCOPES = (PEER_SCOPE, 'mmengine', 'mmcv')

# Spelling differences between the published v2 names (ours) and those of mmdetection 3.x, applied
# to both sides.
_SPELLINGS = (
    ('-', '_'),
    ('res2net_', 'r2_'),
    ('mstrain_', 'ms_'),
    ('ms_poly', 'poly'),
    ('multiscale', 'ms'),
)


def load_config(
    source: 'str | Path | Config',
    overrides: dict[str, Any] | None = None,
    *,
    check: bool = True,
) -> Config:
    """The config of ``source``, ready to build from: resolved, in our scope, with every key
    checked.

    Args:
        source: path of a config file; bare name of a config that comes with the package (with or
            without ``.py``, published name or mmdetection 3.x's); or a ``Config``, which is copied
            and left alone.
        overrides: dotted key -> value (``{'train_dataloader.batch_size': 4}``), as
            ``--cfg-options`` gives them. List items are addressed by index
            (``train_dataloader.dataset.pipeline.2.prob``).
        check: False skips the check of keys (and the imports it needs); the rest is done all the
            same.

    Raises:
        ConfigError: the file or name does not exist, the file does not run, a key is unknown to the
            component it is meant for, a ``type`` is registered nowhere, or nothing reads a
            top-level key.
    """
    if isinstance(source, Config):
        config = copy.deepcopy(source)
    else:
        config = _read(find_config(source))
    resolve_imports(config._cfg_dict)
    overrides = dict(overrides or {})
    if overrides:
        _apply(config, overrides)
    to_our_scope(config)
    _import_custom_modules(config)
    if check:
        from .config_check import (
            check_config,
        )  # needs every registered component; loading alone does not

        check_config(config, overrides)
    return config


# ----------------------------------------------------------------------------------------------
# finding


def find_config(source: str | Path) -> Path:
    """Path of the config file that ``source`` names.

    Raises:
        ConfigError: no such file or name; the message has the nearest names.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ConfigError(f'{path}: a config is one of {", ".join(SUFFIXES)}')
        return path
    known = shipped_configs()
    name = path.name.removesuffix('.py')
    # A path that is not there is an error, even if its last part is a name we know: the user may
    # have edited that file.
    if len(path.parts) == 1:
        if name in known:
            return known[name]
        from .zoo.index import find_model

        model = find_model(name)
        if model is not None and model.config.is_file():
            return model.config
        for other, file in known.items():
            if _common_spelling(other) == _common_spelling(name):
                return file
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f'; nearest known configs: {", ".join(near)}' if near else ''
    raise ConfigError(f'{source}: no such config file or name{hint}.')


@functools.cache
def shipped_configs() -> dict[str, Path]:
    """Name -> path of every config in the checkout's ``configs/`` or, once installed, the packaged
    copy of it."""
    package = Path(__file__).resolve().parent
    found: dict[str, Path] = {}
    for folder in (package.parent / 'configs', package / '.mim' / 'configs'):
        for file in sorted(folder.rglob('*.py')) if folder.is_dir() else ():
            if '_base_' not in file.relative_to(folder).parts:
                found.setdefault(file.stem, file)
    return found


def _common_spelling(name: str) -> str:
    for one, other in _SPELLINGS:
        name = name.replace(one, other)
    return name


# ----------------------------------------------------------------------------------------------
# reading


@register_handler(['yaml', 'yml'])
class _YamlData(YamlHandler):
    """What mmengine reads YAML with in this process, ``_base_`` files included: its own loader
    runs what a tag names."""

    def load_from_fileobj(self, file: Any, **options: Any) -> Any:
        return parse_yaml(file.read(), getattr(file, 'name', 'YAML'))


def _read(path: Path) -> Config:
    """A Python config is a program, which runs as its user; others are data."""
    files: list[ConfigFile] = []
    try:
        chain = config_files(path)
        files = list(chain.chain())
        if chain.pure_python:
            return Config(_values(path), filename=str(path))
        if is_theirs(chain.content):
            return Config(translate(path, chain.content, _shipped), filename=str(path))
        # custom_imports are imported later: mmdetection's own modules have to be left out first
        return Config.fromfile(path, import_custom_modules=False)
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        reason = f'the module {error.name!r}' if error.name else ' '.join(str(error).split())
        raise ConfigError(
            f'{_place_of(error, files, path)}: cannot be read: {reason} is missing; a `_base_` of '
            'another package ("name::file") has to be copied beside this config'
        ) from error
    except (Exception, SystemExit) as error:
        # whatever a config raises is the user's to fix
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f'{_place_of(error, files, path)}: cannot be read: {type(error).__name__}: '
            f'{reason:.500}'
        ) from error


def _place_of(error: BaseException, files: Sequence['ConfigFile'], path: Path) -> str:
    """``file:line`` where the code of a config raised; the config where none did."""
    names = {os.path.abspath(file.path): file.path for file in files}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.abspath(frame.filename) in names:
            return f'{names[os.path.abspath(frame.filename)]}:{frame.lineno}'
    return str(path)


def _values(path: Path) -> dict[str, Any]:
    """What a config assigns and inherits, with imported names unresolved."""
    tree = ast.parse(path.read_text(encoding='utf-8')) if path.suffix == '.py' else None
    if tree is None or not is_pure_python(tree):
        return _read(path)._cfg_dict
    return read_pure_python(path, tree, find_config, _values)


def _shipped(name: str) -> dict[str, Any]:
    config = _read(find_config(name))
    to_our_scope(config)
    return config.to_dict()


def _apply(config: Config, overrides: dict[str, Any]) -> None:
    for key, value in overrides.items():
        try:
            config.merge_from_dict({key: value})
        except AttributeError as error:
            raise ConfigError(
                f'--cfg-options {key}: items of a list of plain values cannot be set one by one; '
                'give the whole list.'
            ) from error
        except (KeyError, TypeError, IndexError) as error:
            reason = ' '.join(str(error.args[0] if error.args else error).split())
            raise ConfigError(f'--cfg-options {key}: {reason[:300]}') from error


def to_our_scope(config: Config) -> None:
    """Rewrite ``config`` in place so that it names our components, whichever of mmdetection's
    spellings it used."""
    scope = config.get('default_scope')
    if scope not in (None, SCOPE, *_FOREIGN_SCOPES):
        raise ConfigError(
            f"default_scope: {scope!r} is another project's; components here are '{SCOPE}'."
        )
    _strip_scope(config._cfg_dict)
    config.default_scope = SCOPE


def _strip_scope(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('_scope_') in _FOREIGN_SCOPES or node.get('_scope_', '') is None:
            node.pop('_scope_')
        for key in ('type', 'constructor'):
            value = node.get(key)
            if isinstance(value, str) and '.' in value:
                node[key] = registered_name(without_scope(value))
        for value in node.values():
            _strip_scope(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _strip_scope(value)


def _import_custom_modules(config: Config) -> None:
    wanted = config.get('custom_imports')
    if not wanted:
        return
    imports = wanted.get('imports', []) if isinstance(wanted, dict) else None
    imports = [imports] if isinstance(imports, str) else imports
    if not isinstance(imports, (list, tuple)) or not all(isinstance(one, str) for one in imports):
        raise ConfigError(
            f'custom_imports is {wanted!r}, expected dict(imports=[...]) with names of modules'
        )
    ours = [name for name in imports if name.split('.')[0] != 'mmdet']
    if len(ours) < len(imports):
        left_out = ', '.join(sorted(set(imports) - set(ours)))
        print_log(f'custom_imports: {left_out} left out (mmdetection is not used).', 'current')
    for name in ours:
        try:
            importlib.import_module(name)
        except ImportError as error:
            if wanted.get('allow_failed_imports', False):
                print_log(f'custom_imports: {name}: {error}', 'current', logging.WARNING)
                continue
            raise ConfigError(
                f'custom_imports: {name} cannot be imported ({error}); is its folder on PYTHONPATH?'
            ) from error
    wanted['imports'] = ours


# ----------------------------------------------------------------------------------------------
# where a value comes from


@dataclass(frozen=True)
class Origin:
    """One place that sets a value: a line of a config file, or the command line (``file`` is then
    ``--cfg-options``)."""

    file: str
    line: int
    value: Any = None  # where it is written as a plain constant

    def __str__(self) -> str:
        return f'{self.file}:{self.line}' if self.line else self.file


@dataclass
class ConfigFile:
    """One file of a ``_base_`` chain, as its syntax tree tells.

    Attributes:
        assigned: top-level name -> line of its last assignment.
        read: names that the file itself uses.
        read_from_base: names that the file takes from its bases (``_base_.x`` or ``{{_base_.x}}``).
    """

    path: Path
    bases: list['ConfigFile'] = field(default_factory=list)
    assigned: dict[str, int] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    read_from_base: set[str] = field(default_factory=set)
    tree: ast.Module | None = None
    pure_python: bool = False  # in mmengine's style of that name, see config_imports
    content: dict[str, Any] = field(default_factory=dict)  # JSON and YAML

    def chain(self) -> Iterator['ConfigFile']:
        """Every file, bases first: the order in which values override each other."""
        for base in self.bases:
            yield from base.chain()
        yield self


def config_files(path: str | Path) -> ConfigFile:
    """The ``_base_`` chain of a config file. Nothing in it is run.

    Raises:
        ConfigError: names the file and line of what is not Python, JSON or YAML, of a ``_base_``
            that is no file or leads back to itself.
    """
    return _config_files(Path(path), ())


def _config_files(path: Path, above: tuple[str, ...]) -> ConfigFile:
    try:
        text = read_bytes(path, 'config', MAX_YAML).decode('utf-8')
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: is not text in UTF-8 (byte {error.start})') from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    file = ConfigFile(path)
    if path.suffix == '.py':
        scanned, bases = _scan(text, path)
        file = copy.copy(scanned)
        if file.tree and file.pure_python:
            imports = list(base_files(file.tree, path, find_config))
            bases = [str(base) for _, base in imports]
            file.read = file.read | {alias.name for node, _ in imports for alias in node.names}
            file.read_from_base = file.read
    else:
        content = _data(_substituted(text, path), path)
        if not isinstance(content, dict):
            raise ConfigError(f'{path}: is a {type(content).__name__}, expected keys and values')
        if not all(isinstance(key, str) for key in content):
            key = next(key for key in content if not isinstance(key, str))
            raise ConfigError(f'{path}: the key {key!r:.80} is no text')
        if code := foreign_code(content):
            raise ConfigError(
                f'{path}: {code} is no name of a component; a config that is data names registered '
                'ones only (custom_imports registers yours)'
            )
        file.content = content
        file.assigned = dict.fromkeys(file.content, 0)
        bases = file.content.get('_base_', [])
    line = file.assigned.get('_base_', 0)
    where = f'{path}:{line}' if line else str(path)
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, (list, tuple)) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f'{where}: _base_ is {bases!r:.80}, expected a file or a list of files')
    file.read_from_base = file.read_from_base | set(re.findall(r'\{\{\s*_base_\.(\w+)', text))
    above = (*above, os.path.realpath(path))
    for base in bases:
        if '::' in base:  # of another package; only mmengine can tell
            continue
        target = Path(os.path.normpath(path.parent / _substituted(base, path)))
        if not target.is_file():
            raise ConfigError(f'{where}: _base_ {base!r}: no such file: {target}')
        if target.suffix not in SUFFIXES:
            raise ConfigError(f'{where}: _base_ {base!r} is none of {", ".join(SUFFIXES)}')
        if os.path.realpath(target) in above:
            raise ConfigError(f'{where}: _base_ {base!r} leads back to {target}')
        inherited = _config_files(target, above)
        if inherited.pure_python and not file.pure_python:
            raise ConfigError(
                f'{where}: _base_ {base!r} is in the pure-Python style, which is inherited with '
                f'"with read_base(): from .{target.stem} import *"'
            )
        if is_theirs(inherited.content):
            raise ConfigError(
                f'{where}: _base_ {base!r} is in the style of detectron2; inherit from what '
                f'"mmdet-r2 config {target} --save FILE.py" writes'
            )
        file.bases = [*file.bases, inherited]
    return file


def _parsed(text: str, path: Path) -> ast.Module:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(f'{path}:{error.lineno or 1}: not valid Python: {error.msg}') from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes; nested too deeply
        raise ConfigError(f'{path}: not valid Python: {error or type(error).__name__}') from None
    return tree


def _data(text: str, path: Path) -> Any:
    if path.suffix != '.json':
        return parse_yaml(text, path, ConfigError)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f'{path}:{error.lineno}: not valid JSON: {error.msg}') from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: not readable as JSON ({error})') from None
    level = [content]
    for _ in range(MAX_NESTING):
        below = [list(n.values()) if isinstance(n, dict) else n for n in level]
        level = [part for parts in below if isinstance(parts, list) for part in parts]
    if level:
        raise ConfigError(f'{path}: nested more than {MAX_NESTING} deep')
    return content


def _substituted(text: str, path: Path) -> str:
    """The text with what mmengine puts in for ``{{ fileDirname }}``, ``{{$VARIABLE:default}}`` and
    ``{{ _base_.key }}``."""
    path = path.absolute()
    values = {
        'fileDirname': str(path.parent),
        'fileBasename': path.name,
        'fileBasenameNoExtension': path.stem,
        'fileExtname': path.suffix,
    }
    for name, value in values.items():
        value = value.replace('\\', '/')
        text = value.join(re.split(rf'\{{\{{\s*{name}\s*\}}\}}', text))
    text = re.sub(
        r'\{\{[\'\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*[\'\"]?\}\}',
        lambda match: os.environ.get(match[1], match[2]),
        text,
    )
    return re.sub(r'\{\{\s*_base_\.([\w.]+)\s*\}\}', r'"\1"', text)


@functools.lru_cache(maxsize=256)  # of the same few bases, again and again
def _scan(text: str, path: Path) -> tuple[ConfigFile, Any]:
    """What the Python file says of itself, to be left as it is, and what ``_base_`` is."""
    tree = _parsed(text, path)
    file = ConfigFile(path, tree=tree, pure_python=is_pure_python(tree))
    bases: Any = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            file.read.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == '_base_'
        ):
            file.read_from_base.add(node.attr)
    for statement in tree.body:
        for target in _targets(statement):
            if isinstance(target, ast.Name):
                file.assigned[target.id] = statement.lineno
                if target.id == '_base_' and isinstance(statement, ast.Assign):
                    try:
                        bases = ast.literal_eval(statement.value)
                    except (
                        ValueError,
                        TypeError,
                    ):  # an expression; only mmengine, which runs it, can tell
                        bases = []
    return file, bases


def _targets(statement: ast.stmt) -> list[ast.expr]:
    """What a top-level statement assigns to, names inside tuples, ``for`` and ``with`` included."""
    found: list[ast.expr] = []
    for node in ast.walk(statement):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ListComp, ast.DictComp)):
            continue
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
            targets = [node.target]
        else:
            continue
        for target in targets:
            found += target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    return found


def origins(path: str | Path, overrides: dict[str, Any] | None = None) -> dict[str, list[Origin]]:
    """Dotted key -> every place that sets it, in the order they apply (the last one wins).

    A key that no line names by itself (made by a loop or a function) is covered by the entry of its
    parent: see :func:`origin_of`.
    """
    found: dict[str, list[Origin]] = {}
    for file in config_files(path).chain():
        if file.tree is None:
            entries = list(_entries_of_value(file.content, ()))
        else:
            entries = list(_entries_of_tree(file.tree))
        inherited = {key: list(places) for key, places in found.items()}
        for keys, line, kind, value in entries:
            key = '.'.join(keys)
            if kind != 'merge':  # a constant, a list or `_delete_=True`: nothing below it survives
                for other in [name for name in found if name.startswith(key + '.')]:
                    del found[other]
            if kind == 'delete':
                found[key] = []
            if kind == 'base':  # set where the base set its parts
                for other, places in inherited.items():
                    if other == value or other.startswith(f'{value}.'):
                        found[key + other.removeprefix(value)] = list(places)
                value = None
            found.setdefault(key, []).append(Origin(str(file.path), line, value))
    for key, value in (overrides or {}).items():
        for other in [name for name in found if name.startswith(key + '.')]:
            del found[other]
        found.setdefault(key, []).append(Origin('--cfg-options', 0, value))
    return found


def origin_of(table: dict[str, list[Origin]], key: str) -> list[Origin]:
    """Places that set ``key``, or the nearest key above it that has any; [] if there is none."""
    while key:
        if table.get(key):
            return table[key]
        key = key.rpartition('.')[0]
    return []


# keys, line, 'merge' | 'replace' | 'delete' | 'base', constant; of 'base' the key in the base
_Entry = tuple[tuple[str, ...], int, str, Any]


def _entries_of_value(value: Any, keys: tuple[str, ...]) -> Iterator[_Entry]:
    if isinstance(value, dict):
        if keys:
            yield keys, 0, 'delete' if value.get('_delete_') else 'merge', None
        for key, child in value.items():
            if key not in ('_base_', '_delete_'):
                yield from _entries_of_value(child, (*keys, str(key)))
    else:
        yield keys, 0, 'replace', value


def _entries_of_tree(tree: ast.Module) -> Iterator[_Entry]:
    variables: dict[str, ast.expr] = {}
    for statement in tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    keys = _path_of(target)
                    if not keys or keys[0].startswith('_base_'):
                        continue
                    if len(keys) == 1:
                        variables[keys[0]] = node.value
                    yield from _entries_of_node(node.value, keys, node.lineno, variables)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ('update', 'merge', 'append', 'insert', 'extend')
            ):
                keys = _path_of(node.func.value)
                if not keys or keys[0] == '_base_':
                    continue
                if node.func.attr in ('update', 'merge'):
                    for part in node.args:
                        yield from _entries_of_node(part, keys, node.lineno, variables)
                    for keyword in node.keywords:
                        yield from _entries_of_node(
                            keyword.value, (*keys, keyword.arg or ''), node.lineno, variables
                        )
                else:
                    yield keys, node.lineno, 'merge', None


def _path_of(node: ast.expr) -> tuple[str, ...]:
    """('model', 'backbone') of ``model.backbone`` or ``model['backbone']``; () of anything else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        parent = _path_of(node.value)
        return (*parent, node.attr) if parent else ()
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        parent = _path_of(node.value)
        return (*parent, str(node.slice.value)) if parent else ()
    return ()


def _entries_of_node(
    node: ast.expr, keys: tuple[str, ...], line: int, variables: dict[str, ast.expr], depth: int = 0
) -> Iterator[_Entry]:
    value = variables.get(node.id) if isinstance(node, ast.Name) else None
    if isinstance(value, (ast.Call, ast.Dict, ast.List, ast.Tuple)) and depth < 8:
        # a helper variable with parts: its own lines set them
        yield from _entries_of_node(value, keys, value.lineno, variables, depth + 1)
        return
    pairs: list[tuple[str, ast.expr, int]] | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        pairs = [(k.arg, k.value, k.lineno) for k in node.keywords if k.arg]
    elif isinstance(node, ast.Dict):
        pairs = [
            (str(k.value), v, k.lineno)
            for k, v in zip(node.keys, node.values, strict=True)
            if isinstance(k, ast.Constant)
        ]
    if pairs is not None:
        deleted = any(name == '_delete_' for name, _, _ in pairs)
        yield keys, line, 'delete' if deleted else 'merge', None
        for name, value, at in pairs:
            if name != '_delete_':
                yield from _entries_of_node(value, (*keys, name), at, variables, depth)
    elif isinstance(node, (ast.List, ast.Tuple)):
        yield keys, line, 'replace', _constant(node)
        for index, item in enumerate(node.elts):
            if not isinstance(item, ast.Constant):
                yield from _entries_of_node(
                    item, (*keys, str(index)), item.lineno, variables, depth
                )
    elif len(path := _path_of(node)) > 1 and path[0] == '_base_':
        yield keys, line, 'base', '.'.join(path[1:])
    else:
        yield keys, line, 'replace', _constant(node)


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def flatten(config: Config | ConfigDict | dict) -> dict[str, Any]:
    """Dotted key -> value of every leaf; an empty dict or list is a leaf too."""

    def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        items: Any = ()
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, (list, tuple)) and any(isinstance(v, (dict, list)) for v in value):
            items = enumerate(value)
        if not items:
            yield key, value
        for name, child in items:
            yield from leaves(child, f'{key}.{name}' if key else str(name))

    mapping = config._cfg_dict if isinstance(config, Config) else config
    return dict(leaves(mapping, '')) if mapping else {}
