"""The YAML of detectron2, maskrcnn-benchmark and their forks, read as configs of ours."""

import copy
import functools
from pathlib import Path

import pytest
import yaml

from mmdet_r2.config import flatten, load_config
from mmdet_r2.config_yaml import detectron2, maskrcnn_benchmark
from mmdet_r2.config_yaml.source import FREE, ONLY, read_chain
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

# Defaults of the class, which one of our configs leaves unsaid.
SEMANTIC = tuple(
    f'model.semantic_head.{key}'
    for key in ('in_channels', 'inner_channels', 'start_level', 'end_level')
)

# Ours of the models below are trained by mmdetection's recipe, not detectron2's: epochs, OpenCV's
# resizing, and of the model these.
RECIPE = (
    'train_cfg',
    'param_scheduler',
    'optim_wrapper.paramwise_cfg',
    'default_hooks.checkpoint',
    'log_processor',
    'train_dataloader',
    'val_dataloader.dataset.pipeline.1',
    'test_dataloader.dataset.pipeline.1',
    'val_dataloader.dataset.pipeline.2.poly2mask',
    'test_dataloader.dataset.pipeline.2.poly2mask',
    'model.backbone.norm',
    'model.neck.init_cfg',
    'model.roi_head.mask_head.init_cfg',
    'model.rpn_head.bbox_coder.size_clamp',
    'model.test_cfg.rcnn.drop_empty',
    'model.test_cfg.rcnn.nms_after_rescale',
    'model.train_cfg.rpn.allowed_border',  # -1 in one, 0 in others
    'model.train_cfg.rpn.assigner.low_quality_target',
    'model.train_cfg.rpn.assigner.min_pos_iou',
    'model.train_cfg.rpn.samples_per_img',
    'model.train_cfg.rcnn.assigner.match_low_quality',
    'model.train_cfg.rcnn.sampler.gt_position',
    'model.roi_head.bbox_head.bbox_coder.size_clamp',
    'model.roi_head.bbox_head.init_cfg',
)
STAGES = (
    *(
        f'model.roi_head.bbox_head.{stage}.{key}'
        for stage in range(3)
        for key in ('bbox_coder.size_clamp', 'init_cfg', 'loss_bbox')
    ),
    *(f'model.train_cfg.rcnn.{stage}.sampler.gt_position' for stage in range(3)),
    'model.roi_head.bbox_head.2.bbox_coder.target_stds',  # 1/30 and 1/15 there
    'model.roi_head.feature_grad_scale',
    'model.roi_head.mask_stages',
    'model.roi_head.resample',
    'model.roi_head.score_average',
    'model.roi_head.stage_loss_weights',
    'model.rpn_head.loss_bbox',
)
SINGLE = (
    'model.data_preprocessor.pad_size_divisor',
    'model.roi_head.shared_head.norm',
    'model.roi_head.shared_head.init_cfg',
)
C4 = {
    'MODEL': {'ROI_HEADS': {'NAME': 'Res5ROIHeads'}},
    **{key: FPN[key] for key in ('DATASETS', 'SOLVER', 'INPUT')},
}
DC5 = {
    'MODEL': {
        'RESNETS': {'OUT_FEATURES': ['res5'], 'RES5_DILATION': 2},
        'RPN': {'IN_FEATURES': ['res5']},
        'ROI_HEADS': {'NAME': 'StandardROIHeads', 'IN_FEATURES': ['res5']},
        'ROI_BOX_HEAD': FPN['MODEL']['ROI_BOX_HEAD'],
        'ROI_MASK_HEAD': FPN['MODEL']['ROI_MASK_HEAD'],
    },
    **{key: FPN[key] for key in ('DATASETS', 'SOLVER', 'INPUT')},
}
X101 = {
    **R101,
    'MODEL.WEIGHTS': 'detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl',
    'MODEL.PIXEL_STD': [57.375, 57.120, 58.395],
    'MODEL.RESNETS.STRIDE_IN_1X1': False,
    'MODEL.RESNETS.NUM_GROUPS': 32,
    'MODEL.RESNETS.WIDTH_PER_GROUP': 8,
}

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
PLAIN_ROWS = {
    'faster_rcnn_r50_caffe_fpn_mstrain_1x_coco': (FPN, MSRA, RECIPE),
    # the one of mmdetection's 3x has RGB input
    'faster_rcnn_r101_caffe_fpn_1x_coco': (FPN, {**MSRA, **R101, **LONG}, RECIPE),
    'faster_rcnn_x101_32x8d_fpn_mstrain_3x_coco': (FPN, {**X101, **LONG}, RECIPE),
    'mask_rcnn_r50_caffe_fpn_mstrain-poly_1x_coco': (FPN, {**MSRA, **MASK}, RECIPE),
    'mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco': (
        FPN,
        {**MSRA, **MASK, **R101, **LONG},
        RECIPE,
    ),
    'mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco': (FPN, {**X101, **MASK, **LONG}, RECIPE),
    'cascade_mask_rcnn_r50_caffe_fpn_mstrain_3x_coco': (
        FPN,
        {**MSRA, **MASK, **CASCADE, **LONG},
        (*RECIPE, *STAGES),
    ),
    'faster_rcnn_r50_caffe_c4_mstrain_1x_coco': (C4, MSRA, (*RECIPE, *SINGLE)),
    'mask_rcnn_r50_caffe_c4_1x_coco': (C4, {**MSRA, **MASK}, (*RECIPE, *SINGLE)),
    'faster_rcnn_r50_caffe_dc5_mstrain_1x_coco': (DC5, MSRA, (*RECIPE, *SINGLE)),
}
# maskrcnn-benchmark's files have no base.
BENCHMARK = {
    'MODEL': {
        'META_ARCHITECTURE': 'GeneralizedRCNN',
        'RESNETS': {'BACKBONE_OUT_CHANNELS': 256},
        'RPN': {
            'USE_FPN': True,
            'ANCHOR_STRIDE': '(4, 8, 16, 32, 64)',
            'PRE_NMS_TOP_N_TRAIN': 2000,
            'PRE_NMS_TOP_N_TEST': 1000,
            'FPN_POST_NMS_TOP_N_TEST': 1000,
        },
        'ROI_HEADS': {'USE_FPN': True},
        'ROI_BOX_HEAD': {
            'POOLER_RESOLUTION': 7,
            'POOLER_SCALES': '(0.25, 0.125, 0.0625, 0.03125)',
            'POOLER_SAMPLING_RATIO': 2,
            'FEATURE_EXTRACTOR': 'FPN2MLPFeatureExtractor',
            'PREDICTOR': 'FPNPredictor',
        },
        'ROI_MASK_HEAD': {
            'POOLER_SCALES': '(0.25, 0.125, 0.0625, 0.03125)',
            'FEATURE_EXTRACTOR': 'MaskRCNNFPNFeatureExtractor',
            'POOLER_SAMPLING_RATIO': 2,
            'RESOLUTION': 28,
            'SHARE_BOX_FEATURE_EXTRACTOR': False,
        },
        'MASK_ON': True,
    },
    'DATASETS': {
        'TRAIN': '("coco_2014_train", "coco_2014_valminusminival")',
        'TEST': '("coco_2014_minival",)',
    },
    'DATALOADER': {'SIZE_DIVISIBILITY': 32},
    'SOLVER': {
        'BASE_LR': 0.02,
        'WEIGHT_DECAY': 0.0001,
        'STEPS': '(120000, 160000)',
        'MAX_ITER': 180000,
    },
}
RGB = {
    'INPUT.PIXEL_MEAN': [0.485, 0.456, 0.406],
    'INPUT.PIXEL_STD': [0.229, 0.224, 0.225],
    'INPUT.TO_BGR255': False,
}


def res2net(depth, width, scale):
    return {
        **RGB,
        'MODEL.WEIGHT': f'/models/res2net{depth}_{width}w_{scale}s-0123abcd.pth',
        'MODEL.BACKBONE.CONV_BODY': f'R2-{depth}-FPN',
        'MODEL.RESNETS.WIDTH_PER_GROUP': width,
        'MODEL.RESNETS.SCALE': scale,
        'MODEL.RESNETS.TRANS_FUNC': 'Bottle2neckWithFixedBatchNorm',
    }


BENCHMARK_ROWS = {
    **{
        f'mask_rcnn_r{depth}_fpn_maskrcnnbench_2x_coco2014': {
            **RGB,
            'MODEL.WEIGHT': f'/models/resnet{depth}-0123abcd.pth',
            'MODEL.BACKBONE.CONV_BODY': f'R-{depth}-FPN',
        }
        for depth in (50, 101)
    },
    **{
        f'mask_rcnn_r2_{depth}_{width}w{scale}s_fpn_maskrcnnbench_2x_coco2014': res2net(
            depth, width, scale
        )
        for depth, width, scale in (
            (50, 48, 2),
            (50, 26, 4),
            (50, 18, 6),
            (50, 14, 8),
            (101, 26, 4),
        )
    },
    'mask_rcnn_r2_50_26w4s_fpn_maskrcnnbench_2x_coco': {
        **res2net(50, 26, 4),
        'DATASETS.TRAIN': '("coco_2017_train",)',
        'DATASETS.TEST': '("coco_2017_val",)',
    },
}
DETECTRON2 = {
    **{name: (keys, ()) for name, keys in RESNEST_ROWS.items()},
    **{name: (keys, (EMPTY, *SEMANTIC)) for name, keys in PANOPTIC_ROWS.items()},
}
# Weights are asked for by another name of the same file.
WEIGHTS = 'model.backbone.init_cfg.checkpoint'
HELPERS = (
    'train_pipeline',
    'test_pipeline',
    'norm_cfg',
    'data_root',
    'filter_cfg',
    '_v1b',
    'msra',
    'frozen',
)


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


@pytest.mark.parametrize('name', PLAIN_ROWS)
def test_a_file_of_detectron2_is_our_model_but_for_the_recipe(written, name):
    base, keys, allowed = PLAIN_ROWS[name]
    config = load_config(written(keys, base))
    assert differences(config, load_config(name), allowed) == {}


@pytest.mark.parametrize('name', BENCHMARK_ROWS)
def test_a_file_of_maskrcnn_benchmark_is_the_config_of_its_model(tmp_path, name):
    keys = BENCHMARK_ROWS[name]
    file = tmp_path / 'config.yaml'
    file.write_text(yaml.safe_dump(nested(keys, BENCHMARK)))
    config = load_config(file)
    assert differences(config, load_config(name)) == {}
    assert config.model.backbone.init_cfg.checkpoint == keys['MODEL.WEIGHT']


# What makes other keys matter.
SWITCHES = {
    **MASK,
    'INPUT.CROP.ENABLED': True,
    'TEST.AUG.ENABLED': True,
    'TEST.PRECISE_BN.ENABLED': True,
    'SOLVER.CLIP_GRADIENTS.ENABLED': True,
    'SOLVER.CLIP_GRADIENTS.CLIP_TYPE': 'full_model',
    'MODEL.ROI_BOX_HEAD.NUM_CONV': 4,
}
VARIANTS = (
    SWITCHES,
    {**SWITCHES, **RESNEST, **DEFORM},
    {**CASCADE, **MASK},
    PANOPTIC,
    {'SOLVER.LR_SCHEDULER_NAME': 'WarmupCosineLR'},
    {'SOLVER.CLIP_GRADIENTS.ENABLED': True},
)
BENCHMARK_VARIANTS = (
    BENCHMARK_ROWS['mask_rcnn_r2_50_26w4s_fpn_maskrcnnbench_2x_coco'],
    {
        'MODEL.BACKBONE.CONV_BODY': 'R-50-FPN',
        'MODEL.RESNETS.STAGE_WITH_DCN': '(False, True, True, True)',
        'MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR': 'FPNXconv1fcFeatureExtractor',
        # the newer name is asked for first
        'MODEL.RESNETS.BACKBONE_OUT_CHANNELS': 128,
    },
)


@functools.cache
def _shipped(name):
    return load_config(name, check=False).to_dict()


def shipped(name):
    return copy.deepcopy(_shipped(name))


def other(value):
    """A value of the same type that no file has."""
    if value is None or value == ():
        return ('x',) if value == () else 0.5
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(other(item) for item in value)
    return 'x' if isinstance(value, str) else value + 3


@pytest.mark.parametrize(
    ('project', 'base', 'variants'),
    [(detectron2, FPN, VARIANTS), (maskrcnn_benchmark, BENCHMARK, BENCHMARK_VARIANTS)],
    ids=['detectron2', 'maskrcnn-benchmark'],
)
def test_every_key_changes_the_config_or_is_refused_by_name(project, base, variants):
    def translated(keys):
        return project.translate(
            Path('x.yaml'), {**read_chain(Path('x.yaml'), base), **keys}, shipped
        )

    plain = [translated(keys) for keys in variants]
    silent = []
    for key, (default, rule) in project.TABLE.items():
        if rule == FREE:
            continue
        heard = False
        for keys, without in zip(variants, plain):
            try:
                heard |= translated({**keys, key: other(default)}) != without
            except ConfigError as error:
                named = str(error).removeprefix('x.yaml: ').split()[0]
                assert named == key if rule == ONLY else named in project.TABLE
                heard = True
            else:
                assert rule != ONLY
        if not heard:
            silent.append(key)
    assert silent == []
