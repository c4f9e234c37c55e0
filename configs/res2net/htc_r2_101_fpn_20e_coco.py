# bash tools/dist_train.sh configs/res2net/htc_r2_101_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 47.5, mask AP 41.6 on val2017.
_base_ = [
    '../_base_/models/htc_r50_fpn.py',
    '../_base_/datasets/coco_instance_semantic.py',
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
