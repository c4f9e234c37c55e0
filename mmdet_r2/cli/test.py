"""Measure a detector on the test data of its config."""

import argparse

from .arguments import add_cfg_options, add_launcher, add_model, start_process

EXAMPLES = (
    'test mask_rcnn_r2_101_fpn_2x_coco --eval bbox segm --show-dir pictures',
    'test configs/demo/mask_rcnn_r2_50_fpn_demo.py work_dirs/demo/iter_750.pth --out results.pkl',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL [CHECKPOINT] and options."""
    parser.add_argument(
        '--eval',
        nargs='+',
        metavar='METRIC',
        help='what to measure: bbox, segm, proposal, proposal_fast of COCO, PQ of panoptic, mAP, '
        "recall of VOC data; default: the config's metrics",
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
        '--tta',
        action='store_true',
        help='merge the detections in several scales and flips of each image: those of '
        "tta_pipeline, else 1, 0.5 and 1.5 times the config's test scale",
    )
    add_cfg_options(parser)
    add_launcher(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Test."""
    start_process(args)
    from ..apis.model_argument import find_detector
    from ..apis.test import test
    from ..engine import shut_down

    try:
        config, checkpoint = find_detector(args.model, args.checkpoint)
        test(
            config,
            checkpoint,
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
