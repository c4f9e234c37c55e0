"""Batches: the aspect-ratio sampler, and the whole way from files through worker processes."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdet_r2.datasets import AspectRatioBatchSampler, CocoDataset
from mmdet_r2.engine.data_order import build_train_dataloader
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.preprocessor import DetDataPreprocessor
from mmdet_r2.models.targets import Targets
from mmdet_r2.registry import DATA_SAMPLERS, SCOPE
from mmdet_r2.structures import DetDataSample

PIPELINE = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(200, 100), (200, 120)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]


class Sizes(list):
    """A stand-in for a data set: a list of (width, height) that counts how often it is asked."""

    asked = 0

    def get_data_info(self, index):
        self.asked += 1
        return dict(zip(('width', 'height'), self[index]))


class TestAspectRatioBatchSampler:
    def sampler(self, sizes, batch_size=2, shuffle=False, drop_last=False):
        return AspectRatioBatchSampler(
            DefaultSampler(sizes, shuffle=shuffle, seed=0), batch_size, drop_last
        )

    def test_batches_are_of_one_kind_and_nothing_is_lost(self):
        sizes = Sizes((20, 10) if i % 3 else (10, 20) for i in range(50))
        sampler = self.sampler(sizes, batch_size=4, shuffle=True)
        batches = list(sampler)
        assert sorted(itertools.chain(*batches)) == list(range(50))
        assert len(batches) == len(sampler) == 13
        mixed = [b for b in batches if len({sizes[i] for i in b}) > 1]
        assert len(mixed) <= 1

    def test_order(self):
        wide, tall, square = (20, 10), (10, 20), (10, 10)  # a square counts as wide
        sizes = Sizes([wide, tall, square, wide, tall, tall, square])
        assert list(self.sampler(sizes)) == [[0, 2], [1, 4], [3, 6], [5]]
        assert list(self.sampler(sizes, drop_last=True)) == [[0, 2], [1, 4], [3, 6]]
        sizes = Sizes([tall, wide, wide])
        assert list(self.sampler(sizes, 4)) == [[0, 1, 2]]  # the rest: tall ones first
        assert list(self.sampler(sizes, 4, drop_last=True)) == []

    def test_a_full_last_batch_is_dropped_as_the_peer_does(self):
        wide, tall = (20, 10), (10, 20)
        sizes = Sizes([wide, tall, wide, wide, tall, tall])
        assert list(self.sampler(sizes, 2)) == [[0, 2], [1, 4], [5, 3]]
        assert list(self.sampler(sizes, 2, drop_last=True)) == [[0, 2], [1, 4]]
        left = Sizes([wide, wide, tall, tall, tall])
        assert list(self.sampler(left, 4)) == [[2, 3, 4, 0], [1]]
        assert list(self.sampler(left, 4, drop_last=True)) == [[2, 3, 4, 0]]

    def test_asks_for_each_size_once(self):
        sizes = Sizes([(20, 10)] * 9)
        sampler = self.sampler(sizes)
        assert list(sampler) == list(sampler) and sizes.asked == 9

    def test_wrong_arguments(self):
        with pytest.raises(TypeError, match='list'):
            AspectRatioBatchSampler([1, 2], 2)
        with pytest.raises(ValueError, match='batch_size is 0'):
            self.sampler(Sizes([(1, 2)]), 0)

    def test_is_registered(self):
        config = dict(type='AspectRatioBatchSampler', sampler=DefaultSampler([1]), batch_size=1)
        assert isinstance(DATA_SAMPLERS.build(config), AspectRatioBatchSampler)


def loader(root, split='train2017', num_workers=2, **more):
    """As a config describes it, built as the Runner builds it."""
    config = dict(
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='AspectRatioBatchSampler'),
        dataset=dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=f'{split}/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=PIPELINE,
        )
        | more,
    )
    with DefaultScope.overwrite_default_scope(SCOPE):
        return Runner.build_dataloader(config, seed=7)


class TestLoader:
    def test_real_images_through_two_workers(self, shared_data):
        root = shared_data / 'coco_tiny'
        batches = list(loader(root, indices=12))
        assert len(batches) == 6
        for batch in batches:
            for image, sample in zip(batch['inputs'], batch['data_samples']):
                assert isinstance(sample, DetDataSample)
                assert image.dtype == torch.uint8 and image.is_contiguous()
                assert image.shape == (3, *sample.img_shape)
                gt = sample.gt_instances
                assert gt.masks.to_ndarray().shape == (len(gt), *sample.img_shape)
                height, width = sample.img_shape
                assert (gt.bboxes >= 0).all()
                assert (gt.bboxes <= torch.tensor([width, height] * 2)).all()

    def test_same_seed_same_batches(self, shared_data):
        root = shared_data / 'coco_tiny'
        first, second = (list(loader(root, indices=6)) for _ in range(2))
        for a, b in zip(first, second):
            assert all(map(torch.equal, a['inputs'], b['inputs']))
            for x, y in zip(a['data_samples'], b['data_samples']):
                assert x.metainfo == y.metainfo
                assert np.array_equal(x.gt_instances.masks.masks, y.gt_instances.masks.masks)

    @pytest.fixture
    def broken(self, tmp_path):
        """Thirty small images, ten of them missing."""
        (tmp_path / 'broken').mkdir()
        (tmp_path / 'annotations').mkdir()
        images, annotations = [], []
        for i in range(30):
            images.append(dict(id=i, file_name=f'{i}.png', width=50, height=40))
            annotations.append(
                dict(id=i, image_id=i, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
                | dict(segmentation=[[5, 5, 25, 5, 25, 25, 5, 25]])
            )
            if i % 3:
                img = np.full((40, 50, 3), i, dtype=np.uint8)
                cv2.imwrite(str(tmp_path / 'broken' / f'{i}.png'), img)
        content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='x')])
        (tmp_path / 'annotations' / 'instances_broken.json').write_text(json.dumps(content))
        return tmp_path

    def test_workers_count_unreadable_images_together(self, broken):
        more = dict(metainfo=dict(classes=('x',)), max_unreadable=10)
        data = loader(broken, 'broken', **more)
        for _ in range(2):
            seen = [s.img_id for batch in data for s in batch['data_samples']]
            assert len(seen) == 30 and all(i % 3 for i in seen)
        assert int(data.dataset.unreadable.sum()) == 10

    def test_too_many_end_the_run_by_name(self, broken):
        more = dict(metainfo=dict(classes=('x',)), max_unreadable=4)
        with pytest.raises(DataError, match=r'[0-9]\.png: No such file .* of 30 images'):
            list(loader(broken, 'broken', num_workers=1, **more))

    def test_evaluation_names_the_file(self, broken):
        more = dict(metainfo=dict(classes=('x',)), test_mode=True)
        with pytest.raises(DataError, match=r'cannot read image .*[0-9]\.png: No such file'):
            list(loader(broken, 'broken', num_workers=0, **more))

    def test_transforms_are_ours_without_any_scope(self, broken):
        dataset = CocoDataset(
            data_root=str(broken),
            ann_file='annotations/instances_broken.json',
            data_prefix=dict(img='broken/'),
            metainfo=dict(classes=('x',)),
            pipeline=PIPELINE,
        )
        modules = {type(t).__module__.split('.')[0] for t in dataset.pipeline.transforms}
        assert modules == {'mmdet_r2', 'mmcv'}
        resize = dataset.pipeline.transforms[2].resize
        assert type(resize).__module__ == 'mmdet_r2.datasets.transforms.geometric'
        assert dataset[1]['data_samples'].gt_instances.masks.areas[0] > 0


PARTS = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(32, 32)),
    dict(type='PackDetInputs'),
]


@pytest.mark.parametrize(
    ('parts', 'needed'),
    [
        ([0, 1, 2], 'PackDetInputs'),
        ([], 'PackDetInputs'),
        ([1, 2, 3], 'LoadImageFromFile'),
        ([3], 'PackDetInputs|LoadImageFromFile'),
        ([0, 2, 3], 'LoadAnnotations'),
    ],
)
@pytest.mark.parametrize('batch_size', [1, 2])
def test_a_pipeline_without_one_of_its_parts_is_said(tmp_path, parts, needed, batch_size):
    images = [dict(id=i, file_name=f'{i}.png', width=32, height=32) for i in (1, 2)]
    square = dict(category_id=1, bbox=[4, 4, 20, 20], segmentation=[[4, 4, 24, 4, 24, 24]])
    annotations = [dict(square, id=i, image_id=1 + i // 2) for i in range(3)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='cat')])
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((32, 32, 3), np.uint8))
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='ann.json',
        metainfo=dict(classes=('cat',)),
        pipeline=[PARTS[i] for i in parts],
    )
    with pytest.raises(ConfigError, match=needed):
        loader = build_train_dataloader(
            dict(batch_size=batch_size, num_workers=0, dataset=dataset), 0
        )
        batch = DetDataPreprocessor()(next(iter(loader)))
        Targets.from_samples(batch['data_samples'])
