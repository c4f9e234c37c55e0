"""Convert annotations to one COCO JSON file, which training reads."""

import argparse
import shlex
from pathlib import Path

EXAMPLES = (
    'convert data to-coco voc data/VOC2007 data/voc_train.json --split trainval',
    'convert data to-coco yolo data/fruit/data.yaml data/fruit/train.json',
    'convert data to-coco labelme data/fruit data/fruit/all.json --val-fraction 0.2',
    'convert data to-coco csv data/boxes.csv data/all.json --images data/images',
    'convert data to-coco masks data/masks data/all.json --images data/images --classes apple pear',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FORMAT SOURCE OUT and options."""
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')

    def add(name: str, source: str, summary: str) -> argparse.ArgumentParser:
        sub = formats.add_parser(name, help=summary, description=summary)
        sub.add_argument('source', help=source)
        sub.add_argument('out', help='COCO JSON file to write')
        sub.add_argument('--images', metavar='DIR', help='folder of the images')
        sub.add_argument(
            '--classes',
            nargs='+',
            metavar='NAME',
            help='class names in order, or a text file with one per line; other names in the '
            'annotations are errors (default: all names found, sorted)',
        )
        sub.add_argument(
            '--val-fraction',
            type=float,
            metavar='F',
            help='put this part of the images into a second file, OUT with _val',
        )
        sub.add_argument('--seed', type=int, default=0, help='of the choice (0)')
        sub.add_argument(
            '--skip-bad', action='store_true', help='leave out files and rows with errors'
        )
        return sub

    voc = add('voc', 'VOC folder, or folder of XML files', 'Pascal VOC XML')
    voc.add_argument('--split', help='name in ImageSets/Main (default: all XML files)')
    voc.add_argument(
        '--zero-based',
        action='store_true',
        help='coordinates are continuous from 0, as labelImg writes them (default: pixels from 1, '
        'the last included, as in Pascal VOC)',
    )
    voc.add_argument(
        '--difficult',
        choices=('ignore', 'keep', 'drop'),
        default='ignore',
        help='objects marked difficult: neither learnt nor counted, kept, or dropped',
    )
    yolo = add('yolo', 'data.yaml, or folder of label files', 'YOLO txt: boxes and polygons')
    yolo.add_argument('--split', default='train', help='of data.yaml: train, val or test')
    labelme = add('labelme', 'folder of JSON files', 'LabelMe JSON')
    table = add('csv', 'CSV file', 'CSV with a row per box')
    table.add_argument(
        '--normalized', action='store_true', help='numbers are fractions of the image size'
    )
    masks = add('masks', 'folder of PNGs', 'instance masks as PNGs')
    masks.add_argument('--divisor', type=int, default=1000, help='value = class * divisor + number')
    masks.add_argument('--class-masks', metavar='DIR', help='PNGs with classes, as in VOC')
    del labelme


def run(args: argparse.Namespace) -> None:
    """Read, write, say what was found and what to do next."""
    from ..datasets import convert
    from ..errors import DataError
    from ..files import write_json

    notes = convert.Notes(skip_bad=args.skip_bad)
    classes = convert.class_names(args.classes)
    image_dir = args.images
    if args.format == 'voc':
        image_dir = convert.voc_image_dir(args.source, args.images)
        images = convert.read_voc(
            args.source, notes, image_dir, args.split, not args.zero_based, args.difficult
        )
    elif args.format == 'yolo' and args.source.endswith(('.yaml', '.yml')):
        if image_dir is not None:
            raise DataError(
                f'{args.source} says where the images are: leave out --images, or give the folder '
                'of label files instead, with --images and --classes'
            )
        names, folder, files = convert.read_data_yaml(args.source, args.split)
        image_dir, classes = folder, classes or names
        images = convert.read_yolo(folder, names, notes, names=files)
    elif args.format == 'yolo':
        if classes is None or image_dir is None:
            raise DataError('yolo with a folder of label files needs --images and --classes')
        images = convert.read_yolo(image_dir, classes, notes, label_dir=args.source)
    elif args.format == 'labelme':
        image_dir = image_dir or args.source
        images = convert.read_labelme(args.source, notes, image_dir)
    elif args.format == 'csv':
        image_dir = image_dir or Path(args.source).parent
        images = convert.read_csv(args.source, notes, image_dir, args.normalized, classes)
    else:
        if classes is None or image_dir is None:
            raise DataError('masks needs --images and --classes (the names of classes 1, 2, ...)')
        images = convert.read_masks(
            image_dir, args.source, classes, notes, args.divisor, args.class_masks
        )
    content = convert.to_coco(images, image_dir, classes, notes)
    out = Path(args.out)
    parts = {out: content}
    if args.val_fraction is not None:
        train, val = convert.split(content, args.val_fraction, args.seed)
        parts = {out: train, out.with_stem(f'{out.stem}_val'): val}
    for line in notes.lines():
        print(f'note: {line}')
    for path, part in parts.items():
        write_json(path, part)
        print(f'{path}: {len(part["images"])} images, {len(part["annotations"])} objects')
    _print_classes(content)
    command = ['mmdet-r2', 'check', args.out, '--images', str(image_dir)]
    if len(parts) > 1:
        command += ['--val', str([*parts][1]), '--val-images', str(image_dir)]
    print(f'next: {shlex.join(command)}')


def _print_classes(content: dict) -> None:
    from collections import Counter

    from ..datasets import convert

    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    names = [category['name'] for category in content['categories']]
    print(
        'classes: ' + ', '.join(f'{c["name"]} ({counts[c["id"]]})' for c in content['categories'])
    )
    for one, other in convert.near_misses(names):
        print(f'warning: classes {one!r} and {other!r} are probably one')
