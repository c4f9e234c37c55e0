# bash tools/dist_train.sh configs/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco.py 8
# Published with mmdetection 2.x: box AP 40.9, mask AP 37.1 on val2017; 4.1 GB per GPU in training.
_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance_mstrain_poly_3x.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
