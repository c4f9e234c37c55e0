# bash tools/dist_train.sh configs/resnest/cascade_rcnn_s101_fpn_syncbn-all_mstrain-range_1x_coco.py 8
# Published with a fork of detectron2: box AP 47.50 on val2017.
_base_ = [
    '../_base_/models/cascade_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_detection_mstrain-range_detectron2.py',
    '../_base_/schedules/detectron2_1x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest101'),
    ),
)
