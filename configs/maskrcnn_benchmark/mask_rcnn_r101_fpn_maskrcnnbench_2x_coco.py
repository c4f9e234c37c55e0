# bash tools/dist_train.sh configs/maskrcnn_benchmark/mask_rcnn_r101_fpn_maskrcnnbench_2x_coco.py 8
# Published with a fork of maskrcnn-benchmark: box AP 39.6, mask AP 35.5 on COCO 2014 minival, the images of val2017.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn_maskrcnnbench.py',
    '../_base_/datasets/coco_instance_maskrcnnbench.py',
    '../_base_/schedules/maskrcnnbench_2x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.pytorch.org/models/resnet101-5d3b4d8f.pth',
        ),
    ),
)
