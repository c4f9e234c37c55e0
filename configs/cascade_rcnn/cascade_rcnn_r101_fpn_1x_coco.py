# bash tools/dist_train.sh configs/cascade_rcnn/cascade_rcnn_r101_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 42.0 on val2017; 6.4 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
)
