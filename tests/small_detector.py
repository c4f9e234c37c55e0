"""Small two-stage detectors with real parts, and batches for them: one stage, cascade, HTC."""

import copy

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks

K = 3  # object classes
STUFF = 7  # classes of the stuff maps


def small_config(mask=True, **roi):
    """Faster or Mask R-CNN on ResNet-18 with narrow heads and few proposals."""
    extractor = dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
        out_channels=16,
        featmap_strides=[4, 8, 16, 32],
    )
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=extractor,
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, num_classes=K, **roi
        ),
    )
    if mask:
        mask_layer = dict(type='RoIAlign', output_size=14, sampling_ratio=0)
        roi_head['mask_roi_extractor'] = {**extractor, 'roi_layer': mask_layer}
        roi_head['mask_head'] = dict(
            type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=16, num_classes=K
        )
    return dict(
        type='MaskRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[120] * 3,
            std=[60] * 3,
            pad_size_divisor=32,
            pad_mask=mask,
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=16, stem_channels=16, norm_cfg=dict(type='BN')
        ),
        neck=dict(type='FPN', in_channels=[16, 32, 64, 128], out_channels=16, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[8],
                ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3
                ),
                sampler=dict(
                    type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False
                ),
                allowed_border=-1,
            ),
            rpn_proposal=dict(nms_pre=50, max_per_img=30, nms=dict(type='nms', iou_threshold=0.7)),
            rcnn=dict(
                assigner=assigner,
                sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25),
                mask_size=28,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=30, nms=dict(type='nms', iou_threshold=0.7)),
            rcnn=dict(
                score_thr=0.05,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
                **(dict(mask_thr_binary=0.5) if mask else {}),
            ),
        ),
    )


def cascade_config(mask=True, htc=False, semantic=False, stages=3, **roi):
    """:func:`small_config` with a cascade of ``stages``: plain, HTC, or HTC with semantics."""
    config = small_config(mask, reg_class_agnostic=True, **roi)
    head, train = config['roi_head'], config['train_cfg']
    head.update(
        type='HybridTaskCascadeRoIHead' if htc else 'CascadeRoIHead',
        num_stages=stages,
        stage_loss_weights=[0.5**i for i in range(stages)],
    )
    stds = [[0.1 / 2**i] * 2 + [0.2 / 2**i] * 2 for i in range(stages)]
    head['bbox_head'] = [
        dict(head['bbox_head'], bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=std))
        for std in stds
    ]
    if htc and mask:
        head['mask_head'] = [
            dict(head['mask_head'], type='HTCMaskHead', with_conv_res=i > 0) for i in range(stages)
        ]
    if semantic:
        config['data_preprocessor']['pad_seg'] = True
        head['semantic_roi_extractor'] = dict(
            head['mask_roi_extractor'] if mask else head['bbox_roi_extractor'], featmap_strides=[8]
        )
        head['semantic_head'] = dict(
            type='FusedSemanticHead',
            num_ins=5,
            fusion_level=1,
            num_convs=1,
            in_channels=16,
            conv_out_channels=16,
            num_classes=STUFF,
        )
        if not mask:
            head['semantic_fusion'] = ('bbox',)
    thresholds = [0.5 + 0.1 * i for i in range(stages)]
    train['rcnn'] = [
        dict(
            train['rcnn'],
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=thr, neg_iou_thr=thr, min_pos_iou=thr),
        )
        for thr in thresholds
    ]
    return config


def build(config, seed=0):
    init_scope()
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model


def sample_of(height, width, num, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    sample = DetDataSample(
        metainfo=dict(
            img_id=seed,
            img_path=f'{seed}.jpg',
            img_shape=(height, width),
            ori_shape=(round(height / scale), round(width / scale)),
            scale_factor=(scale, scale),
        )
    )
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + 8 + torch.rand(num, 2, generator=generator) * 24], 1)
    masks = np.zeros((num, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.randint(0, K, (num,), generator=generator),
        masks=BitmapMasks(masks, height, width),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    labels = torch.randint(0, STUFF, (1, height, width), generator=generator)
    sample.gt_sem_seg = PixelData(sem_seg=labels)
    return sample


def batch_of(model, *counts, training=True, scale=1.0):
    sizes = [(64, 96), (96, 64), (80, 80)]
    generator = torch.Generator().manual_seed(7)
    images, samples = [], []
    for i, num in enumerate(counts):
        height, width = sizes[i % 3]
        images.append(
            torch.randint(0, 255, (3, height, width), generator=generator, dtype=torch.uint8)
        )
        samples.append(sample_of(height, width, num, seed=i, scale=scale))
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), training)
