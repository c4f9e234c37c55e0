# bash tools/dist_train.sh configs/resnest/cascade_mask_rcnn_s101_fpn_syncbn-backbone+head_mstrain_1x_coco.py 8
# Published with mmdetection 2.x: box AP 47.7, mask AP 41.4 on val2017; 10.5 GB per GPU in training.
_base_ = './cascade_mask_rcnn_s50_fpn_syncbn-backbone+head_mstrain_1x_coco.py'
model = dict(
    backbone=dict(
        depth=101,
        stem_channels=128,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest101'),
    ),
)
