# bash tools/dist_train.sh configs/res2net/faster_rcnn_r2_101_fpn_2x_coco.py 8
# Published with mmdetection 2.x: box AP 43.0 on val2017; 7.4 GB per GPU in training.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
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
