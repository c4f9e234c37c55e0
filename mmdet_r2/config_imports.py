"""Configs in mmengine's pure-Python style: bases are imported within ``with read_base():``, and a
``type`` is an imported class.

Such a file is run as any config is, but nothing that it imports is: a name from another package
stands for its dotted path until the config is complete. So ``from mmdet.models import MaskRCNN``
needs no mmdetection; :func:`registered_name` then finds our component of that name.
"""

import ast
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

from .errors import ConfigError
from .registry import PEER_SCOPE

_TYPE_KEYS = ('type', 'constructor')
#: Packages whose classes are known to the registries by shorter names.
_LIBRARIES = ('mmengine', 'mmcv', 'torch')


class Imported:
    """A name that a config imports, standing for its dotted path; its attributes do so too."""

    def __init__(self, path: str, where: str) -> None:
        self.path, self.where = path, where

    def __getattr__(self, name: str) -> 'Imported':
        if name.startswith('__'):
            raise AttributeError(name)
        return Imported(f'{self.path}.{name}', self.where)

    def __call__(self, *_: Any, **__: Any) -> None:
        raise ConfigError(
            f'{self.where}: {self.path} is called; a config of this style only names what it '
            'imports, as in dict(type=...)'
        )


# ----------------------------------------------------------------------------------------------
# reading


def is_pure_python(tree: ast.Module) -> bool:
    """Whether a config is of this style, by mmengine's rule: it has no ``_base_``, and a
    ``read_base()``, a relative import, or an import from outside the standard library."""
    nodes = list(ast.walk(tree))
    names = [t for n in nodes if isinstance(n, ast.Assign) for t in n.targets]
    if any(isinstance(name, ast.Name) and name.id == '_base_' for name in names):
        return False
    for node in nodes:
        if isinstance(node, ast.stmt) and _base_block(node):
            return True
        if isinstance(node, ast.Import) and not all(_is_real(alias.name) for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            only_config = node.module == 'mmengine' and [a.name for a in node.names] == ['Config']
            if node.level or not (only_config or _is_real(node.module or '')):
                return True
    return False


def base_files(
    tree: ast.Module, path: Path, named: Callable[[str], Path]
) -> Iterator[tuple[ast.ImportFrom, Path]]:
    """The imports within ``read_base()`` of the config at ``path``, with the file of each.

    Args:
        named: finds a config of ours by name, as :func:`mmdet_r2.config.find_config` does.

    Raises:
        ConfigError: there is no such file, or it is no ``from ... import ...``.
    """
    for statement in tree.body:
        for node in _base_block(statement):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                raise ConfigError(
                    f'{path}, line {node.lineno}: expected "from FILE import *" within read_base()'
                )
            yield node, _base_file(node, path, named)


def read_pure_python(
    path: Path,
    tree: ast.Module,
    named: Callable[[str], Path],
    read: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """What the config at ``path`` assigns and inherits, with :class:`Imported` where it names
    classes.

    Args:
        named: see :func:`base_files`.
        read: reads a base, of whichever style, into such a dictionary.

    Raises:
        ConfigError: a base does not exist, something relative is imported outside ``read_base()``,
            or what is imported is called. What the file itself raises passes through.
    """
    scope: dict[str, Any] = {'__file__': str(path), '__name__': path.stem, _MARK: Imported}
    for node, file in base_files(tree, path, named):
        values = read(file)
        for alias in node.names:
            if alias.name == '*':
                scope |= values
            elif alias.name in values:
                scope[alias.asname or alias.name] = values[alias.name]
            else:
                raise ConfigError(f'{path}, line {node.lineno}: {file} has no {alias.name}')
    program = ast.fix_missing_locations(_ImportsNamed(path).visit(tree))
    exec(compile(program, str(path), 'exec'), scope)  # a config is a program
    kept = {
        key: value
        for key, value in scope.items()
        if not key.startswith('__') and not _is_tool(value)
    }
    return {key: _as_config(value) for key, value in kept.items()}


_MARK = '_imported_name_'


def _base_block(statement: ast.stmt) -> list[ast.stmt]:
    """The statements within ``with read_base():`` (or ``if '_base_':``, as it was first written);
    [] of any other statement."""
    if isinstance(statement, ast.With):
        call = statement.items[0].context_expr
        name = call.func if isinstance(call, ast.Call) else None
        if getattr(name, 'id', getattr(name, 'attr', None)) == 'read_base':
            return statement.body
    test = statement.test if isinstance(statement, ast.If) else None
    if isinstance(statement, ast.If) and isinstance(test, ast.Constant) and test.value == '_base_':
        return statement.body
    return []


def _base_file(node: ast.ImportFrom, path: Path, named: Callable[[str], Path]) -> Path:
    assert node.module
    parts = node.module.split('.')
    where = f'{path}, line {node.lineno}'
    if node.level:
        file = path.parent.joinpath(*['..'] * (node.level - 1), *parts).with_suffix('.py')
        if file.is_file():
            return file.resolve()
        raise ConfigError(f'{where}: no such base: {file}')
    for folder in (*path.resolve().parents, *_package_folders(parts[0])):
        file = folder.joinpath(*parts).with_suffix('.py')
        if file.is_file():
            return file
    if parts[:2] == [PEER_SCOPE, 'configs']:
        try:
            return _our_base(parts[2:], named)
        except ConfigError as error:
            raise ConfigError(f'{where}: {error}') from None
    raise ConfigError(
        f'{where}: no such base: {node.module}, neither above this file nor installed'
    )


def _our_base(parts: list[str], named: Callable[[str], Path]) -> Path:
    """Our file for mmdetection's ``configs/...``."""
    if parts[:1] == ['_base_']:
        shipped = named('faster_rcnn_r50_fpn_1x_coco').parents[1]
        file = shipped.joinpath(*parts).with_suffix('.py')
        if file.is_file():
            return file
        raise ConfigError(f'no such base: {".".join(parts)} is not among the configs here')
    return named(parts[-1])


def _package_folders(name: str) -> list[Path]:
    """Folders that hold the package ``name``, which is not imported to learn them."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    folders = spec.submodule_search_locations if spec is not None else None
    return [Path(folder).parent for folder in folders or ()]


def _is_real(module: str) -> bool:
    """Whether an import is carried out: of the standard library, or for ``read_base`` itself."""
    root = module.split('.')[0]
    return root in sys.stdlib_module_names or module.startswith('mmengine.config')


class _ImportsNamed(ast.NodeTransformer):
    """Turn imports into assignments of :class:`Imported`, and take out those of bases."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def visit_With(self, node: ast.With) -> Any:
        return [] if _base_block(node) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        return [] if _base_block(node) else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> Any:
        found: list[ast.stmt] = []
        for alias in node.names:
            if _is_real(alias.name):
                found.append(ast.copy_location(ast.Import(names=[alias]), node))
            elif alias.asname:
                found.append(self._assign(alias.asname, alias.name, node))
            else:
                root = alias.name.split('.')[0]
                found.append(self._assign(root, root, node))
        return found

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        where = f'{self.path}, line {node.lineno}'
        if not node.level and _is_real(node.module or ''):
            return node
        if node.level:
            raise ConfigError(
                f'{where}: a relative import outside read_base(); import {node.names[0].name} by '
                'the full name of its module, whose folder is on PYTHONPATH'
            )
        if any(alias.name == '*' for alias in node.names):
            raise ConfigError(f'{where}: import * is for bases, within read_base()')
        return [
            self._assign(alias.asname or alias.name, f'{node.module}.{alias.name}', node)
            for alias in node.names
        ]

    def _assign(self, name: str, dotted: str, node: ast.stmt) -> ast.stmt:
        where = f'{self.path}, line {node.lineno}'
        statement = ast.parse(f'{name} = {_MARK}({dotted!r}, {where!r})').body[0]
        return ast.copy_location(statement, node)


def _is_tool(value: Any) -> bool:
    """Whether a value is what a file works with (a module, function or class), not what it says."""
    return isinstance(
        value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)
    )


def _as_config(value: Any) -> Any:
    """Dictionaries as ``ConfigDict``, for files that say ``model.backbone.depth = 101``."""
    if isinstance(value, dict):
        return ConfigDict({key: _as_config(child) for key, child in dict.items(value)})
    if type(value) in (list, tuple):
        return type(value)(_as_config(child) for child in value)
    return value


# ----------------------------------------------------------------------------------------------
# what was imported


def resolve_imports(tree: dict[str, Any]) -> None:
    """Replace what was imported, here or by mmengine's own reader, in place: a ``type``, and what
    stands in a list, by its dotted name, another value by the object; imported names themselves are
    left out.

    Raises:
        ConfigError: a value that is no type comes from mmdetection or cannot be imported.
    """
    for key in [key for key, value in dict.items(tree) if _dotted(value)]:
        if key not in _TYPE_KEYS:
            dict.__delitem__(tree, key)
    for key, value in dict.items(tree):
        dict.__setitem__(tree, key, _resolved(value, key))


def _resolved(value: Any, key: str) -> Any:
    dotted = _dotted(value)
    if dotted and key in _TYPE_KEYS:
        return dotted
    if dotted:
        found = None if dotted.split('.')[0] == PEER_SCOPE else get_object_from_string(dotted)
        if found is None:
            raise ConfigError(f'{key}: {dotted} is not a type, and cannot be imported')
        return found
    if isinstance(value, dict):
        for name, child in dict.items(value):
            dict.__setitem__(value, name, _resolved(child, name))
    elif type(value) in (list, tuple):
        return type(value)(_dotted(child) or _resolved(child, key) for child in value)
    return value


def _dotted(value: Any) -> str:
    if isinstance(value, Imported):
        return value.path
    if isinstance(value, LazyAttr) or (isinstance(value, LazyObject) and value._imported):
        return f'{value.module}.{value}'
    return str(value) if isinstance(value, LazyObject) else ''


def registered_name(dotted: str) -> str:
    """The name under which a class of mmengine, mmcv or torch is registered (``torch.optim.SGD``:
    ``SGD``; ``torch.nn.BatchNorm2d``: ``BN2d``), or of ours in its place; else ``dotted``."""
    if dotted.split('.')[0] not in _LIBRARIES or '.' not in dotted:
        return dotted
    from .config_keys import OPS, ROLES  # every registered component

    last = dotted.rpartition('.')[2]
    registries = dict.fromkeys(registry for role in ROLES.values() for registry in role)
    members = [entry for registry in registries for entry in _members(registry)]
    if last in OPS or any(last == name for name, _ in members):
        return last
    found = get_object_from_string(dotted)
    names = (name for name, member in members if found is not None and member is found)
    return next(names, dotted)


def import_problem(dotted: str) -> str:
    """Why the module of a dotted name cannot be imported, '' if it can."""
    try:
        importlib.import_module(dotted.rpartition('.')[0])
    except Exception as error:  # whatever a module of the user's raises
        return f'{type(error).__name__}: {" ".join(str(error).split())}'
    return ''


def _members(registry: Registry) -> list[tuple[str, Any]]:
    """Names and components, those of parents first."""
    registry.import_from_location()
    above = _members(registry.parent) if registry.parent is not None else []
    return [*above, *registry.module_dict.items()]
