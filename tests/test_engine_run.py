"""Setting up a run: class check, learning rate, precision, logs, command line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import ToyDataset, ToyDetector, toy_config, with_validation
from warm_python import python

from mmdet_r2.apis.train import train, training_config
from mmdet_r2.config import load_config
from mmdet_r2.engine import ProgressHook, build_runner, check_num_classes
from mmdet_r2.engine.data_order import seeded
from mmdet_r2.engine.hooks import unreadable_images
from mmdet_r2.engine.state import (
    get_rng_state,
    pack_rng_state,
    set_rng_state,
    unpack_rng_state,
    untouched_rng,
)
from mmdet_r2.errors import CheckpointError, ConfigError, DataError, UserError


def tool(repo: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python(), str(repo / 'tools/train.py'), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}'},
    )


# ----------------------------------------------------------------------------------------- classes


def test_number_of_classes_is_compared(tmp_path: Path) -> None:
    config = toy_config(tmp_path, model__num_classes=80)
    with pytest.raises(ConfigError) as error:
        build_runner(config).train()
    message = str(error.value)
    assert 'model.roi_head.bbox_head.num_classes is 80' in message
    assert '3 classes' in message and 'ToyDataset' in message


def test_classes_as_a_text_are_an_error() -> None:
    dataset = ToyDataset()
    dataset.metainfo['classes'] = 'cat'
    with pytest.raises(ConfigError, match=r"write \('cat',\)"):
        check_num_classes(ToyDetector(), dataset)


# ------------------------------------------------------------------------------------ learning rate


@pytest.mark.parametrize(
    ('batch', 'accumulate', 'expected'), [(2, 1, 0.00125), (4, 1, 0.0025), (2, 4, 0.005)]
)
def test_learning_rate_follows_the_batch(
    batch: int, accumulate: int, expected: float, tmp_path: Path
) -> None:
    config = training_config(
        toy_config(
            tmp_path,
            auto_scale_lr={'base_batch_size': 16},
            optim_wrapper__accumulative_counts=accumulate,
            train_dataloader__batch_size=batch,
            param_scheduler=None,
            train_cfg__max_epochs=1,
            log_level='INFO',
        ),
        auto_scale_lr=True,
    )
    runner = build_runner(config)
    runner.train()
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(expected)]
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert f'lr 0.01 -> {expected:g} (batch 16 -> {batch * accumulate})' in log


def test_without_the_flag_the_mismatch_is_said(tmp_path: Path) -> None:
    runner = build_runner(toy_config(tmp_path, auto_scale_lr={'base_batch_size': 16}))
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert '--auto-scale-lr would set lr 0.01 -> 0.00125 (batch 16 -> 2)' in log


def test_scaling_needs_a_base(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='base_batch_size'):
        training_config(toy_config(tmp_path), auto_scale_lr=True)


# -------------------------------------------------------------------------------- precision, layout


def test_amp_on_the_cpu_is_bfloat16(tmp_path: Path) -> None:
    runner = train(toy_config(tmp_path), amp=True)
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    expected = torch.bfloat16
    assert runner.optim_wrapper.cast_dtype == expected
    assert all(parameter.dtype == torch.float32 for parameter in runner.model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason='float16 works on GPUs')
def test_float16_on_the_cpu_is_refused(tmp_path: Path) -> None:
    config = toy_config(tmp_path, optim_wrapper={'type': 'AmpOptimWrapper', 'dtype': 'float16'})
    with pytest.raises(ConfigError, match='float16 needs a GPU'):
        build_runner(config).train()


@pytest.mark.parametrize('workers', [0, 2])
def test_error_of_a_worker_process_is_one_line(workers: int, tmp_path: Path) -> None:
    config = toy_config(
        tmp_path, train_dataloader={'num_workers': workers, 'dataset': {'missing': 4}}
    )
    with pytest.raises(DataError) as error:
        build_runner(config).train()
    assert str(error.value) == 'image4.jpg: no such file.'


def test_unreadable_images_are_reported(tmp_path: Path) -> None:
    runner = build_runner(toy_config(tmp_path))
    dataset = ToyDataset()
    dataset.unreadable = torch.zeros(12, dtype=torch.uint8)
    dataset.unreadable[3] = 1
    assert unreadable_images(dataset) == ['image3.jpg']
    runner.train_loop.dataloader.dataset.dataset = dataset
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert log.count('1 training images cannot be read and were replaced by others') == 1
    assert 'image3.jpg' in log


def test_channels_last_is_a_layout_not_a_result(tmp_path: Path) -> None:
    plain = train(toy_config(tmp_path / 'a', env_cfg__channels_last=False))
    other = train(toy_config(tmp_path / 'b', env_cfg__channels_last=True))
    weight = other.model.backbone.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weight.contiguous(), plain.model.backbone.weight)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    runner = build_runner(toy_config(tmp_path))
    runner.model.backbone.weight.requires_grad_(False)
    before = runner.model.backbone.weight.clone()
    runner.train()
    assert torch.equal(runner.model.backbone.weight, before)


# -------------------------------------------------------------------------------------------- logs


def test_one_json_line_per_log_step_and_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip('tensorboard')
    config = toy_config(
        tmp_path,
        visualizer={
            'type': 'Visualizer',
            'vis_backends': [{'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}],
        },
    )
    runner = train(config)
    lines = (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry['step'] for entry in entries] == [5, 11, 17, 23]
    assert {'loss', 'loss_cls', 'lr', 'iter', 'time', 'data_time'} <= set(entries[0])
    assert list(Path(runner.log_dir).rglob('events.out.tfevents*'))


def test_two_runs_of_a_process_do_not_share_logs(tmp_path: Path) -> None:
    config = toy_config(
        tmp_path / 'a',
        visualizer={'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
    )
    first = train(config)
    config.work_dir = str(tmp_path / 'b')
    second = train(config)
    assert first.message_hub is not second.message_hub
    for runner in (first, second):
        assert len((Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()) == 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_only(tmp_path: Path) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        runner = build_runner(with_validation(toy_config(tmp_path, train_cfg__val_interval=2)))
        runner.register_hook(ProgressHook(stream=stream, min_interval=0))
        runner.train()
    assert pipe.getvalue() == ''
    assert 'train [############............] 12/24  ETA 0:00:0' in terminal.getvalue()
    assert 'val [' in terminal.getvalue() and 'loss ' in terminal.getvalue()
    assert terminal.getvalue().endswith('\r\033[K')


def test_dumped_config_has_no_variables_and_runs(tmp_path: Path) -> None:
    path = tmp_path / 'mine.py'
    toy_config(tmp_path / 'work').dump(str(path))
    path.write_text('rate = 0.01\n' + path.read_text().replace('lr=0.01', 'lr=rate'))
    train(str(path))
    dumped = load_config(tmp_path / 'work/mine.py')
    assert 'rate' not in dumped and dumped.optim_wrapper.optimizer.lr == 0.01


# ------------------------------------------------------------------------------------ random states


def test_random_states_survive_packing() -> None:
    import random

    import numpy as np

    np.random.randn()  # leaves a second normal number in store
    random.gauss(0, 1)
    state = get_rng_state()

    def draw() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), np.random.randn(), torch.rand(3).tolist()

    first = draw()
    assert draw() != first
    set_rng_state(unpack_rng_state(pack_rng_state(state)))
    assert draw() == first
    set_rng_state(state)
    with untouched_rng():
        draw()
    with seeded((1, 2, 3, 4)):
        one = draw()
    with seeded((1, 2, 3, 4)):
        assert draw() == one
    with seeded((1, 2, 3, 5)):
        assert draw() != one
    assert draw() == first


# ------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['no_such_config.py'], 'no_such_config.py'),
        (['{config}', '--resume', 'no.pth'], 'no.pth: no such file'),
        (['{config}', '--cfg-options', 'model.num_clases=3'], 'did you mean num_classes?'),
        (['{config}', '--auto-scale-lr'], 'base_batch_size'),
        (['{config}', '--launcher', 'pytorch'], 'MASTER_ADDR'),
        (['{config}', '--cfg-options', 'load_from=no.pth'], 'no.pth'),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason='checked once, on CPUs')
def test_user_errors_are_one_line_and_exit_2(
    arguments: list[str], words: str, repo: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'config.py'
    toy_config(tmp_path / 'work').dump(str(path))
    done = tool(repo, *[argument.format(config=path) for argument in arguments])
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and words in errors[0], done.stderr
    assert 'Traceback' not in done.stderr


def test_the_tool_trains_and_resumes(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    toy_config(tmp_path / 'unused', log_level='INFO').dump(str(path))
    work = tmp_path / 'work'
    arguments = [str(path), '--work-dir', str(work)]
    done = tool(repo, *arguments, '--cfg-options', 'train_cfg.max_epochs=2')
    assert done.returncode == 0, done.stderr
    assert '\r' not in done.stdout + done.stderr  # no bar where output is not a terminal
    assert 'eta:' in done.stdout
    done = tool(repo, *arguments, '--resume', '--cfg-options', 'train_cfg.max_epochs=3')
    assert done.returncode == 0, done.stderr
    assert f'resumed {work / "epoch_2.pth"}' in done.stdout
    assert (work / 'epoch_3.pth').is_file()


def test_resuming_a_missing_file_is_told_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='no such file'):
        train(toy_config(tmp_path), resume=tmp_path / 'no.pth')


# ---------------------------------------------------------------------------------------- screen


def test_the_screen_shows_a_line_where_the_file_lists(tmp_path: Path, capsys: Any) -> None:
    runner = build_runner(toy_config(tmp_path, log_level='INFO'))
    runner.logger.warning('Config:\nis in a warning')
    shown = capsys.readouterr().out
    file = next(Path(runner.log_dir).glob('*.log'))
    logged = file.read_text()
    for part in ('System environment:', 'Config:\n', 'Hooks will be executed', 'CheckpointHook'):
        assert part in logged and (part not in shown or part == 'Config:\n')
    lines = shown.splitlines()
    assert len(lines) == 3 and lines[2] == 'is in a warning', shown
    assert f'1 process on CPU, Python {sys.version.split()[0]}, torch' in lines[0]
    assert lines[0].endswith(f'config, environment and hooks: {file}')
    assert f'seed {runner.seed};' in lines[0]


def test_pretrained_weights_that_load_from_replaces_are_not_fetched(tmp_path: Path) -> None:
    weights = build_runner(toy_config(tmp_path / 'first')).model.state_dict()
    heads = {name: value for name, value in weights.items() if 'backbone' not in name}
    for name, part in (('whole', weights), ('heads', heads)):
        torch.save(dict(state_dict=part), tmp_path / f'{name}.pth')
        runner = build_runner(toy_config(tmp_path / name, load_from=str(tmp_path / f'{name}.pth')))
        runner.model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'imagenet.pth'))
        if name == 'whole':
            runner.train()
        else:
            with pytest.raises(UserError, match=r'imagenet\.pth'):
                runner.train()
