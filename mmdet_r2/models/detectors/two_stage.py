"""Two-stage detectors: features, proposals, RoIs.

Faster, Mask, Cascade R-CNN and HTC differ in the RoI head they are handed; Fast R-CNN takes its
proposals from the data. They are names of one class. An RPN alone has no RoI head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.detectors.offsets import check_offsets
from mmdet_r2.models.postprocess import Detections, pixel_sizes, rescale_boxes
from mmdet_r2.models.roi import RoIHead
from mmdet_r2.models.rpn import Proposals, ProposalSelector
from mmdet_r2.models.targets import Targets, img_shapes
from mmdet_r2.registry import MODELS
from mmdet_r2.rpn_names import rpn_named_as
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import move_ends


@MODELS.register_module(
    name=[
        'TwoStageDetector',
        'FasterRCNN',
        'MaskRCNN',
        'CascadeRCNN',
        'HybridTaskCascade',
        'FastRCNN',
    ]
)
class TwoStageDetector(BaseModel):
    """Backbone, neck, RPN and RoI head behind mmengine's ``forward(inputs, data_samples, mode)``.

    Args:
        rpn_head: None: proposals come with the data samples.
        roi_head: None: the proposals are the result.
        train_cfg: ``rpn``, ``rpn_proposal`` (fields of :class:`ProposalSelector`; ``test_cfg.rpn``
            when absent), ``rcnn``.
        test_cfg: ``rpn``, ``rcnn``.

    Raises:
        ConfigError: some parts count pixels (``offset=1``) and others do not.
    """

    rpn_name = 'rpn_head'  # what state dicts call it

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
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if rpn_head is None and roi_head is None:
            raise ConfigError('model needs an rpn_head, a roi_head, or both')
        train_cfg, test_cfg = train_cfg or {}, test_cfg or {}
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck is not None else None
        configs = dict(train_cfg=train_cfg.get('rpn'), test_cfg=test_cfg.get('rpn'))
        rpn = MODELS.build({**rpn_head, **configs}) if rpn_head is not None else None
        setattr(self, self.rpn_name, rpn)
        self.roi_head = None
        if roi_head is not None:
            configs = dict(train_cfg=train_cfg.get('rcnn'), test_cfg=test_cfg.get('rcnn'))
            self.roi_head = MODELS.build({**roi_head, **configs})
        heads = {'rpn': rpn_head, 'rcnn': roi_head}
        self._untrained = [key for key in heads if heads[key] and not train_cfg.get(key)]
        proposals = train_cfg.get('rpn_proposal', test_cfg.get('rpn'))
        self._train_selector = ProposalSelector(**proposals) if proposals is not None else None
        check_offsets(self.rpn_head, self._train_selector, self.roi_head)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take an RPN's weights under either of the names that they have."""
        renamed = dict(rpn_named_as(state_dict, self.state_dict(prefix=prefix), prefix))
        state_dict.clear()
        state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def with_neck(self) -> bool:
        """Whether a neck follows the backbone."""
        return self.neck is not None

    @property
    def with_rpn(self) -> bool:
        """Whether the detector makes its proposals."""
        return self.rpn_head is not None

    @property
    def with_roi_head(self) -> bool:
        """Whether proposals are classified."""
        return self.roi_head is not None

    with_bbox = with_roi_head

    @property
    def with_shared_head(self) -> bool:
        """Whether something stands between pooling and the RoI head's branches."""
        return getattr(self.roi_head, 'shared_head', None) is not None

    @property
    def with_semantic_head(self) -> bool:
        """Whether pixels are classified."""
        return getattr(self, 'semantic_head', None) is not None

    @property
    def with_mask(self) -> bool:
        """Whether predictions have masks."""
        return self.roi_head is not None and self.roi_head.with_mask

    def forward(
        self, inputs: Tensor, data_samples: list[DetDataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DetDataSample] | tuple:
        """Losses (``mode='loss'``), data samples with predictions ('predict'), or raw outputs
        ('tensor').

        Args:
            inputs: (B, 3, H, W) normalised images, as the data preprocessor makes them.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self._outputs(self.extract_feat(inputs), data_samples, inputs.shape[-2:])
        raise ValueError(f"mode={mode!r}: expected 'loss', 'predict' or 'tensor'")

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Pyramid levels, finest first: (B, 3, H, W) -> L x (B, C, H/s, W/s)."""
        feats = self.backbone(inputs)
        return self.neck(feats) if self.neck is not None else feats

    def loss(self, inputs: Tensor, data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Training losses of the batch, by mmdetection's names."""
        if self._untrained:
            raise ConfigError(f'model.train_cfg.{self._untrained[0]} is not set, needed to train')
        targets = Targets.from_samples(data_samples)
        return self._losses(self.extract_feat(inputs), targets, data_samples)

    def _losses(
        self, feats: tuple[Tensor, ...], targets: Targets, samples: list[DetDataSample]
    ) -> dict[str, Tensor]:
        """Those of every head, from the features of the batch."""
        losses, proposals = self._rpn_loss(feats, targets, samples)
        if self.roi_head is not None:
            losses |= self.roi_head.loss(feats, proposals, targets)
        return losses

    def _rpn_loss(
        self, feats: tuple[Tensor, ...], targets: Targets, samples: list[DetDataSample]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """RPN losses and proposals B x (p, 4)."""
        if self.rpn_head is None:
            return {}, self._given_proposals(samples).boxes
        if self.roi_head is None:
            return self.rpn_head.loss(feats, targets), []
        if self._train_selector is None:
            raise ConfigError(
                'train_cfg.rpn_proposal is not set: it says how many proposals to train on'
            )
        losses, proposals = self.rpn_head.loss_and_propose(feats, targets, self._train_selector)
        return losses, proposals.boxes

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """The data samples with ``pred_instances``, in original-image pixels with ``rescale``."""
        feats = self.extract_feat(inputs)
        proposals = self._proposals(feats, data_samples)
        if self.roi_head is not None:
            found = self.roi_head.predict(feats, proposals.boxes, data_samples, rescale)
            results = [d.to_instances() for d in found]
        else:
            boxes = rescale_boxes(proposals.boxes, data_samples) if rescale else proposals.boxes
            offset = self.rpn_head.test_selector.offset
            results = [
                InstanceData(
                    bboxes=move_ends(b, offset),
                    scores=s,
                    labels=torch.zeros_like(s, dtype=torch.long),
                )
                for b, s in zip(boxes, proposals.scores, strict=True)
            ]
        for sample, result in zip(data_samples, results, strict=True):
            sample.pred_instances = result
        return data_samples

    @torch.no_grad()
    def detect(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[Detections]:
        """Boxes, scores and labels as :meth:`predict` finds them, without running a mask branch."""
        feats = self.extract_feat(inputs)
        proposals = self._proposals(feats, data_samples)
        return self._roi_head().detect(feats, proposals.boxes, data_samples, rescale)

    @torch.no_grad()
    def segment(self, inputs: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Mask probabilities B x (N, M, M) of given boxes.

        Args:
            inputs: (B, 3, H, W) as in :meth:`forward`.
            boxes: B x (N, 4) xyxy in network-input pixels, with the RoI head's ``offset``.
            labels: B x (N,) int64.
        """
        return self._roi_head().segment(self.extract_feat(inputs), boxes, labels)

    def _roi_head(self) -> RoIHead:
        if self.roi_head is None:
            raise ValueError('the model is an RPN alone: it has no RoI head to detect with')
        return self.roi_head

    def _proposals(self, feats: tuple[Tensor, ...], samples: list[DetDataSample]) -> Proposals:
        """The RPN's, or those that came with the data."""
        if self.rpn_head is None:
            return self._given_proposals(samples)
        return self.rpn_head.predict(feats, img_shapes(samples))

    def _outputs(
        self, feats: tuple[Tensor, ...], samples: list[DetDataSample] | None, size: Sequence[int]
    ) -> tuple:
        """Proposals, and the RoI head's outputs on them without selection.

        Args:
            size: height and width of the batch, which images without a sample fill.
        """
        shapes = img_shapes(samples) if samples else [tuple(size)] * len(feats[0])
        if self.rpn_head is not None:
            boxes = self.rpn_head.predict(feats, shapes).boxes
        elif samples:
            boxes = self._given_proposals(samples).boxes
        else:
            raise ValueError(
                "mode='tensor' of a detector without RPN needs data samples with proposals"
            )
        return (boxes,) if self.roi_head is None else (boxes, *self.roi_head(feats, boxes, shapes))

    def _given_proposals(self, samples: list[DetDataSample]) -> Proposals:
        """Proposals that came with the data: ordinary boxes, in network-input pixels.

        A detector that counts pixels takes them as the transform ``PixelBoxes`` gives it its
        objects: they end where their last pixel of the original image begins.
        """
        for sample in samples:
            if 'proposals' not in sample:
                raise DataError(
                    f'{sample.metainfo.get("img_path", "sample")} has no proposals: a detector '
                    'without rpn_head needs them in its data samples'
                )
        given = [s.proposals for s in samples]
        boxes = [p.bboxes for p in given]
        scores = [p.get('scores', b.new_zeros(len(b))) for p, b in zip(given, boxes, strict=True)]
        if self._roi_head().offset:
            sizes = pixel_sizes(samples, boxes[0])
            boxes = [
                torch.cat([b[:, :2], torch.maximum(b[:, 2:] - size, b[:, :2])], dim=1)
                for b, size in zip(boxes, sizes, strict=True)
            ]
        return Proposals(boxes, scores)
