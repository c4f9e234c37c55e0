"""Hooks and schedulers under mmdetection's names."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from torch.utils.data import DataLoader

from mmdet_r2.config import load_config
from mmdet_r2.engine import InvalidLossError
from mmdet_r2.engine.data_order import SeededDataset
from mmdet_r2.engine.registries import OPTIMIZERS, PARAM_SCHEDULERS
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import HOOKS, TRANSFORMS, init_scope


@TRANSFORMS.register_module()
class Stamp:
    """Gives every sample the number ``mark``."""

    def __init__(self, mark: int) -> None:
        self.mark = mark

    def __call__(self, results: dict) -> int:
        return self.mark


class Numbers(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{'number': i} for i in range(3)]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_quadratic_warm_up(by_epoch: bool) -> None:
    optimizer = OPTIMIZERS.build(
        {'type': 'SGD', 'params': [torch.zeros(1, requires_grad=True)], 'lr': 0.4}
    )
    config = {'type': 'mmdet.QuadraticWarmupLR', 'by_epoch': by_epoch, 'begin': 0, 'end': 5}
    scheduler = PARAM_SCHEDULERS.build(config, default_args={'optimizer': optimizer})
    rates = [optimizer.param_groups[0]['lr']]
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]['lr'])
    # 0.4 (t / 5)^2, and no further
    assert rates == pytest.approx([0.016, 0.064, 0.144, 0.256, 0.4, 0.4, 0.4])


def test_quadratic_warm_up_of_epochs_by_iterations() -> None:
    optimizer = OPTIMIZERS.build({'type': 'SGD', 'params': [torch.zeros(1)], 'lr': 1.0})
    kind = PARAM_SCHEDULERS.get('QuadraticWarmupLR')
    scheduler = kind.build_iter_from_epoch(optimizer, begin=0, end=2, epoch_length=10)
    assert scheduler.total_iters == 20 and not scheduler.by_epoch
    for options in ({}, {'begin': 4, 'end': 4}):
        with pytest.raises(ConfigError, match='end'):
            kind(optimizer, **options)


def test_momentum_warm_up() -> None:
    optimizer = OPTIMIZERS.build(
        {'type': 'SGD', 'params': [torch.zeros(1)], 'lr': 1.0, 'momentum': 0.8}
    )
    PARAM_SCHEDULERS.build(
        {'type': 'QuadraticWarmupMomentum', 'end': 2}, default_args={'optimizer': optimizer}
    )
    assert optimizer.param_groups[0]['momentum'] == pytest.approx(0.2)


def test_invalid_loss_at_its_interval() -> None:
    hook = HOOKS.build({'type': 'mmdet.CheckInvalidLossHook', 'interval': 2})
    bad = {'loss': torch.tensor(float('nan'))}
    hook.after_train_iter(SimpleNamespace(iter=0), 0, None, bad)
    hook.after_train_iter(SimpleNamespace(iter=1), 1, None, {'loss': torch.tensor(1.0)})
    with pytest.raises(InvalidLossError, match='4'):
        hook.after_train_iter(SimpleNamespace(iter=3), 3, None, bad)


def test_memory_is_logged_at_its_interval() -> None:
    pytest.importorskip('psutil')
    hook = HOOKS.build({'type': 'MemoryProfilerHook', 'interval': 3})
    runner = MagicMock()
    for index in range(6):
        hook.after_train_iter(runner, index)
        hook.after_val_iter(runner, index)
    assert runner.logger.info.call_count == 4
    assert 'this process' in runner.logger.info.call_args[0][0]


@pytest.mark.parametrize('workers', [0, 2])
def test_pipeline_is_switched_also_in_workers_that_stay(workers: int) -> None:
    init_scope()
    first = [TRANSFORMS.build({'type': 'Stamp', 'mark': 1})]
    dataset = ConcatDataset([Numbers(pipeline=first), Numbers(pipeline=first)])
    data: Any = SeededDataset(dataset)
    order = [[(i, (0, 0, 0, i)) for i in range(6)]]
    loader = DataLoader(
        data,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=list,
    )
    hook = HOOKS.build(
        {
            'type': 'mmdet.PipelineSwitchHook',
            'switch_epoch': 2,
            'switch_pipeline': [{'type': 'Stamp', 'mark': 2}],
        }
    )
    seen = []
    for epoch in range(4):
        hook.before_train_epoch(
            SimpleNamespace(epoch=epoch, train_dataloader=loader, logger=MagicMock())
        )
        seen.append({mark for batch in loader for mark in batch})
    assert seen == [{1}, {1}, {2}, {2}]


def test_shortest_edge_with_the_peer_s_arguments() -> None:
    init_scope()
    image = np.zeros((427, 640, 3), dtype=np.uint8)
    config = {'type': 'mmdet.ResizeShortestEdge', 'scale': (480, 900), 'max_size': 700}
    shapes = set()
    for more in ({}, {'keep_ratio': True}, {'resize_type': 'mmdet.Resize', 'keep_ratio': False}):
        found = TRANSFORMS.build({**config, **more})({'img': image})
        shapes.add(found['img'].shape[:2])
    assert shapes == {(467, 700)}
    step = TRANSFORMS.build(
        {
            'type': 'RandomResize',
            'scale': [(480, 480), (480, 480)],
            'resize_type': 'ResizeShortestEdge',
            'max_size': 700,
            'keep_ratio': True,
        }
    )
    assert step({'img': image})['img'].shape == (467, 700, 3)


def test_return_classes_of_detectors_without_texts() -> None:
    key = 'train_dataloader.dataset.return_classes'
    config = load_config('faster_rcnn_r50_fpn_1x_coco', {key: False})
    assert 'return_classes' not in config.train_dataloader.dataset
    with pytest.raises(ConfigError, match='return_classes'):
        load_config('faster_rcnn_r50_fpn_1x_coco', {key: True})


def test_switched_pipeline_is_checked() -> None:
    switch = {'type': 'PipelineSwitchHook', 'switch_epoch': 2}
    step = {'type': 'Resize', 'scale': (8, 8)}
    name = 'faster_rcnn_r50_fpn_1x_coco'
    load_config(name, {'custom_hooks': [{**switch, 'switch_pipeline': [step]}]})
    with pytest.raises(ConfigError, match='scal_e'):
        load_config(
            name, {'custom_hooks': [{**switch, 'switch_pipeline': [{**step, 'scal_e': 1}]}]}
        )
