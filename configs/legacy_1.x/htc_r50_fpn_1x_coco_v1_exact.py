# bash tools/dist_train.sh configs/legacy_1.x/htc_r50_fpn_1x_coco_v1_exact.py 8
# The arithmetic of mmdetection 1.x: its weights give the same boxes and masks.
_base_ = [
    '../_base_/models/htc_r50_fpn_v1.py',
    '../_base_/datasets/coco_instance_mmdet1.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(
        type='Resize',
        scale=(1333, 800),
        keep_ratio=True,
        exact_factor=True,
        clip_object_border=False,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PixelBoxes', rule='mmdet1'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img='train2017/', seg='stuffthingmaps/train2017/'),
        pipeline=train_pipeline,
    )
)
