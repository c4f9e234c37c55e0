"""Whole detectors against mmdetection 3.x's numbers, stored by tests/parity/generate.py.

The published configs are built as a user builds them, filled with the same weights, and fed the
same two images of different size.
"""

import re

import numpy as np
import pytest
import torch
from parity import cases, ours

# Their parts are also in those of the others.
SLOW = ('faster_rcnn_r2_101', 'mask_rcnn_r50', 'mask_rcnn_r50_c4', 'mask_rcnn_r50_gcb')


@pytest.fixture(
    scope='module',
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in cases.MODELS],
)
def model(request):
    """(name, our arrays, stored arrays) of one detector."""
    given = cases.MODELS[request.param][1:]
    return request.param, ours.detector(*given), ours.load(request.param)


def test_state_dict_has_the_same_keys_and_shapes(model):
    _, arrays, stored = model
    assert cases.unpack_text(arrays['keys']) == cases.unpack_text(stored['keys'])


def test_anchors_are_identical(model):
    _, arrays, stored = model
    levels = [key for key in arrays if key.startswith('anchors/')]
    assert len(levels) == (1 if '_c4' in model[0] else 5)
    for key in levels:
        assert cases.identical(key, arrays[key], stored), key


@pytest.mark.parametrize('part', ['input', 'fpn', 'rpn', 'box', 'mask', 'loss'])
def test_part(model, part):
    name, arrays, stored = model
    keys = {key for key in arrays if key.split('/')[0] == part}
    expected = {key.split('@')[0] for key in stored if key.split('/')[0].split('@')[0] == part}
    assert keys == expected
    assert keys or (part == 'mask' and name.startswith('faster'))
    worst = {key: cases.deviation(key, arrays[key], stored) for key in keys}
    assert {key: value for key, value in worst.items() if value > 1e-4} == {}


def test_gradients(model):
    _, arrays, stored = model
    keys = {key for key in arrays if key.startswith('gradient/')}
    assert keys == {key.split('@')[0] for key in stored if key.startswith('gradient/')}
    worst = {key: cases.deviation(key, arrays[key], stored, average=True) for key in keys}
    assert {key: value for key, value in worst.items() if value > 1e-3} == {}


@pytest.mark.parametrize('index', [0, 1])
def test_proposals(model, index):
    _, arrays, stored = model
    worst = ours.match_proposals(arrays, stored, index)
    assert worst['boxes'] < 1e-4 * stored[f'proposals/{index}/boxes'].std()
    assert worst['scores'] < 1e-4 * stored[f'proposals/{index}/scores'].std()


@pytest.mark.parametrize('index', [0, 1])
def test_final_detections(model, index):
    name, arrays, stored = model
    labels = stored[f'final/{index}/labels']
    least, kinds = (15, 3) if '_c4' in name else (100, 4)
    assert len(labels) >= least and len(set(labels)) >= kinds, (
        'the stored numbers would prove little'
    )
    worst = ours.match_detections(arrays, stored, index, with_masks=name.startswith('mask'))
    assert worst['boxes'] < 0.01
    assert worst['scores'] < 1e-4
    assert worst.get('1 - mask IoU', 0) <= 1e-3


def test_fast_rcnn():
    """Losses, gradients and detections of given proposals."""
    arrays, stored = ours.fast(cases.FAST['fast_rcnn_r50'][1]), ours.load('fast_rcnn_r50')
    assert cases.unpack_text(arrays['keys']) == cases.unpack_text(stored['keys'])
    numbers = {key for key in arrays if key.startswith(('loss/', 'gradient/'))}
    assert {'loss/loss_cls', 'loss/loss_bbox'} <= numbers
    assert numbers == {k.split('@')[0] for k in stored if k.startswith(('loss/', 'gradient/'))}
    worst = {
        key: cases.deviation(key, arrays[key], stored, average=key.startswith('gradient'))
        for key in numbers
    }
    limits = {key: 1e-3 if key.startswith('gradient') else 1e-4 for key in numbers}
    assert {key: value for key, value in worst.items() if value > limits[key]} == {}
    for index in range(2):
        assert len(set(stored[f'final/{index}/labels'])) > 1
        found = ours.match_detections(arrays, stored, index, with_masks=False)
        assert found['boxes'] < 0.01 and found['scores'] < 1e-4


# The last norm of every residual block starts at zero by default. mmdetection documents that for
# Res2Net too, but does it only in its plain ResNet.
ZERO_INIT = re.compile(r'^backbone\..*bn3\.weight$')
# Upsampling and predictor start with He's initialisation. In mmdetection 3.x the mask heads of a
# cascade sit in a list that passes no initialisation on, so that PyTorch's default stays; 2.x, with
# which the published models were trained, called each of them.
MASK_INIT = re.compile(r'^roi_head\.mask_head\.\d\.(upsample|conv_logits)\.')


@pytest.mark.parametrize(
    'name', ['mask_rcnn_r2_101', 'mask_rcnn_r50', 'htc_r2_101', 'htc_without_semantic_r50']
)
def test_training_starts_from_the_same_distributions(name):
    torch.manual_seed(0)
    model = ours.build({**cases.MODELS, **cases.CASCADES}[name][1])
    model.init_weights()
    stored = cases.unpack_text(ours.load('initialisation')['statistics'])[name]
    single = cases.unpack_text(ours.load('initialisation')['statistics'])['mask_rcnn_r50']
    different = {}
    for key, (mean, deviation, largest, size) in cases.statistics(model).items():
        if ZERO_INIT.search(key) and 'r2' in name:
            assert (mean, deviation) == (0, 0)
            continue
        theirs = stored[key]
        if MASK_INIT.search(key):
            theirs = single[re.sub(r'mask_head\.\d', 'mask_head', key)]
        their_mean, their_deviation, their_largest, _ = theirs
        # Six standard errors, and uniform (largest is 1.7 deviations) or normal (3 and more).
        same = abs(mean - their_mean) <= 6 * their_deviation / size**0.5
        same &= abs(deviation - their_deviation) <= 4 * their_deviation / size**0.5
        same &= (largest < 2 * deviation) == (their_largest < 2 * their_deviation) or size < 100
        if not same:
            different[key] = (mean, deviation, largest, theirs)
    assert different == {}


def test_comparison_sees_a_small_change():
    """The numbers above mean something: a thousandth of a deviation is found in a sampled array."""
    stored = ours.load('mask_rcnn_r50')
    shape = tuple(stored['fpn/0@shape'])
    array = np.zeros(shape, np.float32)
    array.reshape(-1)[cases.positions('fpn/0', array.size)] = stored['fpn/0@values']
    assert cases.deviation('fpn/0', array, stored) == 0
    array.reshape(-1)[cases.positions('fpn/0', array.size)[7]] += 1e-3 * stored['fpn/0@moments'][1]
    assert cases.deviation('fpn/0', array, stored) == pytest.approx(1e-3, rel=1e-2)
