"""Panoptic FPN: the semantic branch, the fusion, whole detectors, the published configs."""

import os
import subprocess
from pathlib import Path

import numpy as np
import peer_panoptic_fpn
import pytest
import torch
import torch.nn.functional as F
import yaml
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from parity import cases
from small_detector import K, batch_of, build, cascade_config, small_config

from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.norms import FrozenBN, NaiveSyncBN
from mmdet_r2.models.panoptic import HeuristicFusionHead, PanopticFPNHead
from mmdet_r2.models.panoptic.fusion import _argmax, _paint_pixels, _paint_runs, paint
from mmdet_r2.models.postprocess import Detections
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS, SCOPE, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET, segments
from mmdet_r2.zoo.index import find_model

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
FOLDER = CONFIGS / 'panoptic_fpn'
STORED = Path(__file__).parent / 'data' / 'panoptic_fpn.npz'
PEER = os.environ.get('MMDET_R2_PEER')
STUFF = 4
NUM_LABELS = K + STUFF
LINEAGES = {
    'mmdetection': {},
    'detectron2': dict(
        full_resolution=True,
        label_order='things_first',
        loss_seg=dict(
            type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5, avg_non_ignore=True
        ),
    ),
}
QUARTER = dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)


def panoptic_config(cascade=False, **semantic):
    config = cascade_config() if cascade else small_config()
    config.update(
        type='PanopticFPN',
        semantic_head={
            'type': 'PanopticFPNHead',
            'num_things_classes': K,
            'num_stuff_classes': STUFF,
            'in_channels': 16,
            'inner_channels': 8,
            'norm_cfg': dict(type='GN', num_groups=2),
            'loss_seg': QUARTER,
            **semantic,
        },
        panoptic_fusion_head=dict(
            type='HeuristicFusionHead', num_things_classes=K, num_stuff_classes=STUFF
        ),
    )
    config['data_preprocessor'].update(pad_seg=True)
    config['test_cfg']['panoptic'] = dict(mask_overlap=0.5, stuff_area_limit=20)
    return config


def batch(model, *counts, **options):
    """Batch whose stuff maps have the model's labels."""
    data = batch_of(model, *counts, **options)
    limit = NUM_LABELS if model.semantic_head.label_order == 'all_classes' else STUFF + 1
    for sample in data['data_samples']:
        seg = sample.gt_sem_seg.sem_seg
        sample.gt_sem_seg = PixelData(sem_seg=torch.where(seg == 255, 255, seg % limit))
    return data


def targets_of(maps):
    samples = [DetDataSample(metainfo=dict(img_shape=(8, 8), img_path='a.jpg')) for _ in maps]
    return Targets([], [], [], None, [], [], list(maps), [s.img_path for s in samples])


def head_of(**options):
    init_scope()
    options = {'norm_cfg': None, 'loss_seg': QUARTER, **options}
    return PanopticFPNHead(K, STUFF, in_channels=4, inner_channels=4, **options)


# ------------------------------------------------------------------------------- semantic branch


def test_levels_are_enlarged_to_the_finest():
    head = head_of()
    counts = [[len(layer.conv), layer.num_upsample] for layer in head.conv_upsample_layers]
    assert counts == [[1, 0], [1, 1], [2, 2], [3, 3]]
    feats = tuple(torch.rand(2, 4, 32 // 2**i, 16 // 2**i) for i in range(5))
    assert head(feats).shape == (2, STUFF + 1, 32, 16)
    coarser = head_of(start_level=1)
    assert coarser.stride == 8 and coarser(feats).shape == (2, STUFF + 1, 32, 16)


@pytest.mark.parametrize(
    'norm, bias, keys',
    [
        (dict(type='GN', num_groups=2), 'auto', {'conv.weight', 'gn.weight', 'gn.bias'}),
        (None, 'auto', {'conv.weight', 'conv.bias'}),
        (None, False, {'conv.weight'}),
    ],
)
def test_norm_and_bias_of_the_convolutions(norm, bias, keys):
    layer = head_of(norm_cfg=norm, bias=bias).conv_upsample_layers[3]
    assert {key.removeprefix('conv.2.') for key in layer.state_dict() if '.2.' in key} == keys


def test_sync_bn_is_possible():
    head = head_of(norm_cfg=dict(type='NaiveSyncBN'))
    assert isinstance(head.conv_upsample_layers[0].conv[0].bn, NaiveSyncBN)


@pytest.mark.parametrize('lineage', LINEAGES)
def test_loss_is_the_formula(lineage):
    head = head_of(**LINEAGES[lineage])
    generator = torch.Generator().manual_seed(0)
    limit = NUM_LABELS if lineage == 'mmdetection' else STUFF + 1
    maps = torch.randint(0, limit, (2, 16, 24), generator=generator)
    maps[0, :8] = 255
    logits = torch.randn(2, STUFF + 1, 4, 6, generator=generator)
    loss = head.loss_by_logits(logits, targets_of(maps.to(torch.uint8)))['loss_seg']
    things = K if lineage == 'mmdetection' else 1
    expected, count = 0.0, 0
    if lineage == 'mmdetection':
        maps = maps[:, ::4, ::4]
    else:
        logits = F.interpolate(logits, scale_factor=4, mode='bilinear', align_corners=False)
    log = logits.log_softmax(1)
    for b, y, x in np.ndindex(*maps.shape):
        label = int(maps[b, y, x])
        count += lineage == 'mmdetection' or label != 255
        if label != 255:
            expected -= float(log[b, STUFF if label < things else label - things, y, x])
    assert float(loss) == pytest.approx(0.5 * expected / count, rel=1e-5)


@pytest.mark.parametrize('lineage', LINEAGES)
@pytest.mark.parametrize('label', [255, 0])
def test_maps_without_stuff(lineage, label):
    """All ignored: no loss but a gradient; all things: an ordinary loss."""
    head = head_of(**LINEAGES[lineage])
    logits = torch.randn(1, STUFF + 1, 4, 4, requires_grad=True)
    loss = head.loss_by_logits(logits, targets_of([torch.full((16, 16), label)]))['loss_seg']
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (float(loss.detach()) == 0) == (label == 255)


@pytest.mark.parametrize(
    'maps, message',
    [
        (None, 'no gt_sem_seg'),
        ([torch.zeros(16, 16), torch.zeros(16, 20)], 'pad_seg=True'),
        ([torch.zeros(20, 16)], 'expected 4 times'),
        ([torch.full((16, 16), NUM_LABELS)], f'a.jpg has the label {NUM_LABELS}.*0 to 6'),
        ([torch.full((16, 16), -1)], 'a.jpg has the label -1'),
    ],
)
def test_bad_maps_are_errors(maps, message):
    targets = targets_of(maps or ())
    targets.semantic = maps
    with pytest.raises(DataError, match=message):
        head_of().loss_by_logits(torch.zeros(1, STUFF + 1, 4, 4), targets)


def test_bad_options_are_errors():
    with pytest.raises(ConfigError, match='no level'):
        head_of(start_level=3, end_level=3)
    with pytest.raises(ConfigError, match='label_order'):
        head_of(label_order='stuff_first')
    with pytest.raises(ConfigError, match='mask_overlap'):
        HeuristicFusionHead(test_cfg=dict(mask_overlap=2))
    with pytest.raises(ConfigError, match='mask_overlaps: no such key'):
        HeuristicFusionHead(test_cfg=dict(mask_overlaps=0.5))


def test_predictions_leave_the_padding_out():
    head = head_of()
    feats = tuple(torch.randn(2, 4, 16 // 2**i, 16 // 2**i) for i in range(5))
    samples = [
        DetDataSample(metainfo=dict(img_shape=(64, 40), ori_shape=(32, 20))),
        DetDataSample(metainfo=dict(img_shape=(50, 64), ori_shape=(77, 90))),
    ]
    with torch.no_grad():
        inside = head.predict(feats, samples, (64, 64), rescale=False)
        original = head.predict(feats, samples, (64, 64))
    full = F.interpolate(head(feats), (64, 64), mode='bilinear', align_corners=False)
    assert torch.equal(inside[0], full[0, :, :, :40]) and inside[1].shape[1:] == (50, 64)
    assert [tuple(each.shape[1:]) for each in original] == [(32, 20), (77, 90)]


# ---------------------------------------------------------------------------------------- fusion


def slow_fusion(found, semantic, overlap, limit, score_thr, things, stuff):
    """The rule, pixel by pixel and step by step."""
    canvas = np.full(semantic.shape, things + stuff)
    taken = np.zeros(semantic.shape, bool)
    number = 0
    for i in sorted(range(len(found.scores)), key=lambda i: -float(found.scores[i])):
        mask = found.masks[i].numpy()
        if float(found.scores[i]) < score_thr or not mask.any():
            continue
        if (mask & taken).sum() / mask.sum() > overlap:
            continue
        number += 1
        canvas[mask & ~taken] = int(found.labels[i]) + number * INSTANCE_OFFSET
        taken |= mask
    for label in range(stuff):
        region = (semantic.numpy() == label) & ~taken
        if region.sum() >= limit:
            canvas[region] = things + label
    return canvas


def random_instances(num, height, width, seed):
    draw = np.random.RandomState(seed)
    masks = np.zeros((num, height, width), bool)
    for i, mask in enumerate(masks):
        y, x = draw.randint(0, height), draw.randint(0, width)
        if i % 7 != 3:  # that one stays empty
            mask[y : y + draw.randint(1, 20), x : x + draw.randint(1, 20)] = True
            mask &= draw.uniform(size=mask.shape) < 0.9
    return Detections(
        torch.zeros(num, 4),
        torch.from_numpy(draw.permutation(num) / max(num, 1)).float(),
        torch.from_numpy(draw.randint(0, K, num)),
        torch.from_numpy(masks),
    )


@pytest.mark.parametrize('num', [0, 1, 8, 9, 70])
@pytest.mark.parametrize('overlap, limit, score_thr', [(0.5, 30, 0.0), (0.2, 1, 0.4), (1.0, 9, 0)])
def test_fusion_is_the_rule(num, overlap, limit, score_thr):
    found = random_instances(num, 37, 41, num)
    semantic = torch.from_numpy(np.random.RandomState(num).randint(0, STUFF + 1, (37, 41)))
    semantic[:9] = 2
    options = dict(mask_overlap=overlap, stuff_area_limit=limit, score_thr=score_thr)
    head = HeuristicFusionHead(K, STUFF, test_cfg=options)
    expected = slow_fusion(found, semantic, overlap, limit, score_thr, K, STUFF)
    fused = head.fuse(found, semantic)
    assert fused.dtype == torch.int32 and (fused.numpy() == expected).all()
    logits = F.one_hot(semantic, STUFF + 1).permute(2, 0, 1).float()
    (result,) = head.predict([found], [logits])
    assert (result.sem_seg[0].numpy() == expected).all()
    found_segments = segments(result.sem_seg, NUM_LABELS, K)
    areas = {value: int((expected == value).sum()) for value in np.unique(expected)}
    areas.pop(NUM_LABELS, None)
    assert {s['id']: s['area'] for s in found_segments} == areas


@pytest.mark.parametrize('num', [1, 7, 8, 65, 130])
@pytest.mark.parametrize('overlap', [0.3, 0.5])
def test_both_ways_of_painting_agree(num, overlap):
    masks = random_instances(num, 40, 50, num + 1).masks.flatten(1)
    owner, painted = _paint_pixels(masks, overlap)
    same_owner, same_painted = _paint_runs(masks, overlap)
    assert painted == same_painted and torch.equal(owner, same_owner)
    assert num < 60 or 1 < len(painted) < num


def test_a_half_covered_mask_is_painted():
    masks = torch.zeros(3, 1, 8, dtype=torch.bool)
    masks[0, 0, :2], masks[1, 0, :4], masks[2, 0, 1:4] = True, True, True
    owner, painted = paint(masks, 0.5)
    assert painted.tolist() == [0, 1] and owner[0].tolist() == [1, 1, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize('last', [False, True])
def test_argmax_takes_the_first_of_equal_classes(last):
    logits = torch.randint(0, 3, (6, 20, 30)).float()
    if last:
        logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(_argmax(logits), torch.from_numpy(logits.numpy().argmax(0)))


def test_scores_of_exactly_the_threshold_count():
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    found = Detections(torch.zeros(1, 4), torch.tensor([0.5]), torch.tensor([2]), masks)
    head = HeuristicFusionHead(K, STUFF, test_cfg=dict(score_thr=0.5))
    assert (head.fuse(found, torch.zeros(4, 4, dtype=torch.long)) == 1002).all()


# ------------------------------------------------------------------------------- whole detectors


@pytest.mark.parametrize('counts', [(3, 2), (0, 2), (0, 0)], ids=['objects', 'one', 'none'])
@pytest.mark.parametrize('cascade', [False, True], ids=['standard', 'cascade'])
@pytest.mark.parametrize('lineage', LINEAGES)
def test_every_parameter_gets_a_finite_gradient(lineage, cascade, counts):
    model = build(panoptic_config(cascade, **LINEAGES[lineage])).train()
    losses = model(**batch(model, *counts), mode='loss')
    stage = 's0.' if cascade else ''
    expected = {'loss_rpn_cls', 'loss_rpn_bbox', f'{stage}loss_cls', f'{stage}loss_mask'}
    assert expected | {'loss_seg'} <= set(losses)
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert model.semantic_head.conv_logits.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('cascade', [False, True], ids=['standard', 'cascade'])
def test_predictions_of_a_batch(cascade):
    model = build(panoptic_config(cascade)).eval()
    data = batch(model, 2, 1, training=False, scale=0.5)
    found = model(**data, mode='predict')
    for sample in found:
        panoptic, instances = sample.pred_panoptic_seg.sem_seg, sample.pred_instances
        assert panoptic.shape == (1, *sample.ori_shape) and panoptic.dtype == torch.int32
        assert instances.masks.shape[1:] == sample.ori_shape
        labels = panoptic % INSTANCE_OFFSET
        assert int(labels.max()) <= NUM_LABELS
        assert ((panoptic >= INSTANCE_OFFSET) == (labels < K)).all() and (labels < K).any()
    # One by one, the same.
    alone = batch(model, 2, 1, training=False, scale=0.5)
    for i, sample in enumerate(found):
        # still padded to the batch's size
        single = model.predict(alone['inputs'][i : i + 1], [alone['data_samples'][i]])[0]
        same = single.pred_panoptic_seg.sem_seg == sample.pred_panoptic_seg.sem_seg
        assert same.float().mean() > 0.999


def test_without_rescaling_maps_have_the_size_of_the_network_input():
    model = build(panoptic_config()).eval()
    data = batch(model, 2, 1, training=False, scale=0.5)
    for sample in model.predict(data['inputs'], data['data_samples'], rescale=False):
        assert sample.pred_panoptic_seg.sem_seg.shape[1:] == sample.img_shape
        assert sample.pred_instances.masks.shape[1:] == sample.img_shape


def test_views_are_merged_to_one_map():
    """One view: the ordinary map. With the mirrored one: stuff where both views see it on average,
    instances of both."""
    model = build(panoptic_config()).eval()
    merger = MODELS.build(dict(type='DetTTAModel', module=model))
    images = [torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]

    def view(flip):
        samples = [
            DetDataSample(
                metainfo=dict(
                    img_shape=(64, 96),
                    ori_shape=(64, 96),
                    scale_factor=(1.0, 1.0),
                    flip=flip,
                    flip_direction='horizontal' if flip else None,
                )
            )
            for _ in images
        ]
        return [image.flip(2) if flip else image for image in images], samples

    def merged(*flips):
        views = [view(flip) for flip in flips]
        return merger.test_step(
            dict(inputs=[v[0] for v in views], data_samples=[v[1] for v in views])
        )

    inputs, samples = view(False)
    ordinary = model.test_step(dict(inputs=inputs, data_samples=samples))
    for one, same in zip(merged(False), ordinary, strict=True):
        assert torch.equal(one.pred_panoptic_seg.sem_seg, same.pred_panoptic_seg.sem_seg)

    model.panoptic_fusion_head.score_thr = 2.0  # stuff alone
    data = [
        model.data_preprocessor(dict(inputs=v[0], data_samples=v[1])) for v in map(view, (0, 1))
    ]
    logits = [model.classify_pixels(d['inputs'], d['data_samples']) for d in data]
    for i, sample in enumerate(merged(False, True)):
        mean = (logits[0][i].softmax(0) + logits[1][i].softmax(0).flip(2)) / 2
        label = mean.argmax(0)
        for stuff in range(STUFF):
            found = sample.pred_panoptic_seg.sem_seg[0] == K + stuff
            region = label == stuff
            assert torch.equal(found, region) if region.sum() >= 20 else not found.any()


def test_images_in_which_nothing_is_found():
    """No instance: stuff alone; and void where a class of stuff is too small, or things were."""
    model = build(panoptic_config()).eval()
    model.roi_head.selector.score_thr = 1.0
    data = batch(model, 0, 0, training=False)
    for sample in model(**data, mode='predict'):
        assert len(sample.pred_instances) == 0
        assert int(sample.pred_panoptic_seg.sem_seg.max()) <= NUM_LABELS
    model.panoptic_fusion_head.stuff_area_limit = 10**6
    for sample in model(**data, mode='predict'):
        assert (sample.pred_panoptic_seg.sem_seg == NUM_LABELS).all()
        assert segments(sample.pred_panoptic_seg.sem_seg, NUM_LABELS, K) == []


def test_raw_outputs_end_with_the_semantic_logits():
    model = build(panoptic_config()).eval()
    inputs = batch(model, 1, training=False)['inputs']
    with torch.no_grad():
        *rest, logits = model(inputs)
    assert logits.shape == (1, STUFF + 1, inputs.shape[2] // 4, inputs.shape[3] // 4)
    assert len(rest) == 4


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.pop('semantic_head'), 'needs roi_head.mask_head, semantic_head'),
        (lambda c: c['semantic_head'].update(num_things_classes=K + 1), 'heads disagree'),
        (lambda c: c['panoptic_fusion_head'].update(num_stuff_classes=5), 'heads disagree'),
        (lambda c: c['test_cfg']['rcnn'].update(mask_thr_binary=-1), 'mask_thr_binary'),
        (lambda c: c['roi_head'].pop('mask_head'), 'needs roi_head.mask_head'),
    ],
)
def test_incomplete_models_are_errors(change, message):
    config = panoptic_config()
    change(config)
    with pytest.raises((ConfigError, ValueError), match=message):
        build(config)


# --------------------------------------------------------------------------------------- configs

ROWS = {  # backbone, depth, iterations, PQ
    'panoptic_fpn_r50_caffe_fpn_mstrain_1x_coco': ('ResNet', 50, 90_000, 39.4),
    'panoptic_fpn_r50_caffe_fpn_mstrain_3x_coco': ('ResNet', 50, 270_000, 41.5),
    'panoptic_fpn_r101_caffe_fpn_mstrain_3x_coco': ('ResNet', 101, 270_000, 43.0),
    'panoptic_fpn_r2_101_fpn_mstrain_3x_coco': ('Res2Net', 101, 270_000, 44.5),
    'panoptic_cascade_fpn_s200_fpn_syncbn_tricks_3x_coco': ('ResNeSt', 200, 270_000, 47.9),
}


def detector(config):
    """The detector without memory for its weights."""
    with DefaultScope.overwrite_default_scope(SCOPE), torch.device('meta'):
        return MODELS.build(config.model)


def test_every_config_has_an_entry():
    entries = yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
    names = [entry['Name'] for entry in entries]
    assert sorted(names) == sorted(file.stem for file in FOLDER.glob('*.py')) and len(names) == 9
    assert set(ROWS) < set(names)
    assert find_model('panoptic_fpn_R2_101_3x').name == 'panoptic_fpn_r2_101_fpn_mstrain_3x_coco'
    assert find_model('panoptic-fpn_r50_fpn_ms-3x_coco').results == {'PQ': 42.5}


@pytest.mark.parametrize('name', ROWS)
def test_recipe_of_detectron2(name):
    kind, depth, iterations, quality = ROWS[name]
    config = load_config(name)
    model = detector(config)
    assert find_model(name).results['PQ'] == quality
    assert config.train_cfg.max_iters == iterations
    assert config.optim_wrapper.paramwise_cfg.norm_decay_mult == 0
    assert type(model.backbone).__name__ == kind
    blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3)}[depth]
    stages = [getattr(model.backbone, f'layer{i}') for i in (1, 2, 3, 4)]
    assert tuple(map(len, stages)) == blocks
    head, fusion = model.semantic_head, model.panoptic_fusion_head
    assert head.num_classes == 54 and head.full_resolution and head.criterion.avg_non_ignore
    assert head.criterion.loss_weight == 0.5 and head.label_order == 'things_first'
    assert (fusion.score_thr, fusion.mask_overlap, fusion.stuff_area_limit) == (0.5, 0.5, 4096)
    selector = model.roi_head.selector
    assert selector.score_thr == 0.05 and not selector.options.get('class_agnostic')
    assert selector.drop_empty and not selector.nms_after_rescale
    layer = head.conv_upsample_layers[3].conv[2]
    tricks = kind == 'ResNeSt'
    resize = config.train_dataloader.dataset.pipeline[2]
    if tricks:
        assert layer.conv.bias is None and not layer.with_norm
        assert [tuple(scale) for scale in resize.scale] == [(1440, 400), (1440, 1000)]
        assert isinstance(model.neck.fpn_convs[0].bn, NaiveSyncBN)
        assert len(model.roi_head.stages) == 3 and not model.roi_head.resample
        masks = model.roi_head.mask_head
        assert len(masks.convs) == 4 and not masks.convs[0].with_norm
        assert config.model.train_cfg.rpn_proposal.max_per_img == 2000
        assert config.custom_hooks == [dict(type='PreciseBNHook', num_iters=200)]
        steps = [240_000, 255_000]
    else:
        assert isinstance(layer.gn, torch.nn.GroupNorm) and layer.gn.num_groups == 32
        assert len(resize.scales) == 6
        norms = [m for n, m in model.named_modules() if n.startswith('backbone') and 'bn' in n]
        assert norms and all(isinstance(m, (FrozenBN, torch.nn.ModuleList)) for m in norms)
        assert stages[1][0].conv1.stride == (2, 2)
        assert model.roi_head.bbox_head.fc_reg.out_features == 320
        assert not model.neck.fpn_convs[0].with_norm
        assert config.model.train_cfg.rpn_proposal.max_per_img == 1000
        steps = [60_000, 80_000] if iterations == 90_000 else [210_000, 250_000]
    assert config.param_scheduler[1].milestones == steps
    if kind == 'Res2Net':
        assert stages[0][0].pool is None and stages[1][0].pool is None
        assert stages[1][0].convs[0].stride == (1, 1)
        assert config.model.data_preprocessor.bgr_to_rgb
    evaluators = [each.type for each in config.val_evaluator]
    assert evaluators == ['CocoPanopticMetric', 'CocoMetric']


# ---------------------------------------------------------------------------- against mmdetection


def recorded_by_us(config) -> dict[str, np.ndarray]:
    settings = {f'model.{key}': value for key, value in peer_panoptic_fpn.SETTINGS.items()}
    loaded = load_config(config, {**settings, 'model.backbone.init_cfg': None})
    init_scope()
    model = MODELS.build(loaded.model)
    return peer_panoptic_fpn.record(model, DetDataSample, BitmapMasks)


def compare(arrays, stored):
    assert cases.unpack_text(arrays.pop('keys')) == cases.unpack_text(stored['keys'])
    assert set(arrays) == {key.split('@')[0] for key in stored if key != 'keys'}
    assert sum(key.startswith('gradient/') for key in arrays) == 10 and 'loss/loss_seg' in arrays
    for key, value in arrays.items():
        if key.startswith('panoptic/'):
            assert len(np.unique(stored[key])) > 40, 'the stored numbers would prove little'
            assert (value == stored[key]).all() and value.dtype == stored[key].dtype
        else:
            gradient = key.startswith('gradient/')
            limit = 1e-3 if gradient else 1e-4
            assert cases.deviation(key, value, stored, average=gradient) < limit, key


def test_same_numbers_as_mmdetection():
    """Features, semantic logits, losses, gradients and maps, with the same weights."""
    compare(recorded_by_us('panoptic_fpn_r50_fpn_1x_coco'), dict(np.load(STORED)))


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_same_numbers_as_the_peer_on_its_own_config(tmp_path):
    script = str(Path(peer_panoptic_fpn.__file__))
    command = [PEER, '-W', 'ignore', script, str(tmp_path / 'a.npz')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    where = [PEER, '-W', 'ignore', '-c', 'import mmdet; print(mmdet.__path__[0])']
    folder = subprocess.run(where, capture_output=True, text=True).stdout.split()[-1]
    configs = Path(folder) / '.mim' / 'configs'
    own = sorted((configs / 'panoptic_fpn').glob('*.py'))
    assert len(own) == 4
    for file in own:
        detector(load_config(file))
    fresh = dict(np.load(tmp_path / 'a.npz'))
    compare(recorded_by_us(configs / peer_panoptic_fpn.CONFIG), fresh)
