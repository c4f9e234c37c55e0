# bash tools/dist_train.sh configs/mask_rcnn/mask_rcnn_r50_caffe_c4_1x_coco.py 8
# No weights were published.
_base_ = [
    '../_base_/models/mask_rcnn_r50_caffe_c4.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
