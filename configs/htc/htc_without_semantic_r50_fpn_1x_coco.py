# bash tools/dist_train.sh configs/htc/htc_without_semantic_r50_fpn_1x_coco.py 8
# No published figures: the recipe of its published neighbours.
_base_ = [
    '../_base_/models/htc_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(pad_seg=False),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)
