"""Operators as ``torch.library`` knows them: one node each of a graph that is compiled or exported.

Eager code calls the functions of ``mmdet_r2.ops``, which compute directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def register(
    name: str,
    arguments: str,
    compute: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    differentiable: tuple[int, ...],
) -> None:
    """Make ``compute`` the operator ``mmdet_r2::NAME``, with a gradient that computes it again.

    Args:
        arguments: as in an operator's schema.
        fake: an empty result, for the same arguments.
        differentiable: positions of the arguments that get a gradient; None among them does not.
    """
    # A graph knows the layout of every result beforehand: contiguous.
    operator = torch.library.custom_op(
        f'mmdet_r2::{name}',
        lambda *inputs: compute(*inputs).contiguous(),
        mutates_args=(),
        schema=f'({arguments}) -> Tensor',
    )
    operator.register_fake(fake)

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

    operator.register_autograd(propagate, setup_context=setup)
