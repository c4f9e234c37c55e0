"""Loading images and annotations, and every transform on image, boxes, masks and map together."""

import io

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import DefaultScope
from PIL import Image

from mmdet_r2.datasets.transforms import (
    FilterAnnotations,
    LoadAnnotations,
    LoadImageFromFile,
    PackDetInputs,
    Pad,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    Resize,
    UnreadableImageError,
)
from mmdet_r2.datasets.transforms.formatting import image_to_tensor
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import SCOPE, TRANSFORMS
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks

HEIGHT, WIDTH = 48, 64


def smooth(height=HEIGHT, width=WIDTH):
    """A picture that survives JPEG: BGR uint8, different along both axes and in each channel."""
    coarse = np.random.randint(30, 220, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def pillow(image, form, **options):
    """Encoded by Pillow, from BGR."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def load(tmp_path):
    """Write bytes to a file and load it as an image of the annotated size."""

    def run(content, size=(HEIGHT, WIDTH), **settings):
        path = tmp_path / 'picture'
        path.write_bytes(content)
        results = dict(img_path=str(path))
        if size:
            results |= dict(height=size[0], width=size[1])
        return LoadImageFromFile(**settings)(results)

    return run


class TestLoadImage:
    def test_every_colour_layout_becomes_bgr_bytes(self, load):
        bgr = smooth()
        rgb = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        grey3 = np.repeat(grey[..., None], 3, axis=2)
        deep = bgr.astype(np.uint16) * 257
        cases = dict(
            jpeg=(pillow(rgb, 'jpeg', quality=95), bgr, 3),
            progressive=(pillow(rgb, 'jpeg', quality=95, progressive=True), bgr, 3),
            grey_jpeg=(pillow(Image.fromarray(grey), 'jpeg', quality=95), grey3, 3),
            cmyk=(pillow(rgb.convert('CMYK'), 'jpeg', quality=95), bgr, 4),
            png=(pillow(rgb, 'png'), bgr, 0),
            grey_png=(pillow(Image.fromarray(grey), 'png'), grey3, 0),
            rgba=(pillow(rgb.convert('RGBA'), 'png'), bgr, 0),
            palette=(pillow(rgb.quantize(256), 'png'), bgr, 12),
            sixteen_bit=(cv2.imencode('.png', deep)[1].tobytes(), bgr, 1),
            grey_sixteen_bit=(cv2.imencode('.png', deep[..., 0])[1].tobytes(), bgr[..., :1], 1),
            bilevel=(pillow(Image.fromarray(grey > 99), 'png'), (grey3 > 99) * 255, 0),
            webp=(pillow(rgb, 'webp', lossless=True), bgr, 0),
            bmp=(pillow(rgb, 'bmp'), bgr, 0),
        )
        for name, (content, expected, tolerance) in cases.items():
            img = load(content)['img']
            assert img.dtype == np.uint8 and img.shape == (HEIGHT, WIDTH, 3), name
            assert np.abs(img.astype(int) - expected).mean() <= tolerance, name

    def test_shapes_are_set_and_float_on_request(self, load):
        results = load(cv2.imencode('.png', smooth())[1].tobytes(), to_float32=True)
        assert results['img_shape'] == results['ori_shape'] == (HEIGHT, WIDTH)
        assert results['img'].dtype == np.float32

    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_exif_orientation_follows_the_annotations(self, load, orientation):
        bgr = smooth()
        exif = Image.Exif()
        exif[0x0112] = orientation
        raw = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
        content = pillow(raw, 'jpeg', quality=95, exif=exif.tobytes())
        turned = np.asarray(Image.open(io.BytesIO(content)))[..., ::-1].astype(int)
        upright = {
            1: lambda x: x,
            2: lambda x: x[:, ::-1],
            3: lambda x: x[::-1, ::-1],
            4: lambda x: x[::-1],
            5: lambda x: x.transpose(1, 0, 2),
            6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
            7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
            8: lambda x: x.transpose(1, 0, 2)[::-1],
        }[orientation](turned)
        # sizes as the viewer shows it, or none known: EXIF is applied, as mmdetection does
        for size in (upright.shape[:2], None):
            img = load(content, size)['img']
            assert img.shape == upright.shape and np.abs(img - upright).mean() < 2
        # sizes as stored: the boxes were drawn on the raw picture
        if orientation >= 5:
            img = load(content, (HEIGHT, WIDTH))['img']
            assert img.shape == bgr.shape and np.abs(img - turned).mean() < 2

    @pytest.mark.parametrize(
        'size', [(HEIGHT + 1, WIDTH), (WIDTH, HEIGHT), (HEIGHT * 2, WIDTH * 2)]
    )
    def test_other_sizes_than_annotated_are_an_error_that_names_the_file(self, load, size):
        content = cv2.imencode('.jpg', smooth())[1].tobytes()
        with pytest.raises(
            DataError, match=f'picture is 64x48 .* says {size[1]}x{size[0]}'
        ) as error:
            load(content, size)
        assert not isinstance(error.value, UnreadableImageError)

    def test_every_truncation_is_found(self, load):
        bgr = smooth(200, 300)
        rgb = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
        preview = Image.Exif()
        # an embedded preview has an end marker of its own
        preview[0x9286] = 'UNICODE' + pillow(rgb.resize((16, 16)), 'jpeg').decode('latin1')
        contents = [
            pillow(rgb, 'jpeg'),
            pillow(rgb, 'jpeg', progressive=True),
            pillow(rgb, 'jpeg', exif=preview.tobytes()),
            pillow(rgb, 'png'),
            pillow(rgb, 'webp'),
            pillow(rgb, 'bmp'),
            pillow(rgb, 'tiff'),
        ]
        for content in contents:
            assert load(content, (200, 300))['img'].shape == (200, 300, 3)
            for part in (0, 0.01, 0.3, 0.6, 0.95):
                with pytest.raises(UnreadableImageError, match=r'cannot read image .*picture: .'):
                    load(content[: int(part * len(content))], (200, 300))
        with pytest.raises(UnreadableImageError, match='truncated JPEG'):
            load(contents[0][:-2], (200, 300))

    def test_bytes_after_the_end_do_not_matter(self, load):
        content = cv2.imencode('.jpg', smooth())[1].tobytes()
        assert load(content + bytes(1000)) is not None

    def test_what_is_no_image(self, load, tmp_path):
        for content in (b'', b'hello', bytes(1000), b'\xff\xd8\xff\xd9', b'\xff\xd8' + bytes(99)):
            with pytest.raises(UnreadableImageError, match='picture') as error:
                load(content)
            assert '\n' not in str(error.value)
        with pytest.raises(UnreadableImageError, match=r'absent\.jpg: No such file'):
            LoadImageFromFile()(dict(img_path=str(tmp_path / 'absent.jpg')))
        with pytest.raises(UnreadableImageError, match='directory'):
            LoadImageFromFile()(dict(img_path=str(tmp_path)))
        assert load(b'', ignore_empty=True) is None


def instances():
    hexagon = [40, 5, 60, 5, 60, 30, 55, 40, 45, 40, 40, 30]
    square = [10, 8, 30, 8, 30, 28, 10, 28]
    return [
        dict(bbox=[10, 8, 30, 28], bbox_label=2, ignore_flag=0, mask=[square]),
        dict(bbox=[40, 5, 60, 40], bbox_label=0, ignore_flag=1, mask=[hexagon]),
        dict(
            bbox=[0, 30, 20, 44],
            bbox_label=1,
            ignore_flag=0,
            mask=[[0, 30, 20, 30, 20, 36, 0, 36], [0, 40, 20, 40, 20, 44, 0, 44]],
        ),
    ]


@pytest.fixture
def sample():
    """Image, boxes, labels, flags, masks and a semantic map as loading leaves them."""
    results = dict(
        img=smooth(),
        img_path='a.png',
        img_id=3,
        img_shape=(HEIGHT, WIDTH),
        ori_shape=(HEIGHT, WIDTH),
        instances=instances(),
    )
    results = LoadAnnotations(with_mask=True)(results)
    results['gt_seg_map'] = results['gt_masks'].masks.argmax(0).astype(np.uint8)
    return results


class TestLoadAnnotations:
    def test_arrays(self, sample):
        assert sample['gt_bboxes'].dtype == np.float32 and sample['gt_bboxes'].shape == (3, 4)
        assert sample['gt_bboxes_labels'].dtype == np.int64
        assert sample['gt_ignore_flags'].tolist() == [False, True, False]
        np.testing.assert_array_equal(sample['gt_masks'].get_bboxes(), sample['gt_bboxes'])
        np.testing.assert_array_equal(sample['gt_masks'].areas[[0, 2]], [400, 200])

    def test_run_lengths_of_both_kinds_and_polygons_give_one_mask(self):
        import pycocotools.mask as coco_mask

        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order='F')
        mask[8:28, 10:30] = 1
        packed = coco_mask.encode(mask)
        text = dict(size=[HEIGHT, WIDTH], counts=packed['counts'].decode())
        runs, columns = [], mask.T.reshape(-1)
        edges = np.flatnonzero(np.diff(columns)) + 1
        runs = np.diff([0, *edges, len(columns)]).tolist()
        plain = dict(size=[HEIGHT, WIDTH], counts=runs)
        many = [
            instances()[0] | dict(mask=m) for m in (packed, text, plain, instances()[0]['mask'])
        ]
        results = dict(instances=many, ori_shape=(HEIGHT, WIDTH))
        masks = LoadAnnotations(with_mask=True)(results)['gt_masks']
        assert all(np.array_equal(m, mask) for m in masks)
        # polygons cannot hold run lengths: those instances are ignored
        results = LoadAnnotations(with_mask=True, poly2mask=False)(results)
        assert results['gt_ignore_flags'].tolist() == [True, True, True, False]
        assert isinstance(results['gt_masks'], PolygonMasks) and len(results['gt_masks']) == 4

    def test_only_what_is_asked_for(self):
        results = LoadAnnotations(with_label=False)(dict(instances=instances()))
        assert 'gt_bboxes' in results
        assert not {'gt_bboxes_labels', 'gt_masks', 'gt_seg_map'} & results.keys()
        with pytest.raises(ConfigError, match="'qbox'"):
            LoadAnnotations(box_type='qbox')

    def test_semantic_map(self, tmp_path):
        labels = np.array([[0, 1, 2], [255, 3, 0]], dtype=np.uint8)
        path = str(tmp_path / 'map.png')
        cv2.imwrite(path, labels)
        only_map = dict(with_bbox=False, with_label=False, with_seg=True)
        results = LoadAnnotations(**only_map)(dict(seg_map_path=path))
        assert np.array_equal(results['gt_seg_map'], labels) and results['ignore_index'] == 255
        results = LoadAnnotations(**only_map, reduce_zero_label=True)(dict(seg_map_path=path))
        assert results['gt_seg_map'].tolist() == [[255, 0, 1], [255, 2, 255]]

    def test_semantic_map_of_16_bits_or_with_a_plain_palette(self, tmp_path):
        labels = np.array([[0, 1, 300], [255, 3, 0]], dtype=np.uint16)
        path = str(tmp_path / 'map.png')
        cv2.imwrite(path, labels)
        only_map = dict(with_bbox=False, with_label=False, with_seg=True)
        loaded = LoadAnnotations(**only_map)(dict(seg_map_path=path))['gt_seg_map']
        assert loaded.dtype == np.int32 and np.array_equal(loaded, labels)
        plain = Image.fromarray((labels % 256).astype(np.uint8))
        plain.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
        plain.save(path)
        for backend in ('cv2', 'pillow'):
            load = LoadAnnotations(**only_map, imdecode_backend=backend)
            loaded = load(dict(seg_map_path=path))['gt_seg_map']
            assert loaded.dtype == np.uint8 and np.array_equal(loaded, labels % 256)

    def test_palette_indices_as_labels_on_request(self, tmp_path):
        labels = np.array([[0, 1, 2], [2, 3, 0]], dtype=np.uint8)
        coloured = Image.fromarray(labels)
        coloured.putpalette(bytes([200, 3, 7, 9, 9, 50, 6, 6, 6, 1, 2, 3]))
        coloured.save(tmp_path / 'map.png')
        load = LoadAnnotations(with_bbox=False, with_seg=True, imdecode_backend='pillow')
        results = load(dict(seg_map_path=str(tmp_path / 'map.png')))
        assert np.array_equal(results['gt_seg_map'], labels)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (None, 'map.png: No such file.*data_prefix.seg'),
            (b'', 'map.png: the file is empty'),
            (b'no image', 'map.png: not an image'),
            ('truncated', 'map.png: truncated PNG'),
            ('rgb', 'map.png has 3 channels, expected one label per pixel.*panoptic'),
            ('rgba', 'map.png has 4 channels, expected one label per pixel'),
            ('palette', "map.png is a PNG with a palette.*imdecode_backend='pillow'"),
            ('bilevel', 'map.png is a PNG of 1 bit'),
            ('jpeg', 'map.png is a JPEG'),
            ('float', 'map.png has float32 numbers'),
            ('turned', 'map.png is 48x64 pixels but its image a.jpg is 64x48'),
        ],
    )
    def test_useless_semantic_map_is_named(self, tmp_path, content, message):
        labels = np.random.randint(0, 9, (HEIGHT, WIDTH), dtype=np.uint8)
        picture = Image.fromarray(labels)
        made = dict(
            truncated=pillow(picture, 'png')[:-20],
            rgb=pillow(picture.convert('RGB'), 'png'),
            rgba=pillow(picture.convert('RGBA'), 'png'),
            palette=pillow(picture.convert('RGB').quantize(9), 'png'),
            bilevel=pillow(Image.fromarray(labels > 3), 'png'),
            jpeg=pillow(picture, 'jpeg', quality=100),
            float=pillow(Image.fromarray(labels.astype(np.float32)), 'tiff'),
            turned=pillow(Image.fromarray(np.ascontiguousarray(labels.T)), 'png'),
        )
        path = tmp_path / 'map.png'
        if content is not None:
            path.write_bytes(made.get(content, content))
        results = dict(seg_map_path=str(path), img_path='a.jpg', ori_shape=(HEIGHT, WIDTH))
        with pytest.raises(DataError, match=message) as error:
            LoadAnnotations(with_bbox=False, with_label=False, with_seg=True)(results)
        assert '\n' not in str(error.value)

    def test_no_folder_of_semantic_maps(self):
        load = LoadAnnotations(with_bbox=False, with_label=False, with_seg=True)
        with pytest.raises(DataError, match='data_prefix'):
            load(dict(seg_map_path=None, img_path='x.jpg'))

    def test_filter(self, sample):
        kept = FilterAnnotations(min_gt_bbox_wh=(19, 19))(dict(sample))
        assert kept['gt_bboxes_labels'].tolist() == [2, 0] and len(kept['gt_masks']) == 2
        by_mask = FilterAnnotations(by_box=False, by_mask=True, min_gt_mask_area=300)
        assert by_mask(dict(sample))['gt_bboxes_labels'].tolist() == [2, 0]
        assert FilterAnnotations(min_gt_bbox_wh=(99, 99))(dict(sample)) is None
        empty = FilterAnnotations(min_gt_bbox_wh=(99, 99), keep_empty=False)(dict(sample))
        assert empty['gt_bboxes'].shape == (0, 4) and len(empty['gt_masks']) == 0
        assert FilterAnnotations()(dict(empty))['gt_bboxes'].shape == (0, 4)
        with pytest.raises(ConfigError):
            FilterAnnotations(by_box=False, by_mask=False)


def consistent(results, tolerance=1.0):
    """Boxes are the tight boxes of the masks, and all parts have the image's size."""
    height, width = results['img'].shape[:2]
    assert results['img_shape'] == (height, width)
    assert results['gt_masks'].to_ndarray().shape == (len(results['gt_bboxes']), height, width)
    assert results['gt_seg_map'].shape == (height, width)
    assert results['gt_bboxes'].dtype == np.float32
    tight = results['gt_masks'].get_bboxes()
    return np.abs(tight - results['gt_bboxes']).max() <= tolerance


class TestResize:
    @pytest.mark.parametrize(
        ('settings', 'shape'),
        [
            (dict(scale=(1333, 800), keep_ratio=True), (800, 1067)),  # short side; 1066.67
            (dict(scale=(800, 1333), keep_ratio=True), (800, 1067)),  # the order does not matter
            (dict(scale=(1000, 800), keep_ratio=True), (750, 1000)),  # long side
            (dict(scale=[1000, 800], keep_ratio=True), (750, 1000)),  # as JSON gives it
            (dict(scale=(31, 24), keep_ratio=True), (23, 31)),  # 23.25
            (dict(scale=(100, 50)), (50, 100)),
            (dict(scale=70), (70, 70)),
            (dict(scale_factor=1.49), (72, 95)),  # 71.52, 95.36
            (dict(scale_factor=(0.5, 2.0)), (96, 32)),
        ],
        ids=str,
    )
    def test_sizes_and_agreement(self, sample, settings, shape):
        results = Resize(**settings)(dict(sample))
        assert results['img_shape'] == shape and results['img'].dtype == np.uint8
        assert results['scale_factor'] == (shape[1] / WIDTH, shape[0] / HEIGHT)
        assert consistent(results)
        expected = cv2.resize(sample['img'], shape[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(results['img'], expected)

    def test_masks_take_the_same_pixels_as_the_map(self, sample):
        results = Resize(scale=(33, 31))(dict(sample))
        assert np.array_equal(results['gt_masks'].masks.argmax(0), results['gt_seg_map'])

    def test_polygons(self, sample):
        bitmaps = sample['gt_masks']
        polygons = LoadAnnotations(with_mask=True, poly2mask=False)(dict(sample))['gt_masks']
        results = Resize(scale=(128, 96))(dict(sample, gt_masks=polygons))
        assert consistent(results, 0.01)
        assert (results['gt_masks'].to_ndarray() != bitmaps.resize((96, 128)).masks).mean() < 0.01

    def test_clipping_is_an_option(self, sample):
        sample['gt_bboxes'][0] = [-5, -5, 99, 99]
        clipped = Resize(scale=(WIDTH, HEIGHT))(dict(sample))['gt_bboxes'][0]
        assert clipped.tolist() == [0, 0, WIDTH, HEIGHT]
        free = Resize(scale=(WIDTH, HEIGHT), clip_object_border=False)(dict(sample))
        assert free['gt_bboxes'][0].tolist() == [-5, -5, 99, 99]

    def test_without_instances(self, sample):
        bare = LoadAnnotations(with_mask=True)(dict(sample, instances=[]))
        results = RandomFlip(1.0)(Resize(scale=(100, 100), keep_ratio=True)(bare))
        assert results['gt_bboxes'].shape == (0, 4)
        assert results['gt_masks'].to_ndarray().shape == (0, 75, 100)

    @pytest.mark.parametrize(
        'config',
        [
            dict(type='RandomResize', scale=[(100, 40), (100, 60)], keep_ratio=True),
            dict(type='RandomResize', scale=(100, 50), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomChoiceResize', scales=[(100, 40), (100, 60)], keep_ratio=True),
        ],
        ids=['range', 'ratio', 'choice'],
    )
    def test_mmcv_chooses_the_scale_and_builds_ours(self, sample, config):
        with DefaultScope.overwrite_default_scope(SCOPE):
            for registry in (TRANSFORMS, ROOT_TRANSFORMS):
                transform = registry.build(dict(config))
                assert type(transform.resize) is Resize
        sizes = set()
        for _ in range(20):
            results = transform(dict(sample))
            assert consistent(results, 1.5)
            sizes.add(results['img_shape'])
        assert len(sizes) == 2 if 'scales' in config else len(sizes) > 5


class TestFlip:
    @pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
    def test_twice_is_identity_and_parts_agree(self, sample, direction):
        flip = RandomFlip(prob=1.0, direction=direction)
        once = flip(dict(sample))
        assert once['flip'] is True and once['flip_direction'] == direction
        assert consistent(once, 0)
        axes = {'horizontal': 1, 'vertical': 0, 'diagonal': (0, 1)}[direction]
        assert np.array_equal(once['img'], np.flip(sample['img'], axes))
        assert np.array_equal(once['gt_masks'].masks.argmax(0), once['gt_seg_map'])
        twice = flip(dict(once))
        for key in ('img', 'gt_bboxes', 'gt_seg_map'):
            assert np.array_equal(twice[key], sample[key])
        assert np.array_equal(twice['gt_masks'].masks, sample['gt_masks'].masks)

    def test_boxes_are_mirrored_at_the_width(self, sample):
        boxes = RandomFlip(prob=1.0)(dict(sample))['gt_bboxes']
        assert boxes[0].tolist() == [WIDTH - 30, 8, WIDTH - 10, 28]

    def test_never_and_sometimes(self, sample):
        never = RandomFlip(prob=0.0)(dict(sample))
        assert never['flip'] is False and never['flip_direction'] is None
        flip = RandomFlip(prob=[0.2, 0.3], direction=['horizontal', 'vertical'])
        drawn = [flip(dict(sample))['flip_direction'] for _ in range(300)]
        counts = [drawn.count(d) / 300 for d in ('horizontal', 'vertical', None)]
        assert np.abs(np.array(counts) - [0.2, 0.3, 0.5]).max() < 0.1


class TestPad:
    @pytest.mark.parametrize(
        ('settings', 'shape'),
        [
            (dict(size=(80, 50)), (50, 80)),
            (dict(size=[80, 50]), (50, 80)),  # as JSON gives it
            (dict(size_divisor=32), (64, 64)),
            (dict(pad_to_square=True), (64, 64)),
            (dict(pad_to_square=True, size_divisor=50), (100, 100)),
        ],
        ids=str,
    )
    def test_parts_agree(self, sample, settings, shape):
        pad_val = dict(img=[7, 8, 9], seg=200, masks=0)
        results = Pad(**settings, pad_val=pad_val)(dict(sample))
        assert results['img_shape'] == shape and consistent(results, 0)
        added = np.ones(shape, bool)
        added[:HEIGHT, :WIDTH] = False
        assert (results['img'][added] == (7, 8, 9)).all() and (
            results['gt_seg_map'][added] == 200
        ).all()
        for key in ('img', 'gt_seg_map'):
            assert np.array_equal(results[key][:HEIGHT, :WIDTH], sample[key])
        assert (results['gt_masks'].areas == sample['gt_masks'].areas).all()
        results = Pad(**settings)(dict(sample))
        assert (results['img'][added] == 0).all() and (results['gt_seg_map'][added] == 255).all()

    def test_is_found_by_name(self):
        assert type(TRANSFORMS.build(dict(type='Pad', size=(8, 8)))) is Pad

    @pytest.mark.parametrize(
        'wrong', [{}, dict(size=(8, 8), size_divisor=2), dict(size=(8, 8), pad_to_square=True)]
    )
    def test_contradictions(self, wrong):
        with pytest.raises(ConfigError, match='Pad needs one of'):
            Pad(**wrong)


class TestCrop:
    @pytest.mark.parametrize('polygons', [False, True])
    def test_parts_agree(self, sample, polygons):
        if polygons:
            sample = LoadAnnotations(with_mask=True, poly2mask=False)(sample)
        position = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        sample['img'] = np.stack([position // 256, position % 256, position * 0], 2).astype(
            np.uint8
        )
        sample['gt_bboxes_labels'] = np.arange(3)
        seen = set()
        for _ in range(50):
            crop = RandomCrop((30, 20), allow_negative_crop=True, recompute_bbox=True)
            results = crop(dict(sample))
            assert results['img_shape'] == (20, 30)
            corner = int(results['img'][0, 0, 0]) * 256 + int(results['img'][0, 0, 1])
            top, left = divmod(corner, WIDTH)
            seen.add((top, left))
            assert np.array_equal(
                results['gt_seg_map'], sample['gt_seg_map'][top:, left:][:20, :30]
            )
            labels = results['gt_bboxes_labels']
            assert len(labels) == len(results['gt_ignore_flags']) == len(results['gt_bboxes'])
            if not len(labels):
                continue
            assert consistent(results, 0)
            whole = sample['gt_masks'].to_ndarray()[labels, top:, left:][:, :20, :30]
            assert (results['gt_masks'].to_ndarray() != whole).mean() < (0.02 if polygons else 1e-9)
        assert len(seen) > 20

    def test_boxes_without_recomputing(self, sample):
        np.random.seed(3)
        for clip in (True, False):
            results = RandomCrop((40, 40), bbox_clip_border=clip)(dict(sample))
            boxes, size = results['gt_bboxes'], [40, 40]
            assert (boxes[:, :2] < size).all() and (boxes[:, 2:] > 0).all()
            if clip:
                assert (boxes >= 0).all() and (boxes <= 40).all()

    def test_refuses_crops_without_instances(self, sample):
        sample['gt_bboxes'] = sample['gt_bboxes'] * 0 + [500, 500, 510, 510]
        assert RandomCrop((30, 20))(dict(sample)) is None
        kept = RandomCrop((30, 20), allow_negative_crop=True)(dict(sample))
        assert kept['gt_bboxes'].shape == (0, 4) and len(kept['gt_masks']) == 0

    @pytest.mark.parametrize(
        ('crop_size', 'crop_type', 'heights', 'widths'),
        [
            ((30, 20), 'absolute', {20}, {30}),
            ((300, 200), 'absolute', {HEIGHT}, {WIDTH}),
            ((40, 60), 'absolute_range', set(range(40, 49)), set(range(40, 61))),
            ((0.5, 0.25), 'relative', {12}, {32}),
            ((0.75, 0.5), 'relative_range', set(range(36, 49)), set(range(32, 65))),
        ],
    )
    def test_sizes(self, sample, crop_size, crop_type, heights, widths):
        crop = RandomCrop(crop_size, crop_type, allow_negative_crop=True)
        shapes = [crop(dict(sample))['img_shape'] for _ in range(200)]
        assert {h for h, _ in shapes} <= heights and {w for _, w in shapes} <= widths
        assert len({h for h, _ in shapes}) > len(heights) * 0.8

    @pytest.mark.parametrize(
        ('crop_size', 'crop_type'),
        [((0, 5), 'absolute'), ((9, 5), 'absolute_range'), ((0.5, 1.5), 'relative'), ((5, 5), 'x')],
    )
    def test_wrong_settings(self, crop_size, crop_type):
        with pytest.raises(ConfigError, match='RandomCrop'):
            RandomCrop(crop_size, crop_type)


class TestPhotometric:
    def test_image_changes_and_nothing_else(self, sample):
        means = []
        for _ in range(30):
            results = PhotoMetricDistortion()(dict(sample))
            img = results['img']
            assert img.dtype == np.float32 and img.shape == sample['img'].shape
            assert img.flags.c_contiguous and np.isfinite(img).all()
            means.append(img.mean())
            assert results['gt_bboxes'] is sample['gt_bboxes']
        assert np.std(means) > 5
        assert sample['img'].dtype == np.uint8

    def test_nothing_to_change_is_identity_up_to_channel_order(self, sample):
        still = PhotoMetricDistortion(0, (1, 1), (1, 1), 0)
        for _ in range(5):
            img = still(dict(sample))['img']
            np.testing.assert_allclose(np.sort(img), np.sort(sample['img']), atol=0.01)


class TestPack:
    def test_sample(self, sample):
        sample = RandomFlip(1.0)(Resize(scale=(100, 90), keep_ratio=True)(sample))
        sample['ignore_index'] = 255
        packed = PackDetInputs()(dict(sample))
        inputs, packed = packed['inputs'], packed['data_samples']
        assert inputs.dtype == torch.uint8 and inputs.is_contiguous()
        assert np.array_equal(inputs.numpy(), sample['img'].transpose(2, 0, 1))
        gt, ignored = packed.gt_instances, packed.ignored_instances
        assert gt.bboxes.dtype == torch.float32 and gt.bboxes.shape == (2, 4)
        assert gt.labels.tolist() == [2, 1] and ignored.labels.tolist() == [0]
        assert isinstance(gt.masks, BitmapMasks) and len(gt.masks) == 2 and len(ignored.masks) == 1
        assert np.array_equal(gt.masks.masks, sample['gt_masks'].masks[[0, 2]])
        assert packed.gt_sem_seg.sem_seg.shape == (1, 75, 100)
        assert packed.gt_sem_seg.metainfo['ignore_index'] == 255
        assert packed.metainfo == dict(
            img_id=3,
            img_path='a.png',
            ori_shape=(HEIGHT, WIDTH),
            img_shape=(75, 100),
            scale_factor=(100 / WIDTH, 75 / HEIGHT),
            flip=True,
            flip_direction='horizontal',
        )

    def test_meta_keys_and_no_ground_truth(self, sample):
        packed = PackDetInputs(meta_keys=['img_id', 'scale'])(dict(img=sample['img'], img_id=5))
        assert packed['data_samples'].metainfo == dict(img_id=5)
        assert len(packed['data_samples'].gt_instances) == 0

    @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
    def test_image_to_tensor(self, dtype):
        img = np.random.randint(0, 255, (7, 9, 3)).astype(dtype)
        for view in (img, img[:, ::-1], img[2:5, 1:4], img[..., 0], img[..., :1]):
            tensor = image_to_tensor(view)
            expected = view[None] if view.ndim == 2 else view.transpose(2, 0, 1)
            assert tensor.is_contiguous() and np.array_equal(tensor.numpy(), expected)
