"""Merges what small detectors find in several views, with this project or mmdetection.

    /path/to/python-with-mmdet tests/peer_tta.py FILE.npz

regenerates ``tests/data/tta.npz``: run by the Python of an environment that holds mmdetection 3.x,
this file does not import the project.
"""

import copy
import sys
import zlib

import numpy as np
import torch
from toy_detector import toy_config

SIZES = ((60, 80), (72, 50))
SCALES = ((96, 64), (160, 120), (64, 48))
KEYS = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
VIEWS = dict(
    type='TestTimeAug',
    transforms=[
        [dict(type='Resize', scale=scale, keep_ratio=True) for scale in SCALES],
        [
            dict(type='RandomFlip', prob=1.0),
            dict(type='RandomFlip', prob=0.0),
            dict(type='RandomFlip', prob=1.0, direction='vertical'),
            dict(type='RandomFlip', prob=1.0, direction='diagonal'),
        ],
        [dict(type='Pad', size_divisor=16)],
        [dict(type='PackDetInputs', meta_keys=KEYS)],
    ],
)
TTA_MODEL = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.4), max_per_img=150),
)


DETECTORS = ('faster_rcnn', 'cascade_rcnn')


def detector(name: str) -> dict:
    """Config of a detector, boxes only: mmdetection does not merge masks."""
    model = toy_config().model
    model.update(type='FasterRCNN', train_cfg=None)
    model.test_cfg.rpn.min_bbox_size = 0  # the two have other defaults than every config's
    model.test_cfg.rcnn.update(score_thr=0.2, max_per_img=40)
    head = model.roi_head
    del head['mask_head'], head['mask_roi_extractor']
    if name == 'cascade_rcnn':
        model.type = 'CascadeRCNN'
        boxes = dict(head.bbox_head, reg_class_agnostic=True)
        head.update(type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 0.5, 0.25])
        head.bbox_head = [copy.deepcopy(boxes) for _ in range(3)]
    return model


def fill(model: torch.nn.Module) -> None:
    """Weights that are a function of their names, and give detections of clearly different
    scores."""
    state = model.state_dict()
    for name, value in state.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith('running_mean') or (value.dim() == 1 and name.endswith('bias')):
            array = draw.uniform(-0.1, 0.1, value.shape)
        elif name.endswith('running_var') or value.dim() == 1:
            array = draw.uniform(0.5, 1.5, value.shape)
        elif value.dim() == 0:
            continue
        else:
            fixed = dict(fc_cls=0.3, rpn_cls=0.3, fc_reg=0.05, rpn_reg=0.2)
            part = name.split('.')[-2]
            deviation = fixed.get(part, (0.5 / np.prod(value.shape[1:])) ** 0.5)
            array = draw.normal(0, deviation, value.shape)
        state[name] = torch.from_numpy(array.astype(np.float32))
    model.load_state_dict(state)


def images() -> list[dict]:
    """What a loader gives for each picture."""
    loaded = []
    for index, (height, width) in enumerate(SIZES):
        coarse = np.random.RandomState(index).randint(0, 256, (12, 16, 3), dtype=np.uint8)
        img = np.ascontiguousarray(np.kron(coarse, np.ones((6, 5, 1), np.uint8))[:height, :width])
        shape = img.shape[:2]
        loaded.append(dict(img_id=index, img=img, img_shape=shape, ori_shape=shape))
    return loaded


def merged(models, transforms, collate) -> dict[str, np.ndarray]:
    """Merged detections of all images, from registries of models and transforms."""
    arrays = {}
    for name in DETECTORS:
        model = models.build({**copy.deepcopy(TTA_MODEL), 'module': detector(name)})
        fill(model.module)
        model.eval()
        views = transforms.build(copy.deepcopy(VIEWS))
        with torch.no_grad():
            samples = model.test_step(collate([views(loaded) for loaded in images()]))
        for index, sample in enumerate(samples):
            for key in ('bboxes', 'scores', 'labels'):
                arrays[f'{name}/{index}/{key}'] = sample.pred_instances[key].numpy()
    return arrays


if __name__ == '__main__':
    from mmdet.registry import MODELS, TRANSFORMS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict
    from mmengine.dataset import pseudo_collate

    register_all_modules()
    TTA_MODEL = ConfigDict(TTA_MODEL)
    np.savez_compressed(sys.argv[1], **merged(MODELS, TRANSFORMS, pseudo_collate))
