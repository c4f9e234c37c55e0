"""Why precision is lost: draw precision-recall curves with one kind of mistake after another
forgiven.

python tools/analysis_tools/coco_error_analysis.py RESULT.bbox.json OUT_DIR --ann ANNOTATIONS.json
"""

import argparse

from mmdet_r2.analysis.coco_errors import (
    AREA_LIMITS,
    KINDS,
    error_curves,
    plot_bars,
    plot_errors,
    plot_objects,
    read_results,
)
from mmdet_r2.analysis.files import file_name, make_folder, write_figure
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.files import write_json
from mmdet_r2.progress import progress

EPILOG = """\
Curves, each with more forgiven: C75, C50 (nothing), Loc (bad placement, down to IoU 0.1), Sim
(objects of similar classes), Oth (of any class), BG (background), FN (what was missed). OUT_DIR
gets a folder per type with a picture per class, one of all classes, and errors.json.

example:
  python tools/test.py CONFIG CHECKPOINT --outfile-prefix work_dirs/coco
  python tools/analysis_tools/coco_error_analysis.py work_dirs/coco.bbox.json work_dirs/errors \\
      --ann data/coco/annotations/instances_val2017.json
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Analyse the errors of detections in COCO format.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('result', help='results in COCO format, of tools/test.py --outfile-prefix')
    parser.add_argument('out_dir', help='folder for pictures and errors.json')
    parser.add_argument(
        '--ann',
        default='data/coco/annotations/instances_val2017.json',
        help='COCO annotations (%(default)s)',
    )
    parser.add_argument(
        '--types', nargs='+', default=['bbox'], choices=('bbox', 'segm'), help='which overlap'
    )
    parser.add_argument(
        '--extraplots', action='store_true', help='also bars, and what sizes the objects have'
    )
    parser.add_argument('--score-thr', type=float, metavar='S', help='leave out lower scores')
    parser.add_argument(
        '--areas',
        type=float,
        nargs=3,
        default=AREA_LIMITS,
        metavar=('SMALL', 'MEDIUM', 'LARGE'),
        help='square pixels at which each size ends (1024 9216 1e10)',
    )
    return parser.parse_args()


def main() -> None:
    """Parse, compare, draw."""
    args = parse_args()
    if not 0 < args.areas[0] < args.areas[1] < args.areas[2]:
        raise ConfigError('--areas: each must be larger than the one before.')
    for kind in args.types:
        data, categories = read_results(
            args.result, args.ann, iou_type=kind, score_thr=args.score_thr
        )
        found = error_curves(data, categories, args.areas)
        folder = make_folder(f'{args.out_dir}/{kind}')
        pictures = {'allclass': found.mean()}
        pictures |= {name: found.precision[:, :, k] for k, name in enumerate(found.names)}
        for name, curves in progress(pictures.items(), 'drawing', len(pictures)):
            stem = f'{folder}/{kind}-{file_name(name)}'
            write_figure(plot_errors(curves, f'{kind}, {name}'), f'{stem}.png')
            if args.extraplots:
                write_figure(plot_bars(curves, f'{kind}, {name}'), f'{stem}-bars.png')
        if args.extraplots:
            write_figure(plot_objects(data, found.objects), folder / 'objects.png')
        report = found.to_dict()
        write_json(folder / 'errors.json', report, indent=1)
        print(f'{kind:8}' + ''.join(f'{name:>8}' for name in KINDS))
        for area, values in report['all classes'].items():
            cells = [f'{v:8.3f}' for v in values.values()] if values else [f'{"-":>8}'] * 7
            print(f'{area:8}' + ''.join(cells))
        print(f'written to {folder}')


if __name__ == '__main__':
    run_cli(main)
