"""The YAML of detectron2, maskrcnn-benchmark and their forks, read as configs of ours."""

import copy
import functools
import json
from itertools import product
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


@functools.cache
def _shipped(name):
    return load_config(name, check=False).to_dict()


def shipped(name):
    return copy.deepcopy(_shipped(name))


@pytest.fixture(autouse=True)
def _read_once(monkeypatch):
    monkeypatch.setattr('mmdet_r2.config._shipped', shipped)


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
    assert differences(config, shipped(name), allowed) == {}
    assert config.model.backbone.init_cfg.checkpoint == keys['MODEL.WEIGHTS']


@pytest.mark.parametrize('name', PLAIN_ROWS)
def test_a_file_of_detectron2_is_our_model_but_for_the_recipe(written, name):
    base, keys, allowed = PLAIN_ROWS[name]
    config = load_config(written(keys, base))
    assert differences(config, shipped(name), allowed) == {}


@pytest.mark.parametrize('name', BENCHMARK_ROWS)
def test_a_file_of_maskrcnn_benchmark_is_the_config_of_its_model(tmp_path, name):
    keys = BENCHMARK_ROWS[name]
    file = tmp_path / 'config.yaml'
    file.write_text(yaml.safe_dump(nested(keys, BENCHMARK)))
    config = load_config(file)
    assert differences(config, shipped(name)) == {}
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
    },
)


def other(value):
    """A value of the same type that no file has."""
    if value is None or value == ():
        return ('x',) if value == () else 0.5
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(other(item) for item in value)
    return 'x' if isinstance(value, str) else value + 3 if value < 100 else value // 2


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
        # the default, too: some variant has another value
        for (keys, without), value in product(zip(variants, plain), (other(default), default)):
            try:
                heard |= translated({**keys, key: value}) != without
            except ConfigError as error:
                named = str(error).removeprefix('x.yaml: ').split()[0]
                assert named == key if rule == ONLY else named in project.TABLE
                heard = True
            else:
                assert rule != ONLY or value == default
        if not heard:
            silent.append(key)
    # by the name that files have had since, the base sets it
    assert silent == (['MODEL.BACKBONE.OUT_CHANNELS'] if project is maskrcnn_benchmark else [])


SETTINGS = {
    'weights of a detector': (
        {'MODEL.WEIGHTS': 'output/model_final.pth'},
        {'load_from': 'output/model_final.pth', 'model.backbone.init_cfg': None},
    ),
    'mixed precision': (
        {'SOLVER.AMP.ENABLED': True},
        {'optim_wrapper.type': 'AmpOptimWrapper'},
    ),
    'clipping of values': (
        {'SOLVER.CLIP_GRADIENTS.ENABLED': True, 'SOLVER.CLIP_GRADIENTS.CLIP_VALUE': 2.0},
        {'optim_wrapper.clip_grad.type': 'value', 'optim_wrapper.clip_grad.clip_value': 2.0},
    ),
    'clipping of the norm': (
        {
            'SOLVER.CLIP_GRADIENTS.ENABLED': True,
            'SOLVER.CLIP_GRADIENTS.CLIP_TYPE': 'full_model',
        },
        {'optim_wrapper.clip_grad.max_norm': 1.0, 'optim_wrapper.clip_grad.norm_type': 2.0},
    ),
    'a small batch': (
        {'SOLVER.IMS_PER_BATCH': 2, 'SOLVER.BASE_LR': 0.0025},
        {
            'train_dataloader.batch_size': 2,
            'auto_scale_lr.base_batch_size': 2,
            'optim_wrapper.optimizer.lr': 0.0025,
        },
    ),
    'a stated number of GPUs': (
        {'SOLVER.REFERENCE_WORLD_SIZE': 4},
        {'train_dataloader.batch_size': 4},
    ),
    'warm-up and steps': (
        {
            'SOLVER.WARMUP_ITERS': 100,
            'SOLVER.WARMUP_FACTOR': '1e-2',
            'SOLVER.STEPS': '(70, 90)',
            'SOLVER.GAMMA': 0.5,
            'SOLVER.MAX_ITER': 200,
        },
        {
            'param_scheduler.0.start_factor': 0.01,
            'param_scheduler.0.end': 101,
            'param_scheduler.1.milestones': [70, 90],
            'param_scheduler.1.gamma': 0.5,
            'param_scheduler.1.end': 200,
            'train_cfg.max_iters': 200,
        },
    ),
    'masks as bitmaps, flips up and down': (
        {**MASK, 'INPUT.MASK_FORMAT': 'bitmask', 'INPUT.RANDOM_FLIP': 'vertical'},
        {
            'train_dataloader.dataset.pipeline.1.poly2mask': True,
            'train_dataloader.dataset.pipeline.3.direction': 'vertical',
        },
    ),
    'two data sets': (
        {'DATASETS.TRAIN': '("coco_2014_train", "coco_2014_valminusminival")'},
        {
            'train_dataloader.dataset.type': 'ConcatDataset',
            'train_dataloader.dataset.datasets.1.ann_file': (
                'annotations/instances_valminusminival2014.json'
            ),
            'train_dataloader.dataset.datasets.1.data_prefix.img': 'val2014/',
        },
    ),
    'a test image as it is': (
        {'INPUT.MIN_SIZE_TEST': 0},
        {'test_dataloader.dataset.pipeline.1.type': 'LoadAnnotations'},
    ),
    'views': (
        {'TEST.AUG.ENABLED': True, 'TEST.AUG.MIN_SIZES': '(500,)', 'TEST.AUG.FLIP': False},
        {
            'tta_pipeline.1.transforms.0.0.scale': 500,
            'tta_pipeline.1.transforms.1.0.prob': 0.0,
            'tta_pipeline.1.transforms.1.1.prob': None,
        },
    ),
    'anchors of other sizes': (
        {'MODEL.ANCHOR_GENERATOR.SIZES': [[16], [64], [128], [256], [512]]},
        {
            'model.rpn_head.anchor_generator.scales': [1],
            'model.rpn_head.anchor_generator.base_sizes': [16, 64, 128, 256, 512],
        },
    ),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_have_their_places(written, name):
    keys, expected = SETTINGS[name]
    values = flatten(load_config(written({**MSRA, **keys})))
    assert {key: values.get(key) for key in expected} == expected


def test_a_dump_of_all_settings_is_the_same_config(written):
    """detectron2 writes one beside its checkpoints, with the keys of models of other kinds."""
    keys = {**MSRA, **MASK}
    given = read_chain(Path('x.yaml'), FPN)
    dump = {key: default for key, (default, _) in detectron2.TABLE.items() if default is not None}
    dump |= {**given, **keys, 'MODEL.RETINANET.NUM_CONVS': 4, 'SOLVER.WEIGHT_DECAY_BIAS': 0.0001}
    dump = {key: list(v) if isinstance(v, tuple) else v for key, v in dump.items()}
    # what it has of its own there, and ours elsewhere
    own = ('work_dir', 'default_hooks.checkpoint.interval')
    workers = tuple(f'{name}_dataloader.num_workers' for name in ('train', 'val', 'test'))
    one, two = load_config(written(keys)), load_config(written(json.loads(json.dumps(dump))))
    assert differences(one, two, (*own, *workers)) == {}


@pytest.mark.parametrize(
    ('keys', 'named'),
    [
        ({'MODEL.RPN.POST_NMS_TOPK': 1}, 'MODEL.RPN.POST_NMS_TOPK'),
        ({'MODEL.META_ARCHITECTURE': 'RetinaNet'}, 'MODEL.META_ARCHITECTURE'),
        ({'MODEL.KEYPOINT_ON': True}, 'MODEL.KEYPOINT_ON'),
        ({'SOLVER.MAX_ITER': 'many'}, 'SOLVER.MAX_ITER'),
        ({'SOLVER.STEPS': '(1, "x")'}, 'SOLVER.STEPS'),
        ({'MODEL.MASK_ON': 1}, 'MODEL.MASK_ON'),
        ({'DATASETS.TEST': '()'}, 'DATASETS.TEST'),
        ({'SOLVER.STEPS': '(' * 90}, 'SOLVER.STEPS'),
        ({'SOLVER.MAX_ITER': '__import__("os").getpid()'}, 'SOLVER.MAX_ITER'),
    ],
)
def test_what_cannot_be_taken_over_is_named(written, keys, named):
    file = written(keys)
    with pytest.raises(ConfigError, match=f'config.yaml.*{named}'):
        load_config(file)


def test_a_base_that_is_missing_leads_back_or_runs_something(tmp_path):
    file = tmp_path / 'config.yaml'
    for base in ('nothing.yaml', 'config.yaml'):
        file.write_text(f'_BASE_: {base}\n')
        with pytest.raises(ConfigError, match=base):
            load_config(file)
    (tmp_path / 'base.yaml').write_text('MODEL: !!python/object/apply:os.getcwd []\n')
    file.write_text('_BASE_: base.yaml\n')
    with pytest.raises(ConfigError, match=r'base\.yaml'):
        load_config(file)


def test_a_data_set_that_code_registers_has_a_place_to_fill_in(written, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmdet_r2.config_yaml.source.print_log', lambda message, *_: said.append(message)
    )
    config = load_config(written({**MSRA, 'DATASETS.TRAIN': '("my_cells",)'}))
    assert config.train_dataloader.dataset.ann_file == 'annotations/my_cells.json'
    assert 'my_cells' in said[0] and 'train_dataloader.dataset.ann_file' in said[0]


def test_a_config_written_as_python_is_the_same(written, tmp_path):
    config = load_config(written({**MSRA, **CASCADE, **MASK}))
    config.dump(tmp_path / 'config.py')
    assert load_config(tmp_path / 'config.py').to_dict() == config.to_dict()


def test_a_config_of_ours_does_not_inherit_theirs_unseen(written, tmp_path):
    written(MSRA)
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = 'config.yaml'\n")
    with pytest.raises(ConfigError, match=r'mine\.py:1.*config\.yaml.*--save'):
        load_config(file)


def test_our_own_yaml_is_read_as_before(tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text('load_from: model.pth\n')
    assert load_config(file).load_from == 'model.pth'
