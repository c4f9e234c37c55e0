# bash tools/dist_train.sh configs/fast_rcnn/fast_rcnn_r50_fpn_2x_coco.py 8
_base_ = [
    '../_base_/models/fast_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_proposals.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]
