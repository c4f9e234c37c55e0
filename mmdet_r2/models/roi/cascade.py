"""Cascade R-CNN (https://arxiv.org/abs/1712.00726): stages of rising IoU thresholds, each trained
on the boxes that the one before has refined.
"""

from collections.abc import Sequence

from mmengine.model import ModuleList

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.roi.head import RoIHead
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class CascadeRoIHead(RoIHead):
    """``num_stages`` box heads in a row and, where ``mask_head`` is given, as many mask heads.

    By default as in mmdetection: each stage assigns and samples anew, class logits are averaged
    over the stages, mask probabilities too. detectron2's cascade is ``resample=False``,
    ``score_average='probs'``, ``feature_grad_scale=1/3``, ``stage_loss_weights=[1, 1, 1]`` and
    ``mask_stages='first'``.

    Args:
        num_stages: every list below has this many entries; one dict serves all stages.
        stage_loss_weights: factor on the losses of each stage.
        bbox_head, mask_head: dict or list of dicts.
        bbox_roi_extractor, mask_roi_extractor: dict or list of dicts; the box branch's extractors
            serve both when the latter is None.
        resample: sample each stage's RoIs from the boxes refined by the one before, without the
            objects' own boxes among them but with those added anew. False: sample once; later
            stages train on all boxes of the one before.
        score_average: over the stages' 'logits' or 'probs'.
        feature_grad_scale: factor on the gradient from each box head to its RoI features.
        mask_stages: 'all', or 'first': one mask head (``mask_head`` is one dict, and its weights
            are called ``mask_head.*`` without a number), trained on the RoIs of the first stage.
        train_cfg: per stage ``assigner``, ``sampler`` (of the first only, without ``resample``),
            ``mask_size``.
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
        resample: bool = True,
        score_average: str = 'logits',
        feature_grad_scale: float = 1.0,
        mask_stages: str = 'all',
        train_cfg: list[dict] | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(test_cfg, init_cfg)
        if shared_head is not None:
            raise ConfigError('roi_head.shared_head: cascades have none; use StandardRoIHead')
        check_choice('score_average', score_average, ('logits', 'probs'))
        check_choice('mask_stages', mask_stages, ('all', 'first'))
        self.resample = resample
        self.average_probs = score_average == 'probs'
        self.feature_grad_scale = feature_grad_scale
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
            self._add_masks(mask_roi_extractor, mask_head, single=mask_stages == 'first')
        if train_cfg is not None:
            _check_count('train_cfg.rcnn', train_cfg, num_stages, 'assigners and samplers')
            for i, (stage, stage_cfg) in enumerate(zip(self.stages, train_cfg, strict=True)):
                stage.set_train_cfg(stage_cfg, sampled=resample or i == 0)

    def _add_masks(
        self,
        extractor: dict | list[dict] | None,
        head: dict | list[dict],
        single: bool,
    ) -> None:
        """A mask branch for every stage, or for the first."""
        stages = self.stages[:1] if single else self.stages
        extractors = self.bbox_roi_extractor
        if extractor is not None:
            self.mask_roi_extractor = extractors = _extractors(
                'mask_roi_extractor', extractor, len(stages)
            )
        heads = _heads('mask_head', head, len(stages))
        self.mask_head = heads[0] if single else heads
        for stage, own_extractor, own_head in zip(stages, extractors, heads, strict=False):
            stage.mask_extractor, stage.mask_head = own_extractor, own_head


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless the value of a ``roi_head`` key is one of a few."""
    if value not in choices:
        raise ConfigError(f'roi_head.{key}={value!r}: expected one of {", ".join(choices)}')


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
        raise ConfigError(f'{key} is one dict: expected a list of {num_stages}, one per stage')
    if len(values) != num_stages:
        key = key if '.' in key else f'roi_head.{key}'
        raise ConfigError(
            f'{key} has {len(values)} {what} for roi_head.num_stages={num_stages}: give one per '
            'stage'
        )
