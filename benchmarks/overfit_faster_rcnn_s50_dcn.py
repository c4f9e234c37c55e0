# python benchmarks/overfit_coco.py --models faster_rcnn_s50_dcn --steps 200 --data-root data/coco
# The same with modulated deformable convolutions in three stages.
_base_ = ['./overfit_faster_rcnn_s50.py']

model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=2, offset_groups=2),
        stage_with_dcn=(False, True, True, True),
    ),
)
