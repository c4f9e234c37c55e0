"""Test a detector: python tools/test.py CONFIG CHECKPOINT [--eval bbox segm] [--out FILE.pkl]
[--show-dir DIR] ...
"""

import argparse
import os

from mmdet_r2.errors import run_cli
from mmdet_r2.launcher import end_with_launcher


def parse_args() -> argparse.Namespace:
    """The command line."""
    from mmdet_r2.apis.test import METRICS
    from mmdet_r2.config_options import DictAction

    parser = argparse.ArgumentParser(
        description='Measure a detector on the test data of a config.',
        epilog='example: python tools/test.py mask_rcnn_r2_101_fpn_2x_coco latest.pth '
        '--eval bbox segm --show-dir pictures',
    )
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument('checkpoint', help='checkpoint file, URL or zoo name')
    parser.add_argument(
        '--eval',
        nargs='+',
        choices=METRICS,
        metavar='METRIC',
        help=f"what to measure: {', '.join(METRICS)}; default: the config's metrics",
    )
    parser.add_argument('--classwise', action='store_true', help='print a table of all classes')
    parser.add_argument('--work-dir', help='folder for logs and metrics.json')
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this file')
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write COCO result files and measure nothing, as for a test server',
    )
    parser.add_argument(
        '--outfile-prefix',
        metavar='P',
        help='write COCO result files P.bbox.json, P.segm.json, P.panoptic.json',
    )
    parser.add_argument('--show', action='store_true', help='open a window for every image')
    parser.add_argument('--show-dir', metavar='DIR', help='draw every image into this folder')
    parser.add_argument(
        '--score-thr',
        '--show-score-thr',
        type=float,
        metavar='S',
        help="draw predictions above this score; default: the config's, 0.3",
    )
    parser.add_argument(
        '--wait-time', type=float, default=0, help='seconds a window stays; 0 waits for a key'
    )
    parser.add_argument(
        '--no-prepare',
        action='store_true',
        help='run the model as it was trained: batch norms not folded, layout unchanged',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override config entries, such as test_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of a distributed run',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='merge the detections in several scales and flips of each image: those of '
        "tta_pipeline, else 1, 0.5 and 1.5 times the config's test scale",
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.local_rank is not None:  # torch.distributed.launch; torchrun sets the variable itself
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Parse, test."""
    end_with_launcher()
    # takes seconds, in which Ctrl-C must not end in a traceback
    args = parse_args()
    from mmdet_r2.apis.test import test
    from mmdet_r2.engine import shut_down

    try:
        test(
            args.config,
            args.checkpoint,
            metrics=args.eval,
            classwise=args.classwise,
            out=args.out,
            format_only=args.format_only,
            outfile_prefix=args.outfile_prefix,
            show=args.show,
            show_dir=args.show_dir,
            score_thr=args.score_thr,
            wait_time=args.wait_time,
            work_dir=args.work_dir,
            launcher=args.launcher,
            prepare=not args.no_prepare,
            tta=args.tta,
            overrides=args.cfg_options,
        )
    finally:
        shut_down()


if __name__ == '__main__':
    run_cli(main)
