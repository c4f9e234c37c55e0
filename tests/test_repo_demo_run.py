"""``make demo`` in small: the same scripts and config on a handful of images."""

import os
import subprocess
from pathlib import Path

import cv2
import pytest
from warm_python import python

from mmdet_r2.datasets.demo import CLASSES, GROUNDS, MAP_CLASSES, generate

MODELS = ('mask_rcnn', 'cascade_mask_rcnn', 'htc')


def config_of(model: str) -> str:
    return f'configs/demo/{model}_r2_50_fpn_demo.py'


@pytest.mark.parametrize('model', MODELS)
def test_config_is_for_the_generated_data(repo: Path, model: str) -> None:
    from mmdet_r2.config import load_config

    config = load_config(repo / config_of(model))
    for loader in (config.train_dataloader, config.val_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == CLASSES
    heads = config.model.roi_head
    for head in (heads.bbox_head, heads.mask_head):
        for each in head if isinstance(head, list) else [head]:
            assert each.num_classes == len(CLASSES)
    if model == 'htc':
        assert heads.semantic_head.num_classes == len(MAP_CLASSES)
    assert config.model.backbone.type == 'Res2Net' and config.model.backbone.depth == 50


def test_panoptic_config_is_for_the_generated_data(repo: Path) -> None:
    from mmdet_r2.config import load_config

    config = load_config(repo / config_of('panoptic_fpn'))
    for loader in (config.train_dataloader, config.val_dataloader):
        assert tuple(loader.dataset.metainfo.thing_classes) == CLASSES
        assert tuple(loader.dataset.metainfo.stuff_classes) == GROUNDS
    for head in (config.model.semantic_head, config.model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == (len(CLASSES), len(GROUNDS))


@pytest.fixture(scope='module')
def run(repo: Path, tmp_path_factory: pytest.TempPathFactory):
    """Run a script of the repository on four generated images; returns what it printed."""
    folder = tmp_path_factory.mktemp('demo_run')
    generate(folder / 'data', num_train=4, num_val=3, size=64, max_objects=3)
    root = f'{folder}/data/'
    options = [
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        f'train_dataloader.dataset.data_root={root}',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
    ]
    for split in ('val', 'test'):
        options += [
            f'{split}_dataloader.dataset.data_root={root}',
            f'{split}_evaluator.ann_file={root}annotations/instances_val.json',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]

    def start(script: str, model: str, *arguments: str) -> str:
        done = subprocess.run(
            [python(), script, config_of(model), *arguments, '--cfg-options', *options],
            cwd=repo,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    start.folder = folder  # type: ignore[attr-defined]
    return start


# htc inherits the cascade's; without pictures also in test_repo_cascades.py
@pytest.mark.parametrize('model', ['mask_rcnn', pytest.param('htc', marks=pytest.mark.slow)])
def test_train_then_test_then_pictures(run, model: str) -> None:
    work, pictures = run.folder / model / 'work', run.folder / model / 'pictures'
    printed = run('tools/train.py', model, '--work-dir', str(work))
    assert 'loss_mask' in printed and 'eta' in printed
    assert ('s2.loss_mask' in printed) == (model != 'mask_rcnn')
    assert ('loss_semantic_seg' in printed) == (model == 'htc')
    assert (work / 'last_checkpoint').read_text() == 'iter_2.pth'
    printed = run(
        'tools/test.py', model, str(work / 'iter_2.pth'), '--eval', 'bbox', 'segm',
        '--work-dir', str(work), '--show-dir', str(pictures)
    )  # fmt: skip
    assert 'bbox_mAP' in printed and 'segm_mAP' in printed
    drawn = sorted(pictures.rglob('*.*'))
    assert len(drawn) == 3
    image = cv2.imread(str(drawn[0]))
    assert image.shape[1] >= 2 * 64  # ground truth beside predictions
