# bash tools/dist_train.sh configs/mask_rcnn/mask_rcnn_r101_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 40.0, mask AP 36.1 on val2017; 6.4 GB per GPU in training.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
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
