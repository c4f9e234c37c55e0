"""init_detector and inference_detector: what goes in, what comes out, and batches that change
nothing."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy_detector import CLASSES, lively, toy_config

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.errors import CheckpointError, ConfigError, DataError

SIZES = [(60, 80), (64, 80), (80, 60), (61, 81), (40, 40), (60, 80), (62, 80)]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    path = tmp_path_factory.mktemp('zoo') / 'toy.pth'
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(1, 2, 3)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def model(checkpoint) -> nn.Module:
    return init_detector(toy_config(), checkpoint, device='cpu')


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(SIZES):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        paths.append(folder / f'{i}.png')
        cv2.imwrite(str(paths[-1]), cv2.resize(small, (width, height)))
    return paths


def same(a, b, pixels: float = 1e-2) -> None:
    """The same detections in the same order, but for rounding."""
    assert len(a) == len(b) > 0
    assert torch.equal(a.labels, b.labels)
    assert torch.allclose(a.scores, b.scores, atol=1e-4)
    assert torch.allclose(a.bboxes, b.bboxes, atol=pixels)
    inter = (a.masks & b.masks).flatten(1).sum(1)
    union = (a.masks | b.masks).flatten(1).sum(1)
    assert (inter >= 0.999 * union - 1).all()


def test_one_image_gives_one_sample_and_a_list_gives_a_list(model, images) -> None:
    one = inference_detector(model, images[0])
    assert one.ori_shape == SIZES[0] and one.img_path == str(images[0])
    found = one.pred_instances
    assert found.masks.dtype == torch.bool and found.masks.shape[1:] == SIZES[0]
    assert found.bboxes.shape == (len(found), 4) and found.labels.dtype == torch.int64
    assert (found.scores.diff() <= 0).all()
    assert (found.bboxes >= 0).all() and (found.bboxes[:, 2] <= SIZES[0][1]).all()
    found.bboxes += 1  # results are ordinary tensors
    several = inference_detector(model, [images[0]])
    assert isinstance(several, list) and len(several) == 1
    assert inference_detector(model, []) == []


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('batch_size', [2, 3, 16])
def test_batches_give_what_single_images_give(model, images, batch_size, workers) -> None:
    singly = [inference_detector(model, path) for path in images]
    forwards = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: forwards.append(len(args[0])))
    batched = inference_detector(model, images, batch_size=batch_size, num_workers=workers)
    hook.remove()
    for path, a, b in zip(images, singly, batched, strict=True):
        assert b.img_path == str(path)
        same(a.pred_instances, b.pred_instances)
    assert sum(forwards) == len(images)
    assert max(forwards) == min(batch_size, 5)  # five of them have inputs of one size


def test_arrays_and_files_give_the_same(model, images) -> None:
    array = cv2.imread(str(images[1]))
    before = array.copy()
    a, b = inference_detector(model, [str(images[1]), array], batch_size=2)
    same(a.pred_instances, b.pred_instances, 0)
    assert (array == before).all(), "the caller's image was changed"
    grey = cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    assert inference_detector(model, grey).ori_shape == grey.shape


def test_preparation_changes_results_by_rounding_only(model, checkpoint, images) -> None:
    plain = init_detector(toy_config(), checkpoint, device='cpu', prepare=False)
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for a, b in zip(inference_detector(plain, images), inference_detector(model, images)):
        same(a.pred_instances, b.pred_instances)


def test_own_pipeline(model, images) -> None:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(160, 128), keep_ratio=True),
        dict(type='PackDetInputs'),
    ]
    a = inference_detector(model, images[0], test_pipeline=pipeline)
    assert a.img_shape == (120, 160) and a.ori_shape == SIZES[0]
    with pytest.raises(ConfigError, match='must begin with LoadImageFromFile; found Resize'):
        inference_detector(model, images[0], test_pipeline=pipeline[1:])


def test_class_names_come_from_the_checkpoint(model, checkpoint, tmp_path) -> None:
    assert model.dataset_meta['classes'] == CLASSES
    assert model.dataset_meta['palette'] == [(1, 2, 3)] * 3
    assert model.cfg.default_scope == 'mmdet_r2'
    content = torch.load(checkpoint, weights_only=True)
    content['meta'] = dict(CLASSES=CLASSES[::-1])  # as mmdetection 2.x stores them
    torch.save(content, tmp_path / 'v2.pth')
    old = init_detector(toy_config(), tmp_path / 'v2.pth', device='cpu')
    assert old.dataset_meta['classes'] == CLASSES[::-1] and len(old.dataset_meta['palette']) == 3
    del content['meta']
    torch.save(content, tmp_path / 'bare.pth')
    bare = init_detector(toy_config(), tmp_path / 'bare.pth', device='cpu', palette='coco')
    assert bare.dataset_meta['classes'] == CLASSES and bare.dataset_meta['palette'] == 'coco'


def test_what_cannot_be_used_is_one_line(model, checkpoint, images, tmp_path) -> None:
    with pytest.raises(DataError, match=r'none\.png'):
        inference_detector(model, [images[0], tmp_path / 'none.png'], batch_size=2)
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(DataError, match=r'text\.png'):
        inference_detector(model, str(tmp_path / 'text.png'))
    with pytest.raises(DataError, match=r'imgs\[1\]: array of shape \(4, 4, 4\)'):
        inference_detector(model, [images[0], np.zeros((4, 4, 4), np.uint8)])
    with pytest.raises(DataError, match='type float64'):
        inference_detector(model, np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match='is a int'):
        inference_detector(model, [3])
    with pytest.raises(CheckpointError, match='does not fill the model'):
        init_detector(
            toy_config(),
            checkpoint,
            device='cpu',
            cfg_options={
                'model.roi_head.bbox_head.num_classes': 5,
                'model.roi_head.mask_head.num_classes': 5,
            },
        )
    with pytest.raises(CheckpointError, match='looks like resnet18, mask_rcnn, 3 classes'):
        init_detector(toy_config(depth=50), checkpoint, device='cpu')
    with pytest.raises(ConfigError, match='device'):
        init_detector(toy_config(), device='gpu')
    with pytest.raises(ConfigError, match='nearest known'):
        init_detector('mask_rcnn_r50_fpn_1x', device='cpu')
