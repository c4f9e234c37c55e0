"""Configs that are data, as in YAML, JSON and checkpoints: nothing of them is run."""

import ast
from collections.abc import Callable
from typing import Any

from .registry import PEER_SCOPE, SCOPE, without_scope


def config_values(text: Any, other: Callable[[ast.expr], Any]) -> dict[str, Any] | None:
    """The values of a resolved config in Python, such as mmengine writes into checkpoints; None if
    it is no such text.

    Args:
        other: gives the value of an expression that is neither a literal nor ``dict(...)``.
    """
    if not isinstance(text, str):
        return None
    try:
        return {
            target.id: _value(node.value, other)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, other: Callable[[ast.expr], Any]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [_value(part, other) for part in node.args]
        pairs = [(pair.arg, _value(pair.value, other)) for pair in node.keywords]
        parts += [{name: value} if name is not None else value for name, value in pairs]
        if all(isinstance(part, dict) for part in parts):
            return {name: value for part in parts for name, value in part.items()}
    elif isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_value(key, other) for key in node.keys if key is not None]
        return {key: _value(item, other) for key, item in zip(keys, node.values)}
    elif isinstance(node, ast.List):
        return [_value(item, other) for item in node.elts]
    elif isinstance(node, ast.Tuple):
        return tuple(_value(item, other) for item in node.elts)
    elif isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return float(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return other(node)


def foreign_code(values: Any, path: str = '') -> str:
    """Where, and what, a config names that would be imported and called, although no component of
    that name is registered: any function that Python finds has such a name. '' if it names none.
    """
    items: list[tuple[str, Any]] = []
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
        for key in ('type', 'constructor'):
            name = values.get(key)
            if isinstance(name, str) and '.' in without_scope(name):
                return f'{path}{key}: {name!r}'
        scope = values.get('_scope_')
        if scope not in (None, SCOPE, PEER_SCOPE):
            return f'{path}_scope_: {scope!r}'
    elif isinstance(values, (list, tuple)):
        items = [(str(index), value) for index, value in enumerate(values)]
    found = (foreign_code(value, f'{path}{key}.') for key, value in items)
    return next(filter(None, found), '')
