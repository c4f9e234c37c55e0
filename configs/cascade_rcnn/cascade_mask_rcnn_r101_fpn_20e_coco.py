# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_r101_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 43.4, mask AP 37.8 on val2017; 7.9 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
)
