# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_fpn_2x_coco.py 8
# Published with mmdetection 2.x: box AP 38.4 on val2017; 4.0 GB per GPU in training.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]
