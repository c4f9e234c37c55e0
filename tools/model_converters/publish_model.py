"""Make a training checkpoint fit to be given away.

python tools/model_converters/publish_model.py IN.pth OUT.pth
"""

import argparse
from pathlib import Path

from mmdet_r2.analysis.publish import publish
from mmdet_r2.errors import run_cli

EPILOG = """\
OUT-HASH.pth keeps the weights, class names and config; optimiser, logs and what is said about the
machine stay behind. The hash is checked whenever the file is loaded. An OUT that ends in
.safetensors is written in that format.

examples:
  python tools/model_converters/publish_model.py work_dirs/shapes/epoch_12.pth shapes.pth
  python tools/model_converters/publish_model.py work_dirs/shapes/epoch_12.pth shapes.safetensors
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Strip a checkpoint, and put its hash in its name.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('in_file', metavar='IN', help='checkpoint file')
    parser.add_argument('out_file', metavar='OUT', help='file to write, less the hash')
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        metavar='KEY',
        help='entries of the checkpoint to keep (meta state_dict)',
    )
    return parser.parse_args()


def main() -> None:
    """Parse, publish."""
    args = parse_args()
    path = publish(args.in_file, args.out_file, save_keys=args.save_keys)
    source = Path(args.in_file)
    before = f' (was {source.stat().st_size / 2**20:.1f} MB)' if source.is_file() else ''
    print(f'written to {path}: {path.stat().st_size / 2**20:.1f} MB{before}')


if __name__ == '__main__':
    run_cli(main)
