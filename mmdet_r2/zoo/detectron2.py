"""Weights of detectron2, and of its forks for ResNeSt and Res2Net.

Class order and box deltas are ours already (the background is last); names differ throughout, and
semantic heads count the things as class 0, where ours come last. ImageNet backbones converted to
detectron2's names, bare or inside a detector, are of this layout too.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import arrangement, identify, settings

# Beginning of a name there -> here. {0}, {1}, {2}: a number, counted from the one in the braces;
# {i}, {j}: a number that stays; {k}: a cascade's stage and a dot, or nothing; {norm}: bn or gn. The
# first row that fits is taken.
HEADS = {
    'backbone.fpn_lateral{2}.norm': 'neck.lateral_convs.{0}.{norm}',
    'backbone.fpn_lateral{2}': 'neck.lateral_convs.{0}.conv',
    'backbone.fpn_output{2}.norm': 'neck.fpn_convs.{0}.{norm}',
    'backbone.fpn_output{2}': 'neck.fpn_convs.{0}.conv',
    'proposal_generator.rpn_head.conv': 'rpn_head.rpn_conv',
    'proposal_generator.rpn_head.objectness_logits': 'rpn_head.rpn_cls',
    'proposal_generator.rpn_head.anchor_deltas': 'rpn_head.rpn_reg',
    'roi_heads.box_head.{k}conv{1}.norm': 'roi_head.bbox_head.{k}shared_convs.{0}.{norm}',
    'roi_heads.box_head.{k}conv{1}': 'roi_head.bbox_head.{k}shared_convs.{0}.conv',
    'roi_heads.box_head.{k}fc{1}': 'roi_head.bbox_head.{k}shared_fcs.{0}',
    'roi_heads.box_predictor.{k}cls_score': 'roi_head.bbox_head.{k}fc_cls',
    'roi_heads.box_predictor.{k}bbox_pred': 'roi_head.bbox_head.{k}fc_reg',
    'roi_heads.mask_head.mask_fcn{1}.norm': 'roi_head.mask_head.convs.{0}.{norm}',
    'roi_heads.mask_head.mask_fcn{1}': 'roi_head.mask_head.convs.{0}.conv',
    'roi_heads.mask_head.deconv': 'roi_head.mask_head.upsample',
    'roi_heads.mask_head.predictor': 'roi_head.mask_head.conv_logits',
    'sem_seg_head.predictor': 'semantic_head.conv_logits',
}
# Inside the backbone. Three stems: ResNeSt's conv1_1 to conv1_3; Res2Net's sequence conv1 with its
# last norm outside; one 7x7 conv1.
BACKBONE = {
    'stem.conv1_1.norm': 'stem.1',
    'stem.conv1_1': 'stem.0',
    'stem.conv1_2.norm': 'stem.4',
    'stem.conv1_2': 'stem.3',
    'stem.conv1_3.norm': 'stem.7',
    'stem.conv1_3': 'stem.6',
    'stem.conv1.{i}': 'stem.{i}',
    'stem.bn1': 'stem.7',
    'stem.conv1.norm': '{norm}1',
    'stem.conv1': 'conv1',
    'stem.fc': 'fc',
    'res{2}.{i}.conv{j}.norm': 'layer{1}.{i}.{norm}{j}',
    'res{2}.{i}.shortcut.1.norm': 'layer{1}.{i}.downsample.2',
    'res{2}.{i}.shortcut.1': 'layer{1}.{i}.downsample.1',
}
# After a pool in the shortcut, or without one: the weights' names do not say.
POOLED = {
    'res{2}.{i}.shortcut.norm': 'layer{1}.{i}.downsample.2',
    'res{2}.{i}.shortcut': 'layer{1}.{i}.downsample.1',
}
PLAIN = {
    'res{2}.{i}.shortcut.norm': 'layer{1}.{i}.downsample.1',
    'res{2}.{i}.shortcut': 'layer{1}.{i}.downsample.0',
}
# Offsets stand beside the convolution there, inside it here; it is deeper in a split attention.
SPLIT_OFFSETS = {'res{2}.{i}.conv2_offset': 'layer{1}.{i}.conv2.conv.conv_offset'}
OFFSETS = {'res{2}.{i}.conv2_offset': 'layer{1}.{i}.conv2.conv_offset'}

# All that has the same name in a block: conv1, convs.0, conv2.fc1, ...
BLOCKS = {'res{2}': 'layer{1}'}

# What a model computes by itself here.
DROPPED = re.compile(
    r'pixel_(?:mean|std)$|proposal_generator\.anchor_generator\.cell_anchors\.\d+$'
)

# A semantic head's levels are sequences of convolutions and upsamplings, p2 first.
_SEMANTIC = re.compile(r'sem_seg_head\.p(\d)\.(\d+)(\.norm)?\.(\w+)$')
_PREFIXES = ('backbone.', '')
# What may stand before the backbone's own names.
_BODY = re.compile(r'(?:(?:backbone\.)?bottom_up\.|backbone\.)?(?=stem\.|res[2-5]\.)')
_KNOWN = re.compile(
    _BODY.pattern + r'(?:stem\.conv1|res\d\.\d+\.)|backbone\.fpn_(?:lateral|output)\d\.'
    r'|proposal_generator\.rpn_head\.|roi_heads\.box_predictor\.|sem_seg_head\.predictor\.'
)


def matches(source: Mapping[str, Tensor]) -> bool:
    """Whether any name is one of detectron2's detectors or backbones."""
    return any(_KNOWN.match(key) for key in source)


def convert(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename everything; put the things last; count the batches of norms that were constant.

    Grouped offset convolutions are filled up to dense ones, mmdetection's kind. The one mask head
    of a cascade stays one. Loading brings both to what the model has.
    """
    weights: dict[str, Tensor] = {}
    name = _namer(source, target)
    for key, value in source.items():
        if DROPPED.match(key):
            continue
        ours = name(key)
        if ours.startswith('semantic_head.conv_logits.'):
            value = value.roll(-1, 0)
        weights[ours] = value
        if ours.endswith('.running_mean'):
            counter = ours.replace('running_mean', 'num_batches_tracked')
            weights.setdefault(counter, torch.tensor(0))
    return arrangement.dense_offsets(weights)


def note(source: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    """What a model needs besides the weights, as far as ``model`` does not have it (without a
    model: all of it)."""
    body = _body(source)
    parts, hint = [], ''
    weights = convert(source, {})
    if other_boxes := settings.boxes(model, settings.CONTINUOUS, weights):
        parts.append(other_boxes)
        hint = identify.config_hint(weights, settings.CONTINUOUS)
    if 'pixel_mean' in source and 'pixel_std' in source:
        mean, std = (source[f'pixel_{key}'].flatten().tolist() for key in ('mean', 'std'))
        parts.append(settings.inputs(model, mean, std, recorded=True))
    elif 'stem.conv1.weight' in body:
        parts.append(settings.inputs(model, *settings.MSRA))
    elif 'stem.conv1_1.weight' in body:
        parts.append(settings.inputs(model, *settings.RESNEST))
    if 'stem.conv1.weight' in body or 'res2.0.convs.0.weight' in body:
        in_3x3 = identify.is_resnext(weights) or any(key.endswith('gn1.weight') for key in weights)
        parts.append(settings.stride_place(model, not in_3x3))
    if 'roi_heads.box_predictor.2.bbox_pred.weight' in source:
        parts.append(settings.third_stage(model))
        if 'roi_heads.mask_head.predictor.weight' in source:
            parts.append(settings.one_mask_head(model))
    return settings.joined('detectron2', parts, hint)


def _body(source: Mapping[str, Tensor]) -> set[str]:
    """The backbone's names, without what stands before them."""
    return {key[found.end() :] for key in source if (found := _BODY.match(key))}


class _Row(NamedTuple):
    """A row of the tables above, ready for use: ``ours`` counts from ``origin``."""

    theirs: re.Pattern[str]
    origin: int
    ours: str


def _rows(table: Mapping[str, str]) -> list[_Row]:
    parts = {'k': r'(?P<k>\d\.|)', 'i': r'(?P<i>\d+)', 'j': r'(?P<j>\d+)'}
    rows = []
    for theirs, ours in table.items():
        origin = 0
        pattern = ''
        for piece in re.split(r'(\{\w\})', theirs):
            if not piece.startswith('{'):
                pattern += re.escape(piece)
            elif piece[1].isdigit():
                origin = int(piece[1])
                pattern += r'(?P<number>\d+)'
            else:
                pattern += parts[piece[1]]
        rows.append(_Row(re.compile(pattern + r'(?=\.)'), origin, ours))
    return rows


def _namer(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Callable[[str], str]:
    """The function from their names to ours, for the kind of backbone that ``source`` has."""
    body = _body(source)
    split = 'res2.0.conv2.conv.weight' in body
    pooled = split
    if not split and 'stem.conv1_1.weight' in body:  # a plain ResNet with a deep stem
        second = [target.get(f'{prefix}layer1.0.downsample.1.weight') for prefix in _PREFIXES]
        pooled = any(weight is not None and weight.dim() == 4 for weight in second)
    shortcut, offsets = POOLED if pooled else PLAIN, SPLIT_OFFSETS if split else OFFSETS
    backbone, heads = _rows({**offsets, **BACKBONE, **shortcut, **BLOCKS}), _rows(HEADS)

    def norm(module: str) -> str:
        return 'bn' if f'{module}.running_mean' in source else 'gn'

    def name(key: str) -> str:
        module = key.rpartition('.')[0]
        if found := _SEMANTIC.match(key):
            level, place, is_norm, leaf = found.groups()
            layer = f'conv_upsample_layers.{int(level) - 2}.conv.{int(place) // 2}'
            return f'semantic_head.{layer}.{norm(module) if is_norm else "conv"}.{leaf}'
        prefix = _BODY.match(key)
        start, rows = (prefix.end(), backbone) if prefix else (0, heads)
        for row in rows:
            if found := row.theirs.match(key, start):
                fields = {**found.groupdict(), 'norm': norm(module)}
                first = int(fields.pop('number', None) or 0) - row.origin
                ours = row.ours.format(first, first + 1, **fields) + key[found.end() :]
                return f'backbone.{ours}' if start else ours
        return key

    return name
