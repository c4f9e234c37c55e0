"""The RoI head of Faster and Mask R-CNN: one stage."""

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.roi.head import RoIHead
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class StandardRoIHead(RoIHead):
    """Box branch, and a mask branch where ``mask_head`` is given.

    Args:
        mask_roi_extractor: the box branch's extractor serves both when None.
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
        shared_head: None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(test_cfg, init_cfg)
        refuse_shared_head(shared_head)
        if isinstance(train_cfg, list | tuple):
            raise ConfigError(
                f'train_cfg.rcnn is a list of {len(train_cfg)}: StandardRoIHead has one stage and '
                'takes one dict (CascadeRoIHead takes a list)'
            )
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


def refuse_shared_head(shared_head: dict | None) -> None:
    """C4 models put a residual stage between pooling and heads; none of ours does."""
    if shared_head is not None:
        raise ConfigError('roi_head.shared_head (C4 models) is not implemented: use an FPN config')
