# bash tools/dist_train.sh configs/resnest/cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco.py 8
# Published with a fork of detectron2: box AP 50.91, mask AP 44.50 on val2017.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_instance_tricks_detectron2.py',
    '../_base_/schedules/detectron2_3x_tricks.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        depth=200,
        # Offsets come from grouped convolutions, which the original has and mmcv has not.
        dcn=dict(type='DCNv2', deform_groups=2, offset_groups=2),
        stage_with_dcn=(False, True, True, True),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest200'),
    ),
    roi_head=dict(mask_head=dict(num_convs=8)),
)
