# make demo DEMO_CONFIG=configs/demo/cascade_mask_rcnn_r2_50_fpn_demo.py
# Cascade Mask R-CNN by the recipe of the Mask R-CNN that this inherits: the same backbone, pyramid,
# proposals, data and number of steps; three stages instead of one.
_base_ = ['./mask_rcnn_r2_50_fpn_demo.py']

channels = 64
num_classes = 5
norm = dict(type='BN', requires_grad=True)

model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        # One head per stage; their deltas shrink as the boxes get better.
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=1,
                num_shared_fcs=1,
                in_channels=channels,
                conv_out_channels=channels,
                fc_out_channels=512,
                roi_feat_size=7,
                num_classes=num_classes,
                norm_cfg=norm,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=2.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for stds in (
                [0.1, 0.1, 0.2, 0.2],
                [0.05, 0.05, 0.1, 0.1],
                [0.033, 0.033, 0.067, 0.067],
            )
        ],
    ),
    train_cfg=dict(
        # One entry per stage: what counts as an object gets stricter.
        rcnn=[
            dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type='RandomSampler', num=48, pos_fraction=0.33, add_gt_as_proposals=True
                ),
                mask_size=28,
                pos_weight=-1,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
)
