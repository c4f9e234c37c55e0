"""Backbones: one container, ``ResNet``, and the blocks that plug into it."""

from mmdet_r2.models.backbones.res2net import Bottle2neck, Res2Net
from mmdet_r2.models.backbones.resnest import ResNeSt, SplitAttention, SplitAttentionBottleneck
from mmdet_r2.models.backbones.resnet import BasicBlock, Bottleneck, ResNet, ResNetV1d, ResNeXt

__all__ = [
    'ResNet',
    'ResNetV1d',
    'ResNeXt',
    'Res2Net',
    'ResNeSt',
    'BasicBlock',
    'Bottleneck',
    'Bottle2neck',
    'SplitAttentionBottleneck',
    'SplitAttention',
]
