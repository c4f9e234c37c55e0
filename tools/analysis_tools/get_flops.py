"""Parameters and multiply-adds of a detector and of each of its parts.

python tools/analysis_tools/get_flops.py CONFIG [--shape 800 1280]
"""

import argparse

import torch
from mmengine.config import DictAction
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.registry import MODELS, init_scope

PARTS = ('backbone', 'neck', 'rpn_head', 'roi_head')


def count(model: nn.Module, shape: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Parameters (M) and multiply-adds (G) of each part, for one image of ``shape`` (h, w).

    Counted are convolutions and matrix products (deformable convolutions are not). The RoI head is
    counted for as many proposals as the config allows, which is what it costs at most.
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    macs = {}

    def counted(function, *args):
        with counter:
            result = function(*args)
        return result, counter.get_total_flops() / 2e9

    with torch.no_grad():
        image = torch.zeros(1, 3, *shape)
        feats, macs['backbone'] = counted(model.backbone, image)
        if model.neck is not None:
            feats, macs['neck'] = counted(model.neck, feats)
        if model.rpn_head is not None:
            _, macs['rpn_head'] = counted(model.rpn_head, feats)
        if model.roi_head is not None:
            macs['roi_head'] = _roi_head(model, feats, shape, counted)
    parts = {name: getattr(model, name) for name in PARTS if getattr(model, name) is not None}
    return {
        name: (sum(p.numel() for p in part.parameters()) / 1e6, macs[name])
        for name, part in parts.items()
    }


def _roi_head(model, feats, shape, counted) -> float:
    """Multiply-adds (G) of all stages: boxes for all proposals, masks for all detections."""
    selector = model.rpn_head.test_selector if model.rpn_head is not None else None
    boxes = torch.tensor([[0.0, 0.0, shape[1] / 4, shape[0] / 4]])
    proposals = boxes.expand(selector.max_per_img if selector is not None else 1000, 4)
    rois = torch.cat([proposals.new_zeros(len(proposals), 1), proposals], 1)
    head = model.roi_head
    context, total = counted(head.context, feats)
    for stage in head.stages:
        total += counted(head.box_forward, stage, feats, context, rois)[1]
    if head.with_mask:
        most = rois[: max(head.selector.max_per_img, 0)]
        labels = torch.zeros(len(most), dtype=torch.long)
        total += counted(head.mask_forward, feats, context, most, labels)[1]
    return total


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Count parameters and multiply-adds.')
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        '--shape', type=int, nargs=2, default=(800, 1280), metavar=('H', 'W'), help='of the image'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def main() -> None:
    """Parse, count, print."""
    args = parse_args()
    if min(args.shape) < 32:
        raise ConfigError(f'--shape {args.shape[0]} {args.shape[1]}: at least 32 32 is needed.')
    cfg = load_config(args.config, args.cfg_options)
    init_scope()
    cfg.model.backbone.init_cfg = None
    figures = count(MODELS.build(cfg.model), tuple(args.shape))
    print(f'{"":10} {"parameters":>12} {"multiply-adds":>14}  ({args.shape[0]}x{args.shape[1]})')
    for name, (parameters, macs) in figures.items():
        print(f'{name:10} {parameters:10.2f} M {macs:12.2f} G')
    total = [sum(column) for column in zip(*figures.values())]
    print(f'{"all":10} {total[0]:10.2f} M {total[1]:12.2f} G')


if __name__ == '__main__':
    run_cli(main)
