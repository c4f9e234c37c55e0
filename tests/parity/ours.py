"""What this project computes on the problems of ``cases.py``, under the names that are stored.

    python tests/parity/ours.py [--stored tests/data/parity]

prints the largest deviation of every quantity: the table of docs/verification.md.
"""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parity import cases

from mmdet_r2.config import load_config
from mmdet_r2.registry import MODELS, TASK_UTILS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks, mask_targets, paste_masks

STORED = Path(__file__).resolve().parent.parent / 'data' / 'parity'


def numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def build(config: str, overrides: dict | None = None, exhaustive: bool = False):
    """A model of a config (path, name or Config), without the weights its backbone asks for."""
    model = load_config(config, {'model.backbone.init_cfg': None, **(overrides or {})}).model
    train = model.train_cfg
    stages = train.rcnn if isinstance(train.rcnn, list) else [train.rcnn]
    if exhaustive:
        for part in filter(None, (train.get('rpn'), *stages)):
            part.sampler.update(num=cases.EXHAUSTIVE, pos_fraction=0.5)
    few = cases.few_boxes(len(stages), bool(model.roi_head.get('shared_head')))
    if few:
        train.rpn_proposal.max_per_img = few[0]
        model.test_cfg.rpn.max_per_img = few[0]
        model.test_cfg.rcnn.max_per_img = few[1]
    model.data_preprocessor.std = cases.STD  # MSRA's inputs would saturate the scores
    init_scope()
    return MODELS.build(model)


def inputs(crowded: bool = False, with_rpn: bool = True) -> dict:
    pictures, samples = [], []
    for index, item in enumerate(cases.batch(crowded)):
        height, width = item['img'].shape[:2]
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path=f'{index}.jpg',
                ori_shape=item['ori_shape'],
                img_shape=(height, width),
                scale_factor=item['scale_factor'],
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(item['boxes']),
            labels=torch.from_numpy(item['labels']),
            masks=BitmapMasks(item['masks'], height, width),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.from_numpy(item['ignored']))
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(item['sem_seg'])[None])
        if not with_rpn:
            own = cases.cascade_rois()
            sample.proposals = InstanceData(bboxes=torch.from_numpy(own[own[:, 0] == index, 1:]))
        pictures.append(torch.from_numpy(np.ascontiguousarray(item['img'].transpose(2, 0, 1))))
        samples.append(sample)
    return dict(inputs=pictures, data_samples=samples)


def state_shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def detector(config: str, overrides: dict | None = None) -> dict[str, np.ndarray]:
    """Everything from the network's input to the final detections, and a training step; ``keys``:
    shapes by name.
    """
    arrays = {}
    model = build(config, overrides, exhaustive=True)
    arrays['keys'] = cases.pack_text(state_shapes(model))
    cases.fill_model(model)
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs(), False)
        samples = data['data_samples']
        arrays['input'] = numpy(data['inputs'])
        features = model.extract_feat(data['inputs'])
        scores, deltas = model.rpn_head(features)
        for level, feature in enumerate(features):
            arrays[f'fpn/{level}'] = numpy(feature)
            arrays[f'rpn/scores/{level}'] = numpy(scores[level])
            arrays[f'rpn/deltas/{level}'] = numpy(deltas[level])
        sizes = [tuple(map_.shape[-2:]) for map_ in scores]
        for level, grid in enumerate(model.rpn_head.anchor_generator.grid_anchors(sizes, 'cpu')):
            arrays[f'anchors/{level}'] = numpy(grid)
        proposals = model.rpn_head.predict(features, [s.img_shape for s in samples])
        for index, (boxes, score) in enumerate(zip(proposals.boxes, proposals.scores, strict=True)):
            arrays[f'proposals/{index}/boxes'] = numpy(boxes)
            arrays[f'proposals/{index}/scores'] = numpy(score)
        rois = torch.from_numpy(cases.rois())
        head = model.roi_head
        context = head.context(features)
        output = head.box_forward(head.stages[0], features, context, rois)
        arrays['box/logits'] = numpy(output.logits)
        arrays['box/deltas'] = numpy(output.deltas)
        if model.with_mask:
            arrays['mask/logits'] = numpy(head.mask_forward(features, context, rois, None)[0])
        arrays |= detections(model, data)
    return arrays | training(model)


def fast(config: str) -> dict[str, np.ndarray]:
    """What Fast R-CNN finds from given proposals, and a training step on them."""
    model = build(config, exhaustive=True)
    keys = cases.pack_text(state_shapes(model))
    cases.fill_model(model)
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs(with_rpn=False), False)
        found = detections(model, data)
    return dict(keys=keys) | found | training(model)


def detections(model, data: dict) -> dict[str, np.ndarray]:
    """Final detections of both images."""
    arrays = {}
    found = model.predict(data['inputs'], copy.deepcopy(data['data_samples']), rescale=True)
    for index, sample in enumerate(found):
        arrays[f'final/{index}/boxes'] = numpy(sample.pred_instances.bboxes)
        arrays[f'final/{index}/scores'] = numpy(sample.pred_instances.scores)
        arrays[f'final/{index}/labels'] = numpy(sample.pred_instances.labels)
        if model.with_mask:
            arrays[f'final/{index}/masks'] = cases.pack_masks(numpy(sample.pred_instances.masks))
    return arrays


def cascade(config: str) -> dict[str, np.ndarray]:
    """Each stage on fixed RoIs, their averages, the semantic branch, the final detections, and a
    training step.

    HTC's detections twice: with the masks of the last head (``final``), as mmdetection 3.x has
    them, and with those of all heads (``averaged``), as published.
    """
    arrays = {}
    model = build(config, exhaustive=True)
    arrays['keys'] = cases.pack_text(state_shapes(model))
    cases.fill_model(model)
    model.eval()
    head = model.roi_head
    with torch.no_grad():
        data = model.data_preprocessor(inputs(), False)
        shapes = [sample.img_shape for sample in data['data_samples']]
        features = model.extract_feat(data['inputs'])
        context = head.context(features)
        if context is not None:
            logits, embedding = head.semantic_head(features)
            arrays['semantic/logits'] = numpy(logits)
            arrays['semantic/embedding'] = numpy(context)
            assert torch.equal(embedding, context)
        given = torch.from_numpy(cases.cascade_rois())
        rois = given
        for index, stage in enumerate(head.stages):
            output = head.box_forward(stage, features, context, rois)
            rois = stage.refine(output, rois, shapes)
            arrays[f'box/{index}/logits'] = numpy(output.logits)
            arrays[f'box/{index}/deltas'] = numpy(output.deltas)
            arrays[f'box/{index}/refined'] = numpy(rois[:, 1:])
        proposals = list(given[:, 1:].split(len(given) // 2))
        raw = head(features, proposals, shapes)
        arrays['box/scores'] = numpy(raw[0].softmax(1))
        if model.with_mask:
            masks = head.mask_forward(features, context, given, None)
            for index, logits in enumerate(masks):
                arrays[f'mask/{index}/logits'] = numpy(logits)
            arrays['mask/average'] = numpy(sum(each.sigmoid() for each in masks) / len(masks))
        arrays |= detections(model, data)
        if hasattr(head, 'mask_average'):
            assert head.mask_average == 'all', 'the default is what was published'
            for index in range(2):
                arrays[f'averaged/{index}/masks'] = arrays[f'final/{index}/masks']
            head.mask_average = 'last'
            arrays |= detections(model, data)
    return arrays | training(model, crowded=True)


def training(model, crowded: bool = False) -> dict[str, np.ndarray]:
    """Losses of a model that samples everything, and some gradients of their sum."""
    arrays = {}
    model.train()
    data = model.data_preprocessor(inputs(crowded, model.with_rpn), True)
    losses = model.loss(data['inputs'], data['data_samples'])
    for name, value in losses.items():
        arrays[f'loss/{name}'] = numpy(value).reshape(())
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and any(part in name for part in cases.GRADIENTS):
            arrays[f'gradient/{name}'] = numpy(parameter.grad)
    return arrays


def parts() -> dict[str, np.ndarray]:
    """Assigner, coder, anchors, losses, RoI extractor, mask targets and paste, one by one."""
    arrays = {}
    for name, case in cases.assigner_cases().items():
        assigner = TASK_UTILS.build(dict(type='MaxIoUAssigner', **case['cfg']))
        match = assigner.assign(
            torch.from_numpy(case['priors']),
            torch.from_numpy(case['gt']),
            torch.from_numpy(case['ignored']),
        )
        # mmdetection: 0 background, -1 nothing, k + 1 the k-th object
        arrays[f'assigner/{name}/gt'] = numpy(match.gt_index) + 1
        arrays[f'assigner/{name}/iou'] = numpy(match.iou)
    for name, case in cases.coder_cases().items():
        coder = TASK_UTILS.build(dict(type='DeltaXYWHBBoxCoder', **case['cfg']))
        boxes, deltas = torch.from_numpy(case['boxes']), torch.from_numpy(case['deltas'])
        arrays[f'coder/{name}/encoded'] = numpy(coder.encode(boxes, torch.from_numpy(case['gt'])))
        limits = None
        if case['max_shape'] is not None:
            height, width = case['max_shape']
            limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        count = deltas.shape[1] // 4
        decoded = coder.decode(
            boxes.repeat_interleave(count, 0), deltas.reshape(-1, 4), limits
        ).reshape(deltas.shape)
        arrays[f'coder/{name}/decoded'] = numpy(decoded)
    for name, case in cases.anchor_cases().items():
        generator = TASK_UTILS.build(dict(type='AnchorGenerator', **case['cfg']))
        sizes = case['sizes'][: generator.num_levels]
        for level, grid in enumerate(generator.grid_anchors(sizes, 'cpu')):
            arrays[f'anchors/{name}/{level}'] = numpy(grid)
    for name, case in cases.loss_cases().items():
        loss = MODELS.build(dict(case['cfg']))
        pred = torch.from_numpy(case['pred']).requires_grad_()
        target = torch.from_numpy(case['target'])
        weight = None if case['weight'] is None else torch.from_numpy(case['weight'])
        if 'labels' in case:
            rows = torch.arange(len(pred))
            value = loss(pred[rows, torch.from_numpy(case['labels']).long()], target)
        elif case['cfg']['type'] in ('IoULoss', 'GIoULoss', 'CIoULoss'):  # one weight per box
            value = loss(pred, target, weight.mean(1), case['avg_factor'])
        else:
            value = loss(pred, target, weight, case['avg_factor'])
        value.backward()
        arrays[f'losses/{name}/value'] = numpy(value)
        arrays[f'losses/{name}/gradient'] = numpy(pred.grad)

    extractor = MODELS.build(
        dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=8,
            featmap_strides=[4, 8, 16, 32],
        )
    )
    rois = torch.from_numpy(cases.rois())
    arrays['extractor/levels'] = numpy(extractor.map_levels(rois))
    maps = tuple(torch.from_numpy(feature) for feature in cases.feature_maps())
    arrays['extractor/pooled'] = numpy(extractor(maps, rois))

    for name, case in cases.mask_target_cases().items():
        height, width = case['height'], case['width']
        if 'masks' in case:
            masks = BitmapMasks(case['masks'], height, width)
        else:
            masks = PolygonMasks(case['polygons'], height, width)
        boxes, index = torch.from_numpy(case['boxes']), torch.from_numpy(case['index'])
        cut = mask_targets([masks], [boxes], [index], case['size'])
        arrays[f'mask targets/{name}'] = cases.pack_masks(numpy(cut))
    paste = cases.paste_case()
    pasted = paste_masks(
        torch.from_numpy(paste['probabilities']),
        torch.from_numpy(paste['boxes']),
        paste['shape'],
    )
    arrays['paste/masks'] = cases.pack_masks(numpy(pasted))
    return arrays


def backbone(name: str) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Outputs of one of ``cases.BACKBONES``, and its shapes by name."""
    init_scope()
    model = MODELS.build(dict(cases.BACKBONES[name]))
    keys = state_shapes(model)
    cases.fill_model(model)
    model.eval()
    with torch.no_grad():
        outputs = model(torch.from_numpy(cases.backbone_input()))
    return {f'{name}/{level}': numpy(out) for level, out in enumerate(outputs)}, keys


# -------------------------------------------------------------------------------------- comparison


def match_detections(arrays: dict, stored: dict, index: int, with_masks: bool) -> dict[str, float]:
    """Largest deviations of one image's detections, matched one to one.

    Every stored detection takes the nearest of ours with its label; by rank alone, two detections
    with equal scores would be compared crosswise.

    Raises:
        AssertionError: another number of detections, or two stored ones match the same one of ours.
    """
    key = f'final/{index}'
    boxes, expected = arrays[f'{key}/boxes'], stored[f'{key}/boxes']
    assert len(boxes) == len(expected), f'{len(boxes)} detections instead of {len(expected)}'
    distance = np.abs(boxes[None] - expected[:, None]).max(-1)
    same = arrays[f'{key}/labels'][None] == stored[f'{key}/labels'][:, None]
    distance = np.where(same, distance, np.inf)
    match = distance.argmin(1)
    assert len(set(match)) == len(match), 'detections do not match one to one'
    result = dict(
        boxes=float(distance.min(1).max()),
        scores=float(np.abs(arrays[f'{key}/scores'][match] - stored[f'{key}/scores']).max()),
    )
    if with_masks:
        shape = cases.batch()[index]['ori_shape']
        ours = cases.unpack_masks(arrays[f'{key}/masks'], shape)[match]
        theirs = cases.unpack_masks(stored[f'{key}/masks'], shape)
        common = (ours & theirs).sum((1, 2))
        union = (ours | theirs).sum((1, 2))
        # One pixel of probability 0.5 may fall on either side: in a small mask that alone is 0.001.
        judged = union - common > 1
        result['1 - mask IoU'] = float((1 - common / np.maximum(union, 1))[judged].max(initial=0))
    return result


def match_proposals(arrays: dict, stored: dict, index: int) -> dict[str, float]:
    """The same for proposals: pixels and score."""
    key = f'proposals/{index}'
    boxes, expected = arrays[f'{key}/boxes'], stored[f'{key}/boxes']
    assert len(boxes) == len(expected), f'{len(boxes)} proposals instead of {len(expected)}'
    distance = np.abs(boxes[None] - expected[:, None]).max(-1)
    match = distance.argmin(1)
    # Proposals of two levels may coincide once clipped to the image: then any pairing is right.
    assert len(set(match)) > 0.98 * len(match), 'proposals do not match one to one'
    gap = np.abs(arrays[f'{key}/scores'] - stored[f'{key}/scores']).max()
    return dict(boxes=float(distance.min(1).max()), scores=float(gap))


def load(name: str, folder: Path = STORED) -> dict[str, np.ndarray]:
    with np.load(folder / f'{name}.npz') as file:
        return {key: file[key] for key in file.files}


def match_masks(masks: np.ndarray, arrays: dict, stored: dict, index: int, name: str) -> float:
    """:func:`match_detections` of detections whose packed masks are ``masks``, with those stored as
    ``name``: 1 - IoU."""
    arrays = {**arrays, f'final/{index}/masks': masks}
    stored = {**stored, f'final/{index}/masks': stored[f'{name}/{index}/masks']}
    return match_detections(arrays, stored, index, with_masks=True)['1 - mask IoU']


def report(folder: Path) -> None:
    """Largest deviations, one line per quantity."""
    computed = (
        *((name, detector, given) for name, (_, *given) in cases.MODELS.items()),
        *((name, cascade, given) for name, (_, *given) in cases.CASCADES.items()),
        *((name, fast, given) for name, (_, *given) in cases.FAST.items()),
    )
    for name, compute, given in computed:
        stored, arrays = load(name, folder), compute(*given)
        worst: dict[str, float] = {}

        def note(key: str, value: float, worst: dict[str, float] = worst) -> None:
            worst[key] = max(worst.get(key, 0), value)

        for key, value in arrays.items():
            group, *rest = key.split('/')
            if group not in ('final', 'averaged', 'proposals', 'keys'):
                group = f'box {rest[-1]}' if group == 'box' else group
                note(group, cases.deviation(key, value, stored, average=group == 'gradient'))
        for index in range(2):
            if f'proposals/{index}/boxes' in stored:
                for what, value in match_proposals(arrays, stored, index).items():
                    note(f'proposals {what}', value)
            with_masks = f'final/{index}/masks' in stored
            for what, value in match_detections(arrays, stored, index, with_masks).items():
                note(f'final {what}', value)
            if f'averaged/{index}/masks' in stored:
                masks = arrays[f'averaged/{index}/masks']
                note('averaged masks', match_masks(masks, arrays, stored, index, 'averaged'))
        print(f'\n{name}')
        for key, value in worst.items():
            print(f'  {key:24s} {value:.1e}')
    stored = load('parts', folder)
    worst = {}
    for key, value in parts().items():
        group = '/'.join(key.split('/')[:2]) if key.startswith('losses') else key.split('/')[0]
        worst[group] = max(worst.get(group, 0), cases.deviation(key, value, stored))
    print('\nparts', *(f'  {key:24s} {value:.1e}' for key, value in worst.items()), sep='\n')
    stored = load('backbones', folder)
    print('\nbackbones')
    for name in cases.BACKBONES:
        outputs, _ = backbone(name)
        value = max(cases.deviation(key, out, stored) for key, out in outputs.items())
        print(f'  {name:24s} {value:.1e}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Deviations from the stored reference numbers.')
    parser.add_argument('--stored', type=Path, default=STORED)
    report(parser.parse_args().stored)
