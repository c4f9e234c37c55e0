"""Detectors of several stages against mmdetection 3.x's numbers (tests/parity/generate.py).

Backbone, neck and RPN are those of test_parity_models.py, with the same weights; what is compared
here is what comes after them.
"""

import numpy as np
import pytest
from parity import cases, ours

# Their parts are also in those of the others.
SLOW = ('cascade_mask_rcnn_r2_101', 'htc_without_semantic_r50')


@pytest.fixture(
    scope='module',
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in cases.CASCADES],
)
def model(request):
    """(name, our arrays, stored arrays) of one detector."""
    config = cases.CASCADES[request.param][1]
    return request.param, ours.cascade(config), ours.load(request.param)


def test_state_dict_has_the_same_keys_and_shapes(model):
    _, arrays, stored = model
    assert cases.unpack_text(arrays['keys']) == cases.unpack_text(stored['keys'])


@pytest.mark.parametrize('part', ['box', 'mask', 'semantic', 'loss'])
def test_part(model, part):
    """``box``: each stage's logits, deltas and refined boxes on RoIs that it got from the stage
    before, and the averaged scores; ``mask``: each stage's logits, and averaged probabilities;
    ``loss``: of every stage, sampled anew.
    """
    name, arrays, stored = model
    keys = {key for key in arrays if key.split('/')[0] == part}
    expected = {key.split('@')[0] for key in stored if key.split('/')[0].split('@')[0] == part}
    assert keys == expected
    assert (
        bool(keys)
        == {
            'box': True,
            'mask': not name.startswith('cascade_rcnn'),
            'semantic': name == 'htc_r2_101',
            'loss': True,
        }[part]
    )
    worst = {key: cases.deviation(key, arrays[key], stored) for key in keys}
    assert {key: value for key, value in worst.items() if value > 1e-4} == {}


def test_losses_are_named_by_stage(model):
    name, arrays, _ = model
    kinds = ['acc', 'loss_bbox', 'loss_cls']
    kinds += [] if name.startswith('cascade_rcnn') else ['loss_mask']
    expected = [f'loss/s{stage}.{kind}' for stage in range(3) for kind in kinds]
    expected += ['loss/loss_rpn_bbox', 'loss/loss_rpn_cls']
    expected += ['loss/loss_semantic_seg'] if name == 'htc_r2_101' else []
    assert sorted(key for key in arrays if key.startswith('loss/')) == sorted(expected)


def test_gradients(model):
    _, arrays, stored = model
    keys = {key for key in arrays if key.startswith('gradient/')}
    assert keys == {key.split('@')[0] for key in stored if key.startswith('gradient/')}
    worst = {key: cases.deviation(key, arrays[key], stored, average=True) for key in keys}
    assert {key: value for key, value in worst.items() if value > 1e-3} == {}


@pytest.mark.parametrize('index', [0, 1])
def test_final_detections(model, index):
    _, arrays, stored = model
    labels = stored[f'final/{index}/labels']
    assert len(labels) == 40 and len(set(labels)) > 1, 'the stored numbers would prove little'
    with_masks = f'final/{index}/masks' in stored
    worst = ours.match_detections(arrays, stored, index, with_masks)
    assert worst['boxes'] < 0.01
    assert worst['scores'] < 1e-4
    assert worst.get('1 - mask IoU', 0) <= 1e-3


@pytest.mark.parametrize('index', [0, 1])
def test_masks_of_all_heads_are_averaged(model, index):
    """HTC by default: the mean of what mmdetection's own three heads give, and not the last's."""
    name, arrays, stored = model
    key = f'averaged/{index}/masks'
    assert (key in arrays) == (key in stored) == name.startswith('htc')
    if not name.startswith('htc'):
        return  # always averages: test_final_detections
    masks = arrays[key]
    assert ours.match_masks(masks, arrays, stored, index, 'averaged') <= 1e-3
    assert ours.match_masks(masks, arrays, stored, index, 'final') > 0.1


@pytest.mark.parametrize('name', cases.CASCADES)
def test_stored_numbers_mean_something(name):
    """Every stage moves boxes, finds several classes, and has positives beside the ground truth."""
    stored = ours.load(name)
    boxes = cases.cascade_rois()[:, 1:]
    for stage in range(3):
        refined = stored[f'box/{stage}/refined']
        assert np.abs(refined - boxes).max(1).min() > 0.05
        boxes = refined
        logits = stored[f'box/{stage}/logits'].astype(np.float64)
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert len(set(np.nonzero(scores[:, :-1] > 0.05)[1])) > 3
    counts = cases.unpack_text(stored['counts'])
    objects = sum(len(item['labels']) for item in cases.batch(crowded=True))
    for branch in ('box', 'mask'):
        assert all(objects + 5 < positives < total / 5 for positives, total in counts[branch]), (
            counts
        )
    # Low-quality matching, which HTC has on and Cascade R-CNN off, decides about some of them.
    assert sum(counts['shared']) >= 3
    if name.startswith('htc'):
        assert counts['box'] != counts['mask'], 'the mask branch samples anew'
