"""The zoo as a user meets it: names, models, downloads by name, the tool, and the tables of the
docs."""

import hashlib
import http.server
import importlib.util
import re
import runpy
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from published_files import CLASSES, SMALL, config, detector, published, random, save_hashed

from mmdet_r2.apis import (
    download_model,
    get_config,
    get_model,
    inference_detector,
    init_detector,
    list_models,
)
from mmdet_r2.errors import CheckpointError, ConfigError
from mmdet_r2.zoo import find_model, index, names, weights_of

MASK = 'mask_rcnn_r2_101_fpn_2x_coco'
BY_HAND = 'panoptic_fpn_r2_101_fpn_mstrain_3x_coco'
NO_HASH = 'faster_rcnn_s50_fpn_mdconv_c3-c5_group2_syncbn-all_mstrain-range_1x_coco'
NONE = 'mask_rcnn_r2_50_26w4s_fpn_maskrcnnbench_2x_coco2014'


@pytest.fixture(autouse=True)
def _private_folders(tmp_path, monkeypatch) -> None:
    for variable in ('MMDET_R2_ZOO', 'MMDET_R2_OFFLINE', 'TORCH_HOME', 'FVCORE_CACHE'):
        monkeypatch.delenv(variable, raising=False)
    for variable, folder in (
        ('MMDET_R2_CACHE', 'cache'),
        ('XDG_CACHE_HOME', 'other'),
        ('HOME', 'home'),
    ):
        monkeypatch.setenv(variable, str(tmp_path / folder))


# ------------------------------------------------------------------------------------- names


def test_names_by_pattern() -> None:
    every = list_models()
    assert len(every) == len(set(every)) > 130 and MASK in every
    res2net = list_models('res2net*')
    assert len([name for name in res2net if find_model(name).folder == 'res2net']) == 5
    assert BY_HAND in res2net and NONE in res2net
    assert all('r2_' in name for name in res2net)
    assert list_models('mask-rcnn_res2net-101*') == [MASK], 'other names count'
    assert list_models('MASK_RCNN_R2_101_FPN_2X_COCO') == [MASK]
    assert len(list_models('panoptic_fpn/*')) == len(list_models('panoptic_fpn')) == 9
    assert set(list_models('hybrid*')) == set() == set(list_models(''))
    assert len(list_models('*resnest-200*')) == 5


@pytest.mark.parametrize(
    'name', [MASK, 'mask-rcnn_res2net-101_fpn_2x_coco', f'configs/res2net/{MASK}.py']
)
def test_a_config_by_every_name(name) -> None:
    config = get_config(name)
    assert Path(config.filename).stem == MASK and config.model.type == 'MaskRCNN'


def test_an_unknown_name_gets_the_nearest() -> None:
    nearest = 'nearest known: .*mask_rcnn_r2_101_fpn_2x_coco'
    for ask, error in (
        (get_config, ConfigError),
        (get_model, ConfigError),
        (weights_of, CheckpointError),
        (download_model, CheckpointError),
        (names.fetch, CheckpointError),
    ):
        for name in ('mask_rcnn_r2_101_2x_coco', 'Mask_RCNN_R2_101_2x_COCO'):
            with pytest.raises(error, match=nearest) as found:
                ask(name)
            assert '\n' not in str(found.value)
        for name in ('', '.', 'x' * 300):
            with pytest.raises(error):
                ask(name)
    with pytest.raises(CheckpointError, match="checkpoint 'auto'"):
        weights_of(get_config(MASK).__class__(dict(model={})))


# ------------------------------------------------------------------------------------- weights


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder that a server on this machine shows in OpenMMLab's place."""
    folder = tmp_path / 'served'
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv('MMDET_R2_ZOO', f'http://127.0.0.1:{server.server_port}')
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def small_zoo(served, tmp_path, monkeypatch) -> Path:
    """An index with one small model, whose weights the server has."""
    weights = random(detector('mask_rcnn', SMALL, version=2))
    path = save_hashed(published(weights, '2.25.0', CLASSES[:5]), served, 'small')
    root = tmp_path / 'root'
    (root / 'configs' / 'a').mkdir(parents=True)
    config('mask_rcnn', SMALL).dump(root / 'configs' / 'a' / 'small.py')
    (root / 'model-index.yml').write_text('Import:\n  - configs/a/metafile.yml\n')
    (root / 'configs' / 'a' / 'metafile.yml').write_text(
        'Models:\n  - Name: small\n    Alias:\n      - tiny\n    Config: configs/a/small.py\n'
        f'    Weights: https://zoo.invalid/{path.name}\n'
    )
    monkeypatch.setattr(index, 'root', lambda: root)
    return path


def test_auto_is_the_published_weights(small_zoo) -> None:
    weights = torch.load(small_zoo, weights_only=True)['state_dict']
    model = get_model('tiny')
    state = model.state_dict()
    assert state.keys() == weights.keys() and not model.training
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    image = np.zeros((64, 64, 3), np.uint8)
    for name in ('small', get_config('small')):
        found = inference_detector(init_detector(name, 'auto', device='cpu'), image)
        assert 'masks' in found.pred_instances
    fresh = get_model('small', pretrained=False).state_dict()
    assert not torch.equal(fresh['backbone.stem.0.weight'], weights['backbone.stem.0.weight'])


def test_what_lies_in_the_folder_does_not_hide_a_model(small_zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert download_model('small', 'small').parent == Path('small')
    assert download_model('small', 'small') == download_model('small', Path('small'))
    assert names.fetch('small').parent == tmp_path / 'cache' / 'checkpoints'
    with pytest.raises(CheckpointError, match='work_dirs/small: no such checkpoint file'):
        names.fetch('work_dirs/small')
    (tmp_path / 'small.py').write_text('a = 1')
    with pytest.raises(ConfigError, match='is a file of yours'):
        get_config('small.py')
    assert get_config('small').model.type == 'MaskRCNN'


def test_download_puts_weights_and_config_into_a_folder(small_zoo, tmp_path) -> None:
    dest = tmp_path / 'dest'
    path = download_model('tiny', dest)
    assert path == dest / small_zoo.name and path.read_bytes() == small_zoo.read_bytes()
    assert {p.name for p in dest.iterdir()} == {'small.py', small_zoo.name}
    assert init_detector(dest / 'small.py', path, device='cpu')
    assert download_model('small').parent == tmp_path / 'cache' / 'checkpoints'


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        (BY_HAND, 'sharepoint.com'),
        (NONE, f'Train it (mmdet-r2 train {find_model(NONE).config})'),
    ],
)
def test_a_model_without_published_weights_says_what_to_do(name, expected) -> None:
    asks = [
        lambda: weights_of(name),
        lambda: download_model(name),
        lambda: names.fetch(name),
        lambda: get_model(name),
        lambda: init_detector(name, 'auto', device='cpu'),
    ]
    for ask in asks:
        with pytest.raises(CheckpointError) as error:
            ask()
        assert expected in str(error.value) and 'pass' in str(error.value)
        assert '\n' not in str(error.value)


def test_weights_without_a_hash_need_consent(tmp_path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match='nobody published a hash of this file'):
        download_model(NO_HASH)
    file = find_model(NO_HASH).files[0]
    (tmp_path / file).write_bytes(b'weights')
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    assert download_model(NO_HASH) == tmp_path / file, 'what a user put there is the consent'


# ------------------------------------------------------------------------------------- the tool


@pytest.fixture
def tool(repo, monkeypatch, capsys):
    """Runs tools/download.py: exit code, stdout, stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', ['download.py', *args])
        code: object = 0
        try:
            runpy.run_path(str(repo / 'tools' / 'download.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return run


def test_the_tool_downloads_several_and_tells_of_all_that_failed(tool, served, tmp_path) -> None:
    content = b'weights' * 1000
    digits = hashlib.sha256(content).hexdigest()
    (served / f'a-{digits[:8]}.pth').write_bytes(content)
    good = f'https://zoo.invalid/a-{digits[:8]}.pth'
    bad = 'https://zoo.invalid/b.pth'
    code, out, err = tool(bad, good, '--dest', str(tmp_path / 'dest'))
    assert code == 2 and err.count('error:') == 1
    assert 'b.pth: nobody published a hash' in err.splitlines()[-1]
    assert out.strip() == str(tmp_path / 'dest' / f'a-{digits[:8]}.pth')
    assert Path(out.strip()).read_bytes() == content


def test_the_tool_takes_consent_once(tool, served, tmp_path) -> None:
    (served / 'b.pth').write_bytes(b'weights')
    url = 'https://zoo.invalid/b.pth'
    code, out, err = tool('--unverified', url)
    digits = hashlib.sha256(b'weights').hexdigest()
    assert code == 0 and f'taken unverified, SHA-256 {digits}' in err
    assert tool(url) == (0, out, '')


def test_the_tool_lists_and_refuses(tool) -> None:
    code, out, _ = tool('--list', 'res2net/*', 'panoptic_fpn_R2*')
    lines = out.splitlines()
    assert code == 0 and len(lines) == 7 and lines[0].split()[0] == 'name'
    assert lines[2].split()[0] == MASK and lines[2].split()[-1] == '17f061e8'
    assert lines[6].endswith('by hand')
    assert tool('--list', 'nothing')[1] == 'no model matches nothing\n'
    code, out, err = tool(MASK, 'mask_rcnn_r2_101')
    assert code == 2 and 'nearest known' in err and out == ''
    code, _, err = tool()
    assert code == 2 and 'give the NAME' in err
    code, out, _ = tool('--help')
    assert code == 0 and 'zoo download mask_rcnn_r2_101_fpn_2x_coco --dest' in out


# ------------------------------------------------------------------------------------- tables


def _table_tool(repo: Path):
    spec = importlib.util.spec_from_file_location('t', repo / 'tools/misc/make_model_table.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_docs_are_up_to_date(repo, tmp_path, monkeypatch, capsys) -> None:
    tool = _table_tool(repo)
    monkeypatch.setattr(sys, 'argv', ['make_model_table.py', '--check'])
    with pytest.raises(SystemExit) as end:
        tool.main()
    assert end.value.code == 0, 'run python tools/misc/make_model_table.py'
    for page in tool.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(repo / page, tmp_path / page)
    text = (tmp_path / 'README.md').read_text()
    assert '| 43.6 | 38.7 |' in text
    (tmp_path / 'README.md').write_text(text.replace('| 43.6 | 38.7 |', '| 44.6 | 38.7 |'))
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    with pytest.raises(SystemExit) as end:
        tool.main()
    assert end.value.code == 1 and 'README.md is not up to date' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['make_model_table.py'])
    with pytest.raises(SystemExit):
        tool.main()
    assert (tmp_path / 'README.md').read_text() == text
    (tmp_path / 'README.md').write_text('no table')
    with pytest.raises(ConfigError, match='lacks the marks'):
        tool.main()


def test_the_page_has_every_model_once_and_no_other(repo) -> None:
    text = (repo / 'docs' / 'model_zoo.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| \[([\w.+-]+)\]\(\.\./(configs/[\w./+-]+)\) \|', text, re.M)
    assert [name for name, _ in rows] != [] and len(set(rows)) == len(rows)
    assert {name for name, _ in rows} == set(list_models())
    assert all((repo / path).is_file() and Path(path).stem == name for name, path in rows)
