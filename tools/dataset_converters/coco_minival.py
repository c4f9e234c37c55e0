"""Write minival and valminusminival of COCO 2014, as older detectors were trained and measured.

python tools/dataset_converters/coco_minival.py data/coco/annotations
python tools/dataset_converters/coco_minival.py data/coco/annotations --ids minival_ids.txt
python tools/dataset_converters/coco_minival.py data/coco/annotations --compare

Reads instances_val2014.json; minival's images are those of instances_val2017.json, or of --ids.
"""

import argparse
import sys

from mmdet_r2.datasets.coco_splits import compare_years, write_minival
from mmdet_r2.errors import run_cli


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotation_dir', help='folder of the official annotations')
    parser.add_argument('--out-dir', metavar='DIR', help='folder for the files (ANNOTATION_DIR)')
    parser.add_argument(
        '--ids',
        metavar='FILE',
        help="minival's images: a COCO file, a JSON list, or a text with an id or file name per "
        'line (instances_val2017.json of ANNOTATION_DIR)',
    )
    parser.add_argument(
        '--kinds',
        nargs='+',
        default=['instances'],
        choices=('instances', 'person_keypoints', 'captions'),
        help='which annotations to divide (instances)',
    )
    parser.add_argument('--write-ids', action='store_true', help='write the two lists of ids too')
    parser.add_argument('--overwrite', action='store_true', help='replace files that exist')
    parser.add_argument(
        '--compare',
        action='store_true',
        help='write nothing; tell whether the splits of 2014 and 2017 are the same (takes memory)',
    )
    return parser.parse_args()


def main() -> None:
    """Parse, divide or compare."""
    args = parse_args()
    if args.compare:
        sys.exit(0 if compare_years(args.annotation_dir) else 1)
    write_minival(
        args.annotation_dir,
        out_dir=args.out_dir,
        ids_file=args.ids,
        kinds=tuple(dict.fromkeys(args.kinds)),
        write_ids=args.write_ids,
        overwrite=args.overwrite,
    )


if __name__ == '__main__':
    run_cli(main)
