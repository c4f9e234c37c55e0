"""Download the weights of published models, verified, by any of their names, or list the models.

This is mmdet-r2 zoo list and mmdet-r2 zoo download in one script.
"""

import argparse

from . import zoo_download, zoo_list

EXAMPLES = (*zoo_list.EXAMPLES, *zoo_download.EXAMPLES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[NAME ...] and options."""
    parser.add_argument('names', nargs='*', metavar='NAME', help='models, or addresses of weights')
    parser.add_argument(
        '--list',
        action='store_true',
        help='list the models that NAMEs (shell patterns; all without) match, and download nothing',
    )
    zoo_download.add_options(parser)


def run(args: argparse.Namespace) -> None:
    """List or download."""
    if args.list:
        zoo_list.run(argparse.Namespace(patterns=args.names or ['*']))
    elif args.names:
        zoo_download.run(args)
    else:
        from ..errors import ConfigError

        raise ConfigError('give the NAME of a model, or --list')
