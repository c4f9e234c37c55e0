"""What others computed from their weights, by the names in their files: mmdetection 1.x, and
ImageNet classifiers.

Plain functions of tensors: Res2Net's own backbone (first blocks pool their last split at any
stride), FPN, RPN, and heads whose class 0 is the background. Written from the papers and from what
is known of 1.x; nothing of the package is used.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = w[f'{name}.weight']
    return F.conv2d(x, kernel, w.get(f'{name}.bias'), stride, kernel.shape[-1] // 2)


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, var = w[f'{name}.running_mean'], w[f'{name}.running_var']
    return F.batch_norm(x, mean, var, w[f'{name}.weight'], w[f'{name}.bias'])


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f'{name}.weight'], w[f'{name}.bias'])


# ------------------------------------------------------------------------------- features


def res2net(w: Weights, x: Tensor, prefix: str = '', pool_always: bool = True) -> list[Tensor]:
    """C2 to C5. The stem is a sequence ``conv1`` followed by ``bn1``, or one 7x7 ``conv1``."""
    p = prefix
    deep = f'{p}conv1.0.weight' in w
    if deep:
        x = norm(w, f'{p}conv1.1', conv(w, f'{p}conv1.0', x, 2)).relu()
        x = norm(w, f'{p}conv1.4', conv(w, f'{p}conv1.3', x)).relu()
        x = norm(w, f'{p}bn1', conv(w, f'{p}conv1.6', x)).relu()
    else:
        x = norm(w, f'{p}bn1', conv(w, f'{p}conv1', x, 2)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    outs = []
    for stage in range(1, 5):
        block = 0
        while f'{p}layer{stage}.{block}.conv1.weight' in w:
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(w, f'{p}layer{stage}.{block}', x, stride, block == 0, deep, pool_always)
            block += 1
        outs.append(x)
    return outs


def _block(
    w: Weights, p: str, x: Tensor, stride: int, first: bool, deep: bool, pool_always: bool
) -> Tensor:
    splits = norm(w, f'{p}.bn1', conv(w, f'{p}.conv1', x)).relu()
    splits = splits.split(w[f'{p}.convs.0.weight'].shape[1], 1)
    outs: list[Tensor] = []
    for j, split in enumerate(splits[:-1]):
        y = split if first or j == 0 else split + outs[-1]
        outs.append(norm(w, f'{p}.bns.{j}', conv(w, f'{p}.convs.{j}', y, stride)).relu())
    pooled = first and (stride > 1 or pool_always)
    outs.append(F.avg_pool2d(splits[-1], 3, stride, 1) if pooled else splits[-1])
    y = norm(w, f'{p}.bn3', conv(w, f'{p}.conv3', torch.cat(outs, 1)))
    if not first:
        return (x + y).relu()
    if deep:
        x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        return (norm(w, f'{p}.downsample.2', conv(w, f'{p}.downsample.1', x)) + y).relu()
    return (norm(w, f'{p}.downsample.1', conv(w, f'{p}.downsample.0', x, stride)) + y).relu()


def resnet(w: Weights, x: Tensor) -> list[Tensor]:
    """C2 to C5 of torchvision's ResNet with bottlenecks."""
    x = F.max_pool2d(norm(w, 'bn1', conv(w, 'conv1', x, 2)).relu(), 3, 2, 1)
    outs = []
    for stage in range(1, 5):
        block = 0
        while f'layer{stage}.{block}.conv1.weight' in w:
            p, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            y = norm(w, f'{p}.bn1', conv(w, f'{p}.conv1', x)).relu()
            y = norm(w, f'{p}.bn2', conv(w, f'{p}.conv2', y, stride)).relu()
            y = norm(w, f'{p}.bn3', conv(w, f'{p}.conv3', y))
            if block == 0:
                x = norm(w, f'{p}.downsample.1', conv(w, f'{p}.downsample.0', x, stride))
            x = (x + y).relu()
            block += 1
        outs.append(x)
    return outs


def fpn(w: Weights, feats: list[Tensor]) -> list[Tensor]:
    """P2 to P6."""
    maps = [conv(w, f'neck.lateral_convs.{i}.conv', x) for i, x in enumerate(feats)]
    for i in range(3, 0, -1):
        maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], maps[i - 1].shape[-2:])
    maps = [conv(w, f'neck.fpn_convs.{i}.conv', x) for i, x in enumerate(maps)]
    return [*maps, maps[-1][:, :, ::2, ::2]]


def rpn(w: Weights, feat: Tensor) -> tuple[Tensor, Tensor]:
    x = conv(w, 'rpn_head.rpn_conv', feat).relu()
    return conv(w, 'rpn_head.rpn_cls', x), conv(w, 'rpn_head.rpn_reg', x)


# ------------------------------------------------------------------------------- heads


def box_head(w: Weights, p: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """RoI features (R, C, 7, 7) -> logits (R, 1 + K), background first, and deltas (R, 1 + K, 4) or
    (R, 1, 4)."""
    x = linear(w, f'{p}.shared_fcs.0', x.flatten(1)).relu()
    x = linear(w, f'{p}.shared_fcs.1', x).relu()
    deltas = linear(w, f'{p}.fc_reg', x)
    return linear(w, f'{p}.fc_cls', x), deltas.unflatten(1, (-1, 4))


def mask_head(w: Weights, p: str, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """RoI features (R, C, 14, 14) -> logits (R, 1 + K, 28, 28) and the features handed on."""
    if before is not None:
        x = x + conv(w, f'{p}.conv_res.conv', before).relu()
    for i in range(4):
        x = conv(w, f'{p}.convs.{i}.conv', x).relu()
    up = F.conv_transpose2d(x, w[f'{p}.upsample.weight'], w[f'{p}.upsample.bias'], 2).relu()
    return conv(w, f'{p}.conv_logits', up), x


def semantic_head(w: Weights, feats: list[Tensor]) -> tuple[Tensor, Tensor]:
    """P2 to P6 -> logits and embedding at P3's resolution."""
    x = torch.zeros(())
    for i, feat in enumerate(feats):
        if i != 1:
            feat = F.interpolate(feat, feats[1].shape[-2:], mode='bilinear', align_corners=True)
        x = x + conv(w, f'semantic_head.lateral_convs.{i}.conv', feat).relu()
    for i in range(4):
        x = conv(w, f'semantic_head.convs.{i}.conv', x).relu()
    embedding = conv(w, 'semantic_head.conv_embedding.conv', x).relu()
    return conv(w, 'semantic_head.conv_logits', x), embedding


# ------------------------------------------------------------------------------- detections


def decode(boxes: Tensor, deltas: Tensor, stds: list[float], size: tuple[int, int]) -> Tensor:
    """Boxes (R, 4) and deltas (R, 4) -> boxes inside an image of ``size`` (height, width), with the
    box widths of 2.x: that is the model's affair, not the weights'."""
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(1)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + w / 2 + dx * w, boxes[:, 1] + h / 2 + dy * h
    limit = np.log(1000 / 16)
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    out = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    return out.clamp(min=0).minimum(torch.tensor([size[1], size[0], size[1], size[0]]))


def suppress(boxes: Tensor, scores: Tensor, iou_thr: float) -> list[int]:
    """Indices kept by non-maximum suppression, best first."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        both = boxes[kept]
        low, high = both[:, :2].maximum(boxes[i, :2]), both[:, 2:].minimum(boxes[i, 2:])
        inter = (high - low).clamp(min=0).prod(1)
        union = (areas[kept] + areas[i] - inter).clamp(min=1e-6)  # boxes may have no area
        if not kept or (inter / union).max() <= iou_thr:
            kept.append(i)
    return kept
