"""Strip a checkpoint of what only training needs, and put its hash in its name.

OUT-HASH.pth keeps the weights, class names and config; optimiser, logs and what is said about the
machine stay behind. The hash is checked whenever the file is loaded. An OUT that ends in
.safetensors is written in that format.
"""

import argparse
from pathlib import Path

EXAMPLES = (
    'zoo publish work_dirs/shapes/epoch_12.pth shapes.pth',
    'zoo publish work_dirs/shapes/epoch_12.pth shapes.safetensors',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN OUT and options."""
    parser.add_argument('in_file', metavar='IN', help='checkpoint file')
    parser.add_argument('out_file', metavar='OUT', help='file to write, less the hash')
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        metavar='KEY',
        help='entries of the checkpoint to keep (meta state_dict)',
    )


def run(args: argparse.Namespace) -> None:
    """Publish."""
    from ..analysis.publish import publish

    path = publish(args.in_file, args.out_file, save_keys=args.save_keys)
    source = Path(args.in_file)
    before = f' (was {source.stat().st_size / 2**20:.1f} MB)' if source.is_file() else ''
    print(f'written to {path}: {path.stat().st_size / 2**20:.1f} MB{before}')
