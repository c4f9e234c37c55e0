"""Checkpoints of detectron2 and its forks: every name of four originals, containers, ImageNet
backbones, and files that do not belong to the model."""

import importlib.util
import io
import logging
import os
import pickle
import re
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import golden_fill, golden_shapes, save_training
from mmengine.config import Config
from published_files import SMALL, classifier, random, resnet, save, zeros
from test_zoo_upgrade import run
from torch import Tensor, nn

from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import checkpoint_weights, load_checkpoint, read_checkpoint, upgrade
from mmdet_r2.zoo.arrangement import dense_offsets, fitted
from mmdet_r2.zoo.detectron2 import DROPPED, convert, matches, note
from mmdet_r2.zoo.identify import backbone_keys, identify
from mmdet_r2.zoo.layouts import LAYOUTS, detect
from mmdet_r2.zoo.names import urls_of

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')

BN = dict(type='BN')
RESNEST = dict(type='ResNeSt', depth=50, norm_cfg=BN)
DCN = dict(
    dcn=dict(type='DCNv2', deform_groups=2, offset_groups=2),
    stage_with_dcn=(False, True, True, True),
)
RGB = dict(mean=[123.68, 116.779, 103.939], std=[58.393, 57.12, 57.375], bgr_to_rgb=True)
STAGE_3 = dict(type='DeltaXYWHBBoxCoder', target_stds=[1 / 30, 1 / 30, 1 / 15, 1 / 15])


# ------------------------------------------------------------------------------------------ models


def config(repo: Path, letter: str, **backbone) -> Config:
    """The original's model from our parts, as far as it is a detector."""
    base = dict(
        A='faster_rcnn_r50_fpn',
        B='cascade_mask_rcnn_r50_fpn',
        C='faster_rcnn_r50_fpn',
        D='mask_rcnn_r50_fpn',
    )[letter]
    cfg = Config.fromfile(repo / 'configs' / '_base_' / 'models' / f'{base}.py').model
    cfg.backbone.init_cfg = None
    if letter == 'D':
        cfg.backbone = dict(type='Res2Net', depth=101, style='caffe', norm_cfg=BN)
    else:
        cfg.data_preprocessor.update(RGB)
        cfg.backbone = RESNEST | (DCN if letter == 'C' else {})
        cfg.neck.norm_cfg = BN
        heads = cfg.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.update(type='ConvFCBBoxHead', num_shared_convs=4, num_shared_fcs=1, norm_cfg=BN)
        if letter == 'B':
            heads[2].bbox_coder = STAGE_3
            cfg.roi_head.mask_head.norm_cfg = BN
    cfg.backbone.update(backbone)
    return cfg


def build(cfg: dict, device: str = 'meta') -> nn.Module:
    init_scope()
    if 'DCNv2' in str(cfg):
        pytest.importorskip('mmcv.ops')
    with torch.device(device):
        model = MODELS.build(cfg)
    if 'data_preprocessor' in cfg:  # its numbers are looked at
        model.data_preprocessor = MODELS.build(cfg['data_preprocessor'])
    return model


def original(letter: str) -> OrderedDict[str, Tensor]:
    """An original's state dict whose tensors take no room and hold their number: entry 7 is all
    sevens. Only the colours are real."""
    weights = OrderedDict(
        (name, torch.tensor(float(i)).expand(shape))
        for i, (name, shape) in enumerate(golden_shapes(letter).items())
    )
    for name, shape in golden_shapes(letter).items():
        if name.startswith('pixel'):
            weights[name] = torch.from_numpy(golden_fill(name, shape, letter))
    return weights


# ------------------------------------------------------------------------- every name of originals

ANCHORS = [f'proposal_generator.anchor_generator.cell_anchors.{i}' for i in range(5)]


@pytest.mark.parametrize(
    ('letter', 'dropped'),
    [('A', ANCHORS), ('B', ANCHORS), ('C', ANCHORS), ('D', [*ANCHORS, 'pixel_mean', 'pixel_std'])],
)
def test_every_tensor_gets_a_name_of_ours_or_is_listed(letter, dropped) -> None:
    source = original(letter)
    assert matches(source) and detect(source).name == 'detectron2'
    assert {name for name in source if DROPPED.match(name)} == set(dropped)
    converted = convert(source, {})
    ours = re.compile(
        r'(backbone\.(stem|layer\d)|neck\.(lateral|fpn)_convs|rpn_head|roi_head|semantic_head)\.'
    )
    assert all(ours.match(name) for name in converted)
    numbers = sorted(
        int(value.flatten().amax())
        for name, value in converted.items()
        if not name.endswith('num_batches_tracked')
    )
    expected = [
        i
        for i, name in enumerate(source)
        if name not in dropped and not name.endswith('num_batches_tracked')
    ]
    assert numbers == expected, 'a tensor was lost, or two got one name'
    norms = {name[: -len('mean')] for name in converted if name.endswith('running_mean')}
    counters = {name for name in converted if name.endswith('num_batches_tracked')}
    assert len(counters) == len(norms) and all(converted[name].dim() == 0 for name in counters)


# Names there -> here, from what is known of both: a module of every kind.
PLACES = {
    'A': {
        'backbone.bottom_up.stem.conv1_1.weight': 'backbone.stem.0.weight',
        'backbone.bottom_up.stem.conv1_2.norm.running_var': 'backbone.stem.4.running_var',
        'backbone.bottom_up.stem.conv1_3.weight': 'backbone.stem.6.weight',
        'backbone.bottom_up.stem.conv1_3.norm.bias': 'backbone.stem.7.bias',
        'backbone.bottom_up.res2.0.shortcut.weight': 'backbone.layer1.0.downsample.1.weight',
        'backbone.bottom_up.res4.0.shortcut.norm.weight': 'backbone.layer3.0.downsample.2.weight',
        'backbone.bottom_up.res3.1.conv1.norm.weight': 'backbone.layer2.1.bn1.weight',
        'backbone.bottom_up.res5.2.conv2.conv.weight': 'backbone.layer4.2.conv2.conv.weight',
        'backbone.bottom_up.res5.2.conv2.bn0.bias': 'backbone.layer4.2.conv2.bn0.bias',
        'backbone.bottom_up.res5.2.conv2.fc1.bias': 'backbone.layer4.2.conv2.fc1.bias',
        'backbone.bottom_up.res5.2.conv2.bn1.bias': 'backbone.layer4.2.conv2.bn1.bias',
        'backbone.bottom_up.res5.2.conv2.fc2.weight': 'backbone.layer4.2.conv2.fc2.weight',
        'backbone.bottom_up.res5.2.conv3.norm.bias': 'backbone.layer4.2.bn3.bias',
        'backbone.fpn_lateral2.weight': 'neck.lateral_convs.0.conv.weight',
        'backbone.fpn_lateral5.norm.bias': 'neck.lateral_convs.3.bn.bias',
        'backbone.fpn_output3.weight': 'neck.fpn_convs.1.conv.weight',
        'backbone.fpn_output3.norm.running_mean': 'neck.fpn_convs.1.bn.running_mean',
        'proposal_generator.rpn_head.conv.bias': 'rpn_head.rpn_conv.bias',
        'proposal_generator.rpn_head.objectness_logits.weight': 'rpn_head.rpn_cls.weight',
        'proposal_generator.rpn_head.anchor_deltas.weight': 'rpn_head.rpn_reg.weight',
        'roi_heads.box_head.conv1.weight': 'roi_head.bbox_head.shared_convs.0.conv.weight',
        'roi_heads.box_head.conv4.norm.bias': 'roi_head.bbox_head.shared_convs.3.bn.bias',
        'roi_heads.box_head.fc1.weight': 'roi_head.bbox_head.shared_fcs.0.weight',
        'roi_heads.box_predictor.cls_score.bias': 'roi_head.bbox_head.fc_cls.bias',
        'roi_heads.box_predictor.bbox_pred.weight': 'roi_head.bbox_head.fc_reg.weight',
    },
    'B': {
        'roi_heads.box_head.0.conv2.weight': 'roi_head.bbox_head.0.shared_convs.1.conv.weight',
        'roi_heads.box_head.2.conv4.norm.bias': 'roi_head.bbox_head.2.shared_convs.3.bn.bias',
        'roi_heads.box_head.1.fc1.bias': 'roi_head.bbox_head.1.shared_fcs.0.bias',
        'roi_heads.box_predictor.2.cls_score.weight': 'roi_head.bbox_head.2.fc_cls.weight',
        'roi_heads.box_predictor.0.bbox_pred.bias': 'roi_head.bbox_head.0.fc_reg.bias',
        'roi_heads.mask_head.mask_fcn1.weight': 'roi_head.mask_head.convs.0.conv.weight',
        'roi_heads.mask_head.mask_fcn4.norm.bias': 'roi_head.mask_head.convs.3.bn.bias',
        'roi_heads.mask_head.deconv.weight': 'roi_head.mask_head.upsample.weight',
        'roi_heads.mask_head.predictor.bias': 'roi_head.mask_head.conv_logits.bias',
    },
    'C': {
        'backbone.bottom_up.res3.0.conv2_offset.bias': (
            'backbone.layer2.0.conv2.conv.conv_offset.bias'
        ),
        'backbone.bottom_up.res5.1.conv2.conv.weight': 'backbone.layer4.1.conv2.conv.weight',
    },
    'D': {
        'backbone.bottom_up.stem.conv1.0.weight': 'backbone.stem.0.weight',
        'backbone.bottom_up.stem.conv1.4.running_mean': 'backbone.stem.4.running_mean',
        'backbone.bottom_up.stem.conv1.6.weight': 'backbone.stem.6.weight',
        'backbone.bottom_up.stem.bn1.running_mean': 'backbone.stem.7.running_mean',
        'backbone.bottom_up.res2.0.shortcut.1.weight': 'backbone.layer1.0.downsample.1.weight',
        'backbone.bottom_up.res5.0.shortcut.1.norm.bias': 'backbone.layer4.0.downsample.2.bias',
        'backbone.bottom_up.res4.22.convs.2.weight': 'backbone.layer3.22.convs.2.weight',
        'backbone.bottom_up.res4.22.bns.2.bias': 'backbone.layer3.22.bns.2.bias',
        'backbone.bottom_up.res4.22.conv1.norm.bias': 'backbone.layer3.22.bn1.bias',
        'backbone.fpn_output5.bias': 'neck.fpn_convs.3.conv.bias',
        'roi_heads.box_head.fc2.weight': 'roi_head.bbox_head.shared_fcs.1.weight',
        'roi_heads.mask_head.mask_fcn3.bias': 'roi_head.mask_head.convs.2.conv.bias',
        'sem_seg_head.p2.0.weight': 'semantic_head.conv_upsample_layers.0.conv.0.conv.weight',
        'sem_seg_head.p3.0.norm.bias': 'semantic_head.conv_upsample_layers.1.conv.0.gn.bias',
        'sem_seg_head.p4.2.weight': 'semantic_head.conv_upsample_layers.2.conv.1.conv.weight',
        'sem_seg_head.p5.4.norm.weight': 'semantic_head.conv_upsample_layers.3.conv.2.gn.weight',
        'sem_seg_head.predictor.weight': 'semantic_head.conv_logits.weight',
    },
}


@pytest.mark.parametrize('letter', 'ABCD')
def test_every_kind_of_tensor_arrives_at_its_place(letter) -> None:
    source = original(letter)
    converted = convert(source, {})
    for theirs, ours in PLACES[letter].items():
        assert converted[ours].flatten()[0] == source[theirs].flatten()[0], theirs
        assert converted[ours].shape == source[theirs].shape


@pytest.mark.parametrize('letter', 'ABC')
def test_an_original_fills_our_model_exactly(letter, repo) -> None:
    weights = original(letter)
    report = load_checkpoint(build(config(repo, letter)), dict(model=weights), strict=True)
    assert report.complete and report.layout == 'detectron2'
    family = 'cascade_mask_rcnn' if letter == 'B' else 'faster_rcnn'
    assert str(report.found) == str(report.expected) == f'resnest50, {family}, 80 classes'


def test_the_panoptic_original_fills_a_mask_rcnn(repo) -> None:
    report = load_checkpoint(build(config(repo, 'D')), dict(model=original('D')))
    assert report.complete and report.note == ''
    assert len(report.unexpected) == 23
    assert all(name.startswith('semantic_head.') for name in report.unexpected)
    assert str(report.found) == 'res2net101_v1b_26w_4s, panoptic_fpn, 80 classes'


# ----------------------------------------------------------------------------------------- tensors


def test_things_become_the_last_semantic_class() -> None:
    weight, bias = torch.randn(54, 8, 1, 1), torch.arange(54.0)
    source = {'sem_seg_head.predictor.weight': weight, 'sem_seg_head.predictor.bias': bias}
    converted = convert(source, {})
    assert converted['semantic_head.conv_logits.bias'].tolist() == [*range(1, 54), 0]
    assert torch.equal(converted['semantic_head.conv_logits.weight'][53], weight[0])


@pytest.mark.parametrize('groups', [2, 4])
def test_a_dense_offset_convolution_computes_what_the_grouped_one_did(groups) -> None:
    width = 32
    weight, bias = (
        torch.randn(27 * groups, width // groups, 3, 3),
        torch.randn(27 * groups).double(),
    )
    name = 'layer2.0.conv2.conv.conv_offset.weight'
    source = {'layer2.0.conv1.weight': torch.zeros(width, 64, 1, 1), name: weight}
    dense = dense_offsets(source)
    x = torch.randn(2, width, 9, 7).double()
    torch.testing.assert_close(
        F.conv2d(x, dense[name].double(), bias, padding=1),
        F.conv2d(x, weight.double(), bias, padding=1, groups=groups),
    )
    assert torch.equal(fitted(dense, source)[name], weight), 'dense to grouped'
    assert torch.equal(fitted(source, dense)[name], dense[name]), 'grouped to dense'
    trained = {**dense, name: dense[name] + 1e-3}
    assert fitted(trained, source)[name] is trained[name], 'off its blocks it is not zero'


def test_a_model_with_dense_offsets_takes_the_fork_too(repo) -> None:
    weights = original('C')
    dense = config(repo, 'C', dcn=dict(type='DCNv2', deform_groups=2))
    assert load_checkpoint(build(dense), weights, strict=True).complete


@pytest.mark.parametrize(
    'theirs',
    ['bottom_up.stem.conv1', 'bottom_up.res2.0.conv1', 'bottom_up.res2.0.shortcut', 'fpn_output2'],
)
def test_group_norms_have_their_own_name(theirs) -> None:
    """Only batch norms have running statistics."""
    source = {f'backbone.{theirs}.norm.weight': torch.ones(4)}
    (ours,) = convert(source, {})
    numbered = dict(stem='gn1', conv1='gn1', shortcut='downsample.1', fpn_output2='gn')
    part = theirs.split('.')[1] if theirs.endswith('stem.conv1') else theirs.rpartition('.')[2]
    assert ours.endswith(f'.{numbered[part]}.weight')


def test_a_deep_stem_without_splits_follows_the_models_shortcuts() -> None:
    source = {
        'stem.conv1_1.weight': torch.zeros(8, 3, 3, 3),
        'res2.0.shortcut.weight': torch.zeros(64, 16, 1, 1),
        'res2.0.shortcut.norm.weight': torch.zeros(64),
    }
    pooled = {'backbone.layer1.0.downsample.1.weight': torch.zeros(64, 16, 1, 1)}
    assert 'layer1.0.downsample.2.weight' in convert(source, pooled)
    plain = {'backbone.layer1.0.downsample.1.weight': torch.zeros(64)}
    assert 'layer1.0.downsample.0.weight' in convert(source, plain)


# ------------------------------------------------------------------------------- small files


SMALL_RESNEST = dict(type='ResNeSt', depth=50, base_channels=16, norm_cfg=BN)


def fill(shapes: dict[str, torch.Size]) -> OrderedDict[str, Tensor]:
    return random(iter((name, tuple(shape)) for name, shape in shapes.items()))


def small_resnest(**options) -> OrderedDict[str, Tensor]:
    """A small ResNeSt's weights by our names."""
    model = build(SMALL_RESNEST | options)
    return fill({name: value.shape for name, value in model.state_dict().items()})


# ours -> detectron2's and torch's
D2_STEM = {
    'stem.0.': 'stem.conv1_1.',
    'stem.1.': 'stem.conv1_1.norm.',
    'stem.3.': 'stem.conv1_2.',
    'stem.4.': 'stem.conv1_2.norm.',
    'stem.6.': 'stem.conv1_3.',
    'stem.7.': 'stem.conv1_3.norm.',
    'downsample.1.': 'shortcut.',
    'downsample.2.': 'shortcut.norm.',
}
TORCH_STEM = {
    'stem.0.': 'conv1.0.',
    'stem.1.': 'conv1.1.',
    'stem.3.': 'conv1.3.',
    'stem.4.': 'conv1.4.',
    'stem.6.': 'conv1.6.',
    'stem.7.': 'bn1.',
}


def renamed(weights: dict[str, Tensor], table: dict[str, str]) -> OrderedDict[str, Tensor]:
    result = OrderedDict()
    for key, value in weights.items():
        for ours, theirs in table.items():
            key = re.sub(rf'(^|\.){re.escape(ours)}', rf'\g<1>{theirs}', key)
        result[key] = value
    return result


def d2_names(weights: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    result = OrderedDict()
    for key, value in renamed(weights, D2_STEM).items():
        key = re.sub(r'^layer(\d)', lambda m: f'res{int(m[1]) + 1}', key)
        result[re.sub(r'(res\d\.\d+)\.bn(\d)\.', r'\1.conv\2.norm.', key)] = value
    return result


def write_pickle(content: object, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def arrays(weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in weights.items()}


def backbone_from(path: object, **cfg) -> nn.Module:
    """A backbone initialised from the file by its config."""
    model = build({**cfg, 'init_cfg': dict(type='Pretrained', checkpoint=str(path))}, 'cpu')
    model.init_weights()
    return model


def assert_holds(model: nn.Module, weights: dict[str, Tensor]) -> None:
    state = model.state_dict()
    for key, value in weights.items():
        if not key.endswith('num_batches_tracked'):
            assert torch.equal(state[key], value), key


# --------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize('names', ['torch', 'detectron2', 'detectron2, in full', 'mmdetection'])
@pytest.mark.parametrize('container', ['flat', 'model', 'pickle'])
def test_resnest_files_fill_the_backbone(names, container, tmp_path) -> None:
    weights = small_resnest()
    theirs = {
        'torch': lambda: renamed(weights, TORCH_STEM) | random(classifier(SMALL)),
        'detectron2': lambda: d2_names(weights),
        'detectron2, in full': lambda: {
            f'backbone.bottom_up.{key}': value for key, value in d2_names(weights).items()
        },
        'mmdetection': lambda: weights,
    }[names]()
    if container == 'pickle':
        content = dict(model=arrays(theirs), __author__='third_party', matching_heuristics=True)
        path = write_pickle(content, tmp_path / 'a.pkl')
    else:
        path = save(theirs if container == 'flat' else dict(model=theirs), tmp_path / 'a.pth')
    assert_holds(backbone_from(path, **SMALL_RESNEST), weights)


def test_the_names_of_small_files_are_those_of_the_original() -> None:
    named = d2_names(zeros((k, tuple(v.shape)) for k, v in build(RESNEST).state_dict().items()))
    shapes = {f'backbone.bottom_up.{key}': tuple(value.shape) for key, value in named.items()}
    listed = {k: v for k, v in golden_shapes('A').items() if 'bottom_up' in k}
    for key, shape in listed.items():
        assert shapes[key] == shape
    assert all(key in listed or key.endswith('num_batches_tracked') for key in shapes)


def msra(size=SMALL) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """MSRA's ResNet as Caffe2 wrote it, and the same by our names."""
    weights = {
        key: value
        for key, value in random(resnet(size, counter=False)).items()
        if 'running' not in key
    }
    blobs = {}
    for key, value in weights.items():
        module, _, leaf = key.rpartition('.')
        if found := re.match(r'layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)', module):
            stage, block, kind, number = found.groups()
            norm = '_bn' if kind == 'bn' or (kind == 'downsample.' and number == '1') else ''
            branch = '1' if kind == 'downsample.' else '2' + 'abc'[int(number) - 1]
            blob = f'res{int(stage) + 1}_{block}_branch{branch}{norm}'
        else:
            blob = dict(conv1='conv1', bn1='res_conv1_bn')[module]
        short = 'b' if leaf == 'bias' else 's' if 'bn' in blob else 'w'
        blobs[f'{blob}_{short}'] = value.numpy()
    blobs['conv1_b'] = np.zeros(size.planes, np.float32)
    blobs['fc1000_w'] = np.zeros((1000, 32 * size.planes), np.float32)
    blobs['fc1000_b'] = np.zeros(1000, np.float32)
    blobs['conv1_w_momentum'] = np.zeros_like(blobs['conv1_w'])
    return blobs, weights


@pytest.mark.parametrize('container', ['flat', 'blobs', 'Python 2'])
def test_msra_pickles_fill_the_backbone(container, tmp_path, monkeypatch) -> None:
    blobs, weights = msra()
    assert 'res2_0_branch1_bn_s' in blobs and 'res5_2_branch2c_w' in blobs
    path = tmp_path / 'R-50.pkl'
    if container == 'Python 2':
        path.write_bytes(python2(blobs))
    else:
        write_pickle(dict(blobs=blobs, cfg='') if container == 'blobs' else blobs, path, 2)
    lines = []
    monkeypatch.setattr(
        'mmengine.logging.print_log', lambda text, logger, level: lines.append((level, text))
    )
    small = dict(type='ResNet', depth=50, base_channels=SMALL.planes)
    model = backbone_from(path, **small, style='caffe')
    assert_holds(model, weights)
    state = model.state_dict()
    for key in state:
        if key.endswith(('running_mean', 'running_var')):
            assert (state[key] == key.endswith('var')).all(), key
    (_, summary), (level, told) = (line for line in lines if line[1].startswith(str(path)))
    assert level == logging.INFO and 'of its kind take BGR' in told and "style='caffe'" not in told
    assert 'mean [103.53, 116.28, 123.675] and std [1, 1, 1]' in told
    assert summary.endswith('ignored: fc (2 tensors), conv1 (1 tensor)')
    lines.clear()
    backbone_from(path, **small, style='pytorch')
    assert any("style='caffe'" in text for _, text in lines)


def test_msra_files_are_found_by_detectron2s_names(tmp_path, monkeypatch) -> None:
    """A folder takes the place of the network."""
    blobs, weights = msra()
    folder = tmp_path / 'detectron2' / 'ImageNetPretrained' / 'MSRA'
    folder.mkdir(parents=True)
    write_pickle(blobs, folder / 'R-50.pkl')
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    source = 'detectron2://ImageNetPretrained/MSRA/R-50.pkl'
    address = 'https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl'
    assert urls_of(source) == [address]
    for name in (source, address):
        small = dict(type='ResNet', depth=50, base_channels=SMALL.planes, style='caffe')
        assert_holds(backbone_from(name, **small), weights)


def test_resnests_files_are_at_two_places() -> None:
    hosts = (
        'https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/',
        'https://s3.us-west-1.wasabisys.com/resnest/torch/',
    )
    for host in hosts:
        file = 'resnest50-528c19ca.pth'
        assert urls_of(host + file) == [other + file for other in hosts]
    hosts = (
        'https://s3.us-west-1.wasabisys.com/resnest/detectron/',
        'https://hangzh.s3.amazonaws.com/detectron/',
    )
    detectors = [f'{host}a-fde56e2b.pth' for host in hosts]
    assert urls_of(f'{detectors[0]} ') == detectors, 'a published link ends in a blank'


# -------------------------------------------------------------------------------------- containers


def python2(content: object) -> bytes:
    """A pickle as Python 2 wrote it: names and bytes are both text without an encoding."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def text(self, value) -> None:
            value = value.encode('latin1') if isinstance(value, str) else value
            self.write(pickle.BINSTRING + len(value).to_bytes(4, 'little') + value)

        dispatch[str] = dispatch[bytes] = text

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue()


ARRAYS = {
    'plain': np.arange(6, dtype=np.float32).reshape(2, 3),
    'by columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'big endian': np.arange(6, dtype='>f4'),
    'half': np.ones(3, np.float16),
    'whole': np.array([2**40, -1]),
    'flags': np.array([True, False]),
    'scalar': np.array(7),
    'empty': np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5, 'Python 2'])
def test_pickles_of_arrays_are_read_as_they_were_written(protocol, tmp_path) -> None:
    content = dict(
        model=ARRAYS,
        __author__='Detectron2 Model Zoo',
        matching_heuristics=True,
        number=np.float32(2.5),
        rest=[1, (2.5, None), {'a': OrderedDict(b=1)}],
    )
    path = tmp_path / 'model_0089999.pkl'
    path.write_bytes(
        python2(content) if protocol == 'Python 2' else pickle.dumps(content, protocol)
    )
    read = read_checkpoint(path)
    assert {k: v for k, v in read.items() if k != 'model'} == {
        k: v for k, v in content.items() if k != 'model'
    }
    weights = checkpoint_weights(read)
    assert weights.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert read['model'][key].dtype == array.dtype
        assert np.array_equal(weights[key].numpy(), array) and weights[key].shape == array.shape


def test_training_checkpoints_may_hold_arrays_or_tensors(repo, tmp_path) -> None:
    weights = d2_names(small_resnest())
    weights = OrderedDict((f'backbone.bottom_up.{key}', value) for key, value in weights.items())
    weights['proposal_generator.anchor_generator.cell_anchors.0'] = torch.zeros(3, 4)
    for name, content in (('tensors', weights), ('arrays', arrays(weights))):
        path = save_training(content, tmp_path / f'{name}.pth')
        model = backbone_from(path, **SMALL_RESNEST)
        assert_holds(model, small_resnest())


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize('suffix', ['.pkl', '.pth'])
@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('name', ['system', 'exec', 'loads', 'load', 'getattr', 'Popen'])
def test_foreign_code_in_a_pickle_is_named_and_never_run(name, protocol, suffix, tmp_path) -> None:
    victim = tmp_path / 'created'
    touch = f'touch {victim}'
    attack = {
        'system': Call(os.system, touch),
        'exec': Call(exec, f'open({str(victim)!r}, "w")'),
        'loads': Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        'load': Call(np.load, str(victim)),
        'getattr': Call(getattr, np.ndarray, 'tofile'),
        'Popen': Call(subprocess.Popen, touch, -1, None, None, None, None, None, True, True),
    }[name]
    content = dict(model=dict(a=np.ones(3)), extra=attack)
    path = write_pickle(content, tmp_path / f'evil{suffix}', protocol)
    if protocol == 0 and suffix == '.pth':
        expected = 'not a PyTorch checkpoint'  # nothing marks it as a pickle
    else:
        expected = rf'evil.* refused: it needs [\w.]*{name}, which is not on the list'
    with pytest.raises(CheckpointError, match=expected) as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)
    assert not victim.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path) -> None:
    """Opcodes may set attributes of whatever they were given."""
    build_on_class = (
        b'\x80\x02cnumpy\ndtype\nN}q\x00(X\x05\x00\x00\x00numpyK\x01X\x04\x00\x00\x00codeK\x02u'
        b'\x86b.'
    )
    path = tmp_path / 'a.pkl'
    path.write_bytes(build_on_class)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    good = write_pickle(dict(a=np.ones(2, np.float32)), tmp_path / 'b.pkl')
    assert read_checkpoint(good)['a'].tolist() == [1, 1]
    assert np.dtype('f4').itemsize == 4


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ([1, 2], 'holds a list'),
        (dict(a=np.array([{}, None])), "refused: it needs a numpy array of 'O8'"),
        (dict(a=np.zeros(2, 'f4,i4')), "refused: it needs a numpy array of 'V8'"),
        (dict(a=torch.ones(2)), r'refused: it needs torch\.'),
        (dict(a='text'), r'has no weights; found a'),
    ],
    ids=['list', 'objects', 'records', 'tensors', 'no arrays'],
)
def test_other_pickles_are_one_line(content, expected, tmp_path) -> None:
    path = write_pickle(content, tmp_path / 'a.pkl')
    with pytest.raises(CheckpointError, match=expected) as error:
        load_checkpoint(nn.Linear(1, 1), path)
    assert '\n' not in str(error.value) and 'a.pkl' in str(error.value)


@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.999])
def test_a_cut_pickle_is_told(part, tmp_path) -> None:
    whole = pickle.dumps(dict(model={'a': np.random.rand(64, 64)}))
    path = tmp_path / 'cut.pkl'
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match=r'cut\.pkl: .*(cut short|empty)') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def test_a_shape_that_does_not_fit_its_bytes_is_damage(tmp_path) -> None:
    whole = pickle.dumps(dict(a=np.arange(12, dtype=np.float32)), 2)
    path = tmp_path / 'a.pkl'
    path.write_bytes(whole.replace(b'K\x0c\x85', b'K\x7f\x85'))
    with pytest.raises(CheckpointError, match='48 bytes for an array'):
        read_checkpoint(path)


# ------------------------------------------------------------------- cascades and what is said


def test_one_mask_head_serves_every_stage(repo) -> None:
    model = build(config(repo, 'B'))
    weights = original('B')
    converted = fitted(convert(weights, {}), model.state_dict())
    number = weights['roi_heads.mask_head.mask_fcn2.weight'].flatten()[0]
    for stage in range(3):
        name = f'roi_head.mask_head.{stage}.convs.1.conv.weight'
        assert converted[name].flatten()[0] == number
    report = load_checkpoint(model, weights, strict=True)
    assert report.note == (
        'converted from detectron2: its one mask head was copied to 3 stages: the masks are the '
        'same, but trained on, they part'
    )


def test_one_mask_head_stays_one_where_the_model_has_one(repo) -> None:
    """A cascade whose mask head is a module, not a list."""
    converted = convert(original('B'), {})
    target = {name: value for name, value in converted.items() if 'mask_head' in name}
    assert fitted(converted, target).keys() == converted.keys()


def test_a_mask_rcnn_gives_no_mask_heads_to_a_cascade(repo) -> None:
    converted = convert(original('D'), {})
    target = build(config(repo, 'B')).state_dict()
    assert fitted(converted, target).keys() == converted.keys()


@pytest.mark.parametrize(
    ('letter', 'change', 'expected'),
    [
        ('A', {}, ''),
        ('A', dict(data_preprocessor=dict(bgr_to_rgb=False)), 'of its kind take RGB '),
        ('A', dict(data_preprocessor=dict(std=[1.0, 1, 1])), 'std [58.393, 57.12, 57.375]'),
        ('D', {}, ''),
        (
            'D',
            dict(data_preprocessor=dict(mean=[0.0, 0, 0])),
            'its images were RGB (data_preprocessor',
        ),
        ('D', dict(backbone=dict(style='pytorch')), "(backbone.style='caffe')"),
        ('B', {}, 'its one mask head'),
        ('B', 'stds', 'its third stage scales boxes by 1/30 and 1/15'),
    ],
)
def test_what_weights_do_not_say_is_noted_where_the_model_differs(
    letter, change, expected, repo
) -> None:
    cfg = config(repo, letter)
    if change == 'stds':
        cfg.roi_head.bbox_head[2].bbox_coder.target_stds = [0.033, 0.033, 0.067, 0.067]
    else:
        for part, values in change.items():
            cfg[part].update(values)
    source = original(letter)
    text = note(source, build(cfg))
    assert expected in text if expected else text == ''
    if expected and letter != 'B':
        assert text.count(';') == 0


def test_a_plain_resnet_of_detectron2_is_msras(repo) -> None:
    """Its names do not say more: blue first, deviation 1, stride in the first 1x1."""
    source = {'backbone.bottom_up.stem.conv1.weight': torch.zeros(64, 3, 7, 7)}
    text = note(source, None)
    assert 'BGR (data_preprocessor.bgr_to_rgb=False)' in text and 'std [1, 1, 1]' in text
    assert "backbone.style='caffe'" in text
    cfg = Config.fromfile(repo / 'configs/_base_/models/faster_rcnn_r50_fpn.py').model
    cfg.backbone.init_cfg = None
    cfg.backbone.style = 'caffe'
    cfg.data_preprocessor.update(mean=[103.53, 116.28, 123.675], std=[1.0, 1, 1], bgr_to_rgb=False)
    assert note(source, build(cfg)) == ''


# --------------------------------------------------------------------------------------- bad input


def refusal(model: nn.Module, weights: dict[str, Tensor]) -> str:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, weights)
    assert '\n' not in str(error.value)
    assert all(v.is_meta or torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize(
    ('file', 'model', 'expected'),
    [
        (dict(depth=101), {}, ['resnest101', 'depth=101', 'backbone.stem_channels=32']),
        ({}, dict(depth=101), ['resnest50', 'backbone.depth=50']),
        (dict(depth=200), dict(depth=101), ['resnest200', 'backbone.depth=200']),
        (dict(depth=269), dict(depth=200), ['resnest269', 'backbone.depth=269']),
        (dict(radix=4), {}, ['resnest50_4s1x64d', 'backbone.radix=4']),
        (dict(radix=1), {}, ['resnest50_1s1x64d', 'backbone.radix=1']),
        (
            dict(groups=2, base_width=8),
            {},
            ['resnest50_2s2x8d', 'backbone.groups=2, backbone.base_width=8'],
        ),
        ({}, dict(type='ResNet'), ["backbone.type='ResNeSt', backbone.radix=2"]),
    ],
)
def test_another_depth_or_radix_is_refused_by_name(file, model, expected) -> None:
    weights = d2_names(small_resnest(**file))
    text = refusal(build(SMALL_RESNEST | model), weights)
    for part in expected:
        assert part in text, text


def test_a_deeper_file_is_refused_though_every_tensor_of_the_model_is_in_it() -> None:
    deeper = build(dict(type='ResNet', depth=101, base_channels=16)).state_dict()
    weights = fill({key: value.shape for key, value in deeper.items()})
    text = refusal(build(dict(type='ResNet', depth=50, base_channels=16)), weights)
    assert 'its backbone is another one; it looks like resnet101, the model is resnet50' in text
    assert 'the file needs backbone.depth=101' in text
    three = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    model = build(dict(type='ResNet', depth=101, base_channels=16, **three))
    assert load_checkpoint(model, weights).complete, 'a stage that is not built'


def test_deformable_files_and_models_without_offsets(repo) -> None:
    weights = original('C')
    report = load_checkpoint(build(config(repo, 'A')), weights)
    assert not report.complete and 'trained with backbone.conv_offset' in str(report)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(build(config(repo, 'A')), weights, strict=True)
    needs = "dcn={'type': 'DCNv2', 'deform_groups': 2}, backbone.stage_with_dcn=(False, True, "
    assert needs in str(error.value)


def test_architectures_are_read_from_the_weights(repo) -> None:
    shapes = {k: v for k, v in build(RESNEST | DCN).state_dict().items()}
    assert backbone_keys(shapes) == dict(
        type='ResNeSt', depth=50, radix=2, groups=1, stem_channels=64, **DCN
    )
    assert identify(convert(original('B'), {})) == ('resnest50', 'cascade_mask_rcnn', 80)
    for depth in (101, 200, 269):
        keys = backbone_keys(build(RESNEST | dict(depth=depth)).state_dict())
        assert keys['depth'] == depth and keys['stem_channels'] == 128


def test_layouts_do_not_take_each_others_files() -> None:
    ours = small_resnest()
    cases = {
        'mmdetection': ours,
        'ImageNet, deep stem': renamed(ours, TORCH_STEM),
        'detectron2': d2_names(ours),
        'Caffe2': checkpoint_weights(msra()[0]),
    }
    for name, weights in cases.items():
        matching = [layout.name for layout in LAYOUTS[:-1] if layout.matches(weights)]
        assert matching == ([] if name == 'mmdetection' else [name])
    other = {name: torch.zeros(shape, device='meta') for name, shape in golden_shapes('E').items()}
    assert not matches(other), "maskrcnn-benchmark's"


@pytest.mark.parametrize('letter', 'ABCDE')
def test_golden_weights_are_those_of_the_recording(letter, repo) -> None:
    """By the program that filled the originals, where it is at hand."""
    folder = Path(os.environ.get('MMDET_R2_GOLDEN') or repo.parent / 'shared' / 'golden')
    if not (folder / 'fill.py').is_file():
        pytest.skip(f'no fill.py in {folder} (set MMDET_R2_GOLDEN)')
    spec = importlib.util.spec_from_file_location('fill', folder / 'fill.py')
    recorded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorded)
    for name, shape in golden_shapes(letter).items():
        expected = recorded.fill(name, shape, letter) if np.prod(shape) < 2e5 else None
        if expected is not None:
            assert np.array_equal(golden_fill(name, shape, letter), expected), name


# ----------------------------------------------------------------------------------------- the tool


def test_a_converted_file_loads_where_the_original_did(repo, tmp_path) -> None:
    """Dense offsets become grouped again, and nothing is lost."""
    options = SMALL_RESNEST | DCN
    weights = small_resnest(**DCN)
    theirs = d2_names(weights)
    for key in list(theirs):
        if 'conv_offset' in key:
            theirs[key.replace('conv2.conv.conv_offset', 'conv2_offset')] = theirs.pop(key)
    old = write_pickle(dict(model=arrays(theirs), __author__='x'), tmp_path / 'old.pkl')
    done = run(repo, old, tmp_path / 'new.pth')
    assert done.returncode == 0, done.stderr
    assert "layout 'detectron2', resnest50" in done.stdout and 'take RGB' in done.stdout
    content = read_checkpoint(tmp_path / 'new.pth')
    assert content['meta'] == dict(converted_from='detectron2')
    name = 'layer2.0.conv2.conv.conv_offset.weight'
    assert content['state_dict'][name].shape == (54, 32, 3, 3)
    model = build(options, 'cpu')
    assert load_checkpoint(model, tmp_path / 'new.pth', strict=True).layout == 'mmdetection'
    assert_holds(model, weights)


def test_msra_files_are_converted_too(tmp_path) -> None:
    blobs, weights = msra()
    content, text = upgrade(write_pickle(blobs, tmp_path / 'R-50.pkl', 2))
    assert "layout 'Caffe2', resnet50" in text and "backbone.style='caffe'" in text
    assert all(torch.equal(content['state_dict'][key], value) for key, value in weights.items())
    assert not any('momentum' in key for key in content['state_dict'])
