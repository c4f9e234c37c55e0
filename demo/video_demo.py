"""Detect objects in a video, and draw them into a copy of it.

python demo/video_demo.py VIDEO MODEL [WEIGHTS] --out OUT.mp4 [--score-thr 0.3] [--batch-size 4]

MODEL is the name of a published model or a config; without WEIGHTS the published ones are fetched.
OUT has the frame rate and size of VIDEO (no sound), and ends in .mp4, .mov, .mkv, .avi or .webm.
For example:

python demo/video_demo.py street.mp4 mask_rcnn_r2_101_fpn_2x_coco --out found.mp4 --batch-size 4

--json writes what was found in COCO's result format; image_id is the number of the frame.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from mmdet_r2.apis import coco_results
from mmdet_r2.apis.results import JsonList
from mmdet_r2.apis.video import Video, VideoWriter, quiet_opencv, video_inference
from mmdet_r2.cli.arguments import add_detector, demo_parser, detector_of
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.progress import progress
from mmdet_r2.visualization import DetLocalVisualizer, check_display


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = demo_parser(__doc__)
    parser.add_argument('video', help='a video file')
    add_detector(parser)
    parser.add_argument('--out', help='video with the drawings')
    parser.add_argument('--json', help='file for the findings in COCO result format')
    parser.add_argument('--show', action='store_true', help='open a window with the drawings')
    parser.add_argument(
        '--wait-time', type=float, default=0.001, help='seconds that a frame is shown (0.001)'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, detect, draw, write."""
    args = parse_args()
    if not (args.out or args.show or args.json):
        raise ConfigError('give --out, --json or --show: else nothing would come of it.')
    if args.show:
        check_display()
    if args.out and Path(args.out).resolve() == Path(args.video).resolve():
        raise ConfigError(f'--out {args.out} is the video itself; choose another name.')
    quiet_opencv()
    video = Video.open(args.video)
    found = frames = 0
    with ExitStack() as stack:
        writer = file = None
        if args.out:
            writer = stack.enter_context(
                VideoWriter(args.out, video.fps, video.width, video.height)
            )
        if args.json:
            file = stack.enter_context(JsonList(args.json))
        model = detector_of(args)
        classes = list(model.dataset_meta.get('classes', ()))
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = model.dataset_meta
        results = video_inference(model, video, batch_size=args.batch_size)
        for frame, sample in progress(results, 'Frames', video.frames):
            records = coco_results(sample, classes=classes, score_thr=args.score_thr)
            found += len(records)
            frames += 1
            if file is not None:
                file.extend(records)
            if writer is None and not args.show:
                continue
            drawing = visualizer.draw(
                frame[..., ::-1], sample, draw_gt=False, pred_score_thr=args.score_thr
            )
            if writer is not None:
                writer.write(drawing[..., ::-1])
            if args.show:
                visualizer.show(drawing, args.video, args.wait_time)
    told = video.frames
    if told is not None and frames < told:
        print(f'warning: {args.video} says it has {told} frames; {frames} could be read')
    where = ' and '.join(path for path in (args.out, args.json) if path)
    print(f'{frames} frames, {found} found' + (f', written to {where}' if where else ''))


if __name__ == '__main__':
    run_cli(main)
