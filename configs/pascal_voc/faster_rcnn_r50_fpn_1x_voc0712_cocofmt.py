# bash tools/dist_train.sh configs/pascal_voc/faster_rcnn_r50_fpn_1x_voc0712_cocofmt.py 8
# No published figures: the recipe of faster_rcnn_r50_fpn_1x_voc0712, measured as COCO does.
_base_ = [
    '../_base_/models/faster_rcnn_r50_fpn.py',
    '../_base_/datasets/voc0712_cocofmt.py',
    '../_base_/schedules/schedule_voc0712.py',
    '../_base_/default_runtime.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
