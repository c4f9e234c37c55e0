"""Draw what the trainer sees: samples after augmentation, beside the annotated images.

python tools/misc/browse_dataset.py configs/fruit.py --output-dir browse --number 20 --not-show
"""

import argparse
import os
import sys

from mmdet_r2.config import load_config
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import run_cli
from mmdet_r2.visualization import DetLocalVisualizer
from mmdet_r2.visualization.browse import SPLITS, browse, write_drawing


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        '--output-dir', metavar='DIR', help='write drawings there (default without display: browse)'
    )
    parser.add_argument('--not-show', action='store_true', help='open no windows')
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds that a window stays; 0 waits (2)'
    )
    parser.add_argument('--number', type=int, help='of samples, chosen at random (all, in order)')
    parser.add_argument('--seed', type=int, default=0, help='of choice and augmentation (0)')
    parser.add_argument('--split', choices=SPLITS, default='train', help='which data loader')
    parser.add_argument(
        '--no-original', action='store_true', help='leave out the images as they are annotated'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    if args.number is not None and args.number < 1:
        parser.error('--number must be at least 1')
    return args


def main() -> None:
    """Draw, write, show."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options or {})
    has_display = sys.platform != 'linux' or bool(
        os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    )
    show = has_display and not args.not_show
    folder = args.output_dir or (None if show else 'browse')
    window = DetLocalVisualizer() if show else None
    taken: set[str] = set()
    count = 0
    samples = browse(config, args.split, args.number, args.seed, not args.no_original)
    for img_path, drawing in samples:
        count += 1
        if folder is not None:
            write_drawing(folder, img_path, drawing, taken)
        if window is not None:
            window.show(drawing, win_name=img_path, wait_time=args.show_interval)
    print(f'{count} samples of {args.split}' + (f' drawn in {folder}' if folder else ''))


if __name__ == '__main__':
    run_cli(main)
