# COCO 2017 boxes and masks as in maskrcnn-benchmark: the images of coco2014_instance_maskrcnnbench.py
# (train2017 is train2014 and valminusminival, val2017 is minival) under their names of 2017.
_base_ = './coco_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(
        type='ResizeShortestEdge',
        scale=800,
        max_size=1333,
        rule='maskrcnn_benchmark',
        backend='pillow',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PixelBoxes'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeShortestEdge',
        scale=800,
        max_size=1333,
        rule='maskrcnn_benchmark',
        backend='pillow',
    ),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    # 2 images per GPU: the RPN shares its 2000 training proposals among them.
    batch_size=2,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        filter_cfg=dict(_delete_=True, filter_empty_gt=True, filter_crowd_only=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
