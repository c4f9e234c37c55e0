# bash tools/dist_train.sh configs/res2net/cascade_rcnn_r2_101_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 45.7 on val2017; 7.8 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='Res2Net',
        depth=101,
        scales=4,
        base_width=26,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://res2net101_v1d_26w_4s'),
    ),
)
