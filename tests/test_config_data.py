"""YAML and JSON are data, and bounded; what is wrong with a config file is one line that names file
and line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from warm_python import python

from mmdet_r2.config import config_files, load_config
from mmdet_r2.datasets.convert import read_data_yaml
from mmdet_r2.errors import ConfigError, DataError, UserError
from mmdet_r2.files import parse_yaml
from mmdet_r2.zoo import index

LAUGHS = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{name}: &{name} [{", ".join([f"*{before}"] * 9)}]\n'
    for before, name in zip('abcdefgh', 'bcdefghi')
)
MERGED = 'a: &a {x: 1}\n' + ''.join(
    f'{name}: &{name}\n  <<: [{", ".join([f"*{before}"] * 9)}]\n'
    for before, name in zip('abcdefgh', 'bcdefghi')
)
YAMLS = {
    'a call': 'a: !!python/object/apply:os.system ["touch made"]',
    'an object': 'a: !!python/object/new:subprocess.Popen [["touch", "made"]]',
    'a name': 'a: !!python/name:os.system',
    'a module': 'a: !!python/module:os',
    'a tag of its own': 'a: !mine {x: 1}',
    'aliases': LAUGHS,
    'merged aliases': MERGED,
    'long text, often': f'a: &a {"x" * 10_000}\nb: [{", ".join(["*a"] * 1_000)}]',
    'lists nested deep': '[' * 100_000 + ']' * 100_000,
    'mappings nested deep': 'a: ' + '{a: ' * 500 + '1' + '}' * 500,
    'dashes nested deep': '- ' * 5_000 + 'x',
    'itself': 'a: &a\n  b: *a',
    'an alias of nothing': 'a: *b',
    'a date that there is not': 'a: 2020-13-45',
    'digits without end': 'a: ' + '9' * 10_000,
    'a list as a key': '? [1]\n: 2',
    'a tuple of lists as a key': '? !!python/tuple [[1]]\n: 2',
    'a zero byte': 'a: "\x00"',
    'an open quote': 'a: "x',
    'tabs': 'a:\n\t- b',
    'two documents': 'a: 1\n---\nb: 2',
    'a list': '- 1',
    'nothing': '',
    'a key that is no text': '1: 2',
}


def refused(read: Callable, path: Path, *arguments: object) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        read(path, *arguments)
    assert time.monotonic() - start < 20
    message = str(error.value)
    assert path.name in message and '\n' not in message and len(message) < 700
    return message


@pytest.mark.parametrize('kind', YAMLS)
def test_yaml_is_data_wherever_it_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'a.yaml'
    path.write_text(YAMLS[kind])
    refused(load_config, path)
    refused(read_data_yaml, path, 'train')
    for name in ('child.py', 'child.yaml', 'child.json'):
        child = tmp_path / name
        base = "_base_ = 'a.yaml'" if name.endswith('.py') else '{"_base_": ["a.yaml"]}'
        child.write_text(base)
        with pytest.raises(ConfigError, match=r'a\.yaml'):
            load_config(child)
    if kind not in ('a list', 'a key that is no text', 'nothing'):
        refused(index._yaml, path)
    assert not (tmp_path / 'made').exists()


def test_yaml_made_while_a_config_runs_is_data_too(tmp_path: Path) -> None:
    """A base that only the program names is read by mmengine itself."""
    (tmp_path / 'a.yaml').write_text(
        f'a: !!python/object/apply:os.system ["touch {tmp_path}/made"]'
    )
    path = tmp_path / 'child.py'
    path.write_text("_base_ = [name + '.yaml' for name in 'a']\n")
    refused(load_config, path)
    assert not (tmp_path / 'made').exists()


def test_printing_a_yaml_config_runs_nothing(repo: Path, tmp_path: Path) -> None:
    (tmp_path / 'cfg.yaml').write_text(YAMLS['a call'])
    command = [python(), str(repo / 'tools/misc/print_config.py'), 'cfg.yaml']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'cfg.yaml:1' in done.stderr
    assert not (tmp_path / 'made').exists()


def test_a_config_of_data_is_that_of_python(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text(
        "data_root = 'x/'\nrandomness = dict(seed=1, deterministic=True)\n"
    )
    yaml = tmp_path / 'a.yaml'
    yaml.write_text(
        '_base_: base.py\nwork_dir: "{{ fileBasenameNoExtension }}"\nrandomness: {seed: 2}\n'
    )
    config = load_config(yaml, check=False)
    assert config.randomness == dict(seed=2, deterministic=True) and config.work_dir == 'a'
    config.dump(tmp_path / 'dumped.yaml')
    assert load_config(tmp_path / 'dumped.yaml', check=False).randomness == config.randomness
    shipped = load_config('faster_rcnn_r50_fpn_1x_coco')
    shipped.dump(tmp_path / 'shipped.yaml')  # with tuples, which mmengine writes with a tag
    again = load_config(tmp_path / 'shipped.yaml')
    assert again.model == shipped.model and again.test_dataloader == shipped.test_dataloader


def test_sound_yaml_is_read_as_ever() -> None:
    text = 'a: &a {b: 1, c: [x, y]}\nd: {<<: *a, c: 2}\ne: *a\nf: 2020-01-02\ng: 1e-3\nh: ~\ni: yes'
    content = parse_yaml(text, 'a.yaml')
    assert content['d'] == dict(b=1, c=2) and content['e'] == content['a']
    assert content['h'] is None and content['i'] is True
    assert parse_yaml('{"a": [1, "ü"]}', 'a.yaml') == dict(a=[1, 'ü'])
    with pytest.raises(DataError, match=r'a\.yaml:2'):
        parse_yaml('a: 1\nb: }', 'a.yaml')


@pytest.mark.parametrize(
    ('content', 'where'),
    [
        (b'{"a": [' * 100_000, r'a\.json'),
        (b'[' * 100_000 + b']' * 100_000, r'a\.json'),
        (b'{"a": 1,}', r'a\.json:1'),
        (b'{"a":' * 300 + b'1' + b'}' * 300, r'a\.json'),
        (b'{"a": "\xff"}', r'a\.json'),
        (b'[1]', r'a\.json'),
        (b'', r'a\.json'),
        (b'{"_base_": 5}', r'a\.json.*5'),
        (b'{"_base_": [["b.py"]]}', r'a\.json'),
    ],
)
def test_json_configs(content: bytes, where: str, tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=where) as error:
        load_config(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ('text', 'where'),
    [
        (b'a = 1\nb = (', r'a\.py:2'),
        (b'a = 1\n\x00', r'a\.py'),
        (b"a = '\xff'", r'a\.py'),
        (b'a = 1\n\nb = missing', r'a\.py:3.*missing'),
        (b'def f():\n    return 1 / 0\nb = f()', r'a\.py:2.*ZeroDivision'),
        (b'import sys\nsys.exit(3)', r'a\.py:2'),
        (b'import no_such_module\na = no_such_module.b()', r'a\.py.*1.*no_such_module'),
        (b'\n_base_ = "a.py"', r'a\.py:2.*a\.py'),
        (b'_base_ = "b.py"', r'b\.py:3.*a\.py'),
        (b'_base_ = ["nothing.py"]', r'a\.py:1.*nothing\.py'),
        (b'_base_ = [5]', r'a\.py:1.*5'),
        (b'_base_ = "text.txt"', r'a\.py:1.*text\.txt'),
        (b'_base_ = "broken.py"', r'broken\.py:1'),
        (b'_base_ = "raises.py"', r'raises\.py:2.*missing'),
        (b'a = ' + b'(' * 5_000 + b')' * 5_000, r'a\.py'),
        (b'a = ' + b'-' * 50_000 + b'1', r'a\.py'),
        (
            b'from mmengine.config import read_base\nwith read_base():\n    from .none import *',
            r'a\.py.*3.*none\.py',
        ),
        (b'with read_base():\n    from .b import *', r'b\.py:3.*a\.py'),
        (b'_base_ = "lazy.py"', r'a\.py:1.*lazy\.py'),
    ],
)
def test_python_configs_that_do_not_run(text: bytes, where: str, tmp_path: Path) -> None:
    (tmp_path / 'b.py').write_text('\n\n_base_ = ["a.py"]')
    (tmp_path / 'text.txt').write_text('a = 1')
    (tmp_path / 'broken.py').write_text('b = (')
    (tmp_path / 'raises.py').write_text('a = 1\nb = missing')
    (tmp_path / 'lazy.py').write_text('from torch.optim import SGD\na = dict(type=SGD)')
    path = tmp_path / 'a.py'
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=where) as error:
        load_config(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 900


def test_files_of_a_chain_follow_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'bases'
    folder.mkdir()
    (folder / 'a.py').write_text('randomness = dict(seed=1)\n')
    path = tmp_path / 'child.py'
    path.write_text("_base_ = ['{{$OF_BASES:nowhere}}/a.py']\n")
    with pytest.raises(ConfigError, match=r'child\.py:1.*nowhere'):
        load_config(path)
    monkeypatch.setenv('OF_BASES', str(folder))
    assert load_config(path).randomness.seed == 1
    assert [file.path for file in config_files(path).chain()] == [folder / 'a.py', path]


@pytest.mark.parametrize(
    'part',
    [
        dict(type='subprocess.Popen', args=['touch', 'made']),
        dict(type='FasterRCNN', backbone=dict(type='this.X')),
        dict(type='FasterRCNN', neck=[dict(_scope_='this', type='FPN')]),
        dict(type='torch.hub.load', repo_or_dir='x'),
    ],
)
@pytest.mark.parametrize('suffix', ['yaml', 'json'])
def test_what_is_no_component_is_neither_imported_nor_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: dict, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f'config.{suffix}'
    file.write_text(json.dumps(dict(model=part)))  # which is YAML as well
    (tmp_path / 'inherits.py').write_text(f"_base_ = ['./config.{suffix}']")
    for path in (file, tmp_path / 'inherits.py'):
        for check in (True, False):
            with pytest.raises(ConfigError, match=f'config.{suffix}'):
                load_config(path, check=check)
    assert 'this' not in sys.modules and not (tmp_path / 'made').exists()


def test_data_may_name_components_with_their_scope(tmp_path: Path) -> None:
    (tmp_path / 'base.yaml').write_text('model: {backbone: {type: mmdet.ResNet, depth: 18}}')
    config = load_config(tmp_path / 'base.yaml', check=False)
    assert config.model.backbone.type == 'ResNet'
