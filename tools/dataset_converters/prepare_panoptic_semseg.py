"""Write semantic maps (PNG, one label per pixel) from COCO's panoptic PNGs.

python tools/dataset_converters/prepare_panoptic_semseg.py \
    data/coco/annotations/panoptic_train2017.json data/coco/annotations/panoptic_train2017 \
    data/coco/panoptic_stuff_train2017 --order detectron2
"""

import argparse

from mmdet_r2.datasets.semantic_maps import ORDERS, write_semantic_maps
from mmdet_r2.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('ann_file', help='panoptic_*.json')
    parser.add_argument('png_dir', help='folder of its PNGs')
    parser.add_argument('out_dir', help='folder for the maps, which get the names of the images')
    parser.add_argument(
        '--order',
        choices=ORDERS,
        default='detectron2',
        help='detectron2: 0 any thing, 1.. stuff; mmdet: things, then stuff; 255 is unlabelled',
    )
    parser.add_argument('--workers', type=int, help='processes (default: one per CPU core)')
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error('--workers must be at least 1')
    names = write_semantic_maps(
        args.ann_file, args.png_dir, args.out_dir, args.order, args.workers, progress=True
    )
    print(f'\n{args.out_dir}: {len(names)} labels')
    print(', '.join(f'{label} {name}' for label, name in enumerate(names)))


if __name__ == '__main__':
    run_cli(main)
