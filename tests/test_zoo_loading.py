"""Loading weights: what fits, what is re-initialised, what is refused; the zoo index."""

import copy
import logging

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn
from toy_detector import CLASSES, toy_config

from mmdet_r2.errors import CheckpointError, ConfigError
from mmdet_r2.models.backbones.res2net import Res2Net
from mmdet_r2.models.backbones.resnet import ResNet, ResNeXt
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import (
    LAYOUTS,
    Layout,
    checkpoint_dataset_meta,
    classes_differ,
    find_model,
    index,
    load_checkpoint,
    models,
)
from mmdet_r2.zoo.identify import identify


def build(num_classes: int = len(CLASSES), depth: int = 18) -> nn.Module:
    init_scope()
    cfg = toy_config(depth).model
    cfg.roi_head.bbox_head.num_classes = num_classes
    cfg.roi_head.mask_head.num_classes = num_classes
    return MODELS.build(cfg)


@pytest.fixture(scope='module')
def source() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {k: v.clone() for k, v in build().state_dict().items()}


def test_the_same_model_is_complete(source, tmp_path) -> None:
    model = build()
    torch.save(source, tmp_path / 'a.pth')
    report = load_checkpoint(model, tmp_path / 'a.pth')
    assert report.complete and report.table() == ''
    assert str(report) == f'loaded {report.total}/{report.total} tensors (100 % of weights)'
    assert all(torch.equal(v, source[k]) for k, v in model.state_dict().items())


def test_another_number_of_classes_re_initialises_the_heads_and_says_so(source) -> None:
    model = build(num_classes=5)
    before = model.roi_head.bbox_head.fc_cls.weight.clone()
    report = load_checkpoint(model, source)
    assert not report.complete and report.loaded == report.total - 6
    assert {m.key for m in report.mismatched} == {
        f'roi_head.{part}.{kind}'
        for part in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        for kind in ('weight', 'bias')
    }
    text = str(report)
    for part in (
        're-initialised: roi_head.bbox_head.fc_cls (4 -> 6 rows)',
        'roi_head.bbox_head.fc_reg (12 -> 20 rows)',
        'roi_head.mask_head.conv_logits (3 -> 5 rows)',
    ):
        assert part in text
    assert '100 %' not in text and 'ignored' not in text and '\n' not in text
    assert torch.equal(model.roi_head.bbox_head.fc_cls.weight, before)
    assert torch.equal(model.rpn_head.rpn_conv.weight, source['rpn_head.rpn_conv.weight'])
    assert 'roi_head.bbox_head.fc_cls.weight' in report.table()
    assert report.table(limit=2).endswith('... and 4 more')


def test_a_wrong_architecture_is_refused_with_a_guess_and_nothing_changes(source) -> None:
    model = build(depth=50)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, source)
    text = str(error.value)
    assert 'looks like resnet18, mask_rcnn, 3 classes' in text
    assert 'the model is resnet50, mask_rcnn, 3 classes' in text and '\n' not in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_guess_names_published_configs() -> None:
    weights = {f'backbone.{k}': v for k, v in Res2Net(101).state_dict().items()}
    weights['rpn_head.rpn_conv.weight'] = torch.zeros(1)
    weights['roi_head.bbox_head.fc_cls.bias'] = torch.zeros(81)
    with pytest.raises(CheckpointError, match=r'\(faster_rcnn_r2_101_fpn_2x_coco\)'):
        load_checkpoint(build(), weights)


@pytest.mark.parametrize('container', ['state_dict', 'model', 'ema_state_dict'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_containers_and_prefixes(source, container, prefix) -> None:
    checkpoint = {container: {prefix + k: v for k, v in source.items()}, 'epoch': 3}
    assert load_checkpoint(build(), checkpoint).complete


def test_a_prefix_that_not_all_names_have_stays(source) -> None:
    checkpoint = {**source, 'module.extra': torch.ones(2)}
    report = load_checkpoint(build(), checkpoint)
    assert report.complete and report.unexpected == ['module.extra']
    assert 'ignored: module (1 tensor)' in str(report)


def test_backbone_files_fit_detectors_and_detectors_fit_backbones(source) -> None:
    model = build()
    imagenet = {
        k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')
    }
    imagenet['fc.weight'] = torch.zeros(1000, 64)
    imagenet = {k: v for k, v in imagenet.items() if not k.endswith('num_batches_tracked')}
    report = load_checkpoint(model, imagenet)
    assert torch.equal(model.backbone.conv1.weight, imagenet['conv1.weight'])
    assert all(not key.startswith('backbone.') for key in report.missing)
    assert 'not in the file: ' in str(report) and 'ignored: backbone.fc (1 tensor)' in str(report)
    backbone = build().backbone
    assert load_checkpoint(backbone, source, prefix='backbone').complete
    report = load_checkpoint(build().backbone, source)
    assert report.complete
    with pytest.raises(CheckpointError, match=r"begins with 'encoder\.'"):
        load_checkpoint(backbone, source, prefix='encoder.')


def test_strict_refuses_every_difference(source) -> None:
    assert load_checkpoint(build(), source, strict=True).complete
    counters = {k: v for k, v in source.items() if not k.endswith('num_batches_tracked')}
    assert load_checkpoint(build(), counters, strict=True).complete
    less = {k: v for k, v in source.items() if k != 'rpn_head.rpn_conv.bias'}
    cases = {
        'not in the file: rpn_head.rpn_conv': less,
        'not in the model: extra': {**source, 'extra': torch.ones(1)},
        'other shapes: rpn_head.rpn_conv': {**source, 'rpn_head.rpn_conv.bias': torch.ones(3)},
    }
    for expected, weights in cases.items():
        with pytest.raises(CheckpointError, match=expected):
            load_checkpoint(build(), weights, strict=True)


def test_half_precision_and_wrapped_models(source) -> None:
    model = build()
    load_checkpoint(model, {k: v.half() for k, v in source.items()})
    weight = model.backbone.conv1.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, source['backbone.conv1.weight'].half().float())
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = build()
    assert load_checkpoint(wrapped, source).complete


def test_no_weights_at_all() -> None:
    with pytest.raises(CheckpointError, match='has no weights'):
        load_checkpoint(build(), dict(epoch=1))


def test_module_versions_reach_the_layers(source) -> None:
    """Layers that rename entries of older files (mmcv's DCN) see the file's versions."""
    seen = []

    class Layer(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, metadata, *args) -> None:
            seen.append(metadata.get('version'))
            if metadata.get('version', 0) < 2:
                state_dict[f'{prefix}weight'] = state_dict.pop(f'{prefix}kernel')
            super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    model = nn.Sequential(Layer(2, 2), nn.Linear(200, 200))
    new = model.state_dict()
    assert load_checkpoint(model, dict(state_dict=new)).complete and seen == [2]
    old = {('0.kernel' if k == '0.weight' else k): v for k, v in new.items()}
    assert load_checkpoint(model, old).complete


def test_pretrained_init_uses_the_safe_reader(tmp_path, source, caplog) -> None:
    init_scope()
    torch.save(source, tmp_path / 'a.pth')
    cfg = dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.'),
    )
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    assert torch.equal(backbone.conv1.weight, source['backbone.conv1.weight'])

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / 'created'), 'w')

    torch.save(dict(state_dict=dict(source), extra=Evil()), tmp_path / 'evil.pth')
    cfg['init_cfg'] = dict(type='Pretrained', checkpoint=str(tmp_path / 'evil.pth'))
    with pytest.raises(CheckpointError, match='open'):
        MODELS.build(cfg).init_weights()
    assert not (tmp_path / 'created').exists()


def test_a_layout_is_plugged_in_by_one_entry(source, monkeypatch) -> None:
    foreign = Layout(
        'upper',
        lambda weights: all(k.isupper() for k in weights),
        lambda weights, target: {k.lower(): v for k, v in weights.items() if k != 'PIXEL_MEAN'},
    )
    monkeypatch.setattr('mmdet_r2.zoo.layouts.LAYOUTS', [foreign, *LAYOUTS])
    weights = {k.upper(): v for k, v in source.items()} | {'PIXEL_MEAN': torch.ones(3)}
    report = load_checkpoint(build(), weights)
    assert report.complete and report.layout == 'upper' and not report.unexpected
    assert load_checkpoint(build(), source).layout == 'mmdetection'


def test_dataset_meta_of_both_generations() -> None:
    new = dict(meta=dict(dataset_meta=dict(CLASSES=['a', 'b'], palette=[(0, 0, 0)] * 2)))
    assert checkpoint_dataset_meta(new) == dict(classes=('a', 'b'), palette=[(0, 0, 0)] * 2)
    assert checkpoint_dataset_meta(dict(meta=dict(CLASSES=('a',)))) == dict(classes=('a',))
    assert checkpoint_dataset_meta(dict(meta=dict(CLASSES='a'))) == dict(classes=('a',))
    for empty in ({}, dict(meta=None), dict(meta=dict(epoch=1)), dict(meta=dict(CLASSES=None))):
        assert checkpoint_dataset_meta(empty) is None


def test_class_lists_are_compared_by_name() -> None:
    assert classes_differ(('a', 'b'), ['a', 'b']) is None
    assert 'another order (label 0' in classes_differ(('b', 'a'), ('a', 'b'))
    text = classes_differ(('a', 'c'), ('a', 'b', 'd'))
    assert text == '2 classes in the file, 3 here; only in the file: c; only here: b, d'
    assert classes_differ(('a', 'b', 'b'), ('a', 'b')) == '3 classes in the file, 2 here'


@pytest.mark.parametrize(
    ('build_backbone', 'expected'),
    [
        (lambda: ResNet(34), 'resnet34'),
        (lambda: ResNet(101), 'resnet101'),
        (lambda: ResNeXt(50, groups=32), 'resnext50_32x4d'),
        (lambda: ResNet(50, deep_stem=True, avg_down=True), 'resnet50d'),
        (lambda: Res2Net(50), 'res2net50_v1b_26w_4s'),
        (
            lambda: Res2Net(50, scales=8, base_width=14, deep_stem=False, avg_down=False),
            'res2net50_14w_8s',
        ),
    ],
)
def test_backbones_are_recognised(build_backbone, expected) -> None:
    with torch.device('meta'):
        weights = build_backbone().state_dict()
    assert identify(weights).backbone == expected


def test_families_are_recognised() -> None:
    one = torch.zeros(1)
    cases = {
        'faster_rcnn': ['rpn_head.rpn_conv.bias', 'roi_head.bbox_head.fc_cls.bias'],
        'fast_rcnn': ['roi_head.bbox_head.fc_cls.bias'],
        'cascade_mask_rcnn': ['roi_head.bbox_head.0.fc_cls.bias', 'roi_head.mask_head.0.x'],
        'cascade_rcnn': ['roi_head.bbox_head.0.fc_cls.bias'],
        'htc': ['roi_head.bbox_head.0.fc_cls.bias', 'roi_head.semantic_head.x'],
        'panoptic_fpn': ['roi_head.bbox_head.fc_cls.bias', 'semantic_head.x'],
        'rpn': ['rpn_head.rpn_conv.bias'],
        '': ['layer1.0.conv1.weight'],
    }
    for family, keys in cases.items():
        assert identify(dict.fromkeys(keys, one)).family == family


def test_the_index_lists_what_the_configs_publish(repo) -> None:
    found = models()
    assert found, 'model-index.yml lists nothing'
    names = [m.name for m in found]
    assert len(set(names)) == len(names)
    for model in found:
        assert model.config.is_file(), f'{model.name}: {model.config} does not exist'
        assert model.config.stem == model.name
    listed = {path for line in _imports(repo) for path in repo.glob(line)}
    assert listed == set(repo.glob('configs/*/metafile.yml'))
    for name in (
        'faster_rcnn_r2_101_fpn_2x_coco',
        'faster-rcnn_res2net-101_fpn_2x_coco',
        'faster_rcnn_r2_101_fpn_2x_coco.py',
        'configs/res2net/faster_rcnn_r2_101_fpn_2x_coco.py',
        'faster_rcnn_r2_101_fpn_2x_coco-175f1da6.pth',
        'faster_rcnn_r2_101_fpn_2x_coco-175f1da6',
    ):
        model = find_model(name)
        assert model is not None and model.name == 'faster_rcnn_r2_101_fpn_2x_coco'
        assert model.results == {'box AP': 43.0}
    assert find_model('no_such_model') is None


def _imports(repo) -> list[str]:
    return index._yaml(repo / 'model-index.yml')['Import']


def test_a_broken_metafile_is_named(tmp_path) -> None:
    (tmp_path / 'model-index.yml').write_text('Import:\n  - a/metafile.yml\n')
    (tmp_path / 'a').mkdir()
    metafile = tmp_path / 'a' / 'metafile.yml'
    for content, expected in (
        ('Models: [', 'metafile\.yml'),
        ('Models: [{Name: x}]', 'needs Name and Config'),
        ('Models: [x]', 'needs Name and Config'),
        ('- {Name: x, Config: c, Hash: 123}', 'Hash of x is 123'),
        ('- {Name: x, Config: c, Metadata: a}', 'x is not written in OpenMMLab'),
        ('- {Name: x, Config: c, Results: [{Metrics: {AP: 1}}]}', "KeyError: 'Dataset'"),
        ('- {Name: x, Config: c, Results: [{Metrics: {AP: high}}]}', 'high'),
    ):
        metafile.write_text(content)
        index._read.cache_clear()
        with pytest.raises(ConfigError, match=expected) as error:
            index._read(tmp_path)
        assert str(metafile) in str(error.value) and '\n' not in str(error.value)


def test_an_incomplete_load_is_a_warning(source, monkeypatch) -> None:
    lines = []
    monkeypatch.setattr(
        'mmengine.logging.print_log', lambda text, logger, level: lines.append((level, text))
    )
    load_checkpoint(build(), source)
    load_checkpoint(build(num_classes=5), source)
    lines = [line for line in lines if line[1].startswith('the given state dict')]
    assert [level for level, _ in lines] == [logging.INFO, logging.WARNING]
    assert 'roi_head.mask_head.conv_logits.weight' in lines[1][1]
