# bash tools/dist_train.sh configs/resnest/mask_rcnn_s101_fpn_syncbn-backbone+head_mstrain_1x_coco.py 8
# Published with mmdetection 2.x: box AP 45.2, mask AP 40.2 on val2017; 7.8 GB per GPU in training.
_base_ = './mask_rcnn_s50_fpn_syncbn-backbone+head_mstrain_1x_coco.py'
model = dict(
    backbone=dict(
        depth=101,
        stem_channels=128,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest101'),
    ),
)
