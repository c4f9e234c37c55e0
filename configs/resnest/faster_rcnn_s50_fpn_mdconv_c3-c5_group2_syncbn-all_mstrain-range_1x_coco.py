# bash tools/dist_train.sh configs/resnest/faster_rcnn_s50_fpn_mdconv_c3-c5_group2_syncbn-all_mstrain-range_1x_coco.py 8
# Published with a fork of detectron2: box AP 44.11 on val2017.
_base_ = [
    '../_base_/models/faster_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_detection_mstrain-range_detectron2.py',
    '../_base_/schedules/detectron2_1x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        # Offsets come from grouped convolutions, which the original has and mmcv has not.
        dcn=dict(type='DCNv2', deform_groups=2, offset_groups=2),
        stage_with_dcn=(False, True, True, True),
    ),
)
