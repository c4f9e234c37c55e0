"""Mixed precision on CPUs too, where mmengine's wrapper refuses to run."""

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from mmengine.optim import OptimWrapper
from torch.optim import Optimizer

from ..errors import ConfigError
from .registries import OPTIM_WRAPPERS

_DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}


def default_amp_dtype() -> str:
    """'bfloat16' where the hardware computes in it (its range needs no loss scaling), else
    'float16'."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 'float16'
    return 'bfloat16'


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(_AmpOptimWrapper):
    """Autocast to float16 or bfloat16; losses are scaled for float16 only, whose small gradients
    would vanish.

    Args:
        optimizer: the optimiser that steps.
        loss_scale: 'dynamic', a constant, or keywords of torch's ``GradScaler``.
        dtype: 'float16', 'bfloat16' or None, which is bfloat16 where the hardware has it.
        accumulative_counts: batches whose gradients make one step.
        clip_grad: keywords of torch's ``clip_grad_norm_`` (or ``clip_grad_value_`` with
            ``type='value'``).

    Raises:
        ConfigError: an unknown ``dtype``, or float16 on a CPU.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss_scale: str | float | dict[str, Any] = 'dynamic',
        dtype: str | torch.dtype | None = None,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
    ) -> None:
        name = str(dtype).removeprefix('torch.') if dtype is not None else default_amp_dtype()
        if name not in _DTYPES:
            raise ConfigError(f'optim_wrapper.dtype: {name!r}; it is one of {", ".join(_DTYPES)}.')
        cuda = torch.cuda.is_available()
        if name == 'float16' and not cuda:
            raise ConfigError("optim_wrapper.dtype: float16 needs a GPU; use 'bfloat16' on a CPU.")
        OptimWrapper.__init__(
            self, optimizer, accumulative_counts=accumulative_counts, clip_grad=clip_grad
        )
        options: dict[str, Any] = {}
        self._scale_update_param = None
        if isinstance(loss_scale, dict):
            options = dict(loss_scale)
        elif loss_scale != 'dynamic':
            self._scale_update_param = float(loss_scale)
            options = {'init_scale': float(loss_scale)}
        self.loss_scaler = torch.amp.GradScaler(
            'cuda', enabled=cuda and name == 'float16', **options
        )
        if not self.loss_scaler.is_enabled():
            self._scale_update_param = None
        self.cast_dtype = _DTYPES[name]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; the scale of losses starts anew where the state has none, which is
        that of a run in bfloat16."""
        if not state_dict.get('loss_scaler'):
            state_dict = {k: v for k, v in state_dict.items() if k != 'loss_scaler'}
        super().load_state_dict(state_dict)
