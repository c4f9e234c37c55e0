"""What the scripts in ``demo/`` share on their command lines."""

import argparse
from collections.abc import Callable

from torch import nn

from ..config_options import DictAction
from .inference import init_detector
from .inferencer import model_and_weights


def demo_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of ``description``."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def count_from(least: int) -> Callable[[str], int]:
    """A whole number of at least ``least``, for ``type`` of an argument."""

    def count(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(
                f'{text!r}; expected a whole number of {least} or more'
            )
        return number

    return count


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The detector, and what of its findings to use: mmdetection's names, positions and
    defaults.
    """
    add = parser.add_argument
    add('model', help='name of a published model, or a config file')
    add('checkpoint', nargs='?', metavar='weights', help='file, URL or zoo name')
    add('--weights', help='the same as an option, as in mmdetection 3.x')
    add('--device', help='such as cuda:0 or cpu (default: a GPU if there is one)')
    add(
        '--score-thr',
        '--pred-score-thr',
        type=float,
        default=0.3,
        help='leave out findings of at most this score (0.3)',
    )
    add('--batch-size', type=count_from(1), default=1, help='images computed at once (1)')
    add('--palette', default='none', help="colours: coco, voc, random; none: the checkpoint's")
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override config entries',
    )


def detector_of(args: argparse.Namespace) -> nn.Module:
    """The detector that the arguments of :func:`add_model_arguments` name."""
    config, weights = model_and_weights(args.model, args.weights or args.checkpoint)
    return init_detector(config, weights, args.palette, args.device, args.cfg_options)
