"""Assigners, samplers, the box coder and anchors, against closed forms and direct rules."""

import math

import pytest
import torch

from mmdet_r2.models.matching import (
    BACKGROUND,
    IGNORED,
    DeltaXYWHBBoxCoder,
    Match,
    MaxIoUAssigner,
    OHEMSampler,
    PseudoSampler,
    RandomSampler,
    assigner,
)
from mmdet_r2.models.rpn import AnchorGenerator
from mmdet_r2.structures.boxes import box_iof, box_iou


def _boxes(num, seed, size=60.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * size
    return torch.cat([corner, corner + torch.rand(num, 2, generator=generator) * size / 2 + 1], 1)


# --- boxes -------------------------------------------------------------------------------------


def test_iou_of_known_boxes():
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    expected = torch.tensor([[50 / 150, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(box_iou(a, b), expected)
    assert box_iof(a[:1], b[:1]).item() == pytest.approx(0.5)


def test_iou_is_symmetric_and_one_with_itself():
    boxes = _boxes(20, seed=0)
    iou = box_iou(boxes, boxes)
    torch.testing.assert_close(iou, iou.T)
    torch.testing.assert_close(iou.diagonal(), torch.ones(20))


# --- assigner ----------------------------------------------------------------------------------

GT = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


def test_thresholds_decide_between_object_background_and_nothing():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 5.0],
            [0.0, 0.0, 10.0, 2.0],
            [20.0, 0.0, 30.0, 9.0],
        ]
    )
    match = MaxIoUAssigner(0.7, 0.3, match_low_quality=False).assign(boxes, GT)
    assert match.gt_index.tolist() == [0, IGNORED, BACKGROUND, 1]
    torch.testing.assert_close(match.iou, torch.tensor([1.0, 0.5, 0.2, 0.9]))


def test_an_object_without_a_good_box_claims_its_best_and_all_ties():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 4.0], [0.0, 6.0, 10.0, 10.0], [0.0, 0.0, 10.0, 3.0]])
    match = MaxIoUAssigner(0.7, 0.3, min_pos_iou=0.3).assign(boxes, GT[:1])
    assert match.gt_index.tolist() == [0, 0, IGNORED]
    match = MaxIoUAssigner(0.7, 0.3, min_pos_iou=0.3, gt_max_assign_all=False).assign(boxes, GT[:1])
    assert match.gt_index.tolist() == [0, IGNORED, IGNORED]
    match = MaxIoUAssigner(0.7, 0.3, min_pos_iou=0.5).assign(boxes, GT[:1])
    assert (match.gt_index < 0).all()


def test_of_two_claims_the_last_object_wins_even_over_a_better_match():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])
    assert MaxIoUAssigner(0.7, 0.3, 0.3).assign(boxes, objects).gt_index.tolist() == [1]


def test_ignore_regions_and_invalid_boxes_take_no_part():
    boxes = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0], [20.0, 0.0, 30.0, 10.0]]
    )
    region = torch.tensor([[45.0, 45.0, 70.0, 70.0]])
    valid = torch.tensor([True, True, False])
    match = MaxIoUAssigner(0.5, 0.5, 0.1, ignore_iof_thr=0.5).assign(boxes, GT, region, valid)
    assert match.gt_index.tolist() == [0, IGNORED, IGNORED]
    match = MaxIoUAssigner(0.5, 0.5, 0.1).assign(boxes, GT, region, valid)
    assert match.gt_index.tolist() == [0, BACKGROUND, IGNORED]


def test_an_image_without_objects_is_all_background():
    match = MaxIoUAssigner(0.7, 0.3).assign(_boxes(5, 0), torch.zeros(0, 4))
    assert (match.gt_index == BACKGROUND).all()
    assert MaxIoUAssigner(0.7, 0.3).assign(torch.zeros(0, 4), GT).gt_index.shape == (0,)


@pytest.mark.parametrize('assign_all', [True, False])
def test_blocks_give_the_same_match_as_one_piece(monkeypatch, assign_all):
    boxes = torch.cat([_boxes(500, 1), _boxes(500, 1)])  # every IoU is tied
    objects, valid = _boxes(12, 2), torch.rand(1000) > 0.2
    make = MaxIoUAssigner(0.6, 0.3, 0.1, gt_max_assign_all=assign_all)
    whole = make.assign(boxes, objects, None, valid)
    monkeypatch.setattr(assigner, '_MAX_BLOCK', 12 * 64)
    pieces = make.assign(boxes, objects, None, valid)
    assert torch.equal(whole.gt_index, pieces.gt_index)
    assert torch.equal(whole.iou, pieces.iou)


# --- samplers ----------------------------------------------------------------------------------


def _match(num_pos, num_neg, num_ignored=3):
    index = [0] * num_pos + [BACKGROUND] * num_neg + [IGNORED] * num_ignored
    return Match(torch.tensor(index), torch.zeros(len(index)))


def test_random_sampler_keeps_to_its_budget_and_puts_positives_first():
    sample = RandomSampler(num=20, pos_fraction=0.25).sample(_match(30, 100))
    assert sample.num_pos == 5 and len(sample.index) == 20
    assert (sample.gt_index[:5] == 0).all() and (sample.gt_index[5:] == BACKGROUND).all()
    assert sample.index.unique().numel() == 20


def test_random_sampler_fills_up_with_negatives_within_their_bound():
    assert len(RandomSampler(20, 0.25).sample(_match(2, 100)).index) == 20
    assert len(RandomSampler(20, 0.25, neg_pos_ub=3).sample(_match(2, 100)).index) == 8
    nothing = RandomSampler(20, 0.25).sample(_match(0, 0))
    assert len(nothing.index) == 0 and nothing.avg_factor == 2


def test_random_sampler_draws_as_randperm_over_the_candidates():
    torch.manual_seed(3)
    sample = RandomSampler(8, 0.5).sample(_match(10, 10))
    torch.manual_seed(3)
    pos, neg = torch.randperm(10)[:4], torch.randperm(10)[:4] + 10
    assert sample.index.tolist() == pos.sort().values.tolist() + neg.sort().values.tolist()


def test_ohem_takes_the_hardest_and_pseudo_takes_all():
    loss = torch.arange(23.0)
    sample = OHEMSampler(6, 0.5).sample(_match(10, 10), loss)
    assert sample.index.tolist() == [7, 8, 9, 17, 18, 19]
    assert len(PseudoSampler().sample(_match(10, 10)).index) == 20


def test_added_objects_stand_in_front_as_their_own_match():
    match = _match(1, 2, 0).with_gt(2)
    assert match.gt_index.tolist() == [0, 1, 0, BACKGROUND, BACKGROUND]


# --- coder -------------------------------------------------------------------------------------


def test_coder_round_trip():
    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0, 0, 0.2), target_stds=(0.1, 0.1, 0.2, 0.2))
    boxes, goals = _boxes(50, 0), _boxes(50, 1)
    decoded = coder.decode(boxes, coder.encode(boxes, goals))
    torch.testing.assert_close(decoded, goals, rtol=1e-4, atol=1e-3)


def test_coder_closed_form_clamp_and_clip():
    coder = DeltaXYWHBBoxCoder()
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas = coder.encode(box, torch.tensor([[20.0, 20.0, 60.0, 100.0]]))
    torch.testing.assert_close(deltas, torch.tensor([[1.0, 0.5, math.log(2), math.log(2)]]))
    wild = coder.decode(box, torch.tensor([[0.0, 0.0, 50.0, -50.0]]))
    widest, flattest = 20 * 1000 / 16, 40 * 16 / 1000
    torch.testing.assert_close(
        wild,
        torch.tensor([[20 - widest / 2, 40 - flattest / 2, 20 + widest / 2, 40 + flattest / 2]]),
    )
    limits = torch.tensor([[25.0, 50.0, 25.0, 50.0]])
    clipped = coder.decode(box, torch.zeros(1, 4), limits)
    assert clipped.tolist() == [[10.0, 20.0, 25.0, 50.0]]


# --- anchors -----------------------------------------------------------------------------------


def test_anchors_of_a_cell_and_of_a_grid():
    generator = AnchorGenerator(strides=[4, 8], ratios=[0.5, 1.0, 2.0], scales=[8])
    root = 32 / math.sqrt(2) / 2
    expected = [
        [-2 * root, -root, 2 * root, root],
        [-16, -16, 16, 16],
        [-root, -2 * root, root, 2 * root],
    ]
    torch.testing.assert_close(generator.base_anchors[0], torch.tensor(expected))
    anchors = generator.grid_anchors([(2, 3), (1, 2)])
    assert [len(a) for a in anchors] == [18, 6]
    torch.testing.assert_close(
        anchors[0][3 * 4 + 1], torch.tensor([4.0 - 16, 4 - 16, 4 + 16, 4 + 16])
    )
    assert generator.grid_anchors([(2, 3), (1, 2)])[0] is anchors[0]


def test_anchors_outside_an_images_own_padding_are_not_valid():
    generator = AnchorGenerator(strides=[4], ratios=[1.0], scales=[8])
    flags = generator.valid_flags([(3, 4)], pad_shape=(8, 9))
    assert flags.view(3, 4).tolist() == [[True, True, True, False]] * 2 + [[False] * 4]


def test_anchor_generator_says_what_is_missing():
    with pytest.raises(ValueError, match='scales'):
        AnchorGenerator(strides=[4], ratios=[1.0])
    with pytest.raises(ValueError, match=r'1 strides.*2 levels'):
        AnchorGenerator(strides=[4], ratios=[1.0], scales=[8]).grid_anchors([(2, 2), (1, 1)])


@pytest.mark.parametrize('all_ties', [True, False])
def test_a_claimed_box_may_keep_the_object_it_overlaps_most(all_ties):
    """detectron2: low-quality matches become positive, their target stays the nearest object."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    objects = torch.tensor([[0.0, 0, 10, 14], [0, 0, 4, 10]])
    options = dict(pos_iou_thr=0.9, neg_iou_thr=0.3, gt_max_assign_all=all_ties)
    claimed = MaxIoUAssigner(**options).assign(boxes, objects).gt_index
    nearest = MaxIoUAssigner(**options, low_quality_target='nearest').assign(boxes, objects)
    assert claimed.tolist() == [1, BACKGROUND] and nearest.gt_index.tolist() == [0, BACKGROUND]
    with pytest.raises(ValueError, match="low_quality_target='best'"):
        MaxIoUAssigner(**options, low_quality_target='best')
