"""Region proposal network (https://arxiv.org/abs/1506.01497): head, targets, loss, proposals, in
reading order.

Attribute names ``rpn_conv``, ``rpn_cls``, ``rpn_reg`` are bound by checkpoints.
Shape legend: B images, L levels, A anchors of an image over all levels, N sampled anchors of the
batch.
"""

import logging

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.losses import build_box_loss, build_loss
from mmdet_r2.models.matching import BACKGROUND, Sample, positive_weight
from mmdet_r2.models.rpn.proposals import Proposals, ProposalSelector
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS, TASK_UTILS

# mmdetection's defaults
_ANCHORS = dict(
    type='AnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
)
_CLS_LOSS = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
_BOX_LOSS = dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)


@MODELS.register_module()
class RPNHead(BaseModule):
    """Objectness and box deltas of every anchor.

    Args:
        anchor_generator, bbox_coder, loss_cls, loss_bbox: None: mmdetection's defaults (anchors of
            three sizes and shapes on five levels, cross entropy, smooth L1 with beta 1/9).
        num_convs: 3x3 convolutions before the two predictors (1 in all published systems).
        num_classes: always 1: object or not. Another number is a warning.
        reg_decoded_bbox: the regression loss sees decoded boxes (IoU losses) instead of deltas.
        train_cfg: ``assigner``, ``sampler``, ``allowed_border`` (anchors may stick out of the image
            by less than this many pixels; negative: no limit), ``match_border`` (those that stick
            out further may all the same be an object's best, and are ignored only after the
            assignment, as in maskrcnn-benchmark), ``samples_per_img`` (what the losses are divided
            by for each image: a number, as in detectron2; 'sampled': the number of sampled anchors,
            as in maskrcnn-benchmark; None: the same, but positives and negatives count at least
            one each; without a sampler the number of positives), ``pos_weight`` (factor on the
            classification loss of positives; not above 0: 1), ``debug`` (means nothing).
        test_cfg: the fields of :class:`ProposalSelector`.
    """

    def __init__(
        self,
        in_channels: int,
        anchor_generator: dict | None = None,
        bbox_coder: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        feat_channels: int = 256,
        num_convs: int = 1,
        num_classes: int = 1,
        reg_decoded_bbox: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Normal', layer='Conv2d', std=0.01))
        if num_classes != 1:
            print_log(
                f'rpn_head.num_classes is {num_classes}, but an RPN tells objects from background '
                'only: 1 is taken',
                logger='current',
                level=logging.WARNING,
            )
        self.anchor_generator = TASK_UTILS.build(anchor_generator or _ANCHORS)
        self.bbox_coder = TASK_UTILS.build(bbox_coder or dict(type='DeltaXYWHBBoxCoder'))
        self.loss_cls = build_loss(
            loss_cls or _CLS_LOSS, 'loss_cls', 1, 'sigmoid', ' (one logit per anchor)'
        )
        self.loss_bbox = build_box_loss(loss_bbox or _BOX_LOSS, 'loss_bbox', reg_decoded_bbox)
        self.reg_decoded_bbox = reg_decoded_bbox

        num_anchors = self.anchor_generator.num_base_anchors[0]
        if num_convs == 1:
            self.rpn_conv: nn.Module = nn.Conv2d(in_channels, feat_channels, 3, padding=1)
        else:
            self.rpn_conv = nn.Sequential(
                *[
                    ConvModule(
                        in_channels if i == 0 else feat_channels,
                        feat_channels,
                        3,
                        padding=1,
                        inplace=False,
                    )
                    for i in range(num_convs)
                ]
            )
        self.rpn_cls = nn.Conv2d(feat_channels, num_anchors, 1)
        self.rpn_reg = nn.Conv2d(feat_channels, num_anchors * 4, 1)

        if train_cfg is not None:
            self.assigner = TASK_UTILS.build(train_cfg['assigner'])
            sampler = train_cfg.get('sampler')
            self.sampler = TASK_UTILS.build(sampler or dict(type='PseudoSampler'))
            self.allowed_border = train_cfg.get('allowed_border', 0)
            self.match_border = train_cfg.get('match_border', False)
            self.samples_per_img = train_cfg.get('samples_per_img')
            self.pos_weight = positive_weight('rpn', train_cfg)
            given = self.samples_per_img
            if not (given in (None, 'sampled') or (isinstance(given, int) and given > 0)):
                raise ConfigError(
                    f"train_cfg.rpn.samples_per_img={given!r}: expected a number, 'sampled' or None"
                )
        self.test_selector = ProposalSelector(**test_cfg) if test_cfg is not None else None

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """L x (B, C, H, W) -> objectness logits L x (B, a, H, W) and deltas L x (B, a*4, H, W), a
        anchors per cell.
        """
        hidden = [F.relu(self.rpn_conv(feat), inplace=True) for feat in feats]
        return [self.rpn_cls(h) for h in hidden], [self.rpn_reg(h) for h in hidden]

    def loss_and_propose(
        self, feats: tuple[Tensor, ...], targets: Targets, selector: ProposalSelector
    ) -> tuple[dict[str, Tensor], Proposals]:
        """Losses of the batch, and the proposals (without gradient) its RoI head trains on."""
        logits, deltas, anchors = self._flatten(*self(feats))
        losses = self._loss(torch.cat(logits, 1), torch.cat(deltas, 1), anchors, feats, targets)
        logits, deltas = [x.detach() for x in logits], [x.detach() for x in deltas]
        return losses, selector.select(logits, deltas, anchors, self.bbox_coder, targets.img_shapes)

    def loss(self, feats: tuple[Tensor, ...], targets: Targets) -> dict[str, Tensor]:
        """Losses alone, for a detector that is only an RPN."""
        logits, deltas, anchors = self._flatten(*self(feats))
        return self._loss(torch.cat(logits, 1), torch.cat(deltas, 1), anchors, feats, targets)

    def predict(
        self,
        feats: tuple[Tensor, ...],
        img_shapes: list[tuple[int, int]],
        selector: ProposalSelector | None = None,
    ) -> Proposals:
        """Proposals in network-input pixels, by ``test_cfg`` unless another selector is given."""
        selector = selector or self.test_selector
        if selector is None:
            raise ConfigError('test_cfg.rpn is not set: it says how many proposals to keep')
        logits, deltas, anchors = self._flatten(*self(feats))
        return selector.select(logits, deltas, anchors, self.bbox_coder, img_shapes)

    def _flatten(
        self, cls_maps: list[Tensor], delta_maps: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Maps to rows: logits L x (B, H*W*a), deltas L x (B, H*W*a, 4), anchors L x (H*W*a, 4), in
        the anchors' order.
        """
        sizes = [tuple(m.shape[-2:]) for m in cls_maps]
        # (B, a, H, W) -> (B, H, W, a): cells row by row, anchors of one cell adjacent, as the
        # generator emits them
        logits = [m.permute(0, 2, 3, 1).flatten(1) for m in cls_maps]
        deltas = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, 4) for m in delta_maps]
        return logits, deltas, self.anchor_generator.grid_anchors(sizes, cls_maps[0].device)

    def _loss(
        self,
        logits: Tensor,
        deltas: Tensor,
        level_anchors: list[Tensor],
        feats: tuple[Tensor, ...],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Losses over the sampled anchors of the batch, from logits (B, A) and deltas (B, A, 4)."""
        anchors = torch.cat(level_anchors)
        sizes = [tuple(f.shape[-2:]) for f in feats]
        rows, samples = [], []
        for i, (gt_boxes, ignored) in enumerate(zip(targets.boxes, targets.ignored, strict=True)):
            valid = self._inside(anchors, sizes, targets.img_shapes[i], targets.pad_shapes[i])
            if self.match_border and valid is not None:
                match = self.assigner.assign(anchors, gt_boxes, ignored).without(~valid)
            else:
                match = self.assigner.assign(anchors, gt_boxes, ignored, valid)
            sample = self.sampler.sample(match)
            samples.append(sample)
            rows.append(sample.index + i * len(anchors))
        avg_factor = self._avg_factor(samples)

        row = torch.cat(rows)  # (N,) into the flattened (B*A)
        gt_index = torch.cat([s.gt_index for s in samples])
        labels = torch.where(gt_index == BACKGROUND, 1, 0)  # class 0 is "object", 1 the background
        weight = None if self.pos_weight == 1 else torch.where(labels == 0, self.pos_weight, 1.0)
        loss_cls = self.loss_cls(
            logits.flatten()[row][:, None], labels, weight, avg_factor=avg_factor
        )

        pos_rows = torch.cat([r[: s.num_pos] for r, s in zip(rows, samples, strict=True)])
        gt_boxes = torch.cat(
            [
                boxes[s.gt_index[: s.num_pos]]
                for boxes, s in zip(targets.boxes, samples, strict=True)
            ]
        )
        pred = deltas.flatten(0, 1)[pos_rows]
        pos_anchors = anchors[pos_rows % len(anchors)]
        if self.reg_decoded_bbox:
            pred, goal = self.bbox_coder.decode(pos_anchors, pred), gt_boxes
        else:
            goal = self.bbox_coder.encode(pos_anchors, gt_boxes)
        # Without a positive the sum over no rows is 0 and still reaches every parameter.
        return dict(
            loss_rpn_cls=loss_cls, loss_rpn_bbox=self.loss_bbox(pred, goal, avg_factor=avg_factor)
        )

    def _avg_factor(self, samples: list[Sample]) -> float:
        """What the losses of a batch are divided by."""
        if self.samples_per_img is None:
            return float(sum(sample.avg_factor for sample in samples))
        if self.samples_per_img == 'sampled':
            return float(max(sum(len(sample.index) for sample in samples), 1))
        return float(self.samples_per_img * len(samples))

    def _inside(
        self,
        anchors: Tensor,
        sizes: list[tuple[int, int]],
        img_shape: tuple[int, int],
        pad_shape: tuple[int, int],
    ) -> Tensor | None:
        """Which anchors (A,) of one image take part; None when all do."""
        strides = self.anchor_generator.strides
        covered = all(
            -(-pad_shape[0] // sh) >= h and -(-pad_shape[1] // sw) >= w
            for (h, w), (sw, sh) in zip(sizes, strides, strict=True)
        )
        valid = (
            None if covered else self.anchor_generator.valid_flags(sizes, pad_shape, anchors.device)
        )
        if self.allowed_border >= 0:
            border = self.allowed_border
            inside = (
                (anchors[:, 0] >= -border)
                & (anchors[:, 1] >= -border)
                & (anchors[:, 2] < img_shape[1] + border)
                & (anchors[:, 3] < img_shape[0] + border)
            )
            valid = inside if valid is None else valid & inside
        return valid
