"""Weights of maskrcnn-benchmark, and of Res2Net's fork of it.

Names differ throughout; class 0 is the background, as in mmdetection 1.x; norms are constants, so
that nobody counted their batches; and the anchors are stored, which a model computes by itself.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import arrangement, identify, settings

# Beginning of a name there -> here; the first that fits is taken.
NAMES = {
    'backbone.body.stem.': 'backbone.',
    'backbone.body.': 'backbone.',
    **{f'backbone.fpn.fpn_inner{i + 1}.': f'neck.lateral_convs.{i}.conv.' for i in range(4)},
    **{f'backbone.fpn.fpn_layer{i + 1}.': f'neck.fpn_convs.{i}.conv.' for i in range(4)},
    'rpn.head.conv.': 'rpn_head.rpn_conv.',
    'rpn.head.cls_logits.': 'rpn_head.rpn_cls.',
    'rpn.head.bbox_pred.': 'rpn_head.rpn_reg.',
    'roi_heads.box.feature_extractor.fc6.': 'roi_head.bbox_head.shared_fcs.0.',
    'roi_heads.box.feature_extractor.fc7.': 'roi_head.bbox_head.shared_fcs.1.',
    'roi_heads.box.predictor.cls_score.': 'roi_head.bbox_head.fc_cls.',
    'roi_heads.box.predictor.bbox_pred.': 'roi_head.bbox_head.fc_reg.',
    **{
        f'roi_heads.mask.feature_extractor.mask_fcn{i + 1}.': f'roi_head.mask_head.convs.{i}.conv.'
        for i in range(8)
    },
    'roi_heads.mask.predictor.conv5_mask.': 'roi_head.mask_head.upsample.',
    'roi_heads.mask.predictor.mask_fcn_logits.': 'roi_head.mask_head.conv_logits.',
}

# What a model computes by itself here.
DROPPED = re.compile(r'rpn\.anchor_generator\.cell_anchors\.\d+$')

# torchvision's detectors have a backbone.body and an rpn.head too, but none of these.
_KNOWN = re.compile(
    r'backbone\.body\.stem\.|backbone\.fpn\.fpn_(?:inner|layer)\d\.|roi_heads\.(?:box|mask)\.'
)


def matches(source: Mapping[str, Tensor]) -> bool:
    """Whether any name is one of maskrcnn-benchmark's detectors."""
    return any(_KNOWN.match(key) for key in source)


def refusal(source: Mapping[str, Tensor]) -> str:
    """Why a file of this layout has no model here; '' where it has."""
    if any(key.startswith('roi_heads.box.feature_extractor.head.') for key in source):
        return (
            "a C4 detector of maskrcnn-benchmark, whose heads are the backbone's last stage "
            '(roi_heads.box.feature_extractor.head): there is no such model here, only those with '
            'a feature pyramid (..._FPN_...)'
        )
    if any(key.startswith('rpn.head.cls_tower.') for key in source):
        return "maskrcnn-benchmark's RetinaNet (rpn.head.cls_tower): there is no such model here"
    return ''


def convert(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, move the background behind the classes, leave out the anchors, and count no batches
    for norms."""
    weights: dict[str, Tensor] = {}
    for key, value in source.items():
        if DROPPED.match(key):
            continue
        ours = _name(key)
        weights[ours] = value
        if ours.endswith('.running_mean'):
            counter = ours.replace('running_mean', 'num_batches_tracked')
            weights.setdefault(counter, torch.tensor(0))
    return arrangement.background_last(weights)


def note(source: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    """What a model needs besides the weights, as far as ``model`` does not have it (without a
    model: all of it)."""
    weights = convert(source, {})
    colours = settings.MSRA_CAFFE2 if _from_caffe2(weights) else settings.IMAGENET
    parts = [
        settings.boxes(model, settings.MASKRCNN_BENCHMARK, weights),
        settings.inputs(model, *colours),
        settings.stride_in_1x1(model),
        settings.norms_without_epsilon(model),
    ]
    if 'backbone.layer1.0.convs.0.weight' in weights:
        parts.append(settings.first_block_pool(model))
    hint = identify.config_hint(weights, settings.MASKRCNN_BENCHMARK) if any(parts) else ''
    return settings.joined(settings.MASKRCNN_BENCHMARK, parts, hint)


def _name(key: str) -> str:
    for theirs, ours in NAMES.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def _from_caffe2(weights: Mapping[str, Tensor]) -> bool:
    """Whether training began with Caffe2's ImageNet weights, whose norms are only a scale and a
    shift. The stem was never trained, so it still shows."""
    mean, var = (weights.get(f'backbone.bn1.running_{name}') for name in ('mean', 'var'))
    if mean is None or var is None or 'backbone.layer1.0.convs.0.weight' in weights:
        return False
    return not mean.is_meta and not mean.any() and bool((var == 1).all())
