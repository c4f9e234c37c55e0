"""What our models compute from the originals' weights, image and RoIs, by the goldens' names.

Images and ground truth are functions of nothing, the recorded numbers of the originals lie in
``data/golden_*.npz``: large tensors as shape, mean and deviation, and values at positions.
"""

import re

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from mmdet_r2.config import load_config
from mmdet_r2.models.postprocess import DetectionSelector
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import boxes_to_rois
from mmdet_r2.structures.masks import PolygonMasks
from mmdet_r2.zoo import load_checkpoint

ORIGINAL = (240, 333)  # height, width
RESIZED = (312, 433)  # as detectron2 resizes it
EXHAUSTIVE = 100_000

# Objects of the training step: classes, and polygons in network-input pixels.
LABELS = [17, 0, 56, 79]
POLYGONS = [
    [[40, 50, 150, 45, 165, 160, 90, 205, 35, 150]],
    [
        [200, 30, 300, 25, 310, 120, 215, 130],
        [220, 140, 290, 138, 280, 180],
    ],
    [[250, 170, 415, 160, 425, 295, 330, 305, 245, 280]],
    [[100, 240, 150, 235, 155, 285, 105, 290]],
]
NAMES = {  # of losses: detectron2's -> ours
    r'loss_rpn_cls': 'loss_rpn_cls',
    r'loss_rpn_loc': 'loss_rpn_bbox',
    r'loss_cls': 'loss_cls',
    r'loss_box_reg': 'loss_bbox',
    r'loss_mask': 'loss_mask',
    r'loss_cls_stage(\d)': r's\1.loss_cls',
    r'loss_box_reg_stage(\d)': r's\1.loss_bbox',
    r'loss_sem_seg': 'loss_seg',
}


def image() -> np.ndarray:
    """uint8 RGB (240, 333, 3): slow waves under rectangles, as the originals were shown."""
    draw = np.random.RandomState(7)
    height, width = ORIGINAL
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    result = np.zeros((height, width, 3))
    for channel in range(3):
        waves = np.zeros((height, width))
        for _ in range(5):
            fx, fy = draw.uniform(-3, 3, 2)
            strength = draw.uniform(0.3, 1.0)
            waves += strength * np.sin(2 * np.pi * (fx * x + fy * y) + draw.uniform(0, 2 * np.pi))
        result[..., channel] = 128 + 35 * waves
    for _ in range(28):
        rows, columns = (
            int(height * draw.uniform(0.06, 0.45)),
            int(width * draw.uniform(0.06, 0.45)),
        )
        top, left = draw.randint(0, height - rows), draw.randint(0, width - columns)
        colour, opacity = draw.uniform(0, 255, 3), draw.uniform(0.5, 1.0)
        part = result[top : top + rows, left : left + columns]
        part[...] = (1 - opacity) * part + opacity * colour
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def build(config: str, checkpoint: str, **overrides) -> torch.nn.Module:
    """The detector of a published config with an original's weights, ready to predict."""
    init_scope()
    cfg = load_config(config, overrides)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    report = load_checkpoint(model, checkpoint)
    assert report.complete and not report.unexpected, str(report)
    return model.eval()


def _sample(size: tuple[int, int]) -> DetDataSample:
    scale = (size[1] / ORIGINAL[1], size[0] / ORIGINAL[0])
    return DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=ORIGINAL, scale_factor=scale, img_path='golden')
    )


def _inputs(model, resized: np.ndarray, sample: DetDataSample, training: bool) -> dict:
    bgr = torch.from_numpy(np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)))
    return model.data_preprocessor(dict(inputs=[bgr], data_samples=[sample]), training)


@torch.no_grad()
def forward(model, resized: np.ndarray, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Everything up to the heads' outputs on fixed RoIs, and final detections."""
    size = resized.shape[:2]
    data = _inputs(model, resized, _sample(size), training=False)
    arrays = {'net_input': data['inputs']}
    maps = model.backbone(data['inputs'])
    feats = model.neck(maps)
    arrays |= {f'backbone/res{i}': x for i, x in enumerate(maps, 2)}
    arrays |= {f'fpn/p{i}': x for i, x in enumerate(feats, 2)}
    logits, deltas = model.rpn_head(feats)
    sizes = [tuple(x.shape[-2:]) for x in logits]
    anchors = model.rpn_head.anchor_generator.grid_anchors(sizes, 'cpu')
    for i, (logit, delta, grid) in enumerate(zip(logits, deltas, anchors, strict=True), 2):
        arrays[f'rpn/objectness_p{i}'], arrays[f'rpn/deltas_p{i}'] = logit, delta
        arrays[f'rpn/anchors_p{i}'] = torch.cat([grid[:12], grid[-12:]])
    proposals = model.rpn_head.predict(feats, [size])
    arrays['proposals/all_boxes'] = proposals.boxes[0]
    arrays['proposals/all_scores'] = proposals.scores[0]
    arrays |= _boxes(model, feats, torch.from_numpy(stored['fixed_rois']), size)
    if model.with_mask:
        rois = boxes_to_rois([torch.from_numpy(stored['mask/rois'])])
        head = model.roi_head
        arrays['mask/pooled'] = head.mask_features(head.stages[0], feats, None, rois)
        (arrays['mask/logits'],) = head.mask_forward(feats, None, rois, None)
        labels = torch.from_numpy(stored['mask/classes']).long()
        (arrays['mask/selected_logits'],) = head.mask_forward(feats, None, rois, labels)
    predicted = model.predict(data['inputs'], data['data_samples'])[0]
    if 'pred_panoptic_seg' in predicted:
        arrays |= _semantics(model, feats, data)
        arrays['panoptic/map'] = predicted.pred_panoptic_seg.sem_seg[0]
    found = predicted.pred_instances
    arrays |= {
        'final/boxes': found.bboxes,
        'final/scores': found.scores,
        'final/classes': found.labels,
    }
    if model.with_mask:
        arrays['final/masks'] = found.masks
    return {name: value.numpy() for name, value in arrays.items()}


def _semantics(model, feats, data: dict) -> dict[str, torch.Tensor]:
    """Semantic logits in the originals' order, the things first: of the network's size and of the
    image's."""
    size = tuple(data['inputs'].shape[-2:])
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    head = model.semantic_head
    (full,) = head.predict(feats, [sample], size, rescale=False)
    (output,) = head.predict(feats, data['data_samples'], size)
    logits = dict(logits_stride4=head(feats), logits_full=full[None], logits_output=output)
    return {f'semseg/{name}': value.roll(1, -3) for name, value in logits.items()}


def _boxes(model, feats, fixed: torch.Tensor, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    head, arrays = model.roi_head, {}
    rois = boxes_to_rois([fixed])
    pooled = head.box_features(head.stages[0], feats, None, rois)
    arrays['box/pooled'] = pooled
    cascade = len(head.stages) > 1
    current, previous = rois, None
    for i, stage in enumerate(head.stages):
        output = stage.box_head(pooled)
        prefix = f'box/stage{i}/' if cascade else 'box/'
        arrays[prefix + 'class_logits'], arrays[prefix + 'deltas'] = output.logits, output.deltas
        deltas = output.deltas.unflatten(1, (-1, 4))
        arrays[prefix + 'decoded'] = stage.box_head.bbox_coder.decode(
            fixed[:, None], deltas
        ).flatten(1)
        if cascade:
            if previous is not None:
                current = previous[0].refine(previous[1], current, [size])
            output = head.box_forward(stage, feats, None, current)
            previous = (stage, output)
            chain = f'box/chain/stage{i}/'
            arrays[chain + 'rois'] = current[:, 1:]
            arrays[chain + 'class_logits'] = output.logits
            arrays[chain + 'deltas'] = output.deltas
    last, mean = head._classify(feats, None, [fixed], [size])
    if cascade:
        arrays['box/chain/final_boxes'] = stage.box_head.bbox_coder.decode(last[:, 1:], mean.deltas)
        arrays['box/chain/final_scores'] = mean.logits.softmax(1)
    else:
        arrays['box/probs'] = mean.logits.softmax(1)
    assert isinstance(head.selector, DetectionSelector)
    (found,) = head._detect(feats, None, [fixed], [_sample(size)], rescale=False)
    arrays['box/fixed_dets_boxes'] = found.boxes
    arrays['box/fixed_dets_scores'] = found.scores
    arrays['box/fixed_dets_classes'] = found.labels
    return arrays


def losses(model, resized: np.ndarray) -> dict[str, float]:
    """Losses of one step in which every anchor and proposal is sampled, by detectron2's names.

    ``model`` needs samplers of :data:`EXHAUSTIVE`; its norms stay in evaluation mode.
    """
    size = resized.shape[:2]
    sample = _sample(size)
    masks = [[np.array(part, np.float32) for part in polygons] for polygons in POLYGONS]
    corners = [np.concatenate(parts).reshape(-1, 2) for parts in masks]
    boxes = np.array([[*c.min(0), *c.max(0)] for c in corners], np.float32)
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes),
        labels=torch.tensor(LABELS),
        masks=PolygonMasks(masks, *size),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    y, x = np.mgrid[: size[0], : size[1]]
    block = y // 24 * 37 + x // 24 * 11
    stuff = torch.from_numpy(np.where(block % 54 % 9 == 4, 255, block % 54))
    sample.gt_sem_seg = PixelData(sem_seg=stuff[None])
    data = _inputs(model, resized, sample, training=True)
    with torch.no_grad():
        found = model.loss(data['inputs'], data['data_samples'])
    assert Targets.from_samples(data['data_samples']).masks is not None
    result = {}
    for theirs, ours in NAMES.items():
        for name, value in found.items():
            pattern = ours.replace('.', r'\.').replace(r'\1', r'(\d)')
            if match := re.fullmatch(pattern, name):
                stage = match.groups()[0] if match.groups() else ''
                result[theirs.replace(r'(\d)', stage)] = float(value)
            elif name == 's0.loss_mask' and theirs == 'loss_mask':
                result['loss_mask'] = float(value)
    return result


def deviation(name: str, ours: np.ndarray, stored: dict[str, np.ndarray]) -> float:
    """Largest difference in units of the stored tensor's standard deviation."""
    if f'{name}/val' in stored:
        assert tuple(stored[f'{name}/shape']) == ours.shape, name
        std = float(stored[f'{name}/mean_std'][1])
        picked = ours.reshape(-1)[stored[f'{name}/pos']]
        spread = abs(ours.std() - std)
        return float(max(np.abs(picked - stored[f'{name}/val']).max(), spread) / std)
    return float(np.abs(ours - stored[name]).max() / max(stored[name].std(), 1e-12))


def match(
    ours: tuple[np.ndarray, np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, float, float]:
    """Our row for each of their detections (boxes, scores, labels), one to one, and the largest
    differences of boxes (pixels) and scores.
    """
    assert len(ours[0]) == len(theirs[0])
    cost = np.abs(theirs[0][:, None] - ours[0][None]).max(-1)
    cost = cost + 1000 * (theirs[2][:, None] != ours[2][None])
    rows = cost.argmin(1)
    assert len(set(rows)) == len(rows), 'not one to one'
    boxes = float(cost[np.arange(len(rows)), rows].max())
    return rows, boxes, float(np.abs(ours[1][rows] - theirs[1]).max())
