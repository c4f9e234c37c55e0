# bash tools/dist_train.sh configs/htc/htc_x101_32x4d_fpn_16x1_20e_coco.py 16
# Published with mmdetection 2.x: box AP 46.1, mask AP 40.5 on val2017; 11.4 GB per GPU in training.
_base_ = [
    '../_base_/models/htc_r50_fpn.py',
    '../_base_/datasets/coco_instance_semantic.py',
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
# 16 GPUs with one image each.
train_dataloader = dict(batch_size=1, num_workers=1)
