"""tools/model_converters/upgrade_model_version.py writes what loading would have given."""

import subprocess
from pathlib import Path

import pytest
import torch
from published_files import SMALL, classifier, config, detector, published, random, res2net, save
from warm_python import python

from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import load_checkpoint, read_checkpoint, upgrade

NAMES = ('plane', 'ship', 'harbor', 'bridge', 'crane')


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess:
    tool = repo / 'tools' / 'model_converters' / 'upgrade_model_version.py'
    command = [python(), str(tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_tool_writes_a_file_that_loads_without_conversion(repo, tmp_path) -> None:
    old = save(
        published(random(detector('htc', SMALL, version=1)), '1.1.0', NAMES, training=True),
        tmp_path / 'old.pth',
    )
    done = run(repo, old, tmp_path / 'new' / 'new.pth', '--num-classes', 6)
    assert done.returncode == 0, done.stderr
    assert "layout 'mmdetection 1.x', res2net50_v1b_26w_4s, htc, 5 classes" in done.stdout
    assert '5 class names' in done.stdout and "first_block_pool='always'" in done.stdout
    content = read_checkpoint(tmp_path / 'new' / 'new.pth')
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta']['dataset_meta']['classes'] == NAMES
    init_scope()
    first, second = (MODELS.build(config('htc', SMALL).model) for _ in range(2))
    load_checkpoint(first, old, strict=True)
    report = load_checkpoint(second, content, strict=True)
    assert report.layout == 'mmdetection' and report.dataset_meta['classes'] == NAMES
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
    size = sum(v.numel() * v.element_size() for v in content['state_dict'].values())
    assert (tmp_path / 'new' / 'new.pth').stat().st_size < 1.5 * size, 'cut tensors saved whole'


def test_bad_input_is_one_line(repo, tmp_path) -> None:
    old = save(random(detector('mask_rcnn', SMALL, version=1)), tmp_path / 'old.pth')
    for arguments, expected in (
        ((tmp_path / 'none.pth', tmp_path / 'new.pth'), 'no such checkpoint file'),
        ((old, tmp_path / 'new.pth', '--num-classes', 81), 'has 6 outputs, not the 81'),
        ((old, old / 'new.pth'), 'cannot be written'),
    ):
        done = run(repo, *arguments)
        assert done.returncode == 2 and expected in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / 'new.pth').exists()
    assert 'examples:' in run(repo, '--help').stdout


@pytest.mark.parametrize('version', ['1.x', '2.0', 'ImageNet'])
def test_every_layout_is_named(version, tmp_path) -> None:
    named = {
        '1.x': detector('faster_rcnn', SMALL, version=1),
        '2.0': detector('faster_rcnn', SMALL, version=2),
        'ImageNet': [*res2net(SMALL, 'conv1'), *classifier(SMALL)],
    }[version]
    path = save(random(iter(named)), tmp_path / 'a.pth')
    content, text = upgrade(path)
    layouts = {
        '1.x': 'mmdetection 1.x',
        '2.0': 'mmdetection',
        'ImageNet': 'ImageNet, deep stem',
    }
    assert content['meta'] == dict(converted_from=layouts[version])
    assert f'layout {layouts[version]!r}' in text and 'no class names' in text
    assert ('unaligned' in text) == (version == '1.x')
