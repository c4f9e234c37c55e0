# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_caffe_dc5_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 38.7 on val2017.
_base_ = [
    '../_base_/models/faster_rcnn_r50_caffe_dc5.py',
    '../_base_/datasets/coco_detection_mstrain.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
# three times as long, by epochs
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[28, 34], gamma=0.1),
]
