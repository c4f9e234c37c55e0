"""A detector, data set and metric of a few lines, for tests of what runs them; also imported by the
processes they start."""

import copy
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import nn

from mmdet_r2.errors import DataError
from mmdet_r2.registry import DATASETS, HOOKS, METRICS, MODELS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks


@DATASETS.register_module()
class ToyDataset:
    """Images of random pixels; what is drawn comes from all three generators.

    Args:
        length: images.
        bad: index of an image with an infinite pixel, or None.
        missing: index of an image that is not there, or None.
        classes: number of class names.
        names: the names themselves.
        log: file that the index of every image read is appended to.
    """

    def __init__(
        self,
        length: int = 12,
        bad: int | None = None,
        missing: int | None = None,
        classes: int = 3,
        log: str | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self.length = length
        self.bad = bad
        self.missing = missing
        self.log = log
        self.metainfo = {
            'classes': tuple(names) or tuple(f'class{i}' for i in range(classes)),
            'palette': [(1, 2, 3)],
        }

    def __len__(self) -> int:
        return self.length

    def get_data_info(self, index: int) -> dict[str, Any]:
        return {'width': 8 + index % 2, 'height': 8, 'img_path': f'image{index}.jpg'}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.missing:
            raise DataError(f'image{index}.jpg: no such file.')
        if self.log:
            with open(self.log, 'a', encoding='utf-8') as file:
                file.write(f'{index}\n')
        pixels = np.random.rand(3, 8, 8) + random.random() + index
        image = torch.from_numpy(pixels).float() * torch.rand(1)
        if index == self.bad:
            image[0, 0, 0] = float('inf')
        sample = DetDataSample(metainfo={'img_path': f'image{index}.jpg', 'img_id': index})
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[1.0, 1, 5, 5]]), labels=torch.tensor([index % 3])
        )
        return {'inputs': image, 'data_samples': sample}


@DATASETS.register_module()
class ToyObjects:
    """Images of noise with ten rectangles each, boxes and masks, the same whenever they are
    read."""

    metainfo = {'classes': ('a', 'b', 'c')}

    def __init__(self, length: int = 4, size: int = 128) -> None:
        self.length = length
        self.size = size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 255, (3, self.size, self.size), dtype=np.uint8)
        corners = rng.uniform(0, self.size * 0.6, (10, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(16, self.size * 0.4, (10, 2))], 1)
        masks = np.zeros((10, self.size, self.size), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
            mask[y1:y2, x1:x2] = 1
        shape = (self.size, self.size)
        sample = DetDataSample(
            metainfo={
                'img_id': index,
                'img_shape': shape,
                'ori_shape': shape,
                'scale_factor': (1, 1),
            }
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(rng.integers(0, 3, 10)),
            masks=BitmapMasks(masks, *shape),
        )
        return {'inputs': torch.from_numpy(image), 'data_samples': sample}


class Interrupted(Exception):
    """Thrown in place of a power cut."""


@HOOKS.register_module()
class InterruptHook(Hook):
    """Ends the run after a step, as suddenly as an exception can, once checkpoints are written."""

    priority = 'LOWEST'

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if runner.iter + 1 == self.at:
            raise Interrupted


@HOOKS.register_module()
class CutValidationHook(Hook):
    """Ends the run in a validation.

    Args:
        where: method of a hook.
        number: of the validation, from 0.
        priority: of this hook among those that do something there.
    """

    def __init__(self, where: str, number: int, priority: str = 'HIGH') -> None:
        self.where, self.number, self.priority = where, number, priority

    def _called(self, where: str) -> None:
        if where != self.where:
            return
        self.number -= 1
        if self.number < 0:
            raise Interrupted

    def before_val_epoch(self, runner: Any) -> None:
        self._called('before_val_epoch')

    def after_val_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if batch_idx == 0:
            self._called('after_val_iter')

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self._called('after_val_epoch')


@HOOKS.register_module()
class FirstOfManyHook(Hook):
    """Replaces random choice by taking the first: samples then do not depend on how a batch is
    split."""

    def before_run(self, runner: Any) -> None:
        torch.randperm = lambda n, **options: torch.arange(n)


class _Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(4, num_classes)


class _RoIHead(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bbox_head = _Head(num_classes)


@MODELS.register_module()
class ToyDetector(BaseModel):
    """Convolution, batch norm, dropout, linear.

    Args:
        num_classes: of the head.
        explode_at: number of forward passes after which the loss is NaN; None for never.
        explode_on_rank: the only rank on which that happens.
        pause: seconds that a training step takes longer.
        frozen_bn: keep batch norm in evaluation mode.
        norm: 'BN' or 'SyncBN'.
        overflow: make the loss infinite in mixed precision.
    """

    def __init__(
        self,
        num_classes: int = 3,
        explode_at: int | None = None,
        explode_on_rank: int = 0,
        pause: float = 0,
        dropout: float = 0.5,
        frozen_bn: bool = False,
        norm: str = 'BN',
        overflow: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.bn = nn.SyncBatchNorm(4) if norm == 'SyncBN' else nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.roi_head = _RoIHead(num_classes)
        self.explode_at = explode_at if get_rank() == explode_on_rank else None
        self.pause = pause
        self.frozen_bn = frozen_bn
        self.overflow = overflow
        self.passes = 0

    def train(self, mode: bool = True) -> 'ToyDetector':
        super().train(mode)
        if self.frozen_bn:
            self.bn.eval()
        return self

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        images = torch.stack(inputs) if isinstance(inputs, list) else inputs
        features = self.bn(self.backbone(images)).relu().mean((2, 3))
        scores = self.roi_head.bbox_head.fc(self.dropout(features))
        if mode != 'loss':
            torch.rand(3)  # evaluating draws, too
            np.random.rand()
            return data_samples
        time.sleep(self.pause)
        labels = torch.cat([sample.gt_instances.labels for sample in data_samples])
        loss = nn.functional.cross_entropy(scores, labels.to(scores.device))
        if self.overflow and torch.is_autocast_enabled(scores.device.type):
            loss = loss * float('inf')
        self.passes += 1
        if self.explode_at is not None and self.passes > self.explode_at:
            loss = loss * float('nan')
        return {'loss_cls': loss, 'acc': loss.detach() * 0 + torch.rand(1).to(loss.device)}


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Counts samples; grows with every call, so that each evaluation is the best."""

    calls = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        type(self).calls += 1
        return {'toy_mAP': len(results) + 0.01 * type(self).calls}


def toy_config(work_dir: Path | str, **changes: Any) -> Config:
    """A config of the parts above; ``changes`` are dotted keys with ``__`` for dots."""
    loader = {
        'batch_size': 2,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'dataset': {'type': 'ToyDataset'},
    }
    config = Config(
        {
            'default_scope': 'mmdet_r2',
            'work_dir': str(work_dir),
            'custom_imports': {'imports': ['engine_toy']},
            'model': {'type': 'ToyDetector'},
            'train_dataloader': loader,
            'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 4, 'val_interval': 100},
            'optim_wrapper': {
                'type': 'OptimWrapper',
                'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9},
            },
            'param_scheduler': [
                {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 8},
                {'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [2], 'gamma': 0.1},
            ],
            'default_hooks': {
                'logger': {'type': 'LoggerHook', 'interval': 5},
                'checkpoint': {'type': 'CheckpointHook', 'interval': 1},
            },
            'randomness': {'seed': 7},
            'log_level': 'WARNING',
            'env_cfg': {'mp_cfg': {'mp_start_method': 'fork', 'opencv_num_threads': 0}},
        }
    )
    changes = copy.deepcopy(changes)  # merging takes `_delete_` out
    config.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return config


def with_validation(config: Config) -> Config:
    """``config`` with a validation every epoch (or as ``train_cfg`` says)."""
    config.val_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler={'type': 'DefaultSampler', 'shuffle': False},
        dataset={'type': 'ToyDataset', 'length': 4},
    )
    config.val_cfg = {'type': 'ValLoop'}
    config.val_evaluator = {'type': 'ToyMetric'}
    return config
