"""Write a config as one Python file without bases, resolved and checked."""

import argparse

from .arguments import add_cfg_options

EXAMPLES = ('convert config mask_rcnn_r2_101_fpn_2x_coco my_config.py',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG OUT and options."""
    parser.add_argument('config', metavar='CONFIG', help='config file, or name of a published one')
    parser.add_argument('out', metavar='OUT', help='file to write')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Load, write."""
    from pathlib import Path

    from ..config import load_config
    from ..files import write_text

    write_text(Path(args.out), load_config(args.config, args.cfg_options or {}).pretty_text)
    print(f'written to {args.out}')
