"""maskrcnn-benchmark's YAML, and that of its fork for Res2Net."""

import re
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

# What a translation begins with: it has maskrcnn-benchmark's arithmetic.
_MASK = 'mask_rcnn_r50_fpn_maskrcnnbench_2x_coco2014'

_HEADS = ('model.roi_head.bbox_head', 'model.roi_head.mask_head')
_PROPOSALS = ('model.train_cfg.rpn_proposal', 'model.test_cfg.rpn')
_RPN, _RCNN = 'model.train_cfg.rpn', 'model.train_cfg.rcnn'
_BOX_POOLER, _MASK_POOLER = (
    f'model.roi_head.{kind}_roi_extractor.roi_layer' for kind in ('bbox', 'mask')
)
_SCALES = (0.25, 0.125, 0.0625, 0.03125)
_STRIDES = (4, 8, 16, 32, 64)
_BODY = re.compile(r'(R|R2)-(50|101|152)-FPN')
_GROUP_NORM = dict(type='GN', num_groups=32, requires_grad=True)

# catalog://ImageNetPretrained/NAME -> path below this address
_CATALOG = 'https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/'
_CATALOGUED = {
    'MSRA/R-50': 'MSRA/R-50.pkl',
    'MSRA/R-50-GN': '47261647/R-50-GN.pkl',
    'MSRA/R-101': 'MSRA/R-101.pkl',
    'MSRA/R-101-GN': '47592356/R-101-GN.pkl',
    'FAIR/20171220/X-101-32x8d': '20171220/X-101-32x8d.pkl',
}

TABLE: Table = {
    'OUTPUT_DIR': ('.', READ),
    'PATHS_CATALOG': ('', FREE),
    'DTYPE': ('float32', READ),
    'AMP_VERBOSE': (False, FREE),
    # ---- model
    'MODEL.META_ARCHITECTURE': ('GeneralizedRCNN', ONLY),
    'MODEL.DEVICE': ('cuda', FREE),
    'MODEL.WEIGHT': ('', READ),
    'MODEL.RPN_ONLY': (False, ONLY),
    'MODEL.MASK_ON': (False, READ),
    'MODEL.RETINANET_ON': (False, ONLY),
    'MODEL.KEYPOINT_ON': (False, ONLY),
    'MODEL.CLS_AGNOSTIC_BBOX_REG': (False, ONLY),
    # ---- backbone and pyramid
    'MODEL.BACKBONE.CONV_BODY': ('R-50-C4', READ),
    'MODEL.BACKBONE.FREEZE_CONV_BODY_AT': (
        2,
        to('model.backbone.frozen_stages', via=lambda at: at - 1),
    ),
    'MODEL.BACKBONE.OUT_CHANNELS': (1024, READ),
    'MODEL.BACKBONE.USE_GN': (False, ONLY),
    'MODEL.RESNETS.BACKBONE_OUT_CHANNELS': (1024, READ),
    'MODEL.RESNETS.NUM_GROUPS': (1, READ),
    'MODEL.RESNETS.WIDTH_PER_GROUP': (64, READ),
    'MODEL.RESNETS.STRIDE_IN_1X1': (True, READ),
    'MODEL.RESNETS.TRANS_FUNC': ('BottleneckWithFixedBatchNorm', READ),
    'MODEL.RESNETS.STEM_FUNC': ('StemWithFixedBatchNorm', READ),
    'MODEL.RESNETS.RES5_DILATION': (1, ONLY),
    'MODEL.RESNETS.RES2_OUT_CHANNELS': (256, ONLY),
    'MODEL.RESNETS.STEM_OUT_CHANNELS': (64, ONLY),
    'MODEL.RESNETS.STAGE_WITH_DCN': ((False,) * 4, READ),
    'MODEL.RESNETS.WITH_MODULATED_DCN': (False, READ),
    'MODEL.RESNETS.DEFORMABLE_GROUPS': (1, READ),
    'MODEL.RESNETS.SCALE': (1, READ),  # of the fork
    'MODEL.FPN.USE_GN': (False, READ),
    'MODEL.FPN.USE_RELU': (False, ONLY),
    'MODEL.GROUP_NORM.DIM_PER_GP': (-1, ONLY),
    'MODEL.GROUP_NORM.NUM_GROUPS': (32, ONLY),
    'MODEL.GROUP_NORM.EPSILON': (1e-5, ONLY),
    # ---- anchors and proposals
    'MODEL.RPN.USE_FPN': (False, READ),
    'MODEL.RPN.RPN_HEAD': ('SingleConvRPNHead', ONLY),
    'MODEL.RPN.ANCHOR_SIZES': ((32, 64, 128, 256, 512), READ),
    'MODEL.RPN.ANCHOR_STRIDE': ((16,), READ),
    'MODEL.RPN.ASPECT_RATIOS': (
        (0.5, 1.0, 2.0),
        to('model.rpn_head.anchor_generator.ratios', via=list),
    ),
    'MODEL.RPN.STRADDLE_THRESH': (0, to(f'{_RPN}.allowed_border')),
    'MODEL.RPN.FG_IOU_THRESHOLD': (0.7, to(f'{_RPN}.assigner.pos_iou_thr')),
    'MODEL.RPN.BG_IOU_THRESHOLD': (0.3, to(f'{_RPN}.assigner.neg_iou_thr')),
    'MODEL.RPN.BATCH_SIZE_PER_IMAGE': (256, to(f'{_RPN}.sampler.num')),
    'MODEL.RPN.POSITIVE_FRACTION': (0.5, to(f'{_RPN}.sampler.pos_fraction')),
    'MODEL.RPN.PRE_NMS_TOP_N_TRAIN': (12000, to(f'{_PROPOSALS[0]}.nms_pre')),
    'MODEL.RPN.PRE_NMS_TOP_N_TEST': (6000, to(f'{_PROPOSALS[1]}.nms_pre')),
    'MODEL.RPN.POST_NMS_TOP_N_TRAIN': (2000, READ),
    'MODEL.RPN.POST_NMS_TOP_N_TEST': (1000, READ),
    'MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN': (
        2000,
        to(f'{_PROPOSALS[0]}.max_per_img', f'{_PROPOSALS[0]}.max_per_batch'),
    ),
    'MODEL.RPN.FPN_POST_NMS_TOP_N_TEST': (2000, to(f'{_PROPOSALS[1]}.max_per_img')),
    'MODEL.RPN.FPN_POST_NMS_PER_BATCH': (True, READ),
    'MODEL.RPN.NMS_THRESH': (0.7, to(*(f'{p}.nms.iou_threshold' for p in _PROPOSALS))),
    'MODEL.RPN.MIN_SIZE': (0, to(*(f'{p}.min_bbox_size' for p in _PROPOSALS))),
    # ---- heads of boxes
    'MODEL.ROI_HEADS.USE_FPN': (False, READ),
    'MODEL.ROI_HEADS.FG_IOU_THRESHOLD': (
        0.5,
        to(f'{_RCNN}.assigner.pos_iou_thr', f'{_RCNN}.assigner.min_pos_iou'),
    ),
    'MODEL.ROI_HEADS.BG_IOU_THRESHOLD': (0.5, to(f'{_RCNN}.assigner.neg_iou_thr')),
    'MODEL.ROI_HEADS.BBOX_REG_WEIGHTS': (
        (10.0, 10.0, 5.0, 5.0),
        to('model.roi_head.bbox_head.bbox_coder.target_stds', via=inverse),
    ),
    'MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE': (512, to(f'{_RCNN}.sampler.num')),
    'MODEL.ROI_HEADS.POSITIVE_FRACTION': (0.25, to(f'{_RCNN}.sampler.pos_fraction')),
    'MODEL.ROI_HEADS.SCORE_THRESH': (0.05, to('model.test_cfg.rcnn.score_thr')),
    'MODEL.ROI_HEADS.NMS': (0.5, to('model.test_cfg.rcnn.nms.iou_threshold')),
    'MODEL.ROI_HEADS.DETECTIONS_PER_IMG': (100, to('model.test_cfg.rcnn.max_per_img')),
    'MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR': ('ResNet50Conv5ROIFeatureExtractor', READ),
    'MODEL.ROI_BOX_HEAD.PREDICTOR': ('FastRCNNPredictor', READ),
    'MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION': (
        14,
        to(f'{_BOX_POOLER}.output_size', 'model.roi_head.bbox_head.roi_feat_size'),
    ),
    'MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO': (0, to(f'{_BOX_POOLER}.sampling_ratio')),
    'MODEL.ROI_BOX_HEAD.POOLER_SCALES': ((1 / 16,), READ),
    'MODEL.ROI_BOX_HEAD.NUM_CLASSES': (
        81,
        to(*(f'{head}.num_classes' for head in _HEADS), via=lambda number: number - 1),
    ),
    'MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM': (1024, to('model.roi_head.bbox_head.fc_out_channels')),
    'MODEL.ROI_BOX_HEAD.USE_GN': (False, READ),
    'MODEL.ROI_BOX_HEAD.DILATION': (1, ONLY),
    'MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM': (256, READ),
    'MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS': (4, READ),
    # ---- heads of masks
    'MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR': ('ResNet50Conv5ROIFeatureExtractor', READ),
    'MODEL.ROI_MASK_HEAD.PREDICTOR': ('MaskRCNNC4Predictor', ONLY),
    'MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION': (14, to(f'{_MASK_POOLER}.output_size')),
    'MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO': (0, to(f'{_MASK_POOLER}.sampling_ratio')),
    'MODEL.ROI_MASK_HEAD.POOLER_SCALES': ((1 / 16,), READ),
    'MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM': (1024, FREE),  # of no mask head here
    'MODEL.ROI_MASK_HEAD.CONV_LAYERS': ((256,) * 4, READ),
    'MODEL.ROI_MASK_HEAD.RESOLUTION': (14, to(f'{_RCNN}.mask_size')),
    'MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR': (True, READ),
    'MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS': (False, FREE),
    'MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD': (
        0.5,
        to('model.test_cfg.rcnn.mask_thr_binary'),
    ),
    'MODEL.ROI_MASK_HEAD.DILATION': (1, ONLY),
    'MODEL.ROI_MASK_HEAD.USE_GN': (False, READ),
    # ---- data
    'INPUT.MIN_SIZE_TRAIN': ((800,), READ),
    'INPUT.MIN_SIZE_RANGE_TRAIN': ((-1, -1), ONLY),
    'INPUT.MAX_SIZE_TRAIN': (1333, READ),
    'INPUT.MIN_SIZE_TEST': (800, READ),
    'INPUT.MAX_SIZE_TEST': (1333, READ),
    'INPUT.PIXEL_MEAN': ((102.9801, 115.9465, 122.7717), READ),
    'INPUT.PIXEL_STD': ((1.0, 1.0, 1.0), READ),
    'INPUT.TO_BGR255': (True, READ),
    'INPUT.BRIGHTNESS': (0.0, ONLY),
    'INPUT.CONTRAST': (0.0, ONLY),
    'INPUT.SATURATION': (0.0, ONLY),
    'INPUT.HUE': (0.0, ONLY),
    'INPUT.HORIZONTAL_FLIP_PROB_TRAIN': (0.5, READ),
    'INPUT.VERTICAL_FLIP_PROB_TRAIN': (0.0, ONLY),
    'DATASETS.TRAIN': ((), READ),
    'DATASETS.TEST': ((), READ),
    'DATALOADER.NUM_WORKERS': (4, READ),
    'DATALOADER.SIZE_DIVISIBILITY': (
        0,
        to('model.data_preprocessor.pad_size_divisor', via=lambda size: size or 1),
    ),
    'DATALOADER.ASPECT_RATIO_GROUPING': (True, READ),
    # ---- schedule
    'SOLVER.MAX_ITER': (40000, READ),
    'SOLVER.BASE_LR': (0.001, READ),
    'SOLVER.BIAS_LR_FACTOR': (2, to('optim_wrapper.paramwise_cfg.bias_lr_mult')),
    'SOLVER.MOMENTUM': (0.9, READ),
    'SOLVER.WEIGHT_DECAY': (0.0005, READ),
    'SOLVER.WEIGHT_DECAY_BIAS': (0, READ),
    'SOLVER.GAMMA': (0.1, READ),
    'SOLVER.STEPS': ((30000,), READ),
    'SOLVER.WARMUP_FACTOR': (1 / 3, READ),
    'SOLVER.WARMUP_ITERS': (500, READ),
    'SOLVER.WARMUP_METHOD': ('linear', READ),
    'SOLVER.CHECKPOINT_PERIOD': (2500, READ),
    'SOLVER.TEST_PERIOD': (0, READ),
    'SOLVER.IMS_PER_BATCH': (16, READ),
    # ---- test
    'TEST.IMS_PER_BATCH': (8, FREE),
    'TEST.EXPECTED_RESULTS': ((), FREE),
    'TEST.EXPECTED_RESULTS_SIGMA_TOL': (4, FREE),
    'TEST.DETECTIONS_PER_IMG': (100, FREE),  # read nowhere there
    'TEST.BBOX_AUG.ENABLED': (False, ONLY),
    'TEST.BBOX_AUG.H_FLIP': (False, FREE),
    'TEST.BBOX_AUG.SCALES': ((), FREE),
    'TEST.BBOX_AUG.MAX_SIZE': (4000, FREE),
    'TEST.BBOX_AUG.SCALE_H_FLIP': (False, FREE),
}
_OTHER_MODELS = ('MODEL.RETINANET.', 'MODEL.ROI_KEYPOINT_HEAD.', 'MODEL.FBNET.')


def owns(values: dict[str, Any]) -> bool:
    """Whether the keys are maskrcnn-benchmark's."""
    return 'MODEL.WEIGHT' in values or 'MODEL.BACKBONE.CONV_BODY' in values


def translate(
    path: Path, values: dict[str, Any], shipped: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Our config for maskrcnn-benchmark's ``values``, see
    :func:`mmdet_r2.config_yaml.translate`."""
    source = Source(path, values, TABLE, _OTHER_MODELS)
    config = shipped(_MASK)
    model = config['model']
    masks = source['MODEL.MASK_ON']
    _backbone(source, model)
    _heads(source, model)
    if not masks:
        remove_masks(model)
    _data(source, config, masks)
    set_schedule(source, config)
    config['optim_wrapper']['paramwise_cfg']['bias_decay_mult'] = relative_decay(
        source, 'SOLVER.WEIGHT_DECAY_BIAS', 'biases'
    )
    if source.one_of('DTYPE', 'float32', 'float16') == 'float16':
        config['optim_wrapper']['type'] = 'AmpOptimWrapper'
    if source['SOLVER.TEST_PERIOD']:
        config['train_cfg']['val_interval'] = source['SOLVER.TEST_PERIOD']
    _weights(source, config)
    source.apply(config)
    if not source['MODEL.RPN.FPN_POST_NMS_PER_BATCH']:
        model['train_cfg']['rpn_proposal']['max_per_batch'] = None
    return finished(config)


def _backbone(source: Source, model: dict[str, Any]) -> None:
    body = _BODY.fullmatch(source['MODEL.BACKBONE.CONV_BODY'])
    if body is None:
        raise source.error('MODEL.BACKBONE.CONV_BODY', 'R-50-FPN, R-101-FPN, R2-50-FPN, ...')
    resnets = 'MODEL.RESNETS.'
    backbone = model['backbone']
    backbone['depth'] = int(body[2])
    backbone['style'] = 'caffe' if source[f'{resnets}STRIDE_IN_1X1'] else 'pytorch'
    groups, width = source[f'{resnets}NUM_GROUPS'], source[f'{resnets}WIDTH_PER_GROUP']
    block = source.one_of(
        f'{resnets}TRANS_FUNC',
        'BottleneckWithFixedBatchNorm',
        'BottleneckWithGN',
        'Bottle2neckWithFixedBatchNorm',
    )
    grouped = block == 'BottleneckWithGN'
    source.one_of(f'{resnets}STEM_FUNC', 'StemWithGN' if grouped else 'StemWithFixedBatchNorm')
    if grouped:
        backbone['norm_cfg'] = _GROUP_NORM
    if block.startswith('Bottle2neck'):
        source.one_of(f'{resnets}NUM_GROUPS', 1)
        source.one_of(f'{resnets}STRIDE_IN_1X1', True)
        backbone.update(
            type='Res2Net',
            scales=source[f'{resnets}SCALE'],
            base_width=width,
            deep_stem=False,
            avg_down=False,
            first_block_pool='always',
        )
    elif groups > 1:
        backbone.update(type='ResNeXt', groups=groups, base_width=width)
    else:
        source.one_of(f'{resnets}WIDTH_PER_GROUP', 64)
    if any(source[f'{resnets}STAGE_WITH_DCN']):
        kind = 'DCNv2' if source[f'{resnets}WITH_MODULATED_DCN'] else 'DCN'
        backbone['dcn'] = dict(type=kind, deform_groups=source[f'{resnets}DEFORMABLE_GROUPS'])
        backbone['stage_with_dcn'] = source[f'{resnets}STAGE_WITH_DCN']
    if source['MODEL.FPN.USE_GN']:
        model['neck']['norm_cfg'] = _GROUP_NORM
    # its name before and after the fork began
    new = f'{resnets}BACKBONE_OUT_CHANNELS'
    channels = source[new if new in source.given else 'MODEL.BACKBONE.OUT_CHANNELS']
    for path in (
        'neck.out_channels',
        'rpn_head.in_channels',
        'rpn_head.feat_channels',
        'roi_head.bbox_roi_extractor.out_channels',
        'roi_head.mask_roi_extractor.out_channels',
        'roi_head.bbox_head.in_channels',
        'roi_head.mask_head.in_channels',
    ):
        put(model, path, channels)


def _heads(source: Source, model: dict[str, Any]) -> None:
    for key in ('MODEL.RPN.USE_FPN', 'MODEL.ROI_HEADS.USE_FPN'):
        source.one_of(key, True)
    source.one_of('MODEL.RPN.ANCHOR_STRIDE', _STRIDES)
    sizes = source['MODEL.RPN.ANCHOR_SIZES']
    scales = {size / stride for size, stride in zip(sizes, _STRIDES)}
    if len(sizes) != len(_STRIDES) or len(scales) != 1:
        raise source.error('MODEL.RPN.ANCHOR_SIZES', 'one multiple of MODEL.RPN.ANCHOR_STRIDE')
    scale = scales.pop()
    model['rpn_head']['anchor_generator']['scales'] = [int(scale) if scale % 1 == 0 else scale]
    for mode in ('TRAIN', 'TEST'):
        # otherwise a level's limit would matter, which there is not here
        level, total = f'MODEL.RPN.POST_NMS_TOP_N_{mode}', f'MODEL.RPN.FPN_POST_NMS_TOP_N_{mode}'
        if source[level] < source[total]:
            raise source.error(level, f'no less than {total}')

    head, box = model['roi_head']['bbox_head'], 'MODEL.ROI_BOX_HEAD.'
    kind = source.one_of(
        f'{box}FEATURE_EXTRACTOR', 'FPN2MLPFeatureExtractor', 'FPNXconv1fcFeatureExtractor'
    )
    source.one_of(f'{box}PREDICTOR', 'FPNPredictor')
    source.one_of(f'{box}POOLER_SCALES', _SCALES)
    if kind == 'FPN2MLPFeatureExtractor':
        source.one_of(f'{box}USE_GN', False)  # group norms behind linear layers
    else:
        convs = source[f'{box}NUM_STACKED_CONVS']
        head['conv_out_channels'] = source[f'{box}CONV_HEAD_DIM']
        head['type'] = 'Shared4Conv1FCBBoxHead'
        if convs != 4:
            head.update(type='ConvFCBBoxHead', num_shared_convs=convs, num_shared_fcs=1)
        if source[f'{box}USE_GN']:
            head['norm_cfg'] = _GROUP_NORM

    if source['MODEL.MASK_ON']:
        mask, head = 'MODEL.ROI_MASK_HEAD.', model['roi_head']['mask_head']
        source.one_of(f'{mask}FEATURE_EXTRACTOR', 'MaskRCNNFPNFeatureExtractor')
        source.one_of(f'{mask}SHARE_BOX_FEATURE_EXTRACTOR', False)
        source.one_of(f'{mask}POOLER_SCALES', _SCALES)
        source.one_of(f'{mask}RESOLUTION', 2 * source[f'{mask}POOLER_RESOLUTION'])
        layers = source[f'{mask}CONV_LAYERS']
        if len(set(layers)) != 1:
            raise source.error(f'{mask}CONV_LAYERS', 'layers of one width')
        head.update(num_convs=len(layers), conv_out_channels=layers[0])
        if source[f'{mask}USE_GN']:
            head['norm_cfg'] = _GROUP_NORM


def _data(source: Source, config: dict[str, Any], masks: bool) -> None:
    bgr = source['INPUT.TO_BGR255']
    preprocessor = config['model']['data_preprocessor']
    preprocessor['bgr_to_rgb'] = not bgr
    for name in ('mean', 'std'):
        values = source[f'INPUT.PIXEL_{name.upper()}']
        # those of RGB are for images from 0 to 1
        preprocessor[name] = [v if bgr else round(255 * v, 6) for v in values]

    train = config['train_dataloader']
    dataset = train['dataset']['datasets'][0]
    load: dict[str, Any] = dict(type='LoadAnnotations', with_bbox=True)
    if masks:
        load.update(with_mask=True, poly2mask=False)
    if not source['INPUT.MIN_SIZE_TRAIN']:
        raise source.error('INPUT.MIN_SIZE_TRAIN', 'one size or more')
    rule = 'maskrcnn_benchmark'
    dataset['pipeline'] = [
        dict(type='LoadImageFromFile'),
        load,
        resize(source['INPUT.MIN_SIZE_TRAIN'], source['INPUT.MAX_SIZE_TRAIN'], 'choice', rule=rule),
        dict(type='RandomFlip', prob=source['INPUT.HORIZONTAL_FLIP_PROB_TRAIN']),
        dict(type='PixelBoxes'),
        dict(type='PackDetInputs'),
    ]
    set_train(source, train, names_of(source, 'DATASETS.TRAIN'))
    set_test(config, tested_place(source), masks)
    of_type(config['val_dataloader']['dataset']['pipeline'], 'ResizeShortestEdge').update(
        scale=source['INPUT.MIN_SIZE_TEST'], max_size=source['INPUT.MAX_SIZE_TEST']
    )


def _weights(source: Source, config: dict[str, Any]) -> None:
    weights = source['MODEL.WEIGHT']
    if weights.startswith('catalog://'):
        name = weights.removeprefix('catalog://ImageNetPretrained/')
        if name not in _CATALOGUED:
            known = ', '.join(f'catalog://ImageNetPretrained/{known}' for known in _CATALOGUED)
            raise source.error('MODEL.WEIGHT', f'a file, an address, or {known}')
        weights = _CATALOG + _CATALOGUED[name]
    backbone = config['model']['backbone']
    backbone['init_cfg'] = None
    if is_backbone(weights):
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    elif weights:
        config['load_from'] = weights
