"""Which architecture a state dict belongs to, read from its names and shapes alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..rpn_names import is_rpn
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
    'one_stage', '' for a bare backbone), ``num_classes`` (None without a box head)."""

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


UNKNOWN = Architecture('', '', None)


def identify(weights: Mapping[str, Tensor]) -> Architecture:
    """The architecture of mmdetection-named weights; unknown parts are '' or None."""
    return Architecture(_backbone(weights), _family(weights), _num_classes(weights))


def backbone_keys(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config keys of the backbone that can be read from its weights, with their values; {} for
    an unknown one.

    ``type`` and ``depth`` (None where no published depth fits; then ``blocks`` of the four stages),
    ``deep_stem``, ``avg_down``, and ``scales`` and ``base_width`` of a Res2Net, ``groups`` and
    ``base_width`` of a ResNeXt, ``radix``, ``groups`` and ``stem_channels`` of a ResNeSt (whose
    stem and shortcuts are always deep and pooled; ``base_width`` with several groups); ``dcn`` and
    ``stage_with_dcn`` where blocks are deformable.
    """
    weights = _bare(weights)
    blocks = _blocks(weights)
    if not any(blocks):
        return {}
    bottleneck = 'layer1.0.conv3.weight' in weights
    keys: dict[str, Any] = dict(type='ResNet')
    keys['depth'] = _DEPTHS.get((blocks[0], blocks[1], blocks[2], blocks[3], bottleneck))
    conv2 = weights.get('layer1.0.conv2.weight')
    if 'layer1.0.convs.0.weight' in weights:
        splits = [k for k in weights if re.match(r'layer1\.0\.convs\.\d+\.weight$', k)]
        width = weights['layer1.0.convs.0.weight'].shape[0]
        keys.update(type='Res2Net', scales=1 + len(splits), base_width=width)
    elif 'layer1.0.conv2.fc1.weight' in weights:
        keys.update(type='ResNeSt', **_split_attention(weights))
    elif bottleneck and conv2 is not None and conv2.shape[1] != conv2.shape[0]:
        keys.update(type='ResNeXt', groups=conv2.shape[0] // conv2.shape[1])
        keys.update(base_width=conv2.shape[1])
    if keys['type'] != 'ResNeSt':
        keys['deep_stem'] = any(re.match(r'(stem|conv1)\.0\.weight$', key) for key in weights)
        # a pool takes the first place of a shortcut, where otherwise the convolution stands
        second = weights.get('layer2.0.downsample.1.weight')
        keys['avg_down'] = second is not None and second.dim() == 4
    keys.update(_deformable(weights))
    if keys['depth'] is None:
        keys['blocks'] = blocks
    return keys


def is_resnext(weights: Mapping[str, Tensor]) -> bool:
    """Whether the 3x3 convolutions of plain blocks are grouped."""
    return backbone_keys(weights).get('type') == 'ResNeXt'


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix('backbone.'): value for key, value in weights.items()}


def _blocks(weights: Mapping[str, Tensor]) -> list[int]:
    """Number of blocks in each of the four stages."""
    blocks = [0, 0, 0, 0]
    for key in weights:
        if found := re.match(r'layer([1-4])\.(\d+)\.', key):
            stage, block = int(found[1]) - 1, int(found[2])
            blocks[stage] = max(blocks[stage], block + 1)
    return blocks


def _split_attention(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """ResNeSt's own keys, from the first block: its 3x3 convolution has radix times the block's
    width as outputs, in radix times groups groups."""
    first, conv = (weights.get(f'layer1.0.{name}.weight') for name in ('conv1', 'conv2.conv'))
    if first is None or conv is None:
        return {}
    width = first.shape[0]
    radix = conv.shape[0] // width
    keys = dict(radix=radix, groups=width // max(1, radix * conv.shape[1]))
    if keys['groups'] > 1:
        keys['base_width'] = width // keys['groups']
    if 'stem.6.weight' in weights:
        keys['stem_channels'] = weights['stem.6.weight'].shape[0]
    return keys


def _deformable(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of deformable blocks; {} without any."""
    offsets = {
        int(found[1]): (found[2], value)
        for key, value in weights.items()
        if (found := re.match(r'layer([1-4])\.\d+\.(.*)conv_offset\.weight$', key))
    }
    if not offsets:
        return {}
    stage, (place, offset) = max(offsets.items())
    # 18 numbers for the moves of 3x3 samples, with DCNv2 9 more for their weights
    kind, each = ('DCNv2', 27) if offset.shape[0] % 27 == 0 else ('DCN', 18)
    dcn: dict[str, Any] = dict(type=kind, deform_groups=offset.shape[0] // each)
    first = weights.get(f'layer{stage}.0.conv1.weight')
    if place.startswith('conv2.') and first is not None and offset.shape[1] < first.shape[0]:
        dcn['offset_groups'] = first.shape[0] // offset.shape[1]
    return dict(dcn=dcn, stage_with_dcn=tuple(i in offsets for i in range(1, 5)))


def _backbone(weights: Mapping[str, Tensor]) -> str:
    keys = backbone_keys(weights)
    if not keys:
        return ''
    name = str(keys['depth'] or f' with {"-".join(map(str, keys["blocks"]))} blocks')
    deep, kind = keys.get('deep_stem'), keys['type']
    if kind == 'Res2Net':
        version = '_v1b' if deep else ''
        return f'res2net{name}{version}_{keys["base_width"]}w_{keys["scales"]}s'
    if kind == 'ResNeXt':
        return f'resnext{name}_{keys["groups"]}x{keys["base_width"]}d'
    if kind == 'ResNeSt' and (keys.get('radix'), keys.get('groups')) != (2, 1):
        width = keys.get('base_width', 64)
        return f'resnest{name}_{keys.get("radix", "?")}s{keys.get("groups", "?")}x{width}d'
    return f'{kind.lower()}{name}{"d" if deep and kind == "ResNet" else ""}'


def backbone_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Which config keys make the model's backbone the file's: 'backbone.depth=50,
    backbone.deep_stem=False'; '' where none of the known ones does."""
    there, here = backbone_keys(found), backbone_keys(expected)
    changes = [
        f'backbone.{key}={value!r}'
        for key, value in there.items()
        if key != 'blocks' and value is not None and here and here.get(key) != value
    ]
    if 'backbone.deep_stem=False' in changes and there['type'] == 'Res2Net':
        # Not to be read from weights, but this is how all were trained. backbone.style is not said:
        # maskrcnn-benchmark's detectors have another one than the ImageNet files they began with.
        changes.append("backbone.first_block_pool='always'")
    return ', '.join(changes)


def another_backbone(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether both have a known backbone, and not the same: other numbers of blocks in a stage that
    both have, another kind, or blocks of another make. Stems, shortcuts and deformable blocks may
    differ."""
    there, here = backbone_keys(found), backbone_keys(expected)
    if not there or not here:
        return False
    make = ('type', 'scales', 'base_width', 'groups', 'radix')
    if any(there.get(key) != here.get(key) for key in make):
        return True
    counts = zip(_blocks(_bare(found)), _blocks(_bare(expected)))
    return any(a != b for a, b in counts if a and b)


def _family(weights: Mapping[str, Tensor]) -> str:
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in weights)

    if has(r'roi_head\.semantic_head\.'):
        return 'htc'
    if has(r'roi_head\.mask_head\.\d+\.conv_res\.'):
        return 'htc_without_semantic'
    if has(r'semantic_head\.'):
        return 'panoptic_fpn'
    masks = 'mask_rcnn' if has(r'roi_head\.mask_head\.') else 'rcnn'
    if has(r'roi_head\.bbox_head\.\d'):
        return f'cascade_{masks}'
    if has(r'roi_head\.bbox_head\.'):
        if masks == 'mask_rcnn':
            return masks
        return 'faster_rcnn' if any(map(is_rpn, weights)) else 'fast_rcnn'
    if any(map(is_rpn, weights)):
        return 'rpn'
    return 'one_stage' if has(r'bbox_head\.') else ''


def _num_classes(weights: Mapping[str, Tensor]) -> int | None:
    for key, value in weights.items():
        if re.match(r'roi_head\.bbox_head\.(0\.)?fc_cls\.bias$', key):
            return value.shape[0] - 1
    return None


def guess_models(found: Architecture) -> list[str]:
    """Names of the zoo models (at most three) that have this architecture."""
    wanted = _names_of(found)
    names = [model.name for model in index.models() if wanted and wanted.match(model.name)]
    return [name for name in names if _same_data(name, found)][:3]


def _same_data(name: str, found: Architecture) -> bool:
    """COCO's models or, for 20 classes, those of Pascal VOC."""
    return ('voc' in name) == (found.num_classes == 20)


def _names_of(found: Architecture) -> re.Pattern[str] | None:
    """The beginning of names of models and configs of an architecture; None for an unknown one."""
    kind = re.match(r'(res2net|resnest|resnext|resnet)(\d+)', found.backbone)
    if not found.family or kind is None:
        return None
    name, depth = kind.groups()
    short = {'res2net': f'r2_{depth}', 'resnest': f's{depth}', 'resnext': f'x{depth}'}.get(name)
    short = short or f'r{depth}'
    if name == 'res2net':  # with a deep stem, 26w4s goes without saying
        width, scales = re.findall(r'_(\d+)[ws]', found.backbone)
        unsaid = '?' if '_v1b_26w_4s' in found.backbone else ''
        short += f'(_{width}w{scales}s){unsaid}(?!_\\d+w\\d+s)'
    return re.compile(rf'{found.family}_{short}_')


# The folder of the configs with another arithmetic of boxes than mmdetection's today.
_FOLDERS = {'maskrcnn-benchmark': 'maskrcnn_benchmark', 'mmdetection 1.x': 'legacy_1.x'}


def config_hint(weights: Mapping[str, Tensor], lineage: str, difference: str = '') -> str:
    """Which config to use for weights (by our names): 'use the config X', 'use a config like X with
    its Y' (a backbone), or '' where there is none of their family.

    Args:
        weights: of a detector.
        lineage: whose arithmetic of boxes it was trained with; see :mod:`.settings`.
        difference: what no config has of it, as the end of a sentence: 'with its group norms'.
    """
    from ..config import shipped_configs

    found = identify(weights)
    folder = _FOLDERS.get(lineage)
    other = (*_FOLDERS.values(), 'demo')
    known = {
        name.replace('-', '_'): path
        for name, path in shipped_configs().items()
        if (path.parent.name == folder if folder else path.parent.name not in other)
        and (folder or _same_data(name, found))
    }
    # maskrcnn-benchmark's were trained on COCO 2014, and 1.x' arithmetic is there in two degrees;
    # otherwise the shortest name has the fewest additions
    names = sorted(known, key=lambda name: (not name.endswith(('2014', 'exact')), len(name)))
    if not found.family:
        return ''
    same = _names_of(found)
    alike = [  # of the same family or, where an arithmetic has few, with the same backbone
        (re.compile(f'{found.family}_r'), f'with its {found.backbone}'),
        (_names_of(found._replace(family='mask_rcnn')), f'as a {found.family}'),
        (re.compile('mask_rcnn_r'), f'as a {found.family} with its {found.backbone}'),
    ]
    for pattern, change in [(same, ''), *(alike if folder else alike[:1])]:
        for name in names:
            if pattern and pattern.match(name):
                place = _place(known[name])
                changes = ' and '.join(part for part in (change, difference) if part)
                return (
                    f'use a config like {place} {changes}' if changes else f'use the config {place}'
                )
    return ''


def _place(config: Path) -> str:
    """A name that every tool takes, and the folder to look it up in."""
    return f'{config.stem} (configs/{config.parent.name})'
