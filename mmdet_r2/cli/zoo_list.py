"""List published models: name, AP, where it comes from."""

import argparse

EXAMPLES = ('zoo list', "zoo list 'res2net*'")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[PATTERN ...]"""
    parser.add_argument(
        'patterns',
        nargs='*',
        default=['*'],
        metavar='PATTERN',
        help='shell pattern for name, folder, collection or backbone (all)',
    )


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from ..zoo.catalogue import listing

    print(listing(args.patterns))
