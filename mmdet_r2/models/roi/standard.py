"""The RoI head of Faster and Mask R-CNN: one stage."""

from typing import Any

from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.roi.head import Feats, RoIHead
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class StandardRoIHead(RoIHead):
    """Box branch, and a mask branch where ``mask_head`` is given.

    Args:
        mask_roi_extractor: the box branch's extractor serves both when None.
        shared_head: what pooled features pass before either branch, such as the
            :class:`~mmdet_r2.models.roi.shared_head.ResLayer` of C4 detectors.
        train_cfg: ``assigner``, ``sampler``, ``mask_size``, ``mask_target``: see
            :meth:`Stage.set_train_cfg`.
        test_cfg: see :class:`RoIHead`.
    """

    def __init__(
        self,
        bbox_roi_extractor: dict,
        bbox_head: dict,
        mask_roi_extractor: dict | None = None,
        mask_head: dict | None = None,
        shared_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(test_cfg, init_cfg)
        if isinstance(train_cfg, list | tuple):
            raise ConfigError(
                f'train_cfg.rcnn is a list of {len(train_cfg)}: StandardRoIHead has one stage and '
                'takes one dict (CascadeRoIHead takes a list)'
            )
        self.shared_head = MODELS.build(shared_head) if shared_head is not None else None
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)
        stage = Stage(self.bbox_roi_extractor, self.bbox_head)
        if mask_head is not None:
            stage.mask_extractor = self.bbox_roi_extractor
            if mask_roi_extractor is not None:
                self.mask_roi_extractor = stage.mask_extractor = MODELS.build(mask_roi_extractor)
            self.mask_head = stage.mask_head = MODELS.build(mask_head)
        if train_cfg is not None:
            stage.set_train_cfg(train_cfg)
        self.stages = [stage]

    def box_features(self, stage: Stage, feats: Feats, context: Any, rois: Tensor) -> Tensor:
        return self._shared(super().box_features(stage, feats, context, rois))

    def mask_features(self, stage: Stage, feats: Feats, context: Any, rois: Tensor) -> Tensor:
        return self._shared(super().mask_features(stage, feats, context, rois))

    def _shared(self, features: Tensor) -> Tensor:
        return features if self.shared_head is None else self.shared_head(features)
