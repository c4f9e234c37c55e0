"""Operators as ``torch.library`` knows them: one node each of a compiled or exported graph."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def operator(
    name: str,
    arguments: str,
    fake: Callable[..., Tensor],
    differentiable: tuple[int, ...],
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: makes a function of positional arguments the operator ``mmdet_r2::NAME``, with a
    gradient that computes it again. In a graph the operator is called, elsewhere the function.

    Args:
        arguments: as in an operator's schema.
        fake: an empty result, for the same arguments.
        differentiable: positions of the arguments that get a gradient; None among them does not.
    """

    def decorate(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        node = _register(name, arguments, compute, fake, differentiable)

        @functools.wraps(compute)
        def call(*inputs: Any) -> Tensor:
            return node(*inputs) if torch.compiler.is_compiling() else compute(*inputs)

        return call

    return decorate


def _register(
    name: str,
    arguments: str,
    compute: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    differentiable: tuple[int, ...],
) -> Callable[..., Tensor]:
    # A graph knows the layout of every result beforehand: contiguous.
    node = torch.library.custom_op(
        f'mmdet_r2::{name}',
        lambda *inputs: compute(*inputs).contiguous(),
        mutates_args=(),
        schema=f'({arguments}) -> Tensor',
    )
    node.register_fake(fake)

    def given(inputs: tuple[Any, ...]) -> list[int]:
        return [i for i in differentiable if inputs[i] is not None]

    def gradients(grad: Tensor, *inputs: Any) -> list[Tensor]:
        leaves = {i: inputs[i].detach().requires_grad_() for i in given(inputs)}
        # Inside an operator torch records nothing, whatever the gradient mode.
        recording = torch._C._SetExcludeDispatchKeyGuard(
            torch._C.DispatchKey.AutogradFunctionality, False
        )
        with recording, torch.enable_grad():
            out = compute(*[leaves.get(i, value) for i, value in enumerate(inputs)])
            found = torch.autograd.grad(out, list(leaves.values()), grad)
        return [gradient.contiguous() for gradient in found]

    backward = torch.library.custom_op(
        f'mmdet_r2::{name}_backward',
        gradients,
        mutates_args=(),
        schema=f'(Tensor grad, {arguments}) -> Tensor[]',
    )
    backward.register_fake(
        lambda grad, *inputs: [inputs[i].new_empty(inputs[i].shape) for i in given(inputs)]
    )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensors = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.save_for_backward(*(inputs[i] for i in tensors))
        ctx.places = tensors
        ctx.inputs = [None if i in tensors else value for i, value in enumerate(inputs)]

    def propagate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.inputs)
        for i, tensor in zip(ctx.places, ctx.saved_tensors):
            inputs[i] = tensor
        by_place = dict(zip(given(tuple(inputs)), backward(grad, *inputs)))
        return tuple(by_place.get(i) for i in range(len(inputs)))

    node.register_autograd(propagate, setup_context=setup)
    return getattr(torch.ops.mmdet_r2, name)
