# bash tools/dist_train.sh configs/fast_rcnn/fast_rcnn_r101_caffe_fpn_1x_coco.py 8
_base_ = ['./fast_rcnn_r50_caffe_fpn_1x_coco.py']
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    )
)
