"""Serve a local page where detectors run on dropped images.

python demo/web_demo.py [NAME ...] [--model CONFIG CHECKPOINT] [--device cpu] [--port 7860]

NAME is a model of the zoo (tools/download.py --list); all whose weights are published are on the
page where neither NAME nor --model is given. Weights are downloaded when a model is first used.
The page is served on this machine only, unless --host says otherwise. Beside the models it holds at
most 256 MB of results for all visitors together, and one decoded image at a time; a file may have
64 MB, its image the pixels that MMDET_R2_MAX_PIXELS allows. Needs the extra `web`:
pip install -r requirements/web.txt.
"""

import argparse
from pathlib import Path

from mmdet_r2.errors import ConfigError, run_cli


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Serve a local page where detectors run on dropped images.',
        epilog='example: python demo/web_demo.py mask_rcnn_r2_101_fpn_2x_coco --device cpu',
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='model of the zoo (default: all)')
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
    return parser.parse_args()


def main() -> None:
    """Parse, gather the models, serve."""
    args = parse_args()
    from mmdet_r2.apis import web
    from mmdet_r2.zoo import find_model, index, models

    choices: dict[str, web.Choice] = {}
    for config, checkpoint in args.model:
        name = f'{Path(config).stem} ({Path(checkpoint).name})'
        if name in choices:  # another run with files of the same names
            name = f'{Path(config).stem} ({checkpoint})'
        choices[name] = web.Choice(config, checkpoint)
    for name in args.names:
        model = find_model(name)
        if model is None:
            raise ConfigError(f'no model is called {name}; {index.nearest(name, index.names())}.')
        choices[model.name] = web.Choice(model.name, model.name)
    if not choices:
        choices = {m.name: web.Choice(m.name, m.name) for m in models() if m.weights}
    shelf = web.Shelf(choices, args.device, args.keep)
    web.serve(shelf, args.score_thr, args.host, args.port, args.open)


if __name__ == '__main__':
    run_cli(main)
