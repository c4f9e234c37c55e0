"""Panoptic FPN (https://arxiv.org/abs/1901.02446): a two-stage detector with masks, a semantic
branch on the same pyramid, and one map made of both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.detectors.two_stage import TwoStageDetector
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS
from mmdet_r2.structures import DetDataSample


@MODELS.register_module(name=['PanopticFPN', 'TwoStagePanopticSegmentor'])
class PanopticFPN(TwoStageDetector):
    """Instances of any RoI head with masks, and stuff.

    Predictions are ``pred_instances``, as of a detector without a semantic branch, and
    ``pred_panoptic_seg`` (see :class:`~mmdet_r2.models.panoptic.HeuristicFusionHead`).

    Args:
        semantic_head: a :class:`~mmdet_r2.models.panoptic.PanopticFPNHead`.
        panoptic_fusion_head: a :class:`~mmdet_r2.models.panoptic.HeuristicFusionHead`; its
            ``test_cfg`` is ``test_cfg.panoptic``.

    The other arguments are those of :class:`TwoStageDetector`.

    Raises:
        ConfigError: a head is missing, or the heads count different classes.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        rpn_head: dict | None = None,
        roi_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        semantic_head: dict | None = None,
        panoptic_fusion_head: dict | None = None,
    ) -> None:
        super().__init__(
            backbone, neck, rpn_head, roi_head, train_cfg, test_cfg, data_preprocessor, init_cfg
        )
        if not self.with_mask or semantic_head is None or panoptic_fusion_head is None:
            raise ConfigError(
                'PanopticFPN needs roi_head.mask_head, semantic_head and panoptic_fusion_head'
            )
        self.semantic_head = MODELS.build(semantic_head)
        options = dict((test_cfg or {}).get('panoptic') or {})
        self.panoptic_fusion_head = MODELS.build({**panoptic_fusion_head, 'test_cfg': options})
        self._check_classes()

    def _check_classes(self) -> None:
        counts = {
            part: (head.num_things_classes, head.num_stuff_classes)
            for part, head in (
                ('semantic_head', self.semantic_head),
                ('panoptic_fusion_head', self.panoptic_fusion_head),
            )
        }
        counts['roi_head'] = (self._roi_head().num_classes, counts['semantic_head'][1])
        if len(set(counts.values())) > 1:
            raise ConfigError(
                'the heads disagree on the number of classes: '
                + ', '.join(
                    f'{part} has {things} of things'
                    + ('' if part == 'roi_head' else f' and {stuff} of stuff')
                    for part, (things, stuff) in counts.items()
                )
            )
        if self._roi_head().mask_threshold < 0:
            raise ConfigError(
                'test_cfg.rcnn.mask_thr_binary is negative: the fusion needs masks, not their '
                'probabilities'
            )

    def _losses(
        self, feats: tuple[Tensor, ...], targets: Targets, samples: list[DetDataSample]
    ) -> dict[str, Tensor]:
        losses = super()._losses(feats, targets, samples)
        return losses | self.semantic_head.loss(feats, targets)

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """The data samples with ``pred_instances`` and ``pred_panoptic_seg``, in original-image
        pixels with ``rescale``, else in those of the network input without its padding.
        """
        feats = self.extract_feat(inputs)
        proposals = self._proposals(feats, data_samples).boxes
        found = self._roi_head().predict(feats, proposals, data_samples, rescale)
        logits = self.semantic_head.predict(feats, data_samples, inputs.shape[-2:], rescale)
        maps = self.panoptic_fusion_head.predict(found, logits)
        for sample, detections, panoptic in zip(data_samples, found, maps, strict=True):
            sample.pred_instances = detections.to_instances()
            sample.pred_panoptic_seg = panoptic
        return data_samples

    @torch.no_grad()
    def classify_pixels(self, inputs: Tensor, data_samples: list[DetDataSample]) -> list[Tensor]:
        """Semantic logits of each image, B x (C, H, W) in original-image pixels, things last.

        Args:
            inputs: (B, 3, H, W) as in :meth:`forward`.
        """
        feats = self.extract_feat(inputs)
        return self.semantic_head.predict(feats, data_samples, inputs.shape[-2:])

    def _outputs(
        self, feats: tuple[Tensor, ...], samples: list[DetDataSample] | None, size: Sequence[int]
    ) -> tuple:
        """Those of the detector, and the semantic logits."""
        return (*super()._outputs(feats, samples, size), self.semantic_head(feats))
