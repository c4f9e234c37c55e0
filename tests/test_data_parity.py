"""Seeded pipelines on real images give what mmdetection 3.x's give, bit for bit.

Stored numbers are always compared where they cannot depend on OpenCV's version (boxes, labels,
mask areas, mask targets, semantic maps); pixels too where MMDET_R2_PEER names a Python with
mmdetection.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import peer_pipelines
import pytest

from mmdet_r2.datasets import CocoDataset
from mmdet_r2.models.preprocessor import DetDataPreprocessor
from mmdet_r2.structures.masks import mask_targets

PEER = os.environ.get('MMDET_R2_PEER')
STORED = Path(__file__).resolve().parent / 'data' / 'pipelines.npz'


@pytest.fixture(scope='module')
def found(shared_data):
    def targets(masks, boxes, index, size):
        return mask_targets([masks], [boxes], [index], (size, size))

    root = str(shared_data / 'coco_tiny')
    return peer_pipelines.record(CocoDataset, DetDataPreprocessor, targets, root)


def compare(found, expected, keys):
    different = [
        key
        for key in sorted(keys)
        if not np.array_equal(found[key], expected[key]) or found[key].dtype != expected[key].dtype
    ]
    assert not different


@pytest.mark.parametrize('pipeline', peer_pipelines.PIPELINES)
def test_geometry_equals_the_stored_numbers(found, pipeline):
    with np.load(STORED) as stored:
        expected = {k: stored[k] for k in stored.files if k.startswith(pipeline + '/')}
    keys = {k for k in found if k.startswith(pipeline + '/')}
    assert keys == set(expected)
    compare(found, expected, {k for k in keys if k.split('/')[2] in peer_pipelines.GEOMETRY})


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_pixels_and_all_equal_the_peer(found, shared_data, tmp_path):
    path = tmp_path / 'peer.npz'
    command = [PEER, '-W', 'ignore', peer_pipelines.__file__, shared_data / 'coco_tiny', path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as fresh, np.load(STORED) as stored:
        assert set(fresh.files) == set(stored.files) == set(found)
        compare(found, fresh, set(found))
