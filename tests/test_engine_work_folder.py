"""A work folder belongs to one run: no other trains in it, what an earlier one left is moved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_config, with_validation
from warm_python import python

from mmdet_r2.analysis.logs import read_log
from mmdet_r2.apis.test import test as run_test
from mmdet_r2.engine import Runner, build_runner
from mmdet_r2.engine.work_folder import held, new_log_folder, set_aside
from mmdet_r2.errors import ConfigError
from mmdet_r2.zoo import read_checkpoint

LOGS = {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}


def run(work_dir: Path, **changes: Any) -> Runner:
    runner = build_runner(toy_config(work_dir, visualizer=LOGS, **changes))
    runner.train()
    return runner


def start(interpreter: str, repo: Path, config: Path, *arguments: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}',
        'OMP_NUM_THREADS': '1',
    }
    return subprocess.Popen(
        [interpreter, str(repo / 'tools/train.py'), str(config), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f'{path} did not come'
        time.sleep(0.02)


def test_a_folder_in_use_is_refused_and_free_when_its_run_is_killed(
    repo: Path, tmp_path: Path
) -> None:
    """Also where data loaders' workers of the killed run live on for a while."""
    config, work = tmp_path / 'config.py', tmp_path / 'work'
    slow = toy_config(work, model__pause=2, train_dataloader__num_workers=2)
    slow.default_hooks.checkpoint.update(by_epoch=False)
    slow.dump(str(config))
    first = start(sys.executable, repo, config)
    try:
        wait_for(work / 'last_checkpoint')
        second = start(python(), repo, config, '--resume')
        output = second.communicate(timeout=60)[0]
        assert second.returncode == 2, output
        lines = [line for line in output.splitlines() if line.startswith('error: ')]
        assert len(lines) == 1 and str(work) in lines[0] and str(first.pid) in lines[0], output
        assert first.poll() is None
        with pytest.raises(ConfigError, match=str(first.pid)):
            build_runner(toy_config(work)).train()
    finally:
        first.kill()
        first.wait(timeout=20)
    runner = build_runner(toy_config(work, resume=True))
    runner.train()
    assert runner.epoch == 4 and not (work / '.lock').exists()


def test_a_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    with held(str(tmp_path)):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with held(str(tmp_path)) as locked:
            assert locked
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    runner = run(tmp_path)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert str(tmp_path) in log and 'no locks' in log


def test_runs_of_the_same_second_have_logs_of_their_own(tmp_path: Path) -> None:
    names = [new_log_folder(str(tmp_path), '20260101_000000') for _ in range(3)]
    assert len(set(names)) == 3 and all((tmp_path / name).is_dir() for name in names)


def test_a_second_run_moves_the_first_aside(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    work = tmp_path / 'work'
    config = with_validation(toy_config(work, visualizer=LOGS, train_cfg__val_interval=1))
    build_runner(config).train()
    first = {path.name for path in work.glob('*.pth')}
    assert 'best_toy_mAP_epoch_4.pth' in first
    own = ['notes.txt', 'best.pth', 'model_final.pth', 'metrics.json', 'epoch_plan.txt']
    for name in own:
        (work / name).write_text('mine')
    (work / 'pictures').mkdir()
    (work / 'last_good_iter_3.pth').write_bytes(b'')
    weights = read_checkpoint(work / 'epoch_4.pth')['state_dict']
    capsys.readouterr()
    runner = run(work, train_cfg__max_epochs=1, load_from=str(work / 'epoch_4.pth'))
    (earlier,) = work.glob('earlier_*')
    moved = {path.name for path in earlier.iterdir()}
    assert first | {'last_checkpoint', 'last_good_iter_3.pth'} <= moved
    assert {p.name for p in work.glob('*.pth')} == {'epoch_1.pth', 'best.pth', 'model_final.pth'}
    assert all((work / name).read_text() == 'mine' for name in own)
    assert (work / 'pictures').is_dir()
    lines = capsys.readouterr().out.splitlines()
    assert sum(str(earlier) in line for line in lines) == 1
    assert read_log(work).train[-1]['iteration'] == 5 and not read_log(work).val
    assert len(read_log(earlier).val) == 4
    # it began with the weights that have been moved meanwhile
    assert runner.iter == 6 and set(runner.model.state_dict()) == set(weights)
    again = run(work, resume=True, train_cfg__max_epochs=2)
    assert again.iter == 12 and len(list(work.glob('earlier_*'))) == 1
    assert read_log(work).train[-1]['iteration'] == 11


def test_resuming_a_run_of_another_folder_moves_too(tmp_path: Path) -> None:
    run(tmp_path / 'a', train_cfg__max_epochs=2)
    run(tmp_path / 'b', train_cfg__max_epochs=1)
    runner = run(tmp_path / 'b', resume=True, load_from=str(tmp_path / 'a/epoch_2.pth'))
    assert runner.iter == 24 and (tmp_path / 'a/epoch_2.pth').exists()
    (earlier,) = (tmp_path / 'b').glob('earlier_*')
    assert (earlier / 'epoch_1.pth').exists()


def test_resume_in_an_empty_folder_begins(tmp_path: Path) -> None:
    runner = run(tmp_path, resume=True)
    assert runner.iter == 24 and not list(tmp_path.glob('earlier_*'))


def test_a_test_moves_and_locks_nothing(tmp_path: Path) -> None:
    config = with_validation(toy_config(tmp_path / 'work', visualizer=LOGS))
    build_runner(config).train()
    before = {path.name for path in (tmp_path / 'work').iterdir()}
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_cfg = {'type': 'TestLoop'}
    with held(str(tmp_path / 'work')):
        values = run_test(config, tmp_path / 'work/epoch_4.pth', prepare=False)
        assert values
    assert before <= {path.name for path in (tmp_path / 'work').iterdir()}


def test_names_that_are_moved(tmp_path: Path) -> None:
    moved = [
        'last_checkpoint',
        'iter_5.pth',
        'epoch_12.pth',
        'mine-7.pt',
        'best_coco_bbox_mAP_iter_5.pth',
        'best_auto_mine-7.pt',
        'iter_5-0123abcd.pth',
        'invalid_loss_iter_3_rank1.json',
    ]
    stay = ['iter_5.pth.bak', 'my_iter_5.pth', 'iter_x.pth', 'best_model.pth', 'cfg.py', '.lock']
    for name in [*moved, *stay]:
        (tmp_path / name).write_text('')
    for name in ('20260101_000000', '20260101_000001', '20260101_000002_1', '2026'):
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        if name != '20260101_000001':
            (tmp_path / name / 'vis_data/scalars.json').write_text('')
    said = set_aside(str(tmp_path), 'earlier_1', 'mine-{}.pt', '20260101_000000')
    assert str(tmp_path / 'earlier_1') in said
    found = {path.name for path in (tmp_path / 'earlier_1').iterdir()}
    assert found == {*moved, '20260101_000002_1'}
    assert set_aside(str(tmp_path), 'earlier_2', 'mine-{}.pt', '20260101_000000') == ''
    assert not (tmp_path / 'earlier_2').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')
def test_all_ranks_end_with_the_same_error(repo: Path, tmp_path: Path) -> None:
    config = tmp_path / 'config.py'
    toy_config(tmp_path / 'work').dump(str(config))
    with held(str(tmp_path / 'work')):
        done = subprocess.run(
            [
                *(python(), '-m', 'torch.distributed.run', '--nproc_per_node', '2'),
                *('--master_port', '0', '--standalone', str(repo / 'tools/train.py'), str(config)),
                *('--launcher', 'pytorch'),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, 'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}'},
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 2 and errors[0] == errors[1] and str(os.getpid()) in errors[0]
