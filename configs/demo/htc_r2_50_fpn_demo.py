# make demo DEMO_CONFIG=configs/demo/htc_r2_50_fpn_demo.py
# Hybrid Task Cascade by the recipe of the Cascade Mask R-CNN that this inherits, with a semantic
# branch that learns the generated stuff maps (five shapes, four kinds of ground).
_base_ = ['./cascade_mask_rcnn_r2_50_fpn_demo.py']

size = 96
channels = 64
norm = dict(type='BN', requires_grad=True)

model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_seg=True),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        # The first head has no predecessor whose features it would take up. The third runs all
        # three: two convolutions each.
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,
                num_convs=2,
                in_channels=channels,
                conv_out_channels=channels,
                num_classes=5,
                norm_cfg=norm,
            )
            for with_conv_res in (False, True, True)
        ],
        semantic_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=channels,
            featmap_strides=[8],
        ),
        semantic_head=dict(
            type='FusedSemanticHead',
            num_ins=4,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=9,
            norm_cfg=norm,
            loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2),
        ),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img='train/', seg='stuffthingmaps/train/'),
        pipeline=train_pipeline,
    ),
)
