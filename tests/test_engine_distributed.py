"""Two real processes with gloo, started the way users start them."""

import json
import os
import socket
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_config
from mmengine.config import Config
from warm_python import python

from mmdet_r2.zoo import read_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')


def train(
    repo: Path, config: Config, processes: int, *arguments: str
) -> subprocess.CompletedProcess:
    folder = Path(config.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f'{folder.name}_config.py'
    config.dump(str(path))
    environment = {
        **os.environ,
        'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}',
        'OMP_NUM_THREADS': '1',
        'PYTHON': python(),
    }
    if processes == 1:
        command = [python(), str(repo / 'tools/train.py'), str(path)]
    else:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            environment['PORT'] = str(free.getsockname()[1])
        command = ['bash', str(repo / 'tools/dist_train.sh'), str(path), str(processes)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def succeeded(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr[-3000:]


def mask_rcnn(work_dir: Path, batch_size: int) -> Config:
    """A small Mask R-CNN whose losses have the same normaliser on every image.

    Counts of samples are what losses are divided by, per process: they are made equal by few
    samples and many objects, and the choice of samples by :class:`engine_toy.FirstOfManyHook`.
    """
    config = Config.fromfile(
        Path(__file__).parent.parent / 'configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py'
    )
    model: Any = config.model
    model.backbone.update(depth=18, init_cfg=None, frozen_stages=-1, zero_init_residual=False)
    model.neck.in_channels = [64, 128, 256, 512]
    model.roi_head.bbox_head.fc_out_channels = 64
    model.roi_head.bbox_head.num_classes = model.roi_head.mask_head.num_classes = 3
    model.train_cfg.rpn.sampler.update(num=32, pos_fraction=0.25)
    model.train_cfg.rcnn.sampler.update(num=8, pos_fraction=0.5)
    changes = {
        'train_dataloader.batch_size': batch_size,
        'train_dataloader.dataset': {'type': 'ToyObjects'},
        'train_dataloader.sampler.shuffle': False,
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': 2, '_delete_': True},
        'custom_hooks': [{'type': 'FirstOfManyHook'}],
        'param_scheduler': None,
    }
    toy = toy_config(work_dir)
    toy.merge_from_dict(changes)
    toy.train_dataloader.dataset = {'type': 'ToyObjects'}
    toy.default_hooks.checkpoint.update(by_epoch=False)
    toy.default_hooks.logger.interval = 1
    toy.optim_wrapper.optimizer.lr = 1e-4
    toy.model = model
    return toy


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(
    repo: Path, tmp_path: Path
) -> None:
    succeeded(train(repo, mask_rcnn(tmp_path / 'one', 2), 1))
    succeeded(train(repo, mask_rcnn(tmp_path / 'two', 1), 2))
    one, two = (read_checkpoint(tmp_path / name / 'iter_1.pth') for name in ('one', 'two'))
    compared = 0
    for index in one['optimizer']['state']:
        # after one step the momentum is the gradient
        gradient, other = (
            content['optimizer']['state'][index]['momentum_buffer'] for content in (one, two)
        )
        # Not equal to the last bit: a rounding error flips a few of the ReLUs that are near zero.
        # A wrong normaliser, or a rank left out, would show in the first digit.
        scale = gradient.norm().item()
        assert (gradient - other).norm().item() <= 3e-4 * scale, index
        compared += scale > 0  # the first samples are all of the finest level of the pyramid
    assert compared > 90
    last = [read_checkpoint(tmp_path / name / 'iter_2.pth') for name in ('one', 'two')]
    for key, value in last[0]['state_dict'].items():
        torch.testing.assert_close(value, last[1]['state_dict'][key], rtol=1e-3, atol=1e-5)


def test_two_processes_resume_exactly_each_with_its_random_numbers(
    repo: Path, tmp_path: Path
) -> None:
    changes = {
        'randomness__diff_rank_seed': True,
        'model__norm': 'SyncBN',
        'default_hooks__checkpoint': {'by_epoch': False, 'interval': 2},
        'train_cfg__max_epochs': 2,
        'train_dataloader__num_workers': 1,
        'log_level': 'INFO',
    }
    whole = train(repo, toy_config(tmp_path / 'whole', **changes), 2)
    succeeded(whole)
    assert 'SyncBN does not run on CPUs' in whole.stdout
    cut = toy_config(
        tmp_path / 'parts', **changes, custom_hooks=[{'type': 'InterruptHook', 'at': 3}]
    )
    assert train(repo, cut, 2).returncode != 0
    assert not (tmp_path / 'parts/iter_4.pth').exists()
    succeeded(train(repo, toy_config(tmp_path / 'parts', **changes), 2, '--resume'))
    one, two = (read_checkpoint(tmp_path / name / 'iter_6.pth') for name in ('whole', 'parts'))
    for key, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][key]), key
    states = [content['mmdet_r2']['rng'] for content in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*states))
    assert not torch.equal(states[0][0], states[0][1])  # ranks differ from each other


def test_every_step_has_the_rate_of_maskrcnn_benchmark(repo: Path, tmp_path: Path) -> None:
    """A third of the rate at first, all of it after the warm-up, a tenth behind each milestone, and
    for biases twice that: on two processes, stopped within the warm-up and resumed."""
    changes: dict[str, Any] = dict(
        train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10),
        train_dataloader__sampler__type='InfiniteSampler',
        default_hooks__checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1),
        optim_wrapper__constructor='GroupedOptimWrapperConstructor',
        optim_wrapper__optimizer__weight_decay=0.0,
        optim_wrapper__paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=6),
            dict(type='MultiStepLR', by_epoch=False, begin=0, end=10, milestones=[7, 9]),
        ],
    )
    cut = toy_config(tmp_path / 'a', **changes, custom_hooks=[{'type': 'InterruptHook', 'at': 3}])
    assert train(repo, cut, 2).returncode != 0
    assert not (tmp_path / 'a/iter_4.pth').exists()
    succeeded(train(repo, toy_config(tmp_path / 'a', **changes), 2, '--resume'))
    files = [read_checkpoint(tmp_path / f'a/iter_{step}.pth') for step in range(1, 11)]
    head = 'roi_head.bbox_head.fc'
    groups = [
        (1, ['backbone.weight', 'bn.weight', f'{head}.weight']),
        (2, ['backbone.bias', f'{head}.bias']),
        (1, ['bn.bias']),  # of a norm: no decay, but the rate of all
    ]
    for step, (before, after) in enumerate(pairwise(files), 1):
        factor = min(1 / 3 + step / 5 * 2 / 3, 1) * 0.1 ** ((step >= 7) + (step >= 9))
        momenta = iter(after['optimizer']['state'].values())
        for times, names in groups:
            for name in names:
                weight = before['state_dict'][name]
                expected = weight - times * 0.01 * factor * next(momenta)['momentum_buffer']
                torch.testing.assert_close(
                    after['state_dict'][name], expected, msg=f'{step} {name}'
                )


def test_all_processes_stop_when_one_has_an_invalid_loss(repo: Path, tmp_path: Path) -> None:
    config = toy_config(tmp_path / 'work', model={'explode_at': 2, 'explode_on_rank': 1})
    done = train(repo, config, 2)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and 'at iteration 3 on rank 1' in errors[0], done.stderr[-3000:]
    report = json.loads((tmp_path / 'work/invalid_loss_iter_3_rank1.json').read_text())
    assert report['rank'] == 1 and len(report['images']) == 2
    assert read_checkpoint(tmp_path / 'work/last_good_iter_2.pth')['meta']['iter'] == 2
