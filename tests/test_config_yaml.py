"""The YAML of detectron2, maskrcnn-benchmark and their forks, read as configs of ours."""

import copy
import logging

import pytest
import yaml

from mmdet_r2.config import flatten, load_config
from mmdet_r2.errors import ConfigError

# The base file of all pyramids there; tuples as such files have them, which YAML reads as text.
FPN = {
    'MODEL': {
        'META_ARCHITECTURE': 'GeneralizedRCNN',
        'BACKBONE': {'NAME': 'build_resnet_fpn_backbone'},
        'RESNETS': {'OUT_FEATURES': ['res2', 'res3', 'res4', 'res5']},
        'FPN': {'IN_FEATURES': ['res2', 'res3', 'res4', 'res5']},
        'ANCHOR_GENERATOR': {'SIZES': [[32], [64], [128], [256], [512]]},
        'RPN': {
            'IN_FEATURES': ['p2', 'p3', 'p4', 'p5', 'p6'],
            'PRE_NMS_TOPK_TRAIN': 2000,
            'PRE_NMS_TOPK_TEST': 1000,
            'POST_NMS_TOPK_TRAIN': 1000,
        },
        'ROI_HEADS': {'NAME': 'StandardROIHeads', 'IN_FEATURES': ['p2', 'p3', 'p4', 'p5']},
        'ROI_BOX_HEAD': {'NAME': 'FastRCNNConvFCHead', 'NUM_FC': 2, 'POOLER_RESOLUTION': 7},
        'ROI_MASK_HEAD': {'NUM_CONV': 4},
    },
    'DATASETS': {'TRAIN': '("coco_2017_train",)', 'TEST': '("coco_2017_val",)'},
    'SOLVER': {'BASE_LR': 0.02, 'STEPS': '(60000, 80000)', 'MAX_ITER': 90000},
    'INPUT': {'MIN_SIZE_TRAIN': '(640, 672, 704, 736, 768, 800)'},
}
LONG = {'SOLVER.STEPS': '(210000, 250000)', 'SOLVER.MAX_ITER': 270000}
LONGEST = {'SOLVER.STEPS': '(240000, 255000)', 'SOLVER.MAX_ITER': 270000}
MASK = {'MODEL.MASK_ON': True}
R101 = {'MODEL.RESNETS.DEPTH': 101}
RANGE = {
    'INPUT.MIN_SIZE_TRAIN': '(640, 800)',
    'INPUT.MIN_SIZE_TRAIN_SAMPLING': 'range',
    'INPUT.MAX_SIZE_TRAIN': 1333,
}
CASCADE = {
    'MODEL.ROI_HEADS.NAME': 'CascadeROIHeads',
    'MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG': True,
    'MODEL.RPN.POST_NMS_TOPK_TRAIN': 2000,
}
PANOPTIC = {
    **MASK,
    'MODEL.META_ARCHITECTURE': 'PanopticFPN',
    'MODEL.SEM_SEG_HEAD.LOSS_WEIGHT': 0.5,
    'DATASETS.TRAIN': '("coco_2017_train_panoptic_separated",)',
    'DATASETS.TEST': '("coco_2017_val_panoptic_separated",)',
    'DATALOADER.FILTER_EMPTY_ANNOTATIONS': False,
}
SYNC = {
    'MODEL.RESNETS.NORM': 'SyncBN',
    'MODEL.FPN.NORM': 'SyncBN',
    'MODEL.ROI_BOX_HEAD.NUM_CONV': 4,
    'MODEL.ROI_BOX_HEAD.NUM_FC': 1,
    'MODEL.ROI_BOX_HEAD.NORM': 'SyncBN',
    'TEST.PRECISE_BN.ENABLED': True,
}
SYNC_MASK = {**SYNC, **MASK, 'MODEL.ROI_MASK_HEAD.NORM': 'SyncBN'}
RESNEST = {
    'MODEL.WEIGHTS': 'https://s3.example.org/resnest50_detectron-255b5649.pth',
    'MODEL.RESNETS.STRIDE_IN_1X1': False,
    'MODEL.RESNETS.RADIX': 2,
    'MODEL.PIXEL_MEAN': [123.68, 116.779, 103.939],
    'MODEL.PIXEL_STD': [58.393, 57.12, 57.375],
    'INPUT.FORMAT': 'RGB',
}
S200 = {**RESNEST, **CASCADE, 'MODEL.RESNETS.DEPTH': 200}
DEFORM = {
    'MODEL.RESNETS.DEFORM_ON_PER_STAGE': [False, True, True, True],
    'MODEL.RESNETS.DEFORM_MODULATED': True,
    'MODEL.RESNETS.DEFORM_NUM_GROUPS': 2,
}
TRICKS = {
    **LONGEST,
    'MODEL.ROI_MASK_HEAD.NUM_CONV': 8,
    'INPUT.MIN_SIZE_TRAIN': '(640, 864)',
    'INPUT.MIN_SIZE_TRAIN_SAMPLING': 'range',
    'INPUT.MAX_SIZE_TRAIN': 1440,
    'INPUT.CROP.ENABLED': True,
}
MSRA = {'MODEL.WEIGHTS': 'detectron2://ImageNetPretrained/MSRA/R-50.pkl'}
# detectron2's file says so; ours leaves such images out.
EMPTY = 'train_dataloader.dataset.filter_cfg'

# name of the config -> what its file sets, differences that are known
RESNEST_ROWS = {
    'mask_rcnn_r50_caffe_fpn_syncbn-all_mstrain_1x_coco': {**MSRA, **SYNC_MASK},
    'mask_rcnn_r101_caffe_fpn_syncbn-all_mstrain_1x_coco': {**MSRA, **SYNC_MASK, **R101},
    'mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco': {**RESNEST, **SYNC_MASK},
    'mask_rcnn_s101_fpn_syncbn-all_mstrain_1x_coco': {**RESNEST, **SYNC_MASK, **R101},
    'faster_rcnn_r50_caffe_fpn_syncbn-all_mstrain-range_1x_coco': {**MSRA, **SYNC, **RANGE},
    'faster_rcnn_s50_fpn_syncbn-all_mstrain-range_1x_coco': {**RESNEST, **SYNC, **RANGE},
    'faster_rcnn_s50_fpn_mdconv_c3-c5_group2_syncbn-all_mstrain-range_1x_coco': {
        **RESNEST,
        **SYNC,
        **RANGE,
        **DEFORM,
    },
    'cascade_rcnn_r101_caffe_fpn_syncbn-all_mstrain-range_1x_coco': {
        **MSRA,
        **SYNC,
        **CASCADE,
        **RANGE,
        **R101,
    },
    'cascade_rcnn_s200_fpn_syncbn-all_mstrain-range_1x_coco': {**S200, **SYNC, **RANGE},
    'cascade_mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco': {**RESNEST, **SYNC_MASK, **CASCADE},
    'cascade_mask_rcnn_s200_fpn_syncbn-all_tricks_3x_coco': {**S200, **SYNC_MASK, **TRICKS},
    'cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco': {
        **S200,
        **SYNC_MASK,
        **TRICKS,
        **DEFORM,
    },
    # its last file says TEST.AUG; which scales gave the published numbers is not known
    'cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco_tta': {
        **S200,
        **SYNC_MASK,
        **TRICKS,
        **DEFORM,
        'TEST.AUG.ENABLED': True,
    },
}
PANOPTIC_ROWS = {
    'panoptic_fpn_r50_caffe_fpn_mstrain_1x_coco': {**MSRA, **PANOPTIC},
    'panoptic_fpn_r50_caffe_fpn_mstrain_3x_coco': {**MSRA, **PANOPTIC, **LONG},
    'panoptic_fpn_r101_caffe_fpn_mstrain_3x_coco': {**MSRA, **PANOPTIC, **LONG, **R101},
    'panoptic_fpn_r2_101_fpn_mstrain_3x_coco': {
        **PANOPTIC,
        **LONG,
        **R101,
        'MODEL.WEIGHTS': 'r2_101.pkl',
        'MODEL.RESNETS.SCALE': 4,
        'MODEL.RESNETS.WIDTH_PER_GROUP': 26,
        'MODEL.PIXEL_MEAN': [123.675, 116.280, 103.530],
        'MODEL.PIXEL_STD': [58.395, 57.12, 57.375],
        'INPUT.FORMAT': 'RGB',
    },
    'panoptic_cascade_fpn_s200_fpn_syncbn_tricks_3x_coco': {
        **S200,
        **SYNC,
        **PANOPTIC,
        **LONGEST,
        'MODEL.SEM_SEG_HEAD.NORM': 'SyncBN',
        'INPUT.MIN_SIZE_TRAIN': '(400, 1000)',
        'INPUT.MIN_SIZE_TRAIN_SAMPLING': 'range',
        'INPUT.MAX_SIZE_TRAIN': 1440,
    },
}
DETECTRON2 = {
    **{name: (keys, ()) for name, keys in RESNEST_ROWS.items()},
    **{name: (keys, (EMPTY,)) for name, keys in PANOPTIC_ROWS.items()},
}
# Weights are asked for by another name of the same file.
WEIGHTS = 'model.backbone.init_cfg.checkpoint'
HELPERS = ('train_pipeline', 'test_pipeline', 'norm_cfg', 'data_root', 'filter_cfg', '_v1b')


def nested(keys, base=None):
    content = copy.deepcopy(base or {})
    for key, value in keys.items():
        *sections, name = key.split('.')
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return content


@pytest.fixture
def written(tmp_path):
    def write(keys, base=FPN, name='config.yaml'):
        (tmp_path / 'Base-RCNN-FPN.yaml').write_text(yaml.safe_dump(base))
        file = tmp_path / name
        file.write_text(yaml.safe_dump({'_BASE_': 'Base-RCNN-FPN.yaml', **nested(keys)}))
        return file

    return write


def differences(one, other, allowed=()):
    """Keys whose values differ; None is as good as no key, a tuple as good as a list."""

    def values(config):
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in flatten(config).items()
            if value is not None and not key.startswith(HELPERS)
        }

    one, other = values(one), values(other)
    return {
        key: (one.get(key), other.get(key))
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key) and not key.startswith((WEIGHTS, *allowed))
    }


@pytest.mark.parametrize('name', DETECTRON2)
def test_a_file_of_detectron2_is_the_config_of_its_model(written, name):
    keys, allowed = DETECTRON2[name]
    config = load_config(written(keys))
    assert differences(config, load_config(name), allowed) == {}
    assert config.model.backbone.init_cfg.checkpoint == keys['MODEL.WEIGHTS']
