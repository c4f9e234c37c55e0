# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_caffe_fpn_mstrain_2x_coco.py 8
# Published with mmdetection 2.x: box AP 39.7 on val2017; 4.3 GB per GPU in training.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_mstrain.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]
# MSRA weights: stride in the 1x1 convolutions, BGR input without scaling, frozen BN.
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet50_caffe'),
    ),
)
# The second step comes an epoch later than in 2x. (mmdetection 3.x ends this schedule after epoch
# 12, before either milestone, so that its rate never falls; the published one did.)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=24, by_epoch=True, milestones=[16, 23], gamma=0.1),
]
