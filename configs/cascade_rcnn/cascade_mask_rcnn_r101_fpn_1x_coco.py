# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_r101_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 42.9, mask AP 37.3 on val2017; 7.9 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
)
