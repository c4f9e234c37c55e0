"""Measure a results file, without the model.

python tools/analysis_tools/eval_metric.py CONFIG RESULTS.pkl [--eval bbox segm]
"""

import argparse

from mmdet_r2.analysis.metric import evaluate_results
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import run_cli
from mmdet_r2.files import write_json

EPILOG = """\
The numbers are those that tools/test.py printed when it wrote the results. --cfg-options changes
what the config says, so that one test can be measured in several ways.

examples:
  python tools/test.py CONFIG CHECKPOINT --out results.pkl
  python tools/analysis_tools/eval_metric.py CONFIG results.pkl --eval bbox --classwise
  python tools/analysis_tools/eval_metric.py CONFIG results.pkl \\
      --cfg-options test_evaluator.iou_thrs="[0.5]"
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Evaluate the results of a test.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config that was tested')
    parser.add_argument('pkl_results', metavar='results', help='of tools/test.py --out')
    parser.add_argument(
        '--eval', nargs='+', metavar='METRIC', help="what to measure; default: the config's metrics"
    )
    parser.add_argument('--classwise', action='store_true', help='print a table of all classes')
    parser.add_argument('--out', metavar='FILE.json', help='write the numbers, as metrics.json')
    parser.add_argument(
        '--outfile-prefix', metavar='P', help='write COCO result files P.bbox.json, P.segm.json'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, measure, print."""
    args = parse_args()
    values, report = evaluate_results(
        args.config,
        args.pkl_results,
        metrics=args.eval,
        classwise=args.classwise,
        outfile_prefix=args.outfile_prefix,
        overrides=args.cfg_options,
    )
    for name, value in values.items():
        print(f'{name}: {value:.4f}')
    if args.out:
        # nothing of the kind is annotated: -1 of CocoMetric, NaN of VOCMetric
        numbers = {name: None if v == -1 or v != v else v for name, v in values.items()}
        write_json(args.out, dict(config=args.config, metrics=numbers, **report), indent=1)
        print(f'written to {args.out}')


if __name__ == '__main__':
    run_cli(main)
