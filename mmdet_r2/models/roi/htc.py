"""Hybrid Task Cascade (https://arxiv.org/abs/1901.07518): a cascade whose mask branch sees refined
boxes, the mask features of the stage before, and a semantic segmentation of the whole image.
"""

from collections.abc import Sequence

from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.roi.cascade import CascadeRoIHead, check_choice
from mmdet_r2.models.roi.head import Feats
from mmdet_r2.models.roi.mask_head import HTCMaskHead
from mmdet_r2.models.roi.stage import Stage
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class HybridTaskCascadeRoIHead(CascadeRoIHead):
    """Arguments as :class:`CascadeRoIHead`; without ``semantic_head``, HTC without semantics.

    Args:
        semantic_roi_extractor: pools the semantic embedding, of one level.
        semantic_fusion: branches that its features are added to: 'bbox', 'mask'.
        interleaved: train the mask branch on RoIs sampled anew from the stage's refined boxes
            (section 3.2) instead of on the box branch's.
        mask_info_flow: hand the mask features of each stage to the next (section 3.3).
        mask_average: 'all' averages the mask probabilities of all stages, as the published results
            were measured; 'last' takes the last stage's, as mmdetection 3.x does.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: dict | list[dict],
        bbox_head: dict | list[dict],
        mask_roi_extractor: dict | list[dict] | None = None,
        mask_head: dict | list[dict] | None = None,
        semantic_roi_extractor: dict | None = None,
        semantic_head: dict | None = None,
        semantic_fusion: Sequence[str] = ('bbox', 'mask'),
        interleaved: bool = True,
        mask_info_flow: bool = True,
        mask_average: str = 'all',
        shared_head: None = None,
        train_cfg: list[dict] | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            num_stages=num_stages,
            stage_loss_weights=stage_loss_weights,
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )
        check_choice('mask_average', mask_average, ('all', 'last'))
        self.mask_average = mask_average
        self.mask_info_flow = mask_info_flow
        self.resample_for_masks = interleaved and self.with_mask
        self._check_mask_heads()

        branches = {'bbox', 'mask'} if self.with_mask else {'bbox'}
        self.semantic_fusion = frozenset(semantic_fusion)
        self.with_semantic = semantic_head is not None
        if semantic_head is not None:
            if semantic_roi_extractor is None:
                raise ConfigError('roi_head.semantic_head needs a semantic_roi_extractor')
            if not self.semantic_fusion or self.semantic_fusion - branches:
                raise ConfigError(
                    f'roi_head.semantic_fusion={tuple(semantic_fusion)}: name at least one of '
                    f'{", ".join(sorted(branches))}'
                )
            self.semantic_roi_extractor = MODELS.build(semantic_roi_extractor)
            self.semantic_head = MODELS.build(semantic_head)
        elif semantic_roi_extractor is not None:
            raise ConfigError('roi_head.semantic_roi_extractor has no use without a semantic_head')

    def _check_mask_heads(self) -> None:
        """Heads that take features from the stage before, and only those, own ``conv_res``."""
        stages = [stage for stage in self.stages if stage.mask_head is not None]
        if len({id(stage.mask_extractor) for stage in stages}) > 1:
            raise ConfigError(
                'roi_head.mask_roi_extractor differs between stages: HTC pools mask features once '
                'for all mask heads; give one dict'
            )
        for i, stage in enumerate(stages):
            takes = self.mask_info_flow and i > 0
            owns = isinstance(stage.mask_head, HTCMaskHead) and stage.mask_head.with_conv_res
            if takes != owns:
                raise ConfigError(
                    f'roi_head.mask_head[{i}]: expected with_conv_res={takes} of an HTCMaskHead '
                    f'with mask_info_flow={self.mask_info_flow} (the first stage has none before '
                    'it to take features from)'
                )

    def context_loss(self, feats: Feats, targets: Targets) -> tuple[Tensor | None, dict]:
        """Semantic embedding (B, D, H, W) and loss."""
        if not self.with_semantic:
            return None, {}
        logits, embedding = self.semantic_head(feats)
        return embedding, self.semantic_head.loss(logits, targets)

    def context(self, feats: Feats) -> Tensor | None:
        """Semantic embedding (B, D, H, W)."""
        return self.semantic_head.embed(feats) if self.with_semantic else None

    def box_features(
        self, stage: Stage, feats: Feats, context: Tensor | None, rois: Tensor
    ) -> Tensor:
        """Pyramid plus semantic features."""
        x = super().box_features(stage, feats, context, rois)
        return self._fuse('bbox', x, context, rois)

    def mask_features(
        self, stage: Stage, feats: Feats, context: Tensor | None, rois: Tensor
    ) -> Tensor:
        """Pyramid plus semantic features."""
        x = super().mask_features(stage, feats, context, rois)
        return self._fuse('mask', x, context, rois)

    def _fuse(self, branch: str, x: Tensor, context: Tensor | None, rois: Tensor) -> Tensor:
        """Add the embedding pooled from rois (R, 5) to x (R, D, h, w)."""
        if context is None or branch not in self.semantic_fusion:
            return x
        return x + self.semantic_roi_extractor((context,), rois, tuple(x.shape[-2:]))

    def mask_logits(
        self, stages: list[Stage], features: Tensor, labels: Tensor | None
    ) -> list[Tensor]:
        """Each stage's logits; with information flow all heads up to the last of them run, in
        order.
        """
        if not self.mask_info_flow:
            return super().mask_logits(stages, features, labels)
        logits, flow = [], None
        for stage in self.stages:
            flow = stage.mask_head.features(features, flow)
            if any(stage is wanted for wanted in stages):
                logits.append(stage.mask_head.predict(flow, labels))
            if stage is stages[-1]:
                break
        return logits

    def mask_stages(self) -> list[Stage]:
        """All stages, or the last."""
        stages = super().mask_stages()
        return stages if self.mask_average == 'all' else stages[-1:]
