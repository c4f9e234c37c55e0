"""ImageNet backbones of Caffe2 (MSRA's ``R-50.pkl``, ``R-101.pkl`` and, with group norms,
``R-50-GN.pkl``), by their blobs' names.

Batch norms are only a scale and a shift; the standard deviation of the images is part of the first
convolution.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import identify, settings

CONVS = {
    'branch2a': 'conv1',
    'branch2b': 'conv2',
    'branch2c': 'conv3',
    'branch1': 'downsample.0',
}
NORMS = {
    'branch2a': 'bn1',
    'branch2b': 'bn2',
    'branch2c': 'bn3',
    'branch1': 'downsample.1',
}
OTHERS = {
    'conv1': 'conv1',
    'res_conv1_bn': 'bn1',
    'conv1_gn': 'gn1',
    'fc1000': 'fc',
    'pred': 'fc',
}
LEAVES = {'w': 'weight', 's': 'weight', 'b': 'bias'}

_BLOCK = re.compile(r'res(\d)_(\d+)_(branch\w+?)(_bn|_gn)?$')


def matches(source: Mapping[str, Tensor]) -> bool:
    """Whether a residual block has Caffe2's names."""
    return 'res2_0_branch2a_w' in source


def convert(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, leave out the optimiser's momenta, and give norms a mean of 0 and a variance of 1."""
    weights: dict[str, Tensor] = {}
    for key, value in source.items():
        if key.endswith('_momentum'):
            continue
        blob, _, leaf = key.rpartition('_')
        module = _module(blob)
        if module is None or leaf not in LEAVES:
            weights[key] = value
            continue
        weights[f'{module}.{LEAVES[leaf]}'] = value
        if leaf == 's' and not blob.endswith('_gn'):
            weights[f'{module}.running_mean'] = torch.zeros_like(value)
            weights[f'{module}.running_var'] = torch.ones_like(value)
            weights[f'{module}.num_batches_tracked'] = torch.tensor(0)
    return weights


def note(source: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    """What a model needs besides the weights, as far as ``model`` does not have it."""
    groups = 'conv1_gn_s' in source
    in_1x1 = not groups and not identify.is_resnext(convert(source, {}))
    parts = (settings.inputs(model, *settings.MSRA), settings.stride_place(model, in_1x1))
    return settings.joined('Caffe2', parts)


def _module(blob: str) -> str | None:
    if found := _BLOCK.match(blob):
        stage, block, branch, norm = found.groups()
        layer = (NORMS if norm else CONVS).get(branch)
        if layer and norm == '_gn':
            layer = layer.replace('bn', 'gn')
        return layer and f'layer{int(stage) - 1}.{block}.{layer}'
    return OTHERS.get(blob)
