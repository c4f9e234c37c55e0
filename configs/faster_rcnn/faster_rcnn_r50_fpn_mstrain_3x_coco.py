# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 40.3 on val2017; 3.9 GB per GPU in training.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_mstrain_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
