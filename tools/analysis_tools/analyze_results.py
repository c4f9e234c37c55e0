"""Draw the best and the worst images of a test, annotation beside prediction.

python tools/analysis_tools/analyze_results.py CONFIG RESULTS.pkl SHOW_DIR [--topk 20]
"""

import argparse

from mmdet_r2.analysis.files import show
from mmdet_r2.analysis.image_scores import image_scores, panoptic_scores, write_gallery
from mmdet_r2.analysis.inputs import compared, read_tested
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError, run_cli

EPILOG = """\
SHOW_DIR gets worst/001_SCORE_NAME, ... and best/001_SCORE_NAME, ..., and scores.csv with all
images, worst first. An image's score is its own average precision, mean over IoU 0.50 to 0.95;
without annotated objects it is 1 less the highest score in it. --iou-type PQ: its panoptic quality.

example:
  python tools/test.py CONFIG CHECKPOINT --out results.pkl
  python tools/analysis_tools/analyze_results.py CONFIG results.pkl work_dirs/gallery --topk 50
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='The best and worst images of a test.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config that was tested')
    parser.add_argument('prediction_path', metavar='results', help='of tools/test.py --out')
    parser.add_argument('show_dir', help='folder for the drawings')
    parser.add_argument('--show', action='store_true', help='open a window for each')
    parser.add_argument('--topk', type=int, default=20, help='how many of each (%(default)s)')
    parser.add_argument(
        '--show-score-thr',
        '--score-thr',
        type=float,
        default=0.3,
        help='detections above it are drawn; all count (%(default)s)',
    )
    parser.add_argument(
        '--iou-type',
        choices=('bbox', 'segm', 'PQ'),
        default='bbox',
        help='score boxes, masks or panoptic maps (%(default)s)',
    )
    parser.add_argument('--no-masks', action='store_true', help='draw boxes only')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, score, draw."""
    args = parse_args()
    if args.topk < 1:
        raise ConfigError(f'--topk {args.topk}: at least 1 is needed.')
    tested = read_tested(args.config, args.prediction_path, args.cfg_options)
    if args.iou_type == 'PQ':
        scores = panoptic_scores(tested)
    else:
        scores = image_scores(compared(tested, iou_type=args.iou_type))
    files = write_gallery(
        tested,
        scores,
        args.show_dir,
        topk=args.topk,
        score_thr=args.show_score_thr,
        masks=not args.no_masks,
    )
    print(f'{len(tested)} images, mean score {scores.mean():.4f}, worst first:')
    for file in files[:10]:
        print(f'  {file}')
    print(f'{len(files)} drawings and scores.csv written to {args.show_dir}')
    for file in files if args.show else ():
        show(file)


if __name__ == '__main__':
    run_cli(main)
