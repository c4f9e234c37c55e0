# bash tools/dist_train.sh configs/cascade_rcnn/cascade_mask_rcnn_r50_fpn_mstrain_3x_coco.py 8
# Published with mmdetection 2.x: box AP 44.3, mask AP 38.5 on val2017; 5.9 GB per GPU in training.
_base_ = [
    '../_base_/models/cascade_mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance_mstrain_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
