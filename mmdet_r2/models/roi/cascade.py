"""Cascade R-CNN (https://arxiv.org/abs/1712.00726): stages of rising IoU thresholds, each trained
on the boxes that the one before has refined.
"""

from collections.abc import Sequence

from mmengine.model import ModuleList

from mmdet_r2.models.roi.head import RoIHead
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.models.roi.standard import refuse_shared_head
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class CascadeRoIHead(RoIHead):
    """``num_stages`` box heads in a row and, where ``mask_head`` is given, as many mask heads.

    Each stage assigns and samples anew. Class logits are averaged over the stages, mask
    probabilities too.

    Args:
        num_stages: every list below has this many entries; one dict serves all stages.
        stage_loss_weights: factor on the losses of each stage.
        bbox_head, mask_head: dict or list of dicts.
        bbox_roi_extractor, mask_roi_extractor: dict or list of dicts; the box branch's extractors
            serve both when the latter is None.
        train_cfg: per stage ``assigner``, ``sampler``, ``mask_size``.
        test_cfg: see :class:`RoIHead`.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: dict | list[dict],
        bbox_head: dict | list[dict],
        mask_roi_extractor: dict | list[dict] | None = None,
        mask_head: dict | list[dict] | None = None,
        shared_head: None = None,
        train_cfg: list[dict] | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(test_cfg, init_cfg)
        refuse_shared_head(shared_head)
        _check_count('stage_loss_weights', stage_loss_weights, num_stages)
        self.bbox_roi_extractor = _extractors('bbox_roi_extractor', bbox_roi_extractor, num_stages)
        self.bbox_head = _heads('bbox_head', bbox_head, num_stages)
        self.stages = [
            Stage(extractor, head, loss_weight=weight, loss_prefix=f's{i}.')
            for i, (extractor, head, weight) in enumerate(
                zip(self.bbox_roi_extractor, self.bbox_head, stage_loss_weights, strict=True)
            )
        ]
        if mask_head is not None:
            extractors = self.bbox_roi_extractor
            if mask_roi_extractor is not None:
                self.mask_roi_extractor = extractors = _extractors(
                    'mask_roi_extractor', mask_roi_extractor, num_stages
                )
            self.mask_head = _heads('mask_head', mask_head, num_stages)
            for stage, extractor, head in zip(self.stages, extractors, self.mask_head, strict=True):
                stage.mask_extractor, stage.mask_head = extractor, head
        if train_cfg is not None:
            _check_count('train_cfg.rcnn', train_cfg, num_stages, 'assigners and samplers')
            for stage, stage_cfg in zip(self.stages, train_cfg, strict=True):
                stage.set_train_cfg(stage_cfg)


def _heads(key: str, config: dict | list[dict], num_stages: int) -> ModuleList:
    """Heads in mmengine's list, through which ``init_weights`` reaches them (torch's hides them,
    and in mmdetection 3.x the mask heads of cascades).
    """
    configs = [config] * num_stages if isinstance(config, dict) else config
    _check_count(key, configs, num_stages)
    return ModuleList(MODELS.build(each) for each in configs)


def _extractors(key: str, config: dict | list[dict], num_stages: int) -> ModuleList:
    """Extractors have no weights: one object serves all stages that are configured alike, and what
    it pools from the same RoIs is pooled once.
    """
    configs = [config] * num_stages if isinstance(config, dict) else config
    _check_count(key, configs, num_stages)
    first = MODELS.build(configs[0])
    return ModuleList(first if c == configs[0] else MODELS.build(c) for c in configs)


def _check_count(key: str, values: Sequence, num_stages: int, what: str = 'entries') -> None:
    if isinstance(values, dict):
        raise ValueError(f'{key} is one dict: expected a list of {num_stages}, one per stage')
    if len(values) != num_stages:
        key = key if '.' in key else f'roi_head.{key}'
        raise ValueError(
            f'{key} has {len(values)} {what} for roi_head.num_stages={num_stages}: give one per '
            'stage'
        )
