"""The command line ``mmdet-r2``, also ``python -m mmdet_r2``.

Every command is a module of this package: its docstring is the description that ``--help`` prints,
``EXAMPLES`` are command lines without ``mmdet-r2``, ``add_arguments`` fills a parser and ``run``
does the work. They import what takes time (torch) in ``run`` only, so that ``--help`` is quick.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..errors import run_cli

#: Words of the command line: what they do, and the module that does it or the words that follow.
COMMANDS: dict[str, tuple[str, Any]] = {
    'train': ('train a detector', 'train'),
    'test': ('measure a detector on the test data of its config', 'test'),
    'predict': ('detect objects in images, draw them, and write them down', 'predict'),
    'check': ('find broken images and annotations in a data set', 'check'),
    'convert': (
        'convert annotations, checkpoints and configs',
        {
            'data': (
                'annotations to and from COCO JSON',
                {
                    'to-coco': ('VOC, YOLO, LabelMe, CSV or masks to COCO JSON', 'to_coco'),
                    'from-coco': ('COCO JSON to the files of other tools', 'from_coco'),
                },
            ),
            'checkpoint': ("a checkpoint to today's names and order of classes", 'checkpoint'),
            'config': ('a config to one file without bases', 'flatten'),
        },
    ),
    'zoo': (
        'list, download and publish models',
        {
            'list': ('list published models', 'zoo_list'),
            'download': ('download weights and configs, verified', 'zoo_download'),
            'publish': ('strip a checkpoint, and put its hash in its name', 'publish'),
        },
    ),
    'config': ('print a config as it is run', 'config'),
    'bench': ('time inference, training steps or data loading', 'bench'),
    'web': ('serve a local page where detectors run on dropped images', 'web'),
    'env': ('print versions of what is installed, for a bug report', 'env'),
}


def main() -> None:
    """The program ``mmdet-r2``."""
    run_cli(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> None:
    """Run ``mmdet-r2 ARGUMENTS`` in this process; errors come out as they are."""
    _choose('mmdet-r2', COMMANDS, list(arguments))


def run_tool(module: str) -> None:
    """Run a module of this package under the name of a script: ``tools/train.py`` is ``mmdet-r2
    train``."""
    run_cli(lambda: _run(module, sys.argv[1:]))


def _choose(prog: str, commands: Mapping[str, tuple[str, Any]], given: list[str]) -> None:
    listed = '\n'.join(f'  {word:<11} {summary}' for word, (summary, _) in commands.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        epilog=f'commands:\n{listed}\n\n{prog} COMMAND --help says more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmdet_r2 {__version__}')
    parser.add_argument('command', choices=commands, metavar='COMMAND', help='one of those below')
    word = parser.parse_args(given[:1] or ['--help']).command
    follows = commands[word][1]
    if isinstance(follows, str):
        _run(follows, given[1:], f'{prog} {word}')
    else:
        _choose(f'{prog} {word}', follows, given[1:])


def _run(name: str, given: list[str], prog: str | None = None) -> None:
    module = importlib.import_module(f'{__name__}.{name}')
    examples = ''.join(f'  mmdet-r2 {example}\n' for example in module.EXAMPLES)
    parser = argparse.ArgumentParser(
        prog=prog,
        description=module.__doc__,
        epilog=f'examples:\n{examples}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    module.run(parser.parse_args(given))
