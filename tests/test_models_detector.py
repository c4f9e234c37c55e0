"""The whole detector at small size: losses, predictions, empty inputs, batches."""

import copy

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from small_detector import K, batch_of, build, cascade_config, sample_of, small_config
from torch.optim.swa_utils import AveragedModel

from mmdet_r2 import ops
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.postprocess import DetectionSelector
from mmdet_r2.models.roi.box_head import BoxOutput, Shared2FCBBoxHead
from mmdet_r2.models.rpn import Proposals, ProposalSelector
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures.boxes import box_iou
from mmdet_r2.zoo import load_checkpoint


@pytest.fixture(scope='module')
def mask_rcnn():
    return build(small_config())


@pytest.mark.parametrize(
    'counts', [(3, 2), (0, 2), (0, 0)], ids=['objects', 'one empty', 'all empty']
)
@pytest.mark.parametrize('mask', [True, False], ids=['mask', 'box'])
def test_every_parameter_gets_a_finite_gradient(mask, counts):
    model = build(small_config(mask))
    model.train()
    losses = model(**batch_of(model, *counts), mode='loss')
    expected = {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'acc'}
    assert set(losses) == expected | ({'loss_mask'} if mask else set())
    assert all(torch.isfinite(v).all() for v in losses.values())
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_initial_losses_have_the_values_theory_gives(mask_rcnn):
    mask_rcnn.train()
    losses = mask_rcnn(**batch_of(mask_rcnn, 3, 2), mode='loss')
    assert losses['loss_rpn_cls'].item() == pytest.approx(np.log(2), abs=0.05)
    assert losses['loss_cls'].item() == pytest.approx(np.log(K + 1), abs=0.1)


def test_a_step_lowers_the_loss():
    model = build(small_config())
    model.train()
    batch = batch_of(model, 3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(15):
        torch.manual_seed(0)
        total, _ = model.parse_losses(model(**batch, mode='loss'))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < 0.8 * history[0]


def test_predictions_are_in_original_pixels_and_sorted(mask_rcnn):
    mask_rcnn.eval()
    results = mask_rcnn(**batch_of(mask_rcnn, 0, 0, training=False, scale=0.5), mode='predict')
    for result in results:
        found = result.pred_instances
        height, width = result.ori_shape
        assert 0 < len(found.bboxes) <= 10
        assert found.labels.dtype == torch.int64 and found.masks.dtype == torch.bool
        assert found.masks.shape[1:] == (height, width)
        assert (found.scores.diff() <= 0).all()
        limits = torch.tensor([width, height, width, height])
        assert (found.bboxes >= 0).all() and (found.bboxes <= limits + 1e-3).all()
        outside = torch.ones(height, width, dtype=torch.bool)
        x1, y1, x2, y2 = found.bboxes[0].tolist()
        outside[int(y1) : int(np.ceil(y2)) + 1, int(x1) : int(np.ceil(x2)) + 1] = False
        assert not (found.masks[0] & outside).any()


def test_a_batch_equals_its_images_alone(mask_rcnn):
    """Images of one size, so that alone and together they are padded alike."""
    mask_rcnn.eval()
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 255, (3, 64, 64), generator=generator, dtype=torch.uint8) for _ in range(3)
    ]

    def predict(subset):
        samples = [sample_of(64, 64, 0) for _ in subset]
        data = mask_rcnn.data_preprocessor(dict(inputs=list(subset), data_samples=samples), False)
        return [s.pred_instances for s in mask_rcnn(**data, mode='predict')]

    for together, alone in zip(predict(images), [predict([i])[0] for i in images], strict=True):
        torch.testing.assert_close(together.bboxes, alone.bboxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(together.labels, alone.labels)


def test_no_detection_gives_empty_results_of_the_right_shape():
    config = small_config()
    config['test_cfg']['rcnn']['score_thr'] = 0.999
    model = build(config).eval()
    found = model(**batch_of(model, 0, training=False), mode='predict')[0].pred_instances
    assert found.bboxes.shape == (0, 4) and found.masks.shape == (0, 64, 96)


def test_an_rpn_alone_gives_proposals():
    config = small_config()
    config.update(type='RPN', roi_head=None)
    model = build(config)
    losses = model(**batch_of(model, 2), mode='loss')
    assert set(losses) == {'loss_rpn_cls', 'loss_rpn_bbox'}
    model.eval()
    found = model(**batch_of(model, 0, training=False, scale=2.0), mode='predict')[0]
    boxes = found.pred_instances.bboxes
    assert boxes.shape[1] == 4 and boxes[:, 2].max() <= found.ori_shape[1]


def test_an_rpn_with_classes_tells_objects_from_background_and_says_so(monkeypatch):
    config = small_config()
    config['rpn_head']['num_classes'] = 80
    said = []
    monkeypatch.setattr('mmdet_r2.models.rpn.head.print_log', lambda text, **_: said.append(text))
    model = build(config)
    assert len(said) == 1 and 'rpn_head.num_classes' in said[0] and '80' in said[0]
    assert model.rpn_head.rpn_cls.out_channels == 3  # one per anchor


def test_an_rpn_head_has_the_peers_defaults():
    init_scope()
    head = MODELS.build(dict(type='RPNHead', in_channels=8))
    assert head.rpn_cls.out_channels == 9 and head.anchor_generator.num_levels == 5
    assert head.loss_cls.use_sigmoid and head.loss_bbox.beta == pytest.approx(1 / 9)


def test_an_rpn_without_a_sampler_averages_over_its_positives():
    losses = {}
    for sampler in (dict(type='PseudoSampler'), dict(type='RandomSampler', num=10**6)):
        config = small_config(mask=False)
        config.update(type='RPN', roi_head=None)
        config['train_cfg']['rpn']['sampler'] = {**sampler, 'pos_fraction': 1.0}
        model = build(config)
        torch.manual_seed(0)
        losses[sampler['type']] = model(**batch_of(model, 3, 2), mode='loss')['loss_rpn_cls']
    # far more anchors are background than not
    assert losses['PseudoSampler'] > 5 * losses['RandomSampler']


@pytest.mark.parametrize('weight', [-1, 0, 3])
def test_positives_weigh_as_train_cfg_says(weight):
    def losses(**given):
        config = small_config(mask=False)
        for part in ('rpn', 'rcnn'):
            config['train_cfg'][part].update(given, debug=True)
        model = build(config)
        torch.manual_seed(0)
        return model(**batch_of(model, 3, 2), mode='loss')

    usual, found = losses(), losses(pos_weight=weight)
    for name in ('loss_rpn_cls', 'loss_cls'):
        assert (found[name] > usual[name]) if weight == 3 else (found[name] == usual[name])
    assert found['loss_bbox'] == usual['loss_bbox']


def test_a_weight_of_positives_that_is_no_number_is_refused():
    config = small_config()
    config['train_cfg']['rcnn']['pos_weight'] = 'two'
    with pytest.raises(ConfigError, match=r"train_cfg\.rcnn\.pos_weight='two'"):
        build(config)


def rpn_alone():
    config = small_config(mask=False)
    config.update(type='RPN', roi_head=None)
    return build(config)


def test_an_rpn_saves_its_head_as_mmdetection_3_does():
    model = rpn_alone()
    heads = {key.split('.')[0] for key in model.state_dict()} - {'backbone', 'neck'}
    assert heads == {'bbox_head'}
    assert model.rpn_head is model.bbox_head
    assert copy.deepcopy(model).rpn_head is not model.rpn_head


@pytest.mark.parametrize('name', ['rpn_head', 'bbox_head'])
@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('load', ['zoo', 'torch'])
def test_an_rpn_loads_under_both_of_its_names(name, whole, load):
    """2.x and two-stage detectors say rpn_head, an RPN of 3.x bbox_head."""
    source = rpn_alone()
    state = {
        key.replace('bbox_head.', f'{name}.'): torch.randn_like(value)
        if value.is_floating_point()
        else value
        for key, value in source.state_dict().items()
    }
    model = build(small_config()) if whole else rpn_alone()
    if load == 'zoo':
        report = load_checkpoint(model, {'state_dict': dict(state)}, strict=not whole)
        assert not any('rpn' in key for key in (*report.missing, *report.unexpected))
        assert report.found.family == 'rpn'
    else:
        model.load_state_dict(state, strict=not whole)
    for part in ('rpn_conv', 'rpn_cls', 'rpn_reg'):
        found = getattr(model.rpn_head, part).weight
        assert torch.equal(found, state[f'{name}.{part}.weight'])


def test_a_running_average_of_an_rpn_loads_under_the_older_name_too():
    model = AveragedModel(rpn_alone())
    state = {
        key.replace('bbox_head.', 'rpn_head.'): torch.ones_like(value)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    assert model.module.rpn_head.rpn_conv.weight.eq(1).all()


@pytest.mark.parametrize('change', [dict(rpn_head=None), dict(roi_head='kept')])
def test_an_rpn_has_an_rpn_head_and_no_other(change):
    config = small_config(mask=False)
    config.update(type='RPN', **{'roi_head': None, **change})
    if config['roi_head'] == 'kept':
        config['roi_head'] = small_config(mask=False)['roi_head']
    with pytest.raises(ConfigError, match='RPN'):
        build(config)


def test_fast_rcnn_reads_its_proposals_from_the_data():
    config = small_config(mask=False)
    config.update(type='FastRCNN', rpn_head=None)
    model = build(config)
    batch = batch_of(model, 2)
    with pytest.raises(ValueError, match=r'0\.jpg has no proposals'):
        model(**batch, mode='loss')
    for sample in batch['data_samples']:
        sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes + 2)
    losses = model(**batch, mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    'roi',
    [
        dict(reg_class_agnostic=True),
        dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=10.0)),
        dict(norm_cfg=dict(type='GN', num_groups=4), num_shared_convs=2, conv_out_channels=16),
        dict(
            num_shared_fcs=0,
            num_cls_fcs=1,
            num_reg_convs=1,
            conv_out_channels=16,
            with_avg_pool=True,
        ),
    ],
    ids=['class agnostic', 'decoded GIoU', 'conv and norm', 'separate branches'],
)
def test_box_head_variants_train_and_predict(roi):
    model = build(small_config(mask=False, **roi))
    model.parse_losses(model(**batch_of(model, 2, 0), mode='loss'))[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    assert len(model(**batch_of(model, 0, training=False), mode='predict')) == 1


def test_hard_example_mining_trains():
    config = small_config(mask=False)
    config['train_cfg']['rcnn']['sampler']['type'] = 'OHEMSampler'
    model = build(config)
    losses = model(**batch_of(model, 2, 0), mode='loss')
    assert torch.isfinite(losses['loss_cls'])


# --- selection -----------------------------------------------------------------------------------


def test_proposals_equal_a_direct_selection():
    """Top-k per level, decode, clip, suppress per level, best over levels, image by image."""
    generator = torch.Generator().manual_seed(0)
    sizes, shapes = [40, 12], [(50, 60), (60, 40)]
    logits = [torch.randn(2, n, generator=generator) for n in sizes]
    deltas = [torch.randn(2, n, 4, generator=generator) * 0.3 for n in sizes]
    anchors = []
    for n in sizes:
        corner = torch.rand(n, 2, generator=generator) * 50
        anchors.append(
            torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 20], 1)
        )
    from mmdet_r2.models.matching import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder()
    selector = ProposalSelector(nms_pre=20, max_per_img=15, nms=dict(type='nms', iou_threshold=0.5))
    ours = selector.select(logits, deltas, anchors, coder, shapes)
    assert isinstance(ours, Proposals)
    for i, (height, width) in enumerate(shapes):
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        kept = []
        for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
            top = logit[i].argsort(descending=True)[:20]
            boxes = coder.decode(anchor[top], delta[i, top], limits)
            chosen = []
            for j in range(len(top)):
                if (boxes[j, 2:] <= boxes[j, :2]).any():
                    continue
                if all(box_iou(boxes[j : j + 1], boxes[c : c + 1]) <= 0.5 for c in chosen):
                    chosen.append(j)
            kept += [(logit[i, top[j]].sigmoid().item(), boxes[j]) for j in chosen]
        kept = sorted(kept, key=lambda pair: -pair[0])[:15]
        torch.testing.assert_close(ours.scores[i], torch.tensor([s for s, _ in kept]))
        torch.testing.assert_close(ours.boxes[i], torch.stack([b for _, b in kept]))


@pytest.mark.parametrize('agnostic', [False, True])
def test_detections_equal_a_direct_selection(agnostic):
    generator = torch.Generator().manual_seed(2)
    init_scope()
    head = Shared2FCBBoxHead(in_channels=4, fc_out_channels=8, num_classes=K)
    corner = torch.rand(30, 2, generator=generator) * 40
    rois = torch.cat(
        [
            torch.arange(30)[:, None] // 20 * 1.0,
            corner,
            corner + 10 + torch.rand(30, 2, generator=generator) * 20,
        ],
        1,
    )
    logits = torch.randn(30, K + 1, generator=generator) * 2
    deltas = torch.randn(30, 4 * K, generator=generator)
    samples = [sample_of(64, 64, 0, scale=0.5), sample_of(64, 48, 0, scale=2.0)]
    selector = DetectionSelector(
        score_thr=0.1,
        nms=dict(type='nms', iou_threshold=0.3, class_agnostic=agnostic),
        max_per_img=6,
    )
    ours = selector.select(BoxOutput(logits, deltas), rois, head, samples, rescale=True)
    probs = logits.softmax(-1)
    for i, sample in enumerate(samples):
        height, width = sample.img_shape
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        pairs = []
        for r in (rois[:, 0] == i).nonzero()[:, 0].tolist():
            for k in range(K):
                if probs[r, k] > 0.1:
                    box = head.bbox_coder.decode(
                        rois[r : r + 1, 1:], deltas[r : r + 1].view(K, 4)[k], limits
                    )
                    pairs.append((probs[r, k].item(), k, box[0] / sample.scale_factor[0]))
        pairs.sort(key=lambda p: -p[0])
        kept = []
        for score, k, box in pairs:
            rivals = [b for _, c, b in kept if agnostic or c == k]
            if all(box_iou(box[None], b[None]) <= 0.3 for b in rivals):
                kept.append((score, k, box))
        kept = kept[:6]
        assert ours[i].labels.tolist() == [k for _, k, _ in kept]
        torch.testing.assert_close(ours[i].scores, torch.tensor([s for s, _, _ in kept]))
        torch.testing.assert_close(ours[i].boxes, torch.stack([b for _, _, b in kept]))


def test_soft_nms_lowers_overlapping_scores_and_keeps_the_boxes():
    init_scope()
    head = Shared2FCBBoxHead(in_channels=4, fc_out_channels=8, num_classes=1)
    rois = torch.tensor([[0, 10.0, 10, 30, 30], [0, 11.0, 11, 31, 31], [0, 40.0, 40, 60, 60]])
    logits = torch.tensor([[4.0, 0], [3.0, 0], [2.0, 0]])
    selector = DetectionSelector(nms=dict(type='soft_nms', iou_threshold=0.5, min_score=0.05))
    found = selector.select(
        BoxOutput(logits, None), rois, head, [sample_of(64, 64, 0)], rescale=False
    )[0]
    assert len(found.boxes) == 3
    before = logits.softmax(-1)[:, 0]
    assert found.scores.sort().values[0] < before[1] and found.scores.max() == before[0]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(nms=dict(type='fast')), 'expected type nms or soft_nms'),
        (dict(nms=dict(type='nms', threshold=0.5)), 'threshold'),
    ],
)
def test_selection_options_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        DetectionSelector(**change)


def test_the_losses_of_the_rpn_can_be_divided_by_a_fixed_number():
    """detectron2 divides by 256 per image however few anchors were sampled."""
    losses = []
    for samples in (None, 256):
        config = small_config(mask=False)
        config.update(type='RPN', roi_head=None)
        config['train_cfg']['rpn'].update(samples_per_img=samples)
        model = build(config)
        torch.manual_seed(0)
        losses.append(model(**batch_of(model, 3, 2), mode='loss'))
    for name, value in losses[0].items():  # 64 anchors were sampled in each of two images
        assert losses[1][name].item() == pytest.approx(value.item() * 128 / 512, rel=1e-5)


@pytest.mark.parametrize('counts', [(2, 0), (0, 0)], ids=['objects', 'no objects'])
@pytest.mark.parametrize('kind', ['mask', 'htc'])
def test_levels_without_rois_start_no_kernel(kind, counts, monkeypatch):
    """RoIAlign without RoIs is refused as CUDA does: it happens on every level that no proposal, or
    no object, belongs to. Every parameter gets a gradient all the same."""
    real, seen = ops.roi_align_cpu, []

    def strict(feature, rois, *args):
        assert len(rois), 'invalid configuration argument'
        seen.append(len(rois))
        return real(feature, rois, *args)

    monkeypatch.setattr(ops, 'roi_align_cpu', strict)
    config = small_config() if kind == 'mask' else cascade_config(htc=True, semantic=True)
    model = build(config)
    model.train()
    total, _ = model.parse_losses(model(**batch_of(model, *counts), mode='loss'))
    total.backward()
    assert all(p.grad is not None for p in model.parameters()) and seen
    model.eval()
    model(**batch_of(model, *counts, training=False), mode='predict')
