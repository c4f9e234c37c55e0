"""Learn 24 generated images by heart with Panoptic FPN and Res2Net-50, on a CPU.

    python benchmarks/overfit_panoptic.py [--steps 300] [--work-dir work_dirs/overfit_panoptic]

The demo's config on few images, evaluated on these. Prints PQ and box and mask AP; pictures, truth
beside result, are in ``pictures`` in the work folder. Exits 0 when PQ reached 75, and 1 when not.
Some minutes on two cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mmdet_r2.apis.test import test
from mmdet_r2.apis.train import train
from mmdet_r2.datasets.demo import generate
from mmdet_r2.errors import run_cli

CONFIG = Path(__file__).parent.parent / 'configs/demo/panoptic_fpn_r2_50_fpn_demo.py'
GOAL = 75.0


def overfit(work_dir: Path, steps: int) -> dict[str, float]:
    """Train on generated images and measure on the same: the metrics of the last checkpoint."""
    data = (work_dir / 'data').resolve()
    generate(data, num_train=24, num_val=1)
    annotations, maps = (
        data / 'annotations/panoptic_train.json',
        data / 'annotations/panoptic_train',
    )
    warm_up = min(50, steps // 2)
    overrides: dict[str, Any] = {
        'train_cfg.max_iters': steps,
        'train_cfg.val_interval': steps,
        'default_hooks.checkpoint.interval': steps,
        'param_scheduler.0.end': warm_up,
        'param_scheduler.1.begin': warm_up,
        'param_scheduler.1.end': steps,
        'train_dataloader.dataset.data_root': f'{data}/',
    }
    for split in ('val', 'test'):
        overrides[f'{split}_dataloader.dataset.data_root'] = f'{data}/'
        overrides[f'{split}_dataloader.dataset.ann_file'] = str(annotations)
        overrides[f'{split}_dataloader.dataset.data_prefix.img'] = 'train/'
        overrides[f'{split}_dataloader.dataset.data_prefix.seg'] = str(maps)
        overrides[f'{split}_evaluator.0.ann_file'] = str(annotations)
        overrides[f'{split}_evaluator.0.seg_prefix'] = f'{maps}/'
        overrides[f'{split}_evaluator.1.ann_file'] = str(data / 'annotations/instances_train.json')
    train(CONFIG, work_dir=work_dir, overrides=overrides)
    return test(
        CONFIG,
        work_dir / f'iter_{steps}.pth',
        work_dir=work_dir,
        show_dir=work_dir / 'pictures',
        overrides=overrides,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--steps', type=int, default=300, help='of eight images each')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overfit_panoptic'))
    args = parser.parse_args()
    if args.steps < 2:
        parser.error('--steps takes 2 or more')
    found = overfit(args.work_dir, args.steps)
    shown = ('coco_panoptic/PQ', 'coco_panoptic/PQ_th', 'coco_panoptic/PQ_st')
    for name in (*shown, 'coco/bbox_mAP', 'coco/segm_mAP'):
        print(f'{name}: {found[name]:.3f}')
    sys.exit(found['coco_panoptic/PQ'] < GOAL)


if __name__ == '__main__':
    run_cli(main)
