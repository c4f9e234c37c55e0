# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_x101_32x4d_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 44.3, mask AP 38.3 on val2017; 9.2 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
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
