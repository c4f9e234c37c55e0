"""Switching test-time augmentation on: configs, the test tool, inference, the demo."""

import json
import os
import re
import runpy
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from torch import nn
from toy_detector import CLASSES, lively, toy_config
from warm_python import python

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.apis.test import test as run_test
from mmdet_r2.apis.test import test_config as make_config
from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError
from mmdet_r2.evaluation import load_results
from mmdet_r2.inference import prepare_for_inference
from mmdet_r2.models.tta import DetTTAModel

KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
LOAD = dict(type='LoadImageFromFile')
PACK = dict(type='PackDetInputs', meta_keys=KEYS)
FLIPS = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
EVERY_FLIP = [
    *FLIPS,
    dict(type='RandomFlip', prob=1.0, direction='vertical'),
    dict(type='RandomFlip', prob=1.0, direction='diagonal'),
]


def resize(*scale: int) -> dict:
    return dict(type='Resize', scale=scale, keep_ratio=True)


def views(*steps: list[dict], after: tuple = ([PACK],)) -> list[dict]:
    """A pipeline with these choices."""
    return [LOAD, dict(type='TestTimeAug', transforms=[*steps, *after])]


def picture(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1])


@pytest.fixture(scope='module')
def toy(tmp_path_factory) -> dict:
    """Four images with an object each; a config of them and a checkpoint of chance weights."""
    root = tmp_path_factory.mktemp('toy')
    images, annotations = [], []
    for i, shape in enumerate([(60, 80), (80, 60), (60, 80), (40, 90)]):
        cv2.imwrite(str(root / f'{i}.png'), picture(i, shape))
        images.append(dict(id=i, file_name=f'{i}.png', height=shape[0], width=shape[1]))
        annotations.append(
            dict(
                id=i + 1,
                image_id=i,
                category_id=1 + i % 3,
                bbox=[10, 10, 40, 20],
                area=800,
                iscrowd=0,
                segmentation=[[10, 10, 50, 10, 50, 30, 10, 30]],
            )
        )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
    (root / 'ann.json').write_text(text)
    config = toy_config()
    config.test_dataloader.dataset.update(
        data_root=f'{root}/', ann_file='ann.json', data_prefix=dict(img='')
    )
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=False))
    config.test_evaluator = dict(
        type='CocoMetric', ann_file=f'{root}/ann.json', metric=['bbox', 'segm']
    )
    config.test_cfg = dict(type='TestLoop')
    config.dump(str(root / 'toy.py'))
    torch.manual_seed(0)
    model = lively(init_detector(config, device='cpu', prepare=False))
    nn.init.normal_(model.roi_head.mask_head.conv_logits.weight, std=0.5)
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'toy.pth')
    return dict(root=root, config=str(root / 'toy.py'), checkpoint=str(root / 'toy.pth'))


@pytest.fixture(scope='module')
def model(toy) -> nn.Module:
    return init_detector(toy['config'], toy['checkpoint'], device='cpu')


# ------------------------------------------------------------------------------------- inference


def overlap(a, b) -> torch.Tensor:
    """IoU of matching masks."""
    union = (a | b).flatten(1).sum(1).clamp(min=1)
    return (a & b).flatten(1).sum(1) / union


def test_one_view_without_flip_is_the_plain_test(model) -> None:
    plain = inference_detector(model, picture(0)).pred_instances
    pipeline = views([resize(96, 64)], [dict(type='RandomFlip', prob=0.0)])
    found = inference_detector(model, picture(0), pipeline, tta=True).pred_instances
    assert len(found) == len(plain) > 5
    assert torch.equal(found.labels, plain.labels) and torch.equal(found.scores, plain.scores)
    assert torch.allclose(found.bboxes, plain.bboxes, atol=1e-4)
    solid = plain.masks.flatten(1).any(1)
    assert solid.any() and (overlap(found.masks, plain.masks)[solid] > 0.99).all()


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_a_flipped_image_gives_the_flipped_result(model, direction: str) -> None:
    flips = [
        dict(type='RandomFlip', prob=1.0, direction=direction),
        dict(type='RandomFlip', prob=0.0),
    ]
    # at its own size, so that both views of the one are, to the pixel, those of the other
    image = picture(0, (64, 96))
    code = dict(horizontal=1, vertical=0, diagonal=-1)[direction]
    pipeline = views([resize(96, 64)], flips)
    a, b = inference_detector(model, [image, cv2.flip(image, code)], pipeline, tta=True)
    a, b = a.pred_instances, b.pred_instances
    axes = dict(horizontal=[2], vertical=[1], diagonal=[1, 2])[direction]
    x1, y1, x2, y2 = b.bboxes.unbind(1)
    if 2 in axes:
        x1, x2 = 96 - x2, 96 - x1
    if 1 in axes:
        y1, y2 = 64 - y2, 64 - y1
    turned = torch.stack([x1, y1, x2, y2], 1)
    assert len(a) == len(b) > 5
    assert torch.allclose(a.scores, b.scores, atol=1e-5)
    assert torch.allclose(a.bboxes, turned, atol=1e-3)
    solid = a.masks.flatten(1).any(1)
    assert solid.sum() > 5 and (overlap(a.masks, b.masks.flip(axes))[solid] > 0.95).all()


def test_batches_give_what_single_images_give(model, toy) -> None:
    paths = [str(toy['root'] / f'{i}.png') for i in range(4)]
    singly = [inference_detector(model, path, tta=True) for path in paths]
    together = inference_detector(model, paths, batch_size=2, tta=True)
    for path, a, b in zip(paths, singly, together, strict=True):
        assert b.img_path == path and b.flip is False
        a, b = a.pred_instances, b.pred_instances
        assert torch.equal(a.labels, b.labels)
        assert torch.allclose(a.scores, b.scores, atol=1e-4)
        assert torch.allclose(a.bboxes, b.bboxes, atol=1e-2)
        assert (overlap(a.masks, b.masks)[a.masks.flatten(1).any(1)] > 0.95).all()


def test_one_view_is_in_flight_at_a_time(model) -> None:
    alive: list[weakref.ref] = []
    most, passes = 0, []

    def before(module: nn.Module, inputs: tuple) -> None:
        nonlocal most
        passes.append(tuple(inputs[0].shape[-2:]))
        most = max(most, sum(ref() is not None for ref in alive))

    def after(module: nn.Module, inputs: tuple, outputs: tuple) -> None:
        alive.extend(weakref.ref(feature) for feature in outputs)

    hooks = [
        model.backbone.register_forward_pre_hook(before),
        model.neck.register_forward_hook(after),
    ]
    inference_detector(model, picture(0), views([resize(96, 64), resize(64, 48)], FLIPS), tta=True)
    for hook in hooks:
        hook.remove()
    assert passes == [(64, 96), (64, 96), (64, 64), (64, 64)] * 2  # boxes, then masks
    assert len(alive) == 4 * 8 and most == 0, 'features of an earlier view are kept'


def test_mixed_precision_is_that_of_the_plain_test(toy) -> None:
    detector = init_detector(toy['config'], toy['checkpoint'], device='cpu', prepare=False)
    prepare_for_inference(detector, dtype=torch.bfloat16)
    pipeline = views([resize(96, 64)], [dict(type='RandomFlip', prob=0.0)])
    plain = inference_detector(detector, picture(0)).pred_instances
    found = inference_detector(detector, picture(0), pipeline, tta=True).pred_instances
    assert torch.equal(found.labels, plain.labels) and torch.equal(found.scores, plain.scores)


def test_default_views_are_three_scales_and_their_flips(model) -> None:
    shapes = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    sample = inference_detector(model, picture(0, (64, 96)), tta=True)
    hook.remove()
    assert [tuple(s[-2:]) for s in shapes[:6]] == [(64, 96)] * 2 + [(32, 64)] * 2 + [(96, 160)] * 2
    assert len(sample.pred_instances) > 60 and sample.scale_factor == (1.0, 1.0)
    plain = inference_detector(model, picture(0, (64, 96)))
    assert 'flip' not in plain.metainfo, 'the plain test is not touched'


def test_pipelines_and_tta_have_to_agree(model) -> None:
    pipeline = views([resize(96, 64)], FLIPS)
    with pytest.raises(ConfigError, match='give tta=True'):
        inference_detector(model, picture(0), pipeline)
    with pytest.raises(ConfigError, match='needs a TestTimeAug'):
        inference_detector(model, picture(0), [LOAD, resize(96, 64), PACK], tta=True)
    keys = dict(type='PackDetInputs', meta_keys=KEYS[:5])
    with pytest.raises(ConfigError, match=r'test_pipeline\.1\..*meta_keys: flip, flip_direction'):
        inference_detector(
            model, picture(0), views([resize(96, 64)], FLIPS, after=([keys],)), tta=True
        )


def test_annotations_are_not_read(model) -> None:
    annotations = [dict(type='LoadAnnotations', with_bbox=True)]
    pipeline = views([resize(96, 64)], FLIPS, after=(annotations, [PACK]))
    assert len(inference_detector(model, picture(0), pipeline, tta=True).pred_instances) > 5


# ---------------------------------------------------------------------------------------- configs


def test_default_of_coco_configs_is_the_published_one() -> None:
    config = make_config('mask_rcnn_r50_fpn_1x_coco', tta=True)
    assert config.model.type == 'DetTTAModel' and config.model.module.type == 'MaskRCNN'
    assert config.model.tta_cfg == dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    load, augment = config.test_dataloader.dataset.pipeline
    assert load.type == 'LoadImageFromFile'
    steps = augment.transforms
    assert [t.scale for t in steps[0]] == [(1333, 800), (666, 400), (2000, 1200)]
    assert all(t.keep_ratio for t in steps[0])
    assert [t.prob for t in steps[1]] == [1, 0]
    assert [step[0].type for step in steps[2:]] == ['LoadAnnotations', 'PackDetInputs']
    assert set(KEYS) <= set(steps[-1][0].meta_keys)
    load_config(config)  # every key is known


def test_own_views_come_before_the_default(toy) -> None:
    overrides = dict(
        tta_model=dict(type='mmdet.DetTTAModel', tta_cfg=dict(max_per_img=7)),
        tta_pipeline=views([resize(64, 48)], EVERY_FLIP),
    )
    config = make_config(toy['config'], tta=True, overrides=overrides)
    assert config.model.tta_cfg == dict(max_per_img=7)
    assert len(config.test_dataloader.dataset.pipeline[1].transforms[1]) == 4
    plain = make_config(toy['config'], overrides=overrides)
    assert plain.model.type == 'MaskRCNN'
    assert all(t.type != 'TestTimeAug' for t in plain.test_dataloader.dataset.pipeline)


def test_the_example_of_the_page_is_a_config(repo, tmp_path) -> None:
    page = (repo / 'docs' / 'tta.md').read_text(encoding='utf-8')
    (text,) = [b for b in re.findall(r'```python\n(.*?)```', page, re.S) if '_base_' in b]
    file = tmp_path / 'own.py'
    file.write_text(text.replace("'./", f"'{repo}/configs/mask_rcnn/"))
    config = make_config(file, tta=True)
    assert len(config.test_dataloader.dataset.pipeline[1].transforms[0]) == 2


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        (views([dict(type='Resize', scal=(64, 48))], FLIPS), r'transforms\.0\.0\.scal: Resize has'),
        (views([dict(type='Rezise')], FLIPS), r"transforms\.0\.0\.type: 'Rezise' is not reg"),
        (
            views(
                [resize(64, 48)], FLIPS, after=([dict(type='PackDetInputs', meta_keys=KEYS[:5])],)
            ),
            r'1\.transforms\.2\.0\.meta_keys: flip, flip_direction missing',
        ),
        (
            views([resize(64, 48)], [dict(type='Pad', size_divisor=32)], FLIPS),
            r'1\.transforms\.2: RandomFlip after Pad',
        ),
        (views([resize(64, 48)]), r'no RandomFlip; add'),
        ([LOAD, dict(type='TestTimeAug', transforms=[*FLIPS, PACK])], 'expected a list of lists'),
        (views([resize(64, 48)], []), 'expected a list of lists'),
    ],
    ids=['key', 'type', 'meta keys', 'pad before flip', 'no flip', 'flat', 'empty step'],
)
def test_views_that_cannot_be_merged_are_errors_of_the_config(toy, pipeline, message) -> None:
    with pytest.raises(ConfigError, match=rf'tta_pipeline\..*{message}'):
        load_config(toy['config'], dict(tta_pipeline=pipeline))


def test_misspelt_keys_of_the_merging(toy) -> None:
    for change, message in (
        (dict(tta_cgf=dict()), r'tta_model\.tta_cgf: .*did you mean tta_cfg'),
        (dict(tta_cfg=dict(max_per_image=3)), r'tta_model\.tta_cfg\.max_per_image'),
        (dict(tta_cfg=dict(nms=dict(type='nms', iou=0.5))), r'tta_model\.tta_cfg\.nms\.iou'),
        (dict(module=dict(type='MaskRCNN')), r'tta_model\.module'),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(toy['config'], dict(tta_model=dict(type='DetTTAModel', **change)))
    with pytest.raises(ConfigError, match='tta_pipeline has no TestTimeAug'):
        make_config(toy['config'], tta=True, overrides=dict(tta_pipeline=[LOAD, PACK]))


def test_views_without_a_model_that_merges_them(toy) -> None:
    pipeline = views([resize(64, 48)], FLIPS)
    with pytest.raises(ConfigError, match='has TestTimeAug but the model is not DetTTAModel'):
        make_config(toy['config'], overrides={'test_dataloader.dataset.pipeline': pipeline})


# -------------------------------------------------------------------------------------- the tools


def test_the_run_gives_what_inference_gives(toy, model, tmp_path) -> None:
    values = run_test(
        toy['config'], toy['checkpoint'], tta=True, out=tmp_path / 'a.pkl', work_dir=tmp_path,
        show_dir=tmp_path / 'drawn',
    )  # fmt: skip
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= values.keys()
    assert json.loads((tmp_path / 'metrics.json').read_text())['tta'] is True
    assert len(list((tmp_path / 'drawn').iterdir())) == 4
    results = load_results(tmp_path / 'a.pkl')
    assert [result['img_id'] for result in results] == [0, 1, 2, 3]
    for result in results:
        sample = inference_detector(model, result['img_path'], tta=True).pred_instances
        found = result['pred_instances']
        assert torch.equal(found['labels'], sample.labels)
        assert torch.allclose(found['scores'], sample.scores, atol=1e-5)
        assert torch.allclose(found['bboxes'], sample.bboxes, atol=1e-3)
        decoded = torch.from_numpy(coco_mask.decode(found['masks'])).permute(2, 0, 1).bool()
        assert (decoded == sample.masks).float().mean() > 0.999


def test_batches_of_different_images(toy, tmp_path) -> None:
    run_test(
        toy['config'], toy['checkpoint'], tta=True, out=tmp_path / 'a.pkl', work_dir=tmp_path,
        overrides={'test_dataloader.batch_size': 3},
    )  # fmt: skip
    results = load_results(tmp_path / 'a.pkl')
    assert [result['img_id'] for result in results] == [0, 1, 2, 3]
    for result in results:
        found, (height, width) = result['pred_instances'], result['ori_shape']
        assert all(mask['size'] == [height, width] for mask in found['masks'])
        assert (found['bboxes'] <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_boxes_only_and_without_preparation(toy, tmp_path) -> None:
    overrides = {
        'model.type': 'FasterRCNN',
        'model.roi_head.mask_head': None,
        'model.roi_head.mask_roi_extractor': None,
    }
    config = load_config(toy['config'], overrides)
    detector = lively(init_detector(config, device='cpu', prepare=False))
    torch.save(dict(state_dict=detector.state_dict()), tmp_path / 'boxes.pth')
    config.tta_pipeline = views([resize(96, 64), resize(64, 48)], EVERY_FLIP)
    out = [tmp_path / f'{prepare}.pkl' for prepare in (True, False)]
    for path, prepare in zip(out, (True, False)):
        run_test(
            config, tmp_path / 'boxes.pth', tta=True, metrics=['bbox'], out=path,
            work_dir=tmp_path, prepare=prepare,
        )  # fmt: skip
    for a, b in zip(*map(load_results, out), strict=True):
        a, b = a['pred_instances'], b['pred_instances']
        assert 'masks' not in a and len(a['scores']) > 20
        assert torch.allclose(a['scores'], b['scores'], atol=1e-3)
    with pytest.raises(ConfigError, match='needs masks'):
        make_config(config, tta=True, metrics=['segm'])


def run_tool(repo: Path, script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = ['bash'] if script.endswith('.sh') else [python()]
    env = dict(os.environ, PYTHONPATH=str(repo), OMP_NUM_THREADS='1', PYTHON=python(), PORT='29643')
    return subprocess.run(
        [*command, str(repo / 'tools' / script), *map(str, arguments)],
        env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_two_processes_of_the_tool_agree_with_one(toy, repo, tmp_path) -> None:
    for name, script, number in (('one', 'test.py', ()), ('two', 'dist_test.sh', (2,))):
        done = run_tool(
            repo, script, toy['config'], toy['checkpoint'], *number, '--tta', '--eval', 'bbox',
            'segm', '--out', tmp_path / f'{name}.pkl', '--work-dir', tmp_path / name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads((tmp_path / n / 'metrics.json').read_text()) for n in ('one', 'two')]
    assert reports[0] == reports[1] and reports[0]['tta'] is True
    one, two = (load_results(tmp_path / f'{n}.pkl') for n in ('one', 'two'))
    assert [r['img_id'] for r in one] == [r['img_id'] for r in two] == [0, 1, 2, 3]
    assert all(len(r['pred_instances']['scores']) > 20 for r in one)


def test_the_tools_errors_are_one_line(toy, repo, tmp_path) -> None:
    option = 'tta_model.tta_cfg.max_per_image=3'
    done = run_tool(
        repo, 'test.py', toy['config'], toy['checkpoint'], '--tta', '--work-dir', tmp_path,
        '--cfg-options', 'tta_model.type=DetTTAModel', option,
    )  # fmt: skip
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'tta_model.tta_cfg.max_per_image' in done.stderr.strip().splitlines()[-1]


def test_the_demo_draws_merged_detections(toy, repo, tmp_path, monkeypatch, capsys) -> None:
    arguments = ['image_demo.py', str(toy['root'] / '*.png'), toy['config'], toy['checkpoint']]
    arguments += ['--out-dir', str(tmp_path), '--device', 'cpu', '--tta', '--score-thr', '0']
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(str(repo / 'demo' / 'image_demo.py'), run_name='__main__')
    assert '4 images drawn' in capsys.readouterr().out
    records = json.loads((tmp_path / 'predictions.json').read_text())
    found = Counter(record['file_name'] for record in records if 'segmentation' in record)
    assert len(found) == 4 and min(found.values()) > 20  # plain detection stops at 20


def test_a_config_that_names_the_merging_itself(toy) -> None:
    config = load_config(toy['config'])
    config.model = dict(type='DetTTAModel', module=config.model)
    config.test_dataloader.dataset.pipeline = views([resize(64, 48)], FLIPS)
    for tta in (False, True):
        made = make_config(config, tta=tta)
        assert made.model.module.type == 'MaskRCNN'
    assert isinstance(config, Config) and DetTTAModel.__name__ == made.model.type
