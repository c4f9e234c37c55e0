"""Choose which assigned boxes take part in the loss."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.matching.assigner import BACKGROUND, Match
from mmdet_r2.registry import TASK_UTILS


@dataclass
class Sample:
    """The chosen boxes of one image: positives first, then negatives.

    ``index`` (r,) int64 into the candidates, ``gt_index`` (r,) int64 (``BACKGROUND`` for
    negatives), ``num_pos`` int; ``count_neg``: negatives count in :attr:`avg_factor`.
    """

    index: Tensor
    gt_index: Tensor
    num_pos: int
    count_neg: bool = True

    @property
    def avg_factor(self) -> int:
        """Number of chosen boxes; positives and negatives count at least one each, as in
        mmdetection.
        """
        num_neg = max(len(self.index) - self.num_pos, 1) if self.count_neg else 0
        return max(self.num_pos, 1) + num_neg


def positive_weight(key: str, train_cfg: dict) -> float:
    """Factor on the classification loss of positives: ``train_cfg.KEY.pos_weight``, 1 where that is
    not above 0.
    """
    given = train_cfg.get('pos_weight', -1)
    if isinstance(given, bool) or not isinstance(given, int | float) or math.isnan(given):
        raise ConfigError(f'train_cfg.{key}.pos_weight={given!r}: expected a number')
    return float(given) if given > 0 else 1.0


@TASK_UTILS.register_module()
class RandomSampler:
    """Up to ``num`` boxes at random, at most ``pos_fraction`` of them positive.

    The random numbers are drawn as mmdetection draws them (one CPU ``randperm`` for the positives
    when there are too many, then one for the negatives, image by image), so a seeded step picks the
    same boxes.

    Args:
        neg_pos_ub: at most this many negatives per positive; negative: no bound.
        add_gt_as_proposals: the objects' own boxes join the candidates (RoI heads).
        gt_position: 'front': ahead of the others, each its own object's; 'end': behind them, and
            assigned like them (of objects with equal boxes the first gets all), as in
            maskrcnn-benchmark and detectron2.
    """

    needs_loss = False

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        gt_position: str = 'front',
    ) -> None:
        if gt_position not in ('front', 'end'):
            raise ConfigError(f'sampler.gt_position={gt_position!r}: expected front or end')
        self.gt_in_front = gt_position == 'front'
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def sample(self, match: Match, loss: Tensor | None = None) -> Sample:
        """Choose from one image's candidates; ``loss`` (P,) ranks them where ``needs_loss``."""
        pos = self._choose(
            (match.gt_index >= 0).nonzero()[:, 0], int(self.num * self.pos_fraction), loss
        )
        budget = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            budget = min(budget, int(self.neg_pos_ub * max(1, len(pos))))
        neg = self._choose((match.gt_index == BACKGROUND).nonzero()[:, 0], budget, loss)
        index = torch.cat([pos, neg])
        return Sample(index, match.gt_index[index], len(pos))

    def _choose(self, candidates: Tensor, num: int, loss: Tensor | None) -> Tensor:
        """``num`` of the candidates, ascending; all of them when there are no more."""
        if len(candidates) <= num:
            return candidates
        picked = torch.randperm(len(candidates))[:num].to(candidates.device)
        return candidates[picked].sort().values


@TASK_UTILS.register_module()
class OHEMSampler(RandomSampler):
    """The boxes of highest classification loss instead of random ones
    (https://arxiv.org/abs/1604.03540).
    """

    needs_loss = True

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        loss_key: str = 'loss_cls',
    ) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        if loss_key != 'loss_cls':
            raise ConfigError(f'OHEMSampler loss_key={loss_key!r}: only loss_cls is known')

    def _choose(self, candidates: Tensor, num: int, loss: Tensor | None) -> Tensor:
        assert loss is not None, 'the RoI head hands over the loss where needs_loss is set'
        if len(candidates) <= num:
            return candidates
        return candidates[loss[candidates].topk(num).indices].sort().values


@TASK_UTILS.register_module()
class PseudoSampler:
    """Every positive and every negative, and nothing added; losses are divided by the number of
    positives.

    Args:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: those of a :class:`RandomSampler` that a
            config replaces by this; nothing is chosen by them.
    """

    needs_loss = False
    add_gt_as_proposals = False
    gt_in_front = True

    def __init__(
        self,
        num: int | None = None,
        pos_fraction: float | None = None,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = False,
    ) -> None:
        pass

    def sample(self, match: Match, loss: Tensor | None = None) -> Sample:
        """All of one image's candidates that are not ignored."""
        pos = (match.gt_index >= 0).nonzero()[:, 0]
        neg = (match.gt_index == BACKGROUND).nonzero()[:, 0]
        index = torch.cat([pos, neg])
        return Sample(index, match.gt_index[index], len(pos), count_neg=False)
