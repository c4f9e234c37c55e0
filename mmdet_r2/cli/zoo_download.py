"""Download the weights of published models, verified, by any of their names.

Without --dest files go to $MMDET_R2_CACHE, else ~/.cache/mmdet_r2. $MMDET_R2_ZOO names a folder (or
an http address) with copies of published files, which is looked into first; with MMDET_R2_OFFLINE=1
nothing is asked of the network.
"""

import argparse

EXAMPLES = ('zoo download mask_rcnn_r2_101_fpn_2x_coco --dest checkpoints',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME ... and options."""
    parser.add_argument(
        'names', nargs='+', metavar='NAME', help='models (zoo list), or addresses of weights'
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where to, and what may be taken."""
    parser.add_argument(
        '--dest', metavar='FOLDER', help='where to put weights and, beside them, whole configs'
    )
    parser.add_argument(
        '--unverified',
        action='store_true',
        help='also take files whose hash nobody published; it is noted for the next time',
    )


def run(args: argparse.Namespace) -> None:
    """Download all, then say what failed."""
    from ..errors import CheckpointError, DataError
    from ..zoo import download_model, published

    for name in args.names:  # a wrong name is told before anything is downloaded
        if '://' not in name:
            published(name)
    failed = []
    for name in args.names:
        try:
            print(download_model(name, args.dest, unverified=args.unverified), flush=True)
        except (CheckpointError, DataError) as error:
            failed.append(str(error))
    if failed:
        raise CheckpointError(' '.join(failed))
