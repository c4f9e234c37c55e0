"""A run that is resumed with other settings than it began with, from a folder that was moved, or
from checkpoints of which some are damaged."""

import ast
import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import Interrupted, ToyDetector, ToyMetric, toy_config, with_validation
from mmengine.config import Config

from mmdet_r2.config_text import config_values
from mmdet_r2.engine import Runner, build_runner, latest_checkpoint
from mmdet_r2.engine.amp import AmpOptimWrapper
from mmdet_r2.engine.checkpoint import CheckpointHook, write_atomically
from mmdet_r2.engine.resume import compare_configs
from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS
from mmdet_r2.zoo import read_checkpoint


@MODELS.register_module()
class OtherToyDetector(ToyDetector):
    pass


BY_ITER = {
    'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': 8, '_delete_': True},
    'default_hooks__checkpoint': {'by_epoch': False, 'interval': 2},
    'model__num_classes': 3,
}


def run(work_dir: Path, **changes: Any) -> Runner:
    runner = build_runner(toy_config(work_dir, **{**BY_ITER, **changes}))
    runner.train()
    return runner


@pytest.fixture(scope='module')
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of a run of 8 steps with checkpoints after 4, 6 and 8."""
    folder = tmp_path_factory.mktemp('runs') / 'began'
    run(folder)
    return folder


@pytest.fixture
def work(began: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(began, tmp_path / 'work'))


# -------------------------------------------------------------------------------------- settings


def test_equal_settings_are_not_mentioned(work: Path, capsys: pytest.CaptureFixture) -> None:
    run(work, resume=True)
    assert 'other settings' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'optim_wrapper__optimizer__lr': 0.5}, ['optimizer.lr 0.01 -> 0.5']),
        ({'optim_wrapper__type': 'AmpOptimWrapper'}, ["'OptimWrapper' -> 'AmpOptimWrapper'"]),
        ({'optim_wrapper__clip_grad': {'max_norm': 1}}, ['clip_grad.max_norm None -> 1']),
        ({'param_scheduler': None}, ['param_scheduler.0.type', 'param_scheduler.1.gamma']),
        ({'train_dataloader__batch_size': 4}, ['train_dataloader.batch_size 2 -> 4']),
        ({'train_dataloader__dataset__length': 10}, ['train_dataloader.dataset.length', '10']),
        ({'train_dataloader__sampler__shuffle': False}, ['sampler.shuffle True -> False']),
        ({'train_cfg__max_iters': 9}, ['train_cfg.max_iters 8 -> 9']),
        ({'model__dropout': 0.25}, ['model.dropout None -> 0.25']),
        ({'custom_hooks': [{'type': 'EMAHook'}]}, ["custom_hooks.0.type None -> 'EMAHook'"]),
        ({'randomness__deterministic': False}, ['randomness.deterministic None -> False']),
        ({'randomness__seed': 8}, ['randomness.seed is 8', '7']),
    ],
)
def test_other_settings_are_named_in_one_line(
    changes: dict, words: list[str], work: Path, capsys: pytest.CaptureFixture
) -> None:
    merged = {**BY_ITER, **changes, 'resume': True, 'load_from': str(work / 'iter_4.pth')}
    build_runner(toy_config(work, **merged)).train()
    lines = capsys.readouterr().out.splitlines()
    assert sum(all(word in line for word in words) for line in lines) == 1, lines


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'model__num_classes': 4}, ['model.num_classes was 3']),
        ({'model__type': 'OtherToyDetector'}, ['model.type', 'OtherToyDetector']),
        ({'optim_wrapper__optimizer': {'type': 'AdamW', 'lr': 0.1, '_delete_': True}}, ['AdamW']),
        ({'optim_wrapper__optimizer': {'type': 'Adam', 'lr': 0.1, '_delete_': True}}, ['Adam']),
        (
            {'optim_wrapper__paramwise_cfg': {'custom_keys': {'backbone': {'lr_mult': 0.1}}}},
            ['param_groups'],
        ),
        ({'train_cfg__max_iters': 3}, ['train_cfg.max_iters', '3', '4']),
    ],
)
def test_what_the_weights_mean_must_not_change(changes: dict, words: list[str], work: Path) -> None:
    merged = {**BY_ITER, **changes, 'resume': True, 'load_from': str(work / 'iter_4.pth')}
    with pytest.raises(CheckpointError) as error:
        build_runner(toy_config(work, **merged)).train()
    assert all(word in str(error.value) for word in [*words, 'iter_4.pth']), error.value
    assert '\n' not in str(error.value)


def test_a_state_without_a_config_is_compared_with_the_optimiser(work: Path) -> None:
    """As other tools write it, and with state of other shapes."""
    path = work / 'iter_4.pth'
    whole = read_checkpoint(path)
    del whole['meta']['cfg']
    adam = {'type': 'AdamW', 'lr': 0.1, '_delete_': True}
    cases: list[tuple[str, Any, dict]] = [('betas', whole, {'optim_wrapper__optimizer': adam})]
    for words in ('backbone.weight', 'param_groups', 'parameters'):
        spoilt = copy.deepcopy(whole)
        if words == 'backbone.weight':
            spoilt['optimizer']['state'][0]['momentum_buffer'] = torch.zeros(3)
        elif words == 'parameters':
            spoilt['optimizer']['param_groups'][0]['params'].pop()
        else:
            spoilt['optimizer'] = [1]
        cases.append((words, spoilt, {}))
    for words, content, changes in cases:
        write_atomically(content, path)
        with pytest.raises(CheckpointError, match=words):
            run(work, resume=True, load_from=str(path), **changes)


@pytest.mark.parametrize('classes', [(2, 0, 1), (0, 1, 3), (0, 1)])
def test_other_classes_are_an_error(
    classes: tuple, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = work / 'iter_4.pth'
    content = read_checkpoint(path)
    content['meta']['dataset_meta']['classes'] = tuple(f'class{i}' for i in classes)
    write_atomically(content, path)
    with pytest.raises(CheckpointError, match=r'iter_4\.pth.*metainfo\.classes'):
        run(work, resume=True, load_from=str(path))


def test_a_changed_schedule_is_the_one_from_there_on(work: Path) -> None:
    """As the uninterrupted run with that schedule has it; also where the number of schedules, the
    kind or the learning rate is another."""
    lr = {'optim_wrapper__optimizer__lr': 0.03}
    linear = {'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.5, 'begin': 0, 'end': 7}
    steps = {'type': 'MultiStepLR', 'by_epoch': False, 'milestones': [3, 7], 'gamma': 0.5}
    cosine = {'type': 'CosineAnnealingLR', 'by_epoch': False, 'T_max': 8}
    cases: list[dict] = [
        {'param_scheduler': [linear, steps]},
        {'param_scheduler': [cosine], **lr},
        {'param_scheduler': None, **lr},
        lr,
    ]
    for number, changes in enumerate(cases):
        whole = run(work.parent / f'whole{number}', **changes)
        here = Path(shutil.copytree(work, work.parent / f'again{number}'))
        again = run(here, resume=True, load_from=str(here / 'iter_4.pth'), **changes)
        rates = [
            runner.message_hub.get_scalar('train/lr').data[0][-4:].tolist()
            for runner in (whole, again)
        ]
        assert rates[0] == pytest.approx(rates[1])
        group = again.optim_wrapper.optimizer.param_groups[0]
        assert group['lr'] == pytest.approx(whole.optim_wrapper.optimizer.param_groups[0]['lr'])


def test_the_end_of_a_run(work: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(path.name for path in work.glob('*.pth'))
    run(work, resume=True)
    assert 'train_cfg.max_iters' in capsys.readouterr().out
    assert sorted(path.name for path in work.glob('*.pth')) == before
    longer = run(work, resume=True, train_cfg__max_iters=9)
    assert longer.iter == 9


def test_a_config_in_a_checkpoint_is_data(tmp_path: Path) -> None:
    trap = tmp_path / 'trap'
    text = f"model = dict(type='A', x=__import__('os').mkdir({str(trap)!r}), **dict(y=[1, -2.5]))"
    assert config_values(text, ast.unparse)['model'] == {
        'type': 'A',
        'x': f"__import__('os').mkdir({str(trap)!r})",
        'y': [1, -2.5],
    }
    assert not trap.exists()
    for broken in (None, 5, 'a = (', 'a = ' + '[' * 5000, 'a = ' + '-' * 100000 + '1', '\0'):
        assert not compare_configs('x.pth', {'cfg': broken}, {'model': {'type': 'A'}})
    config = toy_config(tmp_path, custom_hooks=[{'type': 'EMAHook', 'momentum': 1e-4}])
    config.model.odd = {'a b': (1, [2, ('x',)]), 'c': float('inf'), 'd': None, 'e': "it's \\ \n"}
    assert not compare_configs('x.pth', {'cfg': config.pretty_text}, config)


def test_loss_scale_of_a_run_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    wrapper = AmpOptimWrapper(torch.optim.SGD([parameter], 0.1))
    state = wrapper.state_dict()
    assert state['loss_scaler'] == {}
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', enabled=True)
    wrapper.load_state_dict(state)
    assert wrapper.loss_scaler.get_scale() == 2**16


@pytest.mark.parametrize(
    ('path', 'value', 'resumes'),
    [
        ('meta.iter', '4', False),
        ('meta.iter', -4, False),
        ('meta.iter', True, False),
        ('meta.cfg', [1], True),
        ('meta.seed', 'x', True),
        ('meta.dataset_meta', None, True),
        ('mmdet_r2', {}, True),
        ('message_hub', 'x', True),
        ('param_schedulers', 5, True),
        ('param_schedulers', [], True),
    ],
)
def test_entries_of_another_kind(path: str, value: Any, resumes: bool, work: Path) -> None:
    file = work / 'iter_4.pth'
    content = read_checkpoint(file)
    *parts, last = path.split('.')
    place = content
    for part in parts:
        place = place[part]
    place[last] = value
    write_atomically(content, file)
    if resumes:
        assert run(work, resume=True, load_from=str(file)).iter == 8
        return
    with pytest.raises(CheckpointError, match=r'iter_4\.pth'):
        run(work, resume=True, load_from=str(file))


@pytest.mark.parametrize('text', [b'\0' * 9, bytes(range(128, 256)), b'sub', b'x' * 5000, b''])
def test_a_spoilt_pointer(text: bytes, work: Path) -> None:
    (work / 'last_checkpoint').write_bytes(text)
    (work / 'sub').mkdir()
    assert latest_checkpoint(work) == str(work / 'iter_8.pth')


# ------------------------------------------------------------------------------- which checkpoint


def test_the_pointer_moves_with_its_folder(began: Path, work: Path) -> None:
    assert (work / 'last_checkpoint').read_text() == 'iter_8.pth'
    assert latest_checkpoint(work) == str(work / 'iter_8.pth')
    for text in (str(began / 'iter_8.pth'), f'{began}/iter_8.pth\n'):
        (work / 'last_checkpoint').write_text(text)
        assert latest_checkpoint(work) == str(work / 'iter_8.pth')
    (work / 'iter_8.pth').unlink()
    assert latest_checkpoint(work) == str(began / 'iter_8.pth')  # far away, but there


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    'damage', [cut, flip, lambda content: b'', lambda content: b'not a checkpoint', None]
)
@pytest.mark.parametrize('pointer', ['iter_8.pth', None])
def test_the_one_before_a_damaged_checkpoint_is_resumed(
    damage: Any, pointer: str | None, work: Path, capsys: pytest.CaptureFixture
) -> None:
    newest = work / 'iter_8.pth'
    if damage is None:
        write_atomically({'state_dict': {}}, newest)  # weights alone
    else:
        newest.write_bytes(damage(newest.read_bytes()))
    if pointer is None:
        (work / 'last_checkpoint').unlink()
    os.utime(work / 'iter_4.pth')  # a copied folder has times in any order
    runner = run(work, resume=True)
    assert runner.resumed_from == str(work / 'iter_6.pth') and runner.iter == 8
    lines = [line for line in capsys.readouterr().out.splitlines() if 'iter_8.pth' in line]
    assert any('iter_6.pth' in line for line in lines), lines
    assert read_checkpoint(newest)['meta']['iter'] == 8


def test_all_damaged_is_an_error(work: Path) -> None:
    for path in work.glob('iter_*.pth'):
        path.write_bytes(b'PK')
    with pytest.raises(CheckpointError, match=r'iter_8\.pth'):
        run(work, resume=True)
    for path in work.glob('iter_*.pth'):
        path.unlink()
    with pytest.raises(CheckpointError, match=r'iter_8\.pth: no such file'):
        run(work, resume=True)  # not anew, in silence


def test_names_of_the_users_own_and_another_folder(tmp_path: Path) -> None:
    hook = {'out_dir': str(tmp_path / 'big'), 'filename_tmpl': 'run7-{}.ckpt'}
    changes = {f'default_hooks__checkpoint__{key}': value for key, value in hook.items()}
    run(tmp_path / 'toy', **changes)
    path = tmp_path / 'big/toy/run7-8.ckpt'
    assert latest_checkpoint(tmp_path / 'toy') == str(path)
    path.write_bytes(b'')
    assert latest_checkpoint(tmp_path / 'toy') == str(path.with_name('run7-6.ckpt'))


# ------------------------------------------------------------------------------------- clean-up


def killed(work: Path, monkeypatch: pytest.MonkeyPatch, before: str, **changes: Any) -> None:
    """A run that ends, as if killed, before the file of that name is removed."""

    def remove(self: Any, name: str) -> None:
        if name == before:
            raise Interrupted
        (work / name).unlink(missing_ok=True)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(CheckpointHook, '_remove', remove)
        build_runner(with_validation(toy_config(work, **{**BY_ITER, **changes}))).train()
    assert (work / before).exists()


def test_what_a_killed_run_did_not_remove_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        'train_cfg__val_interval': 2,
        'default_hooks__checkpoint__max_keep_ckpts': 2,
        'default_hooks__checkpoint__save_best': 'toy_mAP',
    }
    for number, name in enumerate(('iter_2.pth', 'best_toy_mAP_iter_2.pth')):
        work = tmp_path / str(number)
        killed(work, monkeypatch, name, **changes)
        config = with_validation(toy_config(work, **{**BY_ITER, **changes}, resume=True))
        build_runner(config).train()
        names = sorted(path.name for path in work.glob('*.pth'))
        assert names == ['best_toy_mAP_iter_8.pth', 'iter_6.pth', 'iter_8.pth']


def test_a_copy_of_a_run_leaves_the_best_of_the_original(tmp_path: Path) -> None:
    changes = {**BY_ITER, 'train_cfg__val_interval': 4}
    build_runner(with_validation(toy_config(tmp_path / 'a', **changes))).train()
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    longer: Config = with_validation(toy_config(tmp_path / 'b', **changes, resume=True))
    longer.train_cfg.max_iters = 12
    ToyMetric.calls += 1
    build_runner(longer).train()
    best = {name: [p.name for p in (tmp_path / name).glob('best*')] for name in 'ab'}
    assert best == {'a': ['best_toy_mAP_iter_8.pth'], 'b': ['best_toy_mAP_iter_12.pth']}
