"""Colours of classes, always RGB."""

from collections.abc import Sequence

import numpy as np

from mmdet_r2.datasets.metainfo import COCO_METAINFO
from mmdet_r2.errors import ConfigError

Color = tuple[int, int, int]

NAMED: dict[str, Color] = {
    'red': (255, 0, 0),
    'green': (0, 255, 0),
    'blue': (0, 0, 255),
    'cyan': (0, 255, 255),
    'yellow': (255, 255, 0),
    'magenta': (255, 0, 255),
    'white': (255, 255, 255),
    'black': (0, 0, 0),
}


def get_palette(palette: Sequence[Color] | Color | str | None, num_classes: int) -> list[Color]:
    """A colour (R, G, B in 0..255) for each of ``num_classes`` classes.

    Args:
        palette: a list of colours; one colour, or its name, for all; 'coco' or 'voc' for those
            data sets' colours; 'random', 'none' or None for colours that look random and are always
            the same. A list too short goes on with those.
        num_classes: how many are needed.

    Raises:
        ConfigError: no such palette or colour name.
    """
    if isinstance(palette, str) and palette in NAMED:
        palette = NAMED[palette]
    if palette is None or palette in ('random', 'none'):
        colors = []
    elif isinstance(palette, str):
        if palette not in ('coco', 'voc'):
            raise ConfigError(
                f"palette {palette!r} is not known; use 'coco', 'voc', 'random', a colour "
                f'({", ".join(NAMED)}), (R, G, B), '
                'or a list of these'
            )
        colors = list(COCO_METAINFO['palette'] if palette == 'coco' else _voc_colors(20))
    elif len(palette) == 3 and all(isinstance(value, int | np.integer) for value in palette):
        colors = [palette] * num_classes
    else:
        colors = list(palette)
    # a generator of its own: drawing must not move the random state of a training run
    random = np.random.RandomState(42).randint(0, 256, (num_classes, 3))
    colors += random[len(colors) :].tolist()
    return [(int(r), int(g), int(b)) for r, g, b in colors[:num_classes]]


def _voc_colors(number: int) -> list[Color]:
    """Pascal VOC's colour map without its background: the bits of the index dealt to R, G, B from
    the top down.
    """
    colors = []
    for index in range(1, number + 1):
        color = [0, 0, 0]
        for bit in range(8):
            color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors.append((color[0], color[1], color[2]))
    return colors
