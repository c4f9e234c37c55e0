# bash tools/dist_train.sh configs/faster_rcnn/faster_rcnn_r50_fpn_iou_1x_coco.py 8
# Published with mmdetection 2.x: box AP 37.9 on val2017.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
# The box loss compares decoded boxes.
model = dict(
    roi_head=dict(
        bbox_head=dict(
            reg_decoded_bbox=True,
            loss_bbox=dict(type='IoULoss', loss_weight=10.0),
        ),
    ),
)
