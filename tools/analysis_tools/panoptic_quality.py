"""Measure written panoptic results.

python tools/analysis_tools/panoptic_quality.py GT.json PRED.json

Both are in COCO's panoptic format, such as the files of tools/test.py --outfile-prefix.
"""

import argparse

from mmdet_r2.errors import run_cli
from mmdet_r2.evaluation import evaluate_panoptic_files, panoptic_table

EPILOG = """\
example:
  python tools/test.py CONFIG CHECKPOINT --outfile-prefix work_dirs/coco
  python tools/analysis_tools/panoptic_quality.py \\
      data/coco/annotations/panoptic_val2017.json work_dirs/coco.panoptic.json
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Panoptic quality of written results.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('gt_json_file', help='panoptic annotations')
    parser.add_argument('pred_json_file', help='results')
    parser.add_argument('--gt-folder', help='PNG images of the annotations (GT without .json)')
    parser.add_argument('--pred-folder', help='PNG images of the results (PRED without .json)')
    parser.add_argument('--nproc', type=int, help='processes (all cores)')
    return parser.parse_args()


def main() -> None:
    """Parse, measure, print."""
    args = parse_args()
    found = evaluate_panoptic_files(
        args.gt_json_file,
        args.pred_json_file,
        args.gt_folder,
        args.pred_folder,
        nproc=args.nproc,
    )
    print(panoptic_table(found))


if __name__ == '__main__':
    run_cli(main)
