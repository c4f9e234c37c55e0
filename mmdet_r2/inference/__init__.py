"""Preparing a trained detector for fast inference."""

from .fold import fold_and_fuse
from .fused import FusedConv2d
from .memory import keep_freed_memory
from .prepare import prepare_for_inference

__all__ = ['FusedConv2d', 'fold_and_fuse', 'keep_freed_memory', 'prepare_for_inference']
