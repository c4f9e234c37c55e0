"""Live comparison with mmdetection 3.x, where an environment that has it is at hand.

    MMDET_R2_PEER=/path/to/its/python pytest tests/test_parity_peer.py

The other interpreter runs in a process of its own: the two packages never meet.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parity import cases, ours

from mmdet_r2.config import load_config
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import load_checkpoint

PEER = os.environ.get('MMDET_R2_PEER')
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection'),
]
DETECTORS = {**cases.MODELS, **cases.CASCADES}
GENERATE = Path(__file__).resolve().parent / 'parity' / 'generate.py'

# Configs in these folders that need parts of other families.
FOREIGN = {
    'faster-rcnn_r50-caffe-c4_ms-1x_coco': 'a C4 model',
    'faster-rcnn_r50-caffe_c4-1x_coco': 'a C4 model',
    'mask-rcnn_r50-caffe-c4_1x_coco': 'a C4 model',
    'faster-rcnn_r50_fpn_fcos-rpn_1x_coco': 'FCOS as RPN',
    'retinanet_r50-caffe_fpn_1x_coco_v1': 'RetinaNet',
    'retinanet_r50_fpn_1x_coco_v1': 'RetinaNet',
    'ssd300_coco_v1': 'SSD',
}


def run_peer(*arguments: str) -> str:
    command = [PEER, '-W', 'ignore', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def peer_configs() -> Path:
    found = run_peer('-c', 'import mmdet; print(mmdet.__file__)').strip().splitlines()[-1]
    return Path(found).parent / '.mim' / 'configs'


@pytest.fixture(scope='module')
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('recorded')
    run_peer(GENERATE, '--out', folder)
    return folder


@pytest.mark.parametrize('name', [*DETECTORS, 'parts', 'backbones', 'configs', 'initialisation'])
def test_stored_numbers_are_what_the_peer_computes(recorded, name):
    fresh, stored = ours.load(name, recorded), ours.load(name)
    assert set(fresh) == set(stored)
    if name in DETECTORS:
        for index in range(2):
            worst = ours.match_detections(fresh, stored, index, f'final/{index}/masks' in stored)
            assert worst['boxes'] < 1e-3 and worst['scores'] < 1e-5
    for key, value in fresh.items():
        if key in ('keys', 'configs', 'statistics', 'counts'):
            assert cases.unpack_text(value) == cases.unpack_text(stored[key])
        elif not key.endswith('@crc') and not key.startswith(
            ('final', 'averaged', 'proposals', 'versions')
        ):
            gradient = key.startswith('gradient')
            found = cases.deviation(key, value, stored, average=gradient)
            assert found < (1e-3 if gradient else 1e-4), key


@pytest.mark.parametrize('name', DETECTORS)
def test_state_dicts_load_strictly_both_ways(name, tmp_path):
    theirs, config = DETECTORS[name]
    run_peer(GENERATE, '--save-state', tmp_path / 'theirs.pth', theirs)
    model = ours.build(config)
    load_checkpoint(model, tmp_path / 'theirs.pth', strict=True)
    state = torch.load(tmp_path / 'theirs.pth', weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    torch.save(ours.build(config).state_dict(), tmp_path / 'ours.pth')
    assert 'strict load: ok' in run_peer(GENERATE, '--load-state', tmp_path / 'ours.pth', theirs)


def test_the_peers_own_configs_build(peer_configs):
    """Every config of the families as mmdetection ships it, ``_base_`` chain included."""
    init_scope()
    files = [
        file
        for family in ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn', 'htc', 'res2net', 'legacy_1.x')
        for file in sorted(peer_configs.glob(f'{family}/*.py'))
    ]
    assert len(files) > 100
    failures = {}
    for file in files:
        if file.stem in FOREIGN:
            continue
        try:
            with torch.device('meta'):  # names and shapes, without filling gigabytes
                MODELS.build(load_config(file).model)
        except Exception as error:
            failures[file.stem] = error
    assert failures == {}


@pytest.mark.parametrize('name', DETECTORS)
def test_the_peers_own_configs_compute_the_same(peer_configs, name):
    run = ours.cascade if name in cases.CASCADES else ours.detector
    arrays = run(str(peer_configs / DETECTORS[name][0]))
    stored = ours.load(name)
    for key in arrays:
        if key.startswith('loss/'):
            assert cases.deviation(key, arrays[key], stored) < 1e-4, key
    for index in range(2):
        worst = ours.match_detections(arrays, stored, index, f'final/{index}/masks' in stored)
        assert worst['boxes'] < 0.01 and worst['scores'] < 1e-4


def test_the_peer_is_not_imported():
    assert 'mmdet' not in sys.modules
