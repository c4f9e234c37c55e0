"""Running a config: the Runner, its training loops and the hooks that mmengine lacks."""

from .amp import AmpOptimWrapper, default_amp_dtype
from .build import build_runner
from .checkpoint import CheckpointHook, latest_checkpoint
from .hooks import (
    BoxConventionHook,
    EarlyStoppingHook,
    LoggerHook,
    NumClassCheckHook,
    ProgressHook,
    UnreadableImagesHook,
    check_box_convention,
    check_num_classes,
)
from .invalid_loss import InvalidLossError, InvalidLossHook
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .optimizer import GroupedOptimWrapperConstructor
from .peer_parts import (
    CheckInvalidLossHook,
    MemoryProfilerHook,
    PipelineSwitchHook,
    QuadraticWarmupLR,
    QuadraticWarmupMomentum,
    QuadraticWarmupParamScheduler,
)
from .precise_bn import PreciseBNHook, bn_layers, recompute_statistics
from .processes import shut_down
from .runner import Runner

__all__ = [
    'AmpOptimWrapper',
    'BoxConventionHook',
    'CheckInvalidLossHook',
    'CheckpointHook',
    'EarlyStoppingHook',
    'EpochBasedTrainLoop',
    'GroupedOptimWrapperConstructor',
    'InvalidLossError',
    'InvalidLossHook',
    'IterBasedTrainLoop',
    'LoggerHook',
    'MemoryProfilerHook',
    'NumClassCheckHook',
    'PipelineSwitchHook',
    'PreciseBNHook',
    'ProgressHook',
    'QuadraticWarmupLR',
    'QuadraticWarmupMomentum',
    'QuadraticWarmupParamScheduler',
    'Runner',
    'UnreadableImagesHook',
    'bn_layers',
    'build_runner',
    'check_box_convention',
    'check_num_classes',
    'default_amp_dtype',
    'latest_checkpoint',
    'recompute_statistics',
    'shut_down',
]
