"""Train a detector: python tools/train.py CONFIG [--work-dir DIR] [--resume [CKPT]] [--amp]
[--auto-scale-lr | --auto-scale-schedule] ..."""

import argparse
import os
import sys

from mmdet_r2.errors import run_cli
from mmdet_r2.launcher import end_with_launcher


def parse_args() -> argparse.Namespace:
    """The command line."""
    from mmdet_r2.config_options import DictAction

    parser = argparse.ArgumentParser(
        description='Train a detector.',
        epilog='example: python tools/train.py faster_rcnn_r50_fpn_1x_coco --amp --auto-scale-lr '
        '--cfg-options train_dataloader.batch_size=4',
    )
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='CKPT',
        help='continue from CKPT, or from the newest checkpoint of the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--auto-scale-schedule',
        action='store_true',
        help='scale the learning rate, and iterations and warm-up so that as many images are seen',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override config entries, such as train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of a distributed run',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.local_rank is not None:  # torch.distributed.launch; torchrun sets the variable itself
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Parse, train."""
    end_with_launcher()
    args = parse_args()
    # takes seconds, in which Ctrl-C must not end in a traceback
    from mmdet_r2.apis.train import train
    from mmdet_r2.engine import InvalidLossError, shut_down

    try:
        train(
            args.config,
            work_dir=args.work_dir,
            resume=args.resume,
            amp=args.amp,
            auto_scale_lr=args.auto_scale_lr,
            auto_scale_schedule=args.auto_scale_schedule,
            launcher=args.launcher,
            overrides=args.cfg_options,
        )
    except InvalidLossError as error:
        if error.speaks:
            print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    finally:
        shut_down()


if __name__ == '__main__':
    run_cli(main)
