"""Write a generated COCO-format data set of textured shapes, with stuff maps.

python tools/misc/make_demo_data.py data/demo [--train 2000] [--val 200] [--size 128] [--seed 0]
"""

import argparse
from functools import partial

from mmdet_r2.datasets.demo import generate
from mmdet_r2.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out_dir', help='folder to write; an earlier generated set is replaced')
    parser.add_argument('--train', type=int, default=2000, help='training images')
    parser.add_argument('--val', type=int, default=200, help='held-out images')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[128], help='side, or width and height'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--max-objects', type=int, default=8, help='objects per image at most')
    parser.add_argument('--empty', type=float, default=0.03, help='share of images without objects')
    parser.add_argument('--crowd', type=float, default=0.05, help='share of images with a crowd')
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes one number, or width and height')
    generate(
        args.out_dir,
        num_train=args.train,
        num_val=args.val,
        size=args.size[0] if len(args.size) == 1 else (args.size[0], args.size[1]),
        seed=args.seed,
        max_objects=args.max_objects,
        empty_fraction=args.empty,
        crowd_fraction=args.crowd,
        progress=partial(print, flush=True),
    )


if __name__ == '__main__':
    run_cli(main)
