# Mask R-CNN with ResNet-50 and FPN in the arithmetic of mmdetection 1.x. Boxes count pixels: one of
# width w ends at x2 = x1 + w - 1, hence every offset=1. Such boxes exist from the last transform
# (PixelBoxes) to the detector's results, which are x1, y1, x1 + w, y1 + h again.
_base_ = './mask_rcnn_r50_fpn.py'
model = dict(
    rpn_head=dict(
        anchor_generator=dict(type='LegacyAnchorGenerator', center_offset=0.5, rounding='corners'),
        bbox_coder=dict(offset=1),
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0),
    ),
    roi_head=dict(
        # RoIs are not moved by half a cell, and end with their last pixel.
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2, aligned=False, end_offset=1), offset=1
        ),
        bbox_head=dict(bbox_coder=dict(offset=1), loss_bbox=dict(type='SmoothL1Loss', beta=1.0)),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2, aligned=False, end_offset=1), offset=1
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=dict(offset=1), allowed_border=0),
        rpn_proposal=dict(max_per_img=2000, offset=1),
        rcnn=dict(assigner=dict(offset=1), mask_target='truncated'),
    ),
    test_cfg=dict(
        rpn=dict(offset=1),
        rcnn=dict(
            nms_after_rescale='always',  # with masks too
            mask_paste='truncated',
            offset=1,
        ),
    ),
)
