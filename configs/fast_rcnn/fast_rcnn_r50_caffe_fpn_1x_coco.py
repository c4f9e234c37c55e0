# bash tools/dist_train.sh configs/fast_rcnn/fast_rcnn_r50_caffe_fpn_1x_coco.py 8
_base_ = [
    '../_base_/models/fast_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_proposals.py',
    '../_base_/schedules/schedule_1x.py',
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
