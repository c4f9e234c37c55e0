# bash tools/dist_train.sh configs/cascade_rcnn/cascade_rcnn_x101_64x4d_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 44.5 on val2017; 10.7 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_64x4d'),
    ),
)
