"""Checkpoints of original implementations, built from their names and shapes with known weights.

``data/original_keys.json.gz`` lists every entry of five originals' state dicts, by one letter each:
A, B, C detectron2's fork for ResNeSt (Faster R-CNN S50, Cascade Mask R-CNN S50, Faster R-CNN S50
with DCNv2), D its fork for Res2Net (Panoptic FPN R2-101), E maskrcnn-benchmark's fork (Mask R-CNN
R2-50). The weights are a function of name and shape: those with which the originals' outputs were
recorded.
"""

import functools
import gzip
import json
import re
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'

# Factors on the usual standard deviation: RPN scores and boxes, class scores, boxes, masks,
# semantics.
_GAINS = {
    'A': (2.5, 0.15, 13.0, 6.0, 1.0, 1.0),
    'B': (2.5, 0.15, 13.0, 6.0, 7.0, 1.0),
    'C': (3.0, 0.18, 16.0, 8.0, 1.0, 1.0),
    'D': (0.2, 0.025, 0.28, 0.1, 0.3, 0.8),
    'E': (0.3, 0.04, 0.45, 0.25, 0.8, 1.0),
}
_GAINED = (
    r'(objectness_logits|rpn\.head\.cls_logits)\.weight$',
    r'(anchor_deltas|rpn\.head\.bbox_pred)\.weight$',
    r'\.cls_score\.weight$',
    r'(box_predictor|box_predictor\.\d|box\.predictor)\.bbox_pred\.weight$',
    r'(mask_head\.predictor|mask_fcn_logits)\.weight$',
    r'sem_seg_head\.predictor\.weight$',
)
_SALTS = dict(A=49, B=41, C=49, D=55, E=25)  # of the class scores' random numbers

# Entries that the originals compute: their colours (only D stores them), and anchors, which are
# never read.
_COMPUTED = {
    'pixel_mean': np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1),
    'pixel_std': np.array([58.395, 57.12, 57.375], np.float32).reshape(3, 1, 1),
}


@functools.cache
def _listed() -> dict[str, dict[str, list[int]]]:
    return json.loads(gzip.decompress((DATA / 'original_keys.json.gz').read_bytes()))


def golden_shapes(letter: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every entry of an original's state dict, in its order."""
    return {name: tuple(shape) for name, shape in _listed()[letter].items()}


def golden_fill(name: str, shape: tuple[int, ...], letter: str) -> np.ndarray:
    """The value of one entry, as it was when the originals' outputs were recorded (anchors: 0)."""
    if name in _COMPUTED:
        return _COMPUTED[name]
    if 'cell_anchors' in name:
        return np.zeros(shape, np.float32)
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    salt = f'#{_SALTS[letter]}' if name.endswith('cls_score.weight') else ''
    draw = np.random.RandomState(zlib.crc32((name + salt).encode()))
    leaf = name.rpartition('.')[2]
    ranges = dict(running_mean=(-0.1, 0.1), running_var=(0.75, 1.25), bias=(-0.1, 0.1))
    if len(shape) == 1:
        return draw.uniform(*ranges.get(leaf, (0.5, 1.0)), shape).astype(np.float32)
    values = draw.standard_normal(shape)
    if 'conv2_offset' in name:
        return (values * 0.02).astype(np.float32)
    std = (2 / float(np.prod(shape[1:]))) ** 0.5
    if name.endswith('.conv3.weight'):
        std *= 0.5
    for gain, pattern in zip(_GAINS[letter], _GAINED, strict=True):
        if re.search(pattern, name):
            std *= gain
    return (values * std).astype(np.float32)


def golden_weights(letter: str) -> OrderedDict[str, torch.Tensor]:
    """An original's state dict."""
    return OrderedDict(
        (name, torch.from_numpy(golden_fill(name, shape, letter)))
        for name, shape in golden_shapes(letter).items()
    )


def golden_checkpoint(letter: str, folder: Path) -> Path:
    """Path of a file as the original's trainer wrote it, with the golden weights.

    detectron2's and maskrcnn-benchmark's trainers both wrote a dict with ``model`` and the states
    of training; the latter's names begin with ``module.``.
    """
    weights = golden_weights(letter)
    if letter == 'E':
        weights = OrderedDict((f'module.{name}', value) for name, value in weights.items())
    return save_training(weights, folder / f'golden_{letter}.pth')


def save_training(weights: OrderedDict[str, torch.Tensor], path: Path) -> Path:
    """A training checkpoint of detectron2 and maskrcnn-benchmark, in torch's format of 2020."""
    group = dict(lr=0.02, momentum=0.9, weight_decay=1e-4, params=[0])
    content = dict(
        model=weights,
        optimizer=dict(state={0: dict(momentum_buffer=torch.ones(3))}, param_groups=[group]),
        scheduler=dict(milestones=(60000, 80000), gamma=0.1, last_epoch=90000),
        iteration=89999,
    )
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path
