"""Weights of maskrcnn-benchmark, and of Res2Net's fork of it.

Names differ throughout; class 0 is the background, as in mmdetection 1.x; norms are constants, so
that nobody counted their batches; and the anchors are stored, which a model computes by itself. Its
variants with group norms (configs/gn_baselines, with four convolutions in the box head) and with
deformable convolutions (configs/dcn) are of this layout too.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import arrangement, identify, settings

# Beginning of a name there -> here; the first that fits is taken. A layer with a norm is a sequence
# there: behind a beginning that ends with "conv." here, "0." is the convolution and "1." its norm.
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

# The box head's convolutions: a sequence of convolution, norm if any, and ReLU, again and again.
_XCONV = re.compile(r'roi_heads\.box\.feature_extractor\.xconvs\.(\d+)\.')
_XCONV_NORM = 'roi_heads.box.feature_extractor.xconvs.1.weight'
_FC_NORM = 'roi_heads.box.feature_extractor.fc6.1.weight'
_BLOCK_NORM = re.compile(r'(backbone\.(?:layer\d\.\d+\.)?)bn(\d\.)')
_DEFORMABLE = re.compile(r'(backbone\.layer\d\.\d+\.conv2\.)(offset|conv)\.')

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
    if _FC_NORM in source:
        return (
            'a detector of maskrcnn-benchmark whose fully connected layers have group norms '
            f'({_FC_NORM}, its configs ..._1x_gn): there is no such box head here, only the one '
            'with convolutions (..._Xconv1fc_1x_gn)'
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
        ours = _name(key, source)
        weights[ours] = value
        if ours.endswith('.running_mean'):
            counter = ours.replace('running_mean', 'num_batches_tracked')
            weights.setdefault(counter, torch.tensor(0))
    return arrangement.background_last(weights)


def note(source: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    """What a model needs besides the weights, as far as ``model`` does not have it (without a
    model: all of it)."""
    weights = convert(source, {})
    groups = 'backbone.gn1.weight' in weights
    from_caffe2 = groups or _from_caffe2(weights)
    parts = [
        settings.boxes(model, settings.MASKRCNN_BENCHMARK, weights),
        settings.inputs(model, *(settings.MSRA_CAFFE2 if from_caffe2 else settings.IMAGENET)),
        settings.stride_place(model, in_1x1=not groups and not identify.is_resnext(weights)),
        settings.group_norms(model) if groups else settings.norms_without_epsilon(model),
    ]
    if 'backbone.layer1.0.convs.0.weight' in weights:
        parts.append(settings.first_block_pool(model))
    change = 'with its group norms' if groups else ''
    lineage = settings.MASKRCNN_BENCHMARK
    hint = identify.config_hint(weights, lineage, change) if any(parts) else ''
    return settings.joined(lineage, parts, hint)


def _name(key: str, source: Mapping[str, Tensor]) -> str:
    if found := _XCONV.match(key):
        layer, place = divmod(int(found[1]), 3 if _XCONV_NORM in source else 2)
        ours = f'roi_head.bbox_head.shared_convs.{layer}.'
        return ours + ('gn.' if place else 'conv.') + key[found.end() :]
    for theirs, ours in NAMES.items():
        if key.startswith(theirs):
            rest = key[len(theirs) :]
            if ours.endswith('.conv.') and rest.startswith(('0.', '1.')):
                norm, rest = rest[0] == '1', rest[2:]
                ours = ours.removesuffix('conv.') + 'gn.' if norm else ours
            return _in_backbone(ours + rest, key, source)
    return key


def _in_backbone(ours: str, theirs: str, source: Mapping[str, Tensor]) -> str:
    """Deformable convolutions and group norms have other names inside blocks."""
    if found := _DEFORMABLE.match(ours):
        return found[1] + ('conv_offset.' if found[2] == 'offset' else '') + ours[found.end() :]
    if f'{theirs.rpartition(".")[0]}.running_mean' not in source:
        return _BLOCK_NORM.sub(r'\1gn\2', ours)
    return ours


def _from_caffe2(weights: Mapping[str, Tensor]) -> bool:
    """Whether training began with Caffe2's ImageNet weights, whose norms are only a scale and a
    shift. The stem was never trained, so it still shows."""
    mean, var = (weights.get(f'backbone.bn1.running_{name}') for name in ('mean', 'var'))
    if mean is None or var is None or 'backbone.layer1.0.convs.0.weight' in weights:
        return False
    return not mean.is_meta and not mean.any() and bool((var == 1).all())
