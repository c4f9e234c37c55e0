"""Loss settings are compared with the head when it is built; the whole key is named."""

import copy
import math
from typing import Any

import pytest
import torch
from small_detector import K, cascade_config, small_config

from mmdet_r2.config import load_config
from mmdet_r2.errors import ArgumentError, ConfigError
from mmdet_r2.models.losses import CrossEntropyLoss
from mmdet_r2.registry import MODELS, build, init_scope

CE = dict(type='CrossEntropyLoss')
CODER = dict(type='DeltaXYWHBBoxCoder')
BAD: list[tuple[str, dict, str]] = [
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[1.0] * K), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[1.0] * (K + 2)), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[]), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[1, 1, 1, -1]), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[1, 1, 1, math.nan]), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=[0] * (K + 1)), 'class_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, use_mask=True), 'use_mask'),
    ('roi_head.bbox_head.loss_cls', dict(CE, loss_weight=-1), 'loss_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, loss_weight=math.nan), 'loss_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, reduction='all'), 'reduction'),
    ('roi_head.bbox_head.loss_cls', dict(CE, use_sigmoid=True, class_weight=[1.0]), 'class_weight'),
    ('roi_head.bbox_head.loss_bbox', dict(type='SmoothL1Loss', beta=0), 'beta'),
    ('roi_head.bbox_head.loss_bbox', dict(type='GIoULoss', loss_weight='1'), 'loss_weight'),
    ('roi_head.bbox_head.loss_cls', dict(CE, reduction='sum'), 'reduction'),
    ('roi_head.bbox_head.loss_cls', dict(type='L1Loss'), 'type'),
    ('roi_head.bbox_head.loss_bbox', dict(CE), 'type'),
    ('roi_head.bbox_head.loss_bbox', dict(type='GIoULoss'), 'type'),
    ('rpn_head.loss_bbox', dict(type='IoULoss'), 'type'),
    ('roi_head.mask_head.loss_mask', dict(type='SmoothL1Loss'), 'type'),
    ('roi_head.bbox_head.bbox_coder', dict(CODER, target_stds=(0.1, 0.1)), 'target_stds'),
    ('rpn_head.bbox_coder', dict(CODER, target_stds=(0.1, 0.1, 0.0, 0.2)), 'target_stds'),
    ('rpn_head.bbox_coder', dict(CODER, target_means=(0.0,)), 'target_means'),
    ('roi_head.mask_head.loss_mask', dict(CE), 'use_mask'),
    ('rpn_head.loss_cls', dict(CE, use_sigmoid=True, class_weight=[1.0, 2.0]), 'class_weight'),
    ('rpn_head.loss_cls', dict(CE), 'use_sigmoid'),
    ('rpn_head.loss_bbox', dict(type='L1Loss', loss_weight=math.inf), 'loss_weight'),
]


def _set(config: dict, key: str, value: Any) -> dict:
    config = node = copy.deepcopy(config)
    *parents, last = key.split('.')
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    node[last] = value
    return config


@pytest.mark.parametrize(('key', 'loss', 'wrong'), BAD)
def test_the_whole_key_is_named(key: str, loss: dict, wrong: str) -> None:
    init_scope()
    with pytest.raises(ConfigError) as error:
        build(MODELS, _set(small_config(), key, loss), 'model')
    assert str(error.value).startswith(f'model.{key}.{wrong} ')


@pytest.mark.parametrize('stage', range(3))
def test_the_stage_of_a_cascade_is_named(stage: int) -> None:
    init_scope()
    key = f'roi_head.bbox_head.{stage}.loss_cls'
    config = _set(cascade_config(), key, dict(CE, class_weight=[1.0]))
    with pytest.raises(ConfigError) as error:
        build(MODELS, config, 'model')
    assert str(error.value).startswith(f'model.{key}.class_weight ')


@pytest.mark.parametrize('change', [dict(class_weight=[1.0, 2]), dict(use_sigmoid=True)])
def test_heads_of_maps(change: dict) -> None:
    init_scope()
    config = cascade_config(htc=True, semantic=True)
    config['roi_head']['semantic_head']['loss_seg'] = dict(CE, **change)
    with pytest.raises(ConfigError, match=r'^model\.roi_head\.semantic_head\.loss_seg\.'):
        build(MODELS, config, 'model')
    model = load_config('panoptic_fpn_r50_fpn_1x_coco').model
    model.semantic_head.loss_seg = dict(CE, **change)
    with pytest.raises(ConfigError, match=r'^model\.semantic_head\.loss_seg\.'):
        build(MODELS, model, 'model')


def test_sound_settings_are_taken() -> None:
    init_scope()
    for key, loss in (
        ('roi_head.bbox_head.loss_cls', dict(CE, class_weight=(0.5,) * K + (1,), loss_weight=0)),
        ('roi_head.bbox_head.loss_cls', dict(CE, use_sigmoid=True, class_weight=[2.0] * (K + 1))),
        ('rpn_head.loss_cls', dict(CE, use_sigmoid=True, class_weight=[3])),
    ):
        build(MODELS, _set(small_config(), key, loss), 'model')
    assert CrossEntropyLoss(class_weight=[1.0]).class_weight == [1.0]  # of no head


@pytest.mark.parametrize('kind', ['L1Loss', 'SmoothL1Loss', 'IoULoss', 'BoundedIoULoss'])
def test_a_call_may_be_reduced_otherwise(kind: str) -> None:
    init_scope()
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 6]])
    loss = MODELS.build(dict(type=kind))
    each = loss(boxes, boxes + 1, reduction_override='none')
    assert each.shape[0] == 2
    torch.testing.assert_close(loss(boxes, boxes + 1), each.mean())
    torch.testing.assert_close(loss(boxes, boxes + 1, reduction_override='sum'), each.sum())
    with pytest.raises(ArgumentError, match='reduction'):
        loss(boxes, boxes, reduction_override='max')


@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_a_call_may_ignore_another_label(use_sigmoid: bool) -> None:
    init_scope()
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 2])
    loss = MODELS.build(dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid))
    each = loss(logits, labels, reduction_override='none', ignore_index=3)
    expected = loss(logits, labels, reduction_override='none')
    assert not each[1].any() and torch.equal(each[[0, 2]], expected[[0, 2]])
