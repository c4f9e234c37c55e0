"""Making a detector fast for inference without changing what it finds."""

import logging
import types
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .fold import fold_and_fuse, is_plain_conv
from .fused import FusedConv2d, OneDNNLinear
from .memory import keep_freed_memory

# Parts whose whole forward is traced; elsewhere each ConvModule is treated by itself.
_TRACED_PARTS = ('backbone', 'neck', 'roi_head.shared_head')


def prepare_for_inference(
    model: nn.Module,
    fuse_bn: bool = True,
    channels_last: bool = True,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> nn.Module:
    """Rearrange a trained detector for inference, in place, and return it.

    The defaults change results by rounding only (below 1e-3 in every output; about 1e-6 in the
    features). Parameter names change with ``fuse_bn``, so save or load checkpoints before; the
    model cannot be trained afterwards.

    Args:
        model: a detector with its weights loaded, on the device it will run on.
        fuse_bn: fold batch norms into the convolutions before them, and compute convolution,
            residual sum and ReLU in one pass.
        channels_last: lay out weights and images with the channels innermost.
        dtype: ``torch.bfloat16`` or ``torch.float16`` to compute in mixed precision; detections
            then move by up to a pixel, scores by about 0.01.
        compile: compile backbone and neck with ``torch.compile`` at the first image, which takes
            minutes. Meant for GPUs; on the CPU the fused operators are as fast without it.

    Raises:
        ValueError: ``dtype`` is neither of the two, nor None or float32.
    """
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f'dtype is {dtype}; expected bfloat16, float16, float32 or None')
    model.eval().requires_grad_(False)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    if device.type == 'cpu':
        keep_freed_memory()
    if fuse_bn:
        for name, part in _traced_parts(model):
            owner, _, own = name.rpartition('.')
            setattr(model.get_submodule(owner), own, _fused(part, name))
        _fuse_conv_modules(model)
        if device.type == 'cpu':
            _use_onednn_layers(model)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        preprocessor: Any = getattr(model, 'data_preprocessor', None)
        if hasattr(preprocessor, 'channels_last'):
            preprocessor.channels_last = True
    if dtype in (torch.bfloat16, torch.float16):
        _use_autocast(model, dtype)
    if compile:
        for _, part in _traced_parts(model):
            part.compile()
    return model


def _traced_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    return [(name, modules[name]) for name in _TRACED_PARTS if name in modules]


def _fused(part: nn.Module, name: str) -> nn.Module:
    """The part with norms folded, or unchanged (with a warning) where it cannot be traced."""
    try:
        return fold_and_fuse(part)
    except Exception as error:  # tracing runs the part's own code, which may fail in any way
        if any(isinstance(module, _BatchNorm) for module in part.modules()):
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            print_log(
                f'model.{name} ({type(part).__name__}) keeps its batch norms: its forward cannot '
                f'be traced ({reason:.200}); results are the same, only slower.',
                logger='current',
                level=logging.WARNING,
            )
        return part


def _fuse_conv_modules(model: nn.Module) -> None:
    """Fold the norms of the heads' ConvModules (convolution, norm, activation: they say so)."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, ConvModule):
                setattr(owner, name, _fused(child, name))


def _use_onednn_layers(model: nn.Module) -> None:
    """Exchange the heads' plain layers for those that choose the faster operator."""
    for owner in list(model.modules()):
        if isinstance(owner, torch.fx.GraphModule):
            continue
        for name, child in list(owner.named_children()):
            if type(child) is nn.Linear:
                setattr(owner, name, OneDNNLinear(child))
            elif isinstance(child, nn.Conv2d) and is_plain_conv(child):
                setattr(owner, name, FusedConv2d(child))


def _use_autocast(model: nn.Module, dtype: torch.dtype) -> None:
    """Run the model's ``forward`` under autocast; traced parts get their weights cast for good."""
    for _, part in _traced_parts(model):
        if isinstance(part, torch.fx.GraphModule):
            part.to(dtype)
            part.register_forward_pre_hook(_cast_inputs)
    # A bound method, not a closure: it is copied with the model.
    model._autocast_dtype = dtype  # type: ignore[assignment]
    model.forward = types.MethodType(_forward_under_autocast, model)


def _cast_inputs(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(part.parameters()).dtype

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype)
        return type(value)(map(cast, value)) if isinstance(value, (list, tuple)) else value

    return cast(args)


def _forward_under_autocast(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    device = next(self.parameters()).device.type
    with torch.autocast(device, dtype=self._autocast_dtype):  # type: ignore[arg-type]
        return type(self).forward(self, *args, **kwargs)
