"""Weights of mmdetection 1.x, and of Res2Net's own fork of it.

Three things differ from 2.x and 3.x, whose names are ours. The second-stage heads stood at the top
level. Class 0 was the background: it comes first in the classifier's rows, has four unused rows
among class-specific boxes and an unused mask channel. Res2Net's deep stem was called ``conv1``.

mmdetection's own converter (1.x to 2.0) cuts the last block off the biases of box and mask layers,
although the background is the first, as in the weights; here both lose the first.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from . import arrangement, identify, settings
from .imagenet import deep_stem_name

# beginning of a name in 1.x -> here
PREFIXES = {
    'bbox_head.': 'roi_head.bbox_head.',
    'mask_head.': 'roi_head.mask_head.',
    'semantic_head.': 'roi_head.semantic_head.',
    'shared_head.': 'roi_head.shared_head.',
}

# Before 1.0 the offsets of a deformable convolution stood beside it.
_OLD_OFFSET = re.compile(r'(conv2|convs\.\d+)_offset\.')
_STEM = 'backbone.conv1.0.weight'
# RetinaNet and others have a top-level bbox_head in every version, but never this layer in it.
_HEAD = re.compile(r'bbox_head\.(?:\d+\.)?fc_cls\.weight$')


def matches(source: Mapping[str, Tensor]) -> bool:
    """Whether a two-stage head stands at the top level, or the backbone's deep stem is called
    ``conv1``."""
    return _STEM in source or any(_HEAD.match(key) for key in source)


def convert(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and move the background behind the classes."""
    weights = convert_names(source)
    return arrangement.background_last(weights) if _background_first(weights) else weights


def note(source: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    """What a model needs besides the weights to give the very boxes that 1.x gave, as far as
    ``model`` does not have it (without a model: all of it)."""
    if matches(source) and not _background_first(convert_names(source)):
        return ''
    weights = convert(source, {})
    parts = [
        settings.boxes(model, settings.MMDETECTION_1, weights),
        settings.exact_decoding(model),
    ]
    if 'backbone.layer1.0.convs.0.weight' in source:
        parts.append(settings.first_block_pool(model))
    hint = identify.config_hint(weights, settings.MMDETECTION_1) if any(parts) else ''
    return settings.joined(settings.MMDETECTION_1, parts, hint)


def convert_names(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names."""
    deep_stem = _STEM in source
    return {_name(key, deep_stem): value for key, value in source.items()}


def _name(key: str, deep_stem: bool) -> str:
    for old, new in PREFIXES.items():
        if key.startswith(old):
            return new + key[len(old) :]
    if deep_stem and key.startswith('backbone.'):
        key = 'backbone.' + deep_stem_name(key.removeprefix('backbone.'))
    return _OLD_OFFSET.sub(r'\1.conv_offset.', key) if key.startswith('backbone.') else key


def _background_first(weights: Mapping[str, Tensor]) -> bool:
    """Files from the development of 2.0 have these names and the background last already: no rows
    for its box, no channel for its mask. Boxes and masks without class cannot tell: 1.x then."""
    per_class = arrangement.classifier_outputs(weights) - 1
    return not any(
        (arrangement.BOXES.match(key) and value.shape[0] == 4 * per_class != 4)
        or (arrangement.MASKS.match(key) and value.shape[0] == per_class != 1)
        for key, value in weights.items()
    )
