"""A disk that is full at a checkpoint, the pointer to it, a log or a report: one line names a file,
and nothing is lost."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_toy import toy_config
from warm_python import python

from mmdet_r2.engine import build_runner, latest_checkpoint
from mmdet_r2.zoo import read_checkpoint

# Trains; from where ``method`` of ``owner`` is called for the second time, files cannot grow.
LIMITED = """
import resource, sys
from mmdet_r2.engine import Runner, checkpoint, hooks
from mmdet_r2.engine.processes import shut_down
from mmdet_r2.apis.train import train
from mmdet_r2.errors import run_cli
import engine_toy

owner, method, config = sys.argv[1:]
owner = {'runner': Runner, 'hook': checkpoint.CheckpointHook, 'logger': hooks.LoggerHook,
         'file': checkpoint}[owner]
original, calls = getattr(owner, method), 0
def limited(*arguments, **options):
    global calls
    calls += 1
    if calls == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return original(*arguments, **options)
setattr(owner, method, limited)
run_cli(lambda: train(config))
"""


def tool(repo: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python(), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}',
            'OMP_NUM_THREADS': '1',
        },
    )


def assert_one_line(done: subprocess.CompletedProcess, name: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith('mpl')]
    errors = [line for line in lines if line.startswith('error: ')]
    assert len(errors) == 1 and name in errors[0], done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr


@pytest.mark.parametrize(
    ('owner', 'method', 'name'),
    [
        ('runner', 'save_checkpoint', 'epoch_2.pth'),
        ('file', 'write_text', 'last_checkpoint'),
        ('logger', 'after_train_iter', 'scalars.json'),
        ('hook', 'after_train_epoch', '.log'),
    ],
)
def test_a_file_that_cannot_be_written(
    owner: str, method: str, name: str, repo: Path, tmp_path: Path
) -> None:
    config = toy_config(
        tmp_path / 'work',
        visualizer={'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
        default_hooks__logger__interval=1,
        log_level='INFO' if name == '.log' else 'WARNING',
    )
    if name in ('epoch_2.pth', 'last_checkpoint'):
        config.default_hooks.logger.interval = 1000
    config.dump(str(tmp_path / 'config.py'))
    done = tool(repo, '-c', LIMITED, owner, method, str(tmp_path / 'config.py'))
    assert_one_line(done, name)
    work = tmp_path / 'work'
    assert not list(work.glob('.*-*'))
    for path in work.glob('*.pth'):
        read_checkpoint(path)
    if name != 'scalars.json':
        assert latest_checkpoint(work) == str(work / 'epoch_1.pth')
        config.resume = True
        runner = build_runner(config)
        runner.train()
        assert runner.iter == 24


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip('mounting a small disk needs root')
    yield folder
    subprocess.run(['umount', '-l', str(folder)])


@pytest.mark.parametrize('taken', [0, 252])
def test_a_small_disk(taken: int, small_disk: Path, repo: Path, tmp_path: Path) -> None:
    """Full at the config, a log, or one of the checkpoints, by how much is ``taken``."""
    ballast = small_disk / 'ballast'
    ballast.write_bytes(bytes(taken * 1024))
    config = toy_config(
        small_disk / 'work',
        log_level='INFO',
        default_hooks__checkpoint__max_keep_ckpts=-1,
        train_cfg__max_epochs=12,
    )
    config.dump(str(tmp_path / 'config.py'))
    done = tool(repo, str(repo / 'tools/train.py'), str(tmp_path / 'config.py'))
    assert_one_line(done, str(small_disk))
    for path in small_disk.rglob('*.pth'):
        read_checkpoint(path)
    assert not [path for path in small_disk.rglob('.*-*') if path.is_file()]
    ballast.unlink()
    subprocess.run(['mount', '-o', 'remount,size=16m', str(small_disk)], check=True)
    done = tool(repo, str(repo / 'tools/train.py'), str(tmp_path / 'config.py'), '--resume')
    assert done.returncode == 0, done.stderr
