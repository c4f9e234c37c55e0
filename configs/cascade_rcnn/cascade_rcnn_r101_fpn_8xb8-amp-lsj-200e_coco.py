# bash tools/dist_train.sh configs/cascade_rcnn/cascade_rcnn_r101_fpn_8xb8-amp-lsj-200e_coco.py 8
# No published figures: a recipe of mmdetection 3.x.
_base_ = [
    '../_base_/models/cascade_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_lsj_200e.py',
    '../_base_/schedules/schedule_lsj_200e.py',
    '../_base_/default_runtime.py',
]
# All inputs have one size.
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))],
    ),
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
    train_cfg=dict(rpn=dict(allowed_border=-1)),
)
