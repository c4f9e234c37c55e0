"""Arguments that several commands and the scripts in ``demo/`` share."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..launcher import end_with_launcher

if TYPE_CHECKING:
    from torch import nn

MODEL = (
    'name of a published model; a checkpoint, whose config is inside; the folder of a run (its '
    'newest best_*.pth, else its last checkpoint); or a config file, before its CHECKPOINT'
)


class _KeyValues(argparse.Action):
    """Imports only when it is given what parses values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from ..config_options import DictAction

        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options KEY=VALUE ...``: a dictionary, or None without it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_KeyValues,
        metavar='KEY=VALUE',
        help='override config entries, such as train_dataloader.batch_size=4',
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


def add_model(parser: argparse.ArgumentParser) -> None:
    """The last positionals of a command: ``MODEL [CHECKPOINT]``."""
    parser.add_argument('model', metavar='MODEL', help=MODEL)
    parser.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='file, URL or zoo name')


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """What started the processes of a distributed run."""
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of a distributed run',
    )
    # torch.distributed.launch gives it; torchrun sets the variable itself
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def start_process(args: argparse.Namespace) -> None:
    """What a process of a run does first; ``args`` are of :func:`add_launcher`."""
    end_with_launcher()
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def demo_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of ``description``."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_detector(parser: argparse.ArgumentParser) -> None:
    """The detector, and what of its findings to use: mmdetection's names, positions and
    defaults.
    """
    add_model(parser)
    add = parser.add_argument
    add('--weights', help='the checkpoint as an option, as in mmdetection 3.x')
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
    add_cfg_options(parser)


def detector_of(args: argparse.Namespace) -> 'nn.Module':
    """The detector that the arguments of :func:`add_detector` name."""
    from ..apis.inference import init_detector
    from ..apis.model_argument import find_detector

    config, weights = find_detector(args.model, args.weights or args.checkpoint)
    return init_detector(config, weights, args.palette, args.device, args.cfg_options)
