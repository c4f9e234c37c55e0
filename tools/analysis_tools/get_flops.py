"""Parameters and multiply-adds of a detector and of each of its parts.

python tools/analysis_tools/get_flops.py CONFIG [--shape 800 1280]
"""

import argparse

from mmdet_r2.analysis.flops import count
from mmdet_r2.config import load_config
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.registry import MODELS, build, init_scope

EPILOG = """\
Convolutions and matrix products are counted; the RoI head for as many proposals and masks as the
config allows, which is what it costs at most.

examples:
  python tools/analysis_tools/get_flops.py mask_rcnn_r2_101_fpn_2x_coco
  python tools/analysis_tools/get_flops.py mask_rcnn_r2_101_fpn_2x_coco --shape 640 640 --brief
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-adds.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=(800, 1280),
        metavar='N',
        help='height and width of the image, or one number for both (800 1280)',
    )
    parser.add_argument('--brief', action='store_true', help='backbone, neck and heads only')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, count, print."""
    args = parse_args()
    shape = tuple(args.shape) * 2 if len(args.shape) == 1 else tuple(args.shape)
    if len(shape) != 2 or min(shape) < 32 or max(shape) > 2**15:
        text = ' '.join(map(str, args.shape))
        raise ConfigError(f'--shape {text}: expected height and width, from 32 to 32768')
    cfg = load_config(args.config, args.cfg_options)
    init_scope()
    cfg.model.backbone.init_cfg = None
    costs = count(build(MODELS, cfg.model, 'model'), shape)
    print(f'{"":22} {"parameters":>12} {"multiply-adds":>14}  ({shape[0]}x{shape[1]})')
    for cost in costs:
        if cost.whole or not args.brief:
            name = cost.name if cost.whole else '  ' + cost.name.partition('.')[2]
            print(f'{name:22} {cost.parameters / 1e6:10.2f} M {cost.macs / 1e9:12.2f} G')
    whole = [cost for cost in costs if cost.whole]
    parameters, macs = sum(c.parameters for c in whole), sum(c.macs for c in whole)
    print(f'{"all":22} {parameters / 1e6:10.2f} M {macs / 1e9:12.2f} G')


if __name__ == '__main__':
    run_cli(main)
