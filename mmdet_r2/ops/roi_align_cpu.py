"""RoIAlign on the CPU as a sparse matrix product.

Each output cell is a fixed weighted sum of feature cells, and the weights are separable: bilinear
sampling along y times the same along x. So RoIAlign is one sparse matrix (output cells x feature
cells) times the feature table (feature cells x channels), which ``embedding_bag`` computes
vectorised over channels and threaded over rows, tens of times faster than a loop over samples. The
backward pass is the transposed matrix. Equal to mmcv's operator up to float32 rounding.

Shape legend: R RoIs, S output side (rows ``S_y``, columns ``S_x``), E entries of one output cell, N
entries of the matrix.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Entries (padded) computed at once; RoIs are sorted by size first, so that the padding stays small.
_MAX_ENTRIES = 1 << 22


def roi_align_cpu(
    feature: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    average: int = 1,
) -> Tensor:
    """RoIAlign: (B, C, H, W) float32, (R, 5) -> (R, C, S_y, S_x) float32, channels last; R > 0.

    The mean of ``average`` x ``average`` cells is one cell of that many times the samples per axis,
    so it costs no more than the cells themselves.
    """
    num_rois, channels = rois.shape[0], feature.shape[1]
    output_size = (output_size[0] // average, output_size[1] // average)
    with torch.no_grad():
        matrix = _matrix(
            feature, rois.float(), output_size, spatial_scale, sampling_ratio, aligned, average
        )
    # (B, C, H, W) -> (B*H*W, C): free of charge when the feature is channels_last
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = _SparseMatmul.apply(table, *matrix)
    return pooled.view(num_rois, *output_size, channels).permute(0, 3, 1, 2)


class _SparseMatmul(torch.autograd.Function):
    """A sparse matrix in compressed rows times a dense table."""

    @staticmethod
    def forward(ctx, table: Tensor, row_start: Tensor, column: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(row_start, column, value)
        ctx.num_columns = table.shape[0]
        return _bag(table, row_start, column, value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        row_start, column, value = ctx.saved_tensors
        row = torch.repeat_interleave(
            torch.arange(len(row_start) - 1), row_start.diff(), output_size=len(column)
        )
        order = column.to(torch.int32).argsort(stable=True)
        counts = torch.bincount(column, minlength=ctx.num_columns)
        return _bag(grad.contiguous(), _starts(counts), row[order], value[order]), None, None, None


def _bag(table: Tensor, row_start: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """Rows of the product: sum over a row's entries of value times the table's row ``column``."""
    return F.embedding_bag(
        column,
        table,
        row_start,
        mode='sum',
        per_sample_weights=value.to(table),
        include_last_offset=True,
    )


def _starts(counts: Tensor) -> Tensor:
    """Where each row's entries begin, and where the last ends: (n,) -> (n + 1,)."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _matrix(
    feature: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    average: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compressed rows of the sampling matrix: row starts (R*S*S + 1,), columns, values (N,)."""
    height, width = feature.shape[2:]
    start_end = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)  # (R, 4) in cells
    corner, extent = start_end[:, :2], start_end[:, 2:] - start_end[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    size = extent.new_tensor([output_size[1], output_size[0]])
    if sampling_ratio > 0:
        samples = torch.full_like(extent, sampling_ratio * average)
    else:
        extent = extent.clamp(min=0)  # a box turned inside out has no samples
        samples = torch.ceil(extent / (size * average)).clamp(min=0) * average

    # Chunks of RoIs of similar size: each computes as many samples per cell as its largest RoI
    # takes.
    order = samples.prod(1).argsort(stable=True)
    columns, values, counts, start = [], [], [], 0
    cells = output_size[0] * output_size[1]
    while start < len(order):
        chunk = order[start : start + 256]
        most = [int(n) + 2 for n in samples[chunk].amax(0)]
        chunk = chunk[: max(1, _MAX_ENTRIES // (cells * most[0] * most[1]))]
        start += len(chunk)
        x_cell, x_weight = _axis(
            corner[chunk, 0],
            extent[chunk, 0],
            samples[chunk, 0],
            output_size[1],
            width,
            sampling_ratio,
        )
        y_cell, y_weight = _axis(
            corner[chunk, 1],
            extent[chunk, 1],
            samples[chunk, 1],
            output_size[0],
            height,
            sampling_ratio,
        )
        # (r, S_y, 1, E_y, 1) x (r, 1, S_x, 1, E_x)
        value = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        row_of_map = (rois[chunk, 0].long() * height)[:, None, None] + y_cell
        column = row_of_map[:, :, None, :, None] * width + x_cell[:, None, :, None, :]
        used = value != 0
        columns.append(column[used])
        values.append(value[used])
        counts.append(used.flatten(3).sum(3).flatten(1))  # (r, S_y*S_x)

    # Back from size order to the RoIs' own order.
    count = torch.cat(counts)
    inverse = order.argsort()
    own_count = count[inverse]
    first = _starts(count.sum(1))[:-1][inverse]  # where each RoI's entries lie in the size order
    length = own_count.sum(1)
    shift = torch.repeat_interleave(first - _starts(length)[:-1], length)
    source = torch.arange(len(shift)) + shift
    return (
        _starts(own_count.flatten()),
        torch.cat(columns)[source],
        torch.cat(values)[source],
    )


def _axis(
    corner: Tensor, extent: Tensor, samples: Tensor, bins: int, length: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Cells that each bin samples along one axis, and their weights: (r,) -> (r, bins, E) int64 and
    float.

    Samples more than one cell outside the map count as zero, others outside are clamped to its
    border, as in the original operator.
    """
    most = max(int(samples.max()), 1)
    step = (extent / bins)[:, None, None]
    index = torch.arange(most)
    per_bin = samples[:, None, None]
    position = corner[:, None, None] + torch.arange(bins)[:, None] * step
    position = position + (index + 0.5) * (step / per_bin.clamp(min=1))  # (r, bins, most)
    counted = (index < per_bin) & (position >= -1) & (position <= length)
    weight = counted / per_bin.clamp(min=1)
    position = position.clamp(min=0)
    low = position.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    fraction = torch.where(low >= length - 1, 0.0, position - low)
    low_weight, high_weight = (1 - fraction) * weight, fraction * weight
    if sampling_ratio > 0:
        return torch.cat([low, high], -1), torch.cat([low_weight, high_weight], -1)
    # Adaptive samples are at most one cell apart, so a bin covers at most `most + 2` consecutive
    # cells: merge them.
    first = low[..., :1]
    merged = low_weight.new_zeros(*low.shape[:2], most + 2)
    merged.scatter_add_(2, (low - first).clamp(max=most + 1), low_weight)
    merged.scatter_add_(2, (high - first).clamp(max=most + 1), high_weight)
    return (first + torch.arange(most + 2)).clamp(max=length - 1), merged
