"""Max pooling and deformable pooling of RoIs, in torch alone.

Shape legend: R RoIs, S output side (rows S_y, columns S_x), E samples of one output cell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

#: A window's greatest value and where it is, both (B*C, H, W).
_Greatest = tuple[Tensor, Tensor]


def roi_pool_torch(
    feature: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> Tensor:
    """RoI max pooling (https://arxiv.org/abs/1504.08083): (B, C, H, W), (R, 5) -> (R, C, S_y, S_x).

    Bins end at whole cells, outwards; RoIs end one input pixel later than they say, as mmcv's do.
    A bin without cells is 0. The gradient goes to a bin's first greatest cell in reading order.
    """
    channels, height, width = feature.shape[1:]
    begin_x, end_x = _bins(rois[:, 1], rois[:, 3], spatial_scale, output_size[1], width)
    begin_y, end_y = _bins(rois[:, 2], rois[:, 4], spatial_scale, output_size[0], height)
    shape = (len(rois), *output_size)
    top, bottom, left, right = (
        t.expand(shape).flatten()
        for t in (begin_y[:, :, None], end_y[:, :, None], begin_x[:, None], end_x[:, None])
    )
    image = rois[:, 0].long().repeat_interleave(output_size[0] * output_size[1])
    filled = ((bottom > top) & (right > left)).nonzero()[:, 0]
    cells = _greatest_cells(
        feature.detach(), *(t[filled] for t in (image, top, bottom, left, right))
    )
    every = torch.arange(channels, device=feature.device)
    values = feature.flatten(2).transpose(1, 2)[image[filled, None], cells, every]
    pooled = values.new_zeros(len(image), channels).index_copy(0, filled, values)
    return pooled.view(*shape, channels).permute(0, 3, 1, 2)


def _bins(
    begin: Tensor, end: Tensor, scale: float, bins: int, length: int
) -> tuple[Tensor, Tensor]:
    """First cell of each bin along one axis and the one behind its last: (R,) -> (R, bins) int64.

    A RoI without extent has no cells.
    """
    begin, end = begin * scale, (end + 1) * scale
    step = ((end - begin) / bins)[:, None]
    index = torch.arange(bins, device=begin.device)
    first = (index * step + begin[:, None]).floor().long().clamp(0, length)
    last = ((index + 1) * step + begin[:, None]).ceil().long().clamp(0, length)
    return first, torch.where(step > 0, last, first)


def _greatest_cells(
    feature: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """Cell of the greatest value in each of n windows: (n, C), rows of (H*W).

    Any window is the union of four, which may overlap, whose sides are powers of two. Those of all
    places are made for each pair of sides that occurs, from two of half the size.
    """
    batch, channels, height, width = feature.shape
    cells = torch.arange(height * width, device=feature.device).view(1, height, width)
    single = (feature.flatten(0, 1), cells.expand(batch * channels, -1, -1))
    made: dict[tuple[int, int], _Greatest] = {(0, 0): single}

    def windows(rows: int, columns: int) -> _Greatest:
        """Of 2**rows x 2**columns cells, by their first cell."""
        if (rows, columns) not in made:
            axis, half = (1, (rows - 1, columns)) if rows else (2, (rows, columns - 1))
            step = 2 ** ((rows or columns) - 1)
            parts = windows(*half)
            size = parts[0].shape[axis] - step
            first = tuple(part.narrow(axis, 0, size) for part in parts)
            second = tuple(part.narrow(axis, step, size) for part in parts)
            made[rows, columns] = _greater(first, second)  # type: ignore[arg-type]
        return made[rows, columns]

    power_y = torch.log2((bottom - top).float()).long()
    power_x = torch.log2((right - left).float()).long()
    result = cells.new_zeros(len(image), channels)
    for rows, columns in torch.stack([power_y, power_x], 1).unique(dim=0).tolist():
        own = ((power_y == rows) & (power_x == columns)).nonzero()[:, 0]
        table = [
            part.unflatten(0, (batch, channels)).movedim(1, -1) for part in windows(rows, columns)
        ]
        corners = [
            tuple(part[image[own], y, x] for part in table)
            for y in (top[own], bottom[own] - 2**rows)
            for x in (left[own], right[own] - 2**columns)
        ]
        best = corners[0]
        for other in corners[1:]:
            best = _greater(best, other)  # type: ignore[arg-type]
        result[own] = best[1]
    return result


def _greater(a: _Greatest, b: _Greatest) -> _Greatest:
    """The greater of two values, the first in reading order of equal ones."""
    take_b = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
    return torch.where(take_b, b[0], a[0]), torch.where(take_b, b[1], a[1])


def deform_roi_pool_torch(
    feature: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """RoIAlign whose cells move (https://arxiv.org/abs/1703.06211, section 2.2): (B, C, H, W),
    (R, 5) -> (R, C, S_y, S_x). Differentiable in the feature and the offsets.

    Args:
        offset: (R, 2, S_y, S_x), x before y, in ``gamma`` times the RoI's sides.
        sampling_ratio: samples per cell and axis; 0 takes ceil(RoI side / output side).
    """
    channels, height, width = feature.shape[1:]
    start_end = rois[:, 1:] * spatial_scale - 0.5
    corner, extent = start_end[:, :2], start_end[:, 2:] - start_end[:, :2]  # (R, 2), x before y
    moved = corner[:, :, None, None] + gamma * extent[:, :, None, None] * offset
    x_cell, x_share = _samples(moved[:, 0], extent[:, 0], output_size, 1, width, sampling_ratio)
    y_cell, y_share = _samples(moved[:, 1], extent[:, 1], output_size, 0, height, sampling_ratio)
    # (R, S_y, S_x, E_y, 1) x (R, S_y, S_x, 1, E_x), two cells a sample along either axis
    row = (rois[:, 0].long() * height)[:, None, None, None] + y_cell
    cells = row[..., :, None] * width + x_cell[..., None, :]
    shares = y_share[..., :, None] * x_share[..., None, :]
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = F.embedding_bag(
        cells.flatten(0, 2).flatten(1),
        table,
        per_sample_weights=shares.flatten(0, 2).flatten(1).to(table),
        mode='sum',
    )
    return pooled.view(len(rois), *output_size, channels).permute(0, 3, 1, 2)


def _samples(
    begin: Tensor,
    extent: Tensor,
    output_size: tuple[int, int],
    axis: int,
    length: int,
    sampling_ratio: int,
) -> tuple[Tensor, Tensor]:
    """Cells along one axis that each output cell takes samples from, and their shares: (R, S_y,
    S_x), the RoI's begin there, and (R,) -> (R, S_y, S_x, 2E) int64 and float.

    Samples more than a cell outside the map count as zero, others outside as its border.
    """
    bins = output_size[axis]
    step = extent / bins
    number = torch.ceil(step).clamp(min=0)
    if sampling_ratio > 0:
        number = torch.full_like(step, sampling_ratio)
    most = max(int(number.max()), 1)
    index = torch.arange(most, device=begin.device)
    shape = (1, bins, 1) if axis == 0 else (1, 1, bins)
    own_cell = torch.arange(bins, device=begin.device).view(shape)
    step, number = step[:, None, None], number[:, None, None]
    within = (index + 0.5) * (step / number.clamp(min=1))[..., None]
    position = (begin + own_cell * step)[..., None] + within
    counted = (index < number[..., None]) & (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    low = position.detach().long()
    weight = counted / number[..., None].clamp(min=1)
    upper = (position - low) * weight
    shares = torch.cat([weight - upper, upper], -1)
    return torch.cat([low, (low + 1).clamp(max=length - 1)], -1), shares
