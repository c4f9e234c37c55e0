# bash tools/dist_train.sh configs/pascal_voc/faster_rcnn_r2_101_fpn_1x_voc0712.py 8
# No published figures: the recipe of faster_rcnn_r50_fpn_1x_voc0712 with Res2Net-101.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/voc0712.py',
    '../_base_/schedules/schedule_voc0712.py',
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
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
