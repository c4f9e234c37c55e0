"""detectron2's YAML, and that of its forks for ResNeSt and Res2Net."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .data import (
    finished,
    is_backbone,
    names_of,
    of_type,
    relative_decay,
    remove_masks,
    resize,
    set_schedule,
    set_test,
    set_train,
    tested_place,
)
from .source import FREE, ONLY, READ, Source, Table, inverse, put, to

# What a translation begins with: both have detectron2's arithmetic.
_PANOPTIC = 'panoptic_fpn_r50_caffe_fpn_mstrain_1x_coco'
_CASCADE = 'cascade_mask_rcnn_s50_fpn_syncbn-all_mstrain_1x_coco'

_HEADS = ('model.roi_head.bbox_head', 'model.roi_head.mask_head')
_RCNN = 'model.train_cfg.rcnn'
_PROPOSALS = 'model.train_cfg.rpn_proposal', 'model.test_cfg.rpn'
_LEVELS = ('res2', 'res3', 'res4', 'res5')
_PYRAMID = ('p2', 'p3', 'p4', 'p5', 'p6')
_ROI_LEVELS = _PYRAMID[:4]
_STRIDES = (4, 8, 16, 32, 64)


def _in(where: str, *keys: str) -> list[str]:
    return [f'{where}.{key}' for key in keys]


TABLE: Table = {
    'VERSION': (2, FREE),
    'OUTPUT_DIR': ('./output', READ),
    'SEED': (-1, READ),
    'CUDNN_BENCHMARK': (False, to('env_cfg.cudnn_benchmark')),
    'FLOAT32_PRECISION': ('', FREE),
    'VIS_PERIOD': (0, FREE),
    'GLOBAL.HACK': (1.0, FREE),
    # ---- model
    'MODEL.META_ARCHITECTURE': ('GeneralizedRCNN', READ),
    'MODEL.DEVICE': ('cuda', FREE),
    'MODEL.WEIGHTS': ('', READ),
    'MODEL.MASK_ON': (False, READ),
    'MODEL.KEYPOINT_ON': (False, ONLY),
    'MODEL.LOAD_PROPOSALS': (False, ONLY),
    'MODEL.PROPOSAL_GENERATOR.NAME': ('RPN', ONLY),
    'MODEL.PROPOSAL_GENERATOR.MIN_SIZE': (0, to(*(f'{p}.min_bbox_size' for p in _PROPOSALS))),
    'MODEL.PIXEL_MEAN': ((103.53, 116.28, 123.675), to('model.data_preprocessor.mean', via=list)),
    'MODEL.PIXEL_STD': ((1.0, 1.0, 1.0), to('model.data_preprocessor.std', via=list)),
    # ---- backbone and pyramid
    'MODEL.BACKBONE.NAME': ('build_resnet_backbone', READ),
    'MODEL.BACKBONE.FREEZE_AT': (2, to('model.backbone.frozen_stages', via=lambda at: at - 1)),
    'MODEL.RESNETS.DEPTH': (50, to('model.backbone.depth')),
    'MODEL.RESNETS.OUT_FEATURES': (('res4',), READ),
    'MODEL.RESNETS.NUM_GROUPS': (1, READ),
    'MODEL.RESNETS.WIDTH_PER_GROUP': (64, READ),
    'MODEL.RESNETS.NORM': ('FrozenBN', READ),
    'MODEL.RESNETS.STRIDE_IN_1X1': (True, READ),
    'MODEL.RESNETS.RES5_DILATION': (1, READ),
    'MODEL.RESNETS.RES2_OUT_CHANNELS': (256, ONLY),
    'MODEL.RESNETS.STEM_OUT_CHANNELS': (64, ONLY),
    'MODEL.RESNETS.DEFORM_ON_PER_STAGE': ((False,) * 4, READ),
    'MODEL.RESNETS.DEFORM_MODULATED': (False, READ),
    'MODEL.RESNETS.DEFORM_NUM_GROUPS': (1, READ),
    # of the fork for ResNeSt
    'MODEL.RESNETS.RADIX': (1, READ),
    'MODEL.RESNETS.BOTTLENECK_WIDTH': (64, ONLY),
    'MODEL.RESNETS.DEEP_STEM': (False, READ),
    'MODEL.RESNETS.AVD': (False, READ),
    'MODEL.RESNETS.AVG_DOWN': (False, READ),
    # of the fork for Res2Net
    'MODEL.RESNETS.SCALE': (1, READ),
    'MODEL.FPN.IN_FEATURES': ((), READ),
    'MODEL.FPN.OUT_CHANNELS': (256, READ),
    'MODEL.FPN.NORM': ('', READ),
    'MODEL.FPN.FUSE_TYPE': ('sum', ONLY),
    # ---- anchors and proposals
    'MODEL.ANCHOR_GENERATOR.NAME': ('DefaultAnchorGenerator', ONLY),
    'MODEL.ANCHOR_GENERATOR.SIZES': (((32, 64, 128, 256, 512),), READ),
    'MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS': (((0.5, 1.0, 2.0),), READ),
    'MODEL.ANCHOR_GENERATOR.ANGLES': (((-90, 0, 90),), FREE),  # of rotated boxes alone
    'MODEL.ANCHOR_GENERATOR.OFFSET': (0.0, ONLY),
    'MODEL.RPN.HEAD_NAME': ('StandardRPNHead', ONLY),
    'MODEL.RPN.IN_FEATURES': (('res4',), READ),
    'MODEL.RPN.BOUNDARY_THRESH': (-1, to('model.train_cfg.rpn.allowed_border')),
    'MODEL.RPN.IOU_THRESHOLDS': ((0.3, 0.7), READ),
    'MODEL.RPN.IOU_LABELS': ((0, -1, 1), ONLY),
    'MODEL.RPN.BATCH_SIZE_PER_IMAGE': (
        256,
        to(*_in('model.train_cfg.rpn', 'sampler.num', 'samples_per_img')),
    ),
    'MODEL.RPN.POSITIVE_FRACTION': (0.5, to('model.train_cfg.rpn.sampler.pos_fraction')),
    'MODEL.RPN.BBOX_REG_LOSS_TYPE': ('smooth_l1', ONLY),
    'MODEL.RPN.BBOX_REG_LOSS_WEIGHT': (1.0, READ),
    'MODEL.RPN.BBOX_REG_WEIGHTS': (
        (1.0, 1.0, 1.0, 1.0),
        to('model.rpn_head.bbox_coder.target_stds', via=inverse),
    ),
    'MODEL.RPN.SMOOTH_L1_BETA': (0.0, READ),
    'MODEL.RPN.LOSS_WEIGHT': (1.0, to('model.rpn_head.loss_cls.loss_weight')),
    'MODEL.RPN.PRE_NMS_TOPK_TRAIN': (12000, to('model.train_cfg.rpn_proposal.nms_pre')),
    'MODEL.RPN.PRE_NMS_TOPK_TEST': (6000, to('model.test_cfg.rpn.nms_pre')),
    'MODEL.RPN.POST_NMS_TOPK_TRAIN': (2000, to('model.train_cfg.rpn_proposal.max_per_img')),
    'MODEL.RPN.POST_NMS_TOPK_TEST': (1000, to('model.test_cfg.rpn.max_per_img')),
    'MODEL.RPN.NMS_THRESH': (0.7, to(*(f'{p}.nms.iou_threshold' for p in _PROPOSALS))),
    'MODEL.RPN.CONV_DIMS': ((-1,), ONLY),
    # ---- heads of boxes
    'MODEL.ROI_HEADS.NAME': ('Res5ROIHeads', READ),
    'MODEL.ROI_HEADS.NUM_CLASSES': (80, to(*(f'{head}.num_classes' for head in _HEADS))),
    'MODEL.ROI_HEADS.IN_FEATURES': (('res4',), READ),
    'MODEL.ROI_HEADS.IOU_THRESHOLDS': ((0.5,), READ),
    'MODEL.ROI_HEADS.IOU_LABELS': ((0, 1), ONLY),
    'MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE': (512, to(f'{_RCNN}.sampler.num')),
    'MODEL.ROI_HEADS.POSITIVE_FRACTION': (0.25, to(f'{_RCNN}.sampler.pos_fraction')),
    'MODEL.ROI_HEADS.SCORE_THRESH_TEST': (0.05, to('model.test_cfg.rcnn.score_thr')),
    'MODEL.ROI_HEADS.NMS_THRESH_TEST': (0.5, to('model.test_cfg.rcnn.nms.iou_threshold')),
    'MODEL.ROI_HEADS.PROPOSAL_APPEND_GT': (True, to(f'{_RCNN}.sampler.add_gt_as_proposals')),
    'MODEL.ROI_BOX_HEAD.NAME': ('', READ),
    'MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE': ('smooth_l1', ONLY),
    'MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT': (1.0, READ),
    'MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS': ((10.0, 10.0, 5.0, 5.0), READ),
    'MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA': (0.0, READ),
    'MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION': (
        14,
        to('model.roi_head.bbox_roi_extractor.roi_layer.output_size'),
    ),
    'MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO': (
        0,
        to('model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio'),
    ),
    'MODEL.ROI_BOX_HEAD.POOLER_TYPE': ('ROIAlignV2', READ),
    'MODEL.ROI_BOX_HEAD.NUM_FC': (0, READ),
    'MODEL.ROI_BOX_HEAD.FC_DIM': (1024, READ),
    'MODEL.ROI_BOX_HEAD.NUM_CONV': (0, READ),
    'MODEL.ROI_BOX_HEAD.CONV_DIM': (256, READ),
    'MODEL.ROI_BOX_HEAD.NORM': ('', READ),
    'MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG': (
        False,
        to('model.roi_head.bbox_head.reg_class_agnostic'),
    ),
    'MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES': (False, ONLY),
    'MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE': (False, ONLY),
    'MODEL.ROI_BOX_HEAD.USE_FED_LOSS': (False, ONLY),
    'MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER': (0.5, FREE),
    'MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES': (50, FREE),
    'MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS': (
        ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        READ,
    ),
    'MODEL.ROI_BOX_CASCADE_HEAD.IOUS': ((0.5, 0.6, 0.7), READ),
    # ---- heads of masks
    'MODEL.ROI_MASK_HEAD.NAME': ('MaskRCNNConvUpsampleHead', ONLY),
    'MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION': (
        14,
        to('model.roi_head.mask_roi_extractor.roi_layer.output_size'),
    ),
    'MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO': (
        0,
        to('model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio'),
    ),
    'MODEL.ROI_MASK_HEAD.POOLER_TYPE': ('ROIAlignV2', READ),
    'MODEL.ROI_MASK_HEAD.NUM_CONV': (0, to('model.roi_head.mask_head.num_convs')),
    'MODEL.ROI_MASK_HEAD.CONV_DIM': (256, to('model.roi_head.mask_head.conv_out_channels')),
    'MODEL.ROI_MASK_HEAD.NORM': ('', READ),
    'MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK': (
        False,
        to('model.roi_head.mask_head.class_agnostic'),
    ),
    # ---- panoptic segmentation
    'MODEL.SEM_SEG_HEAD.NAME': ('SemSegFPNHead', ONLY),
    'MODEL.SEM_SEG_HEAD.IN_FEATURES': (_ROI_LEVELS, ONLY),
    'MODEL.SEM_SEG_HEAD.IGNORE_VALUE': (255, ONLY),
    'MODEL.SEM_SEG_HEAD.NUM_CLASSES': (
        54,
        to(
            'model.semantic_head.num_stuff_classes',
            'model.panoptic_fusion_head.num_stuff_classes',
            via=lambda number: number - 1,  # all things are one of them
        ),
    ),
    'MODEL.SEM_SEG_HEAD.CONVS_DIM': (128, to('model.semantic_head.inner_channels')),
    'MODEL.SEM_SEG_HEAD.COMMON_STRIDE': (4, ONLY),
    'MODEL.SEM_SEG_HEAD.NORM': ('GN', READ),
    'MODEL.SEM_SEG_HEAD.LOSS_WEIGHT': (1.0, to('model.semantic_head.loss_seg.loss_weight')),
    'MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT': (1.0, ONLY),
    'MODEL.PANOPTIC_FPN.COMBINE.ENABLED': (True, ONLY),
    'MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH': (0.5, to('model.test_cfg.panoptic.mask_overlap')),
    'MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT': (
        4096,
        to('model.test_cfg.panoptic.stuff_area_limit'),
    ),
    'MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH': (
        0.5,
        to('model.test_cfg.panoptic.score_thr'),
    ),
    # ---- data
    'INPUT.MIN_SIZE_TRAIN': ((800,), READ),
    'INPUT.MIN_SIZE_TRAIN_SAMPLING': ('choice', READ),
    'INPUT.MAX_SIZE_TRAIN': (1333, READ),
    'INPUT.MIN_SIZE_TEST': (800, READ),
    'INPUT.MAX_SIZE_TEST': (1333, READ),
    'INPUT.RANDOM_FLIP': ('horizontal', READ),
    'INPUT.CROP.ENABLED': (False, READ),
    'INPUT.CROP.TYPE': ('relative_range', READ),
    'INPUT.CROP.SIZE': ((0.9, 0.9), READ),
    'INPUT.FORMAT': ('BGR', READ),
    'INPUT.MASK_FORMAT': ('polygon', READ),
    'DATASETS.TRAIN': ((), READ),
    'DATASETS.TEST': ((), READ),
    'DATASETS.PROPOSAL_FILES_TRAIN': ((), ONLY),
    'DATASETS.PROPOSAL_FILES_TEST': ((), ONLY),
    'DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN': (2000, FREE),
    'DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST': (1000, FREE),
    'DATALOADER.NUM_WORKERS': (4, READ),
    'DATALOADER.ASPECT_RATIO_GROUPING': (True, READ),
    'DATALOADER.SAMPLER_TRAIN': ('TrainingSampler', ONLY),
    'DATALOADER.REPEAT_THRESHOLD': (0.0, FREE),  # of another sampler
    'DATALOADER.REPEAT_SQRT': (True, FREE),
    'DATALOADER.FILTER_EMPTY_ANNOTATIONS': (True, READ),
    # ---- schedule
    'SOLVER.LR_SCHEDULER_NAME': ('WarmupMultiStepLR', READ),
    'SOLVER.MAX_ITER': (40000, READ),
    'SOLVER.BASE_LR': (0.001, READ),
    'SOLVER.BASE_LR_END': (0.0, READ),
    'SOLVER.MOMENTUM': (0.9, READ),
    'SOLVER.NESTEROV': (False, to('optim_wrapper.optimizer.nesterov')),
    'SOLVER.WEIGHT_DECAY': (0.0001, READ),
    'SOLVER.WEIGHT_DECAY_NORM': (0.0, READ),
    'SOLVER.WEIGHT_DECAY_BIAS': (None, READ),
    'SOLVER.BIAS_LR_FACTOR': (1.0, to('optim_wrapper.paramwise_cfg.bias_lr_mult')),
    'SOLVER.GAMMA': (0.1, READ),
    'SOLVER.STEPS': ((30000,), READ),
    'SOLVER.NUM_DECAYS': (3, FREE),  # of another scheduler
    'SOLVER.RESCALE_INTERVAL': (False, ONLY),
    'SOLVER.WARMUP_FACTOR': (0.001, READ),
    'SOLVER.WARMUP_ITERS': (1000, READ),
    'SOLVER.WARMUP_METHOD': ('linear', READ),
    'SOLVER.CHECKPOINT_PERIOD': (5000, READ),
    'SOLVER.IMS_PER_BATCH': (16, READ),
    'SOLVER.REFERENCE_WORLD_SIZE': (0, READ),
    'SOLVER.CLIP_GRADIENTS.ENABLED': (False, READ),
    'SOLVER.CLIP_GRADIENTS.CLIP_TYPE': ('value', READ),
    'SOLVER.CLIP_GRADIENTS.CLIP_VALUE': (1.0, READ),
    'SOLVER.CLIP_GRADIENTS.NORM_TYPE': (2.0, READ),
    'SOLVER.AMP.ENABLED': (False, READ),
    # ---- test
    'TEST.DETECTIONS_PER_IMAGE': (100, to('model.test_cfg.rcnn.max_per_img')),
    'TEST.EVAL_PERIOD': (0, READ),
    'TEST.EXPECTED_RESULTS': ((), FREE),
    'TEST.KEYPOINT_OKS_SIGMAS': ((), FREE),
    'TEST.AUG.ENABLED': (False, READ),
    'TEST.AUG.MIN_SIZES': ((400, 500, 600, 700, 800, 900, 1000, 1100, 1200), READ),
    'TEST.AUG.MAX_SIZE': (4000, READ),
    'TEST.AUG.FLIP': (True, READ),
    'TEST.PRECISE_BN.ENABLED': (False, READ),
    'TEST.PRECISE_BN.NUM_ITER': (200, READ),
}
_OTHER_MODELS = ('MODEL.RETINANET.', 'MODEL.ROI_KEYPOINT_HEAD.')


def owns(values: dict[str, Any]) -> bool:
    """All that is not maskrcnn-benchmark's."""
    return True


def translate(
    path: Path, values: dict[str, Any], shipped: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Our config for detectron2's ``values``, see :func:`mmdet_r2.config_yaml.translate`."""
    source = Source(path, values, TABLE, _OTHER_MODELS)
    panoptic = source.one_of('MODEL.META_ARCHITECTURE', 'GeneralizedRCNN', 'PanopticFPN')
    panoptic = panoptic == 'PanopticFPN'
    heads = source.one_of(
        'MODEL.ROI_HEADS.NAME', 'StandardROIHeads', 'CascadeROIHeads', 'Res5ROIHeads'
    )
    cascade = heads == 'CascadeROIHeads'
    maps = _maps(source, heads, panoptic or cascade)
    masks = source['MODEL.MASK_ON'] or panoptic

    with_semantics = shipped(_PANOPTIC)
    config = with_semantics if panoptic else shipped(_CASCADE)
    model = shipped(_CASCADE if cascade else _PANOPTIC)['model']
    if panoptic:
        _add_semantics(model, with_semantics['model'])
    else:
        _remove_semantics(model, 'CascadeRCNN' if cascade else 'MaskRCNN')
    if not masks:
        remove_masks(model)
    config['model'] = model
    config.pop('custom_hooks', None)

    _backbone(source, model)
    _heads(source, model, cascade, maps)
    _MAPS[maps](source, model)
    _data(source, config, masks, panoptic)
    set_schedule(source, config)
    _solver(source, config)
    _test(source, config)
    source.apply(config)
    return finished(config)


def _maps(source: Source, heads: str, pyramid: bool) -> str:
    """Which of the backbone's maps the heads take: 'FPN', 'C4' or 'DC5'."""
    given = source['MODEL.RPN.IN_FEATURES']
    if heads == 'Res5ROIHeads' and not pyramid:
        kind, levels, roi_levels, outputs = 'C4', ('res4',), ('res4',), ('res4',)
    elif given == ('res5',) and not pyramid:
        kind, levels, roi_levels, outputs = 'DC5', ('res5',), ('res5',), ('res5',)
    else:
        kind, levels, roi_levels, outputs = 'FPN', _PYRAMID, _ROI_LEVELS, _LEVELS
        source.one_of('MODEL.FPN.IN_FEATURES', _LEVELS)
    source.one_of('MODEL.RPN.IN_FEATURES', levels)
    source.one_of('MODEL.ROI_HEADS.IN_FEATURES', roi_levels)
    source.one_of('MODEL.RESNETS.OUT_FEATURES', outputs)
    source.one_of('MODEL.RESNETS.RES5_DILATION', 2 if kind == 'DC5' else 1)
    names = ('build_resnet_fpn_backbone', 'build_resnest_fpn_backbone')
    source.one_of('MODEL.BACKBONE.NAME', *(names if kind == 'FPN' else ('build_resnet_backbone',)))
    return kind


def _pyramid(source: Source, model: dict[str, Any]) -> None:
    _set_norm(model['neck'], _norm(source, 'MODEL.FPN.NORM'))
    channels = source['MODEL.FPN.OUT_CHANNELS']
    put(model, 'neck.out_channels', channels)
    _set_channels(model, channels, channels)


def _set_channels(model: dict[str, Any], of_maps: int, of_rois: int) -> None:
    for name in ('in_channels', 'feat_channels'):
        put(model, f'rpn_head.{name}', of_maps)
    for name in ('bbox', 'mask'):
        put(model, f'roi_head.{name}_roi_extractor.out_channels', of_maps)
        put(model, f'roi_head.{name}_head.in_channels', of_rois)
    put(model, 'semantic_head.in_channels', of_maps)


def _single_map(model: dict[str, Any]) -> None:
    del model['neck']
    # images of a batch are padded to the largest, and no further
    model['data_preprocessor']['pad_size_divisor'] = 1
    for name in ('bbox', 'mask'):
        put(model, f'roi_head.{name}_roi_extractor.featmap_strides', [16])


def _c4(source: Source, model: dict[str, Any]) -> None:
    _single_map(model)
    backbone, roi = model['backbone'], model['roi_head']
    if backbone['type'] != 'ResNet' or 'dcn' in backbone:
        raise source.error('MODEL.ROI_HEADS.NAME', 'Res5ROIHeads with a plain ResNet alone')
    backbone.update(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    # The last stage follows the pooling, for boxes and masks alike.
    shared = ('depth', 'style', 'norm_cfg', 'norm_eval', 'init_cfg')
    roi['shared_head'] = dict(
        type='ResLayer',
        stage=3,
        stride=2,
        dilation=1,
        **{key: backbone[key] for key in shared if key in backbone},
    )
    roi.pop('mask_roi_extractor', None)
    _set_channels(model, 1024, 2048)
    head = roi['bbox_head']
    for key in ('conv_out_channels', 'fc_out_channels', 'num_shared_convs', 'num_shared_fcs'):
        head.pop(key, None)
    head.update(type='BBoxHead', with_avg_pool=True, init_cfg=head['init_cfg'][:2])
    resolution = source['MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION']
    if resolution % 2:
        raise source.error('MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION', 'even')
    head['roi_feat_size'] = resolution // 2
    if 'mask_head' in roi:
        model['train_cfg']['rcnn']['mask_size'] = resolution


def _dc5(source: Source, model: dict[str, Any]) -> None:
    _single_map(model)
    model['backbone'].update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3,))
    _set_channels(model, 2048, 2048)


_MAPS = {'FPN': _pyramid, 'C4': _c4, 'DC5': _dc5}


def _add_semantics(model: dict[str, Any], other: dict[str, Any]) -> None:
    model['type'] = 'PanopticFPN'
    for part in ('semantic_head', 'panoptic_fusion_head'):
        model[part] = other[part]
    model['data_preprocessor'].update(pad_seg=True, seg_pad_value=255)
    model['test_cfg']['panoptic'] = other['test_cfg']['panoptic']


def _remove_semantics(model: dict[str, Any], kind: str) -> None:
    model['type'] = kind
    for part in ('semantic_head', 'panoptic_fusion_head'):
        model.pop(part, None)
    for key in ('pad_seg', 'seg_pad_value'):
        model['data_preprocessor'].pop(key, None)
    model['test_cfg'].pop('panoptic', None)


def _norm(source: Source, key: str) -> dict[str, Any] | None:
    known = {
        '': None,
        'FrozenBN': dict(type='FrozenBN'),
        'BN': dict(type='BN', requires_grad=True),
        # detectron2's own, which counts all GPUs alike; torch's since its version 1.5
        'SyncBN': dict(type='NaiveSyncBN', requires_grad=True),
        'naiveSyncBN': dict(type='NaiveSyncBN', requires_grad=True),
        'GN': dict(type='GN', num_groups=32, requires_grad=True),
    }
    return known[source.one_of(key, *known)]


def _set_norm(part: dict[str, Any], norm: dict[str, Any] | None) -> None:
    part.pop('norm_cfg', None)
    if norm is not None:
        part['norm_cfg'] = norm


def _backbone(source: Source, model: dict[str, Any]) -> None:
    resnets = 'MODEL.RESNETS.'
    package = 'resnest' in source['MODEL.BACKBONE.NAME']  # whose own defaults are those of ResNeSt
    radix = 2 if package and f'{resnets}RADIX' not in source.given else source[f'{resnets}RADIX']
    in_1x1 = source[f'{resnets}STRIDE_IN_1X1']
    if package and f'{resnets}STRIDE_IN_1X1' not in source.given:
        in_1x1 = False
    groups, width = source[f'{resnets}NUM_GROUPS'], source[f'{resnets}WIDTH_PER_GROUP']
    norm = _norm(source, f'{resnets}NORM')
    if norm is None:
        raise source.error(f'{resnets}NORM', 'a norm')

    backbone = model['backbone']
    for key in ('style', 'norm_eval'):
        backbone.pop(key, None)
    backbone['style'] = 'caffe' if in_1x1 else 'pytorch'
    backbone['norm_cfg'] = norm
    if norm['type'] != 'FrozenBN':
        backbone['norm_eval'] = False
    if source[f'{resnets}SCALE'] > 1:
        source.one_of(f'{resnets}STRIDE_IN_1X1', True)
        source.one_of(f'{resnets}NUM_GROUPS', 1)
        backbone.update(
            type='Res2Net',
            scales=source[f'{resnets}SCALE'],
            base_width=width,
            deep_stem=True,
            avg_down=True,
            first_block_pool='strided',
        )
    elif radix > 1:
        source.one_of(f'{resnets}NUM_GROUPS', 1)
        source.one_of(f'{resnets}WIDTH_PER_GROUP', 64)
        if in_1x1:
            raise source.error(f'{resnets}STRIDE_IN_1X1', 'False with MODEL.RESNETS.RADIX above 1')
        backbone['type'] = 'ResNeSt'
        if radix != 2:
            backbone['radix'] = radix
    else:
        for key in ('DEEP_STEM', 'AVD', 'AVG_DOWN'):
            source.one_of(f'{resnets}{key}', False)
        backbone['type'] = 'ResNet'
        if groups > 1:
            backbone.update(type='ResNeXt', groups=groups, base_width=width)
        else:
            source.one_of(f'{resnets}WIDTH_PER_GROUP', 64)
    if any(source[f'{resnets}DEFORM_ON_PER_STAGE']):
        count = source[f'{resnets}DEFORM_NUM_GROUPS']
        kind = 'DCNv2' if source[f'{resnets}DEFORM_MODULATED'] else 'DCN'
        backbone['dcn'] = dict(type=kind, deform_groups=count)
        if radix > 1:  # there, offsets come from grouped convolutions
            backbone['dcn']['offset_groups'] = count
        backbone['stage_with_dcn'] = source[f'{resnets}DEFORM_ON_PER_STAGE']
    if source['INPUT.FORMAT'] not in ('BGR', 'RGB'):
        raise source.error('INPUT.FORMAT', "'BGR' or 'RGB'")
    model['data_preprocessor']['bgr_to_rgb'] = source['INPUT.FORMAT'] == 'RGB'
    backbone['init_cfg'] = None
    weights = source['MODEL.WEIGHTS']
    if is_backbone(weights):
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=weights)


def _loss(beta: float, weight: float) -> dict[str, Any]:
    if beta:
        return dict(type='SmoothL1Loss', beta=beta, loss_weight=weight)
    return dict(type='L1Loss', loss_weight=weight)


def _anchors(source: Source, generator: dict[str, Any], strides: tuple[int, ...]) -> None:
    sizes, ratios = (source[f'MODEL.ANCHOR_GENERATOR.{key}'] for key in ('SIZES', 'ASPECT_RATIOS'))
    if len(sizes) == 1:
        sizes = sizes * len(strides)
    if len(ratios) != 1:
        raise source.error('MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS', 'one list for all levels')
    if len(sizes) != len(strides) or not all(sizes):
        raise source.error('MODEL.ANCHOR_GENERATOR.SIZES', f'one list or {len(strides)}')
    generator['strides'] = list(strides)
    generator['ratios'] = list(ratios[0])
    scales = {tuple(s / stride for s in level) for level, stride in zip(sizes, strides)}
    if len(scales) == 1:
        generator['scales'] = [int(s) if s == int(s) else s for s in scales.pop()]
    elif len(set(sizes)) == 1:
        generator.update(scales=list(sizes[0]), base_sizes=[1] * len(strides))
    elif all(len(level) == 1 for level in sizes):
        generator.update(scales=[1], base_sizes=[level[0] for level in sizes])
    else:
        raise source.error(
            'MODEL.ANCHOR_GENERATOR.SIZES', 'one size per level, or the same multiples of strides'
        )


def _heads(source: Source, model: dict[str, Any], cascade: bool, maps: str) -> None:
    rpn, roi = model['rpn_head'], model['roi_head']
    _anchors(source, rpn['anchor_generator'], _STRIDES if maps == 'FPN' else (16,))
    rpn['loss_bbox'] = _loss(
        source['MODEL.RPN.SMOOTH_L1_BETA'],
        source['MODEL.RPN.BBOX_REG_LOSS_WEIGHT'] * source['MODEL.RPN.LOSS_WEIGHT'],
    )
    thresholds = source['MODEL.RPN.IOU_THRESHOLDS']
    if len(thresholds) != 2:
        raise source.error('MODEL.RPN.IOU_THRESHOLDS', 'two numbers')
    model['train_cfg']['rpn']['assigner'].update(
        neg_iou_thr=thresholds[0], pos_iou_thr=thresholds[1]
    )

    box = 'MODEL.ROI_BOX_HEAD.'
    if maps != 'C4':
        source.one_of(f'{box}NAME', 'FastRCNNConvFCHead')
    convs, linears = source[f'{box}NUM_CONV'], source[f'{box}NUM_FC']
    kind = {(0, 2): 'Shared2FCBBoxHead', (4, 1): 'Shared4Conv1FCBBoxHead'}.get((convs, linears))
    norm = _norm(source, f'{box}NORM')
    loss = _loss(source[f'{box}SMOOTH_L1_BETA'], source[f'{box}BBOX_REG_LOSS_WEIGHT'])
    bbox_heads = roi['bbox_head'] if cascade else [roi['bbox_head']]
    rcnn = model['train_cfg']['rcnn']
    stages = rcnn if cascade else [rcnn]
    if cascade:
        weights = source['MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS']
        overlaps = source['MODEL.ROI_BOX_CASCADE_HEAD.IOUS']
        source.one_of(f'{box}CLS_AGNOSTIC_BBOX_REG', True)
        for key, values in (('BBOX_REG_WEIGHTS', weights), ('IOUS', overlaps)):
            if len(values) != len(stages):
                raise source.error(f'MODEL.ROI_BOX_CASCADE_HEAD.{key}', 'of three stages')
        # of the proposals, from which the first stage takes its sample
        source.one_of('MODEL.ROI_HEADS.IOU_THRESHOLDS', (overlaps[0],))
    else:
        weights = (source[f'{box}BBOX_REG_WEIGHTS'],)
        overlaps = source['MODEL.ROI_HEADS.IOU_THRESHOLDS']
        if len(overlaps) != 1:
            raise source.error('MODEL.ROI_HEADS.IOU_THRESHOLDS', 'one number')
    for head, stage, weight, overlap in zip(bbox_heads, stages, weights, overlaps, strict=True):
        if convs == 0:
            head.pop('conv_out_channels', None)
        else:
            head['conv_out_channels'] = source[f'{box}CONV_DIM']
        head['fc_out_channels'] = source[f'{box}FC_DIM']
        head['type'] = kind or 'ConvFCBBoxHead'
        if kind is None:
            head.update(num_shared_convs=convs, num_shared_fcs=linears)
        _set_norm(head, norm if convs else None)
        head['roi_feat_size'] = source[f'{box}POOLER_RESOLUTION']
        head['loss_bbox'] = loss
        head['bbox_coder']['target_stds'] = inverse(weight)
        for threshold in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou'):
            stage['assigner'][threshold] = overlap

    for name, kind in (('bbox', 'BOX'), ('mask', 'MASK')):
        pooler = source.one_of(f'MODEL.ROI_{kind}_HEAD.POOLER_TYPE', 'ROIAlignV2', 'ROIAlign')
        if pooler == 'ROIAlign':
            put(roi, f'{name}_roi_extractor.roi_layer.aligned', False)
    if 'mask_head' in roi:
        _set_norm(roi['mask_head'], _norm(source, 'MODEL.ROI_MASK_HEAD.NORM'))
        size = 2 * source['MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION']
        for stage in stages:
            stage['mask_size'] = size
        put(roi, 'mask_head.roi_feat_size', size // 2, add=size != 28)
    if 'semantic_head' in model:
        head = model['semantic_head']
        things = source['MODEL.ROI_HEADS.NUM_CLASSES']
        for part in (head, model['panoptic_fusion_head']):
            part['num_things_classes'] = things
        norm = _norm(source, 'MODEL.SEM_SEG_HEAD.NORM')
        if model['backbone']['type'] == 'ResNeSt' and norm and norm['type'] != 'GN':
            # that fork builds convolutions with neither norm nor bias then
            norm, head['bias'] = None, False
        head['norm_cfg'] = norm


def _crop(source: Source, masks: bool) -> dict[str, Any]:
    return dict(
        type='RandomCrop',
        crop_type=source.one_of(
            'INPUT.CROP.TYPE', 'relative_range', 'relative', 'absolute', 'absolute_range'
        ),
        crop_size=source['INPUT.CROP.SIZE'],
        around_instance=True,
        recompute_bbox=masks,
        allow_negative_crop=True,
    )


def _data(source: Source, config: dict[str, Any], masks: bool, panoptic: bool) -> None:
    load: dict[str, Any] = dict(type='LoadAnnotations', with_bbox=True)
    mask_format = source.one_of('INPUT.MASK_FORMAT', 'polygon', 'bitmask')
    if masks:
        load.update(with_mask=True, poly2mask=mask_format == 'bitmask')
    if panoptic:
        load['with_seg'] = True
    crop = source['INPUT.CROP.ENABLED']
    sizes = source['INPUT.MIN_SIZE_TRAIN']
    sampling = source.one_of('INPUT.MIN_SIZE_TRAIN_SAMPLING', 'choice', 'range')
    if not sizes or (sampling == 'range' and len(sizes) != 2):
        raise source.error('INPUT.MIN_SIZE_TRAIN', 'one size or more, two of a range')
    flip = source.one_of('INPUT.RANDOM_FLIP', 'horizontal', 'vertical', 'none')
    steps: list[dict[str, Any] | None] = [
        dict(type='LoadImageFromFile'),
        load,
        _crop(source, masks) if crop else None,
        resize(sizes, source['INPUT.MAX_SIZE_TRAIN'], sampling),
        {
            'horizontal': dict(type='RandomFlip', prob=0.5),
            'vertical': dict(type='RandomFlip', prob=0.5, direction='vertical'),
        }.get(flip),
        # objects of which a crop has left nothing
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), keep_empty=False)
        if crop
        else None,
        dict(type='PackDetInputs'),
    ]
    train = config['train_dataloader']
    keep_empty = not source['DATALOADER.FILTER_EMPTY_ANNOTATIONS']
    train['dataset'].update(
        pipeline=[step for step in steps if step],
        filter_cfg=dict(filter_empty_gt=not keep_empty, filter_crowd_only=not keep_empty),
    )
    ending = '_panoptic_separated' if panoptic else ''
    set_train(source, train, names_of(source, 'DATASETS.TRAIN', ending))

    annotations, images = tested_place(source, ending)
    val = config['val_dataloader']['dataset']
    if panoptic:
        maps = annotations.replace('instances_', 'panoptic_')
        folder = maps.removesuffix('.json') + '/'
        val.update(ann_file=maps, data_prefix=dict(img=images, seg=folder))
        whole, objects = config['val_evaluator']
        whole.update(ann_file=val['data_root'] + maps, seg_prefix=val['data_root'] + folder)
        objects['ann_file'] = val['data_root'] + annotations
    else:
        set_test(config, (annotations, images), masks)
    if source['INPUT.MIN_SIZE_TEST']:
        of_type(val['pipeline'], 'ResizeShortestEdge').update(
            scale=source['INPUT.MIN_SIZE_TEST'], max_size=source['INPUT.MAX_SIZE_TEST']
        )
    else:  # images as they are
        val['pipeline'] = [s for s in val['pipeline'] if s['type'] != 'ResizeShortestEdge']


def _solver(source: Source, config: dict[str, Any]) -> None:
    wrapper = config['optim_wrapper']
    paramwise = wrapper['paramwise_cfg']
    paramwise['norm_decay_mult'] = relative_decay(source, 'SOLVER.WEIGHT_DECAY_NORM', 'norms')
    if source['SOLVER.WEIGHT_DECAY_BIAS'] is not None:
        factor = relative_decay(source, 'SOLVER.WEIGHT_DECAY_BIAS', 'biases')
        if factor != 1:
            paramwise['bias_decay_mult'] = factor
    name = source.one_of('SOLVER.LR_SCHEDULER_NAME', 'WarmupMultiStepLR', 'WarmupCosineLR')
    if name == 'WarmupCosineLR':
        last = source['SOLVER.MAX_ITER']
        config['param_scheduler'][-1] = dict(
            type='CosineAnnealingLR',
            begin=0,
            end=last,
            by_epoch=False,
            T_max=last,
            eta_min=source['SOLVER.BASE_LR_END'],
        )
    clip = 'SOLVER.CLIP_GRADIENTS.'
    if source[f'{clip}ENABLED']:
        # detectron2's 'norm' is that of each parameter by itself
        kind = source.one_of(f'{clip}CLIP_TYPE', 'value', 'full_model')
        limit = source[f'{clip}CLIP_VALUE']
        wrapper['clip_grad'] = dict(type='value', clip_value=limit)
        if kind == 'full_model':
            wrapper['clip_grad'] = dict(max_norm=limit, norm_type=source[f'{clip}NORM_TYPE'])
    if source['SOLVER.AMP.ENABLED']:
        wrapper['type'] = 'AmpOptimWrapper'
    gpus = source['SOLVER.REFERENCE_WORLD_SIZE']
    if gpus:
        if gpus < 0 or source['SOLVER.IMS_PER_BATCH'] % gpus:
            raise source.error('SOLVER.REFERENCE_WORLD_SIZE', 'a divisor of SOLVER.IMS_PER_BATCH')
        config['train_dataloader']['batch_size'] = source['SOLVER.IMS_PER_BATCH'] // gpus
    if source['SEED'] >= 0:
        config['randomness'] = dict(seed=source['SEED'])


def _test(source: Source, config: dict[str, Any]) -> None:
    if source['TEST.EVAL_PERIOD']:
        config['train_cfg']['val_interval'] = source['TEST.EVAL_PERIOD']
    if source['TEST.PRECISE_BN.ENABLED']:
        number = source['TEST.PRECISE_BN.NUM_ITER']
        config['custom_hooks'] = [dict(type='PreciseBNHook', num_iters=number)]
    weights = source['MODEL.WEIGHTS']
    if weights and not is_backbone(weights):
        config['load_from'] = weights
    if source['TEST.AUG.ENABLED']:
        nms = dict(type='nms', iou_threshold=source['MODEL.ROI_HEADS.NMS_THRESH_TEST'])
        limit = source['TEST.DETECTIONS_PER_IMAGE']
        config['tta_model'] = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=limit))
        config['tta_pipeline'] = _views(source)


def _views(source: Source) -> list[dict[str, Any]]:
    flips = (0.0, 1.0) if source['TEST.AUG.FLIP'] else (0.0,)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    sizes = [
        dict(
            type='ResizeShortestEdge',
            scale=size,
            max_size=source['TEST.AUG.MAX_SIZE'],
            backend='pillow',
        )
        for size in source['TEST.AUG.MIN_SIZES']
    ]
    pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
    return [
        dict(type='LoadImageFromFile'),
        dict(
            type='TestTimeAug',
            transforms=[sizes, [dict(type='RandomFlip', prob=prob) for prob in flips], [pack]],
        ),
    ]
