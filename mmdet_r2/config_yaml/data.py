"""Data sets by their registered names, and what the two projects' loaders and schedules share."""

import re
from typing import Any

from .source import Source

# Name -> annotation file, folder of images; under data/coco.
_COCO = {
    'coco_2017_train': ('instances_train2017', 'train2017'),
    'coco_2017_val': ('instances_val2017', 'val2017'),
    'coco_2014_train': ('instances_train2014', 'train2014'),
    'coco_2014_val': ('instances_val2014', 'val2014'),
    'coco_2014_minival': ('instances_minival2014', 'val2014'),
    'coco_2014_valminusminival': ('instances_valminusminival2014', 'val2014'),
}

# Weights of a backbone alone, by how such files are called: R-50.pkl, X-101-32x8d.pkl,
# resnest50_detectron-255b5649.pth, r2_101.pkl. Others are whole detectors.
_BACKBONES = re.compile(r'ImageNet|(?:^|/)(?:[RXS]-\d+|r2?_?\d+|resne[sx]?t\d+|res2net\d+)[^/]*$')


def is_backbone(weights: str) -> bool:
    """Whether a name is that of ImageNet weights rather than a detector's."""
    return bool(_BACKBONES.search(weights))


def place_of(source: Source, key: str, name: str) -> tuple[str, str]:
    """(annotation file, folder of images) of a registered data set, below the data root."""
    if name in _COCO:
        annotations, images = _COCO[name]
    else:
        annotations, images = name, name
        loader = 'train_dataloader' if key.endswith('TRAIN') else 'test_dataloader'
        source.warn(
            f'{key}: {name!r} is registered by code, which this file does not have; set '
            f'{loader}.dataset.ann_file, data_prefix.img and metainfo'
        )
    return f'annotations/{annotations}.json', f'{images}/'


def set_train(source: Source, loader: dict[str, Any], names: dict[str, str]) -> None:
    """Make ``loader`` read the data sets ``names`` (as written -> as in the table)."""
    template = loader['dataset']
    template = template.get('datasets', [template])[0]
    datasets = []
    for name in names.values():
        annotations, images = place_of(source, 'DATASETS.TRAIN', name)
        prefix = {**template['data_prefix'], 'img': images}
        datasets.append({**template, 'ann_file': annotations, 'data_prefix': prefix})
    if len(datasets) == 1:
        loader['dataset'] = datasets[0]
    else:
        loader['dataset'] = dict(type='ConcatDataset', datasets=datasets)


def names_of(source: Source, key: str, ending: str = '') -> dict[str, str]:
    """The data sets of a key, without the ``ending`` that says what of them is read."""
    if not source[key]:
        raise source.error(key, 'one data set or more')
    return {name: name.removesuffix(ending) for name in source[key]}


def tested_place(source: Source, ending: str = '') -> tuple[str, str]:
    """(annotation file, folder of images) of what is tested, which can be one data set."""
    names = names_of(source, 'DATASETS.TEST', ending)
    if len(names) > 1:
        raise source.error('DATASETS.TEST', 'one data set; test the others one by one')
    return place_of(source, 'DATASETS.TEST', next(iter(names.values())))


def set_test(config: dict[str, Any], place: tuple[str, str], masks: bool) -> None:
    """Make ``config`` test objects, with masks or without."""
    annotations, images = place
    val = config['val_dataloader']['dataset']
    val.update(ann_file=annotations, data_prefix=dict(img=images))
    config['val_evaluator']['ann_file'] = val['data_root'] + annotations
    if not masks:
        config['val_evaluator']['metric'] = 'bbox'
        of_type(val['pipeline'], 'LoadAnnotations').pop('with_mask')


def relative_decay(source: Source, key: str, what: str) -> float:
    """``key``, the weight decay of some parameters, as a factor on that of all."""
    value, decay = source[key], source['SOLVER.WEIGHT_DECAY']
    if value and not decay:
        raise source.error('SOLVER.WEIGHT_DECAY', f'0 only where {what} do not decay either')
    return value / decay if decay else 0.0


def images_per_gpu(per_step: int) -> int:
    """Of a step's images: the eighth part, as theirs are counted for 8 GPUs; else 2, or 1 of an odd
    number."""
    if per_step % 8 == 0:
        return per_step // 8
    return 1 if per_step % 2 else 2


def resize(sizes: tuple[int, ...], max_size: int, sampling: str, **options: Any) -> dict[str, Any]:
    """The resizing of training images: to one short side, one of several, or any in a range."""
    shared = dict(resize_type='ResizeShortestEdge', max_size=max_size, backend='pillow', **options)
    scales = [(max_size, size) for size in sizes]
    if sampling == 'range':
        return dict(type='RandomResize', scale=scales, **shared)
    if len(sizes) > 1:
        return dict(type='RandomChoiceResize', scales=scales, **shared)
    return dict(
        type='ResizeShortestEdge', scale=sizes[0], max_size=max_size, backend='pillow', **options
    )


def of_type(pipeline: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The first transform of a type."""
    return next(step for step in pipeline if step['type'] == kind)


def set_schedule(source: Source, config: dict[str, Any]) -> None:
    """Iterations, learning rates and steps; ``config`` has a warm-up and a MultiStepLR."""
    last = source['SOLVER.MAX_ITER']
    config['train_cfg']['max_iters'] = last
    warmup, steps = config['param_scheduler']
    source.one_of('SOLVER.WARMUP_METHOD', 'linear')
    # the full rate is reached end - begin - 1 steps later
    warmup.update(
        start_factor=source['SOLVER.WARMUP_FACTOR'], end=source['SOLVER.WARMUP_ITERS'] + 1
    )
    steps.update(end=last, milestones=list(source['SOLVER.STEPS']), gamma=source['SOLVER.GAMMA'])
    if not source['SOLVER.WARMUP_ITERS']:
        config['param_scheduler'] = [steps]
    per_step = source['SOLVER.IMS_PER_BATCH']
    config['auto_scale_lr']['base_batch_size'] = per_step
    config['train_dataloader']['batch_size'] = images_per_gpu(per_step)
    config['optim_wrapper']['optimizer'].update(
        lr=source['SOLVER.BASE_LR'],
        momentum=source['SOLVER.MOMENTUM'],
        weight_decay=source['SOLVER.WEIGHT_DECAY'],
    )
    # Where the file says nothing, checkpoints and workers are as everywhere here.
    if 'SOLVER.CHECKPOINT_PERIOD' in source.given:
        config['default_hooks']['checkpoint']['interval'] = source['SOLVER.CHECKPOINT_PERIOD']
    if 'DATALOADER.NUM_WORKERS' in source.given:
        workers = source['DATALOADER.NUM_WORKERS']
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            config[name].update(num_workers=workers, persistent_workers=workers > 0)
    if not source['DATALOADER.ASPECT_RATIO_GROUPING']:
        config['train_dataloader'].pop('batch_sampler', None)
    if 'OUTPUT_DIR' in source.given:
        config['work_dir'] = source['OUTPUT_DIR']


def finished(config: dict[str, Any]) -> dict[str, Any]:
    """Without the helper variables of the config that it began with."""
    for name in ('train_pipeline', 'test_pipeline', 'data_root', 'norm_cfg', 'filter_cfg'):
        config.pop(name, None)
    config['test_dataloader'] = config['val_dataloader']
    config['test_evaluator'] = config['val_evaluator']
    return config


def remove_masks(model: dict[str, Any]) -> None:
    """Make a detector one of boxes alone."""
    for part in ('mask_roi_extractor', 'mask_head', 'mask_stages'):
        model['roi_head'].pop(part, None)
    model['data_preprocessor'].pop('pad_mask', None)
    model['test_cfg']['rcnn'].pop('mask_thr_binary', None)
    stages = model['train_cfg']['rcnn']
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.pop('mask_size', None)
    if model['type'] == 'MaskRCNN':
        model['type'] = 'FasterRCNN'
