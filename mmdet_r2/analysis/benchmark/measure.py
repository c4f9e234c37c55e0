"""Timing of inference, training steps or data loading, and of the peer's on the same work.

Every toolbox is measured in a process of its own, with nothing else in it. The peer's process gets
the same model config, weights and images, and the two take turns, so that whatever else the machine
does hits both alike.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mmdet_r2.errors import UserError
from mmdet_r2.progress import progress

from .job import Work, make_job


class Remote:
    """A worker process."""

    def __init__(self, name: str, python: str, side: str, job_file: Path) -> None:
        self.name = name
        environment = dict(os.environ)
        root = str(Path(__file__).resolve().parents[3])
        if side == 'ours':
            environment['PYTHONPATH'] = os.pathsep.join(
                [root, *filter(None, [environment.get('PYTHONPATH')])]
            )
        else:
            environment.pop('PYTHONPATH', None)
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115  closed with the object
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name('worker.py').resolve()), side, str(job_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            cwd=tempfile.gettempdir() if side == 'peer' else None,
        )
        self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + '\n')
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()
            raise UserError(f'{self.name}: {last[-1] if last else "the process ended"}')
        return json.loads(line)


def measure(work: Work) -> dict[str, Any]:
    """Run both sides in turn and return the figures."""
    if work.peer and not Path(work.peer).exists():
        raise UserError(f'--peer {work.peer}: no such Python interpreter')
    with tempfile.TemporaryDirectory() as name:
        job = make_job(work, Path(name))
        remotes = [Remote('mmdet_r2', sys.executable, 'ours', job)]
        if work.peer:
            remotes.append(Remote('peer', work.peer, 'peer', job))
        for remote in remotes:
            for _ in range(work.warmup):
                remote.ask('run')
        runs: dict[str, list[dict]] = {remote.name: [] for remote in remotes}
        for repeat in progress(range(work.repeat), 'timing'):
            # the first of a pair may find the machine warmer or cooler: take turns at being it
            for remote in remotes if repeat % 2 == 0 else remotes[::-1]:
                runs[remote.name].append(remote.ask('run'))
        memory = {remote.name: remote.ask('stop')['memory'] for remote in remotes}
    return _figures(work, runs, memory)


def _figures(work: Work, runs: dict[str, list[dict]], memory: dict[str, float]) -> dict[str, Any]:
    per = dict(inference=work.batch_size, training=1, dataloader=work.batches)[work.mode]
    figures: dict[str, Any] = dict(
        mode=work.mode,
        config=str(work.config),
        unit=dict(inference='image', training='iteration', dataloader='batch')[work.mode],
        batch_size=work.batch_size,
        size=list(work.size) if work.mode != 'dataloader' else None,
        device=_device_name(work.device),
        threads=work.threads or torch.get_num_threads(),
        clock=work.clock,
        torch=torch.__version__,
        sides={},
    )
    for name, values in runs.items():
        seconds = [value['seconds'] / per for value in values]
        figures['sides'][name] = dict(
            median=statistics.median(seconds),
            fastest=min(seconds),
            slowest=max(seconds),
            memory=memory[name],
            last={k: v for k, v in values[-1].items() if k != 'seconds'},
        )
    if len(runs) == 2:
        ours, peer = runs.values()
        ratios = [b['seconds'] / a['seconds'] for a, b in zip(ours, peer)]
        figures['speedup'] = dict(
            median=statistics.median(ratios), lowest=min(ratios), highest=max(ratios)
        )
        figures['memory_ratio'] = memory['mmdet_r2'] / memory['peer']
    return figures


def _device_name(device: str) -> str:
    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(':')[2].strip() for line in lines if 'model name' in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(figures: dict[str, Any]) -> str:
    """The figures as text."""
    unit = figures['unit']
    what = figures['config']
    if figures['size']:
        what += f', {figures["size"][0]}x{figures["size"][1]}, batch {figures["batch_size"]}'
    lines = [
        f'{figures["mode"]}: {what}',
        f'device: {figures["device"]}, {figures["threads"]} threads, torch {figures["torch"]}, '
        f'{figures["clock"]} time',
        f'{"":10} {"s/" + unit:>14} {"fastest":>9} {"slowest":>9} {"peak MB":>9}',
    ]
    for name, side in figures['sides'].items():
        lines.append(
            f'{name:10} {side["median"]:14.4f} {side["fastest"]:9.4f} {side["slowest"]:9.4f} '
            f'{side["memory"]:9.0f}   ' + ', '.join(f'{k} {v:.4g}' for k, v in side['last'].items())
        )
    if 'speedup' in figures:
        s = figures['speedup']
        lines.append(
            f'speed-up over the peer: {s["median"]:.2f} (median of pairs; {s["lowest"]:.2f} to '
            f'{s["highest"]:.2f}), memory x {figures["memory_ratio"]:.2f}'
        )
    return '\n'.join(lines)
