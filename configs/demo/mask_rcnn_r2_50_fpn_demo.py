# make demo   (or: python tools/train.py configs/demo/mask_rcnn_r2_50_fpn_demo.py)
# Mask R-CNN with Res2Net-50 (26w x 4s) from scratch on generated shapes, sized for two CPU cores:
# box AP 0.572, mask AP 0.499 on the held-out images; 12 minutes on a CPU without AVX-512, where a step
# takes 1.4 s.
#
# The architecture is the real one; what differs from configs/res2net/ is the recipe: small images,
# so smaller anchors and one pyramid level less; narrower pyramid and heads; fewer RoIs; AdamW; and
# batch norm that learns its statistics, as there is no ImageNet start to keep.
_base_ = ['../_base_/models/mask_rcnn_r50_fpn.py', '../_base_/default_runtime.py']

size = 96
channels = 64
classes = ('circle', 'triangle', 'square', 'ring', 'cross')
data_root = 'data/demo/'
max_iters = 500
# Without a pretrained start, normalisation in the pyramid and the heads as well is what lets so few
# steps suffice (https://arxiv.org/abs/1811.08883).
norm = dict(type='BN', requires_grad=True)

model = dict(
    backbone=dict(
        type='Res2Net',
        depth=50,
        scales=4,
        base_width=26,
        deep_stem=False,
        avg_down=False,
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=True,
        init_cfg=None,
    ),
    neck=dict(out_channels=channels, num_outs=4, norm_cfg=norm),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        # 12, 24, 48, 96 pixels
        anchor_generator=dict(scales=[3], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # finest_scale: RoIs below 2 * 18 pixels are read from the finest level
        bbox_roi_extractor=dict(out_channels=channels, finest_scale=18),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=1,
            num_shared_fcs=1,
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=512,
            num_classes=len(classes),
            norm_cfg=norm,
            # boxes are learnt long before the classes are
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=2.0),
        ),
        mask_roi_extractor=dict(out_channels=channels, finest_scale=18),
        mask_head=dict(
            in_channels=channels,
            conv_out_channels=64,
            num_classes=len(classes),
            norm_cfg=norm,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=150),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.33)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        metainfo=dict(classes=classes),
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        metainfo=dict(classes=classes),
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['bbox', 'segm'],
)
test_evaluator = val_evaluator

# Iterations, not epochs: what is tuned is the number of steps, whatever the size of the data.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=6e-6),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)

env_cfg = dict(channels_last=True)
default_hooks = dict(
    logger=dict(interval=20),
    # a minute or two apart
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1, save_best=None),
)
log_processor = dict(window_size=20, by_epoch=False)
randomness = dict(seed=0)
