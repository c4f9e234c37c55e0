"""Whole systems of detectron2's ResNeSt fork: a checkpoint in the original format, loaded into our
published config, computes what the original computed (recorded on a CPU in float32).

A: Faster R-CNN ResNeSt-50; B: Cascade Mask R-CNN ResNeSt-50; C: A with deformable convolutions.
"""

import zlib
from pathlib import Path

import golden
import golden_run
import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).parent / 'data'
CONFIGS = {
    'A': 'faster_rcnn_s50_fpn_syncbn-all_mstrain-range_1x_coco',
    'B': 'cascade_mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco',
    'C': 'faster_rcnn_s50_fpn_mdconv_c3-c5_group2_syncbn-all_mstrain-range_1x_coco',
}
MATCHED = ('proposals/', 'box/fixed_dets_', 'final/')  # compared by pairs, not row by row


@pytest.fixture(scope='module')
def resized() -> np.ndarray:
    """The image at network size, (312, 433, 3) RGB, resized as the originals did."""
    height, width = golden_run.RESIZED
    image = Image.fromarray(golden_run.image()).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


@pytest.fixture(
    scope='module', params=['A', *(pytest.param(n, marks=pytest.mark.slow) for n in 'BC')]
)
def system(request, resized, tmp_path_factory):
    """(our arrays, stored arrays, our losses) of one system."""
    letter = request.param
    stored = dict(np.load(DATA / f'golden_{letter}.npz'))
    assert zlib.crc32(resized.tobytes()) == stored['image_resized_crc32']
    checkpoint = golden.golden_checkpoint(letter, tmp_path_factory.mktemp('golden'))
    many = golden_run.EXHAUSTIVE  # the originals' losses were recorded without random sampling
    stage = '0.' if letter == 'B' else ''
    model = golden_run.build(
        CONFIGS[letter],
        str(checkpoint),
        **{
            'model.train_cfg.rpn.sampler.num': many,
            'model.train_cfg.rpn.samples_per_img': many,
            f'model.train_cfg.rcnn.{stage}sampler.num': many,
        },
    )
    arrays = golden_run.forward(model, resized, stored)
    return arrays, stored, golden_run.losses(model, resized)


def test_every_tensor_up_to_the_heads(system):
    arrays, stored, _ = system
    names = {name for name in arrays if not name.startswith(MATCHED)}
    recorded = {name.removesuffix('/val') for name in stored}
    assert names <= recorded and len(names) >= 30
    worst = {name: golden_run.deviation(name, arrays[name], stored) for name in names}
    assert {name: value for name, value in worst.items() if not value < 1e-4} == {}


def test_proposals(system):
    arrays, stored, _ = system
    theirs, ours = stored['proposals/all_boxes'], arrays['proposals/all_boxes']
    assert len(ours) == int(stored['proposals/count'][0]) == len(theirs)
    distance = np.abs(theirs[:, None] - ours[None]).max(-1)
    assert distance.min(0).max() < 0.01 and distance.min(1).max() < 0.01
    rows = distance.argmin(1)
    assert len(set(rows)) == len(rows)
    scores = 1 / (1 + np.exp(-stored['proposals/all_logits'].astype(np.float64)))
    assert np.abs(arrays['proposals/all_scores'][rows] - scores).max() < 1e-5


@pytest.mark.parametrize('which', ['box/fixed_dets_', 'final/'])
def test_detections_one_to_one(system, which):
    arrays, stored, _ = system
    names = [which + part for part in ('boxes', 'scores', 'classes')]
    theirs = tuple(stored[name] for name in names)
    rows, boxes, scores = golden_run.match(tuple(arrays[name] for name in names), theirs)
    assert len(set(theirs[2])) > 5 and len(rows) == 100, 'the recorded numbers would prove little'
    assert boxes < 0.01 and scores < 1e-4
    if which == 'final/' and 'final/mask_areas' in stored:
        masks = arrays['final/masks'][rows]
        assert (masks.reshape(len(rows), -1).sum(1) == stored['final/mask_areas']).all()
        packed = stored['final/masks_packed']
        pixels = np.unpackbits(packed, axis=1)[:, : masks[0].size].reshape(-1, *masks.shape[1:])
        assert (masks[: len(packed)] == pixels.astype(bool)).all()


def test_losses(system):
    _, stored, losses = system
    recorded = {k.removeprefix('losses/'): float(v) for k, v in stored.items() if 'losses/' in k}
    assert losses == pytest.approx(recorded, rel=1e-4)
