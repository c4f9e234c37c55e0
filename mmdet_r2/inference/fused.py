"""A convolution with the arithmetic that follows it: bias (a folded norm), the residual sum and
ReLU."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def has_onednn_fusion() -> bool:
    """Whether this torch has the oneDNN convolution with post-ops that ``torch.compile`` emits, and
    it computes what we mean.

    The operators are not part of torch's documented interface, therefore they are tried out once
    against plain ones.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 6, 5, generator=generator).to(memory_format=torch.channels_last)
    other = torch.randn(1, 8, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    conv = FusedConv2d(nn.Conv2d(8, 8, 3, stride=2, padding=1), relu=True)
    try:
        with torch.inference_mode():
            plain = F.conv2d(x, conv.weight, conv.bias, 2, 1)
            pairs = [
                (conv._onednn(x), plain.relu()),
                (conv._onednn_add(x, other, into=False), (plain + other).relu()),
                (conv._onednn_add(x, other.clone(), into=True), (plain + other).relu()),
            ]
            return all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
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
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.relu, self.add = relu, add

    def extra_repr(self) -> str:
        out_channels, in_channels, height, width = self.weight.shape
        text = f'{in_channels * self.groups}, {out_channels}, kernel=({height}, {width})'
        return f'{text}, stride={self.stride}, relu={self.relu}, add={self.add}'

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self._takes(x, other) and has_onednn_fusion():
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
        if x.device.type != 'cpu' or x.dtype != self.weight.dtype or torch.is_grad_enabled():
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
        after = ('add', 1.0, 'relu' if self.relu else None, [], None)
        if into:
            return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *args, *after)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, other, *args, *after)
