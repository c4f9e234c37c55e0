# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r101_caffe_fpn_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 42.0 on val2017; 5.6 GB per GPU in training.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_mstrain_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
# MSRA weights (stride in the 1x1 convolutions, frozen BN), but RGB input scaled as for
# torchvision weights: that is how this one was published.
model = dict(
    backbone=dict(
        depth=101,
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
)
