# Fast R-CNN (https://arxiv.org/abs/1504.08083) with ResNet-50 and FPN, 80 classes: its proposals
# come with the data.
_base_ = ['./faster_rcnn_r50_fpn.py']
model = dict(
    type='FastRCNN',
    rpn_head=None,
    train_cfg=dict(rpn=None, rpn_proposal=None),
    test_cfg=dict(rpn=None),
)
