# bash tools/dist_train.sh configs/htc/htc_r50_fpn_1x_coco.py 8
# Published with mmdetection 2.x: box AP 42.3, mask AP 37.4 on val2017; 8.2 GB per GPU in training.
_base_ = [
    '../_base_/models/htc_r50_fpn.py',
    '../_base_/datasets/coco_instance_semantic.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
