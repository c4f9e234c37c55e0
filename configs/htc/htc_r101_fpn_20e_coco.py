# bash tools/dist_train.sh configs/htc/htc_r101_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 44.8, mask AP 39.6 on val2017; 10.2 GB per GPU in training.
_base_ = [
    '../_base_/models/htc_r50_fpn.py',
    '../_base_/datasets/coco_instance_semantic.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
)
