"""Batch norms of the detectron2 lineage, by the ``type`` that ``norm_cfg`` names.

``NaiveSyncBN`` shares statistics between workers the way the published ResNeSt detectors were
trained; ``FrozenBN`` is a constant scale and shift. Both keep the names and shapes of an ordinary
batch norm's tensors, so checkpoints fit whichever of the three a config asks for. ``MMSyncBN`` is
``SyncBN``.
"""

import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_r2.registry import MODELS as OUR_MODELS

# mmcv's own, from when torch's could not take an empty input. In our scope only: mmcv registers its
# class of that name at the root.
OUR_MODELS.register_module(name='MMSyncBN', module=SyncBatchNorm)


class _SumOverWorkers(torch.autograd.Function):
    """Sum of every worker's tensor; its gradient is the sum of every worker's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


# Registered at the root: mmcv looks norms up there when no default scope is set. Both derive from
# _BatchNorm directly because init_cfg finds layers by the name of their direct base.
@MODELS.register_module()
class NaiveSyncBN(_BatchNorm):
    """Batch norm over all workers, each of which counts the same whatever the size of its images.

    Mean and mean of squares are averaged over workers, so pixels of small images weigh more than
    those of large ones, and the running variance takes the biased variance: in both it differs from
    SyncBN. Workers without input (no RoI, say) do not count. With one worker, or in evaluation, it
    is an ordinary batch norm. Runs on CPUs too.

    Shapes: (N, C) or (N, C, ...), any of which may be empty.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f'expected at least 2 dimensions, got {x.dim()}')

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not _has_workers():
            return super().forward(x)
        self._check_input_dim(x)
        axes = [0, *range(2, x.dim())]
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if x.numel() > 0:
            own = torch.cat([values.mean(axes), values.square().mean(axes), values.new_ones(1)])
        else:
            # Connected to the input all the same: every worker has to take part in the backward
            # pass. The last entry counts the workers that have input.
            own = values.sum() + values.new_zeros(2 * self.num_features + 1)
        total = _SumOverWorkers.apply(own)
        count = total[-1].detach()
        mean, mean_square = (total[:-1] / count.clamp(min=1)).chunk(2)
        variance = (mean_square - mean.square()).clamp(min=0)  # rounding may make it negative
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach(), count)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a cumulative average, as in torch
            momentum = 1 / float(self.num_batches_tracked)
        step = momentum * (count > 0).to(mean)  # nothing to learn from a batch without input
        self.running_mean.lerp_(mean.to(self.running_mean), step.to(self.running_mean))
        self.running_var.lerp_(variance.to(self.running_var), step.to(self.running_var))


@MODELS.register_module()
class FrozenBN(_BatchNorm):
    """``weight * (x - running_mean) / sqrt(running_var + eps) + bias``, all four constant.

    They are buffers: no optimiser, ``requires_grad_`` or change of mode reaches them, and the layer
    is always in evaluation mode, which also tells whoever folds or re-estimates batch norms.

    Args:
        num_features: channels C of the input (N, C, ...).
        eps: 0 for maskrcnn-benchmark's constant norm.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        for name in ('weight', 'bias'):
            value = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, value)
        self.train()

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f'expected at least 2 dimensions, got {x.dim()}')

    def train(self, mode: bool = True) -> 'FrozenBN':
        """Stay in evaluation mode."""
        return super().train(False)


def _has_workers() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
