# bash tools/dist_train.sh configs/resnest/cascade_mask_rcnn_r101_caffe_fpn_syncbn-all_mstrain_1x_coco.py 8
# Published with a fork of detectron2: box AP 44.79, mask AP 38.52 on val2017.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_instance_mstrain_detectron2.py',
    '../_base_/schedules/detectron2_1x.py',
    '../_base_/default_runtime_iter.py',
]
# MSRA weights: stride in the 1x1 convolutions, BGR input without scaling.
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        type='ResNet',
        depth=101,
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
)
