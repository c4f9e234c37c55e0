"""Train a detector.

Checkpoints, logs and the resolved config go to the work folder. Ctrl-C ends the run, --resume
continues it with the same numbers.
"""

import argparse
import sys

from .arguments import add_cfg_options, add_launcher, start_process

EXAMPLES = (
    'train faster_rcnn_r50_fpn_1x_coco --amp --auto-scale-lr '
    '--cfg-options train_dataloader.batch_size=4',
    'train configs/demo/mask_rcnn_r2_50_fpn_demo.py --work-dir work_dirs/demo --resume',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG and options."""
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help='config file, or the name of one that comes with mmdet_r2',
    )
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
    add_cfg_options(parser)
    add_launcher(parser)


def run(args: argparse.Namespace) -> None:
    """Train."""
    start_process(args)
    from ..apis.train import train
    from ..engine import InvalidLossError, shut_down

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
