# python benchmarks/overfit_coco.py --models faster_rcnn_s50 --steps 200 --data-root data/coco
# Faster R-CNN with ResNeSt-50 in detectron2's arithmetic. Batch norms learn in backbone, pyramid
# and heads; their statistics are averaged anew before evaluation.
_base_ = [
    '../configs/_base_/models/faster_rcnn_s50_fpn_syncbn_detectron2.py',
    './overfit_base.py',
]

model = dict(
    # From scratch: all layers learn.
    backbone=dict(frozen_stages=-1, init_cfg=None),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
custom_hooks = [dict(type='PreciseBNHook', num_iters=8)]

val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
