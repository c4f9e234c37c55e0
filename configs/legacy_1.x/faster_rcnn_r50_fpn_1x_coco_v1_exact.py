# bash tools/dist_train.sh configs/legacy_1.x/faster_rcnn_r50_fpn_1x_coco_v1_exact.py 8
# Published with mmdetection 1.x: box AP 36.4 on val2017, whose arithmetic this is: its weights give
# the same boxes.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn_v1.py',
    '../_base_/datasets/coco_instance_mmdet1.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(type='FasterRCNN', roi_head=dict(mask_roi_extractor=None, mask_head=None))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
