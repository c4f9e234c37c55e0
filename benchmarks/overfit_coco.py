"""Learn eight real COCO images by heart with Mask R-CNN, Cascade Mask R-CNN and HTC, on a CPU.

    python benchmarks/overfit_coco.py [--models mask_rcnn cascade_mask_rcnn htc] [--steps 80]
        [--evaluations 4] [--data-root data/coco] [--work-dir work_dirs/overfit]
    python benchmarks/overfit_coco.py --steps 200
        --models faster_rcnn_s50 faster_rcnn_s50_dcn cascade_mask_rcnn_s50

Each model gets the same images, steps and learning rates, one after another; what came out is
printed as a table and written to ``overfit.json`` in the work folder, beside the results of models
that ran before. Exits 0 when every model reached bbox AP50 0.9 and segm AP50 0.85 and the cascades
a higher bbox AP75 than a Mask R-CNN of as many steps, and 1 when not. Some minutes per model on two
cores. ``--data-root`` needs COCO's layout: ``annotations/instances_train2017.json`` and
``train2017/``. COCO-Stuff is not needed: HTC's maps are made from the instances.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mmdet_r2.apis.test import test
from mmdet_r2.apis.train import train
from mmdet_r2.errors import DataError, run_cli

MODELS = ('mask_rcnn', 'cascade_mask_rcnn', 'htc')  # with Res2Net-50
# With ResNeSt-50, in detectron2's arithmetic and with norms that learn: these need more steps.
# Their masks have no goal: the norms of the mask head learn from a dozen or two RoIs per step here,
# too few for what they do in evaluation to be what they did in training.
RESNEST = ('faster_rcnn_s50', 'faster_rcnn_s50_dcn', 'cascade_mask_rcnn_s50')
# Few and large objects, all landscape: bear; keyboard; giraffes; airplanes; zebras; birds; teddy;
# dogs, person and frisbee.
IMAGES = (542720, 188416, 57345, 221184, 499716, 425988, 114694, 524291)
GOALS = {'bbox_mAP_50': 0.9, 'segm_mAP_50': 0.85}
COLUMNS = {
    'bbox_mAP': 'box AP',
    'bbox_mAP_50': 'AP50',
    'bbox_mAP_75': 'AP75',
    'segm_mAP': 'mask AP',
    'segm_mAP_50': 'AP50',
    'segm_mAP_75': 'AP75',
}
STUFF = 182  # what is no object; COCO-Stuff has labels 0..181, the published heads 183 classes


def config_of(model: str) -> Path:
    """The config file beside this one."""
    name = model if model in RESNEST else f'{model}_r2_50'
    return Path(__file__).with_name(f'overfit_{name}.py')


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


def write_stuff_maps(subset: Path, folder: Path) -> None:
    """Maps with COCO-Stuff's labels of things (category id - 1), small objects over large ones, and
    ``STUFF`` elsewhere.
    """
    coco = COCO(str(subset))
    folder.mkdir(parents=True, exist_ok=True)
    for image in coco.imgs.values():
        labels = np.full((image['height'], image['width']), STUFF, np.uint8)
        annotations = coco.imgToAnns[image['id']]
        for annotation in sorted(annotations, key=lambda item: item['area'], reverse=True):
            labels[coco.annToMask(annotation) > 0] = annotation['category_id'] - 1
        cv2.imwrite(str(folder / f'{Path(image["file_name"]).stem}.png'), labels)


def overfit(
    model: str, data_root: Path, work_dir: Path, steps: int = 80, evaluations: int = 1
) -> dict[str, Any]:
    """Train a model on the eight images and measure it on them.

    Args:
        model: one of ``MODELS`` or ``RESNEST``.
        data_root: COCO.
        work_dir: gets annotations, maps, logs and the checkpoint, in a folder of the model.
        steps: of four images each, two or more; the learning rate decays over all of them.
        evaluations: how often to measure on the way, the end included.

    Returns:
        ``metrics`` of the saved checkpoint, those of each evaluation in ``curve`` (by step),
        ``steps``, ``seconds_per_step``, and ``minutes`` with evaluation.
    """
    start = time.monotonic()
    work_dir = (work_dir / model).resolve()
    config = config_of(model)
    subset = work_dir / 'instances_overfit.json'
    write_subset(data_root, subset)
    warm_up = min(20, steps // 2)
    overrides: dict[str, Any] = {
        'train_cfg.max_iters': steps,
        'train_cfg.val_interval': max(1, steps // evaluations),
        'default_hooks.checkpoint.interval': steps,
        'param_scheduler.0.end': warm_up,
        'param_scheduler.1.begin': warm_up,
        'param_scheduler.1.end': steps,
    }
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        overrides[f'{loader}.dataset.data_root'] = str(data_root)
        overrides[f'{loader}.dataset.ann_file'] = str(subset)
        overrides[f'{loader}.dataset.data_prefix.img'] = 'train2017/'
    for evaluator in ('val_evaluator', 'test_evaluator'):
        overrides[f'{evaluator}.ann_file'] = str(subset)
    if model == 'htc':
        maps = work_dir / 'stuffthingmaps'
        write_stuff_maps(subset, maps)
        overrides['train_dataloader.dataset.data_prefix.seg'] = str(maps)
    runner = train(config, work_dir=work_dir, overrides=overrides)
    scalars = runner.message_hub.log_scalars
    curve = {
        name: scalars[f'val/coco/{name}'].data[0].tolist()
        for name in COLUMNS
        if f'val/coco/{name}' in scalars
    }
    seconds = float(scalars['train/time'].mean())
    found = test(config, work_dir / f'iter_{steps}.pth', work_dir=work_dir, overrides=overrides)
    interval = overrides['train_cfg.val_interval']
    return dict(
        metrics={k: found[f'coco/{k}'] for k in COLUMNS if f'coco/{k}' in found},
        curve={
            # the end too, whether or not the interval divides it
            str(min((i + 1) * interval, steps)): dict(zip(curve, values, strict=True))
            for i, values in enumerate(zip(*curve.values(), strict=True))
        },
        steps=steps,
        seconds_per_step=round(seconds, 2),
        minutes=round((time.monotonic() - start) / 60, 1),
    )


def shortfalls(results: dict[str, dict[str, Any]]) -> list[str]:
    """What the results miss: the goals of each, and AP75 of cascades against Mask R-CNN's."""
    missed = []
    for model, result in results.items():
        metrics = result['metrics']
        missed += [
            f'{model}: {name} {metrics[name]:.3f}, expected {goal} or more'
            for name, goal in GOALS.items()
            if name in metrics
            and metrics[name] < goal
            and not (model in RESNEST and 'segm' in name)
        ]
        single = results.get('mask_rcnn')
        if single is None or model not in MODELS[1:] or single['steps'] != result['steps']:
            continue
        least = single['metrics']['bbox_mAP_75']
        if metrics['bbox_mAP_75'] <= least:
            missed.append(
                f'{model}: bbox_mAP_75 {metrics["bbox_mAP_75"]:.3f}, not above {least:.3f} of '
                f'mask_rcnn'
            )
    return missed


def table(results: dict[str, dict[str, Any]]) -> str:
    """Results in Markdown: the end of each run, and the box AP75 on the way."""
    lines = [
        f'| model | steps | {" | ".join(COLUMNS.values())} | s/step | box AP75 at steps |',
        '|---' * (len(COLUMNS) + 4) + '|',
    ]
    for model, result in results.items():
        found = result['metrics']
        numbers = ' | '.join(f'{found[name]:.3f}' if name in found else '' for name in COLUMNS)
        curve = ', '.join(
            f'{step}: {values["bbox_mAP_75"]:.3f}' for step, values in result['curve'].items()
        )
        seconds = f'{result["seconds_per_step"]:.2f}'
        lines.append(f'| {model} | {result["steps"]} | {numbers} | {seconds} | {curve} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--models', nargs='+', choices=MODELS + RESNEST, default=list(MODELS))
    parser.add_argument('--steps', type=int, default=80, help='of four images each')
    parser.add_argument('--evaluations', type=int, default=4, help='on the way, and at the end')
    parser.add_argument('--data-root', type=Path, default=Path('data/coco'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overfit'))
    args = parser.parse_args()
    if not 1 <= args.evaluations <= args.steps or args.steps < 2:
        parser.error('--steps takes 2 or more, --evaluations a number from 1 to --steps')
    record = args.work_dir / 'overfit.json'
    results = json.loads(record.read_text()) if record.is_file() else {}
    for model in args.models:
        results[model] = overfit(model, args.data_root, args.work_dir, args.steps, args.evaluations)
        record.write_text(json.dumps(results, indent=1))
    results = {model: results[model] for model in MODELS + RESNEST if model in results}
    print(table(results))
    missed = shortfalls(results)
    print('\n'.join(missed) or 'all goals reached')
    sys.exit(bool(missed))


if __name__ == '__main__':
    run_cli(main)
