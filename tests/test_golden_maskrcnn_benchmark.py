"""Mask R-CNN with Res2Net-50 26w4s of maskrcnn-benchmark's fork: a checkpoint in the original
format, loaded into our published config, computes what the original computed (recorded on a CPU in
float32).
"""

import zlib
from pathlib import Path

import golden
import golden_run
import numpy as np
import pytest
from PIL import Image

from mmdet_r2.inference import prepare_for_inference

STORED = Path(__file__).parent / 'data' / 'golden_E.npz'
CONFIG = 'mask_rcnn_r2_50_26w4s_fpn_maskrcnnbench_2x_coco2014'
RESIZED = (312, 432)  # the long side rounded down
COMPARED_BELOW = ('proposals/', 'box/fixed_dets_', 'final/', 'mask/logits')
LOSSES = {  # the original's names -> detectron2's, which golden_run uses
    'loss_objectness': 'loss_rpn_cls',
    'loss_rpn_box_reg': 'loss_rpn_loc',
    'loss_classifier': 'loss_cls',
    'loss_box_reg': 'loss_box_reg',
    'loss_mask': 'loss_mask',
}


def background_last(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The recorded arrays with classes counted from 0 and the background, the original's class 0,
    where ours has it: behind the others in scores, nowhere in boxes.
    """
    moved = dict(stored)
    for name in ('box/class_logits', 'box/probs'):
        moved[name] = np.roll(stored[name], -1, axis=1)
    for name in ('box/deltas', 'box/decoded'):
        moved[name] = stored[name][:, 4:]
    for name in ('box/fixed_dets_', 'final/', 'mask/'):
        moved[f'{name}classes'] = stored[f'{name}labels'] - 1
    return moved


@pytest.fixture(scope='module')
def resized() -> np.ndarray:
    """The image at network size, (312, 432, 3) RGB, resized as the original did."""
    image = Image.fromarray(golden_run.image())
    return np.asarray(image.resize(RESIZED[::-1], Image.Resampling.BILINEAR))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    checkpoint = golden.golden_checkpoint('E', tmp_path_factory.mktemp('golden'))
    many = golden_run.EXHAUSTIVE  # the original's losses were recorded without random sampling
    samplers = {f'model.train_cfg.{part}.sampler.num': many for part in ('rpn', 'rcnn')}
    return golden_run.build(CONFIG, str(checkpoint), **samplers)


@pytest.fixture(scope='module')
def system(model, resized):
    """(our arrays, stored arrays)."""
    stored = dict(np.load(STORED))
    assert zlib.crc32(resized.tobytes()) == stored['image_resized_crc32']
    stored = background_last(stored)
    return golden_run.forward(model, resized, stored), stored


def test_every_tensor_up_to_the_heads(system):
    arrays, stored = system
    names = {name for name in arrays if not name.startswith(COMPARED_BELOW)}
    assert names <= {name.removesuffix('/val') for name in stored}
    assert len(names) >= 30
    worst = {name: golden_run.deviation(name, arrays[name], stored) for name in names}
    assert {name: value for name, value in worst.items() if not value < 1e-4} == {}


def test_anchors_are_identical(system):
    arrays, stored = system
    for level in range(2, 7):
        name = f'rpn/anchors_p{level}'
        assert (arrays[name] == stored[name]).all()


def test_mask_logits_of_all_classes(system):
    arrays, stored = system
    shape = stored['mask/logits/shape']
    roi, channel, y, x = np.unravel_index(stored['mask/logits/pos'], shape)
    own = channel > 0  # that of the background is never used
    assert own.sum() > 400
    ours = arrays['mask/logits'][roi[own], channel[own] - 1, y[own], x[own]]
    difference = np.abs(ours - stored['mask/logits/val'][own]).max()
    assert difference < 1e-4 * stored['mask/logits/mean_std'][1]


def test_proposals(system):
    arrays, stored = system
    theirs, ours = stored['proposals/all_boxes'], arrays['proposals/all_boxes']
    assert len(ours) == int(stored['proposals/count'][0]) == len(theirs)
    distance = np.abs(theirs[:, None] - ours[None]).max(-1)
    rows = distance.argmin(1)
    assert len(set(rows)) == len(rows) and distance.min(1).max() < 0.01
    assert (
        np.abs(arrays['proposals/all_scores'][rows] - stored['proposals/all_scores']).max() < 1e-5
    )


@pytest.mark.parametrize('which', ['box/fixed_dets_', 'final/'])
def test_detections_one_to_one(system, which):
    arrays, stored = system
    names = [which + part for part in ('boxes', 'scores', 'classes')]
    ours, theirs = [arrays[name] for name in names], [stored[name] for name in names]
    if which == 'final/':  # x1 + width, not the last pixel, is what leaves the detector
        ours[0] = ours[0] - np.array([0, 0, 1, 1], np.float32)
    rows, boxes, scores = golden_run.match(tuple(ours), tuple(theirs))
    assert len(set(theirs[2])) > 5 and len(rows) == 100, 'the recorded numbers would prove little'
    assert boxes < 0.01 and scores < 1e-4
    if which == 'final/':
        # A few masks have a pixel whose probability is 0.5 but for 0.000001.
        masks = arrays['final/masks'][rows]
        differences = np.abs(masks.reshape(len(rows), -1).sum(1) - stored['final/mask_areas'])
        assert differences.max() <= 1 and differences.sum() <= 3
        packed = stored['final/masks_packed']
        pixels = np.unpackbits(packed, axis=1)[:, : masks[0].size].reshape(-1, *masks.shape[1:])
        assert (masks[: len(packed)] != pixels.astype(bool)).sum() <= 1


def test_losses(model, resized):
    losses = golden_run.losses(model, resized)
    stored = np.load(STORED)
    recorded = {ours: float(stored[f'losses/{theirs}']) for theirs, ours in LOSSES.items()}
    assert losses == pytest.approx(recorded, rel=1e-4)


def test_folding_norms_without_epsilon_changes_nothing(model, resized, system):
    """Last: it changes the model."""
    prepare_for_inference(model)
    arrays, stored = system
    folded = golden_run.forward(model, resized, stored)
    for name in ('backbone/res2', 'backbone/res5', 'fpn/p2', 'fpn/p5'):
        assert golden_run.deviation(name, folded[name], stored) < 1e-4
    names = [f'final/{part}' for part in ('boxes', 'scores', 'classes')]
    _, boxes, scores = golden_run.match(
        tuple(folded[name] for name in names), tuple(arrays[name] for name in names)
    )
    assert boxes < 0.01 and scores < 1e-4
