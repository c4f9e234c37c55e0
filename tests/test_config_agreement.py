"""A config that passes the check builds, or the builder says in a line which values do not go
together; one that is refused would not have built. Tried with every key of our configs left out,
misspelt, or (a type) another component's.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from mmdet_r2.config import load_config, shipped_configs
from mmdet_r2.config_check import check_config, known_keys
from mmdet_r2.config_keys import TOP_ROLES
from mmdet_r2.engine.checks import check_loader
from mmdet_r2.engine.registries import (
    LOG_PROCESSORS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
)
from mmdet_r2.errors import ConfigError, DataError, UserError
from mmdet_r2.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    TRANSFORMS,
    VISUALIZERS,
    init_scope,
)

NAMES = [
    'mask_rcnn_r50_fpn_1x_coco',
    'htc_r50_fpn_20e_coco',
    'panoptic_fpn_r50_fpn_1x_coco',
    'faster_rcnn_r50_fpn_1x_voc0712',
]
MORE_NAMES = [
    'cascade_mask_rcnn_s50_fpn_syncbn-backbone+head_mstrain_1x_coco',
    'faster_rcnn_r50_fpn_giou_1x_coco',
    'htc_r2_50_fpn_demo',
    'mask_rcnn_r50_fpn_1x_coco_v1',
]


# ---------------------------------------------------------------------------------------- building


class Sized(list):
    """What a sampler wants of a data set."""

    metainfo: dict = {}


def build_dataset(config: dict) -> Any:
    config = dict(config)
    inner = config.get('datasets') or ([config['dataset']] if 'dataset' in config else [])
    if inner:
        for one in inner:
            build_dataset(one)
        kind = config.pop('type')
        assert kind in ('RepeatDataset', 'ConcatDataset')
        assert kind != 'RepeatDataset' or 'times' in config
        return
    DATASETS.build({**config, 'lazy_init': True})


def build_loader(config: dict) -> None:
    config = copy.deepcopy(dict(config))
    build_dataset(config.pop('dataset'))
    data = Sized([0, 1, 2])
    sampler = config.pop('sampler', None)
    if sampler is not None:
        sampler = DATA_SAMPLERS.build(sampler, default_args={'dataset': data, 'seed': 0})
    batch_sampler = config.pop('batch_sampler', None)
    if batch_sampler is not None:
        batch_size = config.pop('batch_size')
        batch_sampler = DATA_SAMPLERS.build(
            batch_sampler, default_args={'sampler': sampler, 'batch_size': batch_size}
        )
        sampler = None
        config.pop('drop_last', None)
    config.pop('collate_fn', None)
    DataLoader(data, sampler=sampler, batch_sampler=batch_sampler, **config)


def build_optimizer(config: dict) -> None:
    build_optim_wrapper(nn.Linear(1, 1), copy.deepcopy(config))


def build_scheduler(config: Any) -> None:
    optimizer = OPTIMIZERS.build({'type': 'SGD', 'params': [torch.zeros(1)], 'lr': 0.1})
    for one in config if isinstance(config, list) else [config]:
        one = dict(one)
        one.pop('convert_to_iter_based', None)
        PARAM_SCHEDULERS.build(one, default_args={'optimizer': optimizer})


def build_metric(config: Any) -> None:
    configs = config if isinstance(config, list) else [config]
    for one in configs:
        METRICS.build(copy.deepcopy(one))
    EVALUATOR.build({'type': 'Evaluator', 'metrics': [MagicMock()]})


def build_hook(config: dict) -> None:
    config = dict(config)
    config.pop('priority', None)
    HOOKS.build(config)


def build_loop(key: str, config: dict) -> None:
    config = dict(config)
    given = {'runner': MagicMock(), 'dataloader': MagicMock(), 'evaluator': Evaluator([])}
    if key == 'train_cfg':
        del given['evaluator']
        by_epoch = config.pop('by_epoch', True)
        config.setdefault('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
    config.setdefault('type', 'ValLoop' if key == 'val_cfg' else 'TestLoop')
    LOOPS.build(config, default_args=given)


def build_part(config: Config, key: str) -> None:
    """Build what stands at the top-level ``key`` as the Runner does."""
    value = copy.deepcopy(config[key])
    if value is None:
        return
    if key == 'model':
        with torch.device('meta'):
            MODELS.build(value)
    elif key.endswith('_dataloader'):
        if key == 'train_dataloader':
            check_loader(value)  # by the Runner
        build_loader(value)
    elif key.endswith('_evaluator'):
        build_metric(value)
    elif key == 'tta_pipeline':
        for one in value:
            TRANSFORMS.build(one)
    elif key == 'optim_wrapper':
        build_optimizer(value)
    elif key == 'param_scheduler':
        build_scheduler(value)
    elif key == 'default_hooks':
        for one in value.values():
            if one is not None:
                build_hook(one)
    elif key == 'custom_hooks':
        for one in value:
            build_hook(one)
    elif key in ('train_cfg', 'val_cfg', 'test_cfg'):
        build_loop(key, value)
    elif key == 'log_processor':
        LOG_PROCESSORS.build({'type': 'LogProcessor', **value})
    elif key == 'visualizer':
        Visualizer._instance_dict.clear()
        VISUALIZERS.build({'type': 'Visualizer', 'name': 'run', **value, 'vis_backends': None})
        for one in value.get('vis_backends') or []:
            VISBACKENDS.build({**one, 'save_dir': '/nowhere'})


# ---------------------------------------------------------------------------------------- mutating


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from places(value, (*path, key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from places(value, (*path, index))


def mutations(tree: dict, path: tuple, rng: random.Random) -> Iterator[tuple[str, dict]]:
    """The config with the key at ``path`` left out, renamed, or (a type) another component's."""

    def changed() -> tuple[dict, dict]:
        new = copy.deepcopy(tree)
        node: Any = new
        for part in path[:-1]:
            node = node[part]
        return new, node

    key = path[-1]
    new, node = changed()
    del node[key]
    yield 'left out', new
    new, node = changed()
    node[f'{key}_x'] = node.pop(key)
    yield 'renamed', new
    if key == 'type':
        others = sorted(
            {
                value
                for other in places(tree)
                if other[-1] == 'type' and isinstance(value := at(tree, other), str)
            }
            - {at(tree, path)}
        )
        for other in rng.sample(others, 2):
            new, node = changed()
            node['type'] = other
            yield f'type {other}', new


def at(tree: Any, path: tuple) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def disagreements(name: str, share: float) -> tuple[int, list[str]]:
    rng = random.Random(name)
    config = load_config(name, {'model.backbone.init_cfg': None})
    tree = known_keys(config).to_dict()
    tried, found = 0, []
    for path in list(places(tree)):
        if path[0] not in TOP_ROLES or len(path) == 1 or rng.random() > share:
            continue
        for what, new in mutations(tree, path, rng):
            tried += 1
            new = Config(new)
            refused: Exception | None = None
            built: Exception | None = None
            try:
                check_config(new)
            except ConfigError as error:
                refused = error
            try:
                build_part(new, path[0])
            except UserError:
                continue
            except Exception as error:
                built = error
            # a name of nothing is an error, also where anything may stand and nobody looks
            if (refused is None) != (built is None and what != 'renamed'):
                found.append(
                    f'{".".join(map(str, path))} {what}: check: {refused}, build: {built!r:.300}'
                )
    return tried, found


@pytest.mark.parametrize(
    ('name', 'share'),
    [
        *((name, 0.1) for name in NAMES),
        *(pytest.param(name, 1.0, marks=pytest.mark.long) for name in NAMES + MORE_NAMES),
    ],
)
def test_check_and_builders_agree(name: str, share: float) -> None:
    init_scope()
    assert name in shipped_configs()
    tried, found = disagreements(name, share)
    assert tried > 500 * share
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    ('key', 'value', 'word'),
    [
        ('model.test_cfg.rcnn.nms.max_num', 100, 'max_num'),
        ('model.test_cfg.rpn.nms.class_agnostic', True, 'class_agnostic'),
        ('optim_wrapper.constructor', 'NoSuchConstructor', 'NoSuchConstructor'),
        ('model.rpn_head.loss_cls', {'loss_weight': 2.0, '_delete_': True}, 'loss_cls.type'),
        ('model.backbone.type', 'no_such_package.ResNet', 'no_such_package'),
        ('model.backbone.norm_cfg.type', 'FPN', 'FPN'),
    ],
)
def test_refused_by_the_check(key: str, value: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        load_config('mask_rcnn_r50_fpn_1x_coco', {key: value})


def test_accepted_by_both() -> None:
    calculator = {'type': 'BboxOverlaps2D'}
    config = load_config(
        'mask_rcnn_r50_fpn_1x_coco',
        {
            'model.train_cfg.rpn.assigner.iou_calculator': calculator,
            'model.test_cfg.rcnn.nms.split_thr': 10000,
            'val_dataloader.num_workers': 0,
            'optim_wrapper.clip_grad': {'type': 'value', 'clip_value': 1.0},
            'model.backbone.init_cfg': None,
        },
    )
    init_scope()
    build_part(config, 'model')
    build_part(config, 'val_dataloader')
    build_part(config, 'optim_wrapper')


def test_scope_of_mmdetection_builds_through_every_registry() -> None:
    init_scope()
    fpn = {'in_channels': [8], 'out_channels': 8, 'num_outs': 1, '_scope_': 'mmdet'}
    assert isinstance(MODELS.build({'type': 'mmdet.FPN', **fpn}), MODELS.get('FPN'))
    for registry, name in (
        (TRANSFORMS, 'LoadAnnotations'),
        (DATASETS, 'CocoDataset'),
        (METRICS, 'CocoMetric'),
        (HOOKS, 'DetVisualizationHook'),
        (DATA_SAMPLERS, 'AspectRatioBatchSampler'),
        (VISUALIZERS, 'DetLocalVisualizer'),
        (LOOPS, 'EpochBasedTrainLoop'),
        (PARAM_SCHEDULERS, 'MultiStepLR'),
    ):
        found = registry.get(name)
        assert found is not None
        assert registry.get(f'mmdet.{name}') is found
        assert registry.get(f'mmdet.some.module.{name}') is found
    with pytest.raises(KeyError, match='NoSuch'):
        MODELS.build({'type': 'mmdet.NoSuch'})


def test_arrays_through_the_loader_of_the_peer_s_video_script() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    pipeline = [
        {'type': 'mmdet.LoadImageFromNDArray'},
        {'type': 'mmdet.Resize', 'scale': (12, 8), 'keep_ratio': True},
        {'type': 'mmdet.PackDetInputs', 'meta_keys': ('ori_shape', 'img_shape', 'img_path')},
    ]
    init_scope()
    sample = Compose(pipeline)({'img': image, 'img_id': 0})['data_samples']
    assert sample.ori_shape == (4, 6) and sample.img_shape == (8, 12) and sample.img_path is None
    with pytest.raises(DataError, match='NoneType'):
        Compose(pipeline)({'img': None})
