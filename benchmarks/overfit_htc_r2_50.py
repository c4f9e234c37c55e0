# python benchmarks/overfit_coco.py --models htc --data-root data/coco
# Hybrid Task Cascade in the same budget. The stuff maps are made by overfit_coco.py from the
# instances: COCO-Stuff's labels of things, and its one unused label everywhere else.
_base_ = ['./overfit_cascade_mask_rcnn_r2_50.py']

size = 160
channels = 128

model = dict(
    type='HybridTaskCascade',
    data_preprocessor=dict(pad_seg=True),
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        mask_head=[
            dict(
                type='HTCMaskHead',
                with_conv_res=with_conv_res,
                num_convs=4,
                in_channels=channels,
                conv_out_channels=channels,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
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
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=183,
            loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.2),
        ),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='PackDetInputs'),
]
# data_prefix.seg is set by overfit_coco.py
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
