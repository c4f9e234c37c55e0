# COCO 2014 boxes and masks as in maskrcnn-benchmark: trained on train2014 and the part of val2014 that
# is not in minival, tested on minival. tools/dataset_converters/coco_minival.py writes the two files.
_base_ = './coco_instance_maskrcnnbench.py'

filter_cfg = dict(filter_empty_gt=True, filter_crowd_only=True)

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='CocoDataset',
                data_root=_base_.data_root,
                ann_file='annotations/instances_train2014.json',
                data_prefix=dict(img='train2014/'),
                filter_cfg=filter_cfg,
                pipeline=_base_.train_pipeline,
            ),
            dict(
                type='CocoDataset',
                data_root=_base_.data_root,
                ann_file='annotations/instances_valminusminival2014.json',
                data_prefix=dict(img='val2014/'),
                filter_cfg=filter_cfg,
                pipeline=_base_.train_pipeline,
            ),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/instances_minival2014.json',
        data_prefix=dict(img='val2014/'),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=_base_.data_root + 'annotations/instances_minival2014.json')
test_evaluator = val_evaluator
