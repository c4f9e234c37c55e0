"""Sends real images through pipelines and records what comes out, with this project or mmdetection.

    /path/to/python-with-mmdet tests/peer_pipelines.py COCO_TINY FILE.npz

regenerates ``tests/data/pipelines.npz``: run by the Python of an environment that holds
mmdetection 3.x, this file does not import the project.
"""

import hashlib
import json
import random
import sys
import tempfile

import cv2
import numpy as np
import torch

_LOAD = dict(type='LoadImageFromFile', backend_args=None)
_SEMANTIC = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True)
_MASKS = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
_POLYGONS = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
_RESIZE = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
_FLIP = dict(type='RandomFlip', prob=0.5)
_PACK = dict(type='PackDetInputs')
_EVERY_FLIP = dict(
    type='RandomFlip', prob=[0.3, 0.3, 0.3], direction=['horizontal', 'vertical', 'diagonal']
)

PIPELINES = dict(
    # the two of every COCO config
    train=[_LOAD, _MASKS, _RESIZE, _FLIP, _PACK],
    test=[_LOAD, _RESIZE, dict(type='LoadAnnotations', with_bbox=True), _PACK],
    polygons=[_LOAD, _POLYGONS, _RESIZE, _FLIP, _PACK],
    multi_scale=[
        _LOAD,
        _MASKS,
        dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True),
        _EVERY_FLIP,
        _PACK,
    ],
    choice=[
        _LOAD,
        _MASKS,
        dict(type='RandomChoiceResize', scales=[(400, 300), (500, 300)], keep_ratio=False),
        _FLIP,
        _PACK,
    ],
    large_scale_jitter=[
        _LOAD,
        _MASKS,
        dict(type='RandomResize', scale=(800, 600), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(
            type='RandomCrop',
            crop_type='absolute',
            crop_size=(300, 400),
            recompute_bbox=True,
            allow_negative_crop=True,
        ),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
        _FLIP,
        _PACK,
    ],
    crop_range=[
        _LOAD,
        _MASKS,
        dict(type='RandomCrop', crop_type='absolute_range', crop_size=(200, 400)),
        _FLIP,
        _PACK,
    ],
    crop_and_colours=[
        _LOAD,
        _MASKS,
        dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.3, 0.6)),
        dict(type='PhotoMetricDistortion'),
        _PACK,
    ],
    crop_by_mask=[
        _LOAD,
        _MASKS,
        dict(
            type='RandomCrop',
            crop_type='relative',
            crop_size=(0.5, 0.4),
            bbox_clip_border=False,
        ),
        dict(type='FilterAnnotations', by_mask=True, min_gt_mask_area=50),
        _PACK,
    ],
    crop_polygons=[
        _LOAD,
        _POLYGONS,
        dict(type='RandomCrop', crop_type='absolute', crop_size=(300, 200)),
        _PACK,
    ],
    # HTC's, and the same with everything else that can happen to a map
    semantic=[_LOAD, _SEMANTIC, _RESIZE, _FLIP, _PACK],
    semantic_jitter=[
        _LOAD,
        _SEMANTIC | dict(reduce_zero_label=True),
        dict(type='RandomResize', scale=(800, 600), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(400, 300), allow_negative_crop=True),
        _EVERY_FLIP,
        dict(type='Pad', size=(480, 320), pad_val=dict(img=(1, 2, 3), seg=254, masks=0)),
        _PACK,
    ],
    semantic_stretched=[
        _LOAD,
        _SEMANTIC,
        dict(type='RandomChoiceResize', scales=[(400, 300), (300, 500)], keep_ratio=False),
        dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.5, 0.5)),
        _EVERY_FLIP,
        dict(type='Pad', pad_to_square=True, size_divisor=32),
        _PACK,
    ],
)
# Nothing in them depends on how a version of OpenCV decodes or interpolates colours.
GEOMETRY = (
    'boxes',
    'labels',
    'ignored_boxes',
    'ignored_labels',
    'size',
    'mask_areas',
    'targets',
    'map',
    'batch',
    'batch_map',
)


def write_stuff_maps(root: str, folder: str) -> None:
    """A map per image, of things and stuff as in COCO: the boxes of objects have their label, the
    rest are diagonal stripes of ten stuff labels and of unlabelled pixels.
    """
    with open(f'{root}/annotations/instances_val2017.json') as file:
        content = json.load(file)
    label_of = {c['id']: i for i, c in enumerate(content['categories'])}
    maps = {}
    for image in content['images']:
        y, x = np.mgrid[: image['height'], : image['width']]
        labels = (80 + (x // 9 + y // 7) % 11).astype(np.uint8)
        labels[labels == 90] = 255
        maps[image['id']] = labels
    for annotation in content['annotations']:
        x, y, w, h = map(int, annotation['bbox'])
        maps[annotation['image_id']][y : y + h, x : x + w] = label_of[annotation['category_id']]
    for image in content['images']:
        cv2.imwrite(f'{folder}/{image["file_name"].rsplit(".", 1)[0]}.png', maps[image['id']])


def _digest(array: np.ndarray) -> np.ndarray:
    data = np.ascontiguousarray(array)
    return np.frombuffer(hashlib.sha1(data.tobytes()).digest(), dtype=np.uint8)


def _boxes(instances) -> np.ndarray:
    boxes = instances.bboxes
    return getattr(boxes, 'tensor', boxes).numpy()


def _proposals(boxes: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight boxes near ground truth, and which ground truth each is for; some leave the image."""
    draw = np.random.default_rng(seed)
    index = draw.integers(0, len(boxes), 8)
    near = boxes[index]
    size = np.tile(near[:, 2:] - near[:, :2], 2)
    near = (near + draw.normal(0, 0.2, near.shape) * size).astype(np.float32)
    near[0] = boxes[index[0]]  # exactly a ground-truth box: averages of one half
    ordered = np.concatenate(
        [np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], axis=1
    )
    return torch.from_numpy(ordered), torch.from_numpy(index)


def record(
    dataset_class, preprocessor_class, targets, root: str, num_images: int = 6
) -> dict[str, np.ndarray]:
    """Everything the pipelines give for the first images, under 'pipeline/image/what'.

    Args:
        dataset_class: CocoDataset of either project.
        preprocessor_class: DetDataPreprocessor of either project.
        targets: (masks, boxes, index, size) of one image -> (r, size, size) tensor.
        root: folder ``coco_tiny``.
        num_images: how many.
    """
    with tempfile.TemporaryDirectory() as maps:
        write_stuff_maps(root, maps)
        return {
            f'{name}/{key}': value
            for name, pipeline in PIPELINES.items()
            for key, value in _record_pipeline(
                name, pipeline, dataset_class, preprocessor_class, targets, root, maps, num_images
            ).items()
        }


def _record_pipeline(
    name, pipeline, dataset_class, preprocessor_class, targets, root, maps, num_images
) -> dict[str, np.ndarray]:
    out = {}
    dataset = dataset_class(
        ann_file='annotations/instances_val2017.json',
        data_root=root,
        data_prefix=dict(img='val2017/', seg=maps),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        indices=num_images,
        test_mode=name == 'test',
        pipeline=pipeline,
    )
    batch = []
    for i in range(num_images):
        random.seed(i)
        np.random.seed(i)
        packed = dataset[i]
        batch.append(packed)
        image, sample = packed['inputs'].numpy(), packed['data_samples']
        gt, ignored = sample.gt_instances, sample.ignored_instances
        meta = [*sample.ori_shape, *sample.img_shape, *sample.get('scale_factor', (1, 1))]
        flips = [None, 'horizontal', 'vertical', 'diagonal']
        found = dict(
            image=_digest(image),
            boxes=_boxes(gt),
            labels=gt.labels.numpy(),
            ignored_boxes=_boxes(ignored),
            ignored_labels=ignored.labels.numpy(),
            size=np.array([*meta, flips.index(sample.get('flip_direction'))]),
        )
        if 'masks' in gt:
            pixels = gt.masks.to_ndarray().astype(np.uint8)
            found['masks'] = _digest(pixels)
            found['mask_areas'] = pixels.sum(axis=(1, 2))
            if len(gt.masks) and not name.startswith('semantic'):
                boxes, index = _proposals(found['boxes'], i)
                cut = targets(gt.masks, boxes, index, 28)
                found['targets'] = np.packbits(cut.numpy().astype(bool))
        if 'gt_sem_seg' in sample:
            found['map'] = _map(sample)
        out |= {f'{i}/{what}': value for what, value in found.items()}
    if 'gt_sem_seg' in batch[0]['data_samples']:
        preprocessor = preprocessor_class(pad_size_divisor=32, pad_mask=True, pad_seg=True)
        data = dict(
            inputs=[packed['inputs'] for packed in batch],
            data_samples=[packed['data_samples'] for packed in batch],
        )
        data = preprocessor(data, training=True)
        for i, sample in enumerate(data['data_samples']):
            out[f'{i}/batch'] = np.array(data['inputs'].shape)
            out[f'{i}/batch_map'] = _map(sample)
    return out


def _map(sample) -> np.ndarray:
    """Shape and bytes of a semantic map: (1, H, W) uint8."""
    labels = sample.gt_sem_seg.sem_seg.numpy()
    assert labels.dtype == np.uint8 and labels.ndim == 3
    return np.concatenate([np.array(labels.shape), _digest(labels)])


def _peer_targets(masks, boxes, index, size):
    from mmdet.structures.mask import mask_target
    from mmengine.config import ConfigDict

    return mask_target([boxes], [index], [masks], ConfigDict(mask_size=size))


if __name__ == '__main__':
    from mmdet.datasets import CocoDataset
    from mmdet.models import DetDataPreprocessor
    from mmdet.utils import register_all_modules

    register_all_modules()
    recorded = record(CocoDataset, DetDataPreprocessor, _peer_targets, sys.argv[1])
    np.savez_compressed(sys.argv[2], **recorded)
