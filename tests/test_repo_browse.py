"""browse_dataset: what is drawn lies where the picture shows it, for every kind of pipeline."""

import json
import os
import subprocess

import cv2
import numpy as np
import pytest
from warm_python import python

from mmdet_r2.errors import ConfigError
from mmdet_r2.visualization.browse import _CAPTION, browse, write_drawing

W, H = 96, 64
BOX = (20, 16, 30, 24)  # x, y, w, h of a white rectangle on black
GREEN = (0, 255, 0)

LOAD = [dict(type='LoadImageFromFile')]
ANNOTATE = [dict(type='LoadAnnotations', with_mask=True)]
FLIP = [dict(type='RandomFlip', prob=1.0)]
DOUBLE = [dict(type='Resize', scale=(2 * W, 2 * H), keep_ratio=True)]
PACK = [dict(type='PackDetInputs')]
POLYGONS = [dict(type='LoadAnnotations', with_mask=True, poly2mask=False)]


@pytest.fixture
def root(tmp_path):
    x, y, w, h = BOX
    image = np.zeros((H, W, 3), np.uint8)
    image[y : y + h, x : x + w] = 255
    (tmp_path / 'images').mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), image)
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=W, height=H) for i in range(4)],
        categories=[dict(id=1, name='box')],
        annotations=[
            dict(id=i + 1, image_id=i, category_id=1, bbox=list(BOX), area=w * h, iscrowd=0,
                 segmentation=[polygon])
            for i in range(4)
        ],
    )  # fmt: skip
    content['annotations'].append(
        dict(content['annotations'][0], id=99, iscrowd=1, bbox=[70, 40, 10, 10], segmentation=[])
    )
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    return tmp_path


def config_of(root, pipeline, split='train', **more):
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='ann.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('box',), palette=[GREEN]),
        pipeline=pipeline,
        test_mode=split != 'train',
    )
    return {f'{split}_dataloader': dict(dataset=more.get('wrap', lambda d: d)(dataset))}


def drawn(picture):
    """x1, y1, x2, y2 of the pure green lines of a picture, and of what is tinted inside."""
    green = (picture == GREEN).all(axis=2).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(green)
    return x, y, x + w, y + h


def white(picture):
    """The rectangle of the image, tinted by the mask and under the lines or not."""
    bright = (picture.max(axis=2) > 100).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(bright)
    return x, y, x + w, y + h


PIPELINES = {
    'plain': (LOAD + ANNOTATE + PACK, 1),
    'flipped': (LOAD + ANNOTATE + FLIP + PACK, 1),
    'resized, flipped': (LOAD + ANNOTATE + DOUBLE + FLIP + PACK, 2),
    'polygons': (LOAD + POLYGONS + DOUBLE + FLIP + PACK, 2),
    'annotations of the original': (LOAD + DOUBLE + ANNOTATE + PACK, 2),
    'pixels': (LOAD + POLYGONS + [dict(type='PixelBoxes')] + PACK, 1),
    'pixels, flipped': (LOAD + POLYGONS + FLIP + [dict(type='PixelBoxes')] + PACK, 1),
}


@pytest.mark.parametrize('name', PIPELINES)
def test_boxes_and_masks_lie_on_the_object(root, name):
    pipeline, scale = PIPELINES[name]
    config = config_of(root, pipeline, 'val' if 'original' in name else 'train')
    split = next(iter(config)).removesuffix('_dataloader')
    samples = list(browse(config, split))
    assert len(samples) == 4
    for path, drawing in samples[1:]:
        assert os.path.dirname(path) == str(root / 'images')
        original, augmented = drawing[_CAPTION:, :W], drawing[_CAPTION:, W:]
        x, y, w, h = BOX
        assert np.abs(np.subtract(drawn(original), (x, y, x + w, y + h))).max() <= 2
        x1 = (W - x - w if 'flipped' in name or name == 'polygons' else x) * scale
        want = (x1, y * scale, x1 + w * scale, (y + h) * scale)
        assert augmented.shape == (H * scale, W * scale, 3)
        assert np.abs(np.subtract(drawn(augmented), want)).max() <= 2
        # tinted by the mask: no pixel inside is white, none beside the lines is anything but black
        x1, y1, x2, y2 = want
        inside = augmented[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4]
        assert not (inside == 255).all(axis=2).any()
        outside = augmented.copy()
        outside[max(y1 - 20, 0) : y2 + 3, x1 - 3 : x2 + 30] = 0
        assert not outside.any()


def test_ignored_objects_are_grey(root):
    (_, first), *_ = browse(config_of(root, LOAD + ANNOTATE + PACK))
    for picture in (first[_CAPTION:, :W], first[_CAPTION:, W:]):
        assert (picture[40:50, 70] == (150, 150, 150)).all()


def test_the_same_seed_gives_the_same_drawings(root):
    flips = [dict(type='RandomFlip', prob=0.5)]
    config = config_of(root, LOAD + ANNOTATE + flips + PACK)
    every = {path: drawing for path, drawing in browse(config, seed=3)}
    some = dict(browse(config, number=2, seed=3))
    assert len(some) == 2
    for path, drawing in some.items():
        assert (every[path] == drawing).all()
    looks = {d.tobytes() for seed in range(6) for _, d in browse(config, number=1, seed=seed)}
    assert len(looks) > 1
    alone = [d for _, d in browse(config, number=1, with_original=False)]
    assert alone[0].shape[1] == W


def test_wrapped_data_sets_and_unreadable_images(root):
    (root / 'images' / '0.png').write_bytes(b'broken')
    wrap = dict(wrap=lambda d: dict(type='RepeatDataset', times=2, dataset=d))
    samples = list(browse(config_of(root, LOAD + ANNOTATE + PACK, **wrap)))
    assert len(samples) == 8
    assert str(root / 'images' / '0.png') not in [path for path, _ in samples]
    taken = set()
    paths = [write_drawing(root / 'out', path, drawing, taken) for path, drawing in samples]
    assert len(set(paths)) == 8 and all(path.is_file() for path in paths)


def test_semantic_maps_have_a_picture_of_their_own(tmp_path):
    from mmdet_r2.datasets.demo import CLASSES, generate

    generate(tmp_path, num_train=2, num_val=0, size=64)
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train', seg='stuffthingmaps/train'),
        metainfo=dict(classes=CLASSES),
        pipeline=LOAD + [dict(type='LoadAnnotations', with_mask=True, with_seg=True)] + PACK,
    )
    for _, drawing in browse(dict(train_dataloader=dict(dataset=dataset))):
        assert drawing.shape == (64 + _CAPTION, 3 * 64, 3)


def test_missing_loader(root):
    with pytest.raises(ConfigError, match='no val_dataloader'):
        list(browse(config_of(root, LOAD + PACK), 'val'))


def test_command_line(repo, root):
    """A legacy config, without a display."""
    legacy = repo / 'configs/maskrcnn_benchmark/mask_rcnn_r50_fpn_maskrcnnbench_2x_coco.py'
    dataset = dict(data_root=str(root), ann_file='ann.json', data_prefix=dict(img='images'))
    dataset['metainfo'] = dict(classes=('box',))
    config = root / 'boxes.py'
    config.write_text(
        f'_base_ = [{str(legacy)!r}]\n'
        f'one = dict(num_classes=1)\n'
        f'model = dict(roi_head=dict(bbox_head=one, mask_head=one))\n'
        f'train_dataloader = dict(dataset={dataset})\n'
    )
    script = repo / 'tools/misc/browse_dataset.py'
    command = [python(), script, config, '--output-dir', root / 'out', '--number', '2']
    env = {k: v for k, v in os.environ.items() if k not in ('DISPLAY', 'WAYLAND_DISPLAY')}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert '2 samples of train' in done.stdout
    assert len(list((root / 'out').glob('*.png'))) == 2
