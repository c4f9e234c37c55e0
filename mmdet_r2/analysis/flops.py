"""What a detector costs: parameters and multiply-adds of its parts, and of their parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PARTS = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'roi_head')


@dataclass
class Cost:
    """Of one part.

    Attributes:
        name: of the part; parts of it have dots.
        parameters: numbers that are learnt, or loaded.
        macs: multiply-adds for one image.
    """

    name: str
    parameters: int
    macs: int

    @property
    def whole(self) -> bool:
        """Whether it is a part of the detector rather than of one of its parts."""
        return '.' not in self.name


def count(model: nn.Module, shape: tuple[int, int]) -> list[Cost]:
    """Costs of the backbone, the pyramid and the heads, each followed by those of its parts.

    Convolutions (deformable ones, too) and matrix products are counted. The RoI head is counted for
    as many proposals, and its masks for as many detections, as the config allows: it costs at most
    that. The parts of a RoI head are what it does: ``stage0``, ... for boxes, ``mask``, and
    ``context`` for HTC's semantics.

    Args:
        model: a detector, on the CPU.
        shape: height and width of the image, pixels.
    """
    model.eval()
    costs = []
    with torch.no_grad():
        feats: Any = torch.zeros(1, 3, *shape)
        for name in PARTS:
            part = getattr(model, name, None)
            if part is None:
                continue
            if name == 'roi_head':
                inner = _roi_head(model, feats, shape)
                total = sum(cost.macs for cost in inner)
            else:
                result, total, inner = _run(part, name, feats)
                if name in ('backbone', 'neck'):
                    feats = result
            costs += [Cost(name, _parameters(part), total), *inner]
    return costs


def _run(part: nn.Module, name: str, feats: Any) -> tuple[Any, int, list[Cost]]:
    """Output of a part, its multiply-adds, and the costs of its direct children."""
    counter = FlopCounterMode(display=False)
    with counter:
        result = part(feats)
    by_module = counter.get_flop_counts()
    inner = []
    for child_name, child in part.named_children():
        macs = _macs_of(child, f'{type(part).__name__}.{child_name}', by_module)
        if macs:
            inner.append(Cost(f'{name}.{child_name}', _parameters(child), macs))
    return result, counter.get_total_flops() // 2, inner


def _macs_of(module: nn.Module, name: str, by_module: dict[str, dict[Any, int]]) -> int:
    if name in by_module:
        return sum(by_module[name].values()) // 2
    # lists of modules are never called themselves
    return sum(_macs_of(m, f'{name}.{child}', by_module) for child, m in module.named_children())


def _roi_head(model: nn.Module, feats: Any, shape: tuple[int, int]) -> list[Cost]:
    """Costs of all stages: boxes for all proposals, masks for all detections."""

    def macs_of(function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
        counter = FlopCounterMode(display=False)
        with counter:
            result = function(*args)
        return result, counter.get_total_flops() // 2

    rpn: Any = getattr(model, 'rpn_head', None)
    head: Any = model.roi_head
    number = rpn.test_selector.max_per_img if rpn is not None else 1000
    boxes = torch.tensor([[0.0, 0.0, shape[1] / 4, shape[0] / 4]])
    rois = torch.cat([torch.zeros(number, 1), boxes.expand(number, 4)], 1)
    costs = []
    context, macs = macs_of(head.context, feats)
    if macs:
        semantic = getattr(head, 'semantic_head', None)
        costs.append(Cost('roi_head.context', _parameters(semantic), macs))
    for i, stage in enumerate(head.stages):
        _, macs = macs_of(head.box_forward, stage, feats, context, rois)
        costs.append(Cost(f'roi_head.stage{i}', _parameters(stage.box_head), macs))
    if head.with_mask:
        most: Tensor = rois[: max(head.selector.max_per_img, 0)]
        labels = torch.zeros(len(most), dtype=torch.long)
        _, macs = macs_of(head.mask_forward, feats, context, most, labels)
        costs.append(Cost('roi_head.mask', _parameters(head.mask_head), macs))
    return costs


def _parameters(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
