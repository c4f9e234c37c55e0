"""maskrcnn-benchmark's detectors with group norms, deformable convolutions and grouped ones: names
as its files have them, listed here by themselves, and the arithmetic on the file as it was."""

from collections import OrderedDict
from collections.abc import Iterator

import original_arithmetic as v1
import pytest
import torch
import torch.nn.functional as F
from golden import save_training
from published_files import SMALL, Named, Size, config, random, zeros
from torch import Tensor, nn

from mmdet_r2.config import load_config
from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import load_checkpoint, upgrade
from mmdet_r2.zoo.maskrcnn_benchmark import convert

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')

FULL = Size(depth=50)
GROUPS = {FULL.planes: 32, SMALL.planes: 8}


# ------------------------------------------------------------------------------ names and shapes


def affine(name: str, channels: int) -> Named:
    yield f'{name}.weight', (channels,)
    yield f'{name}.bias', (channels,)


def constant(name: str, channels: int) -> Named:
    yield from affine(name, channels)
    yield f'{name}.running_mean', (channels,)
    yield f'{name}.running_var', (channels,)


def layer(name: str, *shape: int) -> Named:
    yield f'{name}.weight', shape
    yield f'{name}.bias', (shape[0],)


def normed(name: str, *shape: int) -> Named:
    """A sequence of a convolution without bias and its group norm."""
    yield f'{name}.0.weight', shape
    yield from affine(f'{name}.1', shape[0])


def body(size: Size, norm, offsets: int = 0, groups: int = 1, each: int = 0) -> Named:
    """A ResNet-50; ``offsets`` channels place the samples of 3x3s from the second stage on;
    ``groups`` of ``each`` channels make a ResNeXt."""
    yield 'backbone.body.stem.conv1.weight', (size.planes, 3, 7, 7)
    yield from norm('backbone.body.stem.bn1', size.planes)
    inputs = size.planes
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, planes = (groups * each or size.planes) * 2**stage, size.planes * 2**stage
        for i in range(blocks):
            name = f'backbone.body.layer{stage + 1}.{i}'
            if i == 0:
                yield f'{name}.downsample.0.weight', (4 * planes, inputs, 1, 1)
                yield from norm(f'{name}.downsample.1', 4 * planes)
            yield f'{name}.conv1.weight', (width, inputs, 1, 1)
            yield from norm(f'{name}.bn1', width)
            if offsets and stage > 0:
                yield from layer(f'{name}.conv2.offset', offsets, width, 3, 3)
                yield f'{name}.conv2.conv.weight', (width, width, 3, 3)
            else:
                yield f'{name}.conv2.weight', (width, width // groups, 3, 3)
            yield from norm(f'{name}.bn2', width)
            yield f'{name}.conv3.weight', (4 * planes, width, 1, 1)
            yield from norm(f'{name}.bn3', 4 * planes)
            inputs = 4 * planes


def tail(size: Size, block) -> Named:
    """Pyramid, RPN and predictors; ``block`` makes a convolution of the pyramid or a mask head."""
    c, k = size.channels, size.classes + 1
    for i in range(1, 5):
        yield from block(f'backbone.fpn.fpn_inner{i}', c, size.planes * 2 ** (i + 1), 1, 1)
        yield from block(f'backbone.fpn.fpn_layer{i}', c, c, 3, 3)
    for i in range(5):
        yield f'rpn.anchor_generator.cell_anchors.{i}', (3, 4)
    yield from layer('rpn.head.conv', c, c, 3, 3)
    yield from layer('rpn.head.cls_logits', 3, c, 1, 1)
    yield from layer('rpn.head.bbox_pred', 12, c, 1, 1)
    yield from layer('roi_heads.box.predictor.cls_score', k, size.hidden)
    yield from layer('roi_heads.box.predictor.bbox_pred', 4 * k, size.hidden)
    for i in range(1, 5):
        yield from block(f'roi_heads.mask.feature_extractor.mask_fcn{i}', c, c, 3, 3)
    yield from layer('roi_heads.mask.predictor.conv5_mask', c, c, 2, 2)
    yield from layer('roi_heads.mask.predictor.mask_fcn_logits', k, c, 1, 1)


def convolved(size: Size) -> Named:
    """configs/gn_baselines, Xconv1fc: convolution, norm and ReLU are places of one sequence."""
    yield from body(size, affine)
    yield from tail(size, normed)
    c, p = size.channels, 'roi_heads.box.feature_extractor.'
    for place in (0, 3, 6, 9):
        yield f'{p}xconvs.{place}.weight', (c, c, 3, 3)
        yield from affine(f'{p}xconvs.{place + 1}', c)
    yield from layer(f'{p}fc6', size.hidden, c * 49)


def linear(size: Size) -> Named:
    """configs/gn_baselines without Xconv1fc: norms behind linear layers."""
    yield from body(size, affine)
    yield from tail(size, normed)
    p = 'roi_heads.box.feature_extractor.'
    yield from normed(f'{p}fc6', size.hidden, size.channels * 49)
    yield from normed(f'{p}fc7', size.hidden, size.hidden)


def plain(size: Size, **options: int) -> Named:
    """configs/dcn and X-101 (here of 50 layers)."""
    yield from body(size, constant, **options)
    yield from tail(size, layer)
    p = 'roi_heads.box.feature_extractor.'
    yield from layer(f'{p}fc6', size.hidden, size.channels * 49)
    yield from layer(f'{p}fc7', size.hidden, size.hidden)


# ----------------------------------------------------------------------------------------- models

CAFFE2_COLOURS = dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)


def with_group_norms(cfg, size: Size = FULL):
    norm = dict(type='GN', num_groups=GROUPS[size.planes], requires_grad=True)
    model = cfg.model
    model.backbone.update(norm_cfg=norm, style='pytorch', init_cfg=None)
    model.neck.norm_cfg = norm
    head = dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=size.channels, norm_cfg=norm)
    model.roi_head.bbox_head.update(head, init_cfg=None)
    model.roi_head.mask_head.norm_cfg = norm
    model.data_preprocessor.update(CAFFE2_COLOURS)
    return cfg


def full_config():
    cfg = load_config('mask_rcnn_r50_fpn_maskrcnnbench_2x_coco2014')
    cfg.model.backbone.init_cfg = None
    return cfg


def small_config(**backbone):
    cfg = config('mask_rcnn', SMALL)
    common = dict(type='ResNet', depth=50, base_channels=SMALL.planes)
    cfg.model.backbone = {**common, **backbone}
    return cfg


def build(cfg, device: str = 'cpu') -> nn.Module:
    init_scope()
    with torch.device(device):
        built = MODELS.build(cfg.model)
    built.data_preprocessor = MODELS.build(cfg.model.data_preprocessor)
    return built.eval()


# ------------------------------------------------------------------------------------ group norms


def test_a_file_with_group_norms_fits_its_model_exactly(tmp_path) -> None:
    weights = OrderedDict((f'module.{k}', v) for k, v in zeros(convolved(FULL)).items())
    path = save_training(weights, tmp_path / 'model_final.pth')
    report = load_checkpoint(build(with_group_norms(full_config()), 'meta'), path, strict=True)
    assert report.complete and report.layout == 'maskrcnn-benchmark'
    assert report.note == ''
    assert str(report.found) == 'resnet50, mask_rcnn, 80 classes'


def test_every_tensor_arrives_once() -> None:
    named = list(convolved(FULL))
    source = OrderedDict((k, torch.tensor(float(i)).expand(s)) for i, (k, s) in enumerate(named))
    converted = convert(source, {})
    assert not any('num_batches' in key for key in converted), 'group norms count no batches'
    for theirs, ours in {
        'backbone.body.stem.bn1.weight': 'backbone.gn1.weight',
        'backbone.body.layer2.3.bn2.bias': 'backbone.layer2.3.gn2.bias',
        'backbone.body.layer1.0.downsample.1.bias': 'backbone.layer1.0.downsample.1.bias',
        'backbone.fpn.fpn_inner4.0.weight': 'neck.lateral_convs.3.conv.weight',
        'backbone.fpn.fpn_layer1.1.bias': 'neck.fpn_convs.0.gn.bias',
        'roi_heads.box.feature_extractor.xconvs.9.weight': (
            'roi_head.bbox_head.shared_convs.3.conv.weight'
        ),
        'roi_heads.box.feature_extractor.xconvs.4.bias': (
            'roi_head.bbox_head.shared_convs.1.gn.bias'
        ),
        'roi_heads.box.feature_extractor.fc6.bias': 'roi_head.bbox_head.shared_fcs.0.bias',
        'roi_heads.mask.feature_extractor.mask_fcn2.1.weight': (
            'roi_head.mask_head.convs.1.gn.weight'
        ),
    }.items():
        assert converted[ours].flatten()[0] == source[theirs].flatten()[0], theirs
    found = sorted(int(value.flatten()[0]) for value in converted.values())
    assert found == [i for i, (key, _) in enumerate(named) if 'cell_anchors' not in key]


def test_convolutions_of_a_box_head_without_norms_count_otherwise() -> None:
    """Convolution and ReLU take turns: every second place."""
    p = 'roi_heads.box.feature_extractor.xconvs.'
    source = {f'{p}{place}.weight': torch.zeros(1) for place in (0, 2, 4)}
    assert list(convert(source, {})) == [
        f'roi_head.bbox_head.shared_convs.{i}.conv.weight' for i in range(3)
    ]


def sequence(w: v1.Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    return group_norm(w, f'{name}.1', v1.conv(w, f'{name}.0', x, stride))


def group_norm(w: v1.Weights, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, GROUPS[SMALL.planes], w[f'{name}.weight'], w[f'{name}.bias'], 1e-5)


def features(w: v1.Weights, x: Tensor) -> Iterator[Tensor]:
    """C2 to C5; the 3x3s have the stride."""
    p = 'backbone.body.'
    x = group_norm(w, f'{p}stem.bn1', v1.conv(w, f'{p}stem.conv1', x, 2)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for i in range(blocks):
            b, stride = f'{p}layer{stage}.{i}', 2 if stage > 1 and i == 0 else 1
            y = group_norm(w, f'{b}.bn1', v1.conv(w, f'{b}.conv1', x)).relu()
            y = group_norm(w, f'{b}.bn2', v1.conv(w, f'{b}.conv2', y, stride)).relu()
            y = group_norm(w, f'{b}.bn3', v1.conv(w, f'{b}.conv3', y))
            if i == 0:
                x = v1.conv(w, f'{b}.downsample.0', x, stride)
                x = group_norm(w, f'{b}.downsample.1', x)
            x = (x + y).relu()
        yield x


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@torch.no_grad()
def test_features_and_heads_with_group_norms_compute_the_same() -> None:
    w = random(convolved(SMALL))
    model = build(with_group_norms(small_config(), SMALL))
    load_checkpoint(model, dict(model=w), strict=True)
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, 64, 96, generator=draw)
    maps = [
        sequence(w, f'backbone.fpn.fpn_inner{i}', x) for i, x in enumerate(features(w, image), 1)
    ]
    for i in range(3, 0, -1):
        maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], scale_factor=2)
    maps = [sequence(w, f'backbone.fpn.fpn_layer{i}', x) for i, x in enumerate(maps, 1)]
    for found, expected in zip(model.extract_feat(image)[:4], maps, strict=True):
        close(found, expected)

    (stage,) = model.roi_head.stages
    rois = torch.randn(6, SMALL.channels, 7, 7, generator=draw)
    x, p = rois, 'roi_heads.box.'
    for place in (0, 3, 6, 9):
        x = v1.conv(w, f'{p}feature_extractor.xconvs.{place}', x)
        x = group_norm(w, f'{p}feature_extractor.xconvs.{place + 1}', x).relu()
    x = v1.linear(w, f'{p}feature_extractor.fc6', x.flatten(1)).relu()
    output = stage.box_head(rois)
    close(output.logits, v1.linear(w, f'{p}predictor.cls_score', x).roll(-1, 1))
    close(output.deltas, v1.linear(w, f'{p}predictor.bbox_pred', x)[:, 4:])

    rois = torch.randn(3, SMALL.channels, 14, 14, generator=draw)
    x, p = rois, 'roi_heads.mask.'
    for i in range(1, 5):
        x = sequence(w, f'{p}feature_extractor.mask_fcn{i}', x).relu()
    up = (w[f'{p}predictor.conv5_mask.{leaf}'] for leaf in ('weight', 'bias'))
    x = v1.conv(w, f'{p}predictor.mask_fcn_logits', F.conv_transpose2d(x, *up, 2).relu())
    (found,) = model.roi_head.mask_logits([stage], rois, None)
    close(found, x[:, 1:])


def test_what_a_model_without_group_norms_lacks_is_named() -> None:
    report = load_checkpoint(build(full_config(), 'meta'), zeros(convolved(FULL)))
    assert not report.complete
    for part in (
        "norm_cfg=dict(type='GN', num_groups=32",
        'Shared4Conv1FCBBoxHead',
        "the 3x3 convolution has the stride (backbone.style='pytorch'), not the first 1x1",
        'BGR',
        'use a config like mask_rcnn_r50_fpn_maskrcnnbench_2x_coco2014 (configs/maskrcnn_benchmark)'
        ' with its group norms',
    ):
        assert part in report.note, part
    assert 'without epsilon' not in report.note


def test_norms_behind_linear_layers_are_refused_in_a_line(tmp_path) -> None:
    weights = zeros(linear(FULL))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(build(with_group_norms(full_config()), 'meta'), weights)
    assert 'whose fully connected layers have group norms' in str(error.value)
    assert 'Xconv1fc' in str(error.value) and '\n' not in str(error.value)
    with pytest.raises(CheckpointError, match='fc6'):
        upgrade(save_training(weights, tmp_path / 'a.pth'))
    init_scope()
    norm = dict(type='GN', num_groups=32)
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='ResNet', depth=50, norm_cfg=norm))
    assert load_checkpoint(backbone, weights).complete, 'the backbone alone is one of ours'


def test_the_imagenet_file_with_group_norms_fills_a_backbone() -> None:
    """Caffe2's R-50-GN.pkl, by its blobs' names."""
    branches = dict(conv1='branch2a', conv2='branch2b', conv3='branch2c', downsample='branch1')
    blobs = {'conv1_gn_s': (64,), 'conv1_gn_b': (64,), 'pred_w': (1000, 2048), 'pred_b': (1000,)}
    for name, shape in body(FULL, affine):
        parts = name.removeprefix('backbone.body.').split('.')
        if parts[0] == 'stem':
            blobs['conv1_w'] = (64, 3, 7, 7)
        elif name.endswith('.weight') and len(shape) == 4:
            blob = f'res{int(parts[0][-1]) + 1}_{parts[1]}_{branches[parts[2]]}'
            blobs |= {f'{blob}_w': shape, f'{blob}_gn_s': shape[:1], f'{blob}_gn_b': shape[:1]}
    source = zeros(iter(blobs.items())) | {'res2_0_branch2a_w_momentum': torch.zeros(1)}
    cfg = dict(type='ResNet', depth=50, norm_cfg=dict(type='GN', num_groups=32))
    init_scope()
    with torch.device('meta'):
        backbones = {style: MODELS.build({**cfg, 'style': style}) for style in ('pytorch', 'caffe')}
    report = load_checkpoint(backbones['pytorch'], source)
    assert report.complete and report.layout == 'Caffe2'
    assert report.unexpected == ['fc.weight', 'fc.bias']
    assert "style='" not in report.note and 'BGR' in report.note
    assert 'the 3x3 convolution has the stride' in load_checkpoint(backbones['caffe'], source).note


# ----------------------------------------------------------------- deformable and grouped blocks


@pytest.mark.parametrize(('kind', 'offsets'), [('DCN', 18), ('DCNv2', 27)])
def test_deformable_blocks(kind, offsets) -> None:
    dcn = dict(type=kind, deform_groups=1, fallback_on_stride=False)
    cfg = full_config()
    cfg.model.backbone.update(dcn=dcn, stage_with_dcn=(False, True, True, True))
    weights = zeros(plain(FULL, offsets=offsets))
    report = load_checkpoint(build(cfg, 'meta'), weights, strict=True)
    assert report.complete and report.note == ''
    text = str(load_checkpoint(build(full_config(), 'meta'), weights))
    assert 'its heads were trained with backbone.conv_offset' in text


@torch.no_grad()
def test_a_deformable_block_computes_the_same() -> None:
    """18 moves come first, nine gates last."""
    from mmcv.ops import modulated_deform_conv2d

    w = random(plain(SMALL, offsets=27))
    for key in list(w):
        if '.conv2.offset.' in key:
            w[key] = w[key] * 0.1
    cfg = small_config(
        style='caffe',
        norm_cfg=dict(type='FrozenBN', eps=0),
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
    model = build(cfg)
    assert load_checkpoint(model, w, strict=True).complete
    block, p = model.backbone.layer2[1], 'backbone.body.layer2.1.conv2.'
    x = torch.randn(1, 2 * SMALL.planes, 9, 11, generator=torch.Generator().manual_seed(4))
    moves = F.conv2d(x, w[f'{p}offset.weight'], w[f'{p}offset.bias'], 1, 1)
    gates = moves[:, -9:].sigmoid()
    kernel = w[f'{p}conv.weight']
    expected = modulated_deform_conv2d(x, moves[:, :18], gates, kernel, None, 1, 1, 1, 1, 1)
    close(block.conv2(x), expected)
    assert not torch.allclose(expected, F.conv2d(x, kernel, None, 1, 1), atol=0.1)


def test_published_resnexts_have_the_stride_in_the_3x3() -> None:
    weights = zeros(plain(FULL, groups=32, each=4))
    cfg = full_config()
    cfg.model.backbone.update(type='ResNeXt', groups=32, base_width=4)
    cfg.model.backbone.style = 'pytorch'
    assert load_checkpoint(build(cfg, 'meta'), weights, strict=True).note == ''
    cfg.model.backbone.style = 'caffe'
    note = load_checkpoint(build(cfg, 'meta'), weights).note
    assert "(backbone.style='pytorch'), not the first 1x1" in note
