# Pascal VOC as COCO JSON files (tools/dataset_converters): the images of voc0712.py, measured as COCO
# does.
_base_ = './voc0712.py'

# fmt: off
classes = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train',
    'tvmonitor',
)
# fmt: on

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='CocoDataset',
            data_root=_base_.data_root,
            ann_file='annotations/voc0712_trainval.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=classes),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=_base_.train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CocoDataset',
        data_root=_base_.data_root,
        ann_file='annotations/voc07_test.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    _delete_=True,
    type='CocoMetric',
    ann_file=_base_.data_root + 'annotations/voc07_test.json',
    metric='bbox',
    format_only=False,
)
test_evaluator = val_evaluator
