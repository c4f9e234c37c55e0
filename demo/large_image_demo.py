"""Detect small objects in large images: window by window, merged into one result.

python demo/large_image_demo.py INPUTS MODEL [WEIGHTS] [--patch-size 640]
    [--patch-overlap-ratio 0.25] [--out-dir DIR]

INPUTS is a file, an http(s) address, a folder, or a quoted pattern. MODEL is the name of a
published model or a config; without WEIGHTS the published ones are fetched. For example:

python demo/large_image_demo.py aerial.tif mask_rcnn_r2_101_fpn_2x_coco --patch-size 800 \\
    --batch-size 4 --whole-image

DIR/vis gets the images with boxes and masks, DIR/predictions.json all that was found in COCO's
result format. Options that mmdetection's script has are called as there. Files of more than
200 million pixels are refused unless MMDET_R2_MAX_PIXELS in the environment allows them.
"""

import argparse
from pathlib import Path

from mmdet_r2.apis import coco_results
from mmdet_r2.apis.images import ImageSource, Names, find_images
from mmdet_r2.apis.results import JsonList
from mmdet_r2.apis.slicing import slice_inference
from mmdet_r2.cli.arguments import add_detector, demo_parser, detector_of
from mmdet_r2.errors import ConfigError, DataError, run_cli
from mmdet_r2.files import path_inside, write_image
from mmdet_r2.visualization import DetLocalVisualizer, check_display


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = demo_parser(__doc__)
    parser.add_argument('inputs', metavar='img', help='file, address, folder, or quoted pattern')
    add_detector(parser)
    parser.add_argument('--out-dir', default='outputs', help='folder for all that is written')
    parser.add_argument('--show', action='store_true', help='open a window with each drawing')
    parser.add_argument('--tta', action='store_true', help='look in several scales and flips')
    parser.add_argument(
        '--patch-size', type=int, nargs='+', default=[640], help='side, or height and width (640)'
    )
    parser.add_argument(
        '--patch-overlap-ratio', type=float, default=0.25, help='of neighbours, at least (0.25)'
    )
    parser.add_argument(
        '--merge-iou-thr',
        type=float,
        default=0.25,
        help='overlap from which one of two detections goes (0.25)',
    )
    parser.add_argument('--merge-nms-type', default='nms', help='nms (default) or soft_nms')
    parser.add_argument(
        '--merge-metric',
        default='ios',
        help='overlap: ios, over the smaller box (default), or iou',
    )
    parser.add_argument(
        '--whole-image', action='store_true', help='look at the whole image, too (large objects)'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, detect, draw, write."""
    args = parse_args()
    if len(args.patch_size) > 2:
        raise ConfigError(f'--patch-size takes one or two numbers, not {len(args.patch_size)}.')
    if args.show:
        check_display()
    images = find_images(args.inputs)
    model = detector_of(args)
    classes = list(model.dataset_meta.get('classes', ()))
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = model.dataset_meta
    out_dir, names = Path(args.out_dir), Names()
    unreadable = 0
    with JsonList(out_dir / 'predictions.json') as file:
        for number, path in enumerate(images):
            source = ImageSource(path, path)
            try:
                image = source.data = source.decode()  # once for windows and drawing
            except DataError as error:
                if len(images) == 1:
                    raise
                unreadable += 1
                print(f'skipped: {error}')
                continue
            sample = slice_inference(
                model,
                source,
                (args.patch_size[0], args.patch_size[-1]),
                args.patch_overlap_ratio,
                whole_image=args.whole_image,
                merge_iou_thr=args.merge_iou_thr,
                merge_nms_type=args.merge_nms_type,
                merge_metric=args.merge_metric,
                batch_size=args.batch_size,
                tta=args.tta,
                show_progress=True,
            )
            sample.set_metainfo(dict(img_id=number))
            records = coco_results(sample, classes=classes, score_thr=args.score_thr)
            file.extend(records)
            drawing = visualizer.draw(
                image[..., ::-1], sample, draw_gt=False, pred_score_thr=args.score_thr
            )
            name = names.new(source.stem or 'image', source.drawing_suffix)
            write_image(path_inside(out_dir / 'vis', name), drawing)
            if args.show:
                visualizer.show(drawing, path)
            print(f'{path} ({image.shape[1]} x {image.shape[0]}): {len(records)} found')
        if unreadable == len(images):
            raise DataError(f'{args.inputs}: none of the {unreadable} images could be read.')
    skipped = f', {unreadable} could not be read' if unreadable else ''
    print(f'{len(images) - unreadable} images drawn, results in {out_dir}{skipped}')


if __name__ == '__main__':
    run_cli(main)
