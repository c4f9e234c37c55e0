"""Convert a COCO JSON file to the files of other tools. Images are not copied."""

import argparse
from pathlib import Path

EXAMPLES = (
    'convert data from-coco yolo data/train.json data/yolo --split train',
    'convert data from-coco labelme data/train.json data/images',
    'convert data from-coco voc data/train.json data/VOC --split train',
    'convert data from-coco csv data/train.json data/train.csv',
    'convert data from-coco masks data/train.json data/masks',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FORMAT ANN_FILE OUT and options."""
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')

    def add(name: str, out: str, summary: str) -> argparse.ArgumentParser:
        sub = formats.add_parser(name, help=summary, description=summary)
        sub.add_argument('ann_file', help='COCO JSON file')
        sub.add_argument('out', help=out)
        sub.add_argument('--skip-bad', action='store_true', help='leave out what has an error')
        return sub

    yolo = add('yolo', 'folder to write labels/ and data.yaml into', 'YOLO txt')
    yolo.add_argument('--split', default='train', help='folder below labels/, key in data.yaml')
    shape = yolo.add_mutually_exclusive_group()
    shape.add_argument('--boxes', action='store_true', help='write boxes')
    shape.add_argument('--polygons', action='store_true', help='write polygons')
    labelme = add('labelme', 'folder to write a JSON file per image into', 'LabelMe JSON')
    labelme.add_argument('--images', metavar='DIR', help='folder of the images (default: OUT)')
    voc = add('voc', 'folder to write Annotations/ and ImageSets/ into', 'Pascal VOC XML')
    voc.add_argument('--split', default='train', help='file of ImageSets/Main')
    voc.add_argument('--zero-based', action='store_true', help='continuous coordinates from 0')
    add('csv', 'file to write', 'CSV with a row per box')
    masks = add('masks', 'folder to write a PNG per image into', '16-bit instance masks')
    masks.add_argument('--divisor', type=int, default=1000, help='value = class * divisor + number')


def run(args: argparse.Namespace) -> None:
    """Read, write, say what was lost."""
    from ..datasets import convert
    from ..files import write_text

    notes = convert.Notes(skip_bad=args.skip_bad)
    classes, images = convert.read_coco(args.ann_file, notes)
    if args.format == 'yolo':
        polygons = True if args.polygons else False if args.boxes else None
        convert.write_yolo(images, classes, args.out, notes, args.split, polygons)
    elif args.format == 'labelme':
        convert.write_labelme(images, args.out, notes, args.images)
    elif args.format == 'voc':
        convert.write_voc(images, args.out, notes, args.split, not args.zero_based)
    elif args.format == 'csv':
        convert.write_csv(images, args.out, notes)
    else:
        convert.write_masks(images, classes, args.out, notes, args.divisor)
        write_text(Path(args.out) / 'classes.txt', ''.join(f'{name}\n' for name in classes))
    for line in notes.lines():
        print(f'note: {line}')
    total = sum(len(image.objects) for image in images)
    print(f'{args.ann_file}: {len(images)} images, {total} objects; written to {args.out}')
    if args.format == 'yolo':
        print(f'next: put or link the images into {Path(args.out, "images", args.split)}')
    elif args.format == 'masks':
        divisor = '' if args.divisor == 1000 else f' --divisor {args.divisor}'
        print(
            f'the way back: mmdet-r2 convert data to-coco masks {args.out} OUT --images DIR '
            f'--classes {Path(args.out, "classes.txt")}{divisor}'
        )
