"""Dependencies point one way: ops <- structures <- models <- the rest <- apis <- analysis."""

import ast
from pathlib import Path

import pytest

# Packages of mmdet_r2 that a module of the package may import besides its own and the base ones.
BASE = {
    *('config_text', 'errors', 'files', 'launcher', 'locks', 'pickles', 'progress', 'registry'),
    *('rpn_names', 'torch_files', 'ops', '__init__'),
}
ALLOWED = {
    'ops': set(),
    'structures': set(),
    'models': {'structures'},
    'datasets': {'structures'},
    'evaluation': {'structures', 'datasets'},
    'zoo': {'structures', 'models'},
    'inference': {'structures', 'models'},
    'visualization': {'structures', 'datasets'},
    'engine': {'config', 'evaluation', 'zoo'},
    'apis': {
        *('structures', 'models', 'datasets', 'evaluation', 'zoo', 'inference', 'visualization'),
        *('engine', 'config', 'config_check', 'config_options'),
    },
}
ALLOWED['analysis'] = ALLOWED['apis'] | {'apis'}
ALLOWED['compat'] = ALLOWED['apis'] | {'apis'}
ALLOWED['cli'] = set()  # what takes time to import is imported where it is used


def _imported(file: Path, package: Path) -> set[str]:
    """First-level parts of mmdet_r2 that ``file`` imports at its top level."""
    found = set()
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = file.relative_to(package.parent).with_suffix('').parts[: -node.level]
                module = '.'.join([*base, *([node.module] if node.module else [])])
            else:
                module = node.module or ''
            found |= {module, *(f'{module}.{a.name}' for a in node.names)}
    return {name.split('.')[1] for name in found if name.startswith('mmdet_r2.')}


@pytest.mark.parametrize('part', sorted(ALLOWED))
def test_imports_point_one_way(repo: Path, part: str) -> None:
    package = repo / 'mmdet_r2'
    names = {p.stem if p.is_file() else p.name for p in package.iterdir()}
    for file in sorted((package / part).rglob('*.py')):
        wrong = (_imported(file, package) & names) - ALLOWED[part] - BASE - {part}
        assert not wrong, f'{file.relative_to(repo)} imports {sorted(wrong)}'
