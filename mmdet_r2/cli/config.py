"""Print a config, resolved and checked."""

import argparse

from .arguments import add_cfg_options

EXAMPLES = (
    'config mask_rcnn_r2_101_fpn_2x_coco',
    'config mask_rcnn_r2_101_fpn_2x_coco --origin model.backbone',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG and options."""
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    add_cfg_options(parser)
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


def run(args: argparse.Namespace) -> None:
    """Load and print."""
    from ..config import find_config, flatten, load_config, origin_of, origins
    from ..errors import ConfigError

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
