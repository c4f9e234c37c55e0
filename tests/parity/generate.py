"""Records what mmdetection 3.x computes, for the tests to compare with.

    PYTHON tests/parity/generate.py [--out tests/data/parity] [NAME ...]

PYTHON is that of an environment with mmdetection 3.x and mmcv's compiled operators; this project
is not imported. NAMEs are keys of ``cases.MODELS``, ``CASCADES``, ``FAST`` and of ``others`` in
``main``; all by default.

    PYTHON tests/parity/generate.py --save-state FILE CONFIG
    PYTHON tests/parity/generate.py --load-state FILE CONFIG

writes the freshly initialised state dict of a model of mmdetection's, or loads FILE into it with
strict=True.
"""

import argparse
import copy
import sys
from pathlib import Path

import cases
import mmdet
import numpy as np
import torch
import yaml
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

register_all_modules()
CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'


def numpy(value) -> np.ndarray:
    return value.detach().cpu().numpy()


def build(config: str, exhaustive: bool = False):
    cfg = Config.fromfile(CONFIGS / config)
    cfg.model.backbone.init_cfg = None
    train = cfg.model.train_cfg
    stages = train.rcnn if isinstance(train.rcnn, list) else [train.rcnn]
    if exhaustive:
        for part in filter(None, (train.get('rpn'), *stages)):
            part.sampler.update(num=cases.EXHAUSTIVE, pos_fraction=0.5)
    few = cases.few_boxes(len(stages), bool(cfg.model.roi_head.get('shared_head')))
    if few:
        train.rpn_proposal.max_per_img = few[0]
        cfg.model.test_cfg.rpn.max_per_img = few[0]
        cfg.model.test_cfg.rcnn.max_per_img = few[1]
    cfg.model.data_preprocessor.std = cases.STD  # MSRA's inputs would saturate the scores
    return MODELS.build(cfg.model)


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


def record_model(config: str) -> dict[str, np.ndarray]:
    model = build(config)
    keys = {name: list(value.shape) for name, value in model.state_dict().items()}
    cases.fill_model(model)
    model.eval()
    arrays = {}
    with torch.no_grad():
        data = model.data_preprocessor(inputs(), False)
        arrays['input'] = numpy(data['inputs'])
        features = model.extract_feat(data['inputs'])
        scores, deltas = model.rpn_head(features)
        for level, feature in enumerate(features):
            arrays[f'fpn/{level}'] = numpy(feature)
            arrays[f'rpn/scores/{level}'] = numpy(scores[level])
            arrays[f'rpn/deltas/{level}'] = numpy(deltas[level])
        anchors = model.rpn_head.prior_generator.grid_priors(
            [s.shape[-2:] for s in scores], device='cpu'
        )
        for level, grid in enumerate(anchors):
            arrays[f'anchors/{level}'] = numpy(grid)
        proposals = model.rpn_head.predict(
            features, copy.deepcopy(data['data_samples']), rescale=False
        )
        for index, found in enumerate(proposals):
            arrays[f'proposals/{index}/boxes'] = numpy(found.bboxes)
            arrays[f'proposals/{index}/scores'] = numpy(found.scores)
        rois = torch.from_numpy(cases.rois())
        boxes = model.roi_head._bbox_forward(features, rois)
        arrays['box/logits'] = numpy(boxes['cls_score'])
        arrays['box/deltas'] = numpy(boxes['bbox_pred'])
        if model.with_mask:
            arrays['mask/logits'] = numpy(
                model.roi_head._mask_forward(features, rois)['mask_preds']
            )
        arrays |= record_detections(model, data)
    arrays |= record_training(config)
    return finish(arrays, keys, whole=('proposals/', 'final/', 'box/'))


def finish(arrays: dict, keys: dict, whole: tuple[str, ...]) -> dict[str, np.ndarray]:
    stored = cases.compact(arrays, whole)
    stored['keys'] = cases.pack_text(keys)
    stored['versions'] = cases.pack_text(
        {module.__name__: module.__version__ for module in (mmdet, torch, sys.modules['mmcv'])}
    )
    return stored


def record_detections(model, data: dict) -> dict[str, np.ndarray]:
    arrays = {}
    found = model.predict(data['inputs'], copy.deepcopy(data['data_samples']), rescale=True)
    for index, sample in enumerate(found):
        instances = sample.pred_instances
        for name in ('boxes', 'scores', 'labels'):
            arrays[f'final/{index}/{name}'] = numpy(instances.get(name.replace('boxes', 'bboxes')))
        if model.with_mask:
            arrays[f'final/{index}/masks'] = cases.pack_masks(numpy(instances.masks))
    return arrays


def record_training(config: str, crowded: bool = False) -> dict[str, np.ndarray]:
    arrays = {}
    model = build(config, exhaustive=True)
    cases.fill_model(model)
    model.train()
    data = model.data_preprocessor(inputs(crowded, model.with_rpn), True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total = 0
    for name, value in losses.items():
        value = sum(value) if isinstance(value, list) else value
        arrays[f'loss/{name}'] = numpy(value).reshape(())
        if 'loss' in name:
            total = total + value
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and any(part in name for part in cases.GRADIENTS):
            arrays[f'gradient/{name}'] = numpy(parameter.grad)
    return arrays


def record_fast(config: str) -> dict[str, np.ndarray]:
    """What is found from given proposals, and a training step on them."""
    model = build(config)
    keys = {name: list(value.shape) for name, value in model.state_dict().items()}
    cases.fill_model(model)
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs(with_rpn=False), False)
        arrays = record_detections(model, data)
    return finish(arrays | record_training(config), keys, whole=('final/',))


def record_cascade(config: str) -> dict[str, np.ndarray]:
    """What a detector has beyond backbone, neck and RPN, which are those of ``cases.MODELS``."""
    model = build(config)
    keys = {name: list(value.shape) for name, value in model.state_dict().items()}
    cases.fill_model(model)
    model.eval()
    head = model.roi_head
    arrays = {}
    with torch.no_grad():
        data = model.data_preprocessor(inputs(), False)
        metas = [sample.metainfo for sample in data['data_samples']]
        features = model.extract_feat(data['inputs'])
        semantic = {}
        if getattr(head, 'with_semantic', False):
            logits, embedding = head.semantic_head(features)
            arrays['semantic/logits'] = numpy(logits)
            arrays['semantic/embedding'] = numpy(embedding)
            semantic = dict(semantic_feat=embedding)

        given = torch.from_numpy(cases.cascade_rois())
        rois, counts, logits = given, [len(given) // 2] * 2, []
        for stage, box_head in enumerate(head.bbox_head):
            out = head._bbox_forward(stage, features, rois, **semantic)
            logits.append(out['cls_score'])
            arrays[f'box/{stage}/logits'] = numpy(out['cls_score'])
            arrays[f'box/{stage}/deltas'] = numpy(out['bbox_pred'])
            labels = out['cls_score'][:, :-1].argmax(1)
            refined = [
                box_head.regress_by_class(part[:, 1:], label, deltas, meta)
                for part, label, deltas, meta in zip(
                    *(each.split(counts) for each in (rois, labels, out['bbox_pred'])),
                    metas,
                    strict=True,
                )
            ]
            arrays[f'box/{stage}/refined'] = numpy(torch.cat(refined))
            rois = torch.cat([rois[:, :1], torch.cat(refined)], 1)
        average = sum(logits) / len(logits)
        arrays['box/scores'] = numpy(average.softmax(1))
        _, theirs, _ = head._refine_roi(features, given, metas, counts, **semantic)
        assert torch.allclose(torch.cat(theirs), average, atol=1e-5)

        if model.with_mask:
            probabilities = []
            for stage in range(head.num_stages):
                out = head._mask_forward(stage, features, given, **semantic)['mask_preds']
                arrays[f'mask/{stage}/logits'] = numpy(out)
                probabilities.append(out.sigmoid())
            arrays['mask/average'] = numpy(sum(probabilities) / len(probabilities))
        arrays |= record_detections(model, data)
        if hasattr(head, 'mask_info_flow'):
            arrays |= record_averaged_masks(model, features, data['data_samples'], semantic)
    arrays |= record_training(config, crowded=True)
    stored = finish(arrays, keys, whole=('final/', 'averaged/', 'box/'))
    stored['counts'] = cases.pack_text(record_counts(config))
    return stored


def record_averaged_masks(model, features, samples, semantic: dict) -> dict[str, np.ndarray]:
    """Masks of HTC's detections from the mean of its three heads, as published.

    mmdetection 3.x pastes the last head's alone: here its own modules are called one by one.
    """
    head, arrays = model.roi_head, {}
    metas = [sample.metainfo for sample in samples]
    proposals = model.rpn_head.predict(features, copy.deepcopy(samples), rescale=False)
    found = head.predict_bbox(features, metas, proposals, head.test_cfg, **semantic)
    counts = [len(each) for each in found]
    rois = torch.cat([each.bboxes.new_full((len(each), 1), i) for i, each in enumerate(found)])
    rois = torch.cat([rois, torch.cat([each.bboxes for each in found])], 1)
    masks = sum(
        head._mask_forward(stage, features, rois, **semantic)['mask_preds'].sigmoid()
        for stage in range(head.num_stages)
    )
    masks = (masks / head.num_stages).split(counts)
    done = head.mask_head[-1].predict_by_feat(
        masks, found, metas, head.test_cfg, rescale=True, activate_map=True
    )
    for index, each in enumerate(done):
        arrays[f'averaged/{index}/masks'] = cases.pack_masks(numpy(each.masks))
    return arrays


def record_counts(config: str) -> dict[str, list[int]]:
    """How much the training step has to tell apart, stage by stage.

    ``box`` and ``mask``: positives and all RoIs that the branch sees; ``shared``: RoIs whose object
    low-quality matching changes.
    """
    model = build(config, exhaustive=True)
    cases.fill_model(model)
    model.train()
    head, counts = model.roi_head, dict(box=[], mask=[], shared=[])

    def watch(name: str) -> None:
        original = getattr(head, name)

        def watched(*args, **kwargs):
            results = kwargs.get('sampling_results', args[2] if len(args) > 2 else None)
            positives = sum(len(each.pos_priors) for each in results)
            total = sum(len(each.priors) for each in results)
            counts[name.removesuffix('_loss').replace('bbox', 'box')].append([positives, total])
            return original(*args, **kwargs)

        setattr(head, name, watched)

    watch('bbox_loss')
    if model.with_mask:
        watch('mask_loss')
    for assigner in head.bbox_assigner:
        original = assigner.assign

        def watched(*args, original=original, assigner=assigner):
            usual, assigner.match_low_quality = assigner.match_low_quality, False
            strict = original(*args)
            assigner.match_low_quality = True
            loose = original(*args)
            assigner.match_low_quality = usual
            counts['shared'].append(int((strict.gt_inds != loose.gt_inds).sum()))
            return original(*args)

        assigner.assign = watched
    data = model.data_preprocessor(inputs(crowded=True), True)
    model.loss(data['inputs'], data['data_samples'])
    return counts


def record_parts() -> dict[str, np.ndarray]:
    arrays = {}
    for name, case in cases.assigner_cases().items():
        assigner = TASK_UTILS.build(dict(type='MaxIoUAssigner', **case['cfg']))
        result = assigner.assign(
            InstanceData(priors=torch.from_numpy(case['priors'])),
            InstanceData(
                bboxes=torch.from_numpy(case['gt']), labels=torch.from_numpy(case['labels']).long()
            ),
            InstanceData(bboxes=torch.from_numpy(case['ignored'])),
        )
        arrays[f'assigner/{name}/gt'] = numpy(result.gt_inds)
        arrays[f'assigner/{name}/iou'] = numpy(result.max_overlaps)
        arrays[f'assigner/{name}/labels'] = numpy(result.labels)
    for name, case in cases.coder_cases().items():
        coder = TASK_UTILS.build(dict(type='DeltaXYWHBBoxCoder', **case['cfg']))
        boxes = torch.from_numpy(case['boxes'])
        arrays[f'coder/{name}/encoded'] = numpy(coder.encode(boxes, torch.from_numpy(case['gt'])))
        arrays[f'coder/{name}/decoded'] = numpy(
            coder.decode(boxes, torch.from_numpy(case['deltas']), max_shape=case['max_shape'])
        )
    for name, case in cases.anchor_cases().items():
        generator = TASK_UTILS.build(dict(type='AnchorGenerator', **case['cfg']))
        for level, grid in enumerate(
            generator.grid_priors(case['sizes'][: len(generator.strides)], device='cpu')
        ):
            arrays[f'anchors/{name}/{level}'] = numpy(grid)
    for name, case in cases.loss_cases().items():
        loss = MODELS.build(dict(case['cfg']))
        pred = torch.from_numpy(case['pred']).requires_grad_()
        target = torch.from_numpy(case['target'])
        if case['cfg'].get('use_mask'):
            value = loss(pred, target, torch.from_numpy(case['labels']).long())
        else:
            weight = None if case['weight'] is None else torch.from_numpy(case['weight'])
            value = loss(pred, target, weight, avg_factor=case['avg_factor'])
        value.sum().backward()
        arrays[f'losses/{name}/value'] = numpy(value.sum())
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
    arrays['extractor/levels'] = numpy(extractor.map_roi_levels(rois, 4))
    maps = tuple(torch.from_numpy(feature) for feature in cases.feature_maps())
    arrays['extractor/pooled'] = numpy(extractor(maps, rois))

    for name, case in cases.mask_target_cases().items():
        height, width = case['height'], case['width']
        if 'masks' in case:
            masks = BitmapMasks(case['masks'], height, width)
        else:
            masks = PolygonMasks(case['polygons'], height, width)
        cut = masks.crop_and_resize(case['boxes'], case['size'], case['index'], device='cpu')
        arrays[f'mask targets/{name}'] = cases.pack_masks(cut.to_ndarray())
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    paste = cases.paste_case()
    pasted, _ = _do_paste_mask(
        torch.from_numpy(paste['probabilities'])[:, None],
        torch.from_numpy(paste['boxes']),
        *paste['shape'],
        skip_empty=False,
    )
    arrays['paste/masks'] = cases.pack_masks(numpy(pasted >= 0.5))
    arrays['paste/probabilities'] = numpy(pasted)
    return cases.compact(
        arrays, whole=('assigner', 'coder', 'losses', 'mask targets', 'paste/masks')
    )


def record_backbones() -> dict[str, np.ndarray]:
    arrays, keys = {}, {}
    picture = torch.from_numpy(cases.backbone_input())
    for name, cfg in cases.BACKBONES.items():
        model = MODELS.build(dict(cfg))
        keys[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
        cases.fill_model(model)
        model.eval()
        with torch.no_grad():
            for level, feature in enumerate(model(picture)):
                arrays[f'{name}/{level}'] = numpy(feature)
    return {**cases.compact(arrays), 'keys': cases.pack_text(keys)}


def record_configs() -> dict[str, np.ndarray]:
    """mmdetection's resolved configs of the models that our metafiles name (key ``Alias``)."""
    aliases = {name: [alias] for name, alias in cases.UNPUBLISHED.items()}
    for metafile in sorted(Path(__file__).resolve().parents[2].glob('configs/*/metafile.yml')):
        if metafile.parent.name == 'pascal_voc':
            continue  # written otherwise here; tests/test_data_voc.py builds mmdetection's
        for model in yaml.safe_load(metafile.read_text())['Models']:
            aliases.setdefault(model['Name'], [model['Name'], *model.get('Alias', [])])
    configs = {}
    for name, known in aliases.items():
        files = [file for alias in known for file in CONFIGS.glob(f'*/{alias}.py')]
        if files:
            configs[name] = cases.flatten(Config.fromfile(files[0]).to_dict())
    return dict(configs=cases.pack_text(configs))


def record_initialisation() -> dict[str, np.ndarray]:
    """Statistics of every parameter before training, backbones from scratch."""
    stored = {}
    for name, (config, *_) in {**cases.MODELS, **cases.CASCADES}.items():
        torch.manual_seed(0)
        model = build(config)
        model.init_weights()
        stored[name] = cases.statistics(model)
    return dict(statistics=cases.pack_text(stored))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        'names', nargs='*', help='what to record, or the config for --save/--load-state'
    )
    here = Path(__file__).resolve().parent.parent
    parser.add_argument('--out', type=Path, default=here / 'data' / 'parity')
    parser.add_argument('--save-state', type=Path)
    parser.add_argument('--load-state', type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.save_state:
        torch.save(build(args.names[0]).state_dict(), args.save_state)
        return
    if args.load_state:
        build(args.names[0]).load_state_dict(
            torch.load(args.load_state, weights_only=True), strict=True
        )
        print('strict load: ok')
        return
    others = dict(
        parts=record_parts,
        backbones=record_backbones,
        configs=record_configs,
        initialisation=record_initialisation,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or [*cases.MODELS, *cases.CASCADES, *cases.FAST, *others]:
        if name in others:
            stored = others[name]()
        elif name in cases.CASCADES:
            stored = record_cascade(cases.CASCADES[name][0])
        elif name in cases.FAST:
            stored = record_fast(cases.FAST[name][0])
        else:
            stored = record_model(cases.MODELS[name][0])
        np.savez_compressed(args.out / f'{name}.npz', **stored)
        print(f'{name}.npz: {(args.out / f"{name}.npz").stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main()
