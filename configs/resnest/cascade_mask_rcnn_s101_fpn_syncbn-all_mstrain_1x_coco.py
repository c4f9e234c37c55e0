# bash tools/dist_train.sh configs/resnest/cascade_mask_rcnn_s101_fpn_syncbn-all_mstrain_1x_coco.py 8
# Published with a fork of detectron2: box AP 48.30, mask AP 41.56 on val2017.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_instance_mstrain_detectron2.py',
    '../_base_/schedules/detectron2_1x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest101'),
    ),
)
