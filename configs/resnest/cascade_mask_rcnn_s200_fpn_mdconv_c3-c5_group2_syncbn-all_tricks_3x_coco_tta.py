# python tools/test.py configs/resnest/cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco_tta.py CHECKPOINT --tta
# Published with a fork of detectron2: box AP 53.30, mask AP 47.10 on test-dev, of the same weights as
# the config it inherits from. Which scales gave these is not recorded: here are detectron2's.
_base_ = './cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco.py'

tta_model = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='ResizeShortestEdge', scale=scale, max_size=4000, backend='pillow')
                for scale in range(400, 1201, 100)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'flip',
                        'flip_direction',
                    ),
                )
            ],
        ],
    ),
]
