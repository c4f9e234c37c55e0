# COCO boxes and masks as in mmdetection 1.x, whose boxes count pixels: one factor for both axes, what
# sticks out cut after resizing, masks as bitmaps.
_base_ = './coco_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
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
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True, exact_factor=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
