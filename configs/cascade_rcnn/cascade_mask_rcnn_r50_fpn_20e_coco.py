# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_r50_fpn_20e_coco.py 8
# Published with mmdetection 2.x: box AP 41.9, mask AP 36.5 on val2017; 6.0 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
]
