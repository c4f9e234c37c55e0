# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_caffe_dc5_mstrain_1x_coco.py 8
# Published with mmdetection 2.x: box AP 37.4 on val2017.
_base_ = [
    '../_base_/models/faster_rcnn_r50_caffe_dc5.py',
    '../_base_/datasets/coco_detection_mstrain.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
