"""The ResNeSt systems' configs: the published recipes, row by row; mmdetection's own, unchanged."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden import golden_shapes
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_r2.apis.tta import tta_pipeline
from mmdet_r2.config import load_config
from mmdet_r2.models.norms import NaiveSyncBN
from mmdet_r2.registry import MODELS, SCOPE, TRANSFORMS, init_scope
from mmdet_r2.zoo.index import find_model

FOLDER = Path(__file__).resolve().parent.parent / 'configs' / 'resnest'
ALL = sorted(file.stem for file in FOLDER.glob('*.py'))
# mmdetection's own recipes; all others are those of the fork of detectron2
MMDETECTION = [name for name in ALL if 'syncbn-backbone+head' in name]
NAMES = [name for name in ALL if name not in MMDETECTION]
ENTRIES = {
    entry['Name']: entry
    for entry in yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
}
MSRA = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
IMAGENET = dict(mean=[123.68, 116.779, 103.939], std=[58.393, 57.12, 57.375], bgr_to_rgb=True)
FASTER = 'faster_rcnn_s50_fpn_syncbn-all_mstrain-range_1x_coco'
PEER = os.environ.get('MMDET_R2_PEER')


@pytest.fixture(autouse=True)
def _scope():
    init_scope()


def build(config) -> nn.Module:
    """The detector without memory for its weights."""
    with torch.device('meta'):
        return MODELS.build(config.model)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_row_has_a_config_and_an_entry():
    assert len(NAMES) == 21 and sorted(ENTRIES) == ALL
    parts = [name.split('_fpn_')[0] for name in NAMES if not name.endswith('_tta')]
    assert sorted(parts) == sorted(
        f'{system}_{backbone}'
        for system, backbones in {
            'faster_rcnn': ('r50_caffe', 'r101_caffe', 's50', 's50', 's101'),
            'cascade_rcnn': ('r50_caffe', 'r101_caffe', 's50', 's101', 's200'),
            'mask_rcnn': ('r50_caffe', 'r101_caffe', 's50', 's101'),
            'cascade_mask_rcnn': ('r50_caffe', 'r101_caffe', 's50', 's101', 's200', 's200'),
        }.items()
        for backbone in backbones
    )


@pytest.mark.parametrize('name', NAMES)
def test_recipe(name):
    """What the name says is what the config builds."""
    config = load_config(FOLDER / f'{name}.py')
    cascade, masks = name.startswith('cascade'), 'mask_rcnn' in name
    tricks, deformable = 'tricks' in name, 'mdconv' in name
    resnet = '_caffe_' in name
    depth = int(name.split('_fpn')[0].removesuffix('_caffe').split('_')[-1][1:])

    model = build(config)
    backbone = model.backbone
    assert type(backbone).__name__ == ('ResNet' if resnet else 'ResNeSt')
    blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3)}[depth]
    stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    assert tuple(map(len, stages)) == blocks
    if resnet:
        first = backbone.layer2[0]
        assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    else:
        assert backbone.stem[0].out_channels == (32 if depth == 50 else 64)
        for i, stage in enumerate(stages):
            for block in stage:
                conv = block.conv2.conv
                assert conv.groups == 2
                offsets = getattr(conv, 'conv_offset', None)
                assert (offsets is not None) == (deformable and i > 0)
                if offsets is not None:
                    assert (offsets.out_channels, offsets.groups) == (54, 2)
                    assert conv.deform_groups == 2
    for key, value in (MSRA if resnet else IMAGENET).items():
        assert config.model.data_preprocessor[key] == value
    weights = f'detectron2/resnet{depth}_caffe' if resnet else f'resnest{depth}'
    assert config.model.backbone.init_cfg.checkpoint == f'open-mmlab://{weights}'

    head = model.roi_head
    box_heads = list(head.bbox_head) if cascade else [head.bbox_head]
    assert len(box_heads) == (3 if cascade else 1)
    stds = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (1 / 30, 1 / 30, 1 / 15, 1 / 15)]
    for box_head, expected in zip(box_heads, stds, strict=False):
        assert (len(box_head.shared_convs), len(box_head.shared_fcs)) == (4, 1)
        assert all(isinstance(conv.bn, NaiveSyncBN) for conv in box_head.shared_convs)
        assert box_head.fc_reg.out_features == (4 if cascade else 320)
        assert tuple(box_head.bbox_coder.stds) == expected
        assert type(box_head.loss_bbox).__name__ == 'L1Loss'
    if cascade:
        assert not head.resample and head.average_probs
        assert head.feature_grad_scale == pytest.approx(1 / 3)
        assert [stage.loss_weight for stage in head.stages] == [1, 1, 1]
        assert [stage.assigner.pos_iou_thr for stage in head.stages] == [0.5, 0.6, 0.7]
    assert model.with_mask == masks
    if masks:  # also in a cascade one head, the first stage's
        assert [stage.mask_head is not None for stage in head.stages][1:] in ([], [False, False])
        assert len(head.mask_head.convs) == (8 if tricks else 4)
        assert all(isinstance(conv.bn, NaiveSyncBN) for conv in head.mask_head.convs)
    for conv in (*model.neck.lateral_convs, *model.neck.fpn_convs):
        assert isinstance(conv.bn, NaiveSyncBN) and conv.conv.bias is None
    assert type(model.rpn_head.rpn_conv) is nn.Conv2d
    assert model.rpn_head.samples_per_img == 256 and not model.rpn_head.assigner.claimant_wins
    coders = [model.rpn_head.bbox_coder, *(stage.box_head.bbox_coder for stage in head.stages)]
    assert not any(coder.clamp_below for coder in coders) and not head.stages[0].sampler.gt_in_front
    assert config.model.train_cfg.rpn_proposal.max_per_img == (2000 if cascade else 1000)
    assert head.selector.drop_empty and not head.selector.nms_after_rescale

    kinds = [transform.type for transform in config.train_dataloader.dataset.pipeline]
    resize = next(t for t in config.train_dataloader.dataset.pipeline if 'Resize' in t.type)
    assert (resize.resize_type, resize.backend) == ('ResizeShortestEdge', 'pillow')
    assert ('RandomCrop' in kinds) == tricks
    sizes = [tuple(scale) for scale in resize.get('scale') or resize.get('scales')]
    if tricks:
        assert sizes == [(1440, 640), (1440, 864)] and resize.max_size == 1440
        assert kinds.index('RandomCrop') < kinds.index(resize.type)
    elif masks:
        assert resize.type == 'RandomChoiceResize' and resize.max_size == 1333
        assert sizes == [(1333, short) for short in range(640, 801, 32)]
    else:
        assert resize.type == 'RandomResize' and resize.max_size == 1333
        assert sizes == [(1333, 640), (1333, 800)]
    if masks:
        assert config.train_dataloader.dataset.pipeline[1].poly2mask is False
    assert config.test_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')

    steps = config.train_cfg.max_iters, config.param_scheduler[1].milestones
    assert steps == ((270_000, [240_000, 255_000]) if tricks else (90_000, [60_000, 80_000]))
    assert config.custom_hooks == [dict(type='PreciseBNHook', num_iters=200)]


def test_mmdetections_own_are_eight():
    assert sorted(name.split('_fpn_')[0] for name in MMDETECTION) == sorted(
        f'{system}_{backbone}'
        for system in ('faster_rcnn', 'cascade_rcnn', 'mask_rcnn', 'cascade_mask_rcnn')
        for backbone in ('s50', 's101')
    )


@pytest.mark.parametrize('name', MMDETECTION)
def test_recipe_of_mmdetection(name):
    """SyncBN in the backbone and the heads only, epochs, and no arithmetic of detectron2's."""
    config = load_config(name)
    cascade, masks, deep = name.startswith('cascade'), 'mask_rcnn' in name, '_s101_' in name
    model = build(config)
    assert type(model.backbone).__name__ == 'ResNeSt'
    assert model.backbone.stem[0].out_channels == (64 if deep else 32)
    assert tuple(map(len, (model.backbone.layer2, model.backbone.layer3))) == (4, 23 if deep else 6)
    for key, value in IMAGENET.items():
        assert config.model.data_preprocessor[key] == value
    weights = f'open-mmlab://resnest{101 if deep else 50}'
    assert config.model.backbone.init_cfg.checkpoint == weights
    norms = {key for key, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    parts = ['roi_head.bbox_head'] + ['roi_head.mask_head'] * masks
    assert {key.split('.')[0] for key in norms} == {'backbone', 'roi_head'}
    for part in parts:
        stages = [f'{part}.{i}.' for i in range(3)] if cascade else [f'{part}.']
        assert all(sum(key.startswith(stage) for key in norms) == 4 for stage in stages)
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert config.train_cfg.max_epochs == 12 and config.param_scheduler[1].milestones == [8, 11]
    assert not config.get('custom_hooks')
    resize = config.train_dataloader.dataset.pipeline[2]
    sizes = [tuple(scale) for scale in resize.get('scale') or resize.get('scales')]
    if masks:
        assert resize.type == 'RandomChoiceResize'
        assert sizes == [(1333, short) for short in range(640, 801, 32)]
    else:
        assert resize.type == 'RandomResize' and sizes == [(1333, 640), (1333, 800)]


@pytest.mark.parametrize('name', MMDETECTION)
def test_a_name_of_mmdetection_is_not_the_detectron2_model(name):
    new = name.replace('rcnn_', 'rcnn@').replace('_rcnn', '-rcnn').replace('cascade_', 'cascade-')
    new = new.replace('@', '_').replace('mstrain-range_', 'ms-range-').replace('mstrain_', 'ms-')
    model, fork = find_model(new), name.replace('backbone+head', 'all')
    assert model.name == name and model.layout == 'mmdetection'
    assert find_model(fork).layout == 'detectron2'
    assert find_model(fork).results != model.results


@pytest.mark.parametrize(
    'letter, name',
    [
        ('A', FASTER),
        ('B', 'cascade_mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco'),
        ('C', 'faster_rcnn_s50_fpn_mdconv_c3-c5_group2_syncbn-all_mstrain-range_1x_coco'),
    ],
)
def test_as_many_parameters_as_the_original(letter, name):
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    theirs = sum(
        math.prod(shape)
        for key, shape in golden_shapes(letter).items()
        if not key.endswith(buffers) and 'cell_anchors' not in key
    )
    assert num_parameters(build(load_config(name))) == theirs


@pytest.mark.parametrize('depth, millions', [(50, 25.43), (101, 46.23), (200, 68.15)])
def test_parameters_of_the_backbones(depth, millions):
    name = f'cascade_rcnn_s{depth}_fpn_syncbn-all_mstrain-range_1x_coco'
    model = build(load_config(name))
    assert num_parameters(model.backbone) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize('name', [FASTER, FASTER.replace('s50', 'r50_caffe')])
def test_stem_and_first_stage_are_constant_and_other_norms_train(name):
    model = build(load_config(name)).train()
    constant = 0
    for key, module in model.named_modules():
        frozen = key.startswith('backbone.') and not key.startswith(
            ('backbone.layer2', 'backbone.layer3', 'backbone.layer4')
        )
        if isinstance(module, _BatchNorm):
            assert module.training != frozen, key
            constant += frozen
        for parameter in module.parameters(recurse=False):
            assert parameter.requires_grad != frozen, key
    assert constant == (11 if 'r50' in name else 3 + 3 * 4 + 1)


def test_norms_do_not_decay_but_biases_do():
    config = load_config(FASTER)
    model = build(config)
    with DefaultScope.overwrite_default_scope(SCOPE):
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
    decay = {id(g['params'][0]): g['weight_decay'] for g in wrapper.optimizer.param_groups}
    seen = set()
    for key, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in decay and parameter.requires_grad:
                is_norm = isinstance(module, _BatchNorm)
                assert decay[id(parameter)] == (0 if is_norm else 1e-4), f'{key}.{name}'
                seen.add((is_norm, name))
    assert seen == {(norm, name) for norm in (True, False) for name in ('weight', 'bias')}


def test_learning_rate_is_detectron2s_step_by_step():
    """Linear from a thousandth to the full rate, which step 1000 has; a tenth from 60,000 on."""
    from mmengine.registry import PARAM_SCHEDULERS

    config = load_config(FASTER)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    schedulers = [
        PARAM_SCHEDULERS.build({**options, 'optimizer': optimizer})
        for options in config.param_scheduler
    ]
    assert not any(options['by_epoch'] for options in config.param_scheduler)
    rates = []
    for _ in range(60_002):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    alpha = np.arange(1001) / 1000
    np.testing.assert_allclose(rates[:1001], 0.02 * (0.001 * (1 - alpha) + alpha), rtol=1e-9)
    assert rates[1001] == rates[59_999] == pytest.approx(0.02)
    assert rates[60_000] == rates[60_001] == pytest.approx(0.002)


@torch.no_grad()
def test_new_layers_start_like_detectron2s():
    """FPN and fully connected layers uniform by fan-in, other convolutions normal by fan-out."""
    name = 'mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco'
    model = MODELS.build(load_config(name, {'model.backbone.init_cfg': None}).model)
    model.init_weights()
    box_head, mask_head = model.roi_head.bbox_head, model.roi_head.mask_head
    pyramid = [conv.conv for conv in (*model.neck.lateral_convs, *model.neck.fpn_convs)]
    for layer in (*pyramid, box_head.shared_fcs[0]):
        bound = (3 / layer.weight[0].numel()) ** 0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    he = {256 * 9: [conv.conv for conv in (*box_head.shared_convs, *mask_head.convs)]}
    he[256 * 4] = [mask_head.upsample]  # 2 x 2, and fan-out is in the second place there
    for fan, layers in he.items():
        for layer in layers:
            assert float(layer.weight.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    small = {0.01: box_head.fc_cls, 0.001: box_head.fc_reg}
    for std, layer in [*small.items(), (0.001, mask_head.conv_logits)]:
        assert float(layer.weight.std()) == pytest.approx(std, rel=0.03) and not layer.bias.any()


def test_originals_are_found_by_their_names():
    for name, entry in ENTRIES.items():
        file = entry['Weights'].rsplit('/', 1)[-1]
        assert file == file.strip() and entry['Weights'].startswith('https://')
        plain = name.removesuffix('_tta')
        for known in (*entry.get('Alias', ()), file, file.removesuffix('.pth')):
            assert find_model(known).name == plain
    assert 'Hash' not in ENTRIES[FASTER.replace('fpn_', 'fpn_mdconv_c3-c5_group2_')]
    assert find_model('mask_rcnn_ResNeSt_101_FPN_syncBN_1x').results == {
        'box AP': 45.75,
        'mask AP': 40.65,
    }


def test_views_of_the_multi_scale_test():
    (name,) = [name for name in NAMES if name.endswith('_tta')]
    config = load_config(name)
    assert config.tta_model.tta_cfg == dict(
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=100
    )
    assert config.model.test_cfg.rcnn.score_thr == 0.05
    views = TRANSFORMS.build(config.tta_pipeline[1])
    image = np.random.randint(0, 255, (30, 130, 3), np.uint8)
    results = views(
        dict(img=image, img_shape=(30, 130), ori_shape=(30, 130), img_path='', img_id=0)
    )
    shapes = {}
    for sample in results['data_samples']:
        shapes.setdefault(sample.flip, []).append(sample.img_shape)
    widths = [round(short * 130 / 30) for short in range(400, 901, 100)]
    expected = [(short, width) for short, width in zip(range(400, 901, 100), widths, strict=True)]
    assert shapes[False] == shapes[True] == [*expected, *[(923, 4000)] * 3]


def test_default_views_of_the_others():
    config = load_config(FASTER)
    pipeline = tta_pipeline(config, config.test_dataloader.dataset.pipeline)
    resizes, flips = pipeline[1].transforms[:2]
    assert [(r['scale'], r['max_size']) for r in resizes] == [(800, 1333), (400, 666), (1200, 2000)]
    assert all((r['type'], r['backend']) == ('ResizeShortestEdge', 'pillow') for r in resizes)
    assert len(flips) == 2


@pytest.mark.parametrize('name', ALL)
def test_config_is_readable_in_one_screen(name):
    lines = (FOLDER / f'{name}.py').read_text().splitlines()
    command = f'# bash tools/dist_train.sh configs/resnest/{name}.py 8'
    if name.endswith('_tta'):
        command = f'# python tools/test.py configs/resnest/{name}.py CHECKPOINT --tta'
    # box heads of three stages take more room
    heads = name in MMDETECTION and name.startswith('cascade')
    assert lines[0] == command and len(lines) <= (53 if heads else 40)


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_mmdetections_own_resnest_configs_build_with_the_same_state_dicts():
    code = """
import json, sys, mmdet, torch
from pathlib import Path
from mmengine.config import Config
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
register_all_modules()
out = {}
for file in sorted((Path(mmdet.__file__).parent / '.mim/configs/resnest').glob('*.py')):
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(file).model)
    out[str(file)] = {key: list(value.shape) for key, value in model.state_dict().items()}
print(json.dumps(out))
"""
    done = subprocess.run(
        [PEER, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert len(theirs) == 8
    for file, shapes in theirs.items():
        ours = {key: list(v.shape) for key, v in build(load_config(file)).state_dict().items()}
        assert ours == shapes, file
