"""Learn eight real COCO images by heart: bbox AP50 >= 0.9 and segm AP50 >= 0.85 on them, on a CPU.

    python benchmarks/overfit_coco.py [--data-root data/coco] [--work-dir work_dirs/overfit]

Exits 0 when both are reached and 1 when not. Takes some minutes on two cores. ``--data-root`` needs
COCO's layout: ``annotations/instances_train2017.json`` and ``train2017/``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mmdet_r2.apis.test import test
from mmdet_r2.apis.train import train
from mmdet_r2.errors import DataError, run_cli

CONFIG = Path(__file__).with_name('overfit_mask_rcnn_r2_50.py')
# Few and large objects, all landscape: bear; keyboard; giraffes; airplanes; zebras; birds; teddy;
# dogs, person and frisbee.
IMAGES = (542720, 188416, 57345, 221184, 499716, 425988, 114694, 524291)
GOALS = {'coco/bbox_mAP_50': 0.9, 'coco/segm_mAP_50': 0.85}


def write_subset(data_root: Path, target: Path) -> None:
    """Writes the annotations of ``IMAGES`` alone.

    Raises:
        DataError: the data has not all of them.
    """
    source = data_root / 'annotations' / 'instances_train2017.json'
    if not source.is_file():
        raise DataError(f'{source}: no such file; --data-root names a folder with COCO 2017.')
    data = json.loads(source.read_text())
    images = {image['id']: image for image in data['images']}
    missing = [index for index in IMAGES if index not in images]
    if missing:
        raise DataError(f'{source}: images {missing} are not in it.')
    subset = dict(
        images=[images[index] for index in IMAGES],
        annotations=[item for item in data['annotations'] if item['image_id'] in IMAGES],
        categories=data['categories'],
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(subset))


def overfit(data_root: Path, work_dir: Path) -> dict[str, float]:
    """Metrics on the eight images after training on them; the logs stay in ``work_dir``."""
    subset = (work_dir / 'instances_overfit.json').resolve()
    write_subset(data_root, subset)
    overrides = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        overrides[f'{loader}.dataset.data_root'] = str(data_root)
        overrides[f'{loader}.dataset.ann_file'] = str(subset)
        overrides[f'{loader}.dataset.data_prefix.img'] = 'train2017/'
    for evaluator in ('val_evaluator', 'test_evaluator'):
        overrides[f'{evaluator}.ann_file'] = str(subset)
    runner = train(CONFIG, work_dir=work_dir, overrides=overrides)
    checkpoint = work_dir / f'iter_{runner.iter}.pth'
    return test(CONFIG, checkpoint, work_dir=work_dir, overrides=overrides)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data-root', type=Path, default=Path('data/coco'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overfit'))
    args = parser.parse_args()
    start = time.time()
    metrics = overfit(args.data_root, args.work_dir)
    print(f'{(time.time() - start) / 60:.1f} minutes')
    for name, goal in GOALS.items():
        print(f'{name} {metrics[name]:.3f} (at least {goal})')
    if any(metrics[name] < goal for name, goal in GOALS.items()):
        sys.exit(1)


if __name__ == '__main__':
    run_cli(main)
