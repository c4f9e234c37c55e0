"""Layers that use oneDNN's fused operators on the CPU: a convolution with the arithmetic that
follows it (bias, residual sum, ReLU), and a linear layer.

The operators are those that ``torch.compile`` emits. They are not part of torch's documented
interface, so each is tried out once against the plain one before it is used.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def has_onednn_fusion(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has the oneDNN convolution with post-ops that ``torch.compile`` emits, and
    it computes what we mean: older CPUs have none of bfloat16.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, other = (
        torch.randn(1, 8, *size, generator=generator).to(dtype, memory_format=torch.channels_last)
        for size in ((6, 5), (3, 3))
    )
    with torch.random.fork_rng(devices=[]):  # new layers draw their weights
        conv = FusedConv2d(nn.Conv2d(8, 8, 3, stride=2, padding=1).to(dtype), relu=True)
    try:
        with torch.inference_mode():
            plain = F.conv2d(x, conv.weight, conv.bias, 2, 1)
            pairs = [
                (conv._onednn(x), plain.relu()),
                (conv._onednn_add(x, other, into=False), (plain + other).relu()),
                (conv._onednn_add(x, other.clone(), into=True), (plain + other).relu()),
            ]
            close = 1e-4 if dtype == torch.float32 else 0.05
            return all(torch.allclose(a, b, atol=close, rtol=close / 10) for a, b in pairs)
    except (RuntimeError, AttributeError, TypeError):
        return False


class FusedConv2d(nn.Module):
    """``relu(conv(x) + other)``, each part optional; one pass over memory where oneDNN can do so.

    Args:
        conv: the convolution whose weight and bias are taken (not copied).
        relu: whether ReLU follows.
        add: how :meth:`forward` treats its second argument: ``None`` it has none, ``'new'`` it is
            added, ``'into'`` it is added and may be overwritten by the result.
    """

    def __init__(self, conv: nn.Conv2d, *, relu: bool = False, add: str | None = None) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = conv.stride
        self.padding: tuple[int, ...] = tuple(conv.padding)  # type: ignore[arg-type]
        self.dilation, self.groups = conv.dilation, conv.groups
        self.relu, self.add = relu, add

    def extra_repr(self) -> str:
        out_channels, in_channels, height, width = self.weight.shape
        text = f'{in_channels * self.groups}, {out_channels}, kernel=({height}, {width})'
        return f'{text}, stride={self.stride}, relu={self.relu}, add={self.add}'

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self._takes(x, other) and has_onednn_fusion(x.dtype):
            if other is None:
                return self._onednn(x)
            return self._onednn_add(x, other, into=self.add == 'into')
        out = F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        if other is not None:
            out = out + other
        return torch.relu(out) if self.relu else out

    def _takes(self, x: Tensor, other: Tensor | None) -> bool:
        """Whether oneDNN can compute this call as meant: on the CPU, for inference, no
        broadcasting."""
        if x.device.type != 'cpu' or x.dtype != self.weight.dtype or len(x) == 0:
            return False
        if torch.is_grad_enabled():
            return False
        if other is None:
            return True
        if other.dtype != x.dtype or other.shape[:2] != (x.shape[0], self.weight.shape[0]):
            return False
        if not other.is_contiguous(memory_format=torch.channels_last):
            return False
        return all(
            other.shape[2 + i] == self._output_size(x.shape[2 + i], i) for i in range(2)
        ) and x.is_contiguous(memory_format=torch.channels_last)

    def _output_size(self, size: int, axis: int) -> int:
        kernel = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) + 1
        return (size + 2 * self.padding[axis] - kernel) // self.stride[axis] + 1

    def _onednn(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups,
            'relu' if self.relu else 'none', [], '',
        )  # fmt: skip

    def _onednn_add(self, x: Tensor, other: Tensor, *, into: bool) -> Tensor:
        args = (self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)
        after: tuple = ('add', 1.0, 'relu' if self.relu else None, [], None)
        if into:
            return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *args, *after)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, other, *args, *after)


@functools.cache
def has_onednn_linear(dtype: torch.dtype = torch.float32) -> bool:
    """Whether torch has oneDNN's linear operator, and it computes what we mean."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.random.fork_rng(devices=[]):  # new layers draw their weights
        layer = OneDNNLinear(nn.Linear(7, 5).to(dtype))
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    try:
        with torch.inference_mode():
            plain = F.linear(x, layer.weight, layer.bias)
            close = 1e-4 if dtype == torch.float32 else 0.05
            return torch.allclose(layer._onednn(x), plain, atol=close, rtol=close / 10)
    except (RuntimeError, AttributeError, TypeError):
        return False


class OneDNNLinear(nn.Linear):
    """A linear layer that oneDNN computes on the CPU; twice as fast as MKL on AMD's processors.

    Args:
        linear: the layer whose weight and bias are taken (not copied).
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
        fits = x.device.type == 'cpu' and x.dim() == 2 and len(x) > 0
        if not plain and fits and x.dtype == self.weight.dtype and has_onednn_linear(x.dtype):
            return self._onednn(x)
        return super().forward(x)

    def _onednn(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, 'none', [], '')
