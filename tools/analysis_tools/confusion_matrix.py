"""Draw what is taken for what.

python tools/analysis_tools/confusion_matrix.py CONFIG RESULTS.pkl SAVE_DIR [--score-thr 0.3]
"""

import argparse
from functools import partial

from mmdet_r2.analysis.confusion import every_pair, plot_confusion
from mmdet_r2.analysis.files import make_folder, show, write_figure
from mmdet_r2.analysis.inputs import compared, read_tested
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.evaluation.coco_backends import Evaluation
from mmdet_r2.files import write_json

EPILOG = """\
SAVE_DIR gets confusion_matrix.png (percent of each row) and confusion_matrix.json (counts). Every
object is in one column of its row, "background" if it was missed; every detection above the
threshold is in one row of its column, "background" if nothing annotated is there.

example:
  python tools/test.py CONFIG CHECKPOINT --out results.pkl
  python tools/analysis_tools/confusion_matrix.py CONFIG results.pkl work_dirs/confusion
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Confusion matrix of the detections in a results file.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config that was tested')
    parser.add_argument('prediction_path', metavar='results', help='of tools/test.py --out')
    parser.add_argument('save_dir', help='folder for the picture and the counts')
    parser.add_argument('--show', action='store_true', help='also open a window')
    parser.add_argument('--color-theme', default='plasma', help='colour map (%(default)s)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='detections of at least this (%(default)s)'
    )
    parser.add_argument(
        '--tp-iou-thr',
        '--iou-thr',
        type=float,
        default=0.5,
        help='overlap that makes a match (%(default)s)',
    )
    parser.add_argument(
        '--nms-iou-thr', type=float, help='first suppress detections of one class that overlap more'
    )
    parser.add_argument(
        '--iou-type', choices=('bbox', 'segm'), default='bbox', help='of boxes or of masks'
    )
    parser.add_argument(
        '--count',
        choices=('once', 'every'),
        default='once',
        help='"every" counts each overlapping pair, as mmdetection 3.x does',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, count, draw."""
    args = parse_args()
    if not 0.1 <= args.tp_iou_thr <= 1:
        raise ConfigError(f'--tp-iou-thr {args.tp_iou_thr}: expected 0.1 to 1.')
    tested = read_tested(args.config, args.prediction_path, args.cfg_options)
    data = compared(tested, iou_type=args.iou_type, nms_iou_thr=args.nms_iou_thr)
    count = partial(every_pair, data) if args.count == 'every' else Evaluation(data).confusion
    matrix = count(score_thr=args.score_thr, iou_thr=args.tp_iou_thr)
    folder = make_folder(args.save_dir)
    title = f'{args.iou_type}, IoU >= {args.tp_iou_thr:g}, score >= {args.score_thr:g}'
    figure = plot_confusion(matrix, tested.classes, title=title, color_theme=args.color_theme)
    picture = write_figure(figure, folder / 'confusion_matrix.png')
    report = dict(
        iou_thr=args.tp_iou_thr,
        score_thr=args.score_thr,
        rows='annotated',
        columns='found',
        names=[*tested.classes, 'background'],
        counts=matrix.tolist(),
    )
    write_json(folder / 'confusion_matrix.json', report, indent=1)
    right, missed = int(matrix.diagonal().sum()), int(matrix[:-1, -1].sum())
    invented, detections = int(matrix[-1].sum()), int(matrix[:, :-1].sum())
    print(f'{right} of {int(matrix[:-1].sum())} objects found as what they are, {missed} missed')
    print(f'{invented} of {detections} detections are of nothing annotated')
    print(f'written to {picture}')
    if args.show:
        show(picture)


if __name__ == '__main__':
    run_cli(main)
