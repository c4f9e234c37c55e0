"""Configs in mmengine's pure-Python style, mapped onto our components without mmdetection."""

import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from warm_python import python

from mmdet_r2.config import load_config, origin_of, origins
from mmdet_r2.config_check import known_keys
from mmdet_r2.config_imports import registered_name
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS, init_scope

MODEL = """
from mmcv.ops import RoIAlign, nms
from mmengine.model.weight_init import PretrainedInit
from torch.nn import BatchNorm2d, ReLU

import mmdet.models as models
import mmdet.models.losses
from mmdet.models.backbones.resnet import ResNet
from mmdet.models.detectors.faster_rcnn import FasterRCNN as Detector
from mmdet.models.necks.fpn import \\
    FPN

width = 256
model = dict(
    type=Detector,
    backbone=dict(
        type=ResNet,
        depth=50,
        norm_cfg=dict(type=BatchNorm2d, requires_grad=True),
        init_cfg=dict(type=PretrainedInit, checkpoint='torchvision://resnet50')),
    neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048], out_channels=width, num_outs=5),
    roi_head=dict(
        type=models.StandardRoIHead,
        bbox_roi_extractor=dict(
            type=models.roi_heads.SingleRoIExtractor,
            roi_layer=dict(type=RoIAlign, output_size=7, sampling_ratio=0),
            out_channels=width,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=width,
            num_classes=80,
            loss_cls=dict(type=mmdet.models.losses.CrossEntropyLoss, use_sigmoid=False),
            loss_bbox=dict(type='mmdet.models.losses.smooth_l1_loss.L1Loss'))),
    test_cfg=dict(rcnn=dict(score_thr=0.05, nms=dict(type=nms, iou_threshold=0.5))))
"""
SCHEDULE = """
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim.optimizer.optimizer_wrapper import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LinearLR, MultiStepLR
from mmengine.runner.loops import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim.sgd import SGD

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type=MultiStepLR, begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9))
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=50), checkpoint=dict(type=CheckpointHook))
default_scope = None
"""
CHILD = """
from mmengine.config import read_base

with read_base():
    from .._base_.model import *
    from .._base_.schedule import optim_wrapper, param_scheduler as schedule
    from .._base_.schedule import *

from copy import deepcopy
from mmdet.models import ResNeXt

model.backbone.depth = 101
model.merge(dict(backbone=dict(type=ResNeXt, groups=32, base_width=4), neck=dict(num_outs=6)))
optim_wrapper.update(dict(clip_grad=dict(max_norm=35)))
optim_wrapper.optimizer.lr = 0.01
schedule[0].update(end=100)
backbones = [ResNeXt, ResNet]
norm = deepcopy(model.backbone.norm_cfg)
model.neck.norm_cfg = norm
"""


def write(folder: Path, **files: str) -> Path:
    """Files by stem; the path of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / f'{name}.py'
        path.write_text(text)
    return path


@pytest.fixture
def child(tmp_path: Path) -> Path:
    write(tmp_path / '_base_', model=MODEL, schedule=SCHEDULE)
    return write(tmp_path / 'faster_rcnn', child=CHILD)


def problem_of(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_classes_become_our_names(child: Path) -> None:
    config = load_config(child)
    model = config.model
    assert model.type == 'FasterRCNN' and model.backbone.type == 'ResNeXt'
    assert model.backbone.depth == 101 and model.neck.num_outs == 6
    assert model.backbone.init_cfg.type == 'Pretrained'
    assert MODELS.get(model.neck.norm_cfg.type) is torch.nn.BatchNorm2d
    assert model.roi_head.type == 'StandardRoIHead'
    assert model.roi_head.bbox_roi_extractor.type == 'SingleRoIExtractor'
    assert model.roi_head.bbox_roi_extractor.roi_layer.type == 'RoIAlign'
    assert model.roi_head.bbox_head.loss_cls.type == 'CrossEntropyLoss'
    assert model.roi_head.bbox_head.loss_bbox.type == 'L1Loss'
    assert model.test_cfg.rcnn.nms.type == 'nms'
    assert config.optim_wrapper.optimizer == {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9}
    assert config.optim_wrapper.clip_grad.max_norm == 35
    assert config.param_scheduler[1].type == 'MultiStepLR'
    assert config.train_cfg.type == 'EpochBasedTrainLoop'
    assert config.default_hooks.checkpoint.type == 'CheckpointHook'
    assert config.default_scope == 'mmdet_r2'
    assert not {'ResNet', 'SGD', 'read_base', 'deepcopy', 'models', 'mmdet'} & set(config)
    init_scope()
    model.backbone.init_cfg = None
    with torch.device('meta'):
        MODELS.build(model)


def test_overrides_dump_and_provenance(child: Path, tmp_path: Path) -> None:
    key = 'model.backbone.depth'
    config = load_config(child, {key: 50, 'param_scheduler.0.end': 7})
    assert config.model.backbone.depth == 50 and config.param_scheduler[0].end == 7
    with pytest.raises(ConfigError, match='dept'):
        load_config(child, {'model.backbone.dept': 50})
    with pytest.raises(ConfigError, match='width'):
        load_config(child, {'width': 50})
    known_keys(config).dump(str(tmp_path / 'dumped.py'))
    again = load_config(tmp_path / 'dumped.py')
    assert again.model == config.model and again.param_scheduler == config.param_scheduler
    assert Config.fromstring(config.pretty_text, '.py').model == config.model
    places = origin_of(origins(child), key)
    assert places[-1].file == str(child) and places[-1].line == 12
    (place,) = origin_of(origins(child), 'model.test_cfg.rcnn.score_thr')
    assert place.file.endswith('model.py')


def test_a_config_that_mmengine_read(tmp_path: Path) -> None:
    path = write(tmp_path, schedule=SCHEDULE)
    config = load_config(Config.fromfile(path))
    assert config.optim_wrapper.optimizer.type == 'SGD' and 'SGD' not in config
    assert config.optim_wrapper == load_config(path).optim_wrapper


def test_bases_of_mmdetection_are_ours(tmp_path: Path) -> None:
    text = """
from mmengine.config import read_base
with read_base():
    from mmdet.configs._base_.models.mask_rcnn_r50_fpn import *
    from mmdet.configs._base_.datasets.coco_instance import *
    from mmdet.configs._base_.default_runtime import *
    from mmdet.configs._base_.schedules.schedule_1x import *
"""
    config = load_config(write(tmp_path, mine=text))
    ours = load_config('mask_rcnn_r50_fpn_1x_coco')
    for key in ('model', 'train_dataloader', 'optim_wrapper', 'default_hooks', 'val_evaluator'):
        assert config[key] == ours[key], key
    text = """
from mmengine.config import read_base
with read_base():
    from mmdet.configs.mask_rcnn.mask_rcnn_r50_fpn_1x_coco import *
model.roi_head.bbox_head.num_classes = 3
"""
    config = load_config(write(tmp_path, mine=text))
    assert config.model.roi_head.bbox_head.num_classes == 3
    assert config.model.backbone == ours.model.backbone


def test_bases_beside_go_before_ours(tmp_path: Path) -> None:
    """As in a checkout of mmdetection: nothing of it is run but the config files."""
    root = tmp_path / 'mmdetection' / 'mmdet'
    write(root, __init__="raise RuntimeError('mmdetection was imported')")
    write(root / 'configs' / '_base_' / 'schedules', schedule_1x=SCHEDULE.replace('0.02', '0.5'))
    text = """
from mmengine.config import read_base
with read_base():
    from mmdet.configs._base_.schedules.schedule_1x import *
"""
    path = write(root / 'configs' / 'mask_rcnn', mine=text)
    assert load_config(path).optim_wrapper.optimizer.lr == 0.5


def test_classes_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / 'pure_python_user',
        __init__='',
        necks='from mmdet_r2.models.fpn import FPN\nclass MyFPN(FPN):\n    """One of mine."""\n',
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = """
from pure_python_user.necks import MyFPN
model = dict(type=MyFPN, in_channels=[8], out_channels=8, num_outs=1)
"""
    config = load_config(write(tmp_path, mine=text))
    assert config.model.type == 'pure_python_user.necks.MyFPN'
    init_scope()
    assert type(MODELS.build(config.model)).__name__ == 'MyFPN'
    assert 'num_out' in problem_of(write(tmp_path, mine=text.replace('num_outs', 'num_out')))


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('from mmdet.models import RetinaNet\nmodel = dict(type=RetinaNet)', 'RetinaNet'),
        ('from no_such_package import Head\nmodel = dict(type=Head)', 'no_such_package'),
        ('from .head import Head\nmodel = dict(type=Head)', 'relative import'),
        ('from torch.nn import *\n', 'import *'),
        ('import numpy as np\nwork_dir = np.str_("x")', 'numpy'),
        (
            'from mmengine.config import read_base\nwith read_base():\n    from .gone import *',
            'gone',
        ),
        (
            'from mmengine.config import read_base\nwith read_base():\n'
            '    from mmdet.configs.yolo.yolov3 import *',
            'yolov3',
        ),
        (
            'from mmengine.config import read_base\nwith read_base():\n    from .bad import *',
            'back',
        ),
        ('from mmengine.config import read_base\nwith read_base():\n    import x', 'line 3'),
        ('from mmengine.config import read_base\nwith read_base():\n    from .ok import y', ' y'),
        ('from torch.optim import SGD\noptim_wraper = dict(type=SGD)', 'optim_wraper'),
        ('from mmdet.models import x\nmodel = dict(type="FPN", in_channels=x)', 'mmdet.models.x'),
        ('from torch.optim import SGD\nwork_dir = SGD.x.y + 1', 'bad.py'),
    ],
)
def test_one_that_does_not_run(text: str, word: str, tmp_path: Path) -> None:
    write(tmp_path, ok='log_level = "INFO"\n')
    assert word in problem_of(write(tmp_path, bad=text))


@pytest.mark.parametrize(
    ('dotted', 'name'),
    [
        ('torch.optim.adamw.AdamW', 'AdamW'),
        ('mmengine.model.weight_init.PretrainedInit', 'Pretrained'),
        ('mmcv.transforms.loading.LoadImageFromFile', 'LoadImageFromFile'),
        ('torch.nn.GroupNorm', 'GN'),
        ('torch.nn.SyncBatchNorm', 'torch.nn.SyncBatchNorm'),
        ('torch.utils.data.Subset', 'torch.utils.data.Subset'),
        ('someone.else.ResNet', 'someone.else.ResNet'),
        ('ResNet', 'ResNet'),
    ],
)
def test_registered_name(dotted: str, name: str) -> None:
    assert registered_name(dotted) == name


def test_print_config(child: Path, repo: Path) -> None:
    command = [python(), str(repo / 'tools/misc/print_config.py'), str(child)]
    done = subprocess.run(
        [*command, '--origin', 'model.backbone'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'ResNeXt' in done.stdout and 'child.py' in done.stdout
