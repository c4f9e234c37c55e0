"""Mistakes in what a run is configured with: one line that names the key."""

from pathlib import Path
from typing import Any

import pytest
from engine_toy import toy_config, with_validation

from mmdet_r2.engine import build_runner
from mmdet_r2.engine.checks import check_milestones
from mmdet_r2.errors import ConfigError

STEPS = dict(type='MultiStepLR', by_epoch=False, begin=0, end=100, milestones=[60, 80])
MISTAKES = {
    'a rate that is a text': (dict(optim_wrapper__optimizer__lr='0.1'), '^optim_wrapper: '),
    'a negative rate': (dict(optim_wrapper__optimizer__lr=-1.0), '^optim_wrapper: .*-1'),
    'no such constructor': (
        dict(optim_wrapper__constructor='X'),
        r"^optim_wrapper\.constructor: 'X' is not registered",
    ),
    'a factor of no decay': (
        dict(optim_wrapper__paramwise_cfg=dict(bias_decay_mult=0.0)),
        r'^optim_wrapper\.optimizer\.weight_decay: missing, and paramwise_cfg\.bias_decay_mult',
    ),
    'a schedule that ends before it begins': (
        dict(param_scheduler=[dict(type='LinearLR', start_factor=0.1, begin=5, end=2)]),
        '^param_scheduler: .*begin=5, end=2',
    ),
    'milestones that are a text': (
        dict(param_scheduler=[dict(STEPS, milestones='4,5')]),
        r"^param_scheduler\.0\.milestones is '4,5', expected a list",
    ),
    'epochs that are a text': (dict(train_cfg__max_epochs='4'), '^train_cfg: .*max_epochs'),
    'validation every 0 epochs': (
        dict(train_cfg__val_interval=0),
        r'^train_cfg\.val_interval is 0, expected a whole number from 1',
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
    'logging every 0 steps': (dict(default_hooks__logger__interval=0), '^default_hooks: interval'),
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
    config: Any = with_validation(toy_config(tmp_path, **changes))
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
