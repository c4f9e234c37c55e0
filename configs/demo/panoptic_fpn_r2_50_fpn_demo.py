# make demo DEMO_CONFIG=configs/demo/panoptic_fpn_r2_50_fpn_demo.py
# Panoptic FPN by the recipe of the Mask R-CNN that this inherits, with a semantic branch that learns
# the four kinds of ground, and one map of both as the result.
_base_ = ['./mask_rcnn_r2_50_fpn_demo.py']

size = 96
channels = 64
num_things = 5
num_stuff = 4
data_root = 'data/demo/'
metainfo = dict(
    thing_classes=('circle', 'triangle', 'square', 'ring', 'cross'),
    stuff_classes=('gradient', 'noise', 'stripes', 'checks'),
)

model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=num_things,
        num_stuff_classes=num_stuff,
        in_channels=channels,
        inner_channels=64,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5),
    ),
    panoptic_fusion_head=dict(
        type='HeuristicFusionHead', num_things_classes=num_things, num_stuff_classes=num_stuff
    ),
    test_cfg=dict(
        # The images have 16,384 pixels; COCO's limit of 4,096 is for images of 300,000.
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=200, score_thr=0.5),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations'),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='LoadPanopticAnnotations'),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    dataset=dict(
        type='CocoPanopticDataset',
        metainfo=dict(_delete_=True, **metainfo),
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='train/', seg='annotations/panoptic_train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CocoPanopticDataset',
        metainfo=dict(_delete_=True, **metainfo),
        ann_file='annotations/panoptic_val.json',
        data_prefix=dict(img='val/', seg='annotations/panoptic_val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoPanopticMetric',
        ann_file=data_root + 'annotations/panoptic_val.json',
        seg_prefix=data_root + 'annotations/panoptic_val/',
    ),
    dict(
        type='CocoMetric',
        ann_file=data_root + 'annotations/instances_val.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
