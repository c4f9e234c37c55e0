"""Data as detectron2 prepares them: its resize bit for bit, its crop, its choice of images."""

import json
import zlib
from pathlib import Path

import cv2
import golden_run
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmdet_r2.config import load_config
from mmdet_r2.datasets import CocoDataset
from mmdet_r2.datasets.transforms import (
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeShortestEdge,
)
from mmdet_r2.registry import SCOPE, TRANSFORMS
from mmdet_r2.structures.masks import PolygonMasks

# Of the goldens' image as the original resized it: uint8 RGB (312, 433, 3).
RESIZED_CRC = 4013756854
TRICKS = 'cascade_mask_rcnn_s200_fpn_syncbn-all_tricks_3x_coco'


def build(transform):
    with DefaultScope.overwrite_default_scope(SCOPE):
        return TRANSFORMS.build(transform)


class TestResize:
    def test_pixels_are_the_originals_bit_for_bit(self):
        image = np.ascontiguousarray(golden_run.image()[..., ::-1])  # BGR, as images are loaded
        transform = build(
            dict(
                type='RandomChoiceResize',
                scales=[(1333, 312)],
                resize_type='ResizeShortestEdge',
                max_size=1333,
                backend='pillow',
            )
        )
        results = transform(dict(img=image))
        assert results['img_shape'] == (312, 433)
        assert zlib.crc32(results['img'][..., ::-1].tobytes()) == RESIZED_CRC
        assert results['scale_factor'] == (433 / 333, 312 / 240)
        plain = ResizeShortestEdge(312, 1333)(dict(img=image))['img']
        assert plain.shape == (312, 433, 3) and (plain != results['img']).any()

    @pytest.mark.parametrize('transposed', [False, True])
    @pytest.mark.parametrize(
        'shape, short, longest, expected',
        [
            ((480, 640), 800, 1333, (800, 1067)),  # 1066.67
            ((427, 640), 800, 1333, (800, 1199)),  # 1199.06
            ((333, 1000), 800, 1333, (444, 1333)),  # 443.89
            ((500, 500), 640, 1333, (640, 640)),
            ((100, 900), 640, None, (640, 5760)),
            ((106, 640), 864, 1440, (238, 1440)),  # 238.5, less a rounding error
        ],
    )
    def test_size(self, shape, short, longest, expected, transposed):
        height, width = shape[::-1] if transposed else shape
        expected = expected[::-1] if transposed else expected
        assert ResizeShortestEdge(short, longest).target_size((height, width)) == expected[::-1]

    def test_size_is_that_of_resize_but_for_ties(self):
        for height in range(100, 641):
            shape = (height, 640)
            mine = ResizeShortestEdge(864, 1440).target_size(shape)
            like = Resize((1440, 864), keep_ratio=True)(dict(img=np.empty((*shape, 1), np.uint8)))
            if mine != like['img_shape'][::-1]:
                assert (1440 * height / 640) % 1 == 0.5 and mine[0] == 1440
                assert abs(mine[1] - like['img_shape'][0]) == 1

    def test_range_is_drawn_with_both_ends(self):
        transform = build(
            dict(
                type='RandomResize',
                scale=[(40, 10), (40, 14)],
                resize_type='ResizeShortestEdge',
                max_size=40,
            )
        )
        image = np.zeros((20, 30, 3), np.uint8)
        drawn = [transform(dict(img=image))['img_shape'] for _ in range(200)]
        assert set(drawn) == {(short, int(short * 1.5 + 0.5)) for short in range(10, 15)}
        wide = np.zeros((20, 100, 3), np.uint8)
        assert {transform(dict(img=wide))['img_shape'] for _ in range(9)} == {(8, 40)}

    @pytest.mark.parametrize('dtype', [np.uint8, np.int32])
    def test_maps_take_pillows_nearest_pixel(self, dtype):
        labels = np.random.randint(0, 200, (21, 34)).astype(dtype)
        image = np.zeros((21, 34, 3), np.uint8)
        results = ResizeShortestEdge(8, backend='pillow')(dict(img=image, gt_seg_map=labels))
        height, width = results['img_shape']
        rows = ((np.arange(height) + 0.5) * (21 / height)).astype(int)
        columns = ((np.arange(width) + 0.5) * (34 / width)).astype(int)
        expected = labels[rows][:, columns]
        assert results['gt_seg_map'].dtype == dtype
        assert np.array_equal(results['gt_seg_map'], expected)
        other = cv2.resize(labels.astype(np.float32), (width, height), interpolation=0)
        assert (other != expected).any()

    def test_boxes_and_polygons_move_with_the_image(self):
        polygon = np.array([10.5, 3.25, 30.125, 3.25, 30.125, 17.75, 10.5, 17.75])
        masks = PolygonMasks([[polygon]], 20, 35)
        sample = dict(
            img=np.zeros((20, 35, 3), np.uint8), gt_bboxes=masks.get_bboxes(), gt_masks=masks
        )
        results = ResizeShortestEdge(33, 50, backend='pillow')(sample)
        assert results['img_shape'] == (29, 50)
        results = RandomFlip(prob=1.0)(results)
        x, y = 50 / 35, 29 / 20
        expected = [50 - 30.125 * x, 3.25 * y, 50 - 10.5 * x, 17.75 * y]
        np.testing.assert_allclose(results['gt_masks'].get_bboxes()[0], expected, rtol=1e-6)
        np.testing.assert_allclose(results['gt_bboxes'][0], expected, rtol=1e-6)


def boxes_sample(height, width, boxes):
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    return dict(
        img=image,
        gt_bboxes=boxes,
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=flags,
    )


def window_of(results):
    """(top, left, height, width), which the pixels tell."""
    top, left = results['img'][0, 0, :2].tolist()
    return top, left, *results['img_shape']


class TestCropAroundInstance:
    def crop(self, **options):
        settings = dict(
            crop_type='relative_range',
            crop_size=(0.9, 0.9),
            around_instance=True,
            allow_negative_crop=True,
        )
        return RandomCrop(**{**settings, **options})

    @pytest.mark.parametrize('center', [(3.0, 2.5), (17.25, 28.0), (9.5, 15.0), (20.0, 30.0)])
    def test_every_window_with_the_centre_is_drawn_alike(self, center):
        y, x = center
        sample = boxes_sample(20, 30, [[x - 2, y - 1, x + 2, y + 1]])
        crop = self.crop(crop_type='absolute', crop_size=(11, 8))
        seen = [window_of(crop(dict(sample)))[:2] for _ in range(3000)]
        possible = {
            (top, left)
            for top in range(20 - 8 + 1)
            for left in range(30 - 11 + 1)
            if top <= y <= top + 8 and left <= x <= left + 11
        }
        assert set(seen) == possible
        counts = [seen.count(each) for each in possible]
        assert max(counts) < 3 * 3000 / len(possible)

    def test_fractions_are_independent_and_uniform(self):
        sample = boxes_sample(200, 250, [[90, 90, 110, 110]])
        sizes = np.array([self.crop()(dict(sample))['img_shape'] for _ in range(2000)])
        shares = sizes / [200, 250]
        assert shares.min() >= 0.9 and shares.max() <= 1
        np.testing.assert_allclose(shares.mean(axis=0), 0.95, atol=0.003)
        np.testing.assert_allclose(shares.std(axis=0), 0.1 / 12**0.5, atol=0.002)
        assert abs(np.corrcoef(shares.T)[0, 1]) < 0.08

    def test_each_box_is_chosen_crowds_too(self):
        sample = boxes_sample(100, 100, [[0, 0, 4, 4], [96, 96, 100, 100]])
        sample['gt_ignore_flags'][1] = True
        crop = self.crop(crop_type='absolute', crop_size=(20, 20))
        corners = [window_of(crop(dict(sample)))[0] < 50 for _ in range(200)]
        assert 60 < sum(corners) < 140

    def test_centres_at_or_beyond_the_border(self):
        for box in ([-30, 5, 4, 9], [90, 90, 140, 150], [0, 0, 100, 100]):
            for _ in range(50):
                results = self.crop()(boxes_sample(100, 100, [box]))
                top, left, height, width = window_of(results)
                assert top + height <= 100 and left + width <= 100

    def test_without_boxes_anywhere(self):
        seen = {window_of(self.crop()(boxes_sample(50, 50, [])))[:2] for _ in range(300)}
        assert len(seen) > 10


def comb():
    """Three teeth hanging from a bar far above: windows below the bar see them apart."""
    return np.array(
        [10, 2, 90, 2, 90, 40, 80, 40, 80, 10, 55, 10, 55, 60, 45, 60, 45, 10, 20, 10, 20, 50]
        + [10, 50],
        dtype=float,
    )


def fine_raster(polygon, shape, times):
    """What a polygon covers of (height, width) pixels, each ``times`` x ``times`` points, by
    counting the edges left of every point.
    """
    x = (np.arange(shape[1] * times) + 0.473) / times  # on no edge between whole numbers
    y = (np.arange(shape[0] * times) + 0.459) / times
    points = polygon.reshape(-1, 2)
    inside = np.zeros((len(y), len(x)), bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        crosses = (y >= min(y1, y2)) & (y < max(y1, y2))
        at = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
        inside ^= crosses[:, None] & (at[:, None] < x[None])
    return inside


class TestPolygonsInACrop:
    def test_pieces_of_a_split_polygon_have_tight_boxes(self):
        masks = PolygonMasks([[comb()]], 100, 100)
        # of three teeth two are in this window, which joined edges would connect
        cut = masks.crop(np.array([0, 30, 60, 100]))
        pieces = sorted(piece.reshape(-1, 2).min(axis=0).tolist() for piece in cut.masks[0])
        assert pieces == [[10, 0], [45, 0]]
        np.testing.assert_array_equal(cut.get_bboxes(), [[10, 0, 55, 30]])
        assert cut.areas == pytest.approx(10 * 20 + 10 * 30)
        # lying, with one tooth in the window and the next below it: no edge leads there
        lying = comb().reshape(-1, 2)[:, ::-1].reshape(-1)
        cut = PolygonMasks([[lying]], 100, 100).crop(np.array([30, 0, 100, 40]))
        np.testing.assert_array_equal(cut.get_bboxes(), [[0, 10, 20, 20]])
        # none but the middle one reaches into this one
        low = masks.crop(np.array([30, 52, 100, 100]))
        np.testing.assert_array_equal(low.get_bboxes(), [[15, 0, 25, 8]])
        # the outline turns around two corners of this one without entering it
        assert masks.crop(np.array([56, 12, 79, 39])).areas == 0
        assert masks.crop(np.array([56, 12, 79, 39])).get_bboxes().tolist() == [[0, 0, 0, 0]]

    @pytest.mark.parametrize('reverse', [False, True])
    def test_areas_and_boxes_against_counting_points(self, reverse):
        draw = np.random.default_rng(5)
        for case in range(60):
            angles = np.sort(draw.uniform(0, 2 * np.pi, draw.integers(3, 25)))
            radii = draw.uniform(1, 16, len(angles))
            points = np.stack([15 + radii * np.cos(angles), 14 + radii * np.sin(angles)], axis=1)
            points = np.round(points) if case % 2 else points  # many on the window's borders
            points = points[::-1] if reverse else points
            x1, y1 = draw.integers(0, 15, 2)
            x2, y2 = draw.integers(16, 30, 2)
            cut = PolygonMasks([[points.reshape(-1)]], 30, 30).crop(np.array([x1, y1, x2, y2]))
            times = 12
            exact = fine_raster(points, (30, 30), times)
            exact = exact[y1 * times : y2 * times, x1 * times : x2 * times]
            covered = np.zeros_like(exact)
            for piece in cut.masks[0]:
                covered ^= fine_raster(piece, (y2 - y1, x2 - x1), times)
            assert (covered != exact).mean() < 1e-3
            rows, columns = np.flatnonzero(exact.any(axis=1)), np.flatnonzero(exact.any(axis=0))
            if len(rows) > 3 and len(columns) > 3:
                found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / times
                box = cut.get_bboxes()[0]
                half = 0.55 / times  # points are about in the middle of their cells
                assert (box[:2] <= found[:2] + half).all() and (box[2:] >= found[2:] - half).all()
                # a spike thinner than the points' distance may lie between them
                assert np.abs(box - found).max() < 2.5

    def test_the_recipe_recomputes_boxes_and_drops_what_is_gone(self):
        """All of the tricks' pipeline after loading, but for packing."""
        config = load_config(TRICKS)
        pipeline = [build(t) for t in config.train_dataloader.dataset.pipeline[2:-1]]
        assert isinstance(pipeline[0], RandomCrop) and len(pipeline) == 4
        ring = np.array([0, 0, 100, 0, 100, 3, 0, 3], float)  # a strip at the upper border
        tall = np.array([40, 2, 48, 2, 48, 98, 40, 98], float)
        masks = PolygonMasks([[ring], [tall], [np.zeros(6)]], 100, 100)
        counts = set()
        for _ in range(60):
            sample = boxes_sample(100, 100, [[0, 0, 100, 3], [40, 2, 48, 98], [5, 5, 95, 95]])
            sample['gt_ignore_flags'][2] = True  # a crowd: no polygons
            sample['gt_masks'] = masks
            results = sample
            for transform in pipeline:
                results = transform(results)
            boxes, labels = results['gt_bboxes'], results['gt_bboxes_labels']
            assert 1 in labels and 2 not in labels
            assert len(boxes) == len(labels) == len(results['gt_masks'])
            tight = results['gt_masks'].get_bboxes()
            np.testing.assert_allclose(boxes, tight, atol=1e-3)
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            height, width = results['img_shape']
            assert 640 <= min(height, width) <= 864 and (boxes <= [width, height] * 2).all()
            counts.add(len(labels))
        assert counts == {1, 2}


def test_images_of_crowds_only_can_be_left_out(tmp_path, caplog):
    annotation = dict(category_id=1, bbox=[1, 1, 5, 5], area=25, segmentation=[])
    annotations = [
        dict(annotation, id=1, image_id=1, iscrowd=1),
        dict(annotation, id=2, image_id=2, iscrowd=1),
        dict(annotation, id=3, image_id=2, iscrowd=0),
    ]
    images = [dict(id=i, file_name=f'{i}.jpg', width=20, height=20) for i in (1, 2, 3)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(content))
    for image in images:
        Image.new('RGB', (20, 20)).save(tmp_path / image['file_name'])

    def kept(test_mode=False, **filters):
        dataset = CocoDataset(
            str(file),
            metainfo=dict(classes=['thing']),
            data_prefix=dict(img=str(tmp_path)),
            filter_cfg=filters,
            test_mode=test_mode,
        )
        return [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]

    assert kept(filter_empty_gt=True) == [1, 2]
    assert kept(filter_crowd_only=True) == [2, 3]
    assert kept(filter_empty_gt=True, filter_crowd_only=True) == [2]
    assert kept(filter_empty_gt=True, filter_crowd_only=True, test_mode=True) == [1, 2, 3]
    filters = load_config(TRICKS).train_dataloader.dataset.filter_cfg
    assert kept(**filters) == [2]


def test_recipes_run_on_real_images(shared_data: Path):
    """Loading to packing, by all three training pipelines and the test's."""
    root = shared_data / 'coco_tiny'
    for name in (TRICKS, TRICKS.replace('s200', 's50').replace('tricks_3x', 'mstrain_1x')):
        config = load_config(name)
        dataset = CocoDataset(
            'annotations/instances_train2017.json',
            data_root=str(root),
            data_prefix=dict(img='train2017/'),
            allow_missing_classes=True,
            pipeline=config.train_dataloader.dataset.pipeline,
            filter_cfg=config.train_dataloader.dataset.filter_cfg,
        )
        for index in range(0, min(len(dataset), 12)):
            packed = dataset[index]
            gt = packed['data_samples'].gt_instances
            height, width = packed['inputs'].shape[1:]
            assert packed['inputs'].dtype.is_floating_point is False
            assert isinstance(gt.masks, PolygonMasks)
            assert (gt.masks.height, gt.masks.width) == (height, width)
            boxes = gt.bboxes.numpy()
            assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
            # annotated boxes are rounded to a hundredth of a pixel, and some are a little wide
            slack = 1e-3 if name == TRICKS else 20
            assert np.abs(gt.masks.get_bboxes() - boxes).max(initial=0) < slack
