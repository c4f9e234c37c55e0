"""A loss that is not finite stops the run before it does harm, and names the images."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_toy import toy_config
from warm_python import python

from mmdet_r2.engine import InvalidLossError, InvalidLossHook, build_runner
from mmdet_r2.zoo import read_checkpoint


def stopped(config: Any) -> tuple[InvalidLossError, dict[str, Any]]:
    with pytest.raises(InvalidLossError) as error:
        build_runner(config).train()
    (file,) = Path(config.work_dir).glob('invalid_loss*.json')

    def strict(name: str) -> None:
        raise AssertionError(f'{name} is not JSON')

    return error.value, json.loads(file.read_text(), parse_constant=strict)


def finite(checkpoint: dict[str, Any]) -> bool:
    return all(
        torch.isfinite(value).all()
        for value in checkpoint['state_dict'].values()
        if value.is_floating_point()
    )


def test_a_bad_image_is_named_and_weights_stay_finite(tmp_path: Path) -> None:
    error, report = stopped(toy_config(tmp_path, train_dataloader__dataset__bad=5))
    assert '\n' not in str(error) and 'image5.jpg' in str(error) and 'cause: data' in str(error)
    assert report['cause'] == 'data'
    suspects = [image['img_path'] for image in report['images'] if image['suspect']]
    assert suspects == ['image5.jpg'] and len(report['images']) == 2
    assert report['lr']['lr'] > 0 and 'loss_cls' in report['losses_in_float32']
    saved = read_checkpoint(report['checkpoint'])
    assert finite(saved)
    assert saved['meta']['iter'] == report['iter'] - 1


def test_the_saved_checkpoint_continues_with_the_same_batch(tmp_path: Path) -> None:
    config = toy_config(tmp_path, train_dataloader__dataset__bad=5)
    _, report = stopped(config)
    Path(tmp_path, f'invalid_loss_iter_{report["iter"]}.json').unlink()
    config.resume, config.load_from = True, report['checkpoint']
    _, again = stopped(config)
    assert again['iter'] == report['iter']
    assert [i['img_path'] for i in again['images']] == [i['img_path'] for i in report['images']]
    config.train_dataloader.dataset.bad = None
    Path(tmp_path, f'invalid_loss_iter_{report["iter"]}.json').unlink()
    runner = build_runner(config)
    runner.train()
    assert finite({'state_dict': runner.model.state_dict()})


def test_divergence(tmp_path: Path) -> None:
    error, report = stopped(toy_config(tmp_path, model__explode_at=4))
    assert report['iter'] == 5 and report['cause'] == 'learning rate'
    assert 'lower the learning rate' in str(error)
    assert all(image['suspect'] for image in report['images'])


def test_overflow_of_mixed_precision(tmp_path: Path) -> None:
    config = toy_config(tmp_path, optim_wrapper__type='AmpOptimWrapper', model__overflow=True)
    error, report = stopped(config)
    assert report['cause'] == 'overflow' and 'without --amp' in str(error)
    assert report['precision'] == 'torch.bfloat16'
    assert report['losses_in_float32']['loss_cls'] < 10


def test_broken_weights(tmp_path: Path) -> None:
    runner = build_runner(toy_config(tmp_path))
    runner.model.roi_head.bbox_head.fc.weight.data[0, 0] = float('inf')
    with pytest.raises(InvalidLossError, match='cause: weights'):
        runner.train()
    (file,) = tmp_path.glob('invalid_loss*.json')
    report = json.loads(file.read_text())
    assert report['first_broken_parameter'] == 'roi_head.bbox_head.fc.weight'
    assert report['checkpoint'] is None and not list(tmp_path.glob('*.pth'))


def test_gradients_of_accumulated_batches_stay_on_their_device(tmp_path: Path) -> None:
    """The meta device takes no data of the CPU into its parameters, as little as a GPU does."""
    runner = build_runner(toy_config(tmp_path))
    model = torch.nn.Linear(2, 2, device='meta')
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [parameter.grad for parameter in model.parameters()]
    wrapper = SimpleNamespace(get_lr=dict)
    fake = SimpleNamespace(
        optim_wrapper=wrapper, message_hub=runner.message_hub, iter=3, epoch=0, model=model
    )
    report = InvalidLossHook()._report(fake, model, torch.tensor(float('nan')), None, alone=True)
    assert report['cause'] == 'unknown' and report['rerun_error']
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before))


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    config = toy_config(tmp_path, model__explode_at=4, default_hooks__invalid_loss=None)
    build_runner(config).train()


def test_the_tool_exits_with_1_and_one_message(repo: Path, tmp_path: Path) -> None:
    toy_config(tmp_path / 'work', model__explode_at=2).dump(str(tmp_path / 'config.py'))
    done = subprocess.run(
        [python(), str(repo / 'tools/train.py'), str(tmp_path / 'config.py')],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}'},
    )
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'the loss is nan at iteration 3' in lines[0]
