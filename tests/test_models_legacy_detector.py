"""Whole detectors that count pixels inside, and give ordinary boxes."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData
from small_detector import batch_of, build, small_config

from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.postprocess import DetectionSelector
from mmdet_r2.models.tta import DetTTAModel
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures.boxes import move_ends
from mmdet_r2.structures.pixel_masks import paste_pixel_masks

BASES = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 'models'
PIXEL_MODELS = {  # and their losses
    'mask_rcnn_r50_fpn_maskrcnnbench': 5,
    'mask_rcnn_r50_fpn_v1': 5,
    'cascade_mask_rcnn_r50_fpn_v1': 2 + 3 * 3,
    'htc_r50_fpn_v1': 2 + 3 * 3 + 1,
}


def pixel_config(**rcnn):
    """A small Mask R-CNN that counts pixels, as maskrcnn-benchmark does."""
    config = small_config()
    rpn, roi = config['rpn_head'], config['roi_head']
    rpn['anchor_generator'].update(
        type='LegacyAnchorGenerator', center_offset=0.5, rounding='sides'
    )
    rpn['bbox_coder']['offset'] = 1
    roi['bbox_head']['bbox_coder'] = dict(
        type='DeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2), offset=1
    )
    for name, size in (('bbox', 7), ('mask', 14)):
        layer = dict(type='RoIAlign', output_size=size, sampling_ratio=2, aligned=False)
        roi[f'{name}_roi_extractor'] = dict(roi[f'{name}_roi_extractor'], roi_layer=layer, offset=1)
    for part in (config['train_cfg'], config['test_cfg']):
        for options in part.values():
            options.get('assigner', options)['offset'] = 1
    config['test_cfg']['rcnn'].update(
        dict(score_thr=0.2, nms_after_rescale=False, mask_paste='padded', offset=1) | rcnn
    )
    return config


def detector_of(config):
    """It finds boxes of all sizes: weights of the box branch are larger than at the start."""
    model = build(config).eval()
    with torch.no_grad():
        for weight in (model.roi_head.bbox_head.fc_cls.weight, model.rpn_head.rpn_reg.weight):
            weight.mul_(100)
    return model


def test_results_end_one_pixel_later_than_the_models_boxes():
    model = detector_of(pixel_config())
    data = batch_of(model, 1, 1, training=False, scale=2.0)
    samples = data['data_samples']
    with torch.no_grad():
        feats = model.extract_feat(data['inputs'])
        proposals = model.rpn_head.predict(feats, [s.img_shape for s in samples]).boxes
        inside = model.roi_head._detect(feats, None, proposals, samples, rescale=True)
        bare = model.detect(data['inputs'], samples, rescale=True)
        results = model.predict(data['inputs'], samples)
    for own, boxes, sample in zip(inside, bare, results, strict=True):
        found = sample.pred_instances
        expected = own.boxes / 2
        expected[:, 2:] += 1
        assert len(own.boxes) > 3 and torch.allclose(found.bboxes, expected, atol=1e-5)
        assert torch.equal(boxes.boxes, found.bboxes)
        # Masks are pasted into the model's own boxes.
        probs = model.segment(data['inputs'], [d.boxes for d in inside], [d.labels for d in inside])
        index = results.index(sample)
        pasted = paste_pixel_masks(probs[index], own.boxes / 2, sample.ori_shape, 0.5, 1)
        assert torch.equal(found.masks, pasted)
        limits = torch.tensor([*sample.ori_shape[::-1]] * 2) + 0.5  # one pixel of the network's
        assert (found.bboxes <= limits).all() and (found.bboxes[:, 2:] > found.bboxes[:, :2]).all()


def test_one_view_of_test_time_augmentation_is_the_plain_result():
    model = detector_of(pixel_config())
    images = [torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)]
    sample = batch_of(model, 1, training=False, scale=2.0)['data_samples'][0]
    sample.set_metainfo(dict(flip=False, flip_direction=None))
    tta = DetTTAModel(model, dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
    (merged,) = tta.test_step(dict(inputs=[images], data_samples=[[sample]]))
    data = model.data_preprocessor(dict(inputs=images, data_samples=[sample]), False)
    with torch.no_grad():
        (plain,) = model.predict(data['inputs'], data['data_samples'])
    found, plain = merged.pred_instances, plain.pred_instances
    # Between views there is no counting of pixels, so that a pair more or less may be suppressed.
    rows = [int((plain.bboxes - box).abs().sum(1).argmin()) for box in found.bboxes]
    assert len(rows) >= len(plain) - 1 > 2
    assert torch.allclose(found.bboxes, plain.bboxes[rows], atol=1e-4)
    assert (found.masks != plain.masks[rows]).float().mean() < 1e-4


def test_an_rpn_alone_gives_ordinary_boxes():
    config = pixel_config()
    config.pop('roi_head')
    model = build(config).eval()
    data = batch_of(model, 1, training=False)
    with torch.no_grad():
        inside = model.rpn_head.predict(model.extract_feat(data['inputs']), [(64, 96)])
        (sample,) = model.predict(data['inputs'], data['data_samples'])
    assert torch.equal(sample.pred_instances.bboxes, move_ends(inside.boxes[0], 1))


def fast_config():
    """:func:`pixel_config` without an RPN."""
    config = pixel_config()
    config.update(type='FastRCNN', rpn_head=None)
    return config


def give_proposals(samples, proposals, scale):
    """Put an RPN's boxes, which count pixels of the network's input, to the samples as whoever
    resizes its results does: they end one pixel of the original image later."""
    for sample, boxes in zip(samples, proposals, strict=True):
        sample.proposals = InstanceData(bboxes=move_ends(boxes, scale))


def test_given_proposals_are_ordinary_boxes():
    whole = detector_of(pixel_config())
    fast = build(fast_config()).eval()
    fast.load_state_dict(whole.state_dict(), strict=False)
    data = batch_of(whole, 1, 1, training=False, scale=2.0)
    samples = data['data_samples']
    with torch.no_grad():
        feats = whole.extract_feat(data['inputs'])
        proposals = whole.rpn_head.predict(feats, [s.img_shape for s in samples]).boxes
        expected = whole.detect(data['inputs'], samples)
        give_proposals(samples, proposals, 2.0)
        found = fast.detect(data['inputs'], samples)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs.boxes) > 3
        assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-4)
        assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_losses_of_given_proposals_thinner_than_a_pixel_are_finite():
    fast = build(fast_config())
    data = batch_of(fast, 2, 2)
    for sample in data['data_samples']:
        boxes = sample.gt_instances.bboxes.clone()
        boxes[:, 2] = boxes[:, 0] + 0.1
        sample.proposals = InstanceData(bboxes=torch.cat([boxes, sample.gt_instances.bboxes + 1]))
        sample.set_metainfo(dict(scale_factor=(4.0, 4.0)))
    losses = fast.loss(data['inputs'], data['data_samples'])
    assert all(torch.isfinite(value).all() for value in losses.values())
    taken = fast._given_proposals(data['data_samples']).boxes[0]
    assert (taken[:, 2:] >= taken[:, :2]).all()


def test_ties_of_the_last_score():
    boxes = torch.arange(6)[:, None] * 20.0 + torch.tensor([0.0, 0, 9, 9])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.7, 0.7, 0.6])
    for ties, limit, count in (
        (False, 3, 3),
        (True, 3, 5),
        (True, 2, 2),
        (True, 6, 6),
        (True, 0, 0),
    ):
        selector = DetectionSelector(max_per_img=limit, keep_ties=ties)
        assert selector._limit(scores) == count
    zeros = torch.zeros(6, dtype=torch.long)
    keep, kept = DetectionSelector(offset=1).suppress(boxes, scores, zeros, zeros, 1)
    assert keep.tolist() == list(range(6)) and torch.equal(kept, scores)


def test_suppression_in_the_original_image_with_masks_too():
    """1.x' order: a mask model finds the boxes that it would find without its masks."""
    found = {}
    for when, with_mask in (('always', True), (True, False), (True, True)):  # the last: 3.x' order
        model = detector_of(pixel_config(nms_after_rescale=when, mask_paste='truncated'))
        if not with_mask:
            model.roi_head.stages[0].mask_head = None
        data = batch_of(model, 1, training=False, scale=8.0)  # where a pixel more counts
        with torch.no_grad():
            (sample,) = model.predict(data['inputs'], data['data_samples'])
        found[when, with_mask] = sample.pred_instances
    expected = found[True, False].bboxes
    assert len(expected) > 3 and torch.allclose(found['always', True].bboxes, expected)
    masks = found['always', True].masks
    assert masks.shape == (len(expected), 8, 12) and masks.any()
    assert found[True, True].bboxes.tolist() != expected.tolist()
    # The masks are looked for where the boxes lie in the network's input.
    own = move_ends(expected, -1)
    with torch.no_grad():
        (probs,) = model.segment(data['inputs'], [own * 8], [found['always', True].labels])
    assert torch.equal(masks, paste_pixel_masks(probs, own, (8, 12)))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(offset=3), r'test_cfg\.rcnn\.offset=3'),
        (dict(mask_paste='rounded'), 'expected one of aligned, padded, truncated'),
        (dict(nms_after_rescale='never'), "expected True, False or 'always'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(pixel_config(**options))


@pytest.mark.parametrize(
    'path',
    [
        'rpn_head.bbox_coder',
        'roi_head.bbox_head.bbox_coder',
        'roi_head.bbox_roi_extractor',
        'roi_head.mask_roi_extractor',
        'train_cfg.rpn.assigner',
        'train_cfg.rpn_proposal',
        'train_cfg.rcnn.assigner',
        'test_cfg.rpn',
        'test_cfg.rcnn',
    ],
)
def test_a_part_that_counts_otherwise_is_named(path):
    for config, value in ((pixel_config(), 0), (small_config(), 1)):
        part = config
        for key in path.split('.'):
            part = part.setdefault(key, dict(type='DeltaXYWHBBoxCoder'))
        part['offset'] = value
        with pytest.raises(ConfigError, match=f'offset is {value} in {re.escape(path)}, but'):
            build(config)


def test_anchors_that_count_no_pixels_are_refused_where_the_rest_does():
    config = pixel_config()
    config['rpn_head']['anchor_generator'] = small_config()['rpn_head']['anchor_generator']
    with pytest.raises(ConfigError, match='use LegacyAnchorGenerator'):
        build(config)


def test_mmdetection_3s_mixture_is_none_of_pixel_boxes():
    """Its configs for weights of 1.x: pixel boxes in anchors and encoding alone."""
    config = small_config()
    config['rpn_head']['anchor_generator'].update(type='LegacyAnchorGenerator', center_offset=0.5)
    config['rpn_head']['bbox_coder'] = dict(type='LegacyDeltaXYWHBBoxCoder')
    config['roi_head']['bbox_head']['bbox_coder'] = dict(type='LegacyDeltaXYWHBBoxCoder')
    assert build(config).roi_head.offset == 0


@pytest.mark.parametrize(
    'path, value, message',
    [
        ('rpn.samples_per_img', 'all', r"samples_per_img='all': expected a number, 'sampled' or"),
        ('rpn.samples_per_img', 0, r'samples_per_img=0: expected'),
        ('rpn_proposal.max_per_batch', 0, r'max_per_batch=0: expected at least 1'),
        ('rpn_proposal.nms', dict(type='nms', offset=2), r'rpn_proposal\.nms\.offset=2: expected'),
    ],
)
def test_wrong_training_options_are_named(path, value, message):
    config = pixel_config()
    part, key = path.split('.')
    config['train_cfg'][part][key] = value
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_wrong_mask_target_is_named():
    config = pixel_config()
    config['train_cfg']['rcnn']['mask_target'] = 'rounded'
    with pytest.raises(ValueError, match='expected one of aligned, truncated'):
        build(config)


@pytest.mark.parametrize('base, num_losses', PIXEL_MODELS.items())
def test_published_models_learn_and_detect(base, num_losses):
    """One step and one prediction of the whole models, with a small backbone and narrow heads."""
    config = load_config(BASES / f'{base}.py', check=False).model
    config.backbone = dict(type='ResNet', depth=18, norm_cfg=dict(type='BN'))
    config.neck.in_channels = [64, 128, 256, 512]
    heads = config.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 16
    for part in (config.train_cfg.rpn_proposal, config.test_cfg.rpn):
        part.max_per_img = 50
    config.test_cfg.rcnn.max_per_img = 5
    stages = config.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 32
    model = build(config)
    data = batch_of(model, 2, 1)
    losses = model.loss(data['inputs'], data['data_samples'])
    used = [value for name, value in losses.items() if not name.endswith('acc')]
    assert len(used) == num_losses
    sum(used).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(torch.isfinite(value) for value in used) and missing == []
    model.eval().predict(data['inputs'], data['data_samples'])
    assert model.roi_head.offset == 1


def test_offsets_agree_in_the_published_models():
    """Every part that knows one has it: one left out would be a pixel nobody misses."""
    for name in PIXEL_MODELS:
        model = build_empty(BASES / f'{name}.py')
        parts = [model.rpn_head.bbox_coder, model.rpn_head.assigner, model.rpn_head.test_selector]
        parts += [model._train_selector, model.roi_head.selector]
        for stage in model.roi_head.stages:
            parts += [stage.box_head.bbox_coder, stage.assigner, stage.box_extractor]
            parts += [stage.mask_extractor]
        assert [part.offset for part in parts] == [1] * len(parts), name
        assert model.rpn_head.test_selector.nms_offset == model._train_selector.nms_offset == 1
        assert model.roi_head.selector.options['offset'] == 1


SETTINGS = {  # what tells the lineages apart: attribute of the model -> mb, v1
    'backbone.frozen_stages': (1, 1),
    'rpn_head.anchor_generator.round_sides': (True, False),
    'rpn_head.bbox_coder.clamp_below': (False, True),
    'rpn_head.loss_bbox.beta': (1 / 9, 1 / 9),
    'rpn_head.assigner.min_pos_iou': (0.0, 0.3),
    'rpn_head.assigner.claimant_wins': (False, True),
    'rpn_head.allowed_border': (0, 0),
    'rpn_head.match_border': (True, False),
    'rpn_head.samples_per_img': ('sampled', None),
    '_train_selector.nms_pre': (2000, 2000),
    '_train_selector.max_per_img': (2000, 2000),
    '_train_selector.max_per_batch': (2000, None),
    'rpn_head.test_selector.nms_pre': (1000, 1000),
    'rpn_head.test_selector.max_per_img': (1000, 1000),
    'roi_head.bbox_roi_extractor.roi_layers.0.aligned': (False, False),
    'roi_head.bbox_roi_extractor.roi_layers.0.sampling_ratio': (2, 2),
    'roi_head.bbox_roi_extractor.roi_layers.0.end_offset': (0, 1),
    'roi_head.mask_roi_extractor.roi_layers.0.aligned': (False, False),
    'roi_head.mask_roi_extractor.roi_layers.0.sampling_ratio': (2, 2),
    'roi_head.mask_roi_extractor.roi_layers.0.end_offset': (0, 1),
    'roi_head.bbox_head.bbox_coder.clamp_below': (False, True),
    'roi_head.bbox_head.loss_bbox.beta': (1.0, 1.0),
    'stage.assigner.match_low_quality': (False, True),
    'stage.sampler.gt_in_front': (False, True),
    'stage.mask_target': ('aligned', 'truncated'),
    'roi_head.mask_paste': ('padded', 'truncated'),
    'roi_head.selector.nms_after_rescale': (False, 'always'),
    'roi_head.selector.keep_ties': (True, False),
}


@pytest.mark.parametrize('column, name', enumerate(list(PIXEL_MODELS)[:2]), ids=['mb', 'v1'])
def test_settings_of_either_lineage(column, name):
    model = build_empty(BASES / f'{name}.py')
    found = {}
    for path in SETTINGS:
        value = model
        for part in path.split('.'):
            value = value.roi_head.stages[0] if part == 'stage' else getattr(value, part)
        found[path] = value
    assert found == {path: values[column] for path, values in SETTINGS.items()}
    norm = model.backbone.bn1
    assert (type(norm).__name__, norm.eps) == (('FrozenBN', 0), ('BatchNorm2d', 1e-5))[column]
    strides = [model.backbone.layer2[0].conv1.stride[0], model.backbone.layer2[0].conv2.stride[0]]
    assert strides == [[2, 1], [1, 2]][column]


def build_empty(base):
    """A model without memory for its weights."""
    init_scope()
    with torch.device('meta'):
        return MODELS.build(load_config(base, check=False).model)
