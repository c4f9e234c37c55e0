"""Weights, images, ground truth and small problems on which two implementations are compared.

Numpy only and without randomness from outside: every value is a pure function of its name, drawn
from the frozen legacy generator ``numpy.random.RandomState``. The reference implementation
(``generate.py``, run by its own Python) and ours (``test_parity_*.py``) both call these functions,
so nothing but results has to be stored.
"""

import json
import re
import zlib

import numpy as np

# What mmdetection's config of a model with global context has beyond ours without.
CONTEXT = {
    'model.backbone.plugins': [
        dict(
            cfg=dict(type='ContextBlock', ratio=1 / 4),
            stages=(False, True, True, True),
            position='after_conv3',
        )
    ]
}

# Stored files: name -> (config of mmdetection 3.x, our published config name[, what else is set])
MODELS = {
    'faster_rcnn_r2_101': (
        'res2net/faster-rcnn_res2net-101_fpn_2x_coco.py',
        'faster_rcnn_r2_101_fpn_2x_coco',
    ),
    'mask_rcnn_r2_101': (
        'res2net/mask-rcnn_res2net-101_fpn_2x_coco.py',
        'mask_rcnn_r2_101_fpn_2x_coco',
    ),
    'mask_rcnn_r50': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mask_rcnn_r50_fpn_1x_coco'),
    'mask_rcnn_r50_v1': (
        'legacy_1.x/mask-rcnn_r50_fpn_1x_coco_v1.py',
        'mask_rcnn_r50_fpn_1x_coco_v1',
    ),
    'mask_rcnn_r50_c4': (
        'mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
        'mask_rcnn_r50_caffe_c4_1x_coco',
    ),
    'mask_rcnn_r50_gcb': (
        'gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py',
        'mask_rcnn_r50_fpn_1x_coco',
        CONTEXT,
    ),
}

# The same for Fast R-CNN, whose proposals are :func:`cascade_rois`.
FAST = {
    'fast_rcnn_r50': ('fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py', 'fast_rcnn_r50_fpn_1x_coco'),
}

# The same for detectors of several stages.
CASCADES = {
    'cascade_rcnn_r2_101': (
        'res2net/cascade-rcnn_res2net-101_fpn_20e_coco.py',
        'cascade_rcnn_r2_101_fpn_20e_coco',
    ),
    'cascade_mask_rcnn_r2_101': (
        'res2net/cascade-mask-rcnn_res2net-101_fpn_20e_coco.py',
        'cascade_mask_rcnn_r2_101_fpn_20e_coco',
    ),
    'htc_r2_101': ('res2net/htc_res2net-101_fpn_20e_coco.py', 'htc_r2_101_fpn_20e_coco'),
    'htc_without_semantic_r50': (
        'htc/htc-without-semantic_r50_fpn_1x_coco.py',
        'htc_without_semantic_r50_fpn_1x_coco',
    ),
}

# Configs without published weights, hence in no metafile: our name -> that of mmdetection 3.x
UNPUBLISHED = {
    'htc_without_semantic_r50_fpn_1x_coco': 'htc-without-semantic_r50_fpn_1x_coco',
    'mask_rcnn_r50_caffe_c4_1x_coco': 'mask-rcnn_r50-caffe-c4_1x_coco',
    'fast_rcnn_r50_fpn_1x_coco': 'fast-rcnn_r50_fpn_1x_coco',
    'fast_rcnn_r50_fpn_2x_coco': 'fast-rcnn_r50_fpn_2x_coco',
    'fast_rcnn_r101_fpn_1x_coco': 'fast-rcnn_r101_fpn_1x_coco',
    'fast_rcnn_r101_fpn_2x_coco': 'fast-rcnn_r101_fpn_2x_coco',
    'fast_rcnn_r50_caffe_fpn_1x_coco': 'fast-rcnn_r50-caffe_fpn_1x_coco',
    'fast_rcnn_r101_caffe_fpn_1x_coco': 'fast-rcnn_r101-caffe_fpn_1x_coco',
    'cascade_rcnn_r18_fpn_8xb8-amp-lsj-200e_coco': 'cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
    'cascade_rcnn_r50_fpn_8xb8-amp-lsj-200e_coco': 'cascade-rcnn_r50_fpn_8xb8-amp-lsj-200e_coco',
    'cascade_rcnn_r101_fpn_8xb8-amp-lsj-200e_coco': 'cascade-rcnn_r101_fpn_8xb8-amp-lsj-200e_coco',
    'faster_rcnn_r50_fpn_1x_coco_v1': 'faster-rcnn_r50_fpn_1x_coco_v1',
    'mask_rcnn_r50_fpn_1x_coco_v1': 'mask-rcnn_r50_fpn_1x_coco_v1',
    'cascade_mask_rcnn_r50_fpn_1x_coco_v1': 'cascade-mask-rcnn_r50_fpn_1x_coco_v1',
}

# With this many draws allowed nothing is left to draw: every anchor and RoI is sampled.
EXHAUSTIVE = 1_000_000


def few_boxes(num_stages: int, shared_head: bool) -> tuple[int, int] | None:
    """Proposals and detections per image where three heads see all of them, or a residual stage
    does; elsewhere as configured.
    """
    if shared_head:
        return 40, 20
    return (400, 40) if num_stages > 1 else None


# Scale of the images, of all models
STD = [58.395, 57.12, 57.375]

# Parameters whose gradients are compared: one before, in and after every part.
GRADIENTS = (
    'layer2.0.conv1.weight',
    'layer4.1.conv3.weight',
    'lateral_convs.1.conv.weight',
    'fpn_convs.3.conv.bias',
    'rpn_conv.weight',
    'rpn_cls.bias',
    'rpn_reg.weight',
    'shared_fcs.1.bias',
    'fc_cls.weight',
    'fc_reg.bias',
    'mask_head.convs.0.conv.weight',
    'conv_logits.bias',
    'layer3.2.context_block.channel_add_conv.3.weight',
    # cascades
    'mask_head.0.convs.0.conv.weight',
    'mask_head.1.convs.3.conv.bias',
    'mask_head.2.upsample.weight',
    'conv_res.conv.weight',
    'semantic_head.convs.2.conv.bias',
    'conv_embedding.conv.weight',
)


def random_state(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


# ------------------------------------------------------------------------------------------ weights

# Factors on He's standard deviation, chosen so that activations stay near 1 through 101 layers,
# boxes move by a fraction of their size, and some of 80 classes score above the threshold.
GAINS = (
    (r'^(backbone|roi_head\.shared_head)\..*conv3\.weight$', 0.3),
    (r'^neck\.fpn_convs', 0.7),
    (r'rpn_cls\.weight$', 0.6),
    (r'rpn_reg\.weight$', 0.05),
    (r'fc_cls\.weight$', 1.5),
    (r'fc_reg\.weight$', 0.6),
    (r'bbox_head\.0\.fc_reg\.weight$', 0.2),  # on top of the line before
    (r'bbox_head\.[12]\.fc_reg\.weight$', 0.5),
    (r'conv_logits\.weight$', 1.2),
    (r'conv_offset\.weight$', 0.3),
    (r'^roi_head\.semantic_head\.lateral_convs', 0.45),  # five of them are added up
    (r'^roi_head\.semantic_head\.conv_(logits|embedding)', 0.2),
    (r'conv_res\.conv\.weight$', 0.5),
    # the same for all cells: what there is more of decides about every anchor and RoI alike
    (r'channel_add_conv\.3\.weight$', 0.05),
)


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of one entry of a state dict."""
    shape = tuple(int(side) for side in shape)
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    draw = random_state(name)
    if name.endswith('running_mean'):
        value = draw.uniform(-0.1, 0.1, shape)
    elif name.endswith('running_var'):
        value = draw.uniform(0.75, 1.25, shape)
    elif len(shape) == 1:
        value = (
            draw.uniform(-0.1, 0.1, shape) if name.endswith('bias') else draw.uniform(0.5, 1, shape)
        )
    else:
        deviation = (2.0 / np.prod(shape[1:])) ** 0.5
        for pattern, gain in GAINS:
            if re.search(pattern, name):
                deviation *= gain
        value = draw.standard_normal(shape)
        if name.endswith('fc_cls.weight'):
            # What all RoIs have in common must not decide their class.
            value -= value.mean(1, keepdims=True)
        value *= deviation
    return value.astype(np.float32)


def fill_model(model) -> None:
    """Replaces every entry of a torch module's state dict."""
    import torch

    state = {
        name: torch.from_numpy(fill(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True)


def statistics(model) -> dict[str, list[float]]:
    """Name -> mean, standard deviation, largest magnitude and size of each parameter."""
    result = {}
    for name, value in model.named_parameters():
        value = value.detach().double()
        deviation = float(value.std()) if value.numel() > 1 else 0.0
        result[name] = [float(value.mean()), deviation, float(value.abs().max()), value.numel()]
    return result


# -------------------------------------------------------------------------------------------- batch


def image(name: str, height: int, width: int) -> np.ndarray:
    """uint8 BGR (height, width, 3): slow waves and rectangles of one colour."""
    draw = random_state(name)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            fx, fy, phase = draw.uniform(-3, 3), draw.uniform(-3, 3), draw.uniform(0, 6.3)
            picture[..., channel] += 25 * np.sin(6.28 * (fx * x + fy * y) + phase)
    picture += 128
    for _ in range(24):
        h, w = int(height * draw.uniform(0.08, 0.5)), int(width * draw.uniform(0.08, 0.5))
        top, left = draw.randint(0, height - h), draw.randint(0, width - w)
        picture[top : top + h, left : left + w] = draw.uniform(0, 255, 3)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def ellipse(height: int, width: int, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """uint8 (height, width): 1 inside the ellipse."""
    y, x = np.mgrid[0:height, 0:width]
    return ((((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) <= 1).astype(np.uint8)


def batch(crowded: bool = False) -> list[dict]:
    """Two images of different size, as the pipelines would hand them over.

    Each: ``img`` uint8 (h, w, 3) BGR, ``ori_shape``, ``scale_factor`` (w, h), ``boxes`` float32
    (n, 4), ``labels`` int64, ``masks`` uint8 (n, h, w), ``ignored`` (1, 4), a crowd, and
    ``sem_seg`` uint8 (h, w), 0 to 182 or 255.

    With ``crowded`` there are more objects, near what the filled models propose, so that later
    stages of a cascade have positives too; and some that stand almost where others stand, so that
    one RoI fits both best: all that low-quality matching decides where its threshold is that of
    ordinary matching.
    """
    shapes = (
        (
            (160, 208),
            (120, 150),
            [(60, 70, 40, 30), (150, 90, 30, 55), (110, 130, 60, 18)],
            (17, 0, 56),
        ),
        ((192, 144), (150, 108), [(70, 60, 60, 50), (60, 140, 22, 35)], (2, 79)),
    )
    more = (
        (
            [
                (63, 72, 40, 30),
                (178, 52, 25, 39),
                (181, 53, 25, 39),
                (41, 89, 25, 38),
                (114, 110, 24, 38),
                (161, 104, 10, 20),
                (94, 104, 11, 19),
            ],
            (24, 39, 7, 61, 12, 3, 50),
        ),
        (
            [
                (82, 57, 24, 37),
                (114, 134, 24, 38),
                (33, 113, 24, 37),
                (65, 169, 10, 19),
                (74, 168, 10, 20),
                (68, 34, 11, 20),
            ],
            (5, 33, 2, 44, 70, 18),
        ),
    )
    items = []
    for index, ((height, width), original, ellipses, labels) in enumerate(shapes):
        if crowded:
            ellipses, labels = [*ellipses, *more[index][0]], (*labels, *more[index][1])
        masks = np.stack([ellipse(height, width, *e) for e in ellipses])
        boxes = []
        for mask in masks:
            ys, xs = np.nonzero(mask)
            boxes.append([xs.min() + 0.3, ys.min() - 0.2, xs.max() + 0.8, ys.max() + 0.6])
        boxes = np.clip(np.array(boxes, np.float32), 0, [width, height, width, height])
        items.append(
            dict(
                img=image(f'image {index}', height, width),
                ori_shape=original,
                scale_factor=(width / original[1], height / original[0]),
                boxes=boxes.astype(np.float32),
                labels=np.array(labels, np.int64),
                masks=masks,
                ignored=np.array([[20, 15, 90, 60]], np.float32),
                sem_seg=stuff(f'stuff {index}', height, width),
            )
        )
    return items


def stuff(name: str, height: int, width: int) -> np.ndarray:
    """uint8 (height, width): blocks of five pixels of 183 classes; a tenth is ignored (255)."""
    draw = random_state(name)
    coarse = draw.randint(0, 183, (height // 5 + 1, width // 5 + 1))
    coarse[draw.uniform(size=coarse.shape) < 0.1] = 255
    return np.kron(coarse, np.ones((5, 5), int))[:height, :width].astype(np.uint8)


def rois() -> np.ndarray:
    """float32 (18, 5): image index and xyxy in network pixels; on all four levels, some outside."""
    draw = random_state('rois')
    side = np.array(
        [9, 14, 25, 40, 60, 80, 100, 111.9, 112.1, 130, 150, 180, 223, 225, 300, 446, 449, 700]
    )
    ratio = draw.uniform(0.6, 1.6, 18) ** 0.5
    centre = draw.uniform(20, 150, (18, 2))
    half = np.stack([side * ratio, side / ratio], 1) / 2
    index = np.arange(18)[:, None] % 2
    return np.concatenate([index, centre - half, centre + half], 1).astype(np.float32)


def cascade_rois() -> np.ndarray:
    """The same, image by image: nine of the first, nine of the second."""
    given = rois()
    return given[np.argsort(given[:, 0], kind='stable')]


# ------------------------------------------------------------------------------- storing, comparing

SMALL = 4096  # arrays up to this many values are stored whole


def positions(name: str, count: int, picked: int = 512) -> np.ndarray:
    return random_state(name).randint(0, count, picked)


def compact(arrays: dict[str, np.ndarray], whole: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """What is stored of ``arrays``: small ones, and those that start with one of ``whole``, as they
    are; of others the shape, mean, standard deviation, 512 values, and a checksum."""
    stored = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.size <= SMALL or name.startswith(whole or ('\0',)):
            stored[name] = array
        else:
            flat = array.reshape(-1)
            stored[f'{name}@shape'] = np.array(array.shape)
            stored[f'{name}@moments'] = np.array([flat.mean(), flat.std()], np.float64)
            stored[f'{name}@values'] = flat[positions(name, flat.size)]
            stored[f'{name}@crc'] = np.array(checksum(array))
    return stored


def checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def identical(name: str, array: np.ndarray, stored: dict[str, np.ndarray]) -> bool:
    """Whether ``array`` equals, bit for bit, what was stored as ``name``."""
    if name in stored:
        return array.dtype == stored[name].dtype and np.array_equal(array, stored[name])
    return checksum(array) == int(stored[f'{name}@crc'])


def deviation(name: str, array, stored, average: bool = False) -> float:
    """Largest difference from what was stored as ``name``, over the stored standard deviation.

    With ``average`` the root mean square of the differences instead of the largest: for gradients,
    which jump where rounding carries one unit of 100,000 across a ReLU's kink.

    Raises:
        AssertionError: another shape.
    """
    array = np.asarray(array)
    if name in stored:
        expected = stored[name]
        assert array.shape == expected.shape, f'{name}: {array.shape} instead of {expected.shape}'
        if expected.size == 0:
            return 0.0
        scale = expected.astype(np.float64).std() if expected.size > 1 else np.abs(expected).max()
        actual = array
    else:
        shape = tuple(stored[f'{name}@shape'])
        assert array.shape == shape, f'{name}: {array.shape} instead of {shape}'
        expected, scale = stored[f'{name}@values'], stored[f'{name}@moments'][1]
        actual = array.reshape(-1)[positions(name, array.size)]
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    difference = (difference**2).mean() ** 0.5 if average else difference.max()
    return float(difference / max(scale, 1e-12))


def pack_text(value) -> np.ndarray:
    """JSON-able value -> uint8 array."""
    return np.frombuffer(zlib.compress(json.dumps(value).encode(), 9), np.uint8)


def unpack_text(array: np.ndarray):
    return json.loads(zlib.decompress(array.tobytes()))


def pack_masks(masks: np.ndarray) -> np.ndarray:
    """bool (n, h, w) -> uint8 (n, ceil(h * w / 8))."""
    return np.packbits(masks.reshape(len(masks), -1).astype(bool), axis=1)


def unpack_masks(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    bits = np.unpackbits(packed, axis=1)[:, : shape[0] * shape[1]]
    return bits.reshape(len(packed), *shape).astype(bool)


# ------------------------------------------------------------------------------------ single parts


def _boxes(
    draw, count: int, extent: float = 200, side: tuple[float, float] = (4, 120)
) -> np.ndarray:
    corner = draw.uniform(0, extent, (count, 2))
    return np.concatenate([corner, corner + draw.uniform(*side, (count, 2))], 1).astype(np.float32)


def assigner_cases() -> dict[str, dict]:
    """name -> dict(cfg, priors (n, 4), gt (m, 4), labels (m,), ignored (k, 4))."""
    rpn = dict(
        pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True, ignore_iof_thr=-1
    )
    rcnn = dict(
        pos_iou_thr=0.5,
        neg_iou_thr=0.5,
        min_pos_iou=0.5,
        match_low_quality=False,
        ignore_iof_thr=-1,
    )
    draw = random_state('assigner')
    priors, gt = _boxes(draw, 300), _boxes(draw, 7)
    near = gt[draw.randint(0, 7, 60)] + draw.uniform(-12, 12, (60, 4)).astype(np.float32)
    priors = np.concatenate([priors, near, gt[:2]])
    labels = draw.randint(0, 80, 7)
    none = np.zeros((0, 4), np.float32)
    ignored = _boxes(draw, 3, side=(60, 160))

    # Integer coordinates, so that IoUs tie exactly: two equal gts, mirrored and repeated priors.
    tied_gt = np.array(
        [[20, 20, 60, 60], [20, 20, 60, 60], [100, 20, 140, 60], [100, 100, 108, 108]], np.float32
    )
    tied_priors = np.array(
        [
            [20, 20, 60, 60],
            [10, 20, 50, 60],
            [30, 20, 70, 60],
            [80, 20, 120, 60],
            [120, 20, 160, 60],
            [100, 0, 140, 40],
            [100, 40, 140, 80],
            [96, 96, 112, 112],
            [100, 100, 116, 116],
            [92, 92, 108, 108],
            [300, 300, 320, 320],
            [20, 20, 60, 60],
        ],
        np.float32,
    )
    tied = dict(priors=tied_priors, gt=tied_gt, labels=np.array([3, 5, 7, 9]), ignored=none)
    cases = {
        'rpn': dict(cfg=rpn, priors=priors, gt=gt, labels=labels, ignored=none),
        'rcnn': dict(cfg=rcnn, priors=priors, gt=gt, labels=labels, ignored=none),
        'rcnn low quality': dict(
            cfg={**rcnn, 'match_low_quality': True},
            priors=priors,
            gt=gt,
            labels=labels,
            ignored=none,
        ),
        'rcnn, ties': dict(cfg=rcnn, **tied),
        'rcnn low quality, ties': dict(cfg={**rcnn, 'match_low_quality': True}, **tied),
        'ties': dict(cfg=rpn, **tied),
        'ties, low quality from 0.2': dict(cfg={**rpn, 'min_pos_iou': 0.2}, **tied),
        'ties, one prior per gt': dict(cfg={**rpn, 'gt_max_assign_all': False}, **tied),
        'negative range': dict(
            cfg={**rcnn, 'neg_iou_thr': (0.1, 0.5)},
            priors=priors,
            gt=gt,
            labels=labels,
            ignored=none,
        ),
        'no gt': dict(cfg=rpn, priors=priors, gt=none, labels=labels[:0], ignored=none),
        'no prior': dict(cfg=rpn, priors=none, gt=gt, labels=labels, ignored=none),
    }
    for wrt in (True, False):
        cases[f'ignored, wrt candidates {wrt}'] = dict(
            cfg={**rpn, 'ignore_iof_thr': 0.5, 'ignore_wrt_candidates': wrt},
            priors=priors,
            gt=gt,
            labels=labels,
            ignored=ignored,
        )
    return cases


def coder_cases() -> dict[str, dict]:
    """name -> dict(cfg, boxes (n, 4), gt (n, 4), deltas (n, 4 or 80), max_shape)."""
    draw = random_state('coder')
    boxes, gt = _boxes(draw, 64), _boxes(draw, 64)
    deltas = draw.standard_normal((64, 4)).astype(np.float32)
    deltas[:8, 2:] = [
        [9, -9],
        [-9, 9],
        [4.2, 4.1],
        [-4.2, -4.1],
        [60, -60],
        [0, 0],
        [4.136, 4.135],
        [5, 5],
    ]
    per_class = (draw.standard_normal((64, 20, 4)) * 2).astype(np.float32).reshape(64, 80)
    unit = dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0])
    rcnn = dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2])
    shifted = dict(target_means=[0.1, -0.2, 0.3, 0.0], target_stds=[0.05, 0.05, 0.1, 0.1])
    common = dict(boxes=boxes, gt=gt)
    return {
        'rpn': dict(cfg=unit, deltas=deltas, max_shape=(180, 240), **common),
        'rcnn': dict(cfg=rcnn, deltas=deltas * 10, max_shape=(180, 240), **common),
        'rcnn, no border': dict(cfg=rcnn, deltas=deltas, max_shape=None, **common),
        'per class': dict(cfg=rcnn, deltas=per_class, max_shape=(180, 240), **common),
        'means': dict(cfg=shifted, deltas=deltas, max_shape=(150, 150), **common),
    }


def anchor_cases() -> dict[str, dict]:
    """name -> dict(cfg, sizes of the feature maps)."""
    coco = dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])
    sizes = [(48, 52), (24, 26), (12, 13), (6, 7), (3, 4)]
    return {
        'coco': dict(cfg=coco, sizes=sizes),
        'octaves': dict(
            cfg=dict(
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32, 64, 128],
            ),
            sizes=sizes,
        ),
        'centre, base sizes': dict(
            cfg=dict(
                scales=[2, 4],
                ratios=[1.0, 3.0],
                strides=[16, 32],
                base_sizes=[10, 21],
                center_offset=0.5,
            ),
            sizes=sizes[:2],
        ),
        'ratios outer': dict(
            cfg=dict(scales=[2, 4, 8], ratios=[0.5, 2.0], strides=[16], scale_major=False),
            sizes=sizes[:1],
        ),
    }


def mask_target_cases() -> dict[str, dict]:
    """name -> dict(masks uint8 (m, h, w) or polygons, boxes (r, 4), index (r,), size)."""
    draw = random_state('mask targets')
    height, width = 96, 128
    ellipses = [(40, 40, 30, 20), (90, 60, 25, 30), (64, 48, 6, 40)]
    masks = np.stack([ellipse(height, width, *e) for e in ellipses])
    index = draw.randint(0, 3, 24)
    boxes = []
    for i in index:
        cx, cy, rx, ry = ellipses[i]
        boxes.append([cx - rx, cy - ry, cx + rx, cy + ry])
    boxes = np.array(boxes) + draw.uniform(-8, 8, (24, 4))
    boxes[0] = [0, 0, width, height]
    boxes[1] = [50.2, 40.1, 50.6, 40.3]  # less than a pixel
    boxes[2] = [100, 70, 128, 96]
    angles = np.linspace(0, 2 * np.pi, 13)[:-1]
    polygons = []
    for cx, cy, rx, ry in ellipses:
        wobble = draw.uniform(0.7, 1.1, 12)
        ring = np.stack([cx + rx * wobble * np.cos(angles), cy + ry * wobble * np.sin(angles)], 1)
        parts = [np.clip(ring, 0, [width, height]).reshape(-1)]
        if cx == 90:  # an object in two parts
            parts.append(np.array([10.5, 80.0, 30.0, 82.5, 25.0, 93.0]))
        polygons.append([part.astype(np.float64) for part in parts])
    common = dict(
        height=height, width=width, boxes=boxes.astype(np.float32), index=index.astype(np.int64)
    )
    return {
        'bitmaps': dict(masks=masks, size=(28, 28), **common),
        'bitmaps, not square': dict(masks=masks, size=(14, 20), **common),
        'polygons': dict(polygons=polygons, size=(28, 28), **common),
    }


def paste_case() -> dict:
    """Mask probabilities (n, 28, 28), boxes (n, 4) in pixels of an image of ``shape``."""
    draw = random_state('paste')
    coarse = draw.uniform(0, 1, (12, 7, 7))
    probabilities = np.kron(coarse, np.ones((1, 4, 4))).astype(np.float32)
    boxes = _boxes(draw, 12, extent=90, side=(3, 70))
    boxes[0] = [0, 0, 130, 101]
    boxes[1] = [-20.5, -10.25, 40, 30]
    boxes[2] = [60.2, 50.1, 60.9, 50.4]
    boxes[3] = [100.3, 80.7, 180, 140]
    return dict(probabilities=probabilities, boxes=boxes, shape=(101, 130))


def loss_cases() -> dict[str, dict]:
    """name -> dict(cfg, pred, target, weight, avg_factor)."""
    draw = random_state('losses')

    def normal(*shape):
        return draw.standard_normal(shape).astype(np.float32)

    logits, classes = normal(40, 21) * 3, draw.randint(0, 21, 40)
    binary, targets = normal(50, 1) * 4, draw.randint(0, 2, 50)
    weight = draw.randint(0, 2, 40).astype(np.float32)
    binary_weight = draw.randint(0, 2, 50).astype(np.float32)
    mask_logits, mask_targets = normal(5, 9, 14, 14) * 3, draw.randint(0, 2, (5, 14, 14))
    boxes = _boxes(draw, 30)
    others = boxes + draw.uniform(-15, 15, (30, 4)).astype(np.float32)
    others[:2] += 400  # apart from their targets: IoU 0
    box_weight = np.repeat(draw.randint(0, 2, (30, 1)), 4, 1).astype(np.float32)
    regression = dict(pred=normal(30, 4), target=normal(30, 4), weight=box_weight, avg_factor=17.0)
    cases = {
        'softmax': dict(
            cfg=dict(type='CrossEntropyLoss', loss_weight=1.0),
            pred=logits,
            target=classes,
            weight=weight,
            avg_factor=13.0,
        ),
        'softmax, mean': dict(
            cfg=dict(type='CrossEntropyLoss', loss_weight=0.5),
            pred=logits,
            target=classes,
            weight=None,
            avg_factor=None,
        ),
        'sigmoid': dict(
            cfg=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            pred=binary,
            target=targets,
            weight=binary_weight,
            avg_factor=23.0,
        ),
        'mask': dict(
            cfg=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            pred=mask_logits,
            target=mask_targets.astype(np.float32),
            labels=draw.randint(0, 9, 5),
            weight=None,
            avg_factor=None,
        ),
        'l1': dict(cfg=dict(type='L1Loss', loss_weight=1.0), **regression),
        'smooth l1': dict(cfg=dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=2.0), **regression),
    }
    for name in ('IoULoss', 'GIoULoss', 'CIoULoss', 'BoundedIoULoss'):
        cases[name] = dict(
            cfg=dict(type=name, loss_weight=10.0),
            pred=others,
            target=boxes,
            weight=box_weight,
            avg_factor=11.0,
        )
    return cases


# ---------------------------------------------------------------------------------------- backbones

BACKBONES = {
    'resnet18': dict(type='ResNet', depth=18),
    'resnet34': dict(type='ResNet', depth=34),
    'resnet50_caffe': dict(type='ResNet', depth=50, style='caffe'),
    'resnet50_v1d': dict(type='ResNetV1d', depth=50),
    'resnet50_dilated': dict(
        type='ResNet', depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3,)
    ),
    'resnext50_32x4d': dict(type='ResNeXt', depth=50, groups=32, base_width=4),
    'resnet50_dcn': dict(
        type='ResNet',
        depth=50,
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    'resnet50_dcnv2': dict(
        type='ResNet',
        depth=50,
        dcn=dict(type='DCNv2', deform_groups=2, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    'res2net50_26w4s': dict(type='Res2Net', depth=50, scales=4, base_width=26),
    'res2net50_14w8s': dict(type='Res2Net', depth=50, scales=8, base_width=14),
    'res2net101_26w4s': dict(type='Res2Net', depth=101, scales=4, base_width=26),
}


def backbone_input() -> np.ndarray:
    """float32 (1, 3, 96, 128), normalised."""
    picture = image('backbone', 96, 128).astype(np.float32)
    return ((picture - 120) / 58).transpose(2, 0, 1)[None].astype(np.float32)


def feature_maps() -> list[np.ndarray]:
    """Four float32 maps (2, 8, h, w) of strides 4 to 32 under an image of 160 x 208."""
    draw = random_state('feature maps')
    return [
        draw.standard_normal((2, 8, 160 // stride, 208 // stride)).astype(np.float32)
        for stride in (4, 8, 16, 32)
    ]


# ------------------------------------------------------------------------------------------ configs


def flatten(config: dict) -> dict[str, object]:
    """Resolved config -> its leaves by path, without what changes neither learning nor results.

    Left out: runtime settings (logging, hooks, environment), intermediate variables, the evaluation
    batch size, and keys that say what is the default anyway.
    """
    sections = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator')
    sections += ('test_evaluator', 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper')
    sections += ('param_scheduler', 'auto_scale_lr')
    defaults = {'backend_args': None, 'debug': False, 'format_only': False, 'pos_weight': -1}
    defaults |= {'match_low_quality': True, 'with_conv_res': True, 'pad_seg': False}
    defaults |= {'semantic_roi_extractor': None, 'semantic_head': None, 'enable': False}
    leaves = {}

    def walk(value, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f'{path}.{key}')
        elif isinstance(value, (list, tuple)):
            leaves[f'{path}.length'] = len(value)
            for index, item in enumerate(value):
                walk(item, f'{path}.{index}')
        else:
            key = path.rsplit('.', 1)[-1]
            if not (key in defaults and defaults[key] == value):
                leaves[path] = value

    for section in sections:
        if section in config:
            walk(config[section], section)
    for section in ('val_dataloader', 'test_dataloader'):
        leaves.pop(f'{section}.batch_size', None)
    return leaves
