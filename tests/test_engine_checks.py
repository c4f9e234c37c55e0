"""Mistakes in what a run is configured with: one line that names the key."""

import sys
from pathlib import Path
from typing import Any

import pytest
from engine_toy import toy_config, with_validation
from mmengine.registry import VISBACKENDS
from torch.utils.data import DataLoader

from mmdet_r2.config import load_config
from mmdet_r2.engine import build_runner
from mmdet_r2.engine.checks import check_milestones
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import MODELS, build, init_scope

STEPS = dict(type='MultiStepLR', by_epoch=False, begin=0, end=100, milestones=[60, 80])
MISTAKES = {
    'a rate that is a text': (
        dict(optim_wrapper__optimizer__lr='0.1'),
        r'^optim_wrapper\.optimizer: ',
    ),
    'a negative rate': (
        dict(optim_wrapper__optimizer__lr=-1.0),
        r'^optim_wrapper\.optimizer: .*-1',
    ),
    'an optimiser of closures': (
        dict(optim_wrapper__optimizer=dict(type='LBFGS', lr=0.1, _delete_=True)),
        r'^optim_wrapper\.optimizer\.type: LBFGS',
    ),
    'gradients against themselves': (
        dict(optim_wrapper__clip_grad=dict(max_norm=-1)),
        r'^optim_wrapper\.clip_grad\.max_norm is -1',
    ),
    'a cosine of no length': (
        dict(param_scheduler=[dict(type='CosineAnnealingLR', T_max=0)]),
        r'^param_scheduler\.0\.T_max is 0',
    ),
    'a rise from 0': (
        dict(param_scheduler=[dict(type='LinearLR', start_factor=0, begin=0, end=5)]),
        r'^param_scheduler\.0\.start_factor is 0',
    ),
    'a choice that is a text': (
        dict(train_dataloader__drop_last='False'),
        r"^train_dataloader\.drop_last is 'False'",
    ),
    'validation of other classes': (
        dict(val_dataloader__dataset__names=('class1', 'class0', 'class2')),
        r'^val_dataloader\.dataset\.metainfo\.classes',
    ),
    'no such constructor': (
        dict(optim_wrapper__constructor='X'),
        "^optim_wrapper.*: 'X' is not registered",
    ),
    'a factor of no decay': (
        dict(optim_wrapper__paramwise_cfg=dict(bias_decay_mult=0.0)),
        r'^optim_wrapper\.optimizer\.weight_decay: missing, and paramwise_cfg\.bias_decay_mult',
    ),
    'a schedule that ends before it begins': (
        dict(param_scheduler=[dict(type='LinearLR', start_factor=0.1, begin=5, end=2)]),
        r'^param_scheduler\.0: .*begin=5, end=2',
    ),
    'milestones that are a text': (
        dict(param_scheduler=[dict(STEPS, milestones='4,5')]),
        r"^param_scheduler\.0\.milestones is '4,5', expected a list",
    ),
    'epochs that are a text': (dict(train_cfg__max_epochs='4'), r"^train_cfg\.max_epochs is '4'"),
    'validation every 0 epochs': (
        dict(train_cfg__val_interval=0),
        r'^train_cfg\.val_interval is 0, expected a whole number from 1',
    ),
    'no epochs': (dict(train_cfg__max_epochs=0), r'^train_cfg\.max_epochs is 0'),
    'steps below none': (
        dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=-1, _delete_=True)),
        r'^train_cfg\.max_iters is -1',
    ),
    'later validation every 0 epochs': (
        dict(train_cfg__dynamic_intervals=[(1, 1), (2, 0)]),
        r'^train_cfg\.dynamic_intervals\.1\.1 is 0',
    ),
    'batches of nothing': (
        dict(train_dataloader__batch_size=0),
        r'^train_dataloader\.batch_size is 0, expected a whole number from 1',
    ),
    'fewer than no workers': (dict(train_dataloader__num_workers=-1), r'num_workers is -1'),
    'no images': (
        dict(train_dataloader__dataset__length=0),
        '^train_dataloader: its 0 images make no batch of 2',
    ),
    'too few images': (
        dict(train_dataloader__batch_size=13, train_dataloader__drop_last=True),
        '^train_dataloader: its 12 images make no batch of 13 with drop_last=True',
    ),
    'logging every 0 steps': (
        dict(default_hooks__logger__interval=0),
        r'^default_hooks\.logger: .*interval',
    ),
    'no hooks but a name': (dict(custom_hooks=['EMAHook']), r"^custom_hooks\.0 is 'EMAHook'"),
    'a hook of no type': (dict(custom_hooks=[dict(momentum=0.1)]), r'^custom_hooks\.0.*type'),
    'a hook without what it needs': (
        dict(custom_hooks=[dict(type='EarlyStoppingHook')]),
        r'^custom_hooks\.0.*monitor',
    ),
    'a hook that fails when the run begins': (
        dict(custom_hooks=[dict(type='EMAHook', momentum=5)]),
        'momentum.* 5',
    ),
    'a loop of numbers': (dict(train_cfg=5), '^train_cfg is 5'),
    'a default hook that is a number': (
        dict(default_hooks__logger=5),
        r'^default_hooks\.logger is 5',
    ),
    'a visualizer that is a list': (dict(visualizer=[5]), r'^visualizer is \[5\]'),
    'no such backend': (
        dict(visualizer=dict(type='Visualizer', vis_backends=[dict(type='X')])),
        r"^visualizer\.vis_backends\.0\.type: 'X'",
    ),
    'a sampler that is a name': (
        dict(val_dataloader__sampler='DefaultSampler'),
        r"^val_dataloader\.sampler is 'DefaultSampler'",
    ),
    'a batch sampler without type': (
        dict(train_dataloader__batch_sampler={}),
        r'^train_dataloader\.batch_sampler.*type',
    ),
    'no batches ahead': (
        dict(val_dataloader=dict(num_workers=1, prefetch_factor=0)),
        r'^val_dataloader\.prefetch_factor is 0',
    ),
    'a function of no name': (
        dict(train_dataloader__collate_fn=dict(type='nothing')),
        r"^train_dataloader\.collate_fn\.type: 'nothing'",
    ),
    'a metric of numbers': (dict(val_evaluator=[5]), r'^val_evaluator\.0 is 5'),
    'an unfinished validation': (dict(val_cfg=None), '^val_cfg is missing'),
    'no optimiser': (
        dict(optim_wrapper=dict(type='OptimWrapper', _delete_=True)),
        r'^optim_wrapper\.optimizer',
    ),
    'an environment of text': (dict(env_cfg='fork'), "^env_cfg is 'fork'"),
    'a start method that is none': (
        dict(env_cfg=dict(mp_cfg=dict(mp_start_method='leap'))),
        "^env_cfg: .*'leap'",
    ),
    'a seed of text': (dict(randomness__seed='7'), r"^randomness\.seed is '7'"),
    'a seed below 0': (dict(randomness__seed=-1), r'^randomness\.seed is -1'),
    'a log window of text': (
        dict(log_processor=dict(window_size='9')),
        r"^log_processor\.window_size is '9'",
    ),
    'a part that is not there': (dict(activation_checkpointing='nose'), "checkpointing.*'nose'"),
    'a compiler mode that is none': (dict(compile=dict(mode='x')), '^compile: .*mode=x'),
    'weights of a list': (dict(load_from=[5]), r'^load_from is \[5\]'),
    'a choice in words': (dict(resume='yes'), "^resume is 'yes'"),
    'an unknown level': (dict(log_level='LOUD'), "^log_level is 'LOUD', expected DEBUG, INFO"),
    'a base that is a text': (
        dict(auto_scale_lr=dict(enable=True, base_batch_size='16')),
        r"^auto_scale_lr\.base_batch_size: '16' is no whole number from 1",
    ),
    'a base of 0': (
        dict(auto_scale_lr=dict(enable=True, schedule=True, base_batch_size=0)),
        r'^auto_scale_lr\.base_batch_size: 0 is no whole number from 1',
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_a_line_that_names_its_key(mistake: str, tmp_path: Path) -> None:
    changes, message = MISTAKES[mistake]
    config: Any = with_validation(toy_config(tmp_path))
    for key, value in changes.items():
        config.merge_from_dict({key.replace('__', '.'): value})
    with pytest.raises(ConfigError, match=message) as error:
        build_runner(config).train()
    assert '\n' not in str(error.value)


def test_the_line_of_a_part_of_ones_own_that_fails_is_named(tmp_path: Path) -> None:
    config = toy_config(tmp_path, train_dataloader__dataset__length='12', train_cfg__max_epochs=1)
    with pytest.raises(ConfigError, match=r'^train_dataloader\.dataset: .*\bstr\b'):
        build_runner(config).train()
    config = toy_config(tmp_path, model__dropout=7)
    with pytest.raises(ConfigError, match=r'^model: ToyDetector .*7 .*engine_toy\.py:\d+\)$'):
        build_runner(config)


def test_a_work_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=r'^work_dir .*file/run: nothing can be written there'):
        build_runner(toy_config(tmp_path / 'file/run'))


def test_milestones_behind_the_end_are_named() -> None:
    assert check_milestones([STEPS, dict(type='LinearLR', end=5)]) == []
    assert check_milestones(dict(STEPS, end=80)) == []
    longer = dict(STEPS, milestones=[60, 480, 640.0])
    (warning,) = check_milestones(dict(a=[dict(type='LinearLR'), longer]))
    assert warning == (
        'param_scheduler.a.1 ends at 100 (param_scheduler.a.1.end), before its milestones 480, '
        '640.0.'
    )
    late = dict(STEPS, begin=50)
    assert check_milestones(late) == [
        'param_scheduler ends at 100 (param_scheduler.end), before its milestones 60, 80.'
    ]
    assert check_milestones(None) == []


@pytest.mark.parametrize('package', ['wandb', 'mlflow', 'clearml', 'neptune', 'dvclive', 'aim'])
def test_a_logger_that_is_not_installed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    kinds = [kind for kind in VISBACKENDS.module_dict if kind.lower() == f'{package}visbackend']
    backends = [dict(type='LocalVisBackend'), dict(type=kinds[0])]
    config = toy_config(tmp_path, visualizer=dict(type='Visualizer', vis_backends=backends))
    with pytest.raises(ConfigError, match=rf'^visualizer\.vis_backends\.1: .*{package}'):
        build_runner(config)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_options_of_workers_are_of_no_use_without_any(split: str, tmp_path: Path) -> None:
    config = with_validation(toy_config(tmp_path))
    options = dict(num_workers=0, persistent_workers=True, prefetch_factor=2, timeout=9)
    config[f'{split}_dataloader'].update(options)
    runner = build_runner(config)
    loader = runner.val_loop.dataloader if split == 'val' else runner.train_loop.dataloader
    assert len(list(loader)) == {'val': 2, 'train': 6}[split]


NESTED = {
    'model.backbone.depth': '50',
    'model.neck.in_channels': 256,
    'model.neck.num_outs': -1,
    'model.rpn_head.anchor_generator.ratios': [],
    'model.rpn_head.anchor_generator.strides': [0],
    'model.roi_head': 'StandardRoIHead',
    'model.roi_head.bbox_head': [5],
    'model.roi_head.bbox_head.num_classes': 2.5,
    'model.train_cfg.rpn_proposal.nms_pre': '2000',
    'model.train_cfg.rcnn.sampler.num': None,
    'model.test_cfg.rcnn.score_thr': '0.05',
    'train_dataloader.dataset.ann_file': 5,
    'train_dataloader.dataset.pipeline': 'LoadImageFromFile',
    'train_dataloader.dataset.filter_cfg': 32,
    'optim_wrapper.optimizer': 'SGD',
    'train_cfg.max_epochs': 1.5,
}


@pytest.mark.parametrize('key', NESTED)
def test_a_value_of_the_wrong_type_is_named(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        config = load_config('mask_rcnn_r50_fpn_1x_coco', {key: NESTED[key]})
        init_scope()
        build(MODELS, config.model, 'model')
    assert key.rpartition('.')[2] in str(error.value) and '\n' not in str(error.value)


def test_values_are_one_line_and_whole_from_a_worker_too() -> None:
    text = 'D:\\data\new_set/\ud800\x1b[2J: no such folder'

    class Failing(list):
        def __getitem__(self, index: int) -> Any:
            raise DataError(text)

    loader = DataLoader(Failing([1]), num_workers=1, multiprocessing_context='fork')
    with pytest.raises(DataError) as error:
        next(iter(loader))
    assert str(error.value) == str(DataError(text))
    assert str(error.value).isprintable() and 'new_set' in str(error.value)
    assert str(error.value).startswith('D:')
