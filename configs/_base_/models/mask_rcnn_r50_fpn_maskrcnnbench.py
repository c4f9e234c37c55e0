# Mask R-CNN with ResNet-50 and FPN in the arithmetic of maskrcnn-benchmark. Boxes count pixels: one of
# width w ends at x2 = x1 + w - 1, hence every offset=1. Such boxes exist from the last transform
# (PixelBoxes) to the detector's results, which are x1, y1, x1 + w, y1 + h again.
_base_ = './mask_rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        # A constant scale and shift, without epsilon.
        norm_cfg=dict(type='FrozenBN', eps=0),
        style='caffe',  # the 1x1 convolutions have the stride, whatever the weights come from
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(init_cfg=dict(type='Caffe2Xavier', layer='Conv2d')),
    rpn_head=dict(
        anchor_generator=dict(
            type='LegacyAnchorGenerator',
            center_offset=0.5,
            rounding='sides',  # of the unscaled anchors; 1.x of mmdetection rounds the corners
        ),
        bbox_coder=dict(size_clamp='above', offset=1),
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0),
    ),
    roi_head=dict(
        # RoIs of at least one cell, not moved by half a cell.
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False), offset=1),
        bbox_head=dict(
            bbox_coder=dict(size_clamp='above', offset=1),
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0),
            init_cfg=[
                dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(type='Caffe2Xavier', override=dict(name='shared_fcs')),
            ],
        ),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False), offset=1),
    ),
    train_cfg=dict(
        rpn=dict(
            # Each object's best anchor is positive, however little they overlap, and trained on the
            # object that it overlaps most itself.
            assigner=dict(min_pos_iou=0.0, low_quality_target='nearest', offset=1),
            samples_per_img='sampled',
            # Anchors outside the image may be an object's best; only then are they ignored.
            allowed_border=0,
            match_border=True,
        ),
        rpn_proposal=dict(
            max_per_img=2000,
            max_per_batch=2000,  # over all images of a GPU: 1000 of each of two, on average
            offset=1,
        ),
        rcnn=dict(
            assigner=dict(match_low_quality=False, offset=1), sampler=dict(gt_position='end')
        ),
    ),
    test_cfg=dict(
        rpn=dict(offset=1),
        rcnn=dict(
            nms_after_rescale=False,
            keep_ties=True,  # of the hundredth score
            mask_paste='padded',
            offset=1,
        ),
    ),
)
