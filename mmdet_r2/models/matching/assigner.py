"""Assign every box to an object, to background, or to nothing, by IoU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import TASK_UTILS
from mmdet_r2.structures.boxes import box_iof, box_iou, check_offset

BACKGROUND, IGNORED = -1, -2

# Entries of one IoU block (float32, plus about six temporaries of the same size): 5,000 objects
# against 268,569 anchors stay below 512 MB, and an ordinary image is one block.
_MAX_BLOCK = 1 << 24


@dataclass
class Match:
    """What the boxes of one image were assigned to.

    ``gt_index`` (P,) int64: index of the object, ``BACKGROUND`` or ``IGNORED``; ``iou`` (P,): best
    IoU with any object.
    """

    gt_index: Tensor
    iou: Tensor

    def without(self, excluded: Tensor) -> 'Match':
        """The same, but the boxes ``excluded`` (P,) bool are ignored, whosever they were."""
        return Match(self.gt_index.masked_fill(excluded, IGNORED), self.iou)

    def with_gt(self, num_gt: int) -> 'Match':
        """The match of the candidate list that has the ``num_gt`` objects themselves in front, each
        its own match.
        """
        own = torch.arange(num_gt, device=self.gt_index.device)
        return Match(
            torch.cat([own, self.gt_index]), torch.cat([self.iou.new_ones(num_gt), self.iou])
        )


@TASK_UTILS.register_module()
class BboxOverlaps2D:
    """IoU of all pairs of boxes, for ``iou_calculator``: the only one there is.

    Args:
        scale: of boxes before they become ``dtype``; only 1 is implemented.
        dtype: only None, the boxes' own.
    """

    def __init__(self, scale: float = 1.0, dtype: str | None = None) -> None:
        if scale != 1 or dtype is not None:
            raise ConfigError(
                f'BboxOverlaps2D scale={scale!r}, dtype={dtype!r}: only 1 and None are implemented'
            )

    def __call__(self, boxes: Tensor, others: Tensor, mode: str = 'iou') -> Tensor:
        """(N, 4) and (M, 4) xyxy -> (N, M) IoU; with ``mode`` 'iof' the share of ``boxes``."""
        if mode not in ('iou', 'iof'):
            raise ConfigError(f"BboxOverlaps2D mode={mode!r}: expected 'iou' or 'iof'")
        return box_iou(boxes, others) if mode == 'iou' else box_iof(boxes, others)


@TASK_UTILS.register_module()
class MaxIoUAssigner:
    """Best-IoU assignment of Faster R-CNN (https://arxiv.org/abs/1506.01497).

    A box is an object's when its best IoU is at least ``pos_iou_thr``, background below
    ``neg_iou_thr`` (or inside the range ``neg_iou_thr`` = (low, high)), and ignored between. With
    ``match_low_quality``, each object of best IoU at least ``min_pos_iou`` also claims the box (all
    tied boxes with ``gt_max_assign_all``) it overlaps most, even from another object; of several
    claims the last object's wins.

    Args:
        low_quality_target: what a claimed box is trained on: 'claimant', the object that claims it,
            or 'nearest', the object that it overlaps most, as in detectron2 and maskrcnn-benchmark.
        ignore_iof_thr: boxes that lie in an ignore region by more than this share are ignored;
            negative: never.
        ignore_wrt_candidates: the share is of the box's own area rather than of the region's.
        offset: 1 for pixel boxes (see ``structures.boxes``).
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | tuple[float, float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        ignore_wrt_candidates: bool = True,
        match_low_quality: bool = True,
        gpu_assign_thr: float = -1,  # accepted, unused: blocks bound the memory instead
        iou_calculator: dict | None = None,
        low_quality_target: str = 'claimant',
        offset: int = 0,
    ) -> None:
        if low_quality_target not in ('claimant', 'nearest'):
            raise ConfigError(
                f'MaxIoUAssigner low_quality_target={low_quality_target!r}: expected claimant or '
                'nearest'
            )
        self.claimant_wins = low_quality_target == 'claimant'
        if iou_calculator is not None:
            calculator = TASK_UTILS.build(iou_calculator)
            if type(calculator) is not BboxOverlaps2D:
                raise ConfigError(
                    f'MaxIoUAssigner iou_calculator={iou_calculator}: only BboxOverlaps2D is known'
                )
        self.pos_iou_thr = pos_iou_thr
        self.neg_range = (
            (0.0, neg_iou_thr) if isinstance(neg_iou_thr, int | float) else tuple(neg_iou_thr)
        )
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.ignore_iof_thr = ignore_iof_thr
        self.ignore_wrt_candidates = ignore_wrt_candidates
        self.match_low_quality = match_low_quality
        self.offset = check_offset('assigner.offset', offset)

    @torch.no_grad()
    def assign(
        self,
        boxes: Tensor,
        gt_boxes: Tensor,
        ignored: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Match:
        """Assign the boxes of one image.

        Args:
            boxes: (P, 4) xyxy; gt_boxes: (G, 4) xyxy; ignored: (I, 4) regions.
            valid: (P,) bool; a box that is not is ignored and cannot be any object's best.
        """
        num_gt = gt_boxes.shape[0]
        if num_gt == 0 or boxes.shape[0] == 0:
            gt_index = boxes.new_full((boxes.shape[0],), BACKGROUND, dtype=torch.long)
            if valid is not None:
                gt_index[~valid] = IGNORED
            return Match(gt_index, boxes.new_zeros(boxes.shape[0]))

        size = max(1, _MAX_BLOCK // num_gt)
        parts = [slice(start, start + size) for start in range(0, boxes.shape[0], size)]
        block = None
        best_iou, best_gt, gt_best, gt_best_box = [], [], None, None
        for part in parts:
            block = self._overlaps(
                boxes[part], gt_boxes, ignored, None if valid is None else valid[part]
            )
            iou, index = block.max(dim=0)
            best_iou.append(iou)
            best_gt.append(index)
            if self.match_low_quality:
                block_best, block_box = block.max(dim=1)
                if gt_best is None:
                    gt_best, gt_best_box = block_best, block_box
                else:
                    better = block_best > gt_best
                    gt_best_box = torch.where(better, block_box + part.start, gt_best_box)
                    gt_best = torch.where(better, block_best, gt_best)
        iou, nearest = torch.cat(best_iou), torch.cat(best_gt)

        low, high = self.neg_range
        gt_index = torch.full_like(nearest, IGNORED)
        gt_index = torch.where((iou >= low) & (iou < high), BACKGROUND, gt_index)
        gt_index = torch.where(iou >= self.pos_iou_thr, nearest, gt_index)
        if self.match_low_quality:
            claims = gt_best >= self.min_pos_iou
            if self.gt_max_assign_all:
                claimed = []
                for part in parts:
                    if (
                        len(parts) > 1
                    ):  # the only block is still at hand; several are recomputed, not kept
                        block = self._overlaps(
                            boxes[part], gt_boxes, ignored, None if valid is None else valid[part]
                        )
                    claimed.append(_last_claim(block, gt_best, claims))
                owner = torch.cat(claimed)
                target = owner if self.claimant_wins else nearest
                gt_index = torch.where(owner >= 0, target, gt_index)
            else:
                for i in claims.nonzero()[:, 0].tolist():
                    box = gt_best_box[i]
                    gt_index[box] = i if self.claimant_wins else nearest[box]
        return Match(gt_index, iou)

    def _overlaps(
        self, boxes: Tensor, gt_boxes: Tensor, ignored: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        """IoU (G, p), with -1 in the columns of boxes that take no part."""
        iou = box_iou(gt_boxes, boxes, offset=self.offset)
        if self.ignore_iof_thr > 0 and ignored is not None and ignored.numel():
            if self.ignore_wrt_candidates:
                share = box_iof(boxes, ignored, offset=self.offset).amax(1)
            else:
                share = box_iof(ignored, boxes, offset=self.offset).amax(0)
            iou = iou.masked_fill((share > self.ignore_iof_thr)[None], -1)
        if valid is not None:
            iou = iou.masked_fill(~valid[None], -1)
        return iou


def _last_claim(iou: Tensor, gt_best: Tensor, claims: Tensor) -> Tensor:
    """Highest object index whose best IoU is met in each column of ``iou`` (G, p), -1 where none:
    (p,) int64.
    """
    index = torch.arange(iou.shape[0], device=iou.device, dtype=torch.int32)
    hit = (iou == gt_best[:, None]) & claims[:, None]
    return torch.where(hit, index[:, None], -1).amax(0).long()
