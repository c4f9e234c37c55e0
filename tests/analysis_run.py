"""One real run for the tests of the analysis tools: a small Mask R-CNN, trained for seconds on
generated images by tools/train.py and measured by tools/test.py."""

import contextlib
import fcntl
import io
import json
import os
import pickle
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config
from small_detector import small_config
from warm_python import python

from mmdet_r2.datasets.demo import CLASSES, generate

REPO = Path(__file__).resolve().parent.parent
EPOCHS = 28


@dataclass
class Run:
    """Where the run's files are, and what the test printed."""

    root: Path
    config: Path
    checkpoint: Path
    work_dir: Path
    results: Path
    printed: str

    @property
    def annotations(self) -> Path:
        return self.root / 'data/annotations/instances_train.json'

    @property
    def report(self) -> dict:
        return json.loads((self.root / 'test/metrics.json').read_text())


def tool(script: str, *arguments: object, code: int = 0) -> str:
    """Run a script of the repository in this process; what it printed (of a user error its only
    line on stderr)."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [script, *map(str, arguments)]
    found = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(REPO / script), run_name='__main__')
    except SystemExit as stop:
        found = stop.code or 0
    finally:
        sys.argv = before
    assert found == code, out.getvalue()[-2000:] + err.getvalue()[-4000:]
    if not code:
        return out.getvalue() + err.getvalue()
    (line,) = err.getvalue().strip().splitlines()
    assert line.startswith('error: ')
    return line


def _start(script: str, *arguments: object) -> str:
    """Run a script in a process of its own; what it printed."""
    done = subprocess.run(
        [python(), str(REPO / script), *map(str, arguments)],
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(REPO)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def _config(root: Path) -> Config:
    model = small_config(mask=True)
    model['rpn_head']['anchor_generator']['scales'] = [4]
    model['roi_head']['bbox_head']['num_classes'] = len(CLASSES)
    model['roi_head']['mask_head']['num_classes'] = len(CLASSES)
    for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
        model['roi_head'][part]['finest_scale'] = 24
    norm = dict(type='BN', requires_grad=True)
    model['neck']['norm_cfg'] = norm
    model['train_cfg']['rcnn']['sampler']['num'] = 32
    read = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(96, 96), keep_ratio=True),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')

    def loader(train: bool) -> dict:
        # tested on what it was trained on: that a few seconds suffice for detections of all kinds
        pack = dict(type='PackDetInputs') if train else dict(type='PackDetInputs', meta_keys=keys)
        flip = [dict(type='RandomFlip', prob=0.5)] if train else []
        return dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=train),
            dataset=dict(
                type='CocoDataset',
                metainfo=dict(classes=CLASSES),
                data_root=f'{root}/data/',
                ann_file='annotations/instances_train.json',
                data_prefix=dict(img='train/'),
                test_mode=not train,
                pipeline=[*read, *flip, pack],
            ),
        )

    evaluator = dict(
        type='CocoMetric',
        ann_file=f'{root}/data/annotations/instances_train.json',
        metric=['bbox', 'segm'],
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            train_dataloader=loader(train=True),
            val_dataloader=loader(train=False),
            test_dataloader=loader(train=False),
            val_evaluator=evaluator,
            test_evaluator=evaluator,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=7),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
                clip_grad=dict(max_norm=10.0),
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),
                dict(type='MultiStepLR', milestones=[EPOCHS - 6], gamma=0.2),
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=3),
                timer=dict(type='IterTimerHook'),
                param_scheduler=dict(type='ParamSchedulerHook'),
                checkpoint=dict(type='CheckpointHook', interval=EPOCHS, save_best=None),
            ),
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
            randomness=dict(seed=0),
        )
    )


def _run(root: Path) -> Run:
    generate(root / 'data', num_train=24, num_val=4, size=96, max_objects=4)
    path = root / 'small.py'
    _config(root).dump(str(path))
    _start('tools/train.py', path, '--work-dir', root / 'train')
    checkpoint = root / 'train' / (root / 'train/last_checkpoint').read_text().strip()
    results = root / 'results.pkl'
    printed = _start(
        'tools/test.py', path, checkpoint, '--out', results, '--work-dir', root / 'test',
        '--outfile-prefix', root / 'coco',
    )  # fmt: skip
    return Run(root, path, checkpoint, root / 'train', results, printed)


def small_run(factory: pytest.TempPathFactory) -> Run:
    """The run; made once for all modules, in all processes of pytest-xdist."""
    base = factory.getbasetemp()
    root = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'analysis'
    root.mkdir(exist_ok=True)
    with open(root / 'run.pkl', 'a+b') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if content := file.read():
            return pickle.loads(content)
        run = _run(root)
        file.write(pickle.dumps(run))
        return run
