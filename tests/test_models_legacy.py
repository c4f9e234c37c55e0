"""Boxes that count pixels, as in maskrcnn-benchmark ('mb') and mmdetection 1.x ('v1'): anchors,
deltas, matching, proposals, against closed forms, pixels counted one by one, or the rule followed
literally.

What the recorded numbers of a whole system (test_golden_maskrcnn_benchmark.py) cannot tell apart is
told apart here.
"""

import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from small_detector import build, small_config

from mmdet_r2 import ops
from mmdet_r2.config import load_config
from mmdet_r2.models.matching import (
    BACKGROUND,
    IGNORED,
    DeltaXYWHBBoxCoder,
    LegacyDeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    RandomSampler,
)
from mmdet_r2.models.postprocess import DetectionSelector
from mmdet_r2.models.roi import Stage
from mmdet_r2.models.rpn import LegacyAnchorGenerator, ProposalSelector
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS, TASK_UTILS, init_scope
from mmdet_r2.structures.boxes import box_area, box_iof, box_iou

PEER = os.environ.get('MMDET_R2_PEER')


BASES = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 'models'
MB = load_config(BASES / 'mask_rcnn_r50_fpn_maskrcnnbench.py', check=False).model
V1 = load_config(BASES / 'mask_rcnn_r50_fpn_v1.py', check=False).model
CLAMP = math.log(1000 / 16)


def random_boxes(num, size=60, seed=0, whole=False):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, num, 2, generator=generator) * (size - 1)
    corners = corners.round() if whole else corners
    return torch.cat([corners.amin(0), corners.amax(0)], dim=1)


# --------------------------------------------------------------------------------- boxes


def test_areas_and_overlaps_are_counts_of_pixels():
    a, b = random_boxes(12, whole=True, seed=1), random_boxes(9, whole=True, seed=2)
    grids = []
    for boxes in (a, b):
        grid = np.zeros((len(boxes), 60, 60), bool)
        for own, (x1, y1, x2, y2) in zip(grid, boxes.int().tolist(), strict=True):
            own[y1 : y2 + 1, x1 : x2 + 1] = True
        grids.append(grid)
    both = (grids[0][:, None] & grids[1][None]).sum((2, 3))
    either = (grids[0][:, None] | grids[1][None]).sum((2, 3))
    areas = grids[0].sum((1, 2))
    assert (box_area(a, 1).numpy() == areas).all()
    assert np.allclose(box_iou(a, b, offset=1), both / either, atol=1e-6)
    assert np.allclose(box_iof(a, b, offset=1), both / areas[:, None], atol=1e-6)


# ------------------------------------------------------------------------------- anchors

TABLE = {  # stride -> anchors of the first cell, ratios 0.5, 1, 2
    'mb': {
        4: [(-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)],
        8: [(-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)],
        16: [(-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)],
        32: [(-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)],
        64: [(-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)],
    },
    'v1': {
        4: [(-21, -9, 24, 12), (-14, -14, 17, 17), (-9, -21, 12, 24)],
        8: [(-41, -19, 48, 26), (-28, -28, 35, 35), (-19, -41, 26, 48)],
        16: [(-83, -37, 98, 52), (-56, -56, 71, 71), (-37, -83, 52, 98)],
        32: [(-165, -75, 196, 106), (-112, -112, 143, 143), (-75, -165, 106, 196)],
        64: [(-330, -149, 393, 212), (-224, -224, 287, 287), (-149, -330, 212, 393)],
    },
}


@pytest.mark.parametrize('lineage, config', [('mb', MB), ('v1', V1)])
def test_anchors_of_the_first_and_of_other_cells(lineage, config):
    init_scope()
    generator = TASK_UTILS.build(dict(config.rpn_head.anchor_generator))
    grids = generator.grid_anchors([(3, 5)] * 5)
    for grid, (stride, expected) in zip(grids, TABLE[lineage].items(), strict=True):
        assert grid[:3].tolist() == [list(anchor) for anchor in expected]
        moved = torch.tensor([4.0, 2, 4, 2]) * stride  # row 2, column 4
        assert torch.equal(grid[-3:], grid[:3] + moved)


def test_octaves_and_the_centre_of_mmdetections_generator():
    octaves = LegacyAnchorGenerator([8], [1.0], octave_base_scale=4, scales_per_octave=2)
    sides = [32, round(32 * 2**0.5 - 1) + 1]  # corners at +-(side - 1) / 2, rounded
    assert [float(a[2] - a[0] + 1) for a in octaves.base_anchors[0]] == pytest.approx(sides, abs=1)
    assert octaves.base_anchors[0].sum(1).tolist() == [0, 0]  # center_offset 0, as there
    with pytest.raises(ValueError, match='expected corners or sides'):
        LegacyAnchorGenerator([8], [1.0], [8], rounding='both')


# --------------------------------------------------------------------------------- coder


def decode_literally(boxes, deltas, stds, size, both):
    """maskrcnn-benchmark's and (``both``) mmdetection 1.x' decoding, one number at a time."""
    decoded = []
    for (x1, y1, x2, y2), delta in zip(boxes.tolist(), deltas.tolist(), strict=True):
        dx, dy, dw, dh = (d * s for d, s in zip(delta, stds, strict=True))
        dw, dh = min(dw, CLAMP), min(dh, CLAMP)
        if both:
            dw, dh = max(dw, -CLAMP), max(dh, -CLAMP)
        w, h = x2 - x1 + 1, y2 - y1 + 1
        cx, cy = x1 + 0.5 * w + dx * w, y1 + 0.5 * h + dy * h
        w, h = w * math.exp(dw), h * math.exp(dh)
        box = [cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w - 1, cy + 0.5 * h - 1]
        limits = [size[1] - 1, size[0] - 1] * 2
        decoded.append([min(max(c, 0), limit) for c, limit in zip(box, limits, strict=True)])
    return torch.tensor(decoded)


@pytest.mark.parametrize('config, both', [(MB, False), (V1, True)], ids=['mb', 'v1'])
def test_decoding(config, both):
    init_scope()
    coder = TASK_UTILS.build(dict(config.roi_head.bbox_head.bbox_coder))
    boxes = random_boxes(60)
    deltas = torch.randn(60, 4, generator=torch.Generator().manual_seed(3)) * 3
    deltas[0], deltas[1] = torch.tensor([0, 0, 40, 40.0]), torch.tensor([0, 0, -40, -40.0])
    limits = torch.tensor([60.0, 50, 60, 50])
    expected = decode_literally(boxes, deltas, (0.1, 0.1, 0.2, 0.2), (50, 60), both)
    assert torch.allclose(coder.decode(boxes, deltas, limits), expected, atol=1e-4)


def test_dw_and_dh_are_clamped_from_above_or_on_both_sides():
    boxes, wild = torch.tensor([[0.0, 0, 99, 99]]), torch.tensor([[0, 0, 9.0, -9]])
    sizes = {}
    for clamp in ('above', 'both'):
        x1, y1, x2, y2 = DeltaXYWHBBoxCoder(offset=1, size_clamp=clamp).decode(boxes, wild)[0]
        sizes[clamp] = float(x2 - x1 + 1), float(y2 - y1 + 1)
    assert sizes['above'] == pytest.approx((6250, 100 * math.exp(-9)), abs=1e-3)
    assert sizes['both'] == pytest.approx((6250, 1.6), abs=1e-3)
    with pytest.raises(ValueError, match='expected both or above'):
        DeltaXYWHBBoxCoder(size_clamp='below')
    with pytest.raises(ValueError, match=r'bbox_coder\.offset=2'):
        DeltaXYWHBBoxCoder(offset=2)


def test_encoding_counts_pixels_and_decoding_undoes_it():
    boxes, targets = random_boxes(30, seed=4), random_boxes(30, seed=5)
    coder = DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2), offset=1)
    deltas = coder.encode(boxes, targets)
    width, goal = boxes[:, 2] - boxes[:, 0] + 1, targets[:, 2] - targets[:, 0] + 1
    assert torch.allclose(deltas[:, 2], (goal / width).log() / 0.2, atol=1e-5)
    shift = (targets[:, 0] + targets[:, 2] - boxes[:, 0] - boxes[:, 2]) / 2
    assert torch.allclose(deltas[:, 0], shift / width / 0.1, atol=1e-4)
    assert torch.allclose(coder.decode(boxes, deltas), targets, atol=1e-4)


def test_mmdetection_3_decodes_half_a_pixel_larger_on_every_side():
    boxes, targets = random_boxes(30, seed=4), random_boxes(30, seed=5)
    coder = LegacyDeltaXYWHBBoxCoder()
    decoded = coder.decode(boxes, coder.encode(boxes, targets))
    assert torch.allclose(decoded, targets + torch.tensor([-0.5, -0.5, 0.5, 0.5]), atol=1e-4)
    limits = torch.tensor([30.0, 20, 30, 20])
    assert coder.decode(boxes, torch.zeros(30, 4), limits)[:, 2:].amax(0).tolist() == [29, 19]


# ----------------------------------------------------------------- matching and sampling


def test_assignment_counts_pixels():
    # 10 x 10 and 10 x 20 pixels, one within the other: IoU 0.5 exactly; continuous 9/19.
    gt, box = torch.tensor([[0.0, 0, 9, 19]]), torch.tensor([[0.0, 0, 9, 9]])
    found = {
        offset: MaxIoUAssigner(0.5, 0.5, match_low_quality=False, offset=offset).assign(box, gt)
        for offset in (0, 1)
    }
    assert found[1].gt_index.tolist() == [0] and float(found[1].iou) == 0.5
    assert found[0].gt_index.tolist() == [BACKGROUND]


@pytest.mark.parametrize('config, expected', [(MB, 0), (V1, 1)], ids=['mb', 'v1'])
def test_object_that_a_low_quality_anchor_is_trained_on(config, expected):
    """The only anchor: object 1 has no better one, but the anchor overlaps object 0 more."""
    init_scope()
    gt = torch.tensor([[0.0, 0, 9, 5], [0, 6, 9, 9]])
    anchor = torch.tensor([[0.0, 0, 9, 9]])
    assigner = TASK_UTILS.build(dict(config.train_cfg.rpn.assigner))
    assert assigner.assign(anchor, gt).gt_index.tolist() == [expected]


@pytest.mark.parametrize('config, expected', [(MB, 0), (V1, BACKGROUND)], ids=['mb', 'v1'])
def test_how_little_an_objects_best_anchor_may_overlap_it(config, expected):
    """A quarter of the pixels: 1.x asks for 0.3."""
    init_scope()
    gt, anchor = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 9, 9]])
    assigner = TASK_UTILS.build(dict(config.train_cfg.rpn.assigner))
    assert assigner.assign(anchor, gt).gt_index.tolist() == [expected]


@pytest.mark.parametrize('wrt_candidates', [True, False])
def test_the_share_in_an_ignored_region_counts_pixels(wrt_candidates):
    """Half of either's pixels are the other's; less than half of the areas between corners."""
    box, region = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[0.0, 5, 9, 14]])
    for offset, expected in ((0, BACKGROUND), (1, IGNORED)):
        assigner = MaxIoUAssigner(
            0.5,
            0.5,
            match_low_quality=False,
            ignore_iof_thr=0.49,
            ignore_wrt_candidates=wrt_candidates,
            offset=offset,
        )
        found = assigner.assign(box, torch.tensor([[50.0, 50, 59, 59]]), region)
        assert found.gt_index.tolist() == [expected]


def targets_of(gt, labels, img_shape=(64, 64)):
    """Ground truth of one image, padded to 64 x 64 pixels."""
    return Targets(
        boxes=[gt],
        labels=[labels],
        ignored=[torch.zeros(0, 4)],
        masks=None,
        img_shapes=[img_shape],
        pad_shapes=[(64, 64)],
        semantic=None,
        names=['image'],
    )


def rpn_of(**train):
    """An RPN whose only anchors are 32 x 32 pixels around (15.5, 15.5) + 32 * cell."""
    config = small_config()['rpn_head']
    config['anchor_generator'] = dict(
        type='LegacyAnchorGenerator', scales=[1], ratios=[1.0], strides=[32], center_offset=0.5
    )
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, offset=1)
    sampler = dict(type='PseudoSampler')
    config['train_cfg'] = dict(assigner=assigner, sampler=sampler, allowed_border=0) | train
    init_scope()
    return MODELS.build(config)


def rpn_losses(head, gt, img_shape):
    """Losses of one image of 64 x 64 pixels in which the anchors of four cells lie."""
    gt = torch.tensor(gt)
    targets = targets_of(gt, torch.zeros(len(gt), dtype=torch.long), img_shape)
    for parameter in (*head.rpn_cls.parameters(), *head.rpn_reg.parameters()):
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        return head.loss((torch.zeros(1, 16, 2, 2),), targets)


def test_anchors_outside_the_image_are_ignored_before_or_after_matching():
    """The image is 60 pixels wide; the object overlaps the right upper anchor most, which sticks
    out, and the left upper one a little."""
    seen = {}
    for lineage, config in (('v1', V1), ('mb', MB)):
        train = config.train_cfg.rpn
        head = rpn_of(
            allowed_border=train.allowed_border, match_border=train.get('match_border', False)
        )
        taken = []
        sample = head.sampler.sample

        def spy(match, sample=sample, taken=taken):
            taken.append(match.gt_index.tolist())
            return sample(match)

        head.sampler.sample = spy
        rpn_losses(head, [[24.0, 0, 58, 31]], (64, 60))
        seen[lineage] = taken[0]
    assert seen['v1'] == [0, IGNORED, BACKGROUND, IGNORED]  # the second best takes the object
    assert seen['mb'] == [BACKGROUND, IGNORED, BACKGROUND, IGNORED]


def test_rpn_losses_are_divided_by_the_number_of_samples():
    """No object: four negative anchors, each with a loss of log 2."""
    total = 4 * math.log(2)
    sampler = dict(type='RandomSampler', num=256, pos_fraction=0.5, add_gt_as_proposals=False)
    for samples, divisor in ((None, 1 + 4), ('sampled', 4), (256, 256)):
        head = rpn_of(samples_per_img=samples, sampler=sampler)
        losses = rpn_losses(head, np.zeros((0, 4), np.float32), (64, 64))
        assert float(losses['loss_rpn_cls']) == pytest.approx(total / divisor)


def candidates(sampler, boxes, gt, labels):
    """What a RoI stage trains on: RoIs, labels, which are objects' own boxes."""
    model = build(small_config(mask=False))
    stage = Stage(model.roi_head.bbox_roi_extractor, model.roi_head.bbox_head)
    stage.assigner = MaxIoUAssigner(0.5, 0.5, match_low_quality=False, offset=1)
    stage.sampler = sampler
    targets = targets_of(gt, labels)
    return stage.sample([boxes], targets, None)


def test_where_the_objects_own_boxes_are_put():
    boxes = torch.tensor([[0.0, 0, 9, 9], [40, 40, 49, 49], [21, 21, 30, 30]])
    gt = torch.tensor([[20.0, 20, 29, 29], [0, 0, 9, 9]])
    picked = {}
    for position in ('front', 'end'):
        sampler = RandomSampler(num=16, pos_fraction=1.0, gt_position=position)
        picked[position] = candidates(sampler, boxes, gt, torch.tensor([2, 1]))
    front, end = picked['front'], picked['end']
    rows = [*boxes.tolist()]
    assert front.rois[:, 1:].tolist() == [*gt.tolist(), rows[0], rows[2], rows[1]]
    assert end.rois[:, 1:].tolist() == [rows[0], rows[2], *gt.tolist(), rows[1]]
    assert front.labels.tolist() == [2, 1, 1, 2, 3] and end.labels.tolist() == [1, 2, 2, 1, 3]
    assert front.is_gt.tolist() == [True, True, False, False, False]
    assert end.is_gt.tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match='expected front or end'):
        RandomSampler(num=16, pos_fraction=1.0, gt_position='middle')


def test_objects_of_equal_boxes_are_one_object_to_maskrcnn_benchmark():
    gt = torch.tensor([[20.0, 20, 29, 29], [20, 20, 29, 29]])
    nothing = torch.zeros(0, 4)
    for position, labels in (('front', [2, 1]), ('end', [2, 2])):
        sampler = RandomSampler(num=16, pos_fraction=1.0, gt_position=position)
        assert candidates(sampler, nothing, gt, torch.tensor([2, 1])).labels.tolist() == labels


# ------------------------------------------------------------------------------ proposals


def suppress_literally(boxes, scores, threshold):
    """Greedy suppression of pixel boxes with an IoU above the threshold."""
    kept = []
    for i in np.argsort(-scores.numpy(), kind='stable').tolist():
        overlap = box_iou(boxes[i : i + 1].double(), boxes[kept].double(), offset=1)
        if not kept or float(overlap.max()) <= threshold:
            kept.append(i)
    return kept


@pytest.mark.parametrize('backend', ['mmcv', 'torchvision'])
def test_suppression_counts_pixels_and_is_strict(backend, monkeypatch):
    pytest.importorskip(backend)
    monkeypatch.setattr(ops, 'backend', lambda device='cpu': backend)
    # IoU 0.5 exactly: not above 0.5, kept; continuous boxes have 9 / 19.
    boxes = torch.tensor([[0.0, 0, 9, 19], [0, 0, 9, 9]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5, offset=1).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.49, offset=1).tolist() == [0]
    assert ops.nms(boxes, scores, 0.49, offset=0).tolist() == [0, 1]

    boxes = random_boxes(300, seed=6)
    scores = torch.rand(300, generator=torch.Generator().manual_seed(7))
    expected = suppress_literally(boxes, scores, 0.5)
    assert ops.nms(boxes, scores, 0.5, offset=1).tolist() == expected
    assert ops.nms(boxes, scores, 0.5).tolist() != expected


def test_soft_suppression_counts_pixels():
    """Linear decay by the IoU: 0.5 in pixels, 9 / 19 without counting them."""
    boxes, scores = torch.tensor([[0.0, 0, 9, 19], [0, 0, 9, 9]]), torch.tensor([0.9, 0.8])
    zeros = torch.zeros(2, dtype=torch.long)
    for offset, iou in ((0, 9 / 19), (1, 0.5)):
        nms = dict(type='soft_nms', iou_threshold=0.3)
        keep, decayed = DetectionSelector(nms=nms, offset=offset).suppress(
            boxes, scores, zeros, zeros, 1
        )
        assert keep.tolist() == [0, 1]
        assert decayed.tolist() == pytest.approx([0.9, 0.8 * (1 - iou)])


def test_groups_side_by_side_do_not_touch():
    """Pixel boxes overlap where the last column of one is the first of the other."""
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3)
    keep = ops.batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.arange(3), 0.0, offset=1)
    assert keep.tolist() == [0, 1, 2]


def proposals_of(selector, logits):
    """Proposals of (images, levels, candidates) logits, whose boxes do not overlap."""
    num = logits.shape[2]
    left = torch.arange(num) * 10.0
    anchors = torch.stack([left, left * 0, left + 4, left * 0 + 4], dim=1)
    levels = range(logits.shape[1])
    shapes = [(20, 10 * num + 100)] * len(logits)
    return selector.select(
        [logits[:, i] for i in levels],
        [torch.zeros(len(logits), num, 4)] * len(levels),
        [anchors + 10 * i for i in levels],
        DeltaXYWHBBoxCoder(offset=1),
        shapes,
    )


def test_proposals_kept_over_the_batch():
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(8))
    logits[0] += 2  # the first image's are better
    every = proposals_of(ProposalSelector(max_per_img=1000, offset=1), logits)
    some = proposals_of(ProposalSelector(max_per_img=1000, max_per_batch=60, offset=1), logits)
    last = torch.cat(every.scores).sort(descending=True).values[59]
    for all_scores, all_boxes, scores, boxes in zip(
        every.scores, every.boxes, some.scores, some.boxes, strict=True
    ):
        assert torch.equal(scores, all_scores[all_scores >= last])
        assert torch.equal(boxes, all_boxes[all_scores >= last])
    counts = [len(scores) for scores in some.scores]
    assert sum(counts) == 60 and counts[0] > 2 * counts[1]
    # Fewer than that are all kept, and the limit per image stays.
    assert proposals_of(ProposalSelector(max_per_batch=999), logits).scores[0].shape == (100,)
    few = proposals_of(ProposalSelector(max_per_img=7, max_per_batch=60), logits)
    assert [len(scores) for scores in few.scores] == [7, 7, 7]


def test_proposals_are_suppressed_by_pixels():
    """IoU 0.5 in pixels, 9 / 19 without counting them; ``nms`` may name an offset of its own."""
    anchors = [torch.tensor([[0.0, 0, 9, 19], [0, 0, 9, 9]])]
    nms = dict(type='nms', iou_threshold=0.49)
    for selector, count in (
        (ProposalSelector(nms=nms), 2),
        (ProposalSelector(nms=nms, offset=1), 1),
        (ProposalSelector(nms=dict(nms, offset=1)), 1),
        (ProposalSelector(nms=dict(nms, offset=0), offset=1), 2),
    ):
        found = selector.select(
            [torch.tensor([[2.0, 1]])],
            [torch.zeros(1, 2, 4)],
            anchors,
            DeltaXYWHBBoxCoder(offset=1),
            [(40, 40)],
        )
        assert len(found.boxes[0]) == count


def test_a_box_of_one_column_is_no_empty_box():
    logits, deltas = [torch.zeros(1, 1)], [torch.zeros(1, 1, 4)]
    anchors = [torch.tensor([[-10.0, 0, 0, 9]])]  # clipped to its last column
    for offset, count in ((0, 0), (1, 1)):
        found = ProposalSelector(min_bbox_size=0, offset=offset).select(
            logits, deltas, anchors, DeltaXYWHBBoxCoder(offset=offset), [(20, 20)]
        )
        assert len(found.boxes[0]) == count


# ------------------------------------------------------------------- mmdetection's own parts

THEIR_PARTS = """
import sys
import torch
from mmdet.registry import TASK_UTILS
from mmdet.utils import register_all_modules

register_all_modules()
problem = torch.load(sys.argv[1], weights_only=True)
found = {}
for name, config in problem['generators'].items():
    generator = TASK_UTILS.build(dict(config, type='LegacyAnchorGenerator'))
    found[name] = generator.grid_priors([(3, 4)] * len(config['strides']), device='cpu')
coder = TASK_UTILS.build(
    dict(type='LegacyDeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2], target_means=[0.1] * 4)
)
boxes, deltas = problem['boxes'], problem['deltas']
found['encoded'] = coder.encode(boxes, boxes.flip(0))
found['decoded'] = coder.decode(boxes, deltas)
found['clipped'] = coder.decode(boxes, deltas, max_shape=(50, 60))
torch.save(found, sys.argv[2])
"""


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_parts_of_mmdetections_names(tmp_path):
    strides, ratios = [4, 8, 16], [0.5, 1.0, 2.0]
    generators = {
        'scales': dict(strides=strides, ratios=ratios, scales=[8, 5.5], center_offset=0.5),
        'no offset': dict(strides=strides, ratios=ratios, scales=[8]),
        'octaves': dict(
            strides=strides,
            ratios=ratios,
            octave_base_scale=4,
            scales_per_octave=3,
            center_offset=0.5,
            scale_major=False,
        ),
        'sizes': dict(strides=[10, 20], ratios=[1.0], scales=[3], base_sizes=[7, 13]),
    }
    boxes = random_boxes(50)
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * 4
    deltas[:3, 2:] = torch.tensor([[50.0, -50], [-50, 50], [30, 30]])
    torch.save(dict(generators=generators, boxes=boxes, deltas=deltas), tmp_path / 'problem.pth')
    command = [PEER, '-W', 'ignore', '-c', THEIR_PARTS, tmp_path / 'problem.pth', tmp_path / 'out']
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    found = torch.load(tmp_path / 'out', weights_only=True)
    for name, config in generators.items():
        grids = LegacyAnchorGenerator(**config).grid_anchors([(3, 4)] * len(config['strides']))
        assert all(torch.equal(a, b) for a, b in zip(grids, found[name], strict=True)), name
    coder = LegacyDeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2), target_means=[0.1] * 4)
    limits = torch.tensor([60.0, 50, 60, 50])
    for name, value in (
        ('encoded', coder.encode(boxes, boxes.flip(0))),
        ('decoded', coder.decode(boxes, deltas)),
        ('clipped', coder.decode(boxes, deltas, limits)),
    ):
        assert torch.allclose(value, found[name], rtol=1e-6, atol=1e-4), name
