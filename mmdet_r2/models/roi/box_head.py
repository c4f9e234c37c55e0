"""Classify RoIs and refine their boxes.

Attribute names (``shared_convs``, ``shared_fcs``, ``cls_fcs``, ``fc_cls``, ``fc_reg``, ...) are
bound by checkpoints. Shape legend: R RoIs of the batch, K classes; label K is the background.
"""

import inspect
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.losses import accuracy, build_box_loss, build_loss
from mmdet_r2.registry import MODELS, TASK_UTILS

_CODER = dict(type='DeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2))
_CLS_LOSS = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
_BOX_LOSS = dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0)


@dataclass
class BoxOutput:
    """``logits`` (R, K+1) or None; ``deltas`` (R, 4*K), (R, 4) when class-agnostic, or None; the
    ``features`` (R, C, h, w) that they were made of, where a mask head sees them too."""

    logits: Tensor | None
    deltas: Tensor | None
    features: Tensor | None = None


@MODELS.register_module(name=['BBoxHead', 'ConvFCBBoxHead'])
class ConvFCBBoxHead(BaseModule):
    """Shared and separate convolutions and linear layers, then two linear predictors.

    ``shared convs -> shared fcs -> (cls convs -> cls fcs -> cls), (reg convs -> reg fcs -> reg)``;
    each may be absent, and without any this is the plain ``BBoxHead``. Where a feature map first
    meets a linear layer it is flattened, after an average over its cells with ``with_avg_pool``.

    Args:
        roi_feat_size: cells per side of the RoI feature.
        reg_class_agnostic: one box per RoI instead of one per class.
        reg_decoded_bbox: the regression loss sees decoded boxes (IoU losses) instead of deltas.
    """

    def __init__(
        self,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        roi_feat_size: int | tuple[int, int] = 7,
        in_channels: int = 256,
        num_classes: int = 80,
        bbox_coder: dict | None = None,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: dict | None = None,
        cls_predictor_cfg: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not (with_cls or with_reg):
            raise ConfigError('bbox_head: with_cls and with_reg cannot both be False')
        if num_shared_fcs and (num_cls_convs or num_reg_convs):
            raise ConfigError(
                f'bbox_head: num_cls_convs={num_cls_convs} or num_reg_convs={num_reg_convs} cannot '
                f'follow num_shared_fcs={num_shared_fcs}: linear layers end the feature map'
            )
        for name, cfg in (
            ('reg_predictor_cfg', reg_predictor_cfg),
            ('cls_predictor_cfg', cls_predictor_cfg),
        ):
            if cfg is not None and cfg != dict(type='Linear'):
                raise ConfigError(
                    f"bbox_head.{name}={cfg}: only dict(type='Linear') is implemented"
                )
        size = (
            (roi_feat_size, roi_feat_size)
            if isinstance(roi_feat_size, int)
            else tuple(roi_feat_size)
        )
        self.with_avg_pool = with_avg_pool
        self.with_cls = with_cls
        self.with_reg = with_reg
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.bbox_coder = TASK_UTILS.build(bbox_coder or _CODER)
        self.loss_cls = build_loss(
            loss_cls or _CLS_LOSS, 'loss_cls', num_classes + 1, said=' (background last)'
        )
        self.loss_bbox = build_box_loss(loss_bbox or _BOX_LOSS, 'loss_bbox', reg_decoded_bbox)

        cells = 1 if with_avg_pool else size[0] * size[1]

        def branch(num_convs: int, num_fcs: int, channels: int, is_map: bool) -> tuple:
            """Layers of one branch, its output channels, and whether the output still is a map."""
            convs, fcs = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_convs):
                convs.append(
                    ConvModule(
                        channels,
                        conv_out_channels,
                        3,
                        padding=1,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                    )
                )
                channels = conv_out_channels
            for _ in range(num_fcs):
                fcs.append(nn.Linear(channels * cells if is_map else channels, fc_out_channels))
                channels, is_map = fc_out_channels, False
            return convs, fcs, channels, is_map

        self.shared_convs, self.shared_fcs, shared, is_map = branch(
            num_shared_convs, num_shared_fcs, in_channels, True
        )
        self.cls_convs, self.cls_fcs, cls_channels, cls_map = branch(
            num_cls_convs, num_cls_fcs, shared, is_map
        )
        self.reg_convs, self.reg_fcs, reg_channels, reg_map = branch(
            num_reg_convs, num_reg_fcs, shared, is_map
        )
        if with_cls:
            self.fc_cls = nn.Linear(cls_channels * (cells if cls_map else 1), num_classes + 1)
        if with_reg:
            outputs = 4 if reg_class_agnostic else 4 * num_classes
            self.fc_reg = nn.Linear(reg_channels * (cells if reg_map else 1), outputs)

        if init_cfg is None:
            predictors = (('fc_cls', 0.01, with_cls), ('fc_reg', 0.001, with_reg))
            self.init_cfg = [
                dict(type='Normal', std=std, override=dict(name=name))
                for name, std, used in predictors
                if used
            ]
            fc_lists = [dict(name=f'{part}_fcs') for part in ('shared', 'cls', 'reg')]
            self.init_cfg.append(dict(type='Xavier', distribution='uniform', override=fc_lists))

    def forward(self, x: Tensor) -> BoxOutput:
        """RoI features (R, C, h, w) -> logits and deltas."""
        x = self._run(self.shared_convs, self.shared_fcs, x)
        logits = deltas = None
        if self.with_cls:
            logits = self.fc_cls(self._flat(self._run(self.cls_convs, self.cls_fcs, x)))
        if self.with_reg:
            deltas = self.fc_reg(self._flat(self._run(self.reg_convs, self.reg_fcs, x)))
        return BoxOutput(logits, deltas)

    def _run(self, convs: nn.ModuleList, fcs: nn.ModuleList, x: Tensor) -> Tensor:
        for conv in convs:
            x = conv(x)
        for fc in fcs:
            x = F.relu(fc(self._flat(x)), inplace=True)
        return x

    def _flat(self, x: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, C) or (R, C*h*w), channel-major as checkpoints expect; rows pass."""
        if x.dim() > 2:
            x = F.adaptive_avg_pool2d(x, 1).flatten(1) if self.with_avg_pool else x.flatten(1)
        return x

    def loss(
        self,
        output: BoxOutput,
        rois: Tensor,
        labels: Tensor,
        pos: Tensor,
        gt_boxes: Tensor,
        pos_weight: float = 1.0,
    ) -> dict:
        """Losses of the sampled RoIs, averaged over all of them.

        Args:
            rois: (R, 5); labels: (R,) int64, K for background.
            pos: (P,) int64 rows of the positives; gt_boxes: (P, 4) xyxy of their objects.
            pos_weight: factor on the classification loss of the positives.
        """
        losses = {}
        num_rois = max(len(labels), 1)
        if output.logits is not None:
            weight = None
            if pos_weight != 1:
                weight = torch.where(labels < self.num_classes, pos_weight, 1.0)
            losses['loss_cls'] = self.loss_cls(output.logits, labels, weight, avg_factor=num_rois)
            losses['acc'] = accuracy(output.logits.detach(), labels)
        if output.deltas is not None:
            # Without a positive the sum over no rows is 0 and still reaches every parameter.
            deltas = self.deltas_of(output.deltas[pos], labels[pos])
            boxes = rois[pos, 1:]
            if self.reg_decoded_bbox:
                goal, pred = gt_boxes, self.bbox_coder.decode(boxes, deltas)
            else:
                goal, pred = self.bbox_coder.encode(boxes, gt_boxes), deltas
            losses['loss_bbox'] = self.loss_bbox(pred, goal, avg_factor=num_rois)
        return losses

    def deltas_of(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """The four deltas (r, 4) of each row's class: deltas (r, 4*K) or (r, 4), labels (r,) in [0,
        K).
        """
        if self.reg_class_agnostic:
            return deltas
        deltas = deltas.view(deltas.shape[0], self.num_classes, 4)
        return deltas[torch.arange(len(deltas), device=deltas.device), labels]


def _preset(name: str, doc: str, **fixed: int) -> type[ConvFCBBoxHead]:
    """A registered head whose layer counts default to ``fixed``; everything else is
    ConvFCBBoxHead's.
    """

    def __init__(self, **options) -> None:
        ConvFCBBoxHead.__init__(self, **{**fixed, **options})

    signature = inspect.signature(ConvFCBBoxHead)
    parameters = [
        p.replace(default=fixed.get(p.name, p.default)) for p in signature.parameters.values()
    ]
    body = dict(__init__=__init__, __doc__=doc, __module__=__name__)
    head = type(name, (ConvFCBBoxHead,), body)
    head.__signature__ = signature.replace(parameters=parameters)  # what the config check reads
    return MODELS.register_module(module=head)


Shared2FCBBoxHead = _preset(
    'Shared2FCBBoxHead', 'Two shared linear layers: the standard FPN head.', num_shared_fcs=2
)
Shared4Conv1FCBBoxHead = _preset(
    'Shared4Conv1FCBBoxHead',
    'Four shared 3x3 convolutions and one linear layer (https://arxiv.org/abs/1803.08494).',
    num_shared_convs=4,
    num_shared_fcs=1,
)
