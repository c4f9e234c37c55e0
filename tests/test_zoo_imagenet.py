"""ImageNet files into backbones: same features as published, nothing missing, leftovers listed."""

import logging
from collections import OrderedDict

import original_arithmetic as original
import pytest
import torch
from published_files import (
    FULL,
    SMALL,
    classifier,
    config,
    random,
    res2net,
    resnet,
    save,
    save_hashed,
    zeros,
)
from torch import Tensor, nn

from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import load_checkpoint

V1 = dict(deep_stem=False, avg_down=False, first_block_pool='always')


def build(path: object, **options) -> nn.Module:
    """A small backbone initialised from the file."""
    init_scope()
    cfg = dict(type='Res2Net', depth=SMALL.depth, base_channels=SMALL.planes) | options
    backbone = MODELS.build({**cfg, 'init_cfg': dict(type='Pretrained', checkpoint=str(path))})
    backbone.init_weights()
    return backbone.eval()


def published_v1d() -> OrderedDict[str, Tensor]:
    """mmdetection's copy: the values of v1b under other names, in the same order."""
    names = [name for name, _ in res2net(SMALL, 'stem')]
    return OrderedDict(zip(names, random(res2net(SMALL, 'conv1')).values(), strict=True))


FILES = {
    # file: its tensors, the backbone's options, the original's arithmetic
    'Res2Net v1': (
        lambda: random(res2net(SMALL, '7x7')),
        V1,
        lambda w, x: original.res2net(w, x),
    ),
    'Res2Net v1, 48w2s': (
        lambda: random(res2net(SMALL, '7x7', scales=2, width=48)),
        V1 | dict(scales=2, base_width=48),
        lambda w, x: original.res2net(w, x),
    ),
    'Res2Net v1b': (
        lambda: random(res2net(SMALL, 'conv1')),
        dict(first_block_pool='always'),
        lambda w, x: original.res2net(w, x),
    ),
    'Res2Net v1b as detectors use it': (
        lambda: random(res2net(SMALL, 'conv1')),
        {},
        lambda w, x: original.res2net(w, x, pool_always=False),
    ),
    'Res2Net v1d': (
        published_v1d,
        {},
        lambda w, x: original.res2net(random(res2net(SMALL, 'conv1')), x, pool_always=False),
    ),
    'torchvision ResNet': (
        lambda: random(resnet(SMALL)),
        dict(type='ResNet'),
        lambda w, x: original.resnet(w, x),
    ),
}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('zipped', [False, True], ids=['old torch', 'zip'])
@torch.no_grad()
def test_features_are_those_of_the_original(name, zipped, tmp_path, monkeypatch) -> None:
    tensors, options, forward = FILES[name]
    weights = tensors()
    content = weights | random(classifier(SMALL))
    if not zipped:  # files of torch 0.3 and converted ones
        content = {k: v for k, v in content.items() if not k.endswith('num_batches_tracked')}
    path = save_hashed(content, tmp_path, 'backbone', zipped)
    lines = []
    monkeypatch.setattr(
        'mmengine.logging.print_log', lambda text, logger, level: lines.append((level, text))
    )
    backbone = build(path, **options)
    ((level, text),) = [line for line in lines if line[1].startswith(str(path))]
    first = text.splitlines()[0]
    assert level == logging.INFO
    assert '(100 % of weights)' in first and first.endswith('; ignored: fc (2 tensors)')
    image = torch.randn(2, 3, 70, 90)
    for found, expected in zip(backbone(image), forward(weights, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
@pytest.mark.parametrize(
    ('stem', 'options'), [('7x7', V1), ('conv1', {}), ('stem', {})], ids=['v1', 'v1b', 'v1d']
)
def test_files_of_full_size_fill_the_backbone(stem, options) -> None:
    weights = zeros(res2net(FULL, stem))
    init_scope()
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='Res2Net', depth=101, **options))
    assert load_checkpoint(backbone, weights, strict=True).complete


def test_the_backbone_inside_a_detector_is_initialised(tmp_path) -> None:
    weights = random(res2net(SMALL, 'conv1'))
    cfg = config('faster_rcnn', SMALL)
    path = save(weights | random(classifier(SMALL)), tmp_path / 'a.pth')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    init_scope()
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert torch.equal(model.backbone.stem[6].weight, weights['conv1.6.weight'])
    assert torch.equal(model.backbone.stem[7].running_var, weights['bn1.running_var'])


def _refusal(path: object, **options) -> str:
    with pytest.raises(CheckpointError) as error:
        build(path, **options)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_7x7_stem_is_no_deep_stem(tmp_path) -> None:
    v1 = save(random(res2net(SMALL, '7x7')), tmp_path / 'v1.pth')
    text = _refusal(v1)
    for part in (
        'v1.pth',
        'does not fit the model exactly (the file needs backbone.deep_stem=False, ',
        'stem (15 tensors)',
        'layer1.0.downsample',
        'backbone.avg_down=False, ',
        "backbone.first_block_pool='always'",
    ):
        assert part in text
    v1b = save(random(res2net(SMALL, 'conv1')), tmp_path / 'v1b.pth')
    text = _refusal(v1b, **V1)
    assert 'needs backbone.deep_stem=True, backbone.avg_down=True' in text


def test_other_backbones_are_refused_with_the_keys_that_differ(tmp_path) -> None:
    wide = save(random(res2net(SMALL, 'conv1', scales=8, width=14)), tmp_path / 'wide.pth')
    assert 'needs backbone.scales=8, backbone.base_width=14' in _refusal(wide)
    plain = save(random(resnet(SMALL)), tmp_path / 'plain.pth')
    assert "needs backbone.type='ResNet', backbone.deep_stem=False" in _refusal(plain)
    deeper = random(resnet(SMALL))
    last = {k: v for k, v in deeper.items() if k.startswith('layer3.5.')}
    for block in range(6, 23):
        deeper.update({k.replace('3.5.', f'3.{block}.'): v for k, v in last.items()})
    text = _refusal(save(deeper, tmp_path / 'deeper.pth'), type='ResNet')
    assert 'needs backbone.depth=101' in text and 'not in the model: layer3' in text


@pytest.mark.parametrize('change', ['lacking', 'other shape', 'foreign'])
def test_a_single_tensor_is_missed(change, tmp_path) -> None:
    weights = random(res2net(SMALL, 'conv1'))
    key = 'layer3.2.bns.1.running_mean'
    if change == 'lacking':
        del weights[key]
    elif change == 'other shape':
        weights[key] = torch.zeros(3)
    else:
        weights['layer3.2.attention.weight'] = torch.zeros(3)
    text = _refusal(save(weights, tmp_path / 'a.pth'))
    expected = {
        'lacking': 'not in the file: layer3.2.bns.1 (1 tensor)',
        'other shape': 'other shapes: layer3.2.bns.1 (3 -> ',
        'foreign': 'not in the model: layer3.2.attention (1 tensor)',
    }
    assert expected[change] in text


def test_leftovers_of_converted_files_and_unbuilt_stages_are_listed(tmp_path) -> None:
    """Caffe's convolutions had biases; a C4 backbone has no fourth stage."""
    weights = random(resnet(SMALL))
    biases = {
        f'{key.removesuffix(".weight")}.bias': torch.zeros(len(value))
        for key, value in weights.items()
        if value.dim() == 4
    }
    path = save(weights | biases | random(classifier(SMALL)), tmp_path / 'caffe.pth')
    backbone = build(
        path,
        type='ResNet',
        style='caffe',
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    )
    assert torch.equal(backbone.layer3[0].conv1.weight, weights['layer3.0.conv1.weight'])
    report = load_checkpoint(backbone, path)
    assert report.complete
    for part in ('conv1 (1 tensor)', 'fc (2 tensors)', 'layer4 ('):
        assert part in str(report)


def test_deformable_convolutions_start_as_plain_ones(tmp_path) -> None:
    pytest.importorskip('mmcv.ops')
    weights = random(resnet(SMALL))
    path = save(weights, tmp_path / 'a.pth')
    dcn = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    backbone = build(path, type='ResNet', dcn=dcn, stage_with_dcn=(False, True, True, True))
    assert torch.equal(backbone.layer4[0].conv2.weight, weights['layer4.0.conv2.weight'])
    assert not backbone.layer4[0].conv2.conv_offset.weight.any()


def test_a_detectors_file_gives_its_backbone(tmp_path) -> None:
    weights = {f'backbone.{k}': v for k, v in random(res2net(SMALL, 'stem')).items()}
    weights['neck.lateral_convs.0.conv.bias'] = torch.zeros(4)
    path = save(dict(state_dict=weights), tmp_path / 'a.pth')
    backbone = build(path)
    assert torch.equal(backbone.stem[0].weight, weights['backbone.stem.0.weight'])
