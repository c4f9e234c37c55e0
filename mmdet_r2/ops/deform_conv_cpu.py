"""Deformable convolution on the CPU: sampling by ``embedding_bag``, then an ordinary convolution.

A sample is a weighted sum of the four cells around it, for all channels of its deformable group
alike. With channels innermost that is a bag of four rows of a table, which ``embedding_bag``
computes vectorised over channels and threaded over rows. The samples of all kernel points, side by
side as channels, need a 1x1 convolution only. Tens of times faster than mmcv's loop over samples,
and equal to it up to rounding, in any floating-point type.

Shape legend: B images, C channels and H W cells of the input, Y X cells of the output, K kernel
points (row by row), G groups of channels with offsets of their own.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def deform_conv_cpu(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Deformable convolution (v2 if there is a mask): (B, C, H, W) -> (B, O, Y, X), channels last.

    Args:
        offset: (B, G*K*2, Y, X) in cells, y before x; the input is zero outside of the map.
        mask: (B, G*K, Y, X) factors of the samples.
        weight: (O, C / groups, kernel height, kernel width).
    """
    inputs = (x, offset, mask, weight, bias)
    numbers = (stride, padding, dilation, groups, deform_groups)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        # The samples are K times as large as the input: they are made again for the backward pass.
        return checkpoint(
            _sample_and_convolve, *inputs, *numbers, use_reentrant=False, preserve_rng_state=False
        )
    return _sample_and_convolve(*inputs, *numbers)


def _sample_and_convolve(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    batch, channels, height, width = x.shape
    kernel = weight.shape[2] * weight.shape[3]
    rows, columns = offset.shape[2:]
    if x.numel() == 0 or rows * columns == 0:
        nothing = sum(t.sum() for t in (x, offset, mask, weight, bias) if t is not None) * 0
        return x.new_zeros(batch, weight.shape[0], rows, columns) + nothing
    # These transpositions are free of charge in channels_last.
    offset = offset.permute(0, 2, 3, 1).reshape(batch, rows, columns, deform_groups, kernel, 2)
    if mask is not None:
        mask = mask.permute(0, 2, 3, 1).reshape(batch, rows, columns, deform_groups, kernel)
    # Every group of the convolution shall consist of whole groups of channels with equal offsets.
    fine = math.lcm(deform_groups, groups)
    if fine > deform_groups:
        offset = offset.repeat_interleave(fine // deform_groups, 3)
        if mask is not None:
            mask = mask.repeat_interleave(fine // deform_groups, 3)
    cells, shares = _corners(
        offset, mask, (height, width), weight.shape[2:], stride, padding, dilation
    )
    # (B, C, H, W) -> (B*H*W*G, C/G), and as many rows of samples as there are (B, Y, X, G, K)
    table = x.permute(0, 2, 3, 1).reshape(-1, channels // fine)
    samples = F.embedding_bag(
        cells.view(-1, 4), table, per_sample_weights=shares.view(-1, 4), mode='sum'
    )
    # Channels of the samples in the order (G, K, C/G), those of the weight in the order (C, K).
    samples = samples.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
    weight = weight.view(len(weight), fine // groups, channels // fine, kernel)
    weight = weight.transpose(2, 3).reshape(len(weight), -1, 1, 1)
    # A dilation means nothing to a single cell, but keeps torch from its slower matrix product.
    return F.conv2d(samples, weight, bias, dilation=2, groups=groups)


def _corners(
    offset: Tensor,
    mask: Tensor | None,
    size: tuple[int, int],
    kernel: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The four cells around each sample and their shares in it, both (B, Y, X, G, K, 4).

    Cells are rows of the (B, H, W, G) table; one outside of the map has share 0 and names a cell at
    the border instead.
    """
    batch, _, _, groups = offset.shape[:4]
    height, width = size
    points = torch.arange(kernel[0] * kernel[1])
    tops = (points // kernel[1] * dilation[0] - padding[0]).to(offset)
    lefts = (points % kernel[1] * dilation[1] - padding[1]).to(offset)
    y = torch.arange(offset.shape[1]).to(offset).view(-1, 1, 1, 1) * stride[0] + tops
    x = torch.arange(offset.shape[2]).to(offset).view(-1, 1, 1) * stride[1] + lefts
    above, below, above_share, below_share = _neighbours(offset[..., 0] + y, height)
    left, right, left_share, right_share = _neighbours(offset[..., 1] + x, width)
    if mask is not None:
        above_share, below_share = above_share * mask, below_share * mask
    first = torch.arange(batch, dtype=torch.int32).view(-1, 1, 1, 1, 1) * (height * width * groups)
    first = first + torch.arange(groups, dtype=torch.int32).view(-1, 1)
    above, below = above * (width * groups) + first, below * (width * groups) + first
    left, right = left * groups, right * groups
    cells = torch.stack([above + left, above + right, below + left, below + right], -1)
    shares = torch.stack(
        [
            above_share * left_share,
            above_share * right_share,
            below_share * left_share,
            below_share * right_share,
        ],
        -1,
    )
    return cells, shares


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: the cells before and behind each position, inside the map, and their
    shares."""
    position = position.clamp(-2, size + 1)  # where both neighbours are outside
    lower = position.detach().floor()
    fraction = position - lower
    lower_share = torch.where((lower >= 0) & (lower < size), 1 - fraction, 0)
    upper_share = torch.where((lower >= -1) & (lower < size - 1), fraction, 0)
    cell = lower.to(torch.int32)
    return cell.clamp(0, size - 1), (cell + 1).clamp(0, size - 1), lower_share, upper_share
