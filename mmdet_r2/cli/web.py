"""Serve a local page where detectors run on dropped images.

All models whose weights are published are on the page where none is named. Weights are downloaded
when a model is first used. The page is served on this machine only, unless --host says otherwise.
Beside the models it holds at most 256 MB of results for all visitors together, and one decoded
image at a time; a file may have 64 MB, its image the pixels that MMDET_R2_MAX_PIXELS allows. Needs
the extra `web`.
"""

import argparse
from pathlib import Path

from .arguments import MODEL

EXAMPLES = (
    'web mask_rcnn_r2_101_fpn_2x_coco --device cpu',
    'web work_dirs/my_run',
    'web --model my_config.py work_dirs/my_run/iter_900.pth',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[MODEL ...] and options."""
    parser.add_argument(
        'models', nargs='*', metavar='MODEL', help=f'{MODEL} (default: all of the zoo)'
    )
    parser.add_argument(
        '--model',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model of yours; may be given several times',
    )
    parser.add_argument('--device', help='such as cuda:0 or cpu (default: a GPU if there is one)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='where the slider starts')
    parser.add_argument('--keep', type=int, default=2, help='models held in memory at once')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0 lets other machines in')
    parser.add_argument('--port', type=int, default=7860, help='0 takes a free one')
    parser.add_argument('--open', action='store_true', help='open the page in the browser')


def run(args: argparse.Namespace) -> None:
    """Gather the models, serve."""
    from ..apis import web
    from ..apis.model_argument import find_detector
    from ..zoo import find_model, models

    choices: dict[str, web.Choice] = {}
    for config, checkpoint in args.model:
        name = f'{Path(config).stem} ({Path(checkpoint).name})'
        if name in choices:  # another run with files of the same names
            name = f'{Path(config).stem} ({checkpoint})'
        choices[name] = web.Choice(config, checkpoint)
    for name in args.models:
        config, checkpoint = find_detector(name)
        choices[getattr(find_model(name), 'name', name)] = web.Choice(config, checkpoint)
    if not choices:
        choices = {m.name: web.Choice(m.name, m.name) for m in models() if m.weights}
    shelf = web.Shelf(choices, args.device, args.keep)
    web.serve(shelf, args.score_thr, args.host, args.port, args.open)
