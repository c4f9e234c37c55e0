"""Cascade R-CNN and HTC at small size: what each stage sees, is trained on, and hands on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_detector import STUFF, K, batch_of, build, cascade_config, small_config

from mmdet_r2.errors import DataError
from mmdet_r2.models.postprocess import Detections, to_original
from mmdet_r2.models.roi import Picked
from mmdet_r2.models.roi.box_head import BoxOutput
from mmdet_r2.models.targets import Targets
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import box_iou, boxes_to_rois

SYSTEMS = {
    'cascade rcnn': dict(mask=False),
    'cascade mask rcnn': dict(),
    'htc without semantics': dict(htc=True),
    'htc': dict(htc=True, semantic=True),
    'htc without masks': dict(mask=False, htc=True, semantic=True),
}


@pytest.fixture(scope='module')
def htc():
    return build(cascade_config(htc=True, semantic=True))


# --- the whole detector --------------------------------------------------------------------------


@pytest.mark.parametrize('counts', [(3, 2), (0, 2), (0, 0)], ids=['objects', 'one empty', 'empty'])
@pytest.mark.parametrize('system', SYSTEMS)
def test_every_parameter_gets_a_finite_gradient(system, counts):
    options = SYSTEMS[system]
    model = build(cascade_config(**options))
    losses = model(**batch_of(model, *counts), mode='loss')
    names = {'loss_cls', 'acc', 'loss_bbox'} | (
        {'loss_mask'} if options.get('mask', True) else set()
    )
    expected = {'loss_rpn_cls', 'loss_rpn_bbox'} | {f's{i}.{n}' for i in range(3) for n in names}
    assert set(losses) == expected | ({'loss_semantic_seg'} if options.get('semantic') else set())
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('system', SYSTEMS)
def test_predictions_have_the_right_shapes(system):
    options = SYSTEMS[system]
    model = build(cascade_config(**options)).eval()
    results = model(**batch_of(model, 0, 0, training=False, scale=0.5), mode='predict')
    for result in results:
        found, (height, width) = result.pred_instances, result.ori_shape
        assert 0 < len(found.bboxes) <= 10
        limits = torch.tensor([width, height, width, height])
        assert (found.bboxes >= 0).all() and (found.bboxes <= limits + 1e-3).all()
        assert ('masks' in found) == options.get('mask', True)
        if 'masks' in found:
            assert found.masks.shape == (len(found.bboxes), height, width)


@pytest.mark.parametrize('system', SYSTEMS)
def test_nothing_found_gives_empty_results(system):
    config = cascade_config(**SYSTEMS[system])
    config['test_cfg']['rcnn']['score_thr'] = 0.999
    model = build(config).eval()
    found = model(**batch_of(model, 0, training=False), mode='predict')[0].pred_instances
    assert found.bboxes.shape == (0, 4)
    assert 'masks' not in found or found.masks.shape == (0, 64, 96)


def test_every_head_is_initialised():
    """Also those in lists, which torch's ModuleList hides from ``init_weights``."""
    model = build(cascade_config(htc=True, semantic=True))
    for head in model.roi_head.bbox_head:
        assert head.fc_reg.weight.std() < 0.0012 and (head.fc_reg.bias == 0).all()
    for head in model.roi_head.mask_head:
        assert (head.conv_logits.bias == 0).all() and (head.upsample.bias == 0).all()


def test_a_step_lowers_every_loss(htc):
    model = copy.deepcopy(htc)
    batch = batch_of(model, 3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(15):
        torch.manual_seed(0)
        losses = model(**batch, mode='loss')
        total, _ = model.parse_losses(losses)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append({name: value.sum().item() for name, value in losses.items()})
    for name in ('loss_semantic_seg', 's0.loss_cls', 's1.loss_cls', 's2.loss_cls', 's0.loss_mask'):
        assert history[-1][name] < 0.9 * history[0][name], name


def test_detect_and_segment_are_the_halves_of_predict(htc):
    model = htc.eval()
    data = batch_of(model, 0, 0, training=False, scale=0.5)
    whole = model.predict(data['inputs'], copy.deepcopy(data['data_samples']), rescale=False)
    halves = model.detect(data['inputs'], data['data_samples'], rescale=False)
    probs = model.segment(data['inputs'], [d.boxes for d in halves], [d.labels for d in halves])
    rescaled = model.detect(data['inputs'], data['data_samples'])
    original = model.predict(data['inputs'], copy.deepcopy(data['data_samples']))
    for full, half, prob, big, big_full in zip(
        whole, halves, probs, rescaled, original, strict=True
    ):
        assert torch.equal(full.pred_instances.bboxes, half.boxes)
        assert torch.equal(big_full.pred_instances.bboxes, big.boxes)
        assert prob.shape == (len(half.boxes), 28, 28) and 0 <= prob.min() <= prob.max() <= 1


# --- stages --------------------------------------------------------------------------------------


def _targets(model, *counts):
    data = batch_of(model, *counts)
    return data, Targets.from_samples(data['data_samples'])


def _random_proposals(targets, per_image=12, seed=3):
    """Jittered objects: some of every IoU."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for boxes in targets.boxes:
        rows = boxes[torch.randint(0, len(boxes), (per_image,), generator=generator)]
        size = (rows[:, 2:] - rows[:, :2]).repeat(1, 2)
        rows = (rows + size * 0.4 * torch.randn(rows.shape, generator=generator)).clamp(0, 60)
        low, high = torch.minimum(rows[:, :2], rows[:, 2:]), torch.maximum(rows[:, :2], rows[:, 2:])
        result.append(torch.cat([low, high + 1], 1))
    return result


def test_refined_boxes_are_decoded_clipped_and_without_the_objects_themselves():
    model = build(cascade_config())
    _, targets = _targets(model, 3, 2)
    stage = model.roi_head.stages[0]
    feats = tuple(torch.randn(2, 16, 96 // s, 96 // s) for s in (4, 8, 16, 32, 64))
    forward = lambda rois: model.roi_head.box_forward(stage, feats, None, rois)  # noqa: E731
    picked = stage.sample(_random_proposals(targets), targets, forward)
    assert picked.is_gt.any() and not picked.is_gt.all()
    output = forward(picked.rois)
    output.deltas = output.deltas.detach() + torch.randn(output.deltas.shape)
    refined = stage.refine_picked(output, picked, targets.img_shapes, resampled=True)
    for i, boxes in enumerate(refined):
        own = (picked.rois[:, 0] == i) & ~picked.is_gt
        height, width = targets.img_shapes[i]
        x1, y1, x2, y2 = picked.rois[own, 1:].unbind(1)
        dx, dy, dw, dh = (output.deltas[own] * torch.tensor([0.1, 0.1, 0.2, 0.2])).unbind(1)
        cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        w, h = (x2 - x1) * dw.exp(), (y2 - y1) * dh.exp()
        expected = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1).clamp(min=0)
        expected = torch.minimum(expected, torch.tensor([width, height] * 2))
        torch.testing.assert_close(boxes, expected, atol=1e-3, rtol=1e-4)


def test_a_class_specific_stage_moves_background_to_its_likeliest_class():
    config = cascade_config(mask=False)
    for head in config['roi_head']['bbox_head']:
        head['reg_class_agnostic'] = False
    model = build(config)
    stage = model.roi_head.stages[0]
    rois = torch.tensor([[0, 10.0, 10, 30, 30], [0, 10, 10, 30, 30]])
    output = stage.box_head(torch.randn(2, 16, 7, 7))
    output.logits = torch.tensor([[0.0, 3, 1, 9], [5, 3, 1, 9]])
    output.deltas = torch.arange(12.0).div(4).floor().repeat(2, 1)  # class k moves by k
    labels = torch.tensor([K, 2])
    moved = stage.refine(output, rois, [(200, 200)], labels)
    deltas = torch.arange(3.0)[:, None].expand(3, 4)
    by_class = stage.box_head.bbox_coder.decode(rois[:1, 1:], deltas, torch.tensor([200.0] * 4))
    by_class = by_class[:, 0].tolist()
    assert moved[:, 1].tolist() == pytest.approx([by_class[1], by_class[2]])
    tested = stage.refine(output, rois, [(200, 200)])
    assert tested[:, 1].tolist() == pytest.approx([by_class[1], by_class[0]])


@pytest.mark.parametrize('interleaved', [True, False])
def test_htc_trains_masks_on_rois_sampled_from_refined_boxes(interleaved, monkeypatch):
    """Section 3.2 of the paper; cascades without interleaving train both branches on one sample."""
    config = cascade_config(htc=True)
    config['roi_head']['interleaved'] = interleaved
    model = build(config)
    head, calls = model.roi_head, []
    for i, stage in enumerate(head.stages):
        sample = stage.sample

        def record(boxes, targets, forward, i=i, sample=sample):
            calls.append((i, [b.clone() for b in boxes]))
            return sample(boxes, targets, forward)

        monkeypatch.setattr(stage, 'sample', record)
    data, targets = _targets(model, 3, 2)
    head.loss(model.extract_feat(data['inputs']), _random_proposals(targets), targets)
    order = [i for i, _ in calls]
    assert order == ([0, 0, 1, 1, 2, 2] if interleaved else [0, 1, 2])
    if interleaved:  # the mask branch's list, not its sample, is what the next stage samples from
        for k in (1, 3):
            assert all(map(torch.equal, calls[k][1], calls[k + 1][1]))


def test_stage_weights_and_prefixes_scale_the_losses():
    config = cascade_config()
    plain = copy.deepcopy(config)
    plain['roi_head']['stage_loss_weights'] = [1, 1, 1]
    results = []
    for each in (config, plain):
        model = build(each)
        torch.manual_seed(0)
        results.append(model(**batch_of(model, 3, 2), mode='loss'))
    weighted, unit = results
    for i in range(3):
        for name in ('loss_cls', 'loss_bbox', 'loss_mask'):
            key = f's{i}.{name}'
            assert weighted[key].item() == pytest.approx(unit[key].item() * 0.5**i, rel=1e-5)
        assert weighted[f's{i}.acc'].item() == unit[f's{i}.acc'].item()


# --- inference -----------------------------------------------------------------------------------


def test_scores_are_the_softmax_of_the_stages_mean_logits_on_refined_rois():
    model = build(cascade_config(mask=False)).eval()
    head = model.roi_head
    for stage in head.stages:
        torch.nn.init.normal_(stage.box_head.fc_reg.weight, std=0.3)
    feats = tuple(torch.randn(1, 16, 96 // s, 96 // s) for s in (4, 8, 16, 32, 64))
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 80, 60]])
    with torch.no_grad():
        rois, output = head._classify(feats, None, [boxes], [(96, 96)])
        logits, current = [], boxes_to_rois([boxes])
        for i, stage in enumerate(head.stages):
            out = stage.box_head(stage.box_extractor(feats, current))
            logits.append(out.logits)
            if i < 2:
                moved = stage.box_head.bbox_coder.decode(
                    current[:, 1:], out.deltas, torch.tensor([96.0] * 4)
                )
                current = torch.cat([current[:, :1], moved], 1)
    torch.testing.assert_close(rois, current)
    assert (rois[:, 1:] - boxes).abs().max() > 1
    torch.testing.assert_close(output.logits, torch.stack(logits).mean(0))
    torch.testing.assert_close(output.deltas, out.deltas)


@pytest.mark.parametrize('average', ['all', 'last'])
def test_htc_masks_flow_through_all_heads_and_are_averaged(htc, average):
    config = cascade_config(htc=True, semantic=True)
    config['roi_head']['mask_average'] = average
    model = build(config).eval()
    head = model.roi_head
    feats = tuple(torch.randn(1, 16, 96 // s, 96 // s) for s in (4, 8, 16, 32, 64))
    boxes, labels = torch.tensor([[4.0, 4, 40, 40], [20, 10, 80, 60]]), torch.tensor([0, 2])
    with torch.no_grad():
        (probs,) = head.segment(feats, [boxes], [labels])
        rois = boxes_to_rois([boxes])
        _, embedding = head.semantic_head(feats)
        x = head.mask_roi_extractor[0](feats, rois)
        x = x + head.semantic_roi_extractor((embedding,), rois)
        before, each = None, []
        for m in head.mask_head:
            y = x if before is None else x + m.conv_res(before)
            for conv in m.convs:
                y = conv(y)
            before = y
            logits = m.conv_logits(F.relu(m.upsample(y)))
            each.append(logits[torch.arange(2), labels].sigmoid())
    expected = torch.stack(each).mean(0) if average == 'all' else each[-1]
    torch.testing.assert_close(probs, expected, atol=1e-5, rtol=1e-4)


def test_cascade_masks_of_unlike_extractors_are_pooled_each_their_way():
    config = cascade_config()
    extractor = config['roi_head']['mask_roi_extractor']
    other = copy.deepcopy(extractor)
    other['finest_scale'] = 10
    config['roi_head']['mask_roi_extractor'] = [extractor, other, extractor]
    model = build(config).eval()
    head = model.roi_head
    assert head.mask_roi_extractor[0] is head.mask_roi_extractor[2]
    feats = tuple(torch.randn(1, 16, 96 // s, 96 // s) for s in (4, 8, 16, 32, 64))
    boxes, labels = torch.tensor([[4.0, 4, 40, 40]]), torch.tensor([1])
    with torch.no_grad():
        (probs,) = head.segment(feats, [boxes], [labels])
        expected = [
            m(e(feats, boxes_to_rois([boxes])))[:, 1].sigmoid()
            for m, e in zip(head.mask_head, head.mask_roi_extractor, strict=True)
        ]
    torch.testing.assert_close(probs, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('agnostic', [False, True])
def test_the_mask_of_a_label_is_that_channel_of_all_masks(agnostic):
    config = small_config()
    config['roi_head']['mask_head']['class_agnostic'] = agnostic
    head = build(config).roi_head.mask_head
    x, labels = torch.randn(5, 16, 14, 14), torch.tensor([0, 2, 1, 1, 0])
    every = head(x)
    assert every.shape == (5, 1 if agnostic else K, 28, 28)
    own = every[:, 0] if agnostic else every[torch.arange(5), labels]
    torch.testing.assert_close(head(x, labels), own, atol=1e-5, rtol=1e-4)


# --- semantic branch -----------------------------------------------------------------------------


def test_semantic_loss_is_cross_entropy_at_an_eighth(htc):
    _, targets = _targets(htc, 1, 1)
    logits = torch.randn(2, STUFF, 12, 12)
    loss = htc.roi_head.semantic_head.loss(logits, targets)['loss_semantic_seg']
    labels = torch.stack(targets.semantic)[:, ::8, ::8]
    assert labels.shape == (2, 12, 12) and (labels == 255).any()  # padding
    valid = labels != 255
    nll = -logits.log_softmax(1).permute(0, 2, 3, 1)[valid].gather(1, labels[valid][:, None])
    # mmdetection 3.x divides by all pixels, ignored ones included
    assert loss.item() == pytest.approx(0.2 * nll.sum().item() / labels.numel(), rel=1e-5)


def test_data_without_stuff_maps_is_an_error_that_says_so(htc):
    data = batch_of(htc, 2, 1)
    del data['data_samples'][1].gt_sem_seg
    with pytest.raises(DataError, match=r'needs stuff maps.*with_seg=True'):
        htc(**data, mode='loss')


def test_a_label_out_of_range_names_image_and_label(htc):
    data = batch_of(htc, 2, 1)
    data['data_samples'][1].gt_sem_seg.sem_seg[0, 8, 16] = STUFF
    with pytest.raises(DataError, match=rf'1\.jpg has the label {STUFF}: .*0 to {STUFF - 1}'):
        htc(**data, mode='loss')


def test_maps_of_another_size_are_an_error(htc):
    data = batch_of(htc, 2)
    targets = Targets.from_samples(data['data_samples'])
    targets.semantic = [s.repeat(2, 2) for s in targets.semantic]
    with pytest.raises(DataError, match='size of its image'):
        htc.roi_head.semantic_head.loss(torch.zeros(1, STUFF, 8, 12), targets)
    targets.semantic = [torch.zeros(8, 8), torch.zeros(8, 16)]
    with pytest.raises(DataError, match='pad_seg=True'):
        htc.roi_head.semantic_head.loss(torch.zeros(2, STUFF, 1, 1), targets)


# --- configs that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        ('roi_head.num_stages', 2, r'roi_head\.stage_loss_weights has 3 entries for .*=2'),
        ('roi_head.stage_loss_weights', [1, 0.5], r'stage_loss_weights has 2 entries for .*=3'),
        ('roi_head.bbox_head', [dict()], r'roi_head\.bbox_head has 1 entries'),
        ('roi_head.mask_head', [dict()] * 4, r'roi_head\.mask_head has 4 entries'),
        ('roi_head.bbox_roi_extractor', [dict()] * 2, r'roi_head\.bbox_roi_extractor has 2'),
        ('train_cfg.rcnn', [dict()] * 2, r'train_cfg\.rcnn has 2 assigners and samplers'),
        ('train_cfg.rcnn', dict(), r'train_cfg\.rcnn is one dict: expected a list of 3'),
        ('roi_head.mask_average', 'mean', r"mask_average='mean': expected one of all, last"),
        ('roi_head.semantic_fusion', ('box',), r'semantic_fusion=.*bbox, mask'),
        ('roi_head.semantic_roi_extractor', None, r'needs a semantic_roi_extractor'),
        ('roi_head.semantic_head', None, r'no use without a semantic_head'),
        ('roi_head.mask_info_flow', False, r'mask_head\[1\]: expected with_conv_res=False'),
        ('roi_head.shared_head', dict(), r'shared_head'),
    ],
)
def test_parts_that_disagree_are_refused(path, value, message):
    config = cascade_config(htc=True, semantic=True)
    section, key = path.split('.')
    config[section][key] = value
    with pytest.raises(ValueError, match=message):
        build(config)


def test_a_head_without_the_residual_convolution_cannot_take_the_flow():
    config = cascade_config(htc=True)
    config['roi_head']['mask_head'][2]['with_conv_res'] = False
    with pytest.raises(ValueError, match=r'mask_head\[2\]: expected with_conv_res=True'):
        build(config)


def test_a_list_for_a_head_of_one_stage_is_refused():
    config = small_config()
    config['train_cfg']['rcnn'] = [config['train_cfg']['rcnn']] * 3
    with pytest.raises(ValueError, match='list of 3: StandardRoIHead has one stage'):
        build(config)


# --- detectron2's cascade -------------------------------------------------------------------------

DETECTRON2 = dict(
    resample=False,
    score_average='probs',
    feature_grad_scale=1 / 3,
    mask_stages='first',
    stage_loss_weights=[1, 1, 1],
)


def _detectron2_config():
    config = cascade_config()
    config['roi_head'].update(DETECTRON2)
    config['test_cfg']['rcnn'].update(nms_after_rescale=False, drop_empty=True)
    return config


def test_later_stages_train_on_all_refined_boxes(monkeypatch):
    model = build(_detectron2_config())
    head, seen = model.roi_head, []
    for stage in head.stages:
        sample = stage.sample

        def record(boxes, targets, forward, sample=sample):
            picked = sample(boxes, targets, forward)
            seen.append((boxes, picked))
            return picked

        monkeypatch.setattr(stage, 'sample', record)
    data, targets = _targets(model, 3, 2)
    losses = head.loss(model.extract_feat(data['inputs']), _random_proposals(targets), targets)
    (_, first), (second_boxes, second), (third_boxes, third) = seen
    assert first.is_gt.any() and not second.is_gt.any()
    assert [len(b) for b in second_boxes] == first.counts == second.counts == third.counts
    assert [len(b) for b in third_boxes] == second.counts
    for boxes, picked, thr in ((second_boxes, second, 0.6), (third_boxes, third, 0.7)):
        iou = [box_iou(b, t).amax(1) for b, t in zip(boxes, targets.boxes, strict=True)]
        assert len(picked.pos) == sum(int((i >= thr).sum()) for i in iou)
    assert {name for name in losses if 'mask' in name} == {'s0.loss_mask'}


def test_refined_boxes_without_area_are_dropped():
    model = build(_detectron2_config())
    stage = model.roi_head.stages[0]
    boxes = torch.tensor([[1.0, 1, 9, 9], [30, 2, 40, 9]])  # the second lies right of the image
    picked = Picked(
        boxes_to_rois([boxes]), torch.tensor([0, K]), torch.tensor([True, False]),
        torch.tensor([0]), boxes[:1], [torch.tensor([0])], [2],
    )  # fmt: skip
    output = BoxOutput(torch.zeros(2, K + 1), torch.zeros(2, 4))
    (kept,) = stage.refine_picked(output, picked, [(20, 25)], resampled=False)
    assert kept.tolist() == [[1, 1, 9, 9]]
    (kept,) = stage.refine_picked(output, picked, [(20, 25)], resampled=True)
    assert kept.tolist() == [[25, 2, 25, 9]]


def test_probabilities_instead_of_logits_are_averaged():
    model = build(_detectron2_config()).eval()
    head = model.roi_head
    for stage in head.stages:
        torch.nn.init.normal_(stage.box_head.fc_cls.weight, std=0.5)
    feats = tuple(torch.randn(1, 16, 96 // s, 96 // s) for s in (4, 8, 16, 32, 64))
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 80, 60]])
    with torch.no_grad():
        _, output = head._classify(feats, None, [boxes], [(96, 96)])
        rois, probs, before = boxes_to_rois([boxes]), [], None
        for stage in head.stages:
            rois = rois if before is None else before.refine(out, rois, [(96, 96)])  # noqa: F821
            out, before = head.box_forward(stage, feats, None, rois), stage
            probs.append(out.logits.softmax(1))
    torch.testing.assert_close(output.logits.softmax(1), torch.stack(probs).mean(0))


def test_the_gradient_of_box_features_is_scaled():
    gradients = []
    for scale in (1.0, 1 / 3):
        config = _detectron2_config()
        config['roi_head']['feature_grad_scale'] = scale
        head = build(config).roi_head
        feats = tuple(torch.ones(1, 16, 96 // s, 96 // s).requires_grad_() for s in (4, 8, 16, 32))
        rois = torch.tensor([[0, 4.0, 4, 40, 40]])
        output = head.box_forward(head.stages[1], feats, None, rois)
        output.logits.pow(2).sum().backward()
        gradients.append((feats[0].grad, head.bbox_head[1].fc_cls.weight.grad))
    torch.testing.assert_close(gradients[1][0], gradients[0][0] / 3)
    assert torch.equal(gradients[1][1], gradients[0][1])


def test_one_mask_head_serves_the_final_boxes():
    model = build(_detectron2_config())
    names = [name for name in model.state_dict() if 'mask_head' in name]
    assert 'roi_head.mask_head.conv_logits.weight' in names
    assert not any('mask_head.0' in name for name in names)
    losses = model(**batch_of(model, 3, 0), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    found = model.eval()(**batch_of(model, 0, training=False, scale=0.5), mode='predict')[0]
    instances = found.pred_instances
    assert instances.masks.shape == (len(instances), *found.ori_shape) and len(instances)


def test_boxes_without_area_are_dropped_after_rescaling():
    found = Detections(
        torch.tensor([[0.0, 0, 8, 8], [20, 0, 24, 8]]), torch.ones(2), torch.tensor([0, 1]),
        torch.rand(2, 4, 4),
    )  # fmt: skip
    sample = DetDataSample(metainfo=dict(ori_shape=(10, 10), scale_factor=(2.0, 1.0)))
    (kept,) = to_original([found], [sample], drop_empty=True)
    assert kept.boxes.tolist() == [[0, 0, 4, 8]] and kept.labels.tolist() == [0]
    assert len(kept.masks) == 1
    assert len(to_original([found], [sample], drop_empty=False)[0].boxes) == 2
