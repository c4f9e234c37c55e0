"""Time inference, training steps or data loading, beside the peer if there is one.

Every toolbox is measured in a process of its own; with --peer both get the same model config,
weights and images, and take turns. Without CHECKPOINT the weights are random ones that find things.
"""

import argparse

from .arguments import add_cfg_options

EXAMPLES = (
    'bench inference mask_rcnn_r2_101_fpn_2x_coco --repeat 20',
    'bench training faster_rcnn_r50_fpn_1x_coco --peer /envs/mmdet/bin/python',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODE CONFIG [CHECKPOINT] and options."""
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
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print."""
    from ..analysis.benchmark import Work, measure, report
    from ..files import write_json

    options = vars(args)
    file, overrides = options.pop('json'), options.pop('cfg_options')
    figures = measure(Work(**(options | dict(size=tuple(args.size), overrides=overrides))))
    print(report(figures))
    if file:
        write_json(file, figures, indent=1)
