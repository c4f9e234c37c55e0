# bash tools/dist_train.sh configs/maskrcnn_benchmark/mask_rcnn_r2_101_26w4s_fpn_maskrcnnbench_2x_coco.py 8
# Published with a fork of maskrcnn-benchmark: box AP 41.8, mask AP 37.1 on COCO 2014 minival, the images of val2017.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn_maskrcnnbench.py',
    '../_base_/datasets/coco_instance_maskrcnnbench.py',
    '../_base_/schedules/maskrcnnbench_2x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        type='Res2Net',
        depth=101,
        scales=4,
        base_width=26,
        deep_stem=False,
        avg_down=False,
        first_block_pool='always',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/res2net101_26w_4s-02a759a1.pth',
        ),
    ),
)
