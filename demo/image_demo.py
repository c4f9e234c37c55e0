"""Draw a detector's findings into images.

python demo/image_demo.py IMAGES CONFIG CHECKPOINT --out-dir DIR [--device cuda:0] [--score-thr 0.3]

IMAGES is a file, a folder or a quoted pattern ('photos/*.jpg'). DIR gets every image with its boxes
(and masks) or, of a panoptic model, its segments, and predictions.json with all that was found.
"""

import argparse
import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.config import DictAction
from torch import nn

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.errors import DataError, run_cli
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import encode_rle
from mmdet_r2.visualization import DetLocalVisualizer

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def find_images(source: str) -> list[Path]:
    """The image files that ``source`` means, in the order of their names.

    Raises:
        DataError: there are none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f'{source}: the folder has no images ({", ".join(SUFFIXES)}).')
        return found
    found = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())
    if not found:
        raise DataError(f'{source}: no such file or folder, and no file fits it as a pattern.')
    return found


def out_names(images: Sequence[Path]) -> list[str]:
    """A name for each image's drawing: its own, numbered where folders have the same."""
    seen: set[str] = set()
    names = []
    for image in images:
        name, number = image.name, 1
        while name in seen:
            number += 1
            name = f'{image.stem}-{number}{image.suffix}'
        seen.add(name)
        names.append(name)
    return names


def detect(
    model: nn.Module, images: Sequence[Path], batch_size: int, tta: bool
) -> Iterator[tuple[Path, DetDataSample | DataError]]:
    """Each image with what was found in it, or with why it cannot be read."""
    step = 4 * batch_size  # masks of all images at once might not fit into memory
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        try:
            yield from zip(chunk, inference_detector(model, chunk, batch_size=batch_size, tta=tta))
        except DataError:  # one of them; find out which by taking them one by one
            for image in chunk:
                try:
                    yield image, inference_detector(model, image, tta=tta)  # type: ignore[misc]
                except DataError as error:
                    yield image, error


def record(
    image: Path, sample: DetDataSample, classes: Sequence[str], score_thr: float
) -> dict[str, Any]:
    """An image's findings for predictions.json: boxes xyxy in its pixels, masks as COCO RLE; of a
    panoptic model also the segments of its map.
    """
    found = sample.pred_instances.cpu()
    found = found[found.scores > score_thr]
    labels = found.labels.tolist()
    result = dict(
        image=str(image),
        height=sample.ori_shape[0],
        width=sample.ori_shape[1],
        labels=labels,
        classes=[classes[i] if i < len(classes) else f'class {i}' for i in labels],
        scores=[round(s, 5) for s in found.scores.tolist()],
        bboxes=[[round(v, 2) for v in box] for box in found.bboxes.tolist()],
    )
    if 'masks' in found:
        result['masks'] = [
            dict(size=list(rle['size']), counts=rle['counts'].decode())
            for rle in encode_rle(found.masks)
        ]
    if 'pred_panoptic_seg' in sample:
        panoptic = sample.pred_panoptic_seg.sem_seg.cpu()
        result['segments_info'] = []
        for segment in sample.pred_panoptic_seg.segments_info:
            label = segment['label']
            (rle,) = encode_rle(panoptic == segment['id'])
            mask = dict(size=list(rle['size']), counts=rle['counts'].decode())
            name = classes[label] if label < len(classes) else f'class {label}'
            result['segments_info'].append(segment | {'class': name, 'mask': mask})
    return result


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw a detector's findings into images.")
    parser.add_argument('images', help="a file, a folder, or a quoted pattern ('photos/*.jpg')")
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument('checkpoint', help='checkpoint file, URL or zoo name')
    parser.add_argument('--out-dir', default='outputs', help='folder for drawings (outputs)')
    parser.add_argument('--device', default='cuda:0', help='cuda:0 (if there is one) or cpu')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='leave out findings of at most this score'
    )
    parser.add_argument('--batch-size', type=int, default=1, help='images computed at once')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='merge the detections in several scales and flips of each image',
    )
    parser.add_argument(
        '--palette', default='none', help="colours: coco, voc, random; none: the checkpoint's"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override config entries',
    )
    return parser.parse_args()


def main() -> None:
    """Parse, detect, draw."""
    args = parse_args()
    images = find_images(args.images)
    model = init_detector(args.config, args.checkpoint, args.palette, args.device, args.cfg_options)
    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = model.dataset_meta
    classes = model.dataset_meta.get('classes', ())
    names = dict(zip(images, out_names(images)))
    records, unreadable = [], []
    for image, found in detect(model, images, args.batch_size, args.tta):
        if isinstance(found, DataError):
            unreadable.append(str(found))
            print(f'skipped: {found}')
            continue
        records.append(record(image, found, classes, args.score_thr))
        visualizer.add_datasample(
            image.name,
            mmcv.imread(str(image), channel_order='rgb'),
            data_sample=found,
            draw_gt=False,
            pred_score_thr=args.score_thr,
            out_file=str(out_dir / names[image]),
        )
        number = len(records[-1].get('segments_info', records[-1]['labels']))
        print(f'{image}: {number} found')
    if not records:
        raise DataError(f'none of the {len(images)} images could be read; {unreadable[0]}')
    target = out_dir / 'predictions.json'
    temporary = target.with_name(f'.{target.name}.{os.getpid()}')
    temporary.write_text(json.dumps(records, indent=1) + '\n')
    os.replace(temporary, target)
    skipped = f', {len(unreadable)} could not be read' if unreadable else ''
    print(f'{len(records)} images drawn into {out_dir}{skipped}')


if __name__ == '__main__':
    run_cli(main)
