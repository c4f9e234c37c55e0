"""Detect objects in images, draw them, and write them down.

INPUTS is a file, an http(s) address, a folder, or a quoted pattern ('photos/*.jpg').

DIR/vis gets every image with its boxes and masks or, of a panoptic model, its segments.
DIR/predictions.json has all that was found in COCO's result format. A panoptic model also gives
DIR/panoptic.json and DIR/panoptic/, in COCO's panoptic format.
"""

import argparse

from .arguments import add_detector, count_from, detector_of

EXAMPLES = (
    'predict photos mask_rcnn_r2_101_fpn_2x_coco --out-dir outputs --batch-size 4',
    'predict photo.jpg work_dirs/my_run --score-thr 0.5',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INPUTS MODEL [CHECKPOINT] and options."""
    parser.add_argument('inputs', metavar='INPUTS', help='file, address, folder, or quoted pattern')
    add_detector(parser)
    parser.add_argument(
        '--out-dir', metavar='DIR', default='outputs', help='folder for all that is written'
    )
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


def run(args: argparse.Namespace) -> None:
    """Detect, draw, write."""
    from contextlib import ExitStack
    from pathlib import Path

    from ..apis.images import find_images
    from ..apis.inferencer import DetInferencer
    from ..apis.panoptic_files import PanopticFiles
    from ..apis.results import JsonList, coco_results
    from ..errors import DataError
    from ..progress import progress
    from ..visualization import check_display

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
        panoptic = PanopticFiles(out_dir, classes, fusion.num_things_classes)
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
                number = panoptic.add(each.name, each.sample)
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
