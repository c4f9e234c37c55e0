# bash tools/dist_train.sh configs/legacy_1.x/htc_without_semantic_r50_fpn_1x_coco_v1_exact.py 8
# The arithmetic of mmdetection 1.x: its weights give the same boxes and masks.
_base_ = [
    '../_base_/models/htc_r50_fpn_v1.py',
    '../_base_/datasets/coco_instance_mmdet1.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(pad_seg=False),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)
