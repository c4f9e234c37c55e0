"""Time inference, training steps or data loading, and the peer's on the same work.

python tools/analysis_tools/benchmark.py {inference,training,dataloader} CONFIG [CHECKPOINT]
    [--peer PYTHON] ...
"""

import argparse

from mmdet_r2.analysis.benchmark import Work, measure, report
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import run_cli
from mmdet_r2.files import write_json

EPILOG = """\
Every toolbox is measured in a process of its own; with --peer both get the same model config,
weights and images, and take turns.

examples:
  python tools/analysis_tools/benchmark.py inference mask_rcnn_r2_101_fpn_2x_coco --repeat 20
  python tools/analysis_tools/benchmark.py training CONFIG --peer /envs/mmdet/bin/python
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Time a detector, beside the peer if there is one.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('mode', choices=('inference', 'training', 'dataloader'))
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        'checkpoint', nargs='?', help='weights; without them random ones that find things'
    )
    parser.add_argument(
        '--peer', metavar='PYTHON', help='interpreter of an environment with mmdetection 3.x'
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0')
    parser.add_argument('--threads', type=int, default=0, help='of the CPU; 0: as many as cores')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(800, 1216), metavar=('H', 'W'), help='of the images'
    )
    parser.add_argument('--images', nargs='+', help='image files, resized to --size')
    parser.add_argument('--batch-size', type=int, default=1, help='images computed at once')
    parser.add_argument('--repeat', type=int, default=10, help='how often each side is timed')
    parser.add_argument('--warmup', type=int, default=2, help='untimed repetitions before')
    parser.add_argument(
        '--clock',
        choices=('wall', 'cpu'),
        default='wall',
        help="what counts: elapsed time, or the process's own CPU time (on a machine that others "
        'use too, with --threads 1)',
    )
    parser.add_argument(
        '--plain', action='store_true', help='the model as trained: no folding, no channels_last'
    )
    parser.add_argument('--dtype', choices=('bfloat16', 'float16'), help='mixed precision')
    parser.add_argument('--compile', action='store_true', help='torch.compile (inference)')
    parser.add_argument('--batches', type=int, default=10, help='per repetition (dataloader)')
    parser.add_argument('--json', metavar='FILE', help='also write the figures there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, measure, print."""
    args = parse_args()
    options = vars(args)
    file, overrides = options.pop('json'), options.pop('cfg_options')
    figures = measure(Work(**(options | dict(size=tuple(args.size), overrides=overrides))))
    print(report(figures))
    if file:
        write_json(file, figures, indent=1)


if __name__ == '__main__':
    run_cli(main)
