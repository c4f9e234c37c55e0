"""CPU time and peak memory of COCO's evaluation of boxes and masks, ours and others'.

    python benchmarks/evaluation.py [--images 5000] [--detections 40] [--classes 80]
        [--sides ours pycocotools faster-coco-eval] [--kinds bbox segm] [--repeat 1]

The same generated annotations and detections for all, masks as run lengths; each side in a process
of its own. From reading the annotation file to the twelve numbers, which must be equal. Memory is
the peak above that after imports. Ours also counts mistakes, F1 and confusion.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH = 480, 640
ROOT = Path(__file__).resolve().parent.parent


def outlines(boxes: np.ndarray) -> list[list[float]]:
    """A polygon in each box (n, 4) x, y, width, height."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] / 2
    return (centre[:, None] + half[:, None] * unit).reshape(len(boxes), -1).tolist()


def prepare(folder: Path, images: int, detections: int, classes: int) -> None:
    """Write annotations.json, and detections.npz with run lengths one after another."""
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)

    def anywhere(number: int) -> np.ndarray:
        size = np.exp(rng.normal(4, 0.9, (number, 2))).clip(6, 300)
        return np.concatenate([rng.random((number, 2)) * ([WIDTH, HEIGHT] - size), size], axis=1)

    annotations: list[dict] = []
    columns: dict[str, list] = {name: [] for name in ('boxes', 'scores', 'labels', 'rles')}
    for image in range(1, images + 1):
        number = int(rng.integers(1, 15))
        boxes, label = anywhere(number), rng.integers(0, classes, number)
        crowd = rng.random(number) < 0.02
        for box, k, polygon, is_crowd in zip(boxes, label, outlines(boxes), crowd):
            mask: Any = [polygon]
            if is_crowd:
                (rle,) = coco_mask.frPyObjects(mask, HEIGHT, WIDTH)
                mask = dict(rle, counts=rle['counts'].decode())
            record = dict(image_id=image, category_id=int(k) + 1, bbox=box.tolist())
            record |= dict(area=float(box[2] * box[3] * 0.77), iscrowd=int(is_crowd))
            annotations.append(record | dict(id=len(annotations) + 1, segmentation=mask))
        found, named = anywhere(detections), rng.integers(0, classes, detections)
        about = rng.integers(0, number, detections)
        near = rng.random(detections) < 0.6
        shift = rng.normal(0, 0.08, (detections, 4)) * np.tile(boxes[about, 2:], 2)
        found[near] = (boxes[about] + shift)[near]
        found[:, 2:] = found[:, 2:].clip(2)
        named = np.where(near & (rng.random(detections) < 0.8), label[about], named)
        columns['boxes'].append(found.astype(np.float32))
        columns['scores'].append(rng.random(detections).astype(np.float32))
        columns['labels'].append(named)
        rles = coco_mask.frPyObjects(outlines(found), HEIGHT, WIDTH)
        columns['rles'] += [rle['counts'] for rle in rles]
    frame = dict(
        images=[dict(id=i + 1, file_name=f'{i}.jpg', height=480, width=640) for i in range(images)],
        categories=[dict(id=k + 1, name=f'class {k}') for k in range(classes)],
    )
    (folder / 'annotations.json').write_text(json.dumps(frame | dict(annotations=annotations)))
    counts = columns.pop('rles')
    np.savez(
        folder / 'detections.npz',
        rle=np.frombuffer(b''.join(counts), np.uint8),
        ends=np.cumsum([len(c) for c in counts]),
        **{name: np.stack(parts) for name, parts in columns.items()},
    )


def detections_of(folder: Path) -> Any:
    """Boxes (x, y, width, height), scores, labels and run lengths, image by image."""
    with np.load(folder / 'detections.npz') as file:
        data = dict(file)
    text, ends = data['rle'].tobytes(), data['ends'].reshape(data['scores'].shape)
    start = 0
    for boxes, scores, labels, row in zip(data['boxes'], data['scores'], data['labels'], ends):
        rles = []
        for end in row.tolist():
            rles.append(dict(size=[HEIGHT, WIDTH], counts=text[start:end]))
            start = end
        yield boxes.astype(np.float64), scores, labels, rles


def ours(folder: Path, kinds: list[str], classes: int) -> Any:
    """A function that gives the twelve numbers of each kind."""
    sys.path.insert(0, str(ROOT))
    from mmdet_r2.evaluation import CocoMetric
    from mmdet_r2.evaluation.coco_numbers import TWELVE

    def evaluate() -> dict[str, list[float]]:
        metric = CocoMetric(str(folder / 'annotations.json'), metric=kinds)
        metric.dataset_meta = dict(classes=[f'class {k}' for k in range(classes)])
        number = 0
        for number, (boxes, scores, labels, rles) in enumerate(detections_of(folder), start=1):
            boxes[:, 2:] += boxes[:, :2]
            found = dict(bboxes=boxes, scores=scores, labels=labels, masks=rles)
            sample = dict(img_id=number, ori_shape=(HEIGHT, WIDTH), pred_instances=found)
            metric.process(None, [sample])
        metric.evaluate(number)
        return {kind: [metric.report[kind][name] for name in TWELVE] for kind in kinds}

    return evaluate


def others(folder: Path, kinds: list[str], name: str) -> Any:
    """The same of pycocotools or of faster-coco-eval, as their documentation says."""
    coco_class: Any
    eval_class: Any
    if name == 'pycocotools':
        from pycocotools.coco import COCO as coco_class
        from pycocotools.cocoeval import COCOeval as eval_class
    else:
        from faster_coco_eval import COCO as coco_class
        from faster_coco_eval import COCOeval_faster as eval_class

    def evaluate() -> dict[str, list[float]]:
        truth = coco_class(str(folder / 'annotations.json'))
        numbers = {}
        for kind in kinds:
            records = []
            for image, (boxes, scores, labels, rles) in enumerate(detections_of(folder), start=1):
                # what ours makes of corners in float32
                boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
                boxes = boxes.astype(np.float32).astype(np.float64)
                boxes[:, 2:] -= boxes[:, :2]
                rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), rles)
                for box, score, label, rle in rows:
                    shape = dict(bbox=box) if kind == 'bbox' else dict(segmentation=rle)
                    record = dict(image_id=image, category_id=label + 1, score=score)
                    records.append(record | shape)
            evaluation = eval_class(truth, truth.loadRes(records), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            numbers[kind] = [float(v) for v in list(evaluation.stats)[:12]]
        return numbers

    return evaluate


def memory(key: str) -> float:
    """Megabytes of this process: VmRSS, or VmHWM, the peak."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure(args: argparse.Namespace) -> None:
    """One side, in this process; the last line printed is JSON."""
    folder = Path(args.folder)
    side = args.side
    if side == 'ours':
        evaluate = ours(folder, args.kinds, args.classes)
    else:
        evaluate = others(folder, args.kinds, side)
    before, start = memory('VmRSS'), time.process_time()
    numbers = evaluate()
    seconds = time.process_time() - start
    report = dict(seconds=seconds, memory=memory('VmHWM') - before, numbers=numbers)
    print('\n' + json.dumps(report))


def main() -> None:
    """Generate, measure each side, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--detections', type=int, default=40)
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--sides', nargs='+', default=['ours', 'pycocotools'])
    parser.add_argument('--kinds', nargs='+', default=['bbox', 'segm'])
    parser.add_argument('--repeat', type=int, default=1)
    parser.add_argument('--side', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.images, args.detections, args.classes)
        best: dict[str, dict] = {}
        for side in args.sides * args.repeat:
            command = [sys.executable, __file__, '--side', side, '--folder', folder]
            command += ['--classes', str(args.classes), '--kinds', *args.kinds]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if side not in best or found['seconds'] < best[side]['seconds']:
                best[side] = found
    first = best[args.sides[0]]
    for side, found in best.items():
        same = 'equal' if found['numbers'] == first['numbers'] else 'DIFFERENT'
        print(
            f'{side:18} {found["seconds"]:7.1f} s CPU ({found["seconds"] / first["seconds"]:5.1f}) '
            f'{found["memory"]:7.0f} MB ({found["memory"] / first["memory"]:5.2f})  numbers {same}'
        )


if __name__ == '__main__':
    main()
