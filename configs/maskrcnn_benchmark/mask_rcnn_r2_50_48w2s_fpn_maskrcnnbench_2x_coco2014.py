# bash tools/dist_train.sh configs/maskrcnn_benchmark/mask_rcnn_r2_50_48w2s_fpn_maskrcnnbench_2x_coco2014.py 8
# Published with a fork of maskrcnn-benchmark: box AP 38.0, mask AP 34.2 on COCO 2014 minival.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn_maskrcnnbench.py',
    '../_base_/datasets/coco2014_instance_maskrcnnbench.py',
    '../_base_/schedules/maskrcnnbench_2x.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    backbone=dict(
        type='Res2Net',
        depth=50,
        scales=2,
        base_width=48,
        deep_stem=False,
        avg_down=False,
        first_block_pool='always',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/res2net50_48w_2s-afed724a.pth',
        ),
    ),
)
