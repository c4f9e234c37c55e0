# bash tools/dist_train.sh configs/panoptic_fpn/panoptic_cascade_fpn_s200_fpn_syncbn_tricks_3x_coco.py 8
# Published with a fork of detectron2: box AP 51.00, mask AP 43.68, PQ 47.90 on val2017.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_s50_fpn_syncbn_detectron2.py',
    '../_base_/datasets/coco_panoptic_tricks_detectron2.py',
    '../_base_/schedules/detectron2_3x_tricks.py',
    '../_base_/default_runtime_iter.py',
]
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    backbone=dict(
        depth=200,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnest200'),
    ),
    roi_head=dict(mask_head=dict(norm_cfg=None)),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=80,
        num_stuff_classes=53,
        # Asked for SyncBN, the fork built convolutions with neither norm nor bias.
        norm_cfg=None,
        bias=False,
        full_resolution=True,
        label_order='things_first',
        loss_seg=dict(
            type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5, avg_non_ignore=True
        ),
        init_cfg=dict(type='Kaiming', override=dict(name='conv_logits')),
    ),
    panoptic_fusion_head=dict(
        type='HeuristicFusionHead', num_things_classes=80, num_stuff_classes=53
    ),
    test_cfg=dict(panoptic=dict(score_thr=0.5, mask_overlap=0.5, stuff_area_limit=4096)),
)
