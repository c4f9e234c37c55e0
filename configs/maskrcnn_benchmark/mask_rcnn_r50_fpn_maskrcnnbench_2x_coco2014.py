# bash tools/dist_train.sh configs/maskrcnn_benchmark/mask_rcnn_r50_fpn_maskrcnnbench_2x_coco2014.py 8
# Published with a fork of maskrcnn-benchmark: box AP 37.5, mask AP 33.9 on COCO 2014 minival.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn_maskrcnnbench.py',
    '../_base_/datasets/coco2014_instance_maskrcnnbench.py',
    '../_base_/schedules/maskrcnnbench_2x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.pytorch.org/models/resnet50-19c8e357.pth',
        ),
    ),
)
