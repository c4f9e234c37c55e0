"""Checkpoints survive a killed process; the last few and the best are kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from engine_toy import ToyMetric, toy_config, with_validation

from mmdet_r2.engine import build_runner, latest_checkpoint
from mmdet_r2.engine.checkpoint import write_atomically
from mmdet_r2.errors import ConfigError
from mmdet_r2.zoo import read_checkpoint

# Writes the first half of the second checkpoint and then waits to be killed.
KILLED_WHILE_WRITING = """
import io, sys, time, torch
from engine_toy import toy_config
from mmdet_r2.engine import build_runner

save, count = torch.save, 0
def slow_save(content, file):
    global count
    count += 1
    if count < 2:
        return save(content, file)
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    print('half written', flush=True)
    time.sleep(120)
torch.save = slow_save
config = toy_config(sys.argv[1], default_hooks__checkpoint__max_keep_ckpts=1)
build_runner(config).train()
"""


def start(repo: Path, script: str, *arguments: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        'PYTHONPATH': f'{repo}{os.pathsep}{repo / "tests"}',
        'OMP_NUM_THREADS': '1',
    }
    return subprocess.Popen(
        [sys.executable, '-c', script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_while_writing_keeps_the_previous_checkpoint(repo: Path, tmp_path: Path) -> None:
    process = start(repo, KILLED_WHILE_WRITING, str(tmp_path))
    output = []
    for line in process.stdout:
        output.append(line)
        if 'half written' in line:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL, ''.join(output)
    assert list(tmp_path.glob('.*-*')), 'the process was not in the middle of writing'
    assert not (tmp_path / 'epoch_2.pth').exists()
    found = latest_checkpoint(tmp_path)
    assert found == str(tmp_path / 'epoch_1.pth')
    assert read_checkpoint(found)['meta']['epoch'] == 1
    runner = build_runner(toy_config(tmp_path, resume=True))
    runner.train()
    assert len(runner.message_hub.log_scalars['train/loss'].data[0]) == 24
    assert not list(tmp_path.glob('.*-*')), 'what the killed process left is still there'


def test_killed_trainer_is_resumed_to_the_same_end(repo: Path, tmp_path: Path) -> None:
    whole = build_runner(toy_config(tmp_path / 'whole'))
    whole.train()
    script = (
        'import sys; from engine_toy import toy_config; from mmdet_r2.engine import build_runner\n'
        'build_runner(toy_config(sys.argv[1], model__pause=0.2)).train()'
    )
    process = start(repo, script, str(tmp_path / 'killed'))
    deadline = time.time() + 60
    while not (tmp_path / 'killed/last_checkpoint').exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.kill()
    process.wait(timeout=20)
    assert not (tmp_path / 'killed/epoch_4.pth').exists()
    again = build_runner(toy_config(tmp_path / 'killed', resume=True))
    again.train()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    write_atomically({'x': 1}, path)
    with pytest.raises(Exception, match='pickle'):
        write_atomically({'x': lambda: None}, path)
    assert torch.load(path, weights_only=True) == {'x': 1}
    assert os.listdir(tmp_path) == ['a.pth']


def test_the_newest_readable_one_is_taken(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write_atomically({'meta': {'epoch': epoch, 'iter': epoch}}, tmp_path / f'epoch_{epoch}.pth')
        os.utime(tmp_path / f'epoch_{epoch}.pth', (epoch, epoch))
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('')  # power cut of an older version
    (tmp_path / 'epoch_2.pth').write_bytes(b'PK broken')
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/since/epoch_1.pth')
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    assert latest_checkpoint(tmp_path / 'nothing') is None


def test_the_last_three_and_the_best_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.4, 0.5, 0.6])
    monkeypatch.setattr(
        ToyMetric, 'compute_metrics', lambda self, results: {'toy_mAP': next(scores)}
    )
    config = with_validation(
        toy_config(tmp_path, train_cfg__val_interval=1, train_cfg__max_epochs=6)
    )
    build_runner(config).train()
    names = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert names == ['best_toy_mAP_epoch_2.pth', 'epoch_4.pth', 'epoch_5.pth', 'epoch_6.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_6.pth')


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    config = with_validation(
        toy_config(
            tmp_path,
            train_cfg__val_interval=1,
            default_hooks__checkpoint={'save_best': 'bbox_mAP', 'rule': 'greater'},
        )
    )
    with pytest.raises(ConfigError, match=r'no metric bbox_mAP; the evaluator gives toy_mAP'):
        build_runner(config).train()
