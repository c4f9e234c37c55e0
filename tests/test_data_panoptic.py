"""Panoptic annotations: the same as mmdetection's, consistent through transforms, and wrong files
are named.
"""

import copy
import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import peer_panoptic
import pytest
from warm_python import python

from mmdet_r2.datasets import COCO_METAINFO, CocoDataset, CocoPanopticDataset
from mmdet_r2.datasets.demo import CLASSES, GROUNDS, MAP_CLASSES, generate
from mmdet_r2.datasets.metainfo import palette_for
from mmdet_r2.datasets.semantic_maps import write_semantic_maps
from mmdet_r2.datasets.transforms import RandomCrop, RandomFlip, Resize
from mmdet_r2.datasets.transforms.panoptic import index_segments, read_segment_ids
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.preprocessor import DetDataPreprocessor

PEER = os.environ.get('MMDET_R2_PEER')
STORED = Path(__file__).resolve().parent / 'data' / 'panoptic_pipelines.npz'
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadPanopticAnnotations')]
NAMES = dict(thing_classes=('cat', 'dog'), stuff_classes=('sky', 'grass'))

# 6 x 4 pixels: a cat (70000), a crowd of dogs (300), a dog (5), sky (2^24 - 1), grass (256), void
CAT, CROWD, DOG, SKY, GRASS = 70000, 300, 5, 2**24 - 1, 256
IDS = np.array([
    [SKY, SKY, SKY, SKY, SKY, SKY],
    [CAT, CAT, SKY, DOG, SKY, 0],
    [CAT, CAT, CAT, DOG, CROWD, CROWD],
    [GRASS, GRASS, GRASS, GRASS, CROWD, 0],
])  # fmt: skip


def annotations() -> dict:
    """What the file says of one image; the order of categories is none of the config's."""
    found = [
        (SKY, 7, 0, [0, 0, 6, 2], 9),
        (DOG, 1, 0, [3, 1, 1, 2], 2),
        (CROWD, 1, 1, [4, 2, 2, 2], 3),
        (CAT, 3, 0, [0, 1, 3, 2], 5),
        (GRASS, 9, 0, [0, 3, 4, 1], 4),
    ]
    return dict(
        images=[dict(id=4, file_name='a.jpg', width=6, height=4)],
        annotations=[
            dict(
                image_id=4,
                file_name='a.png',
                segments_info=[
                    dict(zip(('id', 'category_id', 'iscrowd', 'bbox', 'area'), segment))
                    for segment in found
                ],
            )
        ],
        categories=[
            dict(id=9, name='grass', isthing=0),
            dict(id=1, name='dog', isthing=1),
            dict(id=3, name='cat', isthing=1),
            dict(id=7, name='sky', isthing=0),
        ],
    )


def write_png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1))  # BGR


class Sample:
    """A folder with one image and its ground truth, to be changed before it is opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'img').mkdir()
        cv2.imwrite(str(root / 'img/a.jpg'), np.full((4, 6, 3), 90, np.uint8))
        self.png = root / 'png' / 'a.png'
        write_png(self.png, IDS)
        self.content = annotations()
        self.segments = self.content['annotations'][0]['segments_info']

    def open(self, pipeline=LOAD, metainfo=NAMES, **options) -> CocoPanopticDataset:
        (self.root / 'ann.json').write_text(json.dumps(self.content))
        options.setdefault('data_prefix', dict(img='img', seg='png'))
        return CocoPanopticDataset(
            'ann.json', metainfo, data_root=str(self.root), pipeline=pipeline, **options
        )


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


class TestLoading:
    def test_classes_go_by_name_and_void_is_255(self, sample):
        found = sample.open()[0]
        # labels: cat 0, dog 1, sky 2, grass 3
        expected = np.select(
            [IDS == CAT, (IDS == DOG) | (IDS == CROWD), IDS == SKY, IDS == GRASS], [0, 1, 2, 3], 255
        )
        assert found['gt_seg_map'].dtype == np.uint8 and found['ignore_index'] == 255
        np.testing.assert_array_equal(found['gt_seg_map'], expected)

    def test_things_are_instances_in_the_order_of_the_file_crowds_are_not(self, sample):
        found = sample.open()[0]
        np.testing.assert_array_equal(found['gt_bboxes_labels'], [1, 0])
        np.testing.assert_array_equal(found['gt_bboxes'], [[3, 1, 4, 3], [0, 1, 3, 3]])
        np.testing.assert_array_equal(found['gt_masks'].masks, [IDS == DOG, IDS == CAT])
        assert not found['gt_ignore_flags'].any()

    def test_what_the_data_set_tells(self, sample):
        info = sample.open().get_data_info(0)
        assert info['seg_map_path'] == str(sample.png) and 'void_ids' not in info
        assert [(s['id'], s['category'], s['is_thing']) for s in info['segments_info']] == [
            (SKY, 2, False), (DOG, 1, True), (CROWD, 1, False), (CAT, 0, True), (GRASS, 3, False),
        ]  # fmt: skip

    def test_other_categories_and_empty_boxes_are_unlabelled(self, sample):
        sample.segments[1]['bbox'] = [3, 1, 0, 2]
        dataset = sample.open(metainfo=NAMES | dict(stuff_classes=('sky',)))
        assert dataset.get_data_info(0)['void_ids'] == [DOG, GRASS]
        found = dataset[0]
        unlabelled = np.isin(IDS, [DOG, GRASS, 0])
        np.testing.assert_array_equal(found['gt_seg_map'] == 255, unlabelled)
        np.testing.assert_array_equal(found['gt_masks'].masks, [IDS == CAT])

    @pytest.mark.parametrize('kind', ['thing', 'stuff', 'segment'])
    def test_images_without_any(self, sample, kind):
        drop = dict(thing=(CAT, DOG, CROWD), stuff=(SKY, GRASS), segment=tuple(np.unique(IDS)))
        sample.segments[:] = [s for s in sample.segments if s['id'] not in drop[kind]]
        left = np.where(np.isin(IDS, drop[kind]), 0, IDS)
        write_png(sample.png, left)
        found = sample.open()[0]
        np.testing.assert_array_equal(found['gt_seg_map'] == 255, left == 0)
        assert found['gt_masks'].masks.shape == (2 if kind == 'stuff' else 0, 4, 6)
        if kind != 'stuff':
            with pytest.raises(DataError, match=r'no image left to use .*1 without objects'):
                sample.open(filter_cfg=dict(filter_empty_gt=True))

    def test_more_segments_than_a_byte_counts(self):
        rng = np.random.default_rng(0)
        listed = rng.permutation(np.arange(1, 2**24, 40000))[:400].tolist()
        ids = rng.choice(np.array([0, *listed], np.uint32), (64, 64))
        ids.ravel()[: len(listed)] = listed
        index = index_segments(ids, listed, 'x.png')
        assert index.dtype == np.uint16
        np.testing.assert_array_equal(np.array([0, *listed])[index], ids)

    def test_stuff_needs_no_box(self, sample):
        del sample.segments[0]['bbox'], sample.segments[0]['area']
        assert (sample.open()[0]['gt_seg_map'] == 2).sum() == (IDS == SKY).sum()

    def test_for_testing_no_png_is_needed(self, sample):
        found = sample.open(data_prefix=dict(img='img'), test_mode=True)[0]
        assert len(found['gt_bboxes']) == 2 and 'gt_masks' not in found
        del sample.content['annotations']
        assert len(sample.open(data_prefix=dict(img='img'), test_mode=True)[0]['gt_bboxes']) == 0

    def test_default_classes_are_cocos(self, shared_data):
        metainfo = CocoPanopticDataset.METAINFO
        file = shared_data / 'panoptic_sample' / 'panoptic_coco_categories.json'
        categories = json.loads(file.read_text())
        assert list(metainfo['classes']) == [c['name'] for c in categories]
        assert [list(c) for c in metainfo['palette']] == [c['color'] for c in categories]
        assert metainfo['thing_classes'] == COCO_METAINFO['classes']
        assert len(metainfo['stuff_classes']) == 53
        assert palette_for(('sky-other-merged',)) == [(70, 130, 180)]


def alter(sample: Sample, change: str) -> None:
    """Make one thing wrong."""
    first, category = sample.segments[0], sample.content['categories'][1]
    if change == 'png missing':
        sample.png.unlink()
    elif change == 'folder missing':
        sample.png.unlink()
        sample.png.parent.rmdir()
    elif change == 'png of another size':
        write_png(sample.png, IDS[:, :5])
    elif change == 'segment not listed':
        sample.segments.remove(first)
    elif change == 'segment not in the png':
        sample.segments.append(first | dict(id=77))
    elif change == 'unknown category':
        first['category_id'] = 5
    elif change == 'id twice':
        first['id'] = DOG
    elif change == 'id of 25 bits':
        first['id'] = 2**24
    elif change == 'id 0':
        first['id'] = 0
    elif change == 'no isthing':
        del category['isthing']
    elif change == 'stuff, not a thing':
        category['isthing'] = 0
    elif change == 'two annotations':
        sample.content['annotations'] *= 2
    elif change == 'instances':
        sample.content['annotations'] = [dict(image_id=4, id=1, bbox=[0, 0, 1, 1], category_id=1)]
    elif change == 'truncated':
        sample.png.write_bytes(sample.png.read_bytes()[:-20])
    elif change == 'grey':
        cv2.imwrite(str(sample.png), (IDS % 256).astype(np.uint8))
    elif change == '16 bits':
        cv2.imwrite(str(sample.png), np.stack([IDS % 256] * 3, -1).astype(np.uint16))
    else:
        cv2.imwrite(str(sample.png.with_suffix('.jpg')), np.zeros((4, 6, 3), np.uint8))
        sample.png.with_suffix('.jpg').rename(sample.png)


WRONG = {
    'png missing': r'^1 of 1 images of .*ann\.json have no panoptic PNG: .*a\.png does not exist',
    'folder missing': r'^panoptic PNG folder .*png does not exist',
    'png of another size': r'a\.png is 5x4 pixels but its image .*a\.jpg is 6x4',
    'segment not listed': r'a\.png has the segment id 16777215 at x=0, y=0, which is not in',
    'segment not in the png': r'a\.png has no pixel of segment 77, which is in',
    'unknown category': r'ann\.json: image 4: segment 16777215 has the category_id 5',
    'id twice': r'ann\.json: image 4 has the segment id 5 twice',
    'id of 25 bits': r'ann\.json: image 4 has the segment id 16777216, expected 1 to 16777215',
    'id 0': r'ann\.json: image 4 has the segment id 0, expected 1',
    'no isthing': r"ann\.json: category 'dog' has isthing=None, expected",
    'stuff, not a thing': r"ann\.json: category 'dog' has isthing=0 but .*metainfo\.thing_classes",
    'two annotations': r'ann\.json: two annotations have the image_id 4',
    'instances': r'ann\.json: an annotation has no list segments_info',
    'truncated': r'cannot read panoptic PNG .*a\.png: truncated',
    'grey': r'cannot read panoptic PNG .*a\.png: greyscale',
    '16 bits': r'cannot read panoptic PNG .*a\.png: 16 bits',
    'jpeg': r'cannot read panoptic PNG .*a\.png: not a PNG',
}


class TestBadInput:
    @pytest.mark.parametrize('change', WRONG)
    def test_files_that_do_not_fit_are_named(self, sample, change):
        sample.open()[0]
        alter(sample, change)
        with pytest.raises(DataError, match=WRONG[change]) as error:
            sample.open()[0]
        assert '\n' not in str(error.value)

    def test_a_training_set_needs_its_pngs(self, sample):
        with pytest.raises(ConfigError, match=r'LoadPanopticAnnotations needs panoptic PNGs.*seg='):
            sample.open(data_prefix=dict(img='img'))

    @pytest.mark.parametrize(
        ('metainfo', 'message'),
        [
            (dict(classes=('cat', 'sky')), 'metainfo has classes, but .* needs thing_classes and'),
            (NAMES | dict(classes=('sky', 'grass', 'cat', 'dog')), 'not thing_classes followed'),
            (NAMES | dict(stuff_classes='sky'), "stuff_classes is 'sky', expected a tuple"),
            (dict(thing_classes=('cat',), stuff_classes=('cat',)), "'cat' more than once"),
            (
                dict(thing_classes=tuple(map(str, range(256))), stuff_classes=()),
                'metainfo has 256 classes',
            ),
        ],
    )
    def test_classes_that_cannot_be(self, sample, metainfo, message):
        with pytest.raises(ConfigError, match=message):
            sample.open(metainfo=metainfo)

    def test_a_class_that_the_file_lacks(self, sample):
        wanted = NAMES | dict(stuff_classes=('sky', 'gras'))
        with pytest.raises(DataError, match=r"no category for 1 .* 'gras' .did you mean 'grass'"):
            sample.open(metainfo=wanted)

    def test_another_data_set(self, sample):
        del sample.content['annotations'][:]
        sample.open()
        dataset = CocoDataset(
            'ann.json',
            dict(classes=('cat',)),
            str(sample.root),
            dict(img='img', seg='png'),
            pipeline=LOAD,
        )
        with pytest.raises(ConfigError, match="must be of type 'CocoPanopticDataset'"):
            dataset[0]


def real(shared_data: Path, pipeline=LOAD) -> CocoPanopticDataset:
    return CocoPanopticDataset(
        'panoptic_examples.json',
        data_root=str(shared_data / 'panoptic_sample'),
        data_prefix=dict(img='input_images', seg='panoptic_examples'),
        pipeline=pipeline,
    )


def test_areas_and_boxes_of_real_images_are_those_of_the_file(shared_data):
    dataset = real(shared_data)
    raw = json.loads(Path(dataset.ann_file).read_text())
    for i, annotation in enumerate(raw['annotations']):
        found = dataset[i]
        ids = read_segment_ids(found['seg_map_path'])
        segments = annotation['segments_info']
        index = index_segments(ids, [s['id'] for s in segments], '')
        np.testing.assert_array_equal(np.bincount(index.ravel())[1:], [s['area'] for s in segments])
        np.testing.assert_array_equal(found['gt_masks'].get_bboxes(), found['gt_bboxes'])
        labels = {s['id']: s['category'] for s in found['segments_info']}
        slow = np.vectorize(lambda number, labels=labels: labels.get(number, 255))(ids)
        np.testing.assert_array_equal(found['gt_seg_map'], slow)


@pytest.mark.parametrize(
    'transform',
    [
        Resize(scale=(800, 333)),
        RandomFlip(prob=1.0, direction='horizontal'),
        RandomFlip(prob=1.0, direction='diagonal'),
        RandomCrop(crop_size=(200, 150), recompute_bbox=True),
    ],
    ids=lambda t: type(t).__name__,
)
def test_map_boxes_and_masks_move_together(shared_data, transform):
    for results in real(shared_data):
        found = transform(copy.deepcopy(results))
        masks, boxes, labels = (found[k] for k in ('gt_masks', 'gt_bboxes', 'gt_bboxes_labels'))
        assert found['gt_seg_map'].shape == found['img_shape'] == masks.masks.shape[1:]
        assert len(masks) == len(boxes) == len(labels) > 0
        for mask, box, label in zip(masks, boxes, labels, strict=True):
            inside = found['gt_seg_map'][mask.astype(bool)]
            # mmcv takes the nearest pixel of masks and maps alike
            assert (inside == label).all()
            y, x = np.nonzero(mask)
            if len(x):
                tight = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                np.testing.assert_allclose(box, tight, atol=2)


class TestParity:
    @pytest.fixture(scope='class')
    def found(self, shared_data):
        root = str(shared_data / 'panoptic_sample')
        return peer_panoptic.record(CocoPanopticDataset, DetDataPreprocessor, root)

    @staticmethod
    def compare(found, expected, keys):
        different = [
            key
            for key in sorted(keys)
            if not np.array_equal(found[key], expected[key])
            or found[key].dtype != expected[key].dtype
        ]
        assert not different

    @pytest.mark.parametrize('pipeline', peer_panoptic.PIPELINES)
    def test_geometry_equals_the_stored_numbers(self, found, pipeline):
        with np.load(STORED) as stored:
            expected = {k: stored[k] for k in stored.files if k.startswith(pipeline + '/')}
        keys = {k for k in found if k.startswith(pipeline + '/')}
        assert keys == set(expected)
        self.compare(
            found, expected, {k for k in keys if k.split('/')[-1] in peer_panoptic.GEOMETRY}
        )

    @pytest.mark.parity
    @pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
    def test_pixels_and_all_equal_the_peer(self, found, shared_data, tmp_path):
        path = tmp_path / 'peer.npz'
        command = [PEER, '-W', 'ignore', peer_panoptic.__file__, shared_data / 'panoptic_sample']
        done = subprocess.run(
            list(map(str, [*command, path])), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(path) as fresh, np.load(STORED) as stored:
            assert set(fresh.files) == set(stored.files) == set(found)
            self.compare(found, fresh, set(found))


class TestGeneratedData:
    @pytest.fixture(scope='class')
    def root(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp('demo') / 'set'
        return generate(folder, num_train=40, num_val=2, size=(96, 64), crowd_fraction=0.2, seed=1)

    @pytest.fixture(scope='class')
    def dataset(self, root) -> CocoPanopticDataset:
        return CocoPanopticDataset(
            'annotations/panoptic_train.json',
            dict(thing_classes=CLASSES, stuff_classes=GROUNDS),
            data_root=str(root),
            data_prefix=dict(img='train', seg='annotations/panoptic_train'),
            pipeline=LOAD,
        )

    def test_segments_say_what_the_stuff_maps_say(self, root, dataset):
        assert dataset.metainfo['classes'] == MAP_CLASSES
        for found in dataset:
            path = root / 'stuffthingmaps/train' / Path(found['seg_map_path']).name
            expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(found['gt_seg_map'], expected)

    def test_things_are_the_objects_of_the_instance_file(self, root, dataset):
        instances = CocoDataset(
            'annotations/instances_train.json',
            dict(classes=CLASSES),
            data_root=str(root),
            data_prefix=dict(img='train'),
            pipeline=[LOAD[0], dict(type='LoadAnnotations')],
        )
        crowds = 0
        for found, other in zip(dataset, instances, strict=True):
            real = ~other['gt_ignore_flags']
            crowds += (~real).sum()
            np.testing.assert_array_equal(found['gt_bboxes'], other['gt_bboxes'][real])
            np.testing.assert_array_equal(
                found['gt_bboxes_labels'], other['gt_bboxes_labels'][real]
            )
            np.testing.assert_array_equal(found['gt_masks'].get_bboxes(), found['gt_bboxes'])
        assert crowds > 0

    def test_areas_are_those_of_the_png_and_ids_use_three_bytes(self, root):
        folder = root / 'annotations'
        content = json.loads((folder / 'panoptic_train.json').read_text())
        largest = 0
        for item in content['annotations']:
            ids = read_segment_ids(str(folder / 'panoptic_train' / item['file_name']))
            for segment in item['segments_info']:
                assert (ids == segment['id']).sum() == segment['area'] > 0
                largest = max(largest, segment['id'])
        assert 65536 < largest < 2**24


class TestSemanticMaps:
    def read(self, path: Path) -> np.ndarray:
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and labels.ndim == 2
        return labels

    @pytest.mark.parametrize('workers', [1, 2])
    def test_both_orders_of_real_images(self, shared_data, tmp_path, workers):
        dataset = real(shared_data)
        source = shared_data / 'panoptic_sample'
        arguments = (source / 'panoptic_examples.json', source / 'panoptic_examples')
        separated = write_semantic_maps(*arguments, tmp_path / 'a', 'detectron2', workers)
        plain = write_semantic_maps(*arguments, tmp_path / 'b', 'mmdet', workers)
        assert plain == CocoPanopticDataset.METAINFO['classes']
        assert separated == ('thing', *CocoPanopticDataset.METAINFO['stuff_classes'])
        for found in dataset:
            name = Path(found['seg_map_path']).name
            labels = found['gt_seg_map'].astype(int)
            np.testing.assert_array_equal(self.read(tmp_path / 'b' / name), labels)
            labels = np.where(labels == 255, 255, np.maximum(labels - 79, 0))
            np.testing.assert_array_equal(self.read(tmp_path / 'a' / name), labels)

    def test_order_is_that_of_category_ids_and_crowds_count(self, sample, tmp_path):
        sample.open()
        file, pngs = tmp_path / 'ann.json', tmp_path / 'png'
        names = write_semantic_maps(file, pngs, tmp_path / 'a', workers=1)
        assert names == ('thing', 'sky', 'grass')
        expected = np.select([IDS == 0, IDS == SKY, IDS == GRASS], [255, 1, 2], 0)
        np.testing.assert_array_equal(self.read(tmp_path / 'a/a.png'), expected)
        names = write_semantic_maps(file, pngs, tmp_path / 'b', 'mmdet', workers=1)
        assert names == ('dog', 'cat', 'sky', 'grass')
        assert self.read(tmp_path / 'b/a.png')[2].tolist() == [1, 1, 1, 0, 0, 0]

    def test_senseless_requests(self, sample, tmp_path):
        sample.open()
        file, pngs = tmp_path / 'ann.json', tmp_path / 'png'
        with pytest.raises(DataError, match='png holds the panoptic PNGs'):
            write_semantic_maps(file, pngs, tmp_path / 'img/../png')
        with pytest.raises(ConfigError, match="order is 'coco', expected one of detectron2, mmdet"):
            write_semantic_maps(file, pngs, tmp_path / 'maps', 'coco')

    def test_command_line(self, repo, sample, tmp_path):
        sample.open()
        script = repo / 'tools/dataset_converters/prepare_panoptic_semseg.py'
        command = list(map(str, [python(), script, tmp_path / 'ann.json', tmp_path / 'png']))
        done = subprocess.run(
            [*command, str(tmp_path / 'maps'), '--workers', '2'], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert '0 thing, 1 sky, 2 grass' in done.stdout
        assert self.read(tmp_path / 'maps/a.png').shape == (4, 6)
        sample.png.write_bytes(b'no')
        done = subprocess.run([*command, str(tmp_path / 'maps')], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith('error: cannot read panoptic PNG')
