"""One panoptic map of instances and stuff (https://arxiv.org/abs/1801.00868, section 4.2).

Instances are painted by descending score: one that has lost too large a part of its pixels to
better ones is left out whole, of another one the free pixels are painted. Stuff takes what is left,
unless its class covers too few pixels.

Shape legend: N instances, C semantic classes, H W the image, P = H W pixels, U groups of pixels.
"""

import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.postprocess import Detections
from mmdet_r2.registry import MODELS
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET


@MODELS.register_module()
class HeuristicFusionHead(BaseModule):
    """The rule of the paper, which mmdetection 3.x and detectron2 share.

    They differ in the instances it is applied to: in mmdetection's configs ``test_cfg.rcnn`` keeps
    those above a score of 0.6 and lets classes suppress each other; detectron2 takes those of the
    ordinary detections that score at least 0.5 (``score_thr``).

    Args:
        num_things_classes, num_stuff_classes: 80 and 53 in COCO.
        test_cfg: ``mask_overlap`` (default 0.5): an instance is left out when a larger part of it
            is taken; ``stuff_area_limit`` (4096): pixels below which a stuff class is left out;
            ``score_thr`` (0): instances with a lower score are left out.

    Raises:
        ConfigError: a threshold is out of range.
    """

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        test_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        options = dict(mask_overlap=0.5, stuff_area_limit=4096, score_thr=0.0) | (test_cfg or {})
        if len(options) > 3:
            unknown = sorted(set(options) - {'mask_overlap', 'stuff_area_limit', 'score_thr'})
            raise ConfigError(f'test_cfg.panoptic.{unknown[0]}: no such key')
        if not 0 <= options['mask_overlap'] <= 1 or options['stuff_area_limit'] < 0:
            raise ConfigError(
                f'test_cfg.panoptic is {options}: expected mask_overlap between 0 and 1, and '
                'stuff_area_limit of 0 or more'
            )
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.mask_overlap = options['mask_overlap']
        self.stuff_area_limit = options['stuff_area_limit']
        self.score_thr = options['score_thr']

    @torch.no_grad()
    def predict(self, instances: list[Detections], logits: list[Tensor]) -> list[PixelData]:
        """The panoptic map of each image, ``sem_seg`` (1, H, W) int32.

        A pixel of a thing is ``label + k * INSTANCE_OFFSET`` for the k-th instance, from 1 on; of
        stuff it is the label (from ``num_things_classes`` on); where there is neither, it is
        ``num_classes``.

        Args:
            instances: with ``masks`` (N, H, W) bool.
            logits: B x (C, H, W), the things last.
        """
        return [
            PixelData(sem_seg=self.fuse(found, _argmax(own))[None])
            for found, own in zip(instances, logits, strict=True)
        ]

    def fuse(self, instances: Detections, semantic: Tensor) -> Tensor:
        """The panoptic map (H, W) int32 of one image.

        Args:
            semantic: (H, W) int64, 0 to C - 1; C - 1 is any thing.
        """
        if instances.masks is None:
            raise ValueError('the fusion needs instances with masks')
        order = instances.scores.argsort(descending=True, stable=True)
        kept = instances[order[instances.scores[order] >= self.score_thr]]
        assert kept.masks is not None
        owner, painted = paint(kept.masks, self.mask_overlap)
        free = owner == 0

        # Pixels of each class. Things that no instance accounts for become void, which has their
        # number; what belongs to an instance is counted as one class more.
        void = self.num_stuff_classes
        semantic = torch.where(free, semantic, void + 1)
        areas = semantic.flatten().bincount(minlength=void + 2)
        label = torch.arange(void + 2, device=semantic.device)
        label = label.where((areas >= self.stuff_area_limit) & (label < void), void)

        labels = torch.cat([kept.labels.new_zeros(1), kept.labels[painted]])
        things = labels[owner] + owner * INSTANCE_OFFSET
        return torch.where(free, label[semantic] + self.num_things_classes, things).int()


def paint(masks: Tensor, max_overlap: float) -> tuple[Tensor, Tensor]:
    """Paint masks one over the other, the first on top.

    A mask is left out when it is empty, or when a larger part of it than ``max_overlap`` is painted
    already.

    Args:
        masks: (N, H, W) bool.

    Returns:
        Owners (H, W) int64: 0 none, k the k-th painted mask; and the painted masks' indices (n,).
    """
    num, height, width = masks.shape
    if num == 0 or height * width == 0:
        none = torch.zeros((height, width), dtype=torch.long, device=masks.device)
        return none, none.new_zeros(0)
    by = _paint_pixels if masks.device.type == 'cpu' else _paint_runs
    owners, painted = by(masks.flatten(1), max_overlap)
    order = torch.tensor(painted, dtype=torch.long, device=masks.device)
    return owners.view(height, width), order


def _paint_pixels(masks: Tensor, max_overlap: float) -> tuple[Tensor, list[int]]:
    """:func:`paint` of (N, P) on the CPU, where counting bytes is fast."""
    owner, painted = np.zeros(masks.shape[1], np.int64), []
    free = np.ones(masks.shape[1], bool)
    for k, mask in enumerate(masks.numpy()):
        area, new = int(np.count_nonzero(mask)), mask & free
        if area == 0 or (area - int(np.count_nonzero(new))) / area > max_overlap:
            continue
        painted.append(k)
        np.copyto(owner, len(painted), where=new)
        free &= ~mask
    return torch.from_numpy(owner), painted


def _paint_runs(masks: Tensor, max_overlap: float) -> tuple[Tensor, list[int]]:
    """:func:`paint` of (N, P) on a GPU, in a number of operations that does not depend on N.

    Pixels that belong to the same masks share their fate, and neighbours mostly do. So the image is
    cut into runs of such pixels on the device, and the rule, one mask after the other, works on the
    few different sets of masks on the host.
    """
    bits = _pack(masks)
    starts = torch.ones(bits.shape[1], dtype=torch.bool, device=masks.device)
    starts[1:] = (bits[:, 1:] != bits[:, :-1]).any(0)
    first = starts.nonzero()[:, 0]
    lengths = np.diff(first.cpu().numpy(), append=bits.shape[1])
    rows = bits[:, first].T.contiguous().cpu().numpy()
    # Rows as strings of bytes: numpy sorts them fifteen times as fast as it sorts rows.
    groups, group = np.unique(rows.view(f'V{rows.shape[1]}')[:, 0], return_inverse=True)
    groups = groups.view(np.uint8).reshape(-1, rows.shape[1])
    sizes = np.bincount(group, lengths, len(groups)).astype(np.int64)
    members = np.unpackbits(groups, axis=1, count=len(masks), bitorder='little').astype(bool).T

    owner, painted = np.zeros(len(groups), np.int64), []
    for k, member in enumerate(members):  # (U,) each
        area, new = int(sizes[member].sum()), member & (owner == 0)
        if area == 0 or (area - int(sizes[new].sum())) / area > max_overlap:
            continue
        painted.append(k)
        owner[new] = len(painted)
    of_run = torch.from_numpy(owner[group]).to(masks.device)
    return of_run[starts.cumsum(0) - 1], painted


def _pack(masks: Tensor) -> Tensor:
    """Which masks each pixel is in, a bit each: (N, P) bool -> (ceil(N / 8), P) uint8."""
    bits = masks.new_zeros((-(-len(masks) // 8), masks.shape[1]), dtype=torch.uint8)
    for i in range(min(8, len(masks))):
        part = masks[i::8].view(torch.uint8)
        bits[: len(part)] |= part << i
    return bits


def _argmax(logits: Tensor) -> Tensor:
    """The best class of each pixel, the first of equal ones: (C, H, W) -> (H, W) int64.

    On a CPU torch's own takes five times as long unless the channels lie innermost, and numpy
    compares twice as fast as torch does.
    """
    if logits.device.type != 'cpu' or logits.stride(0) == 1:
        return logits.argmax(0)
    count = len(logits)
    best, values = logits.amax(0).float().numpy(), logits.float().numpy()
    # Counted from the last class, so that the largest number is the first class; 1 where a pixel
    # is not a number and equals nothing.
    rank = np.ones(best.shape, np.uint8 if count < 256 else np.int32)
    hit = np.empty(best.shape, bool)
    for i, value in enumerate(values):
        np.equal(value, best, out=hit)
        np.maximum(rank, hit * rank.dtype.type(count - i), out=rank)
    return torch.from_numpy(count - rank.astype(np.int64))
