# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_r101_fpn_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 45.5, mask AP 39.6 on val2017; 7.8 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance_mstrain_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
)
