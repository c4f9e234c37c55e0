# bash tools/dist_train.sh configs/cascade_rcnn/cascade_rcnn_r101_caffe_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 42.3 on val2017; 6.2 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
# MSRA weights: stride in the 1x1 convolutions, BGR input without scaling, frozen BN.
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        depth=101,
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
)
