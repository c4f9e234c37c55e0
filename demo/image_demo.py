"""Detect objects in images, draw them, and write them down.

python demo/image_demo.py INPUTS MODEL [WEIGHTS] [--out-dir DIR] [--batch-size 8] [--score-thr 0.3]

INPUTS is a file, an http(s) address, a folder, or a quoted pattern ('photos/*.jpg'). MODEL is the
name of a published model or a config; without WEIGHTS the published ones are fetched. For example:

python demo/image_demo.py photos mask_rcnn_r2_101_fpn_2x_coco --out-dir outputs --batch-size 4

DIR/vis gets every image with its boxes and masks or, of a panoptic model, its segments.
DIR/predictions.json has all that was found in COCO's result format. A panoptic model also gives
DIR/panoptic.json and DIR/panoptic/, in COCO's panoptic format.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmdet_r2.apis import coco_results
from mmdet_r2.apis.cli import add_model_arguments, count_from, demo_parser, detector_of
from mmdet_r2.apis.images import ImageSource, Names, find_images
from mmdet_r2.apis.inferencer import DetInferencer, Inference
from mmdet_r2.apis.results import (
    JsonList,
    default_category_ids,
    panoptic_record,
    prediction,
)
from mmdet_r2.errors import DataError, run_cli
from mmdet_r2.files import path_inside, write_image, write_json
from mmdet_r2.progress import progress
from mmdet_r2.visualization import check_display


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = demo_parser(__doc__)
    parser.add_argument('inputs', help='file, address, folder, or quoted pattern')
    add_model_arguments(parser)
    parser.add_argument('--out-dir', default='outputs', help='folder for all that is written')
    parser.add_argument(
        '--num-workers', type=count_from(0), default=2, help='threads that read images (2)'
    )
    parser.add_argument('--tta', action='store_true', help='look in several scales and flips')
    parser.add_argument('--show', action='store_true', help='open a window with each drawing')
    parser.add_argument('--no-save-vis', action='store_true', help='write no drawings')
    parser.add_argument('--no-save-pred', action='store_true', help='write no predictions')
    parser.add_argument('--print-result', action='store_true', help='print the predictions')
    parser.add_argument(
        '--ann-file', help="COCO annotation file whose ids predictions.json uses; else: the label's"
    )
    return parser.parse_args()


class Panoptic:
    """The panoptic maps of a run: a PNG image each, and one JSON file."""

    def __init__(self, out_dir: Path, classes: list[str], num_things: int) -> None:
        self.out_dir, self.classes = out_dir, classes
        self.ids = default_category_ids(classes, first=1)
        self.num_things = num_things
        self.annotations: list[dict[str, Any]] = []
        self.names = Names()

    def add(self, each: Inference) -> int:
        """Write an image's map; how many segments it has."""
        name = self.names.new(ImageSource('', each.name).stem or 'image', '.png')
        found = prediction(each.sample, len(self.classes))
        write_image(path_inside(self.out_dir / 'panoptic', name), found['panoptic_seg'])
        record = panoptic_record(each.sample, name, self.ids)
        self.annotations.append(record)
        return len(record['segments_info'])

    def close(self) -> None:
        """Write the JSON file."""
        categories = [
            dict(id=number, name=name, isthing=int(i < self.num_things))
            for i, (number, name) in enumerate(zip(self.ids, self.classes))
        ]
        content = dict(annotations=self.annotations, categories=categories)
        write_json(self.out_dir / 'panoptic.json', content)


def main() -> None:
    """Parse, detect, draw, write."""
    args = parse_args()
    if args.show:
        check_display()
    images = find_images(args.inputs)
    model = detector_of(args)
    inferencer = DetInferencer(model)
    classes = list(model.dataset_meta.get('classes', ()))
    coco_results([], classes=classes, ann_file=args.ann_file)  # does it fit?
    out_dir = Path(args.out_dir)
    fusion = getattr(model, 'panoptic_fusion_head', None)
    panoptic = None
    if fusion is not None and not args.no_save_pred:
        panoptic = Panoptic(out_dir, classes, fusion.num_things_classes)
    unreadable = 0
    with ExitStack() as stack:
        file = None
        if not args.no_save_pred:
            file = stack.enter_context(JsonList(out_dir / 'predictions.json'))
        results = inferencer.stream(
            images,
            args.batch_size,
            show=args.show,
            pred_score_thr=args.score_thr,
            out_dir='' if args.no_save_vis else out_dir,
            tta=args.tta,
            num_workers=args.num_workers,
            skip_unreadable=len(images) > 1,
        )
        for each in progress(results, 'Detecting', len(images)):
            if each.sample is None:
                unreadable += 1
                print(f'skipped: {each.error}')
                continue
            records = coco_results(
                each.sample, classes=classes, ann_file=args.ann_file, score_thr=args.score_thr
            )
            number = len(records)
            if file is not None:
                file.extend(records)
            if panoptic is not None:
                number = panoptic.add(each)
            if args.print_result:
                print(records)
            print(f'{each.name}: {number} found')
        if unreadable == len(images):
            raise DataError(f'{args.inputs}: none of the {unreadable} images could be read.')
    if panoptic is not None:
        panoptic.close()
    skipped = f', {unreadable} could not be read' if unreadable else ''
    done = 'searched' if args.no_save_vis else 'drawn'
    print(f'{len(images) - unreadable} images {done}, results in {out_dir}{skipped}')


if __name__ == '__main__':
    run_cli(main)
