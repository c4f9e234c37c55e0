# bash tools/dist_train.sh configs/fast_rcnn/fast_rcnn_r101_fpn_2x_coco.py 8
_base_ = ['./fast_rcnn_r50_fpn_2x_coco.py']
model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
)
