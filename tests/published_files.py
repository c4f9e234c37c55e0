"""Checkpoints as others wrote them: every tensor's name and shape, and the containers around them.

Names and shapes are listed here from what is known of the files, not taken from our models:
mmdetection 2.0 (OpenMMLab's published Res2Net detectors, May 2020), mmdetection 1.x with Res2Net's
own backbone, and ImageNet classifiers.
"""

import hashlib
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from mmdet_r2.config import load_config
from mmdet_r2.datasets.metainfo import COCO_METAINFO

# published config -> what its file is called, with its hash
PUBLISHED = {
    'faster_rcnn': 'faster_rcnn_r2_101_fpn_2x_coco-175f1da6.pth',
    'mask_rcnn': 'mask_rcnn_r2_101_fpn_2x_coco-17f061e8.pth',
    'cascade_rcnn': 'cascade_rcnn_r2_101_fpn_20e_coco-f4b7b7db.pth',
    'cascade_mask_rcnn': 'cascade_mask_rcnn_r2_101_fpn_20e_coco-8a7b41e1.pth',
    'htc': 'htc_r2_101_fpn_20e_coco-3a8d2112.pth',
}
SYSTEMS = tuple(PUBLISHED)
CLASSES = COCO_METAINFO['classes']

Named = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Size:
    """How large a detector is: 101 layers as published, or small enough to compute with."""

    depth: int = 101
    planes: int = 64  # of the first stage
    channels: int = 256  # of the pyramid and the heads' convolutions
    hidden: int = 1024  # of the linear layers
    classes: int = 80
    stuff: int = 183


FULL = Size()
SMALL = Size(depth=50, planes=16, channels=16, hidden=32, classes=5, stuff=7)
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


# ------------------------------------------------------------------------------ names and shapes


def _norm(name: str, channels: int, counter: bool = True) -> Named:
    for part in ('weight', 'bias', 'running_mean', 'running_var'):
        yield f'{name}.{part}', (channels,)
    if counter:
        yield f'{name}.num_batches_tracked', ()


def _layer(name: str, *shape: int) -> Named:
    """Weight and bias; of a transposed convolution the outputs come second."""
    yield f'{name}.weight', shape
    yield f'{name}.bias', (shape[1] if name.endswith('upsample') else shape[0],)


def res2net(size: Size, stem: str, scales: int = 4, width: int = 26, counter: bool = True) -> Named:
    """A Res2Net. ``stem``: '7x7' (v1, with plain shortcuts), 'conv1' (v1b, mmdetection 1.x) or
    'stem' (mmdetection 2.x)."""
    first = size.planes
    if stem == '7x7':
        yield 'conv1.weight', (first, 3, 7, 7)
        yield from _norm('bn1', first, counter)
    else:
        half = first // 2
        for place, (i, o) in {'0': (3, half), '3': (half, half), '6': (half, first)}.items():
            yield f'{stem}.{place}.weight', (o, i, 3, 3)
            outside = stem == 'conv1' and place == '6'
            yield from _norm('bn1' if outside else f'{stem}.{int(place) + 1}', o, counter)
    inputs = first
    for stage, blocks in enumerate(_BLOCKS[size.depth]):
        planes = first * 2**stage
        part = planes * width // first
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}'
            yield f'{name}.conv1.weight', (part * scales, inputs, 1, 1)
            yield from _norm(f'{name}.bn1', part * scales, counter)
            for j in range(scales - 1):
                yield f'{name}.convs.{j}.weight', (part, part, 3, 3)
                yield from _norm(f'{name}.bns.{j}', part, counter)
            yield f'{name}.conv3.weight', (planes * 4, part * scales, 1, 1)
            yield from _norm(f'{name}.bn3', planes * 4, counter)
            if block == 0:
                place = 0 if stem == '7x7' else 1
                yield f'{name}.downsample.{place}.weight', (planes * 4, inputs, 1, 1)
                yield from _norm(f'{name}.downsample.{place + 1}', planes * 4, counter)
            inputs = planes * 4


def resnet(size: Size, counter: bool = True) -> Named:
    """torchvision's ResNet, without its classifier."""
    yield 'conv1.weight', (size.planes, 3, 7, 7)
    yield from _norm('bn1', size.planes, counter)
    inputs = size.planes
    for stage, blocks in enumerate(_BLOCKS[size.depth]):
        planes = size.planes * 2**stage
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}'
            for i, shape in enumerate(
                ((planes, inputs, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)), 1
            ):
                yield f'{name}.conv{i}.weight', shape
                yield from _norm(f'{name}.bn{i}', shape[0], counter)
            if block == 0:
                yield f'{name}.downsample.0.weight', (planes * 4, inputs, 1, 1)
                yield from _norm(f'{name}.downsample.1', planes * 4, counter)
            inputs = planes * 4


def classifier(size: Size) -> Named:
    yield from _layer('fc', 1000, size.planes * 32)


def detector(system: str, size: Size, version: int, backbone: str = 'res2net') -> Named:
    """A detector as mmdetection ``version`` (1 or 2) saved it."""
    stem = 'conv1' if version == 1 else 'stem'
    layers = res2net(size, stem) if backbone == 'res2net' else resnet(size)
    for name, shape in layers:
        yield f'backbone.{name}', shape
    c = size.channels
    for i in range(4):
        yield from _layer(f'neck.lateral_convs.{i}.conv', c, size.planes * 4 * 2**i, 1, 1)
        yield from _layer(f'neck.fpn_convs.{i}.conv', c, c, 3, 3)
    yield from _layer('rpn_head.rpn_conv', c, c, 3, 3)
    yield from _layer('rpn_head.rpn_cls', 3, c, 1, 1)
    yield from _layer('rpn_head.rpn_reg', 12, c, 1, 1)
    for name, shape in roi_head(system, size, version):
        yield name if version == 1 else f'roi_head.{name}', shape


def roi_head(system: str, size: Size, version: int) -> Named:
    c, extra = size.channels, 1 if version == 1 else 0  # the background among boxes and masks
    cascade = system.startswith('cascade') or system == 'htc'
    for k in range(3) if cascade else [None]:
        name = 'bbox_head' if k is None else f'bbox_head.{k}'
        yield from _layer(f'{name}.shared_fcs.0', size.hidden, c * 49)
        yield from _layer(f'{name}.shared_fcs.1', size.hidden, size.hidden)
        yield from _layer(f'{name}.fc_cls', size.classes + 1, size.hidden)
        boxes = 4 if cascade else 4 * (size.classes + extra)
        yield from _layer(f'{name}.fc_reg', boxes, size.hidden)
    if 'mask' in system or system == 'htc':
        for k in range(3) if cascade else [None]:
            name = 'mask_head' if k is None else f'mask_head.{k}'
            for i in range(4):
                yield from _layer(f'{name}.convs.{i}.conv', c, c, 3, 3)
            yield from _layer(f'{name}.upsample', c, c, 2, 2)
            yield from _layer(f'{name}.conv_logits', size.classes + extra, c, 1, 1)
            if system == 'htc' and k:
                yield from _layer(f'{name}.conv_res.conv', c, c, 1, 1)
    if system == 'htc':
        for i in range(5):
            yield from _layer(f'semantic_head.lateral_convs.{i}.conv', c, c, 1, 1)
        for i in range(4):
            yield from _layer(f'semantic_head.convs.{i}.conv', c, c, 3, 3)
        yield from _layer('semantic_head.conv_embedding.conv', c, c, 1, 1)
        yield from _layer('semantic_head.conv_logits', size.stuff, c, 1, 1)


# ------------------------------------------------------------------------------------------ values


def zeros(named: Named) -> OrderedDict[str, Tensor]:
    """Zeros that take no room, in memory or in a file."""
    return OrderedDict(
        (name, torch.zeros((), dtype=_dtype(name)).expand(shape)) for name, shape in named
    )


# Boxes shall stay in the image, and classes score clearly differently.
_GAINS = dict(fc_cls=2.0, fc_reg=0.3, rpn_reg=0.1)


def random(named: Named, seed: int = 0) -> OrderedDict[str, Tensor]:
    """Weights that keep activations near 1."""
    draw = torch.Generator().manual_seed(seed)
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for name, shape in named:
        kind = name.rpartition('.')[2]
        if kind == 'num_batches_tracked':
            weights[name] = torch.tensor(7)
        elif kind == 'running_var':
            weights[name] = torch.rand(shape, generator=draw) + 0.5
        elif len(shape) == 1:
            weights[name] = 0.2 * torch.randn(shape, generator=draw) + (
                0.8 if kind == 'weight' else 0
            )
        else:
            inputs = torch.Size(shape[1:]).numel()
            gain = next((g for part, g in _GAINS.items() if part in name), 1.0)
            weights[name] = gain * torch.randn(shape, generator=draw) * (1.5 / inputs) ** 0.5
    return weights


def _dtype(name: str) -> torch.dtype:
    return torch.int64 if name.endswith('num_batches_tracked') else torch.float32


# -------------------------------------------------------------------------------------- containers


def published(
    weights: OrderedDict[str, Tensor],
    version: str,
    classes: tuple[str, ...],
    training: bool = False,
) -> dict:
    """What mmcv's runner saved around the weights; ``training`` keeps what publishing removes."""
    meta = dict(
        env_info='sys.platform: linux\nPython: 3.7.7 [GCC 7.3.0]\nGPU 0-7: Tesla V100',
        config="model = dict(\n    type='FasterRCNN',\n    pretrained='open-mmlab://x',\n)\n",
        seed=None,
        exp_name='config.py',
        mmdet_version=version,
        mmcv_version='0.5.2',
        time='Thu May 14 23:17:34 2020',
        CLASSES=classes,
        PALETTE=[(220, 20, 60)] * len(classes),
        epoch=24,
        iter=175896,
        hook_msgs=dict(last_ckpt='work_dirs/latest.pth'),
    )
    checkpoint: dict = dict(meta=meta, state_dict=weights)
    if training:
        buffer = torch.ones(3)
        group = dict(lr=0.02, momentum=0.9, dampening=0, weight_decay=1e-4, nesterov=False)
        checkpoint['optimizer'] = dict(
            state={140035: dict(momentum_buffer=buffer)},
            param_groups=[dict(**group, initial_lr=0.02, params=[140035])],
        )
    return checkpoint


def save(content: object, path: Path, zipped: bool = False) -> Path:
    """As torch before 1.6 wrote files, or as it does since."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def save_hashed(content: object, folder: Path, stem: str, zipped: bool = False) -> Path:
    """Under a name that ends in the file's hash, as files are published."""
    path = save(content, folder / f'{stem}.pth', zipped)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return Path(shutil.move(path, folder / f'{stem}-{digits}.pth'))


# ------------------------------------------------------------------------------------------ models


def config(system: str, size: Size = FULL, first_block_pool: str = 'strided') -> Config:
    """Our published config, shrunk to ``size``."""
    cfg = load_config(PUBLISHED[system].rpartition('-')[0])
    cfg.model.backbone.update(
        depth=size.depth,
        base_channels=size.planes,
        first_block_pool=first_block_pool,
        init_cfg=None,
    )
    cfg.model.neck.in_channels = [size.planes * 4 * 2**i for i in range(4)]
    _shrink(cfg.model.neck, size)
    _shrink(cfg.model.rpn_head, size)
    _shrink(cfg.model.roi_head, size)
    return cfg


def _shrink(cfg: object, size: Size) -> None:
    if isinstance(cfg, list):
        for entry in cfg:
            _shrink(entry, size)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key == 'num_classes':
                cfg[key] = size.stuff if cfg['type'] == 'FusedSemanticHead' else size.classes
            elif key == 'fc_out_channels':
                cfg[key] = size.hidden
            elif key in ('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels'):
                cfg[key] = size.channels if isinstance(value, int) else value
            else:
                _shrink(value, size)
