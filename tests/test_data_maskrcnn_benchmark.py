"""Data as maskrcnn-benchmark and mmdetection 1.x prepare them, whose boxes count pixels.

The rules are written out once more below, literally and in the originals' order; pipelines of the
configs must give the same samples.
"""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from warm_python import python

from mmdet_r2.datasets import CocoDataset
from mmdet_r2.datasets.coco_splits import (
    FINISHED_FILES,
    PARTS,
    compare_years,
    read_ids,
    write_minival,
)
from mmdet_r2.datasets.transforms import PixelBoxes, Resize, ResizeShortestEdge
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS, SCOPE
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks

BASES = Path(__file__).resolve().parent.parent / 'configs' / '_base_' / 'datasets'
f32 = np.float32


# ------------------------------------------------------------------------- the rules, literally


def benchmark_size(width, height, size=800, max_size=1333):
    """(width, height) after maskrcnn-benchmark's resize."""
    smaller, larger = float(min(width, height)), float(max(width, height))
    if larger / smaller * size > max_size:
        size = round(max_size * smaller / larger)
    if (width <= height and width == size) or (height <= width and height == size):
        return width, height
    if width < height:
        return size, int(size * height / width)
    return int(size * width / height), size


def benchmark_sample(file, annotations, flip, size=800, max_size=1333):
    """Image (3, H, W) RGB, boxes, polygons and annotation ids of maskrcnn-benchmark's loader."""
    image = Image.open(file).convert('RGB')
    width, height = image.size
    boxes, polygons, ids = [], [], []
    for annotation in annotations:
        if annotation['iscrowd']:
            continue
        x, y, w, h = (f32(number) for number in annotation['bbox'])
        x2, y2 = x + max(w - f32(1), f32(0)), y + max(h - f32(1), f32(0))
        x, x2 = (np.clip(number, f32(0), f32(width - 1)) for number in (x, x2))
        y, y2 = (np.clip(number, f32(0), f32(height - 1)) for number in (y, y2))
        if x2 > x and y2 > y:
            boxes.append([x, y, x2, y2])
            polygons.append([np.array(p, f32) for p in annotation['segmentation'] if len(p) >= 6])
            ids.append(annotation['id'])
    new = benchmark_size(width, height, size, max_size)
    image = image.resize(new, Image.Resampling.BILINEAR)
    ratios = [float(new[0]) / float(width), float(new[1]) / float(height)]
    boxes = np.array(boxes, f32).reshape(-1, 4) * np.array(ratios * 2, f32)
    polygons = [[p * f32(np.resize(ratios, len(p))) for p in group] for group in polygons]
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x1, x2 = new[0] - boxes[:, 2] - 1, new[0] - boxes[:, 0] - 1
        boxes = np.stack([x1, boxes[:, 1], x2, boxes[:, 3]], axis=1)
        for group in polygons:
            for polygon in group:
                polygon[0::2] = new[0] - polygon[0::2] - 1
    return np.asarray(image).transpose(2, 0, 1), boxes, polygons, ids


def mmdet1_sample(file, annotations, flip, scale=(1333, 800)):
    """Image (3, H, W) BGR, boxes, bitmaps and annotation ids of mmdetection 1.x's loader."""
    image = cv2.imread(str(file))
    height, width = image.shape[:2]
    boxes, masks, ids = [], [], []
    for annotation in annotations:
        x, y, w, h = annotation['bbox']
        if annotation['iscrowd'] or annotation['area'] <= 0 or w < 1 or h < 1:
            continue
        boxes.append([x, y, x + w - 1, y + h - 1])
        bitmap = PolygonMasks([annotation['segmentation']], height, width).to_ndarray()[0]
        masks.append(bitmap)
        ids.append(annotation['id'])
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    new = int(width * factor + 0.5), int(height * factor + 0.5)
    image = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
    masks = [cv2.resize(mask, new, interpolation=cv2.INTER_NEAREST) for mask in masks]
    boxes = np.array(boxes, f32).reshape(-1, 4) * f32(factor)
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, new[0] - 1)
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, new[1] - 1)
    if flip:
        image = image[:, ::-1]
        masks = [mask[:, ::-1] for mask in masks]
        boxes[:, 0::2] = new[0] - boxes[:, 2::-2] - 1
    return image.transpose(2, 0, 1), boxes, masks, ids, factor


# -------------------------------------------------------------------------------- the pipelines


def pipeline_of(base, flip, size=(800, 1333)):
    """Of a config, with every image or none flipped; ``size``: shorter and longer side."""
    pipeline = Config.fromfile(BASES / base).train_pipeline
    for transform in pipeline:
        if transform['type'] == 'RandomFlip':
            transform['prob'] = 1.0 if flip else 0.0
        elif transform['type'] == 'Resize':
            transform['scale'] = size[::-1]
        elif transform['type'] == 'ResizeShortestEdge':
            transform.update(scale=size[0], max_size=size[1])
    return pipeline


def coco_dataset(root, split, pipeline, **options):
    with DefaultScope.overwrite_default_scope(SCOPE):
        return CocoDataset(
            data_root=str(root),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=split),
            pipeline=pipeline,
            **{'filter_cfg': dict(filter_empty_gt=True, filter_crowd_only=True), **options},
        )


def annotations_of(root, split):
    content = json.loads((root / 'annotations' / f'instances_{split}.json').read_text())
    by_image = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        by_image[annotation['image_id']].append(annotation)
    return content, by_image


def random_data(root, num_images=40, seed=3):
    """A COCO folder of small images with boxes inside, at and beyond the borders, and crowds."""
    draw = np.random.default_rng(seed)
    images, annotations = [], []
    (root / 'annotations').mkdir(parents=True)
    (root / 'train').mkdir()
    for number in range(1, num_images + 1):
        width, height = (int(side) for side in draw.integers(20, 140, 2))
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        name = f'{number}.png'
        Image.fromarray(pixels).save(root / 'train' / name)
        images.append(dict(id=number, file_name=name, width=width, height=height))
        for _ in range(int(draw.integers(1, 8))):
            x, y = draw.uniform(-6, width - 2), draw.uniform(-6, height - 2)
            kind = draw.integers(0, 6)
            w, h = draw.uniform(1.2, width), draw.uniform(1.2, height)
            if kind == 0:  # ends at the border
                x, y = max(x, 0), max(y, 0)
                w, h = width - x, height - y
            elif kind == 1:  # a pixel, or a hair more
                w = 1 + 0.01 * draw.integers(0, 2)
                x = draw.uniform(0, width - 2)
            elif kind == 2:  # the whole image
                x, y, w, h = 0, 0, width, height
            if kind != 2:
                x, y, w, h = (round(float(v), 2) for v in (x, y, w, h))
            if min(x + w, width) - max(x, 0) < 1.5 and kind != 1:
                continue
            if min(y + h, height) - max(y, 0) < 1.5:
                continue
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            crowd = int(draw.random() < 0.1)
            mask = [corners, [x, y, x + w / 2, y, x, y + h / 2]]
            if crowd:
                mask = dict(size=[height, width], counts=[width * height])
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=crowd,
                    segmentation=mask,
                )
            )
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    (root / 'annotations' / 'instances_train.json').write_text(json.dumps(content))
    return root


def check_benchmark(dataset, root, split, flip, size=(800, 1333)):
    content, by_image = annotations_of(root, split)
    files = {image['id']: root / split / image['file_name'] for image in content['images']}
    checked = 0
    for index in range(len(dataset)):
        number = dataset.get_data_info(index)['img_id']
        image, boxes, polygons, ids = benchmark_sample(files[number], by_image[number], flip, *size)
        packed = dataset.prepare_data(index)
        if not ids:
            assert packed is None
            continue
        instances = packed['data_samples'].gt_instances
        assert np.array_equal(packed['inputs'].numpy()[::-1], image)
        assert len(instances) == len(ids)
        np.testing.assert_allclose(instances.bboxes, boxes, rtol=0, atol=1e-3)
        names = {c['id']: c['name'] for c in content['categories']}
        labels = [names[a['category_id']] for a in by_image[number] if a['id'] in ids]
        classes = dataset.metainfo['classes']
        assert [classes[label] for label in instances.labels] == labels
        assert isinstance(instances.masks, PolygonMasks)
        assert (instances.masks.height, instances.masks.width) == image.shape[1:]
        for ours, theirs in zip(instances.masks, polygons, strict=True):
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)
        checked += 1
    return checked


class TestBenchmark:
    base = 'coco2014_instance_maskrcnnbench.py'

    @pytest.mark.parametrize('flip', [False, True])
    def test_samples_of_real_images(self, flip, shared_data):
        root = shared_data / 'coco_tiny'
        dataset = coco_dataset(root, 'train2017', pipeline_of(self.base, flip))
        assert check_benchmark(dataset, root, 'train2017', flip) == len(dataset) > 20

    @pytest.mark.parametrize('size', [(800, 1333), (15, 31)], ids=['enlarged', 'shrunk'])
    @pytest.mark.parametrize('flip', [False, True])
    def test_samples_of_boxes_at_the_borders(self, flip, size, tmp_path):
        root = random_data(tmp_path)
        pipeline = pipeline_of(self.base, flip, size)
        dataset = coco_dataset(root, 'train', pipeline, metainfo=dict(classes=('thing',)))
        assert check_benchmark(dataset, root, 'train', flip, size) > 30

    def test_both_years_have_one_pipeline(self):
        first, second = (
            Config.fromfile(BASES / name) for name in (self.base, 'coco_instance_maskrcnnbench.py')
        )
        assert first.train_pipeline == second.train_pipeline
        assert first.test_pipeline == second.test_pipeline

    def test_test_images_keep_modern_boxes(self, tmp_path):
        root = random_data(tmp_path, num_images=3)
        pipeline = Config.fromfile(BASES / self.base).test_pipeline
        dataset = coco_dataset(
            root, 'train', pipeline, metainfo=dict(classes=('thing',)), test_mode=True
        )
        sample = dataset[0]['data_samples']
        image = dataset.get_data_info(0)
        size = benchmark_size(image['width'], image['height'])
        assert sample.img_shape == size[::-1]
        assert sample.scale_factor == (size[0] / image['width'], size[1] / image['height'])

    def test_size_of_every_shape(self):
        resize = ResizeShortestEdge(800, 1333, rule='maskrcnn_benchmark')
        differs = 0
        for width in range(300, 641, 3):
            for height in (*range(100, 641, 7), 1000, 2000):
                size = benchmark_size(width, height)
                assert resize.target_size((height, width)) == size
                assert max(size) <= 1333 + max(width / height, height / width)
                differs += ResizeShortestEdge(800, 1333).target_size((height, width)) != size
        assert differs > 1000
        # without a limit, and an image that has the size already
        free = ResizeShortestEdge(600, rule='maskrcnn_benchmark')
        assert free.target_size((100, 999)) == (5994, 600)
        assert resize.target_size((800, 1333)) == (1333, 800)
        assert resize.target_size((1333, 800)) == (800, 1333)

    def test_the_goldens_image_gets_the_originals_size(self):
        resize = ResizeShortestEdge(312, 1333, rule='maskrcnn_benchmark')
        assert resize.target_size((240, 333)) == (432, 312)

    def test_images_without_a_usable_box_are_left_out(self, tmp_path):
        """None, only crowds, only boxes of one pixel: another image takes the place."""
        root = tmp_path
        (root / 'annotations').mkdir()
        (root / 'train').mkdir()
        images, annotations = [], []
        boxes = {1: [5, 5, 10, 10], 2: [5, 5, 1, 10], 3: None, 4: [5, 5, 10, 10], 5: [3, 3, 9, 1]}
        for number, box in boxes.items():
            Image.new('RGB', (30, 20)).save(root / 'train' / f'{number}.png')
            images.append(dict(id=number, file_name=f'{number}.png', width=30, height=20))
            if box:
                x, y, w, h = box
                annotations.append(
                    dict(
                        id=number,
                        image_id=number,
                        category_id=1,
                        bbox=box,
                        area=w * h,
                        iscrowd=int(number == 4),
                        segmentation=[[x, y, x + w, y, x + w, y + h]],
                    )
                )
        content = dict(
            images=images, annotations=annotations, categories=[dict(id=1, name='thing')]
        )
        (root / 'annotations' / 'instances_train.json').write_text(json.dumps(content))
        dataset = coco_dataset(
            root, 'train', pipeline_of(self.base, False), metainfo=dict(classes=('thing',))
        )
        drawn = {dataset[i]['data_samples'].img_id for i in range(len(dataset)) for _ in range(5)}
        assert drawn == {1}


class TestMMDetection1:
    base = 'coco_instance_mmdet1.py'

    @pytest.mark.parametrize('flip', [False, True])
    @pytest.mark.parametrize('kind', ['real', 'enlarged', 'shrunk'])
    def test_samples(self, kind, flip, tmp_path, request):
        size = (15, 31) if kind == 'shrunk' else (800, 1333)
        if kind == 'real':
            root, split = request.getfixturevalue('shared_data') / 'coco_tiny', 'val2017'
            options = {}
        else:
            root, split = random_data(tmp_path, num_images=25, seed=8), 'train'
            options = dict(metainfo=dict(classes=('thing',)))
        filters = dict(Config.fromfile(BASES / self.base).train_dataloader.dataset.filter_cfg)
        assert filters == dict(filter_empty_gt=True, min_size=32)
        pipeline = pipeline_of(self.base, flip, size)
        dataset = coco_dataset(root, split, pipeline, filter_cfg=filters, **options)
        content, by_image = annotations_of(root, split)
        files = {image['id']: root / split / image['file_name'] for image in content['images']}
        assert len(dataset) > 15
        for index in range(len(dataset)):
            number = dataset.get_data_info(index)['img_id']
            annotations = [a for a in by_image[number] if isinstance(a['segmentation'], list)]
            image, boxes, masks, ids, factor = mmdet1_sample(files[number], annotations, flip, size)
            packed = dataset.prepare_data(index)
            sample = packed['data_samples']
            assert np.array_equal(packed['inputs'].numpy(), image)
            assert len(sample.gt_instances) == len(ids)
            np.testing.assert_allclose(sample.gt_instances.bboxes, boxes, rtol=0, atol=1e-3)
            assert isinstance(sample.gt_instances.masks, BitmapMasks)
            for ours, theirs in zip(sample.gt_instances.masks, masks, strict=True):
                assert np.array_equal(ours, theirs)
            assert sample.scale_factor == (factor, factor)


class TestPixelBoxes:
    def sample(self, **more):
        boxes = np.array([[2, 3, 12, 13], [0, 0, 40, 20]], f32)
        return dict(gt_bboxes=boxes, img_shape=(20, 40), **more)

    def test_a_worked_case(self):
        """Ten pixels from column 2 on end at 11; twice as large at 22; mirrored in 80 at 57, 75."""
        plain = PixelBoxes()(self.sample())
        assert plain['gt_bboxes'].tolist() == [[2, 3, 11, 12], [0, 0, 39, 19]]
        double = dict(
            gt_bboxes=np.array([[4, 6, 24, 26]], f32), img_shape=(40, 80), scale_factor=(2.0, 2.0)
        )
        assert PixelBoxes()(dict(double))['gt_bboxes'].tolist() == [[4, 6, 22, 24]]
        double['gt_bboxes'] = np.array([[80 - 24, 6, 80 - 4, 26]], f32)
        double.update(flip=True, flip_direction='horizontal')
        found = PixelBoxes()(double)['gt_bboxes'].tolist()
        assert found == [[80 - 22 - 1, 6, 80 - 4 - 1, 24]]

    def test_bitmaps_are_mirrored_exactly_already(self):
        masks = BitmapMasks(np.eye(20, 40, dtype=np.uint8)[None].repeat(2, 0), 20, 40)
        results = PixelBoxes()(self.sample(gt_masks=masks, flip=True, flip_direction='horizontal'))
        assert np.array_equal(results['gt_masks'].masks, masks.masks)

    def test_crowds_go_with_their_flags(self):
        results = PixelBoxes()(
            dict(
                gt_bboxes=np.array([[1, 1, 2, 9], [1, 1, 9, 9], [3, 3, 8, 8]], f32),
                gt_bboxes_labels=np.array([4, 5, 6]),
                gt_ignore_flags=np.array([False, True, False]),
                gt_masks=PolygonMasks([[np.arange(6.0)]] * 3, 20, 40),
                img_shape=(20, 40),
            )
        )
        assert results['gt_bboxes_labels'].tolist() == [5, 6]
        assert results['gt_ignore_flags'].tolist() == [True, False]
        assert len(results['gt_masks']) == 2
        # a crowd is nothing to learn from
        only = dict(
            gt_bboxes=np.array([[1, 1, 2, 9], [1, 1, 9, 9]], f32),
            gt_ignore_flags=np.array([False, True]),
            img_shape=(20, 40),
        )
        assert PixelBoxes()(dict(only)) is None
        assert len(PixelBoxes('mmdet1')(dict(only))['gt_bboxes']) == 2

    def test_images_without_annotations_pass(self):
        empty = dict(gt_bboxes=np.zeros((0, 4), f32), img_shape=(20, 40))
        assert PixelBoxes()(empty)['gt_bboxes'].shape == (0, 4)

    def test_wrong_use_is_named(self):
        with pytest.raises(ConfigError, match="'maskrcnn_benchmark' or 'mmdet1'"):
            PixelBoxes(rule='detectron')
        with pytest.raises(ConfigError, match='RandomFlip'):
            PixelBoxes()(self.sample(flip=True, flip_direction='vertical'))
        with pytest.raises(ConfigError, match=r'ResizeShortestEdge\.rule'):
            ResizeShortestEdge(800, rule='mmdet1')
        with pytest.raises(ConfigError, match='keep_ratio'):
            Resize(scale=(1333, 800), exact_factor=True)

    def test_names_say_what_they_are(self):
        assert repr(PixelBoxes('mmdet1')) == "PixelBoxes(rule='mmdet1')"
        text = repr(ResizeShortestEdge(800, 1333, rule='maskrcnn_benchmark'))
        assert 'maskrcnn_benchmark' in text
        assert repr(Resize((9, 9), keep_ratio=True, exact_factor=True)).startswith('Resize(')


# ------------------------------------------------------------------------- the splits of COCO 2014


def split_data(folder, num_val=12, minival=(3, 7, 11, 4)):
    """The official files of a small COCO: train2014, val2014, train2017, val2017."""
    draw = np.random.default_rng(0)
    numbers = [int(number) for number in draw.permutation(np.arange(1, 21))]
    val, train = numbers[:num_val], numbers[num_val:]
    minival = [val[i] for i in minival if i < num_val]

    def content(ids, name):
        images = [dict(id=i, file_name=name.format(i), width=30, height=20, license=2) for i in ids]
        annotations = [
            dict(
                id=100 * i + k,
                image_id=i,
                category_id=1,
                bbox=[1, 2, 9, 9],
                area=81,
                iscrowd=0,
                segmentation=[[1, 2, 10, 2, 10, 11]],
            )
            for k in range(2)
            for i in ids
            if (i + k) % 3
        ]
        categories = [dict(id=1, name='thing')]
        return dict(
            info=dict(year=2014),
            licenses=[dict(id=2)],
            images=images,
            annotations=annotations,
            categories=categories,
        )

    folder.mkdir(parents=True, exist_ok=True)
    train2017 = [i for i in numbers if i not in minival]
    for split, ids, name in (
        ('train2014', train, 'COCO_train2014_{:012d}.jpg'),
        ('val2014', val, 'COCO_val2014_{:012d}.jpg'),
        ('train2017', train2017, '{:012d}.jpg'),
        ('val2017', minival, '{:012d}.jpg'),
    ):
        (folder / f'instances_{split}.json').write_text(json.dumps(content(ids, name)))
    return val, minival


def ids_in(file):
    return [image['id'] for image in json.loads(file.read_text())['images']]


class TestMinival:
    def test_val2014_is_divided(self, tmp_path, capsys):
        val, minival = split_data(tmp_path)
        written = write_minival(tmp_path, write_ids=True)
        assert [file.path.name for file in written] == [
            'instances_minival2014.json',
            'instances_valminusminival2014.json',
        ]
        parts = [json.loads(file.path.read_text()) for file in written]
        whole = json.loads((tmp_path / 'instances_val2014.json').read_text())
        assert [len(part['images']) for part in parts] == [len(minival), len(val) - len(minival)]
        assert {image['id'] for image in parts[0]['images']} == set(minival)
        for part in parts:
            ids = {image['id'] for image in part['images']}
            for key in ('images', 'annotations'):
                field = 'id' if key == 'images' else 'image_id'
                assert part[key] == [entry for entry in whole[key] if entry[field] in ids]
            for key in ('info', 'licenses', 'categories'):
                assert part[key] == whole[key]
        assert sum(len(part['annotations']) for part in parts) == len(whole['annotations'])
        lists = [read_ids(tmp_path / f'{part}_ids.txt') for part in PARTS]
        assert lists == [[image['id'] for image in part['images']] for part in parts]
        said = capsys.readouterr().out
        assert f'{len(minival)} images, {written[0].num_annotations} annotations' in said
        assert not list(tmp_path.glob('*.tmp'))
        # from its own list of ids the same comes out
        before = written[0].path.read_bytes()
        write_minival(tmp_path, ids_file=tmp_path / 'minival2014_ids.txt', overwrite=True)
        assert written[0].path.read_bytes() == before

    @pytest.mark.parametrize('kind', ['ids', 'names', 'json', 'coco'])
    def test_lists_of_ids(self, kind, tmp_path):
        _, minival = split_data(tmp_path)
        file = tmp_path / ('list.json' if kind in ('json', 'coco') else 'list.txt')
        text = {
            'ids': '# minival\n' + '\n\n'.join(map(str, minival)) + '\n',
            'names': '\n'.join(f'val2014/COCO_val2014_{i:012d}.jpg' for i in minival),
            'json': json.dumps(minival),
            'coco': (tmp_path / 'instances_val2017.json').read_text(),
        }
        file.write_text(text[kind])
        assert read_ids(file) == minival

    def test_other_annotations_of_the_images(self, tmp_path):
        _, minival = split_data(tmp_path)
        source = (tmp_path / 'instances_val2014.json').read_text()
        (tmp_path / 'person_keypoints_val2014.json').write_text(source)
        out = tmp_path / 'out' / 'deeper'
        write_minival(tmp_path, out_dir=out, kinds=('instances', 'person_keypoints'))
        assert sorted(file.name for file in out.iterdir()) == [
            f'{kind}_{part}.json' for kind in ('instances', 'person_keypoints') for part in PARTS
        ]
        assert set(ids_in(out / 'person_keypoints_minival2014.json')) == set(minival)

    def test_both_years_are_compared(self, tmp_path, capsys):
        split_data(tmp_path)
        write_minival(tmp_path)
        capsys.readouterr()
        assert compare_years(tmp_path)
        lines = capsys.readouterr().out.splitlines()
        assert 'train2014 and valminusminival2014 against train2017: the same 16 images' in lines[0]
        assert 'minival2014 against val2017: the same 4 images' in lines[1]
        file = tmp_path / 'instances_train2017.json'
        content = json.loads(file.read_text())
        gone = content['images'].pop()['id']
        content['annotations'][0]['id'] = 999_999
        file.write_text(json.dumps(content))
        assert not compare_years(tmp_path)
        said = capsys.readouterr().out
        assert f'1 images of train2014 and valminusminival2014 only (the first is {gone})' in said
        assert '1 annotations of train2017 only (the first is 999999)' in said

    @pytest.mark.parametrize(
        'name, change, words',
        [
            ('no source', lambda d: (d / 'instances_val2014.json').unlink(), 'no such file'),
            ('no list', lambda d: (d / 'instances_val2017.json').unlink(), FINISHED_FILES),
            (
                'exists',
                lambda d: (d / 'instances_minival2014.json').write_text('{}'),
                'instances_minival2014.json exists already: pass --overwrite',
            ),
            (
                'other data',
                lambda d: (d / 'instances_val2017.json').write_text(
                    (d / 'instances_train2014.json').read_text()
                ),
                '8 of 8 ids of .*instances_val2017.json are no images of .*instances_val2014.json',
            ),
            (
                'all',
                lambda d: (d / 'instances_val2017.json').write_text(
                    (d / 'instances_val2014.json').read_text()
                ),
                'has all images of',
            ),
            (
                'not JSON',
                lambda d: (d / 'instances_val2014.json').write_text('{"images": [\n1,'),
                'instances_val2014.json:2: not valid JSON',
            ),
            (
                'results',
                lambda d: (d / 'instances_val2014.json').write_text('[{"image_id": 1}]'),
                'found list',
            ),
            (
                'image info',
                lambda d: (d / 'instances_val2014.json').write_text('{"images": []}'),
                "no list 'annotations'",
            ),
            (
                'twice',
                lambda d: (d / 'instances_val2014.json').write_text(
                    '{"images": [{"id": 7}, {"id": 7}], "annotations": []}'
                ),
                'image id 7 occurs twice',
            ),
        ],
    )
    def test_bad_files_are_named(self, name, change, words, tmp_path):
        split_data(tmp_path)
        change(tmp_path)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(DataError, match=words) as error:
            write_minival(tmp_path)
        assert '\n' not in str(error.value)
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        'text, words',
        [
            ('3\nseven\n', "ids.txt, line 2: 'seven' is no id"),
            ('3\n\n4\n3\n', 'id 3 occurs twice, at line 1 and line 4'),
            ('# none\n', 'no ids of images'),
        ],
    )
    def test_bad_lists_are_named(self, text, words, tmp_path):
        (tmp_path / 'ids.txt').write_text(text)
        with pytest.raises(DataError, match=words):
            read_ids(tmp_path / 'ids.txt')
        with pytest.raises(DataError, match='cannot read'):
            read_ids(tmp_path / 'none.txt')

    def test_command_line(self, tmp_path, repo):
        split_data(tmp_path)
        tool = [python(), str(repo / 'tools/dataset_converters/coco_minival.py')]

        def run(*arguments):
            environment = {**os.environ, 'PYTHONPATH': str(repo)}
            return subprocess.run(
                [*tool, *arguments], capture_output=True, text=True, env=environment
            )

        done = run(str(tmp_path), '--write-ids')
        assert done.returncode == 0, done.stderr
        assert (tmp_path / 'instances_valminusminival2014.json').is_file()
        again = run(str(tmp_path))
        assert again.returncode == 2
        assert again.stderr.startswith('error: ') and again.stderr.count('\n') == 1
        (tmp_path / 'instances_val2017.json').write_text(
            (tmp_path / 'instances_train2017.json').read_text()
        )
        assert run(str(tmp_path), '--compare').returncode == 1

    def test_linked_folders_train(self, tmp_path):
        """Annotations and image folders live elsewhere, each linked into data/coco."""
        real, data = tmp_path / 'disk', tmp_path / 'data' / 'coco'
        split_data(real / 'ann')
        for split in ('train2014', 'val2014'):
            folder = real / 'pictures' / split
            folder.mkdir(parents=True)
            content = json.loads((real / 'ann' / f'instances_{split}.json').read_text())
            for image in content['images']:
                Image.new('RGB', (30, 20), (image['id'], 0, 0)).save(folder / image['file_name'])
        data.mkdir(parents=True)
        (data / 'annotations').symlink_to(real / 'ann')
        for split in ('train2014', 'val2014'):
            (data / split).symlink_to(real / 'pictures' / split)
        # a file that is itself a link stays one
        (real / 'kept.json').write_text('{}')
        (real / 'ann' / 'instances_minival2014.json').symlink_to(real / 'kept.json')
        write_minival(data / 'annotations', overwrite=True)
        assert (real / 'ann' / 'instances_minival2014.json').is_symlink()
        assert len(ids_in(real / 'kept.json')) == 4

        config = Config.fromfile(BASES / 'coco2014_instance_maskrcnnbench.py')
        train = config.train_dataloader.dataset
        for part in (*train.datasets, config.val_dataloader.dataset):
            part.update(data_root=f'{data}/', metainfo=dict(classes=('thing',)))
        with DefaultScope.overwrite_default_scope(SCOPE):
            dataset = DATASETS.build(train)
            test = DATASETS.build(config.val_dataloader.dataset)
        assert len(test) == 4
        ids = {}
        for index in range(len(dataset)):
            sample = dataset[index]['data_samples']
            path = Path(sample.img_path)
            ids[sample.img_id] = path.parent.name
            assert dataset.get_data_info(index)['img_id'] == sample.img_id
        train_ids, val_ids, minival = (
            set(ids_in(real / 'ann' / f'instances_{split}.json'))
            for split in ('train2014', 'val2014', 'minival2014')
        )
        assert set(ids) == train_ids | (val_ids - minival)
        assert {i for i, folder in ids.items() if folder == 'val2014'} == val_ids - minival
