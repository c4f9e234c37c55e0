"""Sends real panoptic images through pipelines and records what comes out, with this project or
mmdetection.

    /path/to/python-with-mmdet tests/peer_panoptic.py PANOPTIC_SAMPLE FILE.npz

regenerates ``tests/data/panoptic_pipelines.npz``: run by the Python of an environment that holds
mmdetection 3.x, this file does not import the project.
"""

import hashlib
import random
import sys
import types

import numpy as np

_LOAD = [dict(type='LoadImageFromFile', backend_args=None), dict(type='LoadPanopticAnnotations')]
_PACK = dict(type='PackDetInputs')
_FLIP = dict(type='RandomFlip', prob=0.5)
_EVERY_FLIP = dict(
    type='RandomFlip', prob=[0.3, 0.3, 0.3], direction=['horizontal', 'vertical', 'diagonal']
)

PIPELINES = dict(
    # the two of mmdetection's Panoptic FPN
    train=[*_LOAD, dict(type='Resize', scale=(1333, 800), keep_ratio=True), _FLIP, _PACK],
    test=[_LOAD[0], dict(type='Resize', scale=(1333, 800), keep_ratio=True), _LOAD[1], _PACK],
    multi_scale=[
        *_LOAD,
        dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True),
        _EVERY_FLIP,
        _PACK,
    ],
    jitter=[
        *_LOAD,
        dict(type='RandomResize', scale=(800, 600), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(
            type='RandomCrop',
            crop_type='absolute',
            crop_size=(300, 400),
            recompute_bbox=True,
            allow_negative_crop=True,
        ),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2), by_mask=True),
        _FLIP,
        dict(type='Pad', size=(480, 480), pad_val=dict(img=(1, 2, 3), seg=255, masks=0)),
        _PACK,
    ],
    stretched=[
        *_LOAD,
        dict(type='RandomChoiceResize', scales=[(400, 300), (300, 500)], keep_ratio=False),
        dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.4, 0.4)),
        _EVERY_FLIP,
        dict(type='Pad', pad_to_square=True, size_divisor=32),
        _PACK,
    ],
)
# Nothing in them depends on how a version of OpenCV decodes or interpolates colours.
GEOMETRY = ('boxes', 'labels', 'num_ignored', 'size', 'mask_areas', 'masks', 'map', 'batch_map')


def _digest(array: np.ndarray) -> np.ndarray:
    data = np.ascontiguousarray(array)
    return np.frombuffer(hashlib.sha1(data.tobytes()).digest(), dtype=np.uint8)


def _map(sample) -> np.ndarray:
    """Shape and labels of a map: (1, H, W); mmdetection's are int32."""
    labels = sample.gt_sem_seg.sem_seg.numpy()
    assert labels.ndim == 3 and labels.min() >= 0 and labels.max() <= 255
    counts = np.bincount(labels.ravel(), minlength=256)
    return np.concatenate([labels.shape, counts, _digest(labels.astype(np.uint8))])


def record(dataset_class, preprocessor_class, root: str, repeats: int = 4) -> dict[str, np.ndarray]:
    """Everything the pipelines give for the two images, under 'pipeline/draw/what'.

    Args:
        dataset_class: CocoPanopticDataset of either project.
        preprocessor_class: DetDataPreprocessor of either project.
        root: folder ``panoptic_sample``.
        repeats: how often each image is drawn, with other seeds.
    """
    out: dict[str, np.ndarray] = {}
    for name, pipeline in PIPELINES.items():
        dataset = dataset_class(
            ann_file='panoptic_examples.json',
            data_root=root,
            data_prefix=dict(img='input_images/', seg='panoptic_examples/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            test_mode=name == 'test',
            pipeline=pipeline,
        )
        out[f'{name}/number'] = np.array(len(dataset))
        batch = []
        for draw in range(len(dataset) * (1 if name == 'test' else repeats)):
            random.seed(draw)
            np.random.seed(draw)
            packed = dataset[draw % len(dataset)]
            batch.append(packed)
            sample = packed['data_samples']
            gt, boxes = sample.gt_instances, sample.gt_instances.bboxes
            pixels = gt.masks.to_ndarray().astype(np.uint8)
            flips = [None, 'horizontal', 'vertical', 'diagonal']
            found = dict(
                image=_digest(packed['inputs'].numpy()),
                boxes=getattr(boxes, 'tensor', boxes).numpy(),
                labels=gt.labels.numpy(),
                num_ignored=np.array(len(sample.ignored_instances)),
                masks=_digest(pixels),
                mask_areas=pixels.sum(axis=(1, 2)),
                map=_map(sample),
                size=np.array([
                    *sample.ori_shape,
                    *sample.img_shape,
                    *sample.scale_factor,
                    flips.index(sample.get('flip_direction')),
                ]),
            )  # fmt: skip
            out |= {f'{name}/{draw}/{what}': value for what, value in found.items()}
        if name == 'test':  # maps of the original images do not fit resized ones
            continue
        preprocessor = preprocessor_class(pad_size_divisor=32, pad_mask=True, pad_seg=True)
        data = dict(
            inputs=[packed['inputs'] for packed in batch],
            data_samples=[packed['data_samples'] for packed in batch],
        )
        data = preprocessor(data, training=True)
        for draw, sample in enumerate(data['data_samples']):
            out[f'{name}/{draw}/batch_map'] = _map(sample)
    return out


def _provide_panopticapi() -> None:
    """mmdetection takes one function of panopticapi, which no registry has."""
    try:
        import panopticapi  # noqa: F401
    except ImportError:

        def rgb2id(color: np.ndarray) -> np.ndarray:
            red, green, blue = np.moveaxis(color.astype(np.int32), -1, 0)
            return red + 256 * green + 256 * 256 * blue

        package, utils = types.ModuleType('panopticapi'), types.ModuleType('panopticapi.utils')
        utils.rgb2id = rgb2id
        package.utils = utils
        sys.modules |= {'panopticapi': package, 'panopticapi.utils': utils}


if __name__ == '__main__':
    _provide_panopticapi()
    from mmdet.datasets import CocoPanopticDataset
    from mmdet.models import DetDataPreprocessor
    from mmdet.utils import register_all_modules

    register_all_modules()
    recorded = record(CocoPanopticDataset, DetDataPreprocessor, sys.argv[1])
    np.savez_compressed(sys.argv[2], **recorded)
