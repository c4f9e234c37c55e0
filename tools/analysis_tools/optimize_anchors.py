"""Find anchor sizes and shapes that suit the boxes of a training set.

python tools/analysis_tools/optimize_anchors.py CONFIG [--algorithm k-means] ...
"""

import argparse
from pathlib import Path

from mmdet_r2.analysis.anchors import box_shapes, measure, optimize, read_anchors, snippet
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.files import write_json

EPILOG = """\
Printed are the mean overlap of each box with its best anchor (shapes alone), the share of boxes
that reach an overlap of 0.5 and 0.7, before and after, and lines for a config that inherits CONFIG.

examples:
  python tools/analysis_tools/optimize_anchors.py CONFIG
  python tools/analysis_tools/optimize_anchors.py CONFIG --algorithm k-means --num-ratios 5
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Fit an RPN's anchors to the boxes of the training data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config of the training; its images are not read')
    parser.add_argument(
        '--algorithm',
        choices=('k-means', 'differential_evolution'),
        default='differential_evolution',
        help='k-means is quick, evolution a little better (%(default)s)',
    )
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs='+',
        metavar='N',
        help='height and width that images are resized into; default: as the training does',
    )
    parser.add_argument('--num-scales', type=int, help="how many scales; default: the config's")
    parser.add_argument('--num-ratios', type=int, help="how many ratios; default: the config's")
    parser.add_argument('--iters', type=int, help='iterations, at most')
    parser.add_argument('--seed', type=int, default=0, help='of the random numbers')
    parser.add_argument(
        '--output-dir', metavar='DIR', help='write the result to DIR/anchor_optimize_result.json'
    )
    parser.add_argument('--device', help='accepted for compatibility; the CPU is used')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, search, print."""
    args = parse_args()
    for name in ('num_scales', 'num_ratios', 'iters'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f'--{name.replace("_", "-")} {value}: at least 1 is needed.')
    shape = args.input_shape
    if shape is not None:
        shape = tuple(shape) * 2 if len(shape) == 1 else tuple(shape)
        if len(shape) != 2 or min(shape) < 1:
            raise ConfigError('--input-shape: expected height and width, or one number for both.')
    shapes, config = box_shapes(args.config, input_shape=shape, overrides=args.cfg_options)
    before = read_anchors(config)
    after = optimize(
        shapes,
        before,
        algorithm=args.algorithm,
        num_scales=args.num_scales,
        num_ratios=args.num_ratios,
        iters=args.iters,
        seed=args.seed,
    )
    print(f'{len(shapes)} box shapes')
    print(f'{"":8} {"mean IoU":>9} {"IoU>=0.5":>9} {"IoU>=0.7":>9}')
    report = dict(boxes=len(shapes))
    for name, anchors in (('before', before), ('after', after)):
        fit = measure(anchors, shapes)
        print(f'{name:8} {fit.mean_iou:9.4f} {fit.recall[0.5]:9.4f} {fit.recall[0.7]:9.4f}')
        report[name] = dict(
            scales=anchors.scales,
            ratios=anchors.ratios,
            mean_iou=fit.mean_iou,
            recall={str(k): v for k, v in fit.recall.items()},
        )
    if after == before:
        print("nothing better was found than the config's anchors")
    else:
        print('\n' + snippet(after, config.model.rpn_head.anchor_generator))
    if args.output_dir:
        path = Path(args.output_dir) / 'anchor_optimize_result.json'
        write_json(path, report, indent=1)
        print(f'written to {path}')


if __name__ == '__main__':
    run_cli(main)
