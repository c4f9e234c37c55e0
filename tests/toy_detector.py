"""A Mask R-CNN in miniature, for tests that need a whole detector in milliseconds."""

import copy

import torch
from mmengine.config import Config
from torch import nn

CLASSES = ('circle', 'square', 'star')


def toy_config(depth: int = 18) -> Config:
    """A Mask R-CNN in miniature, written as mmdetection 3.x configs are."""
    channels = 32
    coder = dict(type='DeltaXYWHBBoxCoder')
    box_extractor = dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
        out_channels=channels,
        featmap_strides=[4, 8],
    )
    mask_extractor = copy.deepcopy(box_extractor)
    mask_extractor['roi_layer']['output_size'] = 14
    backbone = dict(type='ResNet', depth=depth, base_channels=8, num_stages=4)
    planes = [8, 16, 32, 64] if depth < 50 else [32, 64, 128, 256]
    model = dict(
        type='MaskRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=planes, out_channels=channels, num_outs=4),
        rpn_head=dict(
            type='RPNHead',
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32]
            ),
            bbox_coder=coder,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=box_extractor,
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=channels,
                fc_out_channels=64,
                num_classes=len(CLASSES),
                bbox_coder=coder,
            ),
            mask_roi_extractor=mask_extractor,
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=channels,
                conv_out_channels=channels,
                num_classes=len(CLASSES),
                norm_cfg=dict(type='BN'),
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7)),
            rcnn=dict(score_thr=0.3, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20),
        ),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(96, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
    dataset = dict(
        type='CocoDataset',
        metainfo=dict(classes=CLASSES),
        ann_file='none.json',
        test_mode=True,
        pipeline=pipeline,
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            test_dataloader=dict(batch_size=1, dataset=dataset),
        )
    )


def lively(model: nn.Module) -> nn.Module:
    """Random weights that give detections of clearly different scores."""
    torch.manual_seed(1)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif name.endswith(('fc_cls', 'rpn_cls')):
            nn.init.normal_(module.weight, std=2 if 'fc' in name else 0.3)
        elif name.endswith(('fc_reg', 'rpn_reg')):
            nn.init.normal_(module.weight, std=0.02)
    return model
