"""Annotations of other formats to COCO JSON and back: real files, holes and parts, bad rows."""

import base64
import csv
import json
import re
import shlex
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from mmdet_r2 import cli
from mmdet_r2.datasets import convert
from mmdet_r2.datasets.convert.common import near_misses
from mmdet_r2.datasets.convert.outlines import joined, single_ring, trace
from mmdet_r2.errors import DataError
from mmdet_r2.structures.masks import encode_rle, polygons_to_rle, to_rle

W, H = 96, 64
FORMATS = ('voc', 'yolo', 'labelme', 'csv', 'masks')


def run(way, *arguments):
    """Convert in this process; errors come out as they are."""
    cli.run(['convert', 'data', way, *map(str, arguments)])


@pytest.fixture
def there_and_back(tmp_path):
    """Write a COCO file in a format and read that again; the content of the new COCO file."""

    def go(kind, ann_file, image_dir, *options):
        target = tmp_path / kind / ('boxes.csv' if kind == 'csv' else '.')
        coding = ['--divisor', '256'] if kind == 'masks' else []
        run('from-coco', kind, ann_file, target, *coding)
        source = target
        classes = [c['name'] for c in json.loads(Path(ann_file).read_text())['categories']]
        (tmp_path / 'classes.txt').write_text('\n'.join(classes))
        more = ['--images', image_dir, '--classes', tmp_path / 'classes.txt']
        if kind == 'yolo':
            (tmp_path / 'yolo' / 'images').mkdir()
            (tmp_path / 'yolo' / 'images' / 'train').symlink_to(image_dir)
            source, more = target / 'data.yaml', []
        if kind == 'masks':
            more = ['--images', image_dir, '--classes', target / 'classes.txt', *coding]
        run('to-coco', kind, source, tmp_path / f'{kind}.json', *more, *options)
        return json.loads((tmp_path / f'{kind}.json').read_text())

    return go


def objects(content):
    """(file name, class name) -> annotations."""
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: i['file_name'] for i in content['images']}
    found = {}
    for a in content['annotations']:
        found.setdefault((files[a['image_id']], names[a['category_id']]), []).append(a)
    return found


def box_iou(one, other):
    boxes = [np.array([a['bbox']], dtype=np.float64) for a in (one, other)]
    return float(coco_mask.iou(*boxes, [0])[0, 0])


def mask_iou(one, other, height, width):
    rles = [[to_rle(a['segmentation'], height, width)] for a in (one, other)]
    return float(coco_mask.iou(*rles, [0])[0, 0])


@pytest.mark.parametrize('kind', FORMATS)
def test_round_trip_of_real_annotations(there_and_back, shared_data, kind, capsys):
    root = shared_data / 'coco_tiny'
    ann_file = root / 'annotations' / 'instances_val2017.json'
    source = json.loads(ann_file.read_text())
    content = there_and_back(kind, ann_file, root / 'val2017')
    said = capsys.readouterr().out
    without_crowds = kind in ('yolo', 'masks')
    crowds = sum(a['iscrowd'] for a in source['annotations'])
    assert crowds and (f'{crowds} crowds left out' in said) == without_crowds
    assert ('masks left out' in said) == (kind in ('voc', 'csv'))
    assert len(content['images']) == len(source['images'])
    assert [c['name'] for c in content['categories']] == [c['name'] for c in source['categories']]
    assert [a['id'] for a in content['annotations']] == [*range(1, len(content['annotations']) + 1)]
    before, after = objects(source), objects(content)
    shapes = {i['file_name']: (i['height'], i['width']) for i in source['images']}
    exact = 0
    for key, wanted in before.items():
        wanted = [a for a in wanted if not (a['iscrowd'] and without_crowds)]
        found = after.get(key, [])
        assert kind == 'masks' or len(found) == len(wanted)  # an object may be hidden altogether
        if kind == 'masks':
            continue
        for old, new in zip(wanted, found):  # in the same order
            assert old['iscrowd'] == new['iscrowd']
            if kind in ('voc', 'csv'):
                assert box_iou(old, new) >= 0.999
            else:
                iou = mask_iou(old, new, *shapes[key[0]])
                assert iou >= 0.999
                exact += iou == 1
    if kind in ('yolo', 'labelme'):
        assert exact >= 0.99 * len(content['annotations'])


def test_png_masks_keep_visible_pixels(there_and_back, shared_data, capsys):
    root = shared_data / 'coco_tiny'
    ann_file = root / 'annotations' / 'instances_train2017.json'
    source = json.loads(ann_file.read_text())
    # objects that nothing overlaps
    clear, shapes = {}, {i['id']: (i['height'], i['width']) for i in source['images']}
    for image_id, shape in shapes.items():
        own = [a for a in source['annotations'] if a['image_id'] == image_id and not a['iscrowd']]
        masks = np.array([coco_mask.decode(to_rle(a['segmentation'], *shape)) for a in own])
        for a, mask in zip(own, masks):
            if mask.any() and (masks.sum(axis=0)[mask > 0] == 1).all():
                clear[a['id']] = a
    content = there_and_back('masks', ann_file, root / 'train2017')
    files = {i['id']: i['file_name'] for i in source['images']}
    names = {c['id']: c['name'] for c in source['categories']}
    after = objects(content)
    assert len(clear) > 200
    for a in clear.values():
        candidates = after[files[a['image_id']], names[a['category_id']]]
        best = max(mask_iou(a, c, *shapes[a['image_id']]) for c in candidates)
        assert best >= 0.999
    assert 'objects partly covered by others' in capsys.readouterr().out


# ------------------------------------------------------------------------------- holes and parts


def ring(radius=20, hole=10):
    mask = np.zeros((H, W), np.uint8)
    cv2.circle(mask, (40, 30), radius, 1, -1)
    cv2.circle(mask, (40, 30), hole, 0, -1)
    return mask


def two_rings():
    mask = ring(14, 6)
    return mask | np.roll(mask, 35, axis=1)


def corner_touch():
    mask = np.zeros((H, W), np.uint8)
    mask[5:10, 5:10] = mask[10:15, 10:15] = mask[5:10, 15:20] = 1
    return mask


SHAPES = {'ring': ring(), 'two rings': two_rings(), 'touching at a corner': corner_touch()}


def filled(outline):
    return coco_mask.decode(polygons_to_rle([np.asarray(outline).reshape(-1)], H, W))


@pytest.mark.parametrize('name', SHAPES)
def test_outlines_are_exact(name):
    mask = SHAPES[name]
    rings = trace(mask)
    odd = np.zeros_like(mask)
    for outline in rings:
        odd ^= filled(outline)
    assert (odd == mask).all()
    assert (filled(joined(rings)) == mask).all()
    # OpenCV fills the pixels on the border, too: draw 8 times as large, look at pixel centres
    big = np.zeros((8 * H, 8 * W), np.uint8)
    cv2.fillPoly(big, [joined(rings).astype(np.int32) * 8], 1)
    by_opencv = big[4::8, 4::8]
    assert (by_opencv == mask).all()


def test_outlines_of_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = (rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.6).astype(np.uint8)
        outlines = trace(mask)
        # clockwise areas are positive, holes negative: together the pixels
        areas = [
            (p[:, 0] * np.roll(p[:, 1], -1) - np.roll(p[:, 0], -1) * p[:, 1]).sum() / 2
            for p in outlines
        ]
        assert sum(areas) == mask.sum()
        if mask.any():
            rle = encode_rle(mask[None])[0]
            whole = single_ring(rle, *mask.shape)
            again = coco_mask.decode(polygons_to_rle([whole.reshape(-1)], *mask.shape))
            assert (again == mask).all()


def test_many_holes_are_joined_quickly():
    noise = np.random.default_rng(0).random((150, 150), dtype=np.float32)
    mask = (cv2.GaussianBlur(noise, (0, 0), 1.5) > 0.5).astype(np.uint8)
    rle = encode_rle(mask[None])[0]
    begin = time.process_time()
    whole = single_ring(rle, 150, 150)
    assert time.process_time() - begin < 2  # not a distance for each two points
    assert (coco_mask.decode(polygons_to_rle([whole.reshape(-1)], 150, 150)) == mask).all()


def test_polygons_that_overlap_are_united():
    parts = [[10, 10, 40, 10, 40, 40, 10, 40], [30, 20, 60, 20, 60, 50, 30, 50]]
    whole = single_ring(parts, H, W)
    assert (filled(whole) == coco_mask.decode(polygons_to_rle(parts, H, W))).all()


@pytest.fixture
def shapes(tmp_path):
    """COCO file of the shapes as run lengths, one image each, and its image folder."""
    (tmp_path / 'photos').mkdir()
    content = dict(images=[], annotations=[], categories=[dict(id=3, name='ring, or so')])
    for i, (name, mask) in enumerate(SHAPES.items(), start=1):
        cv2.imwrite(str(tmp_path / 'photos' / f'{name}.png'), mask * 200)
        content['images'].append(dict(id=i, file_name=f'{name}.png', width=W, height=H))
        rle = encode_rle(mask[None])[0]
        rle['counts'] = rle['counts'].decode()
        x, y, w, h = cv2.boundingRect(mask)
        content['annotations'].append(
            dict(id=i, image_id=i, category_id=3, bbox=[x, y, w, h], iscrowd=0,
                 area=int(mask.sum()), segmentation=rle)
        )  # fmt: skip
    (tmp_path / 'shapes.json').write_text(json.dumps(content))
    return tmp_path / 'shapes.json', tmp_path / 'photos'


@pytest.mark.parametrize('kind', ['yolo', 'labelme', 'masks'])
def test_holes_and_parts_survive(there_and_back, shapes, kind):
    content = there_and_back(kind, *shapes)
    files = {image['id']: image['file_name'] for image in content['images']}
    assert len(content['annotations']) == len(SHAPES)
    for a in content['annotations']:
        mask = coco_mask.decode(to_rle(a['segmentation'], H, W))
        name = files[a['image_id']].removesuffix('.png')
        assert (mask == SHAPES[name]).all()
        assert a['bbox'] == list(cv2.boundingRect(SHAPES[name]))
        parts = 1 if name == 'ring' else 2 if name == 'two rings' else 3
        if kind == 'labelme':
            assert len(a['segmentation']) == parts


# ----------------------------------------------------------------------------------- each format


@pytest.fixture
def photos(tmp_path):
    (tmp_path / 'photos').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        cv2.imwrite(str(tmp_path / 'photos' / name), np.zeros((H, W, 3), np.uint8))
    return tmp_path / 'photos'


def collect(images, notes, folder, classes=None):
    content = convert.to_coco(images, folder, classes, notes)
    names = {c['id']: c['name'] for c in content['categories']}
    return [
        (names[a['category_id']], a['bbox'], a.get('segmentation'), a['iscrowd'])
        for a in content['annotations']
    ]


@pytest.fixture
def notes():
    lines = []
    made = convert.Notes(report=lines.append)
    made.printed = lines
    return made


def labelme(folder, name='a', image='a.jpg', shapes=(), **more):
    content = dict(imagePath=image, shapes=list(shapes), imageWidth=W, imageHeight=H) | more
    (folder / f'{name}.json').write_text(json.dumps(content))


def shape(label, kind, *points, **more):
    return dict(label=label, shape_type=kind, points=[list(p) for p in points]) | more


class TestLabelMe:
    def test_all_shapes(self, photos, notes):
        bitmap = ring(8, 4)[20:41, 30:51] * 255
        png = base64.b64encode(cv2.imencode('.png', bitmap)[1]).decode()
        labelme(photos, shapes=[
            shape('p', 'polygon', (1, 1), (11, 1), (11, 9)),
            shape('r', 'rectangle', (30, 20), (10, 10)),
            shape('c', 'circle', (40, 30), (50, 30)),
            shape('m', 'mask', (30, 20), (50, 40), mask=png),
            shape('l', 'line', (1, 1), (5, 5)),
            shape('d', 'point', (1, 1)),
        ])  # fmt: skip
        found = {
            name: rest
            for name, *rest in collect(convert.read_labelme(photos, notes), notes, photos)
        }
        assert found['p'] == [[1, 1, 10, 8], [[1, 1, 11, 1, 11, 9]], 0]
        assert found['r'] == [[10, 10, 20, 10], None, 0]
        box, polygons, _ = found['c']
        assert box == pytest.approx([30, 20, 20, 20])
        x, y = np.array(polygons[0]).reshape(-1, 2).T
        area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
        assert area == pytest.approx(100 * np.pi, rel=0.001)
        mask = coco_mask.decode(to_rle(found['m'][1], H, W))
        assert (mask[20:41, 30:51] == (bitmap > 0)).all() and mask.sum() == (bitmap > 0).sum()
        assert any('shapes of type line left out' in line for line in notes.lines())

    def test_groups_of_one_number_and_two_labels_are_two_objects(self, photos, notes):
        corners = (1, 1), (11, 1), (11, 9)
        labelme(photos, shapes=[shape(n, 'polygon', *corners, group_id=1) for n in ('p', ' q', 3)])
        found = collect(convert.read_labelme(photos, notes), notes, photos)
        assert [name for name, *_ in found] == ['p', 'q', '3']

    def test_files_passed_over_and_found(self, photos, notes):
        (photos / 'a.JSON').write_text(json.dumps(dict(imagePath='a.jpg', shapes=[])))
        (photos / '._a.json').write_bytes(b'\0')
        (photos / 'more').mkdir()
        (photos / 'more' / 'again').symlink_to(photos)
        labelme(photos / 'more', 'b', '../b.jpg')
        found = convert.read_labelme(photos, notes)
        assert [image.file_name for image in found] == ['a.jpg', 'b.jpg']

    def test_groups_are_one_object(self, photos, notes):
        one = shape('p', 'polygon', (1, 1), (11, 1), (11, 9), group_id=7)
        two = shape('p', 'rectangle', (20, 10), (30, 20), group_id=7)
        labelme(photos, shapes=[one, two, shape('q', 'rectangle', (1, 1), (4, 4), group_id=8)])
        found = collect(convert.read_labelme(photos, notes), notes, photos)
        assert [(name, box) for name, box, *_ in found] == [
            ('p', [1, 1, 29, 19]), ('q', [1, 1, 3, 3]),
        ]  # fmt: skip
        assert len(found[0][2]) == 2 and found[1][2] is None

    def test_image_elsewhere(self, tmp_path, photos, notes):
        (tmp_path / 'labels').mkdir()
        labelme(tmp_path / 'labels', image='..\\photos\\a.jpg', shapes=[])
        labelme(tmp_path / 'labels', 'b', image='/other/computer/b.png', shapes=[])
        images = list(convert.read_labelme(tmp_path / 'labels', notes, photos))
        assert [image.file_name for image in images] == ['a.jpg', 'b.jpg']

    def test_coco_files_in_the_folder_and_rotated_images(self, photos, notes):
        tags = Image.Exif()
        tags[0x0112] = 6
        Image.new('RGB', (W, H)).save(photos / 'a.jpg', exif=tags)
        labelme(photos, 'a')
        labelme(photos, 'b', image='b.jpg')
        (photos / 'all.json').write_text(json.dumps(dict(images=[], annotations=[])))
        one, two = convert.read_labelme(photos, notes)
        assert (one.width, one.height) == (W, H) == (two.width, two.height)
        labelme(photos, 'a', imageWidth=H, imageHeight=W)  # by a tool that turns the image
        assert next(iter(convert.read_labelme(photos, notes))).width == H
        assert not notes.num_errors

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            (dict(shapes=[shape('p', 'polygon', (1, 1), (2, 2))]), r'shape 0: a polygon of 2'),
            (dict(shapes=[shape('p', 'polygon', (1, 'x'))]), 'not pairs of numbers'),
            (dict(shapes=[shape('p', 'circle', (1, 1))]), 'a circle of 1 points'),
            (dict(shapes=[shape('p', 'cube', (1, 1))]), "shape_type 'cube' is not known"),
            (dict(shapes=[dict(points=[])]), 'has no label'),
            (dict(shapes=[shape('p', 'mask', (1, 1), (5, 5), mask='??')]), 'not a PNG in base64'),
            (dict(imageWidth=W + 1), f'says {W + 1} x {H} pixels, but'),
            (dict(image='z.jpg'), r"image 'z.jpg' is not there"),
            (dict(shapes=[shape(' ', 'circle', (9, 9), (1, 1))]), 'has no label'),
            (dict(shapes=[shape('p', 'polygon', (1, 2, 3), (4, 5, 6))]), 'not pairs of numbers'),
            (dict(shapes=[shape('p', 'polygon', (1, 2), (4, 5), (1e9, 9))]), 'no pixel of any'),
            (dict(shapes=[shape('p', 'rectangle', (1, 2), (1, 5))]), 'no width or no height'),
            (dict(shapes=[shape('p', 'rectangle', (1, 2), (9, 5), group_id=1), 'x']), 'no label'),
            (dict(imageWidth='wide'), "imageWidth and imageHeight are 'wide' and"),
            (dict(image='z.jpg', imageData='abc'), 'its imageData is the picture: save it'),
        ],
    )  # fmt: skip
    def test_errors(self, photos, notes, settings, message):
        labelme(photos, **settings)
        with pytest.raises(DataError, match=message) as error:
            collect(convert.read_labelme(photos, notes), notes, photos)
        assert str(photos / 'a.json') in str(error.value)

    def test_broken_json_names_the_line(self, photos, notes):
        (photos / 'a.json').write_text('{\n "shapes": [\n}')
        with pytest.raises(DataError, match=r'a\.json:3: not valid JSON'):
            collect(convert.read_labelme(photos, notes), notes, photos)


class TestYolo:
    @pytest.fixture
    def root(self, tmp_path):
        for split in ('train', 'val'):
            (tmp_path / 'images' / split).mkdir(parents=True)
            (tmp_path / 'labels' / split).mkdir(parents=True)
        for name in ('train/a.jpg', 'train/b.jpg', 'val/c.jpg'):
            cv2.imwrite(str(tmp_path / 'images' / name), np.zeros((H, W, 3), np.uint8))
        (tmp_path / 'labels' / 'train' / 'a.txt').write_text(
            '1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 0.5\n'
        )
        (tmp_path / 'labels' / 'train' / 'lost.txt').write_text('')
        (tmp_path / 'data.yaml').write_text(
            'train: images/train\nval: ../images/val\nnames: [cat, dog]\n'
        )
        return tmp_path

    def read(self, root, notes, split='train'):
        names, folder, files = convert.read_data_yaml(root / 'data.yaml', split)
        images = convert.read_yolo(folder, names, notes, names=files)
        return collect(images, notes, folder, names)

    def test_boxes_and_polygons(self, root, notes):
        assert self.read(root, notes) == [
            ('dog', [W * 3 / 8, H / 4, W / 4, H / 2], None, 0),
            ('cat', [0, 0, W / 2, H / 2], [[0, 0, W / 2, 0, W / 2, H / 2]], 0),
        ]
        text = '\n'.join(notes.lines())
        assert '1 images without a label file, taken as without objects, first in b.jpg' in text
        assert '1 label files without an image' in text

    def test_lists_of_images_and_dictionaries_of_names(self, root, notes):
        (root / 'train.txt').write_text('./images/train/a.jpg\n')
        (root / 'data.yaml').write_text(
            f'path: {root}\ntrain: [train.txt, images/val]\nnames: {{0: cat, 1: dog}}\n'
        )
        (root / 'labels' / 'val' / 'c.txt').write_text('0 0.5 0.5 1 1')
        names, _, files = convert.read_data_yaml(root / 'data.yaml', 'train')
        assert names == ['cat', 'dog'] and files == ['train/a.jpg', 'val/c.jpg']
        assert len(self.read(root, notes)) == 3

    @pytest.mark.parametrize(
        ('row', 'message'),
        [
            ('0 0.5 0.5 0.1', '4 numbers'),
            ('0 0.5 0.5 0.1 0.1 0.9', 'six are a result with its score'),
            ('0 0.5 x 0.1 0.1', "'x' is not a number"),
            ('2 0.5 0.5 0.1 0.1', r'class 2, expected 0 to 1 \(YOLO counts classes from 0\)'),
            ('0.5 0.5 0.5 0.1 0.1', 'class 0.5'),
            ('0 40 30 10 10', '40 is outside 0..1: numbers must be fractions'),
            ('0 nan 0.5 0.1 0.1', "'nan' is not a number"),
            ('nan 0.5 0.5 0.1 0.1', "'nan' is not a number"),
            ('0 0.5 0.5 0 0.1', 'no width or no height'),
            ('0 0.1 0.1 0.5 0.1 0.7 0.1', 'no width or no height'),
        ],
    )
    def test_bad_rows(self, root, notes, row, message):
        file = root / 'labels' / 'train' / 'b.txt'
        file.write_text(f'0 0.5 0.5 0.1 0.1\n{row}\n')
        with pytest.raises(DataError, match=message) as error:
            self.read(root, notes)
        assert f'{file}:2: ' in str(error.value)
        skipping = convert.Notes(skip_bad=True, report=lambda line: None)
        assert len(self.read(root, skipping)) == 2  # those of a.jpg

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('train: images/train', "no 'names'"),
            ('names: [a]\nval: images/val', "no split 'train'; it has val"),
            ('names: [a]\ntrain: images/none', 'images/none does not exist'),
            ('names: [a]\npath: nowhere\ntrain: x', 'path: nowhere does not exist'),
            ('names: {1: a}\ntrain: images/train', 'expected 0, 1, 2'),
            ('names: [a\ntrain: x:', r'data\.yaml:\d+: not valid YAML'),
            ('names: [no, a]\ntrain: images/train', 'names: False is no text; .* in quotes'),
            ('names: [a, a]\ntrain: images/train', "names: 'a' occurs twice"),
            ('names: [a]\nnc: 2\ntrain: images/train', 'nc is 2, but there are 1 names'),
            ('names: [a]\nkpt_shape: [17, 3]\ntrain: images/train', 'kpt_shape'),
            ('names: [a]\npath: 5\ntrain: 7', 'path: 5 does not exist'),
            ('names: [a]\ntrain: [7]', 'train: 7 does not exist'),
            ('names: [a]\ntrain: empty.txt', r'train: no image in empty\.txt'),
            ('names: [a]\ntrain: latin.txt', r'latin\.txt:2: not a text file in UTF-8'),
        ],
    )
    def test_bad_yaml(self, root, text, message):
        (root / 'data.yaml').write_text(text)
        (root / 'empty.txt').write_text('')
        (root / 'latin.txt').write_bytes('images/train/a.jpg\nä.jpg'.encode('latin-1'))
        with pytest.raises(DataError, match=message):
            convert.read_data_yaml(root / 'data.yaml', 'train')

    def test_files_as_windows_writes_them(self, root, notes):
        text = 'names: {"0": cat, 1: dog}\r\ntrain: train.txt\r\n'
        (root / 'data.yaml').write_text(text, encoding='utf-16')
        (root / 'train.txt').write_text('images\\train\\a.jpg\r\n', encoding='utf-8-sig')
        (root / 'labels/train/a.txt').write_text('1 .5 .5 .5 .5\r\n', encoding='utf-8-sig')
        assert self.read(root, notes) == [('dog', [W / 4, H / 4, W / 2, H / 2], None, 0)]

    def test_no_labels_at_all(self, root, notes):
        (root / 'labels' / 'train' / 'a.txt').unlink()
        with pytest.raises(DataError, match='no label file for any of 2 images'):
            self.read(root, notes)


class TestCSV:
    @pytest.mark.parametrize(
        'text',
        [
            'a.jpg,10,20,30,50,cat\nb.jpg,,,,,\n',
            'image,xmin,ymin,xmax,ymax,class\na.jpg,10,20,30,50,cat\nb.jpg,,,,,\n',
            'filename;width;height;class;xmin;ymin;xmax;ymax\na.jpg;96;64;cat;10;20;30;50\nb.jpg;96;64;;;;;\n',
            'class,x1,y1,x2,y2,Image Name\ncat,10,20,30,50,photos/a.jpg\n,,,,,b.jpg\n',
            'image|x|y|width|height|class\na.jpg|10|20|20|30|cat\nb.jpg\n',
            'image_id,width,height,bbox,label\na,96,64,"[10, 20, 20, 30]",cat\nb,96,64,,\n',
            '\ufeffpath\tx\ty\tw\th\tlabel\n/there/a.jpg\t10\t20\t20\t30\tcat\nb.jpg\t\t\t\t\t\n',
        ],
        ids=['no header', 'plain', 'semicolons', 'any order', 'bars, short row', 'bbox', 'tabs'],
    )
    def test_variants(self, photos, notes, text):
        (photos / 'x.csv').write_text(text)
        content = convert.to_coco(convert.read_csv(photos / 'x.csv', notes), photos, None, notes)
        assert [i['file_name'] for i in content['images']] == ['a.jpg', 'b.jpg']
        (found,) = content['annotations']
        assert found['bbox'] == [10, 20, 20, 30]
        assert content['categories'] == [dict(id=1, name='cat')]

    @pytest.mark.parametrize(
        ('header', 'row'),
        [
            ('label_name,x,y,width,height,image_name,image_width,image_height',
             'cat,10,20,20,30,a.jpg,96,64'),
            ('filename,width,height,class,xmin,ymin,xmax,ymax', 'a.jpg,96,64,cat,10,20,30,50'),
            ('image_width,image_height,width,height,x,y,label,image',
             '96,64,20,30,10,20,cat,a.jpg'),
            ('image,width,height,w,h,x,y,class', 'a.jpg,96,64,20,30,10,20,cat'),
            ('image,width,height,image_width,image_height,xmin,ymin,xmax,ymax,class',
             'a.jpg,20,30,96,64,10,20,30,50,cat'),
            ('image_id,file_name,class_id,class_name,xmin,ymin,width,height',
             '7,a.jpg,3,cat,10,20,20,30'),
            ('Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId',
             'a.jpg;96;64;10;20;30;50;cat'),
            ('path,filename,cx,cy,w,h,class', '/x/b.jpg,a.jpg,20,35,20,30,cat'),
            ('ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded',
             'a,xclick,cat,1,10,30,20,50,0'),
        ],
    )  # fmt: skip
    def test_headers_of_other_tools(self, photos, notes, header, row):
        (photos / 'x.csv').write_text(f'{header}\n{row}\n')
        found = collect(convert.read_csv(photos / 'x.csv', notes), notes, photos)
        assert found == [('cat', [10, 20, 20, 30], None, 0)]

    @pytest.mark.parametrize('label', ['{"label":"cat"}', '{"class":{"cat":true},"id":"4"}'])
    @pytest.mark.parametrize(
        'region',
        [
            '{"name":"rect","x":10,"y":20,"width":20,"height":30}',
            '{"name":"polygon","all_points_x":[10,30,15],"all_points_y":[20,35,50]}',
            '{"name":"ellipse","cx":20,"cy":35,"rx":10,"ry":15}',
        ],
    )
    def test_regions_of_the_vgg_annotator(self, photos, notes, region, label):
        with open(photos / 'x.csv', 'w', newline='') as file:
            rows = csv.writer(file)
            names = 'filename file_size file_attributes region_count region_id'
            rows.writerow([*names.split(), 'region_shape_attributes', 'region_attributes'])
            rows.writerow(['a.jpg', 9, '{}', 1, 0, region, label])
            rows.writerow(['b.jpg', 9, '{}', 0, 0, '{}', '{}'])
        content = convert.to_coco(convert.read_csv(photos / 'x.csv', notes), photos, None, notes)
        assert [i['file_name'] for i in content['images']] == ['a.jpg', 'b.jpg']
        assert [a['bbox'] for a in content['annotations']] == [[10, 20, 20, 30]]
        assert content['categories'] == [dict(id=1, name='cat')]

    @pytest.mark.parametrize(
        ('region', 'label'),
        [
            ('{"name":"point","cx":1,"cy":2}', '{"label":"cat"}'),
            ('{"name":"rect","x":1}', '{"label":"cat"}'),
            ('{"name":"rect","x":1,"y":2,"width":9,"height":9}', '{"a":"cat","b":"dog"}'),
            ('[1]', '{}'),
            ('{', '{}'),
        ],
    )
    def test_regions_that_are_none(self, photos, notes, region, label):
        with open(photos / 'x.csv', 'w', newline='') as file:
            rows = csv.writer(file)
            rows.writerow(['filename', 'region_shape_attributes', 'region_attributes'])
            rows.writerow(['a.jpg', region, label])
        with pytest.raises(DataError, match=r'x\.csv:2: '):
            list(convert.read_csv(photos / 'x.csv', notes))

    def test_files_that_are_no_csv(self, photos, notes):
        (photos / 'x.csv').write_bytes('a.jpg,1,2,9,9,cat\na.jpg,1,2,9,9,Äpfel\n'.encode('cp1252'))
        with pytest.raises(DataError, match=r'x\.csv:2: not a text file in UTF-8'):
            list(convert.read_csv(photos / 'x.csv', notes))
        (photos / 'x.csv').write_text('a.jpg,1,2,9,9,' + 'x' * 200_000)
        with pytest.raises(DataError, match=r'x\.csv:1: field larger'):
            list(convert.read_csv(photos / 'x.csv', notes))
        (photos / 'x.csv').write_text('a.jpg,1,2,9,9,cat\n"a.jpg,1,2,9,9,cat\na.jpg,3,4,9,9,cat\n')
        with pytest.raises(DataError, match=r'x\.csv:3: '):
            list(convert.read_csv(photos / 'x.csv', notes))

    def test_sizes_before_and_after_a_rotation(self, photos, notes):
        tags = Image.Exif()
        tags[0x0112] = 6
        Image.new('RGB', (W, H)).save(photos / 'a.jpg', exif=tags)
        for width, height in ((W, H), (H, W)):
            text = f'image,width,height,x,y,w,h,class\na.jpg,{width},{height},1,2,9,9,cat\n'
            (photos / 'x.csv').write_text(text)
            (image,) = convert.read_csv(photos / 'x.csv', notes)
            assert (image.width, image.height) == (width, height)
        (photos / 'x.csv').write_text(text + f'a.jpg,{W},{H},1,2,9,9,cat\n')
        with pytest.raises(DataError, match=r'x\.csv:3: width 96, but its image has 64 x 96'):
            collect(convert.read_csv(photos / 'x.csv', notes), notes, photos)

    def test_fractions(self, photos, notes):
        (photos / 'x.csv').write_text(
            'ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,cat,0.25,0.5,0,1,1\n'
        )
        found = collect(convert.read_csv(photos / 'x.csv', notes, photos, True), notes, photos)
        assert found == [('cat', [W / 4, 0, W / 4, H], None, 1)]

    @pytest.mark.parametrize(
        ('row', 'message'),
        [
            ('a.jpg,10,20,30,x,cat', 'expected four finite numbers'),
            ('a.jpg,10,20,30', '4 columns, expected 6'),
            ('a.jpg,10,20,30,50,', 'no class'),
            (',10,20,30,50,cat', 'no image'),
            ('a.jpg,30,20,10,50,cat', 'is empty'),
            ('a.jpg,0.1,0.2,0.3,0.5,cat', '--normalized'),
            ('aa.jpg,10,20,30,50,cat', "did you mean 'a.jpg'"),
            ('a.jpg,10,20,nan,50,cat', 'expected four finite numbers'),
            ('a.jpg,1,2,3,4,dog, big', '7 columns, expected 6'),
        ],
    )
    def test_bad_rows(self, photos, notes, row, message):
        (photos / 'x.csv').write_text(f'image,xmin,ymin,xmax,ymax,class\nb.jpg,1,2,3,4,a\n{row}\n')
        with pytest.raises(DataError, match=re.escape(message)) as error:
            collect(convert.read_csv(photos / 'x.csv', notes), notes, photos)
        assert f'{photos / "x.csv"}:3: ' in str(error.value)

    def test_an_unknown_class_is_named_with_its_own_line(self, photos, notes):
        (photos / 'x.csv').write_text('b.jpg,1,2,3,4,apple\nb.jpg,1,2,3,4,aple\n')
        with pytest.raises(DataError, match=r"x\.csv:2: class 'aple' .*did you mean 'apple'"):
            list(convert.read_csv(photos / 'x.csv', notes, classes=['apple', 'pear']))
            notes.finish()

    def test_bad_headers(self, photos, notes):
        for header, message in (
            ('image,xmin,ymin,xmax,class', 'no column xmin, ymin, xmax, ymax'),
            ('imag,xmin,ymin,xmax,ymax,class', r"no column image \(did you mean 'imag'\?\)"),
            ('image,xmin,ymin,xmax,ymax,class,label', 'class and label both mean class'),
        ):
            (photos / 'x.csv').write_text(f'{header}\na.jpg,1,2,3,4,5,6\n')
            with pytest.raises(DataError, match=message):
                list(convert.read_csv(photos / 'x.csv', notes))


class TestVOC:
    @pytest.fixture
    def root(self, tmp_path):
        for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
            (tmp_path / folder).mkdir(parents=True)
        for name in ('a', 'b'):
            cv2.imwrite(str(tmp_path / 'JPEGImages' / f'{name}.jpg'), np.zeros((H, W, 3), np.uint8))
            self.write(tmp_path, name)
        (tmp_path / 'ImageSets' / 'Main' / 'trainval.txt').write_text('a\n')
        return tmp_path

    @staticmethod
    def write(root, name, box=(1, 1, 10, 20), size=(W, H), difficult=0, tail='</annotation>'):
        corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), box)
        numbers = '\n'.join(f'<{tag}>{value}</{tag}>' for tag, value in corners)
        (root / 'Annotations' / f'{name}.xml').write_text(
            f'<annotation>\n<filename>{name}.jpg</filename>\n'
            f'<size><width>{size[0]}</width><height>{size[1]}</height></size>\n'
            f'<object><name>cat</name><difficult>{difficult}</difficult>\n'
            f'<bndbox>{numbers}</bndbox></object>\n{tail}'
        )

    def read(self, root, notes, **options):
        return collect(convert.read_voc(root, notes, **options), notes, root / 'JPEGImages')

    def test_pixels_count_from_one(self, root, notes):
        assert self.read(root, notes) == [('cat', [0, 0, 10, 20], None, 0)] * 2
        assert self.read(root, notes, split='trainval', one_based=False) == [
            ('cat', [1, 1, 9, 19], None, 0)
        ]
        (other,) = [p for p in (root / 'Annotations').glob('b.xml')]
        assert self.read(root / 'Annotations', notes, image_dir=root / 'JPEGImages')
        other.unlink()
        assert len(self.read(root, notes)) == 1

    def test_difficult(self, root, notes):
        self.write(root, 'a', difficult=1)
        for choice, crowds in (('ignore', [1, 0]), ('keep', [0, 0]), ('drop', [0])):
            found = self.read(root, notes, difficult=choice)
            assert [crowd for *_, crowd in found] == crowds
        assert any('1 difficult objects dropped' in line for line in notes.lines())

    def test_zero_based_boxes_are_suspected(self, root, notes):
        self.write(root, 'a', box=(0, 0, 10, 20))
        assert self.read(root, notes)[0][1] == [0, 0, 10, 20]
        assert any('--zero-based?' in line for line in notes.lines())

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            (dict(tail=''), r'a\.xml, line \d+: not valid XML'),
            (dict(box=(1, 1, 'x', 5)), r"a\.xml, line \d+: object 1 \('cat'\) has 'x' for <xmax>"),
            (dict(box=(9, 1, 3, 5)), r"a\.xml: object 1 \('cat'\) has the box 9, 1, 3, 5"),
            (dict(size=(W, 1)), f'says {W} x 1 pixels, but'),
        ],
    )
    def test_errors(self, root, notes, settings, message):
        self.write(root, 'a', **settings)
        with pytest.raises(DataError, match=message):
            self.read(root, notes)
        assert not notes.printed  # the only one: it is the message

    def test_splits(self, root, notes):
        with pytest.raises(DataError, match=r'val\.txt does not exist; splits there: trainval'):
            self.read(root, notes, split='val')
        (root / 'ImageSets' / 'Main' / 'val.txt').write_text('a\nz\n')
        with pytest.raises(DataError, match=r'val\.txt, line 2: .*z\.xml does not exist'):
            self.read(root, notes, split='val')


class TestMasks:
    def test_pairs_as_in_voc(self, photos, tmp_path, notes):
        for folder, values in (('objects', (1, 2)), ('classes', (2, 1))):
            (tmp_path / folder).mkdir()
            mask = np.full((H, W), 0, np.uint8)
            mask[5:10, 5:10], mask[20:30, 20:40] = values
            mask[4] = 255  # the border
            cv2.imwrite(str(tmp_path / folder / 'a.png'), mask)
        images = convert.read_masks(
            photos, tmp_path / 'objects', ['cat', 'dog'], notes, class_dir=tmp_path / 'classes'
        )
        found = collect(images, notes, photos, ['cat', 'dog'])
        assert [(name, box) for name, box, *_ in found] == [
            ('dog', [5, 5, 5, 5]), ('cat', [20, 20, 20, 10]),
        ]  # fmt: skip

    def test_values_that_are_all_ground_are_said(self, photos, tmp_path, notes):
        (tmp_path / 'masks').mkdir()
        cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), np.full((H, W), 1, np.uint8))
        (image,) = convert.read_masks(photos, tmp_path / 'masks', ['cat'], notes)
        assert not image.labels
        assert '1 PNGs have values below 1000 only' in notes.lines()[0]
        for divisor in (0, -5):
            with pytest.raises(DataError, match=f'divisor is {divisor}, expected at least 1'):
                list(convert.read_masks(photos, tmp_path / 'masks', ['cat'], notes, divisor))

    @pytest.mark.parametrize(
        ('mask', 'message'),
        [
            (np.full((H, W), 3001, np.uint16), 'is of class 3, expected 1 to 2'),
            (np.zeros((H, W - 1), np.uint8), f'{W - 1} x {H} pixels, its image {W} x {H}'),
            (np.zeros((H, W, 3), np.uint8), '3 channels'),
        ],
    )
    def test_errors(self, photos, tmp_path, notes, mask, message):
        (tmp_path / 'masks').mkdir()
        cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), mask)
        images = convert.read_masks(photos, tmp_path / 'masks', ['cat', 'dog'], notes)
        with pytest.raises(DataError, match=message):
            collect(images, notes, photos)


# ------------------------------------------------------------------------------ what all share


def test_all_errors_are_listed_and_nothing_is_written(photos, tmp_path, capsys):
    (photos / 'x.csv').write_text('a.jpg,1,2,3,x,cat\na.jpg,1,2,9,9,cat\nz.jpg,1,2,9,9,cat\n')
    out = tmp_path / 'out.json'
    with pytest.raises(DataError, match=r'^2 errors; nothing was written'):
        run('to-coco', 'csv', photos / 'x.csv', out)
    errors = capsys.readouterr().err
    assert errors.count('error: ') == errors.count('\n') == 2
    assert 'x.csv:1: ' in errors and 'x.csv:3: ' in errors
    assert not out.exists()
    run('to-coco', 'csv', photos / 'x.csv', out, '--skip-bad')
    assert len(json.loads(out.read_text())['annotations']) == 1
    assert '2 files or rows with errors were left out' in capsys.readouterr().out


def test_errors_beyond_a_hundred_are_counted(photos):
    lines = []
    notes = convert.Notes(report=lines.append)
    (photos / 'x.csv').write_text('a.jpg,1,2,3,x,cat\n' * 150)
    with pytest.raises(DataError, match='150 errors'):
        collect(convert.read_csv(photos / 'x.csv', notes), notes, photos)
    assert len(lines) == 101 and 'further' in lines[-1]


def test_nothing_left_is_an_error(photos):
    notes = convert.Notes(skip_bad=True, report=lambda line: None)
    (photos / 'x.csv').write_text('z.jpg,1,2,3,x,cat\n')
    with pytest.raises(DataError, match='no image with annotations found; 1 were left out'):
        collect(convert.read_csv(photos / 'x.csv', notes), notes, photos)


def test_class_names_of_other_spelling(photos, tmp_path, capsys):
    (photos / 'x.csv').write_text('a.jpg,1,2,9,9,Traffic light\na.jpg,1,2,9,9,traffic-light\n')
    out = tmp_path / 'out.json'
    with pytest.raises(DataError, match='2 errors'):
        run('to-coco', 'csv', photos / 'x.csv', out, '--classes', 'traffic light')
    assert re.search(r"x\.csv:1: .*did you mean 'traffic light'", capsys.readouterr().err)
    run('to-coco', 'csv', photos / 'x.csv', out)
    said = capsys.readouterr().out
    assert "classes 'Traffic light' and 'traffic-light' are probably one" in said
    assert near_misses(['a', 'b', 'A ', 'a_']) == [('A ', 'a'), ('A ', 'a_')]
    with pytest.raises(DataError, match="class 'a' is named twice"):
        convert.class_names(['a', 'a'])


def test_an_image_annotated_twice(photos, notes):
    labelme(photos, 'one', shapes=[])
    labelme(photos, 'two', shapes=[])
    with pytest.raises(
        DataError, match=r'two\.json: its image a\.jpg was annotated in .*one\.json'
    ):
        collect(convert.read_labelme(photos, notes), notes, photos)


def test_split_is_repeatable(photos, tmp_path, capsys):
    for i in range(10):
        cv2.imwrite(str(photos / f'{i}.jpg'), np.zeros((H, W, 3), np.uint8))
    (photos / 'x.csv').write_text(''.join(f'{i}.jpg,1,2,9,9,cat\n' for i in range(10)))
    parts = []
    for seed in (1, 1, 2):
        options = ['--val-fraction', '0.3', '--seed', seed]
        run('to-coco', 'csv', photos / 'x.csv', tmp_path / 'out.json', *options)
        parts.append(
            [json.loads((tmp_path / name).read_text()) for name in ('out.json', 'out_val.json')]
        )
    assert parts[0] == parts[1] != parts[2]
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[words.index('--val') + 1] == str(tmp_path / 'out_val.json')
    train, val = ([image['file_name'] for image in part['images']] for part in parts[0])
    assert len(val) == 3 and sorted(train + val) == [f'{i}.jpg' for i in range(10)]
    assert len(parts[0][0]['annotations']) == 7
    with pytest.raises(DataError, match='both parts need images'):
        convert.split(parts[0][0], 0.01)


@pytest.mark.parametrize('kind', ['yolo', 'labelme', 'voc', 'masks'])
def test_writers_write_nothing_outside_their_folder(shapes, tmp_path, kind):
    content = json.loads(shapes[0].read_text())
    (tmp_path / 'other').mkdir()
    before = sorted(tmp_path.rglob('*'))
    for name in ('./../../a.jpg', 'a/../../../b.jpg', '/tmp/a.jpg', 'C:\\a.jpg', '..\\..\\a.jpg'):
        content['images'][-1]['file_name'] = name
        ann_file = shapes[0].with_name('outside.json')
        ann_file.write_text(json.dumps(content))
        with pytest.raises(DataError) as error:
            run('from-coco', kind, ann_file, tmp_path / 'deep' / 'out')
        assert repr(name) in str(error.value)
        ann_file.unlink()
    content['images'][-1]['file_name'] = 'link/a.jpg'
    shapes[0].write_text(json.dumps(content))
    out = tmp_path / 'deep' / 'out'
    folder = {'yolo': out / 'labels' / 'train', 'voc': out / 'Annotations'}.get(kind, out)
    folder.mkdir(parents=True)
    (folder / 'link').symlink_to(tmp_path / 'other')
    with pytest.raises(DataError, match='link/a'):
        run('from-coco', kind, shapes[0], out)
    assert sorted(path for path in tmp_path.rglob('*') if 'deep' not in path.parts) == before


def test_writers_say_what_they_cannot_do(shapes, tmp_path, notes):
    classes, images = convert.read_coco(shapes[0], notes)
    with pytest.raises(DataError, match='use --divisor 32768 or less'):
        convert.write_masks(images, classes, tmp_path / 'm', notes, divisor=40000)
    convert.write_yolo(images[1:], classes, tmp_path / 'y', notes)
    with pytest.raises(DataError, match='has other classes'):
        convert.write_yolo(images[1:], ['cat'], tmp_path / 'y', notes)
    content = json.loads(shapes[0].read_text())
    content['annotations'][0]['image_id'] = 99
    shapes[0].write_text(json.dumps(content))
    before = sum(len(image.objects) for image in images)
    _, images = convert.read_coco(shapes[0], notes)
    assert sum(len(image.objects) for image in images) == before - 1
    assert any('annotation 1: image_id is 99' in line for line in notes.lines())
    content['annotations'][0]['image_id'] = None
    shapes[0].write_text(json.dumps(content))
    with pytest.raises(DataError, match='annotation 1 has no image_id'):
        convert.read_coco(shapes[0], notes)


def test_the_way_back_is_said(tmp_path, shapes, capsys):
    run('from-coco', 'yolo', shapes[0], tmp_path / 'yolo')
    out = capsys.readouterr().out
    assert f'objects; written to {tmp_path / "yolo"}' in out
    assert f'put or link the images into {tmp_path / "yolo" / "images" / "train"}' in out
    with pytest.raises(DataError, match='says where the images are: leave out --images'):
        run('to-coco', 'yolo', tmp_path / 'yolo' / 'data.yaml', 'x.json', '--images', '.')
    for divisor in ('1000', '300'):
        masks = tmp_path / divisor
        run('from-coco', 'masks', shapes[0], masks, '--divisor', divisor)
        (line,) = (
            line for line in capsys.readouterr().out.splitlines() if line.startswith('the way back')
        )
        words = line.split(' to-coco masks ')[1].split()
        back = tmp_path / f'{divisor}.json'
        values = dict(OUT=back, DIR=shapes[1])
        run('to-coco', 'masks', *(values.get(word, word) for word in words))
        found, given = (json.loads(Path(file).read_text()) for file in (back, shapes[0]))
        count = {key: len(value) for key, value in objects(found).items()}
        assert count == {key: len(value) for key, value in objects(given).items()}


def test_commands_of_the_page(repo, tmp_path, monkeypatch, shapes):
    """Every conversion of the page, on files as its paths say."""
    text = (repo / 'docs' / 'your_data.md').read_text(encoding='utf-8')
    section = text.split('## Other formats')[1].split('\n## ')[0]
    (block,) = re.findall(r'```bash\n(.*?)```', section, re.S)
    fruit = tmp_path / 'data' / 'fruit'
    content = json.loads(shapes[0].read_text())
    content['categories'] = [dict(id=3, name='apple'), dict(id=4, name='pear')]
    shapes[0].write_text(json.dumps(content))
    fruit.mkdir(parents=True)
    shapes[1].rename(fruit / 'train')
    for link in ('VOC2007/JPEGImages', 'yolo/images/train'):
        (fruit / link).parent.mkdir(parents=True)
        (fruit / link).symlink_to(fruit / 'train')
    for kind, target, *more in (
        ('voc', 'VOC2007', '--split', 'trainval'), ('yolo', 'yolo'), ('labelme', 'labelme'),
        ('csv', 'boxes.csv'), ('masks', 'masks'),
    ):  # fmt: skip
        run('from-coco', kind, shapes[0], fruit / target, *more)
    monkeypatch.chdir(tmp_path)
    commands = [line.split() for line in block.splitlines() if line.startswith('$convert')]
    assert [command[1] for command in commands] == list(FORMATS)
    for _, kind, *arguments in commands:
        arguments = [a.replace('$fruit', 'data/fruit') for a in arguments]
        run('to-coco', kind, *arguments)
        written = json.loads(Path(arguments[1]).read_text())
        assert len(written['annotations']) == len(SHAPES)
