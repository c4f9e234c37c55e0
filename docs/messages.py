"""Write ``messages.md``: every error message that the package raises for its users.

The messages are read from the source's syntax tree, so the list cannot go out of date.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CLASSES = ('ConfigError', 'DataError', 'CheckpointError', 'UserError')


def messages(package: Path) -> Iterator[tuple[str, str, str]]:
    """Module, class and text of each message, with ``...`` for what is filled in."""
    for path in sorted(package.rglob('*.py')):
        module = '.'.join(path.relative_to(package.parent).with_suffix('').parts)
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
                text = _text(call.args[0])
                if call.func.id in CLASSES and re.search('[a-z]{3}', text):
                    yield module, call.func.id, text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return '...'


def page(package: Path) -> str:
    """The page, in Markdown."""
    lines = [
        '---',
        'orphan: true',
        '---',
        '',
        '# All messages',
        '',
        'What the package raises for its users to repair; `...` is filled in. What to do about the',
        'frequent ones is under [Troubleshooting](troubleshooting.md).',
    ]
    last = None
    for module, kind, text in messages(package):
        if module != last:
            lines += ['', f'## {module}', '']
            last = module
        quoted = ' '.join(text.split())
        fence = '``' if '`' in quoted else '`'
        space = ' ' if '`' in quoted else ''
        lines.append(f'- {kind}: {fence}{space}{quoted}{space}{fence}')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    (here / 'messages.md').write_text(page(here.parent / 'mmdet_r2'), encoding='utf-8')
