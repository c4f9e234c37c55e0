"""A resumed run is the run that was interrupted, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import Interrupted, ToyMetric, toy_config, with_validation
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmdet_r2.analysis.logs import read_log
from mmdet_r2.engine import build_runner
from mmdet_r2.errors import CheckpointError
from mmdet_r2.zoo import read_checkpoint


def run(config: Config, interrupt: int | None = None) -> dict[str, Any]:
    config = Config(config.to_dict())
    if interrupt is not None:
        config.custom_hooks = [
            *config.get('custom_hooks', []),
            {'type': 'InterruptHook', 'at': interrupt},
        ]
    runner = build_runner(config)
    try:
        runner.train()
    except Interrupted:
        pass
    losses = runner.message_hub.log_scalars['train/loss'].data[0].tolist()
    accuracies = runner.message_hub.log_scalars['train/acc'].data[0].tolist()
    lrs = runner.message_hub.log_scalars['train/lr'].data[0].tolist()
    return {
        'weights': {k: v.clone() for k, v in runner.model.state_dict().items()},
        'log': list(zip(losses, accuracies, lrs)),
        'runner': runner,
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one['log'] == other['log']
    assert one['weights'].keys() == other['weights'].keys()
    for key, value in one['weights'].items():
        assert torch.equal(value, other['weights'][key]), key


BY_ITER = {
    'train_cfg': {
        'type': 'IterBasedTrainLoop',
        'max_iters': 20,
        'val_interval': 1000,
        '_delete_': True,
    },
    'default_hooks__checkpoint': {'by_epoch': False, 'interval': 5},
}
CASES = {
    'epochs, stopped at an epoch': ({}, 12),
    'epochs, stopped in mid-epoch': (
        {'default_hooks__checkpoint': {'by_epoch': False, 'interval': 5}},
        11,
    ),
    'epochs, stopped between last step and end of epoch': (
        {'default_hooks__checkpoint': {'by_epoch': False, 'interval': 6}},
        12,
    ),
    'epochs, workers': (
        {
            'default_hooks__checkpoint': {'by_epoch': False, 'interval': 5},
            'train_dataloader__num_workers': 2,
            'train_dataloader__persistent_workers': True,
        },
        11,
    ),
    'steps, finite sampler': (BY_ITER, 13),
    'steps, endless sampler': (
        {**BY_ITER, 'train_dataloader__sampler': {'type': 'InfiniteSampler'}},
        13,
    ),
    'steps, endless sampler, workers': (
        {
            **BY_ITER,
            'train_dataloader__sampler': {'type': 'InfiniteSampler'},
            'train_dataloader__num_workers': 2,
        },
        13,
    ),
    'aspect ratio groups': (
        {**BY_ITER, 'train_dataloader__batch_sampler': {'type': 'AspectRatioBatchSampler'}},
        13,
    ),
    'accumulated gradients, stopped in between': (
        {
            **BY_ITER,
            'default_hooks__checkpoint': {'by_epoch': False, 'interval': 4},
            'optim_wrapper__accumulative_counts': 3,
        },
        9,
    ),
    'moving average': ({**BY_ITER, 'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.1}]}, 13),
    'clipped gradients, Adam': (
        {
            **BY_ITER,
            'optim_wrapper__clip_grad': {'max_norm': 0.1},
            'optim_wrapper__optimizer': {'type': 'AdamW', 'lr': 0.01, '_delete_': True},
        },
        13,
    ),
    'bfloat16': ({**BY_ITER, 'optim_wrapper__type': 'AmpOptimWrapper'}, 13),
    'channels last': ({**BY_ITER, 'env_cfg__channels_last': True}, 13),
}


@pytest.mark.parametrize('name', CASES)
def test_interrupted_and_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    changes, stop = CASES[name]
    whole = run(toy_config(tmp_path / 'whole', **changes))
    assert len(whole['log']) in (20, 24)
    config = toy_config(tmp_path / 'parts', **changes)
    first = run(config, interrupt=stop)
    assert len(first['log']) == stop
    config.resume = True
    assert_same(run(config), whole)


def test_validation_between_does_not_disturb_training(tmp_path: Path) -> None:
    plain = run(toy_config(tmp_path / 'plain'))
    config = with_validation(toy_config(tmp_path / 'val', train_cfg__val_interval=1))
    validated = run(config)
    assert_same(validated, plain)
    config.work_dir = str(tmp_path / 'parts')
    run(config, interrupt=13)
    config.resume = True
    assert_same(run(config), plain)


def test_seed_of_a_run_without_seed_is_resumed_with_it(tmp_path: Path) -> None:
    config = toy_config(tmp_path, randomness__seed=None)
    first = run(config)
    last = read_checkpoint(tmp_path / 'epoch_4.pth')
    config.load_from, config.resume = str(tmp_path / 'epoch_2.pth'), True
    again = run(config)
    assert last['meta']['seed'] == first['runner'].seed == again['runner'].seed
    assert_same(again, first)


def test_nothing_is_read_to_get_to_the_position(tmp_path: Path) -> None:
    changes = {**BY_ITER, 'train_dataloader__dataset__log': str(tmp_path / 'read.txt')}
    config = toy_config(tmp_path / 'work', **changes)
    run(config, interrupt=15)
    (tmp_path / 'read.txt').unlink()
    config.resume = True
    run(config)
    assert len((tmp_path / 'read.txt').read_text().split()) == 5 * 2


def test_checkpoint_is_read_without_unpickling_objects(tmp_path: Path) -> None:
    run(with_validation(toy_config(tmp_path, custom_hooks=[{'type': 'EMAHook'}])), interrupt=7)
    content = read_checkpoint(tmp_path / 'epoch_1.pth')
    assert content['meta']['dataset_meta']['classes'] == ('class0', 'class1', 'class2')
    assert 'ema_state_dict' in content


def test_resume_without_checkpoint_starts(tmp_path: Path) -> None:
    result = run(toy_config(tmp_path, resume=True), interrupt=3)
    assert len(result['log']) == 3


@pytest.mark.parametrize('damage', ['missing', 'empty', 'weights only', 'cut short'])
def test_resume_from_a_bad_file_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / 'epoch_1.pth'
    run(toy_config(tmp_path), interrupt=7)
    if damage == 'missing':
        path.unlink()
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'cut short':
        path.write_bytes(path.read_bytes()[:-200])
    else:
        torch.save({'state_dict': read_checkpoint(path)['state_dict']}, path)
    with pytest.raises(CheckpointError) as error:
        run(toy_config(tmp_path, resume=True, load_from=str(path)))
    assert 'epoch_1.pth' in str(error.value) and '\n' not in str(error.value)


def test_other_batch_size_says_so_and_keeps_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(toy_config(tmp_path), interrupt=13)
    result = run(toy_config(tmp_path, resume=True, train_dataloader__batch_size=4), interrupt=7)
    assert 'batch 2' in capsys.readouterr().out
    assert result['runner'].epoch == 2 and result['runner'].iter == 6


def test_averaged_weights_are_validated_and_saved(tmp_path: Path) -> None:
    config = with_validation(
        toy_config(
            tmp_path, train_cfg__val_interval=1, custom_hooks=[{'type': 'EMAHook', 'momentum': 0.5}]
        )
    )
    result = run(config)
    content = read_checkpoint(tmp_path / 'epoch_4.pth')
    weights = result['weights']['backbone.weight']
    assert not torch.equal(content['state_dict']['backbone.weight'], weights)
    assert torch.equal(content['ema_state_dict']['module.backbone.weight'], weights)


# A kill inside a validation, at its end (before the best checkpoint is written), and after it.
VALIDATED = {
    'by steps': ({**BY_ITER, 'train_cfg__val_interval': 10}, [10, 20]),
    'by steps, intervals that change': (
        {
            **BY_ITER,
            'train_cfg__val_interval': 10,
            'train_cfg__dynamic_intervals': [(0, 10), (11, 5)],
        },
        [10, 15, 20],
    ),
    'by epochs': ({'train_cfg__val_interval': 2}, [2, 4]),
    'by epochs, checkpoints by steps': (
        {
            'train_cfg__val_interval': 2,
            'default_hooks__checkpoint': {'by_epoch': False, 'interval': 4},
        },
        [2, 4],
    ),
}


@pytest.mark.parametrize(
    ('name', 'where'),
    [
        *((name, 'after_val_iter') for name in VALIDATED),
        ('by steps', 'before_val_epoch'),
        ('by epochs', 'after_val_epoch'),
    ],
)
def test_a_validation_that_was_cut_off_is_done_on_resume(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, steps = VALIDATED[name]
    changes = {**changes, 'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.1}]}
    changes['visualizer'] = {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
    monkeypatch.setattr(ToyMetric, 'compute_metrics', _first_is_best)
    whole = run(with_validation(toy_config(tmp_path / 'whole', **changes)))
    for number in range(len(steps)):
        config = with_validation(toy_config(tmp_path / f'{where}{number}', **changes))
        cut = Config(config.to_dict())
        cut.custom_hooks.append({'type': 'CutValidationHook', 'where': where, 'number': number})
        run(cut)
        config.resume = True
        again = run(config)
        assert_same(again, whole)
        for result in (again, whole):
            logs = read_log(result['runner'].work_dir).val
            assert [record['step'] for record in logs] == steps
        best, others = (
            [path.name for path in Path(r['runner'].work_dir).glob('best*')] for r in (again, whole)
        )
        assert best == others and len(best) == 1
        calls = ToyMetric.calls
        run(config)
        assert ToyMetric.calls == calls, 'nothing was left to do'


def _first_is_best(self: ToyMetric, results: list) -> dict[str, float]:
    type(self).calls += 1
    return {'toy_mAP': 1 / len(MessageHub.get_current_instance().get_scalar('train/loss').data[0])}


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    stop = dict(
        type='EarlyStoppingHook', monitor='toy_mAP', rule='greater', min_delta=1.0, patience=3
    )
    config = with_validation(toy_config(tmp_path, train_cfg__max_epochs=8))
    config.custom_hooks = [stop]
    config.train_cfg.val_interval = 1
    run(config, interrupt=14)  # 6 steps an epoch: of two validations one was no better
    config.resume = True
    assert run(config)['runner'].epoch == 4
