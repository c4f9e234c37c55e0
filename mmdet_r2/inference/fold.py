"""Folding batch norm into convolutions and fusing what follows, on a traced graph of the module.

In evaluation a batch norm is ``scale * x + shift`` with constants; behind a convolution it is the
same convolution with other weights. Which norm follows which convolution is read from the traced
data flow, not from attribute names, so that a norm is only ever folded into the convolution whose
output it alone receives.
"""

import inspect
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .fused import FusedConv2d

_ADDS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu, F.relu_)
# Subclasses of these (mmcv wraps several) compute the same for inference.
_LEAVES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.MaxPool2d, _BatchNorm)
_FRESH = (nn.Conv2d, FusedConv2d, nn.MaxPool2d, nn.AvgPool2d, _BatchNorm)


class _Tracer(fx.Tracer):
    """Looks into our modules and containers; torch's layers and compiled operators stay whole."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        whole = type(module).__module__.startswith('mmcv.ops') or isinstance(module, _LEAVES)
        return whole or super().is_leaf_module(module, name)


@torch.no_grad()
def folded(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution (output channels first) that includes the norm behind it.

    Computed in float64: the quotient of a tiny variance would otherwise lose digits before it is
    applied.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if bias is not None:
        shift = shift + bias.double() * scale
    new_weight = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return new_weight.to(weight.dtype), shift.to(weight.dtype)


def fold_and_fuse(module: nn.Module) -> fx.GraphModule:
    """An equivalent module for inference: norms folded; convolution, residual sum and ReLU fused.

    The given module, which must be in evaluation mode, keeps its weights.

    Raises:
        Exception: whatever the module's Python raises when it meets a symbolic input: its control
            flow depends on values, and it cannot be traced.
    """
    graph = _Tracer().trace(module, concrete_args=_constant_arguments(module))
    traced = fx.GraphModule(module, graph, type(module).__name__)
    _drop_identities(traced)
    _fold(traced)
    _fuse(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def _constant_arguments(module: nn.Module) -> dict[str, object]:
    """What the traced forward is fixed to: optional arguments at their defaults, and how many maps
    a neck takes.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    constants = {p.name: p.default for p in parameters if p.default is not p.empty}
    channels = getattr(module, 'in_channels', None)
    if isinstance(channels, (list, tuple)):
        first = next(p.name for p in parameters)
        constants[first] = tuple(fx.PH for _ in channels)
    return constants


def _module(traced: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    if isinstance(node, fx.Node) and node.op == 'call_module':
        return traced.get_submodule(str(node.target))
    return None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_plain_conv(module: nn.Module | None) -> bool:
    """Whether the module is a convolution that :class:`FusedConv2d` can stand for.

    Deformable convolutions are no ``nn.Conv2d``; the norm behind them stays.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.padding_mode == 'zeros'
        and not isinstance(module.padding, str)
    )


def _call(traced: fx.GraphModule, module: nn.Module, before: fx.Node, args: tuple) -> fx.Node:
    """Insert a call of a new submodule ahead of ``before``."""
    name = f'fused_{len(traced._modules)}'
    traced.add_module(name, module)
    with traced.graph.inserting_before(before):
        return traced.graph.call_module(name, args)


def _drop_identities(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if isinstance(_module(traced, node), (nn.Identity, nn.Dropout)):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _fold(traced: fx.GraphModule) -> None:
    """Fold every norm in evaluation mode that alone reads a convolution's output."""
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        if not isinstance(norm, _BatchNorm) or norm.training or norm.running_mean is None:
            continue
        source = node.args[0]
        conv = _module(traced, source)
        if not isinstance(source, fx.Node) or not is_plain_conv(conv) or len(source.users) != 1:
            continue
        assert isinstance(conv, nn.Conv2d)
        weight, bias = folded(conv.weight, conv.bias, norm)
        # A new layer: the old one may be applied elsewhere too, and the given module must not
        # change.
        fresh = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            device='meta',
        )
        fresh.weight = nn.Parameter(weight, requires_grad=False)
        fresh.bias = nn.Parameter(bias, requires_grad=False)
        node.replace_all_uses_with(_call(traced, fresh, node, source.args))
        traced.graph.erase_node(node)
        traced.graph.erase_node(source)


def _fuse(traced: fx.GraphModule) -> None:
    """Replace convolution [+ other] [-> ReLU] by one layer, computed where the last of them
    stood."""
    for node in list(traced.graph.nodes):
        conv = _module(traced, node)
        if not is_plain_conv(conv):
            continue
        assert isinstance(conv, nn.Conv2d)
        chain, other, user = [node], None, _only_user(node)
        if user is not None and (other := _other_term(traced, user, node)) is not None:
            chain.append(user)
            user = _only_user(user)
        relu = user is not None and _is_relu(traced, user)
        if user is not None and relu:
            chain.append(user)
        add = None
        if other is not None:
            add = 'into' if _may_overwrite(traced, other, chain) else 'new'
        args = (node.args[0],) if other is None else (node.args[0], other)
        fresh = _call(traced, FusedConv2d(conv, relu=relu, add=add), chain[-1], args)
        chain[-1].replace_all_uses_with(fresh)
        for dead in reversed(chain):
            traced.graph.erase_node(dead)


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if isinstance(_module(traced, node), nn.ReLU):
        return True
    if node.op == 'call_function' and node.target in _RELUS:
        return True
    return node.op == 'call_method' and node.target in ('relu', 'relu_')


def _other_term(traced: fx.GraphModule, node: fx.Node, conv: fx.Node) -> fx.Node | None:
    """If ``node`` adds another layer's output to the convolution's: that other term."""
    if node.op != 'call_function' or node.target not in _ADDS or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    other = second if first is conv else first
    if not isinstance(other, fx.Node) or other is conv or not _is_fresh(traced, other):
        return None
    if node.target is operator.iadd and other is first and len(other.users) > 1:
        return None  # this sum changes a tensor that others read
    return other


def _is_fresh(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the value is a feature map in memory of its own: no view of another, no number."""
    return isinstance(_module(traced, node), _FRESH)


def _may_overwrite(traced: fx.GraphModule, other: fx.Node, chain: list[fx.Node]) -> bool:
    """Whether nobody reads ``other``, or a view of it, once the chain's last node is computed."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    return all(
        user in chain or (order[user] < order[chain[-1]] and _is_fresh(traced, user))
        for user in other.users
    )
