# bash tools/dist_train.sh configs/legacy_1.x/cascade_rcnn_r50_fpn_1x_coco_v1_exact.py 8
# The arithmetic of mmdetection 1.x: its weights give the same boxes.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn_v1.py',
    '../_base_/datasets/coco_instance_mmdet1.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
