"""Finding, reading, overriding and re-scoping configs, and telling where a value comes from."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from warm_python import python

from mmdet_r2 import config_check
from mmdet_r2.config import find_config, load_config, origin_of, origins, shipped_configs
from mmdet_r2.config_check import _one_letter_apart, check_config
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError

BASE = """
data_root = 'data/'
width = 64
model = dict(
    type='FPN',
    in_channels=[width, width],
    out_channels=width,
    num_outs=2)
randomness = dict(seed=1)
"""
CHILD = """
_base_ = './base.py'
model = dict(out_channels=32)
work_dir = {{_base_.data_root}}
"""


def write(folder: Path, **files: str) -> Path:
    """Files by stem; the path of the last."""
    for name, text in files.items():
        path = folder / f'{name}.py'
        path.write_text(text)
    return path


def problem_of(path: Path | Config, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert '\n' not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_r2_101_fpn_2x_coco',
        'mask_rcnn_r2_101_fpn_2x_coco.py',
        'mask-rcnn_r50_fpn_1x_coco',
        'faster-rcnn_res2net-101_fpn_2x_coco',
    ],
)
def test_config_by_published_name_or_that_of_3x(name: str) -> None:
    found = find_config(name)
    assert found.is_file()
    assert found.stem.replace('r2', 'res2net').replace('_', '') == (
        name.removesuffix('.py').replace('r2', 'res2net').replace('_', '').replace('-', '')
    )


def test_unknown_name_has_the_nearest() -> None:
    assert 'mask_rcnn_r50_fpn_1x_coco' in problem_of('mask_rcnn_r50_fnp_1x_coco')


def test_missing_path_is_not_replaced_by_a_shipped_config(tmp_path: Path) -> None:
    problem_of(tmp_path / 'mask_rcnn_r50_fpn_1x_coco.py')


def test_every_shipped_config_is_clean() -> None:
    names = shipped_configs()
    assert len(names) > 20
    for path in names.values():
        load_config(path)


# ---------------------------------------------------------------------------------------- reading


def test_inheritance_deletion_and_variables_of_the_base(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base=BASE,
        child=CHILD,
        grandchild="_base_ = 'child.py'\nrandomness = dict(_delete_=True, deterministic=True)\n",
    )
    config = load_config(path)
    assert config.model.out_channels == 32 and config.model.num_outs == 2
    assert config.work_dir == 'data/'
    assert config.randomness == {'deterministic': True}
    assert config.default_scope == 'mmdet_r2'


def test_overrides_reach_lists() -> None:
    key = 'train_dataloader.dataset.pipeline.2.keep_ratio'
    config = load_config('faster_rcnn_r50_fpn_1x_coco', {key: False})
    assert config.train_dataloader.dataset.pipeline[2].keep_ratio is False
    assert 'give the whole list' in problem_of(
        'faster_rcnn_r50_fpn_1x_coco', {'model.neck.in_channels.1': 7}
    )
    assert 'pipeline' in problem_of(
        'faster_rcnn_r50_fpn_1x_coco', {'train_dataloader.dataset.pipeline.99.prob': 7}
    )


def test_a_config_object_is_left_alone(tmp_path: Path) -> None:
    config = Config.fromfile(write(tmp_path, base=BASE, child=CHILD))
    loaded = load_config(config, {'model.out_channels': 8})
    assert config.model.out_channels == 32 and loaded.model.out_channels == 8
    assert 'default_scope' not in config


def test_scope_of_mmdetection_becomes_ours(tmp_path: Path) -> None:
    text = """
default_scope = 'mmdet'
custom_imports = dict(imports=['mmdet.models.backbones', 'json'], allow_failed_imports=False)
model = dict(type='mmdet.FPN', _scope_='mmdet', in_channels=[8], out_channels=8, num_outs=1)
"""
    config = load_config(write(tmp_path, base=text))
    assert config.model.type == 'FPN' and '_scope_' not in config.model
    assert config.default_scope == 'mmdet_r2'
    assert config.custom_imports.imports == ['json']


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('model = dict(type=undefined)', 'undefined'),
        ('model = dict(type="FPN"', 'bad.py:1'),
        ("_base_ = './nothing.py'", 'nothing.py'),
        ("_base_ = 'mmpose::a/x.py'", 'mmpose'),
        ("default_scope = 'mmseg'", 'mmseg'),
        ("custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
    ],
)
def test_a_config_that_does_not_run(text: str, word: str, tmp_path: Path) -> None:
    assert word in problem_of(write(tmp_path, bad=text))


def test_dumped_config_loads_again(tmp_path: Path) -> None:
    first = load_config('mask_rcnn_r50_fpn_1x_coco')
    first.dump(str(tmp_path / 'dumped.py'))
    again = load_config(tmp_path / 'dumped.py')
    assert again.model == first.model


# ---------------------------------------------------------------------------------------- checking

CHECKED = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(type='FPN', in_channels=[8], out_channels=8, num_outs=1),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7),
            out_channels=8,
            featmap_strides=[4]),
        bbox_head=dict(type='Shared2FCBBoxHead', num_classes=80)),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3),
            allowed_border=-1,
            file_client_args=dict(backend='disk'))),
    test_cfg=dict(rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5))))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))
"""


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        (
            'model.roi_head.bbox_head.num_clases',
            3,
            'model.roi_head.bbox_head.num_clases: Shared2FCBBoxHead has no such key '
            '(did you mean num_classes?)',
        ),
        ('model.backbone.dept', 50, 'ResNet has no such key (did you mean depth?)'),
        ('model.backbone.norm_cfg.requires_gard', True, 'did you mean requires_grad?'),
        ('model.backbone.type', 'ResNat', "'ResNat' is not registered"),
        ('model.type', 'RetinaNet', 'FasterRCNN, HybridTaskCascade, MaskRCNN'),
        ('model.train_cfg.rpm', {}, 'did you mean rpn?'),
        ('model.train_cfg.rpn.alowed_border', 0, 'did you mean allowed_border?'),
        ('model.backbone.file_client_args', {'backend': 'petrel'}, 'nothing uses this key'),
        ('model.roi_head.bbox_head.predict_box_type', 'rbox', "only 'hbox' is let pass"),
        ('model.test_cfg.rcnn.nms.iou_thresh', 0.7, 'did you mean iou_threshold?'),
        ('optim_wrapper.clip_grad.max_nrm', 35, 'did you mean max_norm?'),
        ('optim_wrapper.optimizer.momentun', 0.9, 'did you mean momentum?'),
        ('optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mul', 0, 'did you mean lr_mult?'),
        ('env_cfg.cudnn_benchmak', True, 'did you mean cudnn_benchmark?'),
        ('train_dataset', {}, 'nothing reads this key (use train_dataloader.dataset)'),
        ('samples_per_gpu', 2, 'train_dataloader.batch_size'),
        ('train_dataloder', {}, 'did you mean train_dataloader?'),
        ('default_hooks.chekpoint', {}, 'did you mean checkpoint?'),
    ],
)
def test_a_wrong_key_names_its_path_and_the_right_one(
    key: str, value: Any, expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path, checked=CHECKED)
    load_config(path)
    assert expected in problem_of(path, {key: value})


def test_unused_keys_of_mmdetection_are_taken_out(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, checked=CHECKED))
    assert set(config.model.train_cfg.rpn) == {'allowed_border', 'assigner'}


def test_changed_type_names_what_the_base_left_over(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        checked=CHECKED,
        child="_base_ = 'checked.py'\nmodel = dict(backbone=dict(type='FPN'))\n",
    )
    message = problem_of(path)
    assert 'from ResNet to FPN' in message and '_delete_=True' in message
    assert 'child.py:2' in message and 'checked.py:4' in message
    assert 'depth (' in message and 'norm_cfg' not in message  # which FPN has, too
    write(
        tmp_path,
        child="_base_ = 'checked.py'\n"
        "model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18))\n",
    )
    load_config(path)


def test_error_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE.replace('num_outs', 'num_out'), child=CHILD)
    assert 'base.py:8' in problem_of(path)


def warnings_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What loading says."""
    said: list[str] = []
    monkeypatch.setattr(config_check, 'print_log', lambda message, *_: said.append(message))
    load_config(path)
    load_config(load_config(path))  # as a tool does: no second word
    return said


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings_of(write(tmp_path, base=BASE, child=CHILD), monkeypatch) == []
    late = 'width = 3\nspare = 3\nmax_iters = 9\ntest_pipeline = []\n'
    path = write(tmp_path, child=CHILD + late)
    (message,) = warnings_of(path, monkeypatch)
    assert all(name in message for name in ('width', 'spare', 'max_iters', 'test_pipeline'))
    assert message.startswith(f'{path}: ') and 'child.py:6' in message
    assert warnings_of(write(tmp_path, child=CHILD + '_spare = 3\n'), monkeypatch) == []


def test_a_variable_on_the_command_line_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, child=CHILD)
    message = problem_of(path, {'width': 8})
    assert 'width: has no effect from the command line' in message and 'base.py:3' in message
    assert 'spare' in problem_of(path, {'spare': 8})


@pytest.mark.parametrize(
    'name',
    [
        *('optim_wraper', 'train_loader', 'param_schedulers', 'val_evalutor', 'randomness_'),
        *('envcfg', 'custom_hook', 'work_dirs', 'optimizer', 'total_epochs', 'fp16'),
    ],
)
def test_a_top_level_name_that_looks_like_a_key_is_an_error(name: str, tmp_path: Path) -> None:
    assert f'{name}: ' in problem_of(write(tmp_path, base=BASE, child=f'{CHILD}{name} = 3\n'))


def test_class_of_a_user_may_take_any_key(tmp_path: Path) -> None:
    (tmp_path / 'my_module_of_any_keys.py').write_text(
        'from mmdet_r2.registry import MODELS\n'
        '@MODELS.register_module()\n'
        'class TakesAnything:\n'
        '    def __init__(self, **options): self.options = options\n'
    )
    sys.path.insert(0, str(tmp_path))
    try:
        load_config(
            write(
                tmp_path,
                mine="custom_imports = dict(imports=['my_module_of_any_keys'])\n"
                "model = dict(type='TakesAnything', whatever=1)\n",
            )
        )
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ('one', 'other', 'near'),
    [
        ('depth', 'depht', True),
        ('depth', 'dept', True),
        ('depth', 'ddepth', True),
        ('depth', 'dapth', True),
        ('depth', 'depth', False),
        ('depth', 'debtz', False),
        ('ab', 'ba', True),
        ('a', 'b', True),
        ('a', 'ab', True),
    ],
)
def test_one_letter_apart(one: str, other: str, near: bool) -> None:
    assert _one_letter_apart(one, other) == _one_letter_apart(other, one) == near


def test_check_alone_changes_nothing_in_a_clean_config() -> None:
    config = load_config('faster_rcnn_r50_fpn_1x_coco')
    before = config.to_dict()
    check_config(config)
    assert config.to_dict() == before


# ---------------------------------------------------------------------------------------- origins


def test_origin_is_a_line_and_the_chain_of_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, child=CHILD)
    table = origins(path, {'model.num_outs': 5})
    chain = [str(origin) for origin in origin_of(table, 'model.out_channels')]
    assert chain == [f'{tmp_path}/base.py:7', f'{tmp_path}/child.py:3']
    assert [o.file for o in origin_of(table, 'model.num_outs')][-1] == '--cfg-options'
    assert str(origin_of(table, 'model.in_channels.0')[-1]).endswith('base.py:6')


def test_origin_follows_variables_and_deletion(tmp_path: Path) -> None:
    text = """
step = dict(
    type='RandomFlip',
    prob=0.5)
tta_pipeline = [dict(type='LoadImageFromFile'), step]
env_cfg = dict(cudnn_benchmark=True)
env_cfg['resource_limit'] = 5
"""
    child = "_base_ = 'a.py'\nenv_cfg = dict(_delete_=True, resource_limit=6)\n"
    path = write(tmp_path, a=text, b=child)
    table = origins(path)
    assert [o.line for o in origin_of(table, 'tta_pipeline.1.prob')] == [4]
    assert [str(o) for o in origin_of(table, 'env_cfg.resource_limit')] == [f'{path}:2']
    assert 'env_cfg.cudnn_benchmark' not in table


def test_origin_follows_a_value_taken_from_the_base(tmp_path: Path) -> None:
    base = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(60, 40)),
]
data_root = 'a'
"""
    child = """
_base_ = './base.py'
train_pipeline = []
parts = [dict(pipeline=_base_.train_pipeline, data_root=_base_.data_root)]
"""
    table = origins(write(tmp_path, base=base, child=child))
    assert [str(o) for o in origin_of(table, 'parts.0.pipeline.1.scale')] == [
        f'{tmp_path}/base.py:4'
    ]
    places = [str(o) for o in origin_of(table, 'parts.0.data_root')]
    assert places == [f'{tmp_path}/base.py:6', f'{tmp_path}/child.py:4']


def test_print_config_prints_origins(repo: Path, tmp_path: Path) -> None:
    path = write(tmp_path, base=BASE, child=CHILD)
    command = [python(), str(repo / 'tools/misc/print_config.py'), str(path)]
    environment = {'PYTHONPATH': str(repo), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1'}
    one = subprocess.run(
        [*command, '--origin', 'model.out_channels'],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert one.returncode == 0, one.stderr
    assert one.stdout.split('#')[0].strip() == 'model.out_channels = 32'
    assert 'child.py:3 <- ' in one.stdout and 'base.py:7' in one.stdout
    bad = subprocess.run(
        [*command, '--cfg-options', 'model.out_chanels=1'],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert bad.returncode == 2 and bad.stderr.count('\n') == 1
    assert 'did you mean out_channels?' in bad.stderr


@pytest.mark.parametrize(
    'wrong', ['x', '=5', '', 'a.b', 'a=[1,2', 'a=(1,[2)'], ids=lambda text: text or 'nothing'
)
def test_options_that_are_none(wrong: str, capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['--cfg-options', 'b=1', wrong])
    assert end.value.code == 2 and repr(wrong) in capsys.readouterr().err


def test_options_add_up() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    found = parser.parse_args(['--cfg-options', 'a=1', 'b.c=x=y', '--cfg-options', 'd=[1,2]'])
    assert found.cfg_options == {'a': 1, 'b.c': 'x=y', 'd': [1, 2]}
