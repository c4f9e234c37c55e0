# python benchmarks/overfit_coco.py --models mask_rcnn --data-root data/coco
# Mask R-CNN with Res2Net-50, from scratch, on eight images to learn by heart: a model, loss or
# data path with an error in it does not get there. The images are chosen by overfit_coco.py.
_base_ = ['../configs/_base_/models/mask_rcnn_r50_fpn.py', './overfit_base.py']

channels = 128

model = dict(
    backbone=dict(
        type='Res2Net',
        depth=50,
        scales=4,
        base_width=26,
        # From scratch: all layers learn, and so do the statistics of batch norm.
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=512),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=40)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
