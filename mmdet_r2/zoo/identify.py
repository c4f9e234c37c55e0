"""Which architecture a state dict belongs to, read from its names and shapes alone."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from . import index

_DEPTHS = {
    # blocks in stages 1-4, bottleneck or not -> depth
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
    (3, 24, 36, 3, True): 200,
    (3, 30, 48, 8, True): 269,
}


class Architecture(NamedTuple):
    """What the names say: ``backbone`` ('res2net101_v1b_26w_4s'), ``family`` ('cascade_mask_rcnn',
    '' for a bare backbone), ``num_classes`` (None without a box head)."""

    backbone: str
    family: str
    num_classes: int | None

    def __str__(self) -> str:
        parts = [self.backbone or 'an unknown backbone']
        if self.family:
            parts.append(self.family)
        if self.num_classes is not None:
            parts.append(f'{self.num_classes} classes')
        return ', '.join(parts)


def identify(weights: Mapping[str, Tensor]) -> Architecture:
    """The architecture of mmdetection-named weights; unknown parts are '' or None."""
    return Architecture(_backbone(weights), _family(weights), _num_classes(weights))


def _backbone(weights: Mapping[str, Tensor]) -> str:
    prefix = 'backbone.' if any(k.startswith('backbone.') for k in weights) else ''
    blocks = [0, 0, 0, 0]
    for key in weights:
        if found := re.match(re.escape(prefix) + r'layer([1-4])\.(\d+)\.', key):
            stage, block = int(found[1]) - 1, int(found[2])
            blocks[stage] = max(blocks[stage], block + 1)
    if not any(blocks):
        return ''
    bottleneck = f'{prefix}layer1.0.conv3.weight' in weights
    depth = _DEPTHS.get((blocks[0], blocks[1], blocks[2], blocks[3], bottleneck))
    name = str(depth) if depth else f' with {"-".join(map(str, blocks))} blocks'
    first = f'{prefix}layer1.0.'
    if f'{first}convs.0.weight' in weights:
        width = weights[f'{first}convs.0.weight'].shape[0]
        scale = 1 + sum(
            bool(re.match(re.escape(first) + r'convs\.\d+\.weight$', k)) for k in weights
        )
        deep = f'{prefix}stem.0.weight' in weights or f'{prefix}conv1.0.weight' in weights
        return f'res2net{name}{"_v1b" if deep else ""}_{width}w_{scale}s'
    if f'{first}conv2.fc1.weight' in weights:
        return f'resnest{name}'
    conv2 = weights.get(f'{first}conv2.weight')
    if bottleneck and conv2 is not None and conv2.shape[1] != conv2.shape[0]:
        groups = conv2.shape[0] // conv2.shape[1]
        return f'resnext{name}_{groups}x{conv2.shape[1]}d'
    return f'resnet{name}{"d" if f"{prefix}stem.0.weight" in weights else ""}'


def _family(weights: Mapping[str, Tensor]) -> str:
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in weights)

    if has(r'roi_head\.semantic_head\.'):
        return 'htc'
    if has(r'semantic_head\.'):
        return 'panoptic_fpn'
    masks = 'mask_rcnn' if has(r'roi_head\.mask_head\.') else 'rcnn'
    if has(r'roi_head\.bbox_head\.\d'):
        return f'cascade_{masks}'
    if has(r'roi_head\.bbox_head\.'):
        if masks == 'mask_rcnn':
            return masks
        return 'faster_rcnn' if has(r'rpn_head\.') else 'fast_rcnn'
    return 'rpn' if has(r'rpn_head\.') else ''


def _num_classes(weights: Mapping[str, Tensor]) -> int | None:
    for key, value in weights.items():
        if re.match(r'roi_head\.bbox_head\.(0\.)?fc_cls\.bias$', key):
            return value.shape[0] - 1
    return None


def guess_models(found: Architecture) -> list[str]:
    """Names of the zoo models (at most three) that have this architecture."""
    if not found.family or not found.backbone:
        return []
    depth = re.match(r'[a-z0-9]*?(?:net|nest|next)(\d+)', found.backbone)
    if depth is None:
        return []
    if found.backbone.startswith('res2net'):
        short = f'r2_{depth[1]}'
    elif found.backbone.startswith('resnest'):
        short = f's{depth[1]}'
    elif found.backbone.startswith('resnext'):
        short = f'x{depth[1]}'
    else:
        short = f'r{depth[1]}'
    wanted = re.compile(rf'{found.family}_{short}_')
    return [model.name for model in index.models() if wanted.match(model.name)][:3]
