"""What the main job promises, for a cascade with every part it can have (HTC with semantics):
distributed training, resuming, distributed testing, inference in batches, drawing.
"""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from warm_python import python

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.config import load_config
from mmdet_r2.datasets.demo import CLASSES, generate

CONFIG = 'htc_r2_50_fpn_demo'
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for CPUs')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('cascades')
    generate(folder / 'data', num_train=6, num_val=3, size=64, max_objects=3)
    narrow = {f'model.roi_head.bbox_head.{stage}.fc_out_channels': 32 for stage in range(3)}
    load_config(CONFIG, narrow).dump(str(folder / 'htc.py'))
    return folder


def start(repo: Path, folder: Path, script: str, *arguments: str, steps: int = 4) -> str:
    """What a tool prints, on two processes where its name says so."""
    root = f'{folder}/data/'
    options = [
        'train_dataloader.batch_size=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        f'train_dataloader.dataset.data_root={root}',
        f'train_cfg.max_iters={steps}',
        'train_cfg.val_interval=100',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=3',
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=5',
    ]
    for split in ('val', 'test'):
        options += [
            f'{split}_dataloader.batch_size=1',
            f'{split}_dataloader.dataset.data_root={root}',
            f'{split}_evaluator.ann_file={root}annotations/instances_val.json',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        ['bash' if script.endswith('.sh') else python(), script, str(folder / 'htc.py'), *arguments]
        + ['--cfg-options', *options],
        cwd=repo,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': port, 'PYTHON': python()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(work: Path) -> dict[int, dict[str, float]]:
    """Logged losses by step; of a resumed run the later log wins."""
    found: dict[int, dict[str, float]] = {}
    for log in sorted(work.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                found[record['step']] = {k: v for k, v in record.items() if 'loss' in k}
    return found


@pytest.fixture(scope='module')
def trained(repo: Path, folder: Path) -> Path:
    """Work directory of four steps on two processes, the last two of them resumed."""
    work = folder / 'work'
    dist = ('tools/dist_train.sh', '2', '--work-dir', str(work))
    start(repo, folder, *dist, steps=2)
    start(repo, folder, *dist, '--resume', steps=4)
    return work


def test_a_resumed_distributed_run_equals_an_uninterrupted_one(repo, folder, trained):
    start(repo, folder, 'tools/dist_train.sh', '2', '--work-dir', str(folder / 'whole'), steps=4)
    resumed, whole = losses(trained), losses(folder / 'whole')
    assert sorted(resumed) == sorted(whole) == [1, 2, 3, 4]
    for step, expected in whole.items():
        assert {'loss_semantic_seg', 's0.loss_mask', 's2.loss_bbox'} <= expected.keys()
        assert resumed[step] == pytest.approx(expected, rel=1e-6), step


def test_two_processes_measure_what_one_does(repo, folder, trained):
    checkpoint = str(trained / 'iter_4.pth')
    values = []
    for name, script, processes in (
        ('one', 'tools/test.py', ()),
        ('two', 'tools/dist_test.sh', ('2',)),
    ):
        work = folder / name
        arguments = (checkpoint, *processes, '--eval', 'bbox', 'segm', '--work-dir', str(work))
        start(repo, folder, script, *arguments)
        (report,) = work.rglob('metrics.json')
        values.append(json.loads(report.read_text())['metrics'])
    assert values[0] == values[1]
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= values[0].keys()


def test_inference_in_batches_and_pictures(repo, folder, trained):
    model = init_detector(
        str(folder / 'htc.py'),
        str(trained / 'iter_4.pth'),
        device='cpu',
        cfg_options={'model.test_cfg.rcnn.score_thr': 0.0},
    )
    assert tuple(model.dataset_meta['classes']) == CLASSES
    images = sorted((folder / 'data/val').glob('*.jpg'))
    together = inference_detector(model, images, batch_size=3)
    for image, batched in zip(images, together, strict=True):
        alone = inference_detector(model, image).pred_instances
        torch.testing.assert_close(batched.pred_instances.scores, alone.scores, atol=1e-4, rtol=0)
        assert alone.masks.shape[1:] == (64, 64)
    done = subprocess.run(
        [python(), 'demo/image_demo.py', str(folder / 'data/val'), str(folder / 'htc.py')]
        + [str(trained / 'iter_4.pth'), '--out-dir', str(folder / 'drawn')],
        cwd=repo,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((folder / 'drawn').rglob('*.jpg'))) == 3
