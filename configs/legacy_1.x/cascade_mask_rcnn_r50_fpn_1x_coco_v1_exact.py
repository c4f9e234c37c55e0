# bash tools/dist_train.sh configs/legacy_1.x/cascade_mask_rcnn_r50_fpn_1x_coco_v1_exact.py 8
# Published with mmdetection 1.x: box AP 41.2, mask AP 35.7 on val2017, whose arithmetic this is: its
# weights give the same boxes and masks.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn_v1.py',
    '../_base_/datasets/coco_instance_mmdet1.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
