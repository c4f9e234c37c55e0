# python benchmarks/overfit_coco.py --models cascade_mask_rcnn_s50 --steps 200 --data-root data/coco
# Cascade Mask R-CNN with ResNeSt-50 in detectron2's arithmetic. Batch norms learn in all parts;
# their statistics are averaged anew before evaluation.
_base_ = [
    '../configs/_base_/models/cascade_mask_rcnn_s50_fpn_syncbn_detectron2.py',
    './overfit_base.py',
]

model = dict(
    # From scratch: all layers learn.
    backbone=dict(frozen_stages=-1, init_cfg=None),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                ),
                sampler=dict(type='RandomSampler', num=32, pos_fraction=0.25),
                mask_size=28,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
custom_hooks = [dict(type='PreciseBNHook', num_iters=8)]
