"""The maskrcnn-benchmark systems' configs: the published recipe, row by row."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden_shapes
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn

from mmdet_r2.apis.train import train
from mmdet_r2.apis.tta import tta_pipeline
from mmdet_r2.config import load_config
from mmdet_r2.datasets.demo import CLASSES, generate
from mmdet_r2.engine import check_box_convention
from mmdet_r2.engine.build import DEFAULT_HOOKS
from mmdet_r2.engine.schedule import stretch_loop, stretch_schedulers
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import DATASETS, MODELS, SCOPE, init_scope

FOLDER = Path(__file__).resolve().parent.parent / 'configs' / 'maskrcnn_benchmark'
# backbone: depth, width and scale of a Res2Net, file of its ImageNet weights, box AP, mask AP
ROWS = {
    'r50': (50, None, 'resnet50-19c8e357.pth', 37.5, 33.9),
    'r101': (101, None, 'resnet101-5d3b4d8f.pth', 39.6, 35.5),
    'r2_50_48w2s': (50, (48, 2), 'res2net50_48w_2s-afed724a.pth', 38.0, 34.2),
    'r2_50_26w4s': (50, (26, 4), 'res2net50_26w_4s-06e79181.pth', 39.6, 35.6),
    'r2_50_18w6s': (50, (18, 6), 'res2net50_18w_6s-db17faaa.pth', 39.9, 35.7),
    'r2_50_14w8s': (50, (14, 8), 'res2net50_14w_8s-6527dddc.pth', 39.1, 35.3),
    'r2_101_26w4s': (101, (26, 4), 'res2net101_26w_4s-02a759a1.pth', 41.8, 37.1),
}
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@pytest.fixture(autouse=True)
def _scope():
    init_scope()


def name_of(row, year=2014):
    return f'mask_rcnn_{row}_fpn_maskrcnnbench_2x_coco{"2014" if year == 2014 else ""}'


R2_50 = name_of('r2_50_26w4s')


def build(config) -> nn.Module:
    """The detector without memory for its weights."""
    with torch.device('meta'):
        return MODELS.build(config.model)


def backbone_weights(depth, width_and_scale):
    """Weights of the convolutions of a backbone with a 7x7 stem."""
    total, inputs = 64 * 3 * 49, 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        planes = 64 * 2**stage
        if width_and_scale:
            width, scale = width_and_scale[0] * 2**stage, width_and_scale[1]
            inner, spatial = width * scale, (scale - 1) * width * width * 9
        else:
            inner, spatial = planes, planes * planes * 9
        for block in range(blocks):
            total += inputs * inner + spatial + inner * 4 * planes
            total += inputs * 4 * planes if block == 0 else 0  # the shortcut
            inputs = 4 * planes
    return total


def detector_parameters(depth, width_and_scale, classes=80):
    pyramid = sum(side * 256 + 256 for side in (256, 512, 1024, 2048))
    conv = 256 * 256 * 9 + 256
    rpn = conv + 256 * 3 + 3 + 256 * 12 + 12
    box = 256 * 49 * 1024 + 1024 + 1024 * 1024 + 1024 + 1025 * (classes + 1) + 1025 * 4 * classes
    mask = 4 * conv + 256 * 256 * 4 + 256 + 257 * classes
    return backbone_weights(depth, width_and_scale) + pyramid + 4 * conv + rpn + box + mask


def test_every_row_has_a_config_for_either_year():
    names = sorted(file.stem for file in FOLDER.glob('*.py'))
    assert names == sorted(name_of(row, year) for row in ROWS for year in (2014, 2017))


@pytest.mark.parametrize('row', ROWS)
def test_backbone(row):
    """What the name says is what the config builds."""
    depth, width_and_scale, file, *_ = ROWS[row]
    config = load_config(FOLDER / f'{name_of(row)}.py')
    model = build(config)
    backbone = model.backbone
    assert type(backbone).__name__ == ('Res2Net' if width_and_scale else 'ResNet')
    assert backbone.conv1.kernel_size == (7, 7)
    stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    assert tuple(map(len, stages)) == BLOCKS[depth]
    for stage, layers in enumerate(stages):
        for number, block in enumerate(layers):
            stride = 2 if stage and not number else 1
            assert block.conv1.stride == (stride, stride)  # all of it in the first 1x1
            spatial = block.convs if width_and_scale else [block.conv2]
            assert all(conv.stride == (1, 1) for conv in spatial)
            if width_and_scale:
                width, scale = width_and_scale
                assert len(block.convs) == scale - 1
                assert {conv.in_channels for conv in block.convs} == {width * 2**stage}
                # The last group of a stage's first block is averaged, nowhere strided.
                assert (block.pool is not None) == (number == 0)
                assert number or (block.pool.stride, block.pool.padding) in (
                    (1, 1),
                    ((1, 1), (1, 1)),
                )
            if number == 0:  # one strided 1x1 and a norm
                assert isinstance(block.downsample[0], nn.Conv2d)
                assert len(block.downsample) == 2 and block.downsample[0].stride == (stride, stride)
    norms = [m for m in backbone.modules() if type(m).__name__ == 'FrozenBN']
    assert norms and all(norm.eps == 0 for norm in norms)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    preprocessor = config.model.data_preprocessor
    assert preprocessor.bgr_to_rgb and preprocessor.pad_size_divisor == 32
    np.testing.assert_allclose(preprocessor.mean, np.multiply([0.485, 0.456, 0.406], 255))
    np.testing.assert_allclose(preprocessor.std, np.multiply([0.229, 0.224, 0.225], 255))
    assert config.model.backbone.init_cfg.checkpoint.rsplit('/', 1)[-1] == file
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == detector_parameters(depth, width_and_scale)


def test_as_many_parameters_as_the_original():
    """Its heads have a background class with a box and a mask of its own; norms are constants."""
    shapes = golden_shapes('E')
    theirs = sum(
        math.prod(shape)
        for key, shape in shapes.items()
        if 'cell_anchors' not in key
        and '.bn' not in key
        and 'downsample.1' not in key
        and 'num_batches' not in key
    )
    ours = sum(parameter.numel() for parameter in build(load_config(R2_50)).parameters())
    assert theirs == ours + 4 * 1025 + 257


@pytest.mark.parametrize('row', ROWS)
def test_recipe_is_one_for_all_rows_and_years(row):
    base = load_config(name_of('r50'))
    for year in (2014, 2017):
        config = load_config(name_of(row, year))
        for key in (
            'optim_wrapper',
            'param_scheduler',
            'train_cfg',
            'auto_scale_lr',
            'default_hooks',
        ):
            assert config[key] == base[key], key
        model, other = config.model.to_dict(), base.model.to_dict()
        del model['backbone'], other['backbone']
        assert model == other
        data = config.train_dataloader.dataset
        parts = data.datasets if year == 2014 else [data]
        files = [(part.ann_file, part.data_prefix.img) for part in parts]
        test = config.test_dataloader.dataset
        if year == 2014:
            assert files == [
                ('annotations/instances_train2014.json', 'train2014/'),
                ('annotations/instances_valminusminival2014.json', 'val2014/'),
            ]
            assert test.ann_file == 'annotations/instances_minival2014.json'
            assert test.data_prefix.img == 'val2014/'
        else:
            assert files == [('annotations/instances_train2017.json', 'train2017/')]
            assert test.ann_file == 'annotations/instances_val2017.json'
        assert config.test_evaluator.ann_file == f'data/coco/{test.ann_file}'
        assert config.test_evaluator.metric == ['bbox', 'segm']
        for part in parts:
            assert part.filter_cfg == dict(filter_empty_gt=True, filter_crowd_only=True)
            assert [t.type for t in part.pipeline] == [
                'LoadImageFromFile',
                'LoadAnnotations',
                'ResizeShortestEdge',
                'RandomFlip',
                'PixelBoxes',
                'PackDetInputs',
            ]
    assert base.train_dataloader.batch_size == 2 and base.auto_scale_lr.base_batch_size == 16


def test_biases_learn_twice_as_fast_and_do_not_decay():
    model = build(load_config(R2_50))
    with DefaultScope.overwrite_default_scope(SCOPE):
        wrapper = build_optim_wrapper(model, load_config(R2_50).optim_wrapper)
    groups = wrapper.optimizer.param_groups
    assert len(groups) == 2
    found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert {g['momentum'] for g in groups} == {0.9}
    seen = set()
    for key, parameter in model.named_parameters():
        frozen = key.startswith(('backbone.conv1', 'backbone.layer1'))
        assert parameter.requires_grad != frozen, key
        if frozen:
            assert id(parameter) not in found
            continue
        expected = (0.04, 0.0) if 'bias' in key else (0.02, 0.0001)
        assert found.pop(id(parameter)) == expected, key
        seen.add(expected)
    assert not found and len(seen) == 2


def test_learning_rate_is_the_originals_step_by_step():
    config = load_config(R2_50)
    weight, bias = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [dict(params=[weight], lr=0.02), dict(params=[bias], lr=0.04)]
    optimizer = torch.optim.SGD(groups, lr=0.02)
    schedulers = [
        PARAM_SCHEDULERS.build({**options, 'optimizer': optimizer})
        for options in config.param_scheduler
    ]
    assert not any(options['by_epoch'] for options in config.param_scheduler)
    assert config.train_cfg.max_iters == 180_000
    optimizer.step()
    rates = np.empty((160_002, 2))
    for step in range(len(rates)):
        rates[step] = [group['lr'] for group in optimizer.param_groups]
        for scheduler in schedulers:
            scheduler.step()
    steps = np.arange(len(rates))
    alpha = np.minimum(steps / 500, 1)
    expected = (1 / 3 * (1 - alpha) + alpha) * 0.1 ** (
        (steps >= 120_000).astype(int) + (steps >= 160_000)
    )
    np.testing.assert_allclose(rates[:, 0], 0.02 * expected, rtol=1e-9)
    np.testing.assert_allclose(rates[:, 1], 0.04 * expected, rtol=1e-9)
    at = rates[[0, 250, 500, 119_999, 120_000, 160_000], 0]
    np.testing.assert_allclose(at, [0.02 / 3, 0.04 / 3, 0.02, 0.02, 0.002, 0.0002])


def test_views_keep_the_resize_rule():
    config = load_config(R2_50)
    pipeline = tta_pipeline(config, config.test_dataloader.dataset.pipeline)
    resizes = pipeline[1].transforms[0]
    assert [(r['scale'], r['max_size']) for r in resizes] == [(800, 1333), (400, 666), (1200, 2000)]
    assert {(r['rule'], r['backend']) for r in resizes} == {('maskrcnn_benchmark', 'pillow')}


@pytest.mark.parametrize('row', ROWS)
def test_first_lines_say_command_and_published_numbers(row):
    _, _, _, box, mask = ROWS[row]
    for year in (2014, 2017):
        lines = (FOLDER / f'{name_of(row, year)}.py').read_text().splitlines()
        name = name_of(row, year)
        assert lines[0] == f'# bash tools/dist_train.sh configs/maskrcnn_benchmark/{name}.py 8'
        assert f'box AP {box}, mask AP {mask} on COCO 2014 minival' in lines[1]
        assert len(lines) <= 40


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    return generate(root, num_train=8, num_val=2, size=(96, 128), seed=3)


def imagenet_file(path):
    """Weights of a Res2Net-50 26w4s whose norms fit: constant norms cannot adapt to random ones."""
    config = load_config(R2_50).model.backbone
    config.update(init_cfg=None, frozen_stages=-1, norm_eval=False, zero_init_residual=False)
    config.norm_cfg = dict(type='BN', momentum=1.0)
    backbone = MODELS.build(config).train()
    backbone.init_weights()
    with torch.no_grad():
        backbone(torch.randn(2, 3, 96, 96))
    torch.save(backbone.state_dict(), path)
    return path


def test_two_steps_of_training(shapes, tmp_path):
    """All of a run: data of two files, model, losses, optimiser groups, evaluation, checkpoint."""
    data = dict(data_root=f'{shapes}/', metainfo=dict(classes=CLASSES))
    config = load_config(
        R2_50,
        {
            'model.backbone.init_cfg.checkpoint': str(imagenet_file(tmp_path / 'imagenet.pth')),
            'model.roi_head.bbox_head.num_classes': len(CLASSES),
            'model.roi_head.bbox_head.fc_out_channels': 64,
            'model.roi_head.mask_head.num_classes': len(CLASSES),
            'model.roi_head.mask_head.num_convs': 1,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 2,
            'visualizer.vis_backends': [],
            'val_evaluator.ann_file': f'{shapes}/annotations/instances_val.json',
            'randomness': dict(seed=1),
        },
    )
    parts = config.train_dataloader.dataset.datasets
    for part, split in zip((*parts, config.val_dataloader.dataset), ('train', 'val', 'val')):
        part.update(
            data, ann_file=f'annotations/instances_{split}.json', data_prefix=dict(img=split)
        )
        for transform in part.pipeline:
            if transform.type == 'ResizeShortestEdge':
                transform.update(scale=120, max_size=200)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None

    first = {}
    original = torch.optim.SGD.step

    def remember(optimizer, *args, **kwargs):
        for group in optimizer.param_groups:
            for parameter in group['params']:
                assert parameter.grad is not None
                settings = (parameter.grad.clone(), group['lr'], group['weight_decay'])
                first.setdefault(id(parameter), settings)
        return original(optimizer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, 'step', remember)
        runner = train(config, work_dir=tmp_path, auto_scale_lr=True)
    assert runner.iter == 2 and (tmp_path / 'iter_2.pth').is_file()
    rates = {lr for _, lr, _ in first.values()}
    assert sorted(rates) == pytest.approx([0.0025 / 3, 0.005 / 3])  # 2 images for 16
    names = {id(p): key for key, p in runner.model.named_parameters()}
    for number, (gradient, rate, decay) in first.items():
        assert torch.isfinite(gradient).all()
        assert (decay == 0) == ('bias' in names[number]) == (rate > 0.001)
    # Anchors of 128 pixels and more all leave such small images, and are ignored then.
    still = {names[number] for number, (gradient, *_) in first.items() if not gradient.any()}
    coarse = ('neck.fpn_convs.2.', 'neck.fpn_convs.3.')
    assert not {key for key in still if not key.startswith(coarse)}
    losses = runner.message_hub.log_scalars
    for key in ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'):
        assert np.isfinite(losses[f'train/{key}'].data[0]).all(), key
    assert 'coco/bbox_mAP' in {key.removeprefix('val/') for key in losses}


# -------------------------------------------------------------------------------------- the page


@pytest.fixture(scope='module')
def page(repo):
    return (repo / 'docs' / 'maskrcnn_benchmark.md').read_text()


def test_page_lists_every_row(page):
    for row, (*_, box, mask) in ROWS.items():
        (line,) = [line for line in page.splitlines() if f'| {name_of(row)} |' in line]
        assert line.endswith(f'| {name_of(row)} | {box} | {mask} |')


def test_keys_on_the_page_exist(page):
    """Each key of the table leads to a value of the config."""
    table = page.partition('| option there |')[2].partition('## ')[0]
    keys = re.findall(r'`([a-z_]+(?:\.[a-z0-9_]+)+)`', table)
    assert len(keys) >= 9
    for key in keys:
        value = load_config(R2_50)
        for part in key.split('.'):
            value = value[int(part) if part.isdigit() else part]


def test_the_shorter_schedule_of_the_page(page):
    (command,) = [line for line in page.splitlines() if 'param_scheduler.1.milestones=4' in line]
    options = dict(part.split('=') for part in command.split('--cfg-options ')[1].split())
    parsed = {key: [int(v) for v in value.split(',')] for key, value in options.items()}
    parsed = {key: value if len(value) > 1 else value[0] for key, value in parsed.items()}
    config = load_config(R2_50, parsed)
    assert config.train_cfg.max_iters == config.param_scheduler[1].end == 720_000
    assert config.param_scheduler[1].milestones == [480_000, 640_000]


def test_the_whole_schedule_on_one_gpu_is_what_the_page_says(page):
    config = load_config(R2_50)
    factor = 16 / config.train_dataloader.batch_size
    loop = stretch_loop(config.train_cfg, factor)
    warm_up, steps = stretch_schedulers(config.param_scheduler, factor)
    numbers = [loop['max_iters'], *steps['milestones'], warm_up['end'] - 1]
    assert numbers == [1_440_000, 960_000, 1_280_000, 4000]
    for number in numbers[:3]:
        assert f'{number:,}' in page
    assert steps['end'] == loop['max_iters']


# ------------------------------------------------------------- boxes of model and data agree


def loader_of(shapes, *kinds, wrap=False):
    dataset = dict(
        type='CocoDataset',
        data_root=f'{shapes}/',
        metainfo=dict(classes=CLASSES),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train'),
        pipeline=[dict(type=kind) for kind in kinds],
    )
    if wrap:
        dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
        dataset = dict(type='RepeatDataset', times=2, dataset=dataset)
    with DefaultScope.overwrite_default_scope(SCOPE):
        return DATASETS.build(dataset)


@pytest.mark.parametrize('wrap', [False, True])
def test_models_and_data_that_measure_differently_are_refused(shapes, wrap):
    pixels = build(load_config(R2_50))
    edges = build(load_config('mask_rcnn_r50_fpn_1x_coco'))
    legacy = build(load_config('mask_rcnn_r50_fpn_1x_coco_v1'))  # as mmdetection 3.x trains it
    exact = build(load_config('mask_rcnn_r50_fpn_1x_coco_v1_exact'))
    load = ('LoadImageFromFile', 'LoadAnnotations')
    counted = loader_of(shapes, *load, 'PixelBoxes', 'PackDetInputs', wrap=wrap)
    plain = loader_of(shapes, *load, 'PackDetInputs', wrap=wrap)
    for model, dataset in ((pixels, counted), (exact, counted), (edges, plain), (legacy, plain)):
        check_box_convention(model, dataset)
    for model in (pixels, exact):
        with pytest.raises(ConfigError, match=r'the model counts pixels .*instances_train\.json'):
            check_box_convention(model, plain)
    for model in (edges, legacy):
        with pytest.raises(ConfigError, match=r'counts pixels \(PixelBoxes\), but the model'):
            check_box_convention(model, counted)
    # what cannot be told is let pass: no annotations, no pipeline, no detector
    check_box_convention(pixels, loader_of(shapes, 'LoadImageFromFile', 'PackDetInputs'))
    check_box_convention(pixels, object())
    check_box_convention(nn.Linear(1, 1), counted)


def test_the_hook_is_part_of_every_run():
    assert DEFAULT_HOOKS['box_convention'] == dict(type='BoxConventionHook')
