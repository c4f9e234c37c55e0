"""Single parts and backbones against mmdetection 3.x's numbers (tests/parity/generate.py)."""

import numpy as np
import pytest
from parity import cases, ours


@pytest.fixture(scope='module')
def arrays():
    return ours.parts()


@pytest.fixture(scope='module')
def stored():
    return ours.load('parts')


@pytest.mark.parametrize('name', cases.assigner_cases())
def test_assigner(arrays, stored, name):
    assert np.array_equal(arrays[f'assigner/{name}/gt'], stored[f'assigner/{name}/gt'])
    assert cases.deviation(f'assigner/{name}/iou', arrays[f'assigner/{name}/iou'], stored) < 1e-6


def test_assigner_cases_differ(stored):
    """Every option above changes the stored answer, or the cases would not test it."""

    def gt(name):
        return stored[f'assigner/{name}/gt'].tolist()

    assert gt('rcnn, ties') != gt('rcnn low quality, ties') != gt('ties')
    assert len({tuple(gt(name)) for name in cases.assigner_cases() if name.startswith('ties')}) == 3
    assert -1 in gt('negative range')
    assert gt('rpn') != gt('ignored, wrt candidates True') != gt('ignored, wrt candidates False')


@pytest.mark.parametrize('name', cases.coder_cases())
@pytest.mark.parametrize('what', ['encoded', 'decoded'])
def test_coder(arrays, stored, name, what):
    key = f'coder/{name}/{what}'
    assert cases.deviation(key, arrays[key], stored) < 1e-6


@pytest.mark.parametrize('name', cases.anchor_cases())
def test_anchors(arrays, stored, name):
    keys = [key for key in arrays if key.startswith(f'anchors/{name}/')]
    assert keys
    for key in keys:
        assert cases.identical(key, arrays[key], stored), key


@pytest.mark.parametrize('name', cases.loss_cases())
@pytest.mark.parametrize('what', ['value', 'gradient'])
def test_loss(arrays, stored, name, what):
    key = f'losses/{name}/{what}'
    assert cases.deviation(key, arrays[key], stored) < 1e-5


def test_roi_levels(arrays, stored):
    assert np.array_equal(arrays['extractor/levels'], stored['extractor/levels'])
    assert set(stored['extractor/levels']) == {0, 1, 2, 3}


def test_roi_features(arrays, stored):
    assert cases.deviation('extractor/pooled', arrays['extractor/pooled'], stored) < 1e-5


@pytest.mark.parametrize('name', cases.mask_target_cases())
def test_mask_targets(arrays, stored, name):
    assert np.array_equal(arrays[f'mask targets/{name}'], stored[f'mask targets/{name}'])


def test_pasted_masks(arrays, stored):
    shape = cases.paste_case()['shape']
    mine = cases.unpack_masks(arrays['paste/masks'], shape)
    theirs = cases.unpack_masks(stored['paste/masks'], shape)
    # A pixel of probability 0.5 within rounding may fall on either side.
    assert (mine != theirs).sum() <= 2
    assert theirs.any((1, 2)).sum() > 8


@pytest.mark.parametrize('name', cases.BACKBONES)
def test_backbone(name):
    stored = ours.load('backbones')
    arrays, keys = ours.backbone(name)
    assert keys == cases.unpack_text(stored['keys'])[name]
    assert arrays
    for key, array in arrays.items():
        assert cases.deviation(key, array, stored) < 1e-4, key
