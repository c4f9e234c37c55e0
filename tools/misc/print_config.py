"""Print a config as it is run: python tools/misc/print_config.py CONFIG [--cfg-options ...]
[--origin KEY | --show-origin]"""

import argparse

from mmdet_r2.config import find_config, flatten, load_config, origin_of, origins
from mmdet_r2.config_options import DictAction
from mmdet_r2.errors import ConfigError, run_cli

EPILOG = """\
examples:
  python tools/misc/print_config.py mask_rcnn_r2_101_fpn_2x_coco
  python tools/misc/print_config.py mask_rcnn_r2_101_fpn_2x_coco --origin model.backbone
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Print a config, resolved and checked.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    parser.add_argument(
        '--origin',
        metavar='KEY',
        help='print one value, the line that sets it, and the lines that it overrides',
    )
    parser.add_argument(
        '--show-origin', action='store_true', help='one value per line, with where it comes from'
    )
    parser.add_argument('--save', metavar='FILE', help='write the resolved config to FILE')
    parser.add_argument('--no-check', action='store_true', help='do not check the keys')
    return parser.parse_args()


def main() -> None:
    """Load and print."""
    args = parse_args()
    overrides = args.cfg_options or {}
    config = load_config(args.config, overrides, check=not args.no_check)
    if args.save:
        config.dump(args.save)
    if not args.origin and not args.show_origin:
        print(config.pretty_text)
        return
    table = origins(find_config(args.config), overrides)
    values = flatten(config)
    keys = list(values)
    if args.origin:
        keys = [key for key in values if key == args.origin or key.startswith(args.origin + '.')]
        if not keys:
            raise ConfigError(f'--origin {args.origin}: the config has no such key.')
    width = min(60, max(len(f'{key} = {values[key]!r}') for key in keys))
    for key in keys:
        places = [str(place) for place in reversed(origin_of(table, key))]
        # the last to apply comes first, then what it overrides
        where = ' <- '.join(dict.fromkeys(places)) or 'set while loading'
        print(f'{f"{key} = {values[key]!r}":<{width}}  # {where}')


if __name__ == '__main__':
    run_cli(main)
