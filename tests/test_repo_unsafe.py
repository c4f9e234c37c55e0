"""Nothing in the package unpickles, runs text or a shell; who does, is listed here."""

import ast
from pathlib import Path

import pytest

UNSAFE = {
    *('pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.load', 'marshal.loads'),
    *('yaml.load', 'yaml.load_all', 'yaml.full_load', 'yaml.unsafe_load', 'yaml.safe_load'),
    *('torch.load', 'torch.jit.load', 'np.load', 'numpy.load', 'shelve.open', 'dill.load'),
    *('os.system', 'os.popen', 'eval', 'exec', '__import__', 'joblib.load'),
    *('mmengine.load', 'fileio.load', 'torch.serialization.safe_globals'),
    *('torch.serialization.add_safe_globals', 'cloudpickle.load', 'runpy.run_path'),
}
# file -> what it calls, and why it may
ALLOWED = {
    'mmdet_r2/files.py': {'yaml.load'},  # the safe loader, of bounded text
    'mmdet_r2/config_imports.py': {'exec'},  # a Python config is a program
    # a file of the process that started it; the other toolbox's side has not our reader
    'mmdet_r2/analysis/benchmark/worker.py': {'torch.load'},
}


def called(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f'{called(node.value)}.{node.attr}'
    return ''


def unsafe_calls(text: str) -> set[str]:
    """Calls by their full names, and the arguments that make a call unsafe; names imported from a
    module count as if they were written with it."""
    tree = ast.parse(text)
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            full |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
        elif isinstance(node, ast.Import):
            full |= {a.asname: a.name for a in node.names if a.asname}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = called(node)
            first, dot, rest = name.partition('.')
            known = full.get(first, first) + dot + rest
            found |= {one for one in (name, known) if one in UNSAFE}
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            value = node.value.value
            if (node.arg, value) in (
                *(('shell', True), ('weights_only', False), ('allow_pickle', True)),
            ):
                found.add(f'{node.arg}={value}')
    return found


@pytest.mark.parametrize('folder', ['mmdet_r2', 'tools', 'demo'])
def test_no_unsafe_call(folder: str, repo: Path) -> None:
    for file in sorted((repo / folder).rglob('*.py')):
        found = unsafe_calls(file.read_text(encoding='utf-8'))
        name = str(file.relative_to(repo))
        assert found == ALLOWED.get(name, set()), name


@pytest.mark.parametrize(
    'text',
    [
        'import pickle\npickle.load(f)',
        'from pickle import loads\nloads(b)',
        'import pickle as p\np.loads(b)',
        'import yaml\nyaml.load(f, Loader=yaml.Loader)',
        'import torch\ntorch.load(f)',
        'from torch import load as read\nread(f)',
        'f(weights_only=False)',
        'run("x", shell=True)',
        'eval("1")',
        'import pickle\nclass R(pickle.Unpickler): pass',
    ],
)
def test_the_test_can_fail(text: str) -> None:
    assert unsafe_calls(text)
