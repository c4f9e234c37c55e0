"""Download the weights of published models, verified, by any of their names."""

import argparse

from mmdet_r2.errors import CheckpointError, DataError, run_cli
from mmdet_r2.zoo import download_model, published
from mmdet_r2.zoo.catalogue import listing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="""examples:
  python tools/download.py mask_rcnn_r2_101_fpn_2x_coco --dest checkpoints
  python tools/download.py --list 'res2net*'

Without --dest files go to $MMDET_R2_CACHE, else ~/.cache/mmdet_r2. $MMDET_R2_ZOO names a folder (or
an http address) with copies of published files, which is looked into first; with MMDET_R2_OFFLINE=1
nothing is asked of the network.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'names',
        nargs='*',
        metavar='NAME',
        help='models (docs/model_zoo.md), or addresses of weights',
    )
    parser.add_argument(
        '--dest', metavar='FOLDER', help='where to put weights and, beside them, whole configs'
    )
    parser.add_argument(
        '--list',
        action='store_true',
        help='list the models that NAMEs (shell patterns; all without) match, and download nothing',
    )
    parser.add_argument(
        '--unverified',
        action='store_true',
        help='also take files whose hash nobody published; it is noted for the next time',
    )
    args = parser.parse_args()
    if not args.names and not args.list:
        parser.error('give the NAME of a model, or --list')
    return args


def main() -> None:
    args = parse_args()
    if args.list:
        print(listing(args.names or ['*']))
        return
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


if __name__ == '__main__':
    run_cli(main)
