"""Groups of parameters in an optimiser; schedules that follow the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import ToyDetector, toy_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmdet_r2.apis.train import training_config
from mmdet_r2.engine import build_runner
from mmdet_r2.engine.optimizer import merge_groups
from mmdet_r2.engine.schedule import stretch_checkpoints, stretch_loop, stretch_schedulers
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import SCOPE

PARAMWISE = dict(
    bias_lr_mult=2.0,
    bias_decay_mult=0.0,
    norm_decay_mult=0.5,
    custom_keys={'2.': dict(lr_mult=0.1)},
)


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    )
    model[3].weight.requires_grad = False
    return model


def wrapper(model: nn.Module, constructor: str) -> Any:
    config = dict(
        type='OptimWrapper',
        constructor=constructor,
        optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.01),
        paramwise_cfg=PARAMWISE,
    )
    with DefaultScope.overwrite_default_scope(SCOPE):
        return build_optim_wrapper(model, config)


def settings_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: {k: v for k, v in group.items() if k != 'params'}
        for group in optimizer.param_groups
        for parameter in group['params']
    }


# ------------------------------------------------------------------------------------- optimisers


def test_groups_have_the_settings_of_single_parameters(caplog) -> None:
    model = net()
    single = wrapper(model, 'DefaultOptimWrapperConstructor').optimizer
    caplog.clear()
    grouped = wrapper(model, 'GroupedOptimWrapperConstructor').optimizer
    theirs, ours = (settings_by_name(model, optimizer) for optimizer in (single, grouped))
    assert ours == theirs and '3.weight' not in ours
    assert len(single.param_groups) == 7 and len(grouped.param_groups) == 4
    first = grouped.param_groups[0]
    assert (first['lr'], first['weight_decay']) == (0.02, 0.01)
    assert ours['0.bias']['lr'] == 0.04 and ours['2.bias']['lr'] == pytest.approx(0.002)


def test_steps_are_those_of_single_parameters() -> None:
    trained = []
    for constructor in ('DefaultOptimWrapperConstructor', 'GroupedOptimWrapperConstructor'):
        model = net()
        optimizer = wrapper(model, constructor)
        images = torch.rand(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        for image in images:
            optimizer.update_params(model(image).square().sum())
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])


def test_without_paramwise_settings_nothing_changes() -> None:
    with DefaultScope.overwrite_default_scope(SCOPE):
        built = build_optim_wrapper(
            net(),
            dict(constructor='GroupedOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.1)),
        )
    assert len(built.optimizer.param_groups) == 1


def test_merging_keeps_the_order_and_puts_the_plain_group_first() -> None:
    a, b, c, d = (torch.zeros(1) for _ in range(4))
    groups = [
        dict(params=[a], lr=1.0),
        dict(params=[b]),
        dict(params=[c], lr=1.0),
        dict(params=[d], lr=1.0, weight_decay=0.0),
    ]
    merged = merge_groups(groups)
    assert [len(group['params']) for group in merged] == [1, 2, 1]
    assert merged[0]['params'][0] is b and merged[1]['params'][1] is c
    assert len(groups[0]['params']) == 1  # the given ones are left alone


def test_a_run_reports_groups_not_parameters(tmp_path: Path) -> None:
    config = toy_config(
        tmp_path,
        optim_wrapper__constructor='GroupedOptimWrapperConstructor',
        optim_wrapper__paramwise_cfg=dict(bias_lr_mult=2.0),
        log_level='INFO',
    )
    runner = build_runner(config)
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'paramwise_options --' not in log
    lines = [line for line in log.splitlines() if 'optimiser: ' in line]
    assert len(lines) == 2 and 'lr 0.01' in lines[0] and 'lr 0.02' in lines[1]
    trainable = sum(p.numel() for p in ToyDetector().parameters())
    counts = [int(line.split('(')[1].split(' ')[0]) for line in lines]
    assert sum(counts) == trainable


# --------------------------------------------------------------------------------------- schedule


def test_loops_of_steps_stretch_and_loops_of_epochs_do_not() -> None:
    loop = dict(type='IterBasedTrainLoop', max_iters=180000, val_interval=10000, val_begin=3)
    stretched = stretch_loop(loop, 8.0)
    assert stretched == {**loop, 'max_iters': 1440000, 'val_interval': 80000, 'val_begin': 24}
    assert stretch_loop(dict(by_epoch=False, max_iters=10), 0.01)['max_iters'] == 1
    intervals = dict(type='mmengine.IterBasedTrainLoop', dynamic_intervals=[(0, 10), (50, 5)])
    assert stretch_loop(intervals, 2)['dynamic_intervals'] == [(0, 20), (100, 10)]
    for loop in (dict(max_epochs=12), dict(type='EpochBasedTrainLoop', max_epochs=12, val_begin=2)):
        assert stretch_loop(loop, 8.0) == loop


def test_schedulers_of_steps_stretch() -> None:
    warm_up = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=501)
    steps = dict(type='MultiStepLR', by_epoch=False, begin=0, end=900, milestones=[600, 800])
    epochs = dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11])
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=400, begin=501, end=901)
    # The full rate is reached end - begin - 1 steps later: 500 become 4000.
    assert stretch_schedulers(warm_up, 8) == {**warm_up, 'end': 4001}
    assert stretch_schedulers([steps, epochs], 2) == [
        {**steps, 'end': 1800, 'milestones': [1200, 1600]},
        epochs,
    ]
    assert stretch_schedulers(dict(a=[cosine]), 2) == dict(
        a=[{**cosine, 'T_max': 800, 'begin': 1002, 'end': 1802}]
    )
    assert stretch_schedulers(None, 2) is None
    assert warm_up['end'] == 501 and steps['milestones'] == [600, 800]


def test_checkpoints_of_steps_stretch() -> None:
    hook = dict(type='CheckpointHook', by_epoch=False, interval=100)
    assert stretch_checkpoints(hook, 4)['interval'] == 400
    for same in (
        dict(hook, by_epoch=True),
        dict(hook, interval=-1),
        None,
        dict(type='CheckpointHook'),
    ):
        assert stretch_checkpoints(same, 4) == same


def run_config(folder: Path, **changes: Any) -> Any:
    return toy_config(
        folder,
        auto_scale_lr={'base_batch_size': 8},
        train_dataloader__batch_size=2,
        train_dataloader__sampler={'type': 'InfiniteSampler', 'shuffle': True},
        train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=6, val_interval=3),
        default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3),
            dict(type='MultiStepLR', by_epoch=False, begin=0, end=6, milestones=[4], gamma=0.1),
        ],
        log_level='INFO',
        **changes,
    )


def test_a_run_sees_as_many_images(tmp_path: Path) -> None:
    runner = build_runner(training_config(run_config(tmp_path), auto_scale_schedule=True))
    runner.train()
    assert runner.iter == runner.max_iters == 24
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'schedule: 6 -> 24 iterations (batch 8 -> 2)' in log
    assert 'lr 0.01 -> 0.0025 (batch 8 -> 2)' in log
    assert sorted(file.name for file in tmp_path.rglob('iter_*.pth')) == [
        'iter_12.pth',
        'iter_24.pth',
    ]
    linear, steps = runner.param_schedulers
    assert linear.total_iters == 8 and sorted(steps.milestones) == [16]


def test_the_learning_rate_alone_leaves_the_schedule(tmp_path: Path) -> None:
    runner = build_runner(training_config(run_config(tmp_path), auto_scale_lr=True))
    runner.train()
    assert runner.iter == 6
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.01 / 4 / 10)]


def test_accumulated_batches_count_as_steps(tmp_path: Path) -> None:
    """The rate follows the images of a step of the optimiser, the schedule those of the loop."""
    config = run_config(tmp_path, optim_wrapper__accumulative_counts=4)
    runner = build_runner(training_config(config, auto_scale_schedule=True))
    runner.train()
    assert runner.iter == 24
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.01 / 10)]


def test_stretching_needs_a_base(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'--auto-scale-schedule: .*base_batch_size'):
        training_config(toy_config(tmp_path), auto_scale_schedule=True)
    config = toy_config(tmp_path, auto_scale_lr=dict(enable=True, schedule=True))
    with pytest.raises(ConfigError, match='base_batch_size'):
        build_runner(config)


def test_a_stretched_run_resumes(tmp_path: Path) -> None:
    whole = build_runner(training_config(run_config(tmp_path / 'a'), auto_scale_schedule=True))
    whole.train()
    half = tmp_path / 'a' / 'iter_12.pth'
    config = run_config(tmp_path / 'b')
    resumed = build_runner(training_config(config, auto_scale_schedule=True, resume=half))
    resumed.train()
    assert resumed.iter == 24
    rates = [runner.optim_wrapper.get_lr()['lr'] for runner in (whole, resumed)]
    assert rates[0] == rates[1]
    weights = [runner.model.state_dict() for runner in (whole, resumed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(('ranks', 'factor'), [(1, 8), (4, 2), (8, 1), (16, 0.5)])
def test_all_processes_count(ranks: int, factor: float, tmp_path: Path) -> None:
    config = training_config(run_config(tmp_path), auto_scale_schedule=True)
    config.auto_scale_lr.base_batch_size = 16
    runner = build_runner(config)
    runner._train_loop = dict(type='IterBasedTrainLoop', max_iters=90000, val_interval=10000)
    runner._world_size = ranks
    hooks = runner._stretch_schedule({})
    assert hooks == {} and runner._train_loop['max_iters'] == 90000 * factor
    assert runner._train_loop['val_interval'] == 10000 * factor
