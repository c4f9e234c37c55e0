# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_x101_32x8d_fpn_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 46.1, mask AP 39.9 on val2017; 12.1 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance_mstrain_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
# Caffe2 weights: BGR input, frozen BN.
model = dict(
    data_preprocessor=dict(
        mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False
    ),
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=8,
        norm_cfg=dict(requires_grad=False),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnext101_32x8d'),
    ),
)
