# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_x101_32x4d_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 45.0, mask AP 39.0 on val2017; 9.2 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_32x4d'),
    ),
)
