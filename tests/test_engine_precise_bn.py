"""Batch-norm statistics measured on training batches; decay of norms; detectron2's schedule."""

import bisect
import copy
import multiprocessing
import random
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_toy import Interrupted, ToyDetector, toy_config, with_validation
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner import autocast
from small_detector import batch_of, build, small_config
from test_engine_distributed import succeeded, train
from test_engine_run import Terminal
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_r2.config import load_config
from mmdet_r2.engine import (
    ProgressHook,
    bn_layers,
    build_runner,
    latest_checkpoint,
    recompute_statistics,
)
from mmdet_r2.engine.precise_bn import PreciseBNHook, training_batches
from mmdet_r2.engine.registries import PARAM_SCHEDULERS
from mmdet_r2.engine.state import get_rng_state, pack_rng_state, untouched_rng
from mmdet_r2.errors import ConfigError
from mmdet_r2.models.norms import FrozenBN, NaiveSyncBN
from mmdet_r2.registry import HOOKS, init_scope
from mmdet_r2.zoo import read_checkpoint

Forward = Callable[[nn.Module, Any], Any]


def offline(model: nn.Module, batches: Any, forward: Forward) -> dict[str, Tensor]:
    """By layer, (2, C): averages over batches of the mean and unbiased variance of what it is
    given, in float64."""
    model = copy.deepcopy(model)
    found: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, args: tuple[Tensor]) -> None:
            x = args[0].double().transpose(0, 1).flatten(1)  # (C, values)
            if x.numel():
                found.setdefault(name, []).append(torch.stack([x.mean(1), x.var(1, correction=1)]))

        return look

    for name, layer in bn_layers(model).items():
        layer.register_forward_pre_hook(watch(name))
    with untouched_rng(), torch.no_grad():
        for batch in batches:
            forward(model, batch)
    return {name: torch.stack(parts).mean(0) for name, parts in found.items()}


def assert_statistics(model: nn.Module, expected: dict[str, Tensor]) -> None:
    layers = bn_layers(model)
    for name, (mean, variance) in expected.items():
        scale = variance.sqrt()
        torch.testing.assert_close(layers[name].running_var, variance.float(), rtol=1e-5, atol=1e-7)
        error = (layers[name].running_mean - mean).abs() / scale
        assert error.max() < 1e-5, name


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a pass may not change, copied."""
    return copy.deepcopy(
        {
            'tensors': dict(model.state_dict()),
            'gradients': {name: p.grad for name, p in model.named_parameters()},
            'modes': {name: module.training for name, module in model.named_modules()},
            'momenta': {name: getattr(m, 'momentum', 0) for name, m in model.named_modules()},
            'hooks': {name: len(m._forward_hooks) for name, m in model.named_modules()},
            'rng': pack_rng_state(get_rng_state()),
        }
    )


def assert_same_state(one: Any, other: Any, but: tuple[str, ...] = ()) -> None:
    """Equal to the last bit, except running statistics of the layers ``but``."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            layer, _, what = key.rpartition('.')
            if not (layer in but and what in ('running_mean', 'running_var')):
                assert_same_state(one[key], other[key], but)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


# ----------------------------------------------------------------------------------- the function


class Net(nn.Module):
    """Two batch norms, one of them used twice; one frozen, one without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.frozen = nn.BatchNorm2d(4).requires_grad_(False)
        self.constant = FrozenBN(4)
        self.free = nn.BatchNorm2d(4, track_running_stats=False)
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True)
        self.drop = nn.Dropout(0.3)
        self.shared = nn.BatchNorm2d(4, momentum=None)
        self.register_buffer('calls', torch.zeros(()))
        self.train()
        self.frozen.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.conv(self.first(x))
        x = self.instance(self.free(self.constant(self.frozen(x))))
        return self.shared(self.drop(2 * self.shared(self.drop(x)).relu()))


def pictures(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(count, 3, 6 + count, 7, generator=generator) * (1 + i) + i
        for i, count in enumerate(counts)
    ]


def test_first_layer_against_arithmetic() -> None:
    model = Net()
    batches = pictures(1, 4, 2)
    assert recompute_statistics(model, batches, model) == {}
    values = [batch.numpy().astype(np.float64).transpose(1, 0, 2, 3) for batch in batches]
    values = [value.reshape(3, -1) for value in values]
    mean = np.mean([value.mean(1) for value in values], axis=0)
    variance = np.mean([value.var(1, ddof=1) for value in values], axis=0)
    np.testing.assert_allclose(model.first.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.first.running_var.numpy(), variance, rtol=1e-5)


def test_every_call_counts_and_all_else_stays() -> None:
    model = Net()
    with torch.no_grad():
        for _ in range(3):
            model(pictures(2)[0])  # running statistics of some value
    model(pictures(2)[0]).sum().backward()
    torch.rand(5), random.random(), np.random.rand()
    before = state_of(model)
    batches = pictures(3, 1, 5)
    expected = offline(model, batches, lambda model, batch: model(batch))
    assert set(expected) == {'first', 'shared'} == set(bn_layers(model))
    recompute_statistics(model, batches, model)
    assert_statistics(model, expected)
    assert_same_state(state_of(model), before, but=('first', 'shared'))


def test_nothing_is_kept_and_nothing_is_recorded() -> None:
    model = Net()
    outputs: list[weakref.ref] = []

    def forward(batch: Tensor) -> Tensor:
        assert all(output() is None for output in outputs)
        result = model(batch)
        assert not result.requires_grad and not torch.is_grad_enabled()
        outputs.append(weakref.ref(result))
        return result

    recompute_statistics(model, iter(pictures(2, 2, 2, 2)), forward)
    assert len(outputs) == 4


def test_layers_without_sound_values_keep_theirs() -> None:
    model = nn.ModuleDict({'a': nn.BatchNorm2d(3), 'b': nn.BatchNorm2d(3), 'c': nn.BatchNorm2d(3)})
    good, *_ = batches = pictures(2, 3)

    def forward(batch: Tensor) -> None:
        model['a'](batch)
        model['b'](batch / 0 if batch is good else batch)
        model['c'](batch[:0])

    assert recompute_statistics(model, batches, forward) == {'b': 'not finite', 'c': 'no input'}
    for name in 'bc':
        assert model[name].running_mean.tolist() == [0] * 3
        assert model[name].running_var.tolist() == [1] * 3
    assert_statistics(model['a'], {'': offline(model['a'], batches, lambda m, x: m(x))['']})


def test_an_error_leaves_everything_as_it_was() -> None:
    model = Net()
    before = state_of(model)

    def broken() -> Iterator[Tensor]:
        yield from pictures(2, 2)
        torch.rand(1)
        raise OSError

    with pytest.raises(OSError):
        recompute_statistics(model, broken(), model)
    assert_same_state(state_of(model), before)


def normed(norm: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    """A small Mask R-CNN with norms in the backbone, the FPN and both heads."""
    config = small_config(norm_cfg=norm)
    config['backbone'].update(norm_cfg=norm, norm_eval=False, **backbone)
    config['neck']['norm_cfg'] = norm
    config['roi_head']['mask_head']['norm_cfg'] = norm
    config['roi_head']['bbox_head'].update(
        type='Shared4Conv1FCBBoxHead', conv_out_channels=16, norm_cfg=norm
    )
    return config


def test_detector_with_norms_everywhere() -> None:
    model = build(normed({'type': 'BN'}, frozen_stages=1))
    model.train()
    batches = [batch_of(model, *counts) for counts in ((3, 2), (0, 0), (1, 4))]
    for number, batch in enumerate(batches):
        batch['inputs'] += torch.randn(batch['inputs'].shape) * number

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(**copy.deepcopy(batch), mode='loss')

    before = state_of(model)
    expected = offline(model, batches, forward)
    names = set(bn_layers(model))
    assert set(expected) == names
    for part in ('backbone.layer2', 'neck.lateral', 'neck.fpn', 'bbox_head', 'mask_head'):
        assert any(part in name for name in names), part
    assert not any('layer1' in name or name == 'backbone.bn1' for name in names)
    assert recompute_statistics(model, batches, lambda batch: forward(model, batch)) == {}
    assert_statistics(model, expected)
    assert_same_state(state_of(model), before, but=tuple(names))


def test_norm_eval_leaves_nothing_to_do_in_the_backbone() -> None:
    model = build(small_config(mask=False))
    model.train()
    model.backbone.norm_eval = True
    model.train()
    before = state_of(model)
    assert recompute_statistics(model, [1], lambda batch: 1 / 0) == {}  # not even a pass
    assert_same_state(state_of(model), before)


# -------------------------------------------------------------------------------- through a runner


@HOOKS.register_module(force=True)
class RecordHook(Hook):
    """Which statistics are evaluated, and which are saved, after which step."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.evaluated: dict[int, Tensor] = {}
        self.saved: dict[int, Tensor] = {}

    def before_val_epoch(self, runner: Any) -> None:
        self.evaluated[runner.iter] = runner.model.bn.running_mean.clone()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        mean = checkpoint['state_dict']['bn.running_mean'].clone()
        self.saved.setdefault(checkpoint['meta']['iter'], mean)  # the best one is written later


def run(config: Config, interrupt: int | None = None, precise: Any = None) -> Any:
    config = Config(config.to_dict())
    hooks = [*config.get('custom_hooks', []), {'type': 'RecordHook'}]
    if precise is not None:
        hooks.append({'type': 'PreciseBNHook', **precise})
    if interrupt is not None:
        hooks.append({'type': 'InterruptHook', 'at': interrupt})
    config.custom_hooks = hooks
    runner = build_runner(config)
    try:
        runner.train()
    except Interrupted:
        pass
    return runner


def record_of(runner: Any) -> RecordHook:
    return next(hook for hook in runner.hooks if isinstance(hook, RecordHook))


def log_of(runner: Any) -> str:
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def losses_of(model: nn.Module, batch: Any) -> Any:
    return model(**model.data_preprocessor(batch, True), mode='loss')


def expected_at(runner: Any, model: nn.Module, step: int, number: int) -> dict[str, Tensor]:
    """Statistics of ``model`` for the batches that the hook takes after ``step`` steps."""
    former, runner.train_loop._iter = runner.train_loop._iter, step - 1
    loader, taken = training_batches(runner, number)
    runner.train_loop._iter = former
    model.train()
    return offline(model, [batch for batch, _ in zip(loader, range(taken))], losses_of)


def assert_same_training(one: Any, other: Any, but: tuple[str, ...] = ()) -> None:
    """Losses, rates, weights, the optimiser, random states; running statistics except ``but``."""
    for key in ('loss', 'acc', 'lr'):
        logs = [r.message_hub.log_scalars[f'train/{key}'].data[0].tolist() for r in (one, other)]
        assert logs[0] == logs[1], key
    states = [
        {
            'tensors': dict(r.model.state_dict()),
            'optimizer': str(r.optim_wrapper.state_dict()),
            'scheduler': [s.state_dict()['last_step'] for s in r.param_schedulers],
        }
        for r in (one, other)
    ]
    assert_same_state(*states, but=but)


BY_ITER = {
    'train_cfg': {
        'type': 'IterBasedTrainLoop',
        'max_iters': 12,
        'val_interval': 5,
        '_delete_': True,
    },
    'default_hooks__checkpoint': {'by_epoch': False, 'interval': 1, 'max_keep_ckpts': -1},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    # changes, options of the hook, steps after which it runs (6 steps an epoch)
    'epochs, every evaluation': ({'train_cfg__val_interval': 2}, {}, [12, 24]),
    'epochs, interval of its own': ({'train_cfg__val_interval': 2}, {'interval': 3}, [18, 24]),
    'epochs, late beginning': (
        {'train_cfg': {'val_interval': 1, 'val_begin': 3}},
        {},
        [18, 24],
    ),
    'epochs, more often later on': (
        {'train_cfg': {'val_interval': 3, 'dynamic_intervals': [(3, 1)]}},
        {},
        [12, 18, 24],
    ),
    'epochs, checkpoints by step': (
        {
            'train_cfg__val_interval': 2,
            'default_hooks__checkpoint': {'by_epoch': False, 'interval': 4},
        },
        {},
        [12, 24],
    ),
    'steps, every evaluation': (BY_ITER, {}, [5, 10, 12]),
    'steps, interval of its own': (BY_ITER, {'interval': 4}, [4, 8, 12]),
    'steps, endless, several workers': (
        {
            **BY_ITER,
            'train_dataloader__sampler': {'type': 'InfiniteSampler'},
            'train_dataloader__num_workers': 2,
        },
        {},
        [5, 10, 12],
    ),
    'aspect ratio groups': (
        {**BY_ITER, 'train_dataloader__batch_sampler': {'type': 'AspectRatioBatchSampler'}},
        {},
        [5, 10, 12],
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_evaluated_and_saved_statistics_are_precise_and_training_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, options, steps = CASES[name]
    ran: list[int] = []
    recompute = PreciseBNHook._recompute
    monkeypatch.setattr(
        PreciseBNHook,
        '_recompute',
        lambda self, runner: (ran.append(runner.iter + 1), recompute(self, runner)),
    )
    config = with_validation(toy_config(tmp_path / 'precise', **changes))
    runner = run(config, precise={'num_iters': 4, **options})
    assert ran == steps
    record = record_of(runner)
    for step in steps:
        if step not in record.evaluated or step not in record.saved:
            continue
        assert torch.equal(record.evaluated[step], record.saved[step])
    if not options:
        assert set(record.evaluated) <= set(steps)
    assert record.evaluated and record.saved
    assert_statistics(runner.model, expected_at(runner, runner.model, steps[-1], 4))
    config.work_dir = str(tmp_path / 'plain')
    plain = run(config)
    assert_same_training(runner, plain, but=('bn',))
    assert not torch.equal(runner.model.bn.running_mean, plain.model.bn.running_mean)


def test_statistics_are_those_of_the_weights_of_each_evaluation(tmp_path: Path) -> None:
    config = with_validation(toy_config(tmp_path, train_cfg__val_interval=1))
    config.default_hooks.checkpoint.max_keep_ckpts = -1
    runner = run(config, precise={'num_iters': 5})
    for epoch in (1, 2, 3, 4):
        model = ToyDetector()
        model.load_state_dict(read_checkpoint(tmp_path / f'epoch_{epoch}.pth')['state_dict'])
        assert_statistics(model.train(), expected_at(runner, model, 6 * epoch, 5))
        assert model.bn.num_batches_tracked == 6 * epoch


@pytest.mark.parametrize(
    ('changes', 'stop'),
    [
        ({'train_cfg__val_interval': 1}, 11),
        ({'train_cfg__val_interval': 1}, 12),
        ({**BY_ITER, 'optim_wrapper__accumulative_counts': 3}, 11),
        ({**BY_ITER, 'train_dataloader__sampler': {'type': 'InfiniteSampler'}}, 10),
        ({**BY_ITER, 'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.1}]}, 10),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    changes: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    config = with_validation(toy_config(tmp_path / 'whole', **changes))
    whole = run(config, precise={'num_iters': 3})
    config.work_dir = str(tmp_path / 'parts')
    run(config, interrupt=stop, precise={'num_iters': 3})
    config.resume = True
    assert_same_training(run(config, precise={'num_iters': 3}), whole)
    last = [read_checkpoint(latest_checkpoint(tmp_path / part)) for part in ('whole', 'parts')]
    assert_same_state(last[0]['state_dict'], last[1]['state_dict'])
    assert torch.equal(last[0]['mmdet_r2']['rng'][0], last[1]['mmdet_r2']['rng'][0])


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_weights_get_statistics_of_their_own(update_buffers: bool, tmp_path: Path) -> None:
    ema = {'type': 'EMAHook', 'momentum': 0.3, 'update_buffers': update_buffers}
    changes = {'train_cfg__val_interval': 2, 'custom_hooks': [ema]}
    config = with_validation(toy_config(tmp_path / 'precise', **changes))
    runner = run(config, precise={'num_iters': 4})
    record = record_of(runner)
    content = read_checkpoint(tmp_path / 'precise/epoch_4.pth')
    model = ToyDetector()
    model.load_state_dict(content['state_dict'])
    assert not torch.equal(model.backbone.weight, runner.model.backbone.weight)
    assert_statistics(model.train(), expected_at(runner, model, 24, 4))
    assert torch.equal(record.evaluated[24], model.bn.running_mean)
    config.work_dir = str(tmp_path / 'plain')
    plain = run(config)
    assert_same_training(runner, plain, but=() if update_buffers else ('bn',))
    averages = [
        read_checkpoint(tmp_path / part / 'epoch_4.pth')['state_dict']
        for part in ('precise', 'plain')
    ]
    assert_same_state(*[dict(average) for average in averages], but=('bn',))


def test_in_the_precision_of_training(tmp_path: Path) -> None:
    runner = run(
        toy_config(tmp_path, optim_wrapper__type='AmpOptimWrapper'), precise={'num_iters': 4}
    )
    with autocast(dtype=torch.bfloat16):
        expected = expected_at(runner, runner.model, 24, 4)
    assert_statistics(runner.model, expected)
    exact = expected_at(runner, runner.model, 24, 4)
    assert not torch.allclose(expected['bn'], exact['bn'], rtol=1e-6)


def test_images_come_in_an_order_of_their_own_each_time(tmp_path: Path) -> None:
    log = tmp_path / 'read.txt'
    config = toy_config(tmp_path / 'work', train_dataloader__dataset__log=str(log))
    config.train_dataloader.sampler.seed = 5  # would otherwise be that of our loader, too
    run(config, precise={'num_iters': 6, 'interval': 1})
    read = np.array(log.read_text().split(), dtype=int).reshape(4, 2, 12)
    assert (np.sort(read, axis=2) == np.arange(12)).all()  # each pass reads every image once
    assert len(np.unique(read.reshape(8, 12), axis=0)) == 8


def test_fewer_batches_than_asked_is_one_warning(tmp_path: Path) -> None:
    config = toy_config(tmp_path, train_dataloader__num_batch_per_epoch=5, log_level='INFO')
    runner = run(with_validation(config), precise={})
    log = log_of(runner)
    assert log.count('PreciseBNHook.num_iters is 200') == 1
    assert 'are 5 batches (of each process): these 5 will be used' in log
    assert 'statistics of 1 BN layers from 5 training batches, ' in log
    assert_statistics(runner.model, expected_at(runner, runner.model, 20, 200))


def test_no_layer_in_training_mode_is_one_line(tmp_path: Path) -> None:
    config = toy_config(tmp_path, model__frozen_bn=True, log_level='INFO')
    runner = run(config, precise={'num_iters': 2, 'interval': 1})
    assert log_of(runner).count('no batch norm is in training mode, nothing to do') == 1
    assert runner.model.bn.running_mean.tolist() == [0] * 4


def test_unsound_statistics_are_said(tmp_path: Path) -> None:
    config = toy_config(
        tmp_path, train_dataloader__dataset__bad=3, default_hooks__invalid_loss=None
    )
    runner = run(config, precise={'num_iters': 6}, interrupt=25)
    assert '1 BN layers had infinite or undefined values' in log_of(runner)


def test_one_line_each_time_progress_and_clock(tmp_path: Path) -> None:
    config = toy_config(
        tmp_path,
        log_level='INFO',
        model__pause=0.01,
        train_dataloader__sampler={'type': 'InfiniteSampler'},
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 2, '_delete_': True},
    )
    config.custom_hooks = [{'type': 'PreciseBNHook', 'num_iters': 101, 'interval': 1}]
    runner = build_runner(config)
    terminal = Terminal()
    runner.register_hook(ProgressHook(stream=terminal, min_interval=0))
    runner.train()
    log = log_of(runner)
    assert len(re.findall(r'statistics of 1 BN layers from 101 training batches, .* s\.', log)) == 2
    assert re.findall(r'PreciseBN \[(.*)\]', log) == ['50/101', '100/101'] * 2
    assert 'precise BN [########################] 101/101' in terminal.getvalue()
    waited = runner.message_hub.log_scalars['train/data_time'].data[0]
    assert len(waited) == 2 and waited[1] < 0.5  # a second, were it counted as waiting for data


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'num_iters': 0}, 'PreciseBNHook.num_iters is 0; expected 1 or more'),
        ({'num_iters': 2.5}, 'num_iters is 2.5'),
        ({'interval': 0}, 'PreciseBNHook.interval is 0; expected -1'),
    ],
)
def test_wrong_numbers_are_errors(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        run(toy_config(tmp_path), precise=options)


def test_misspelt_option_is_an_error(tmp_path: Path) -> None:
    config = toy_config(
        tmp_path, custom_hooks=[{'type': 'PreciseBNHook', 'num_iter': 3, 'priority': 'LOW'}]
    )
    with pytest.raises(ConfigError, match=r'custom_hooks.0.num_iter: .*did you mean num_iters'):
        load_config(config)


# ------------------------------------------------------------------------------------ two processes


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.sync = NaiveSyncBN(4)
        self.next = nn.Conv2d(4, 5, 1)
        self.own = nn.BatchNorm2d(5)
        self.empty_on_one = NaiveSyncBN(5)

    def forward(self, x: Tensor, rank: int) -> None:
        x = self.own(self.next(self.sync(self.conv(x)).relu()))
        self.empty_on_one(x if rank == 0 else x[:0])


def batch_of_rank(rank: int, number: int) -> Tensor:
    size = (2, 3, 8 + 2 * rank, 8)
    return torch.from_numpy(np.random.default_rng((rank, number)).normal(rank, 1 + number, size))


def rank_main(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = Shared()
    batches = [batch_of_rank(rank, number).float() for number in range(3)]
    left = recompute_statistics(model, batches, lambda batch: model(batch, rank))
    torch.save({'left': left, **model.state_dict()}, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')
def test_layers_that_share_statistics_and_layers_that_do_not(tmp_path: Path) -> None:
    start = multiprocessing.get_context('fork').Process
    processes = [start(target=rank_main, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    for key, value in found[0].items():
        assert value == found[1][key] if key == 'left' else torch.equal(value, found[1][key]), key
    assert found[0]['left'] == {}
    torch.manual_seed(0)
    model = Shared().double()

    def moments(x: Tensor) -> Tensor:
        return torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])

    sums: dict[str, list[Tensor]] = {'sync': [], 'own': [], 'empty_on_one': []}
    with torch.no_grad():
        for number in range(3):
            inner = [model.conv(batch_of_rank(rank, number)) for rank in (0, 1)]
            mean, square = (moments(inner[0]) + moments(inner[1])) / 2
            variance = square - mean**2  # biased; each rank counts the same
            sums['sync'].append(torch.stack([mean, variance]))
            for rank in (0, 1):
                x = nn.functional.batch_norm(inner[rank], mean, variance)
                x = model.next(x.relu())
                flat = x.transpose(0, 1).flatten(1)
                unbiased = flat.var(1, correction=1)
                sums['own'].append(torch.stack([flat.mean(1), unbiased]))
                if rank == 0:
                    biased = flat.var(1, correction=0)
                    out = (flat.mean(1) * 0, biased / (biased + 1e-5))
                    sums['empty_on_one'].append(torch.stack(out))
    for name, parts in sums.items():
        values = torch.stack([found[0][f'{name}.running_{kind}'] for kind in ('mean', 'var')])
        average = torch.stack(parts).mean(0).float()
        torch.testing.assert_close(values, average, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')
def test_two_processes_have_the_statistics_of_one_with_the_same_batches(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config_of(name: str, number: int) -> Config:
        config = toy_config(tmp_path / name, param_scheduler=None, log_level='INFO')
        config.merge_from_dict(
            {
                'train_dataloader.batch_size': 1,
                'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': 2, '_delete_': True},
                'default_hooks.checkpoint.by_epoch': False,
                'optim_wrapper.optimizer.lr': 0.0,
                # samples of heads are then those of the image, whatever was drawn before
                'custom_hooks': [
                    {'type': 'FirstOfManyHook'},
                    {'type': 'PreciseBNHook', 'num_iters': number},
                ],
            }
        )
        config.train_dataloader.dataset = {'type': 'ToyObjects', 'length': 8}
        config.model = normed({'type': 'BN'})
        return config

    done = train(repo, config_of('two', 3), 2)
    succeeded(done)
    assert 'from 3 training batches on each of 2 processes' in done.stdout
    monkeypatch.setattr(torch, 'randperm', torch.randperm)  # as before, afterwards
    build_runner(config_of('one', 6)).train()
    one, two = (read_checkpoint(tmp_path / name / 'iter_2.pth') for name in ('one', 'two'))
    compared = 0
    for key, value in one['state_dict'].items():
        # sums of the same numbers in another order
        torch.testing.assert_close(value, two['state_dict'][key], rtol=1e-5, atol=1e-6)
        compared += key.endswith('running_var') and not torch.equal(value, torch.ones_like(value))
    assert compared > 30


# ------------------------------------------------------------ what else detectron2's recipes need


@pytest.mark.parametrize(
    'norm', [{'type': 'SyncBN'}, {'type': 'NaiveSyncBN'}, {'type': 'GN', 'num_groups': 4}]
)
def test_norms_alone_do_not_decay(norm: dict[str, Any]) -> None:
    model = build(normed(norm, frozen_stages=1))
    wrapper = DefaultOptimWrapperConstructor(
        {'optimizer': {'type': 'SGD', 'lr': 0.02, 'momentum': 0.9, 'weight_decay': 1e-4}},
        {'norm_decay_mult': 0.0},
    )(model)
    assert isinstance(wrapper, OptimWrapper)
    options = {
        parameter: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    counted = {'norm': 0, 'bias': 0, 'weight': 0}
    places = set()
    for name, module in model.named_modules():
        is_norm = isinstance(module, (_BatchNorm, nn.GroupNorm))
        for kind, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                assert parameter not in options or options[parameter][0] == 0
                continue
            assert options[parameter] == (0.02, 0.0 if is_norm else 1e-4), f'{name}.{kind}'
            counted['norm' if is_norm else kind] += 1
            if is_norm:
                places.add('.'.join(name.split('.')[:2]))
    heads = {'roi_head.bbox_head', 'roi_head.mask_head'}
    assert {'backbone.layer2', 'neck.lateral_convs', *heads} <= places
    # RPN 3, box head 3 fully connected, mask head deconvolution and predictor
    assert counted['bias'] == 8
    assert counted['weight'] > 20 and counted['norm'] > 40


def test_schedule_of_90000_steps_is_that_of_detectron2() -> None:
    init_scope()
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.02)
    optimizer.step()  # torch asks for it before a scheduler's step
    schedulers = [
        PARAM_SCHEDULERS.build(config, default_args={'optimizer': optimizer})
        for config in (
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1001),
            dict(type='MultiStepLR', by_epoch=False, milestones=[60000, 80000], gamma=0.1),
        )
    ]

    def detectron2(step: int) -> float:
        warmup = min(step / 1000, 1)
        return 0.02 * (0.001 * (1 - warmup) + warmup) * 0.1 ** bisect.bisect([60000, 80000], step)

    steps = {0, 1, 500, 998, 999, 1000, 1001, 59999, 60000, 79999, 80000}
    for step in range(max(steps) + 1):
        if step in steps:
            rate = optimizer.param_groups[0]['lr']
            assert rate == pytest.approx(detectron2(step), rel=1e-9), step
        for scheduler in schedulers:
            scheduler.step()
