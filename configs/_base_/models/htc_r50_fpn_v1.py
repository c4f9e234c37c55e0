# Hybrid Task Cascade (https://arxiv.org/abs/1901.07518) with ResNet-50 and FPN in the arithmetic of
# mmdetection 1.x: its Cascade Mask R-CNN with three mask heads, which pass on their features, and a
# semantic branch of 183 classes of things and stuff.
_base_ = './cascade_mask_rcnn_r50_fpn_v1.py'
model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(
        _delete_=True,
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_seg=True,
        pad_size_divisor=32,
    ),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        # The first head has no predecessor whose features it would take up.
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            )
            for with_conv_res in (False, True, True)
        ],
        semantic_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(
                type='RoIAlign', output_size=14, sampling_ratio=2, aligned=False, end_offset=1
            ),
            out_channels=256,
            featmap_strides=[8],
            offset=1,
        ),
        semantic_head=dict(
            type='FusedSemanticHead',
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=183,
            loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2),
        ),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.001)),
)
