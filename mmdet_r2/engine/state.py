"""Random state and half-accumulated gradients: what a checkpoint needs, beside weights, to continue
exactly."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather, get_comm_device, get_world_size
from torch import Tensor, nn

RngState = dict[str, Any]


def get_rng_state() -> RngState:
    """States of Python's, numpy's, torch's and this process's CUDA generators, as plain numbers and
    tensors.

    Only lists, numbers and tensors: a checkpoint that holds them can be read without unpickling
    objects.
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: RngState = {
        'python': [version, list(internal), gauss],
        'numpy': [
            kind,
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        'torch': torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: RngState) -> None:
    """Undo whatever was drawn since :func:`get_rng_state` gave ``state``."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state['numpy']
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.random.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def untouched_rng() -> Iterator[RngState]:
    """Whatever is drawn within leaves no trace outside."""
    state = get_rng_state()
    try:
        yield state
    finally:
        set_rng_state(state)


def pack_rng_state(state: RngState) -> Tensor:
    """``state`` as one int64 tensor, of the same length in every process of a run."""
    version, internal, gauss = state['python']
    _, keys, position, has_gauss, cached = state['numpy']
    parts = [
        torch.tensor([version, *internal], dtype=torch.int64),
        _bits(float('nan') if gauss is None else gauss),
        keys.to(torch.int64),
        torch.tensor([position, has_gauss], dtype=torch.int64),
        _bits(cached),
        state['torch'].to(torch.int64).cpu(),
        state.get('cuda', torch.empty(0)).to(torch.int64).cpu(),
    ]
    return torch.cat(parts)


def _bits(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64).view(torch.int64)


def unpack_rng_state(packed: Tensor) -> RngState:
    """Inverse of :func:`pack_rng_state`."""
    packed = packed.to('cpu', torch.int64)
    python, numpy = 626, 624
    version, *internal = packed[:python].tolist()
    rest = packed[python:]
    gauss = rest[:1].clone().view(torch.float64).item()
    rest = rest[1:]
    keys, rest = rest[:numpy].clone(), rest[numpy:]
    (position, has_gauss), rest = rest[:2].tolist(), rest[2:]
    cached = rest[:1].clone().view(torch.float64).item()
    rest = rest[1:]
    size = torch.random.get_rng_state().numel()
    state: RngState = {
        'python': [version, internal, None if gauss != gauss else gauss],
        'numpy': ['MT19937', keys, position, has_gauss, cached],
        'torch': rest[:size].to(torch.uint8),
    }
    if rest.numel() > size:
        state['cuda'] = rest[size:].to(torch.uint8)
    return state


def gather_rng_states(state: RngState) -> list[Tensor]:
    """Packed states of every rank, in rank order, on every rank. All ranks have to call it."""
    packed = pack_rng_state(state)
    if get_world_size() == 1:
        return [packed]
    return [part.cpu() for part in all_gather(packed.to(get_comm_device()))]


def pending_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that accumulation has not applied yet, by parameter name."""
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def restore_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Put :func:`pending_gradients` back."""
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter, copy=True)
