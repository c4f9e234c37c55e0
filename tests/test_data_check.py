"""The check of a data set: every kind of defect is found and named, and corrected on request."""

import copy
import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from warm_python import python

from mmdet_r2 import cli
from mmdet_r2.datasets import CustomDataset, ImageAnnotations, check
from mmdet_r2.datasets.check import KINDS
from mmdet_r2.datasets.coco_json import normal_shape
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS

W, H = 64, 48

# What a defect is found as, and of which image and annotation; 'a.jpg' is image 1, and so on.
DEFECTS = {
    'image-malformed': (None, None),
    'image-id-twice': (1, None),
    'image-name-twice': (21, None),
    'image-size-missing': (2, None),
    'image-path': (3, None),
    'file-missing': (4, None),
    'file-corrupt': (5, None),
    'file-truncated': (6, None),
    'file-damaged': (7, None),
    'size-mismatch': (8, None),
    'exif-rotation': (9, None),
    'category-malformed': (None, None),
    'category-twice': (None, None),
    'category-spelling': (None, None),
    'annotation-malformed': (1, None),
    'annotation-id-twice': (1, 100),
    'annotation-twice': (1, 102),
    'image-unknown': (999, 103),
    'category-unknown': (1, 104),
    'box-malformed': (1, 105),
    'flag-malformed': (1, 120),
    'box-empty': (1, 106),
    'box-outside': (1, 107),
    'box-beyond': (1, 108),
    'mask-malformed': (1, 109),
    'polygon-short': (1, 110),
    'polygon-odd': (1, 111),
    'polygon-not-finite': (1, 112),
    'rle-bad': (1, 113),
    'mask-empty': (1, 114),
    'box-mask': (1, 115),
    'area': (1, 116),
    'crowd-polygons': (1, 117),
    'leak-name': (10, None),
    'leak-content': (11, None),
    'categories-differ': (None, None),
    'same-content': (12, None),
    'exif-undecidable': (13, None),
    'class-empty': (None, None),
    'category-unused': (None, None),
    'mask-missing': (1, 118),
    'file-unlisted': (None, None),
}


def square(number, image_id=1, box=(10, 10, 20, 16), category_id=1, **more):
    x, y, w, h = box
    entry = dict(id=number, image_id=image_id, category_id=category_id, bbox=[x, y, w, h])
    entry |= dict(area=w * h, iscrowd=0)
    entry['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return entry | more


def write_image(path: Path, seed: int, exif: int = 0, size=(W, H)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size)
    tags = Image.Exif()
    if exif:
        tags[0x0112] = exif
    image.save(path, quality=90, exif=tags)


def write_sound(root: Path, name: str, stems: str, seed: int, categories=('cat', 'dog')) -> dict:
    content = dict(
        images=[
            dict(id=i, file_name=f'{stem}.jpg', width=W, height=H)
            for i, stem in enumerate(stems, start=1)
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(categories, start=1)],
        annotations=[square(i, i, category_id=1 + i % 2) for i in range(1, len(stems) + 1)],
    )
    for i, stem in enumerate(stems):
        write_image(root / name / f'{stem}.jpg', seed + i)
    (root / f'{name}.json').write_text(json.dumps(content))
    return content


@pytest.fixture(scope='module')
def broken(tmp_path_factory) -> Path:
    """A folder with ``train.json``, which has every defect, ``val.json``, and their images."""
    root = tmp_path_factory.mktemp('broken')
    content = write_sound(root, 'train', 'abcdefghijklm', 0)
    write_sound(root, 'val', 'jxyz', 1000, ('cat', 'dog', 'hamster'))
    train, val = root / 'train', root / 'val'
    images = {image['file_name'][0]: image for image in content['images']}
    del images['b']['width']
    (train / 'sub').mkdir()
    (train / 'c.jpg').rename(train / 'sub' / 'c.jpg')
    images['c']['file_name'] = 'C:\\photos\\c.jpg'
    (train / 'd.jpg').unlink()
    (train / 'e.jpg').write_bytes(b'no image at all')
    data = (train / 'f.jpg').read_bytes()
    (train / 'f.jpg').write_bytes(data[: len(data) // 2])
    data = (train / 'g.jpg').read_bytes()
    # inside of the pixels' data, where only the decoder notices
    (train / 'g.jpg').write_bytes(data[: len(data) - 400] + data[-2:])
    write_image(train / 'h.jpg', 7, size=(W * 2, H * 2))
    write_image(train / 'i.jpg', 8, exif=6)
    (train / 'j.jpg').write_bytes((val / 'j.jpg').read_bytes())
    (train / 'k.jpg').write_bytes((val / 'x.jpg').read_bytes())
    (train / 'l.jpg').write_bytes((train / 'a.jpg').read_bytes())
    write_image(train / 'm.jpg', 12, exif=3)
    write_image(train / 'unlisted.jpg', 99)
    content['images'] += [
        dict(id=20, width=W, height=H),
        dict(id=1, file_name='a.jpg', width=W, height=H),
        dict(id=21, file_name='a.jpg', width=W, height=H),
    ]
    content['categories'] += [
        dict(id=30),
        dict(id=1, name='horse'),
        dict(id=31, name='Dog '),
        dict(id=32, name='parrot'),
        dict(id=33, name='parrot'),
    ]
    empty = dict(size=[H, W], counts=[H * W])
    polygon = [10, 10, 30, 10, 30, 26, 10, 26]
    content['annotations'] += [
        'no annotation',
        {k: v for k, v in square(0, box=(1, 2, 5, 5)).items() if k != 'id'},
        square(100, box=(30, 10, 8, 8)),
        square(100, box=(31, 10, 8, 8)),
        square(101, box=(32, 10, 8, 8)),
        square(102, box=(32, 10, 8, 8)),
        square(103, image_id=999),
        square(104, category_id=999),
        square(105, bbox=[1, 2, 3]),
        square(106, box=(5, 5, 0, 9)),
        square(107, box=(W + 5, 5, 9, 9)),
        square(108, box=(W - 10, 5, 30, 9)),
        square(109, box=(33, 10, 8, 8), segmentation='none'),
        square(110, box=(11, 10, 19, 16), segmentation=[[*polygon[:-1], 25], [1, 1, 2, 2]]),
        square(111, box=(10, 12, 20, 14), segmentation=[polygon, [1, 1, 2, 2, 3, 3, 4]]),
        square(112, box=(10, 11, 20, 16), segmentation=[polygon, [1, 1, 2, None, 3, 3]]),
        square(113, box=(35, 10, 8, 8), segmentation=dict(size=[H, W], counts=[5, 5])),
        square(114, box=(36, 10, 8, 8), segmentation=empty),
        square(115, box=(37, 30, 8, 8), segmentation=[[*polygon[:-1], 24]]),
        square(116, box=(38, 10, 12, 12), area=9999),
        square(117, box=(39, 10, 8, 8), iscrowd=1),
        square(118, box=(40, 10, 8, 8), segmentation=[]),
        square(119, box=(41, 10, 8, 8), category_id=31),
        square(120, box=(42, 10, 8, 8), iscrowd='yes'),
    ]  # fmt: skip
    (root / 'train.json').write_text(json.dumps(content))
    return root


@pytest.fixture(scope='module')
def subjects(broken):
    return [
        check.load_subject(broken / 'train.json', broken / 'train', 'train'),
        check.load_subject(broken / 'val.json', broken / 'val', 'val'),
    ]


@pytest.fixture(scope='module')
def found(subjects):
    return check.check_subjects(subjects, workers=1)


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code and what it printed."""

    def go(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.run(['check', *map(str, arguments)])
        return ended.value.code, capsys.readouterr().out

    return go


def test_the_fixture_has_all_kinds_of_defects():
    # one needs a config, one that nothing is sound, two are image files
    elsewhere = {'class-missing', 'nothing-to-learn', 'file-unsupported', 'file-dark'}
    assert set(KINDS) == set(DEFECTS) | elsewhere


@pytest.mark.parametrize('kind', DEFECTS)
def test_each_defect_is_found_and_named(subjects, found, kind):
    image_id, number = DEFECTS[kind]
    named = [(f.image_id, f.annotation_id) for f in found[subjects[0].name] if f.kind == kind]
    assert (image_id, number) in named
    assert len(named) <= 4  # and little else is called so
    for finding in found[subjects[0].name]:
        if finding.kind == kind and finding.image_id not in (None, 20, 999):
            assert '.jpg' in finding.line()


def test_sound_data_has_no_findings(tmp_path):
    write_sound(tmp_path, 'train', 'abc', 0)
    subject = check.load_subject(tmp_path / 'train.json')
    assert subject.image_dir == str(tmp_path / 'train')  # found beside the file
    assert check.check_subjects([subject], workers=1) == {subject.name: []}


def test_corrected_annotations_are_clean(subjects, found):
    train, val = subjects
    before = copy.deepcopy(train.content)
    leaked = [f for f in found[train.name] if f.kind.startswith('leak-')]
    fixed, done = check.fix_content(train, leaked)
    assert train.content == before
    again = check.check_subjects([fixed, val], workers=1)[train.name]
    # other categories in another file are not for a machine to correct
    assert {f.kind for f in check.problems(again)} == {'categories-differ'}

    images = {image['file_name']: image for image in fixed.content['images']}
    assert set(images) == {f'{name}.jpg' for name in ('a', 'b', 'sub/c', 'h', 'i', 'l', 'm')}
    assert [images[f'{n}.jpg'][k] for n in 'bhi' for k in ('width', 'height')] == [
        *(W, H), *(2 * W, 2 * H), *(H, W)
    ]  # fmt: skip
    of_image = {a['image_id']: a for a in fixed.content['annotations']}
    scaled = of_image[images['h.jpg']['id']]
    assert scaled['bbox'] == [20, 20, 40, 32] and scaled['area'] == 40 * 32
    assert scaled['segmentation'] == [[20, 20, 60, 20, 60, 52, 20, 52]]
    turned = of_image[images['i.jpg']['id']]
    assert turned['bbox'] == [H - 26, 10, 16, 20]
    by_number = {a['id']: a for a in fixed.content['annotations']}
    assert len(by_number) == len(fixed.content['annotations'])
    assert not {102, 103, 104, 106, 107} & set(by_number)
    assert by_number[105]['bbox'] == [10, 10, 20, 16]
    assert by_number[108]['bbox'] == [W - 10, 5, 10, 9]
    assert by_number[110]['segmentation'] == [[10, 10, 30, 10, 30, 26, 10, 25]]
    assert 'segmentation' not in by_number[113]
    assert by_number[115]['bbox'] == [10, 10, 20, 16]
    assert by_number[116]['area'] == 144
    assert by_number[117]['segmentation']['size'] == [H, W]
    names = {c['name']: c['id'] for c in fixed.content['categories']}
    assert set(names) == {'cat', 'Dog ', 'parrot'} or set(names) == {'cat', 'dog', 'parrot'}
    assert by_number[119]['category_id'] in names.values()
    assert any('d.jpg (image 4): dropped with 1 objects' in line for line in done)
    assert any('k.jpg (image 11): dropped' in line and 'validation' in line for line in done)


@pytest.mark.parametrize(
    'classes, expected', [(None, 'cat'), (('Cat',), 'Cat')], ids=['most objects', 'config']
)
def test_one_spelling_of_a_class_is_kept(tmp_path, classes, expected):
    content = write_sound(tmp_path, 'train', 'a', 0)
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(('CAT ', 'Cat', 'cat'))]
    content['annotations'] = [square(1, category_id=2), square(2, category_id=2)]
    content['annotations'].append(square(3, category_id=0))
    (tmp_path / 'train.json').write_text(json.dumps(content))
    subject = check.load_subject(tmp_path / 'train.json')
    check.check_subjects([subject], workers=1)
    subject.classes = classes
    fixed, done = check.fix_content(subject)
    assert [category['name'] for category in fixed.content['categories']] == [expected]
    assert any('joined with' in line for line in done)


def test_command_line(run, broken, tmp_path):
    fixed, report = tmp_path / 'fixed.json', tmp_path / 'report.json'
    code, said = run(
        broken / 'train.json', '--images', broken / 'train', '--fix', fixed,
        '--json', report, '--out-dir', tmp_path / 'drawn', '--workers', 2,
    )  # fmt: skip
    assert code == 1
    assert 'd.jpg (image 4): ' in said and 'does not exist' in said
    assert 'annotation 106: bbox is [5, 5, 0, 9]' in said
    assert f'{fixed}: clean' in said
    (record,) = json.loads(report.read_text())['datasets']
    kinds = {finding['kind'] for finding in record['findings']}
    assert not record['clean'] and len(kinds) >= 30
    assert record['statistics']['per_class']['parrot'] == 0
    assert (tmp_path / 'drawn' / 'train.png').stat().st_size > 1000
    code, said = run(fixed, '--images', broken / 'train', '--no-decode')
    assert code == 0 and 'no problems' in said


def test_command_of_the_page(repo, run, tmp_path, monkeypatch):
    text = (repo / 'docs' / 'your_data.md').read_text(encoding='utf-8')
    section = text.split('## The check')[1].split('\n## ')[0]
    (block,) = re.findall(r'```bash\nmmdet-r2 (.*?)```', section, re.S)
    tool, *arguments = block.replace('\\\n', ' ').split()
    root = tmp_path / 'data' / 'fruit'
    for i, split in enumerate(('train', 'val')):
        write_sound(root, split, 'abc', 50 * i)
        (root / 'annotations').mkdir(exist_ok=True)
        (root / f'{split}.json').rename(root / 'annotations' / f'instances_{split}.json')
    monkeypatch.chdir(tmp_path)
    code, said = run(*arguments)
    assert tool == 'check'
    assert code == 0 and said.count('no problems') == 2
    named = set(re.findall(r'`(--[a-z-]+)', section))
    code, helped = run('--help')
    assert len(named) >= 4 and all(option in helped for option in named)


def test_user_errors(repo, tmp_path):
    write_sound(tmp_path, 'train', 'a', 0)
    cases = [
        ([tmp_path / 'none.json'], 'none.json'),
        ([tmp_path / 'train.json', '--images', tmp_path / 'nowhere'], 'nowhere'),
    ]
    (tmp_path / 'list.json').write_text('[]')
    (tmp_path / 'bad.json').write_text('{\n"images": [,]}')
    cases += [([tmp_path / 'list.json'], 'not in COCO format'), ([tmp_path / 'bad.json'], ':2:')]
    for arguments, part in cases:
        with pytest.raises(DataError, match=part):
            check.load_subject(arguments[0], *arguments[2:])
    script = str(repo / 'tools' / 'misc' / 'check_dataset.py')
    command = [python(), script, str(tmp_path / 'none.json')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_the_training_file_is_no_validation_file(tmp_path, monkeypatch):
    write_sound(tmp_path, 'train', 'a', 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match='is the training file itself'):
        cli.run(['check', 'train.json', '--val', str(tmp_path / 'train.json')])


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        (('annotations',), None, ''),
        (('images', 0), [1], 'image-malformed'),
        (('images', 0, 'width'), 10**30, 'image-size-missing'),
        (('annotations', 0), None, 'annotation-malformed'),
        (('annotations', 0, 'category_id'), {}, 'category-unknown'),
        (('annotations', 0, 'image_id'), [1], 'annotation-malformed'),
        (('annotations', 0, 'image_id'), 'x.jpg', 'image-unknown'),
        (('annotations', 0, 'category_id'), True, 'annotation-malformed'),
        (('annotations', 0, 'iscrowd'), 'yes', 'flag-malformed'),
        (('annotations', 0, 'area'), 0, 'area'),
        (('annotations', 0, 'id'), True, 'annotation-malformed'),
        (('annotations', 0, 'segmentation'), dict(size=5, counts=[1]), 'rle-bad'),
        (('annotations', 0, 'segmentation'), [[1e9, 1, 2, 3, 1e9, 5]], 'polygon-not-finite'),
        (('categories', 0, 'name'), 7, 'category-malformed'),
    ],
)
def test_values_of_a_wrong_kind_are_found_and_corrected(tmp_path, place, value, message):
    content = write_sound(tmp_path, 'train', 'ab', 0)
    *path, last = place
    node = content
    for key in path:
        node = node[key]
    node[last] = value
    subject = check.Subject('train', content, str(tmp_path / 'train'))
    kinds = [f.kind for f in check.check_subjects([subject], workers=1)['train']]
    assert (message in kinds) == bool(message)
    fixed, _ = check.fix_content(subject)
    assert not check.problems(check.check_subjects([fixed], workers=1)['train'])


def test_images_not_found_ask_for_the_folder(tmp_path):
    content = write_sound(tmp_path / 'deep' / 'er', 'train', 'a', 0)
    (tmp_path / 'ann' / 'x').mkdir(parents=True)
    (tmp_path / 'ann' / 'x' / 'train.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match='--images'):
        check.load_subject(tmp_path / 'ann' / 'x' / 'train.json')


class TestConfig:
    @pytest.fixture
    def config(self, tmp_path):
        write_sound(tmp_path, 'train', 'abc', 0)
        write_sound(tmp_path, 'val', 'xyz', 50)

        def dataset(name, **more):
            settings = dict(type='CocoDataset', data_root=str(tmp_path), ann_file=f'{name}.json')
            settings |= dict(data_prefix=dict(img=name), metainfo=dict(classes=('cat', 'dog')))
            settings['pipeline'] = [dict(type='Resize', scale=(128, 96), keep_ratio=True)]
            return settings | more

        return dict(
            train_dataloader=dict(
                dataset=dict(type='RepeatDataset', times=2, dataset=dataset('train'))
            ),
            val_dataloader=dict(dataset=dataset('val')),
            test_dataloader=dict(dataset=dataset('val')),
            model=dict(
                rpn_head=dict(
                    anchor_generator=dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8])
                )
            ),
        )

    def test_all_data_sets_are_checked_once(self, config):
        subjects, remarks = check.config_subjects(config)
        assert [(Path(s.name).stem, s.role) for s in subjects] == [
            ('train', 'train'),
            ('val', 'val'),
        ]
        assert remarks == []
        found = check.check_subjects(subjects, workers=1)
        assert not any(found.values())

    def test_validation_on_training_data_is_remarked(self, config):
        config['val_dataloader'] = config['train_dataloader']
        _, remarks = check.config_subjects(config)
        (remark,) = remarks
        assert 'train.json is used for training and for val' in remark

    def test_pascal_voc_folders(self, tmp_path):
        from mmdet_r2.datasets import convert

        write_sound(tmp_path, 'JPEGImages', 'abc', 0)
        notes = convert.Notes()
        _, images = convert.read_coco(tmp_path / 'JPEGImages.json', notes)
        convert.write_voc(images, tmp_path, notes)
        (tmp_path / 'JPEGImages' / 'b.jpg').unlink()
        dataset = dict(type='XMLDataset', data_root=str(tmp_path), pipeline=[])
        dataset |= dict(ann_file='ImageSets/Main/train.txt', metainfo=dict(classes=('cat', 'dog')))
        subjects, remarks = check.config_subjects(dict(train_dataloader=dict(dataset=dataset)))
        ((_, found),) = check.check_subjects(subjects, workers=1).items()
        assert [(f.kind, f.file) for f in check.problems(found)] == [('file-missing', 'b.jpg')]
        assert check.statistics(subjects[0]).per_class == {'cat': 1, 'dog': 2}
        assert '3 objects' in remarks[0]

    def test_a_class_without_a_file_for_two_loaders(self, config, tmp_path):
        @DATASETS.register_module(force=True)
        class NoFile(CustomDataset):
            classes = ('cat', 'dog')

            def load_images(self):
                for path in Path(self.data_prefix['img']).glob('*.jpg'):
                    yield ImageAnnotations(path.name, [[1, 1, 9, 9]], ['dog'])

        for name in ('train', 'val'):
            settings = dict(type='NoFile', data_prefix=dict(img=str(tmp_path / name)))
            config[f'{name}_dataloader'] = dict(dataset=settings)
        (tmp_path / 'train' / 'c.jpg').write_bytes((tmp_path / 'val' / 'x.jpg').read_bytes())
        del config['test_dataloader']
        subjects, _ = check.config_subjects(config)
        found = check.check_subjects(subjects, workers=1)
        assert [name.split(',')[0] for name in found] == ['NoFile (train', 'NoFile (val']
        assert [[f.kind for f in check.problems(own)] for own in found.values()] == [
            ['leak-content'], [],
        ]  # fmt: skip

    def test_corrected_files_of_one_name_do_not_replace_each_other(self, run, tmp_path):
        datasets = []
        for folder in ('one', 'two'):
            (tmp_path / folder).mkdir()
            content = write_sound(tmp_path / folder, 'train', 'ab', len(datasets))
            content['images'][0]['file_name'] = 'C:/a.jpg'
            (tmp_path / folder / 'train.json').write_text(json.dumps(content))
            datasets.append(
                f"dict(type='CocoDataset', ann_file={str(tmp_path / folder / 'train.json')!r}, "
                f'data_prefix=dict(img={str(tmp_path / folder / "train")!r}), '
                "metainfo=dict(classes=('cat', 'dog')))"
            )
        (tmp_path / 'config.py').write_text(
            "train_dataloader = dict(batch_size=1, dataset=dict(type='ConcatDataset', "
            f'datasets=[{", ".join(datasets)}]))\n'
        )
        code, said = run(tmp_path / 'config.py', '--fix', tmp_path / 'fixed', '--workers', 1)
        assert code == 1 and said.count('clean') == 2
        assert sorted(p.name for p in (tmp_path / 'fixed').iterdir()) == [
            'train.json', 'train_2.json',
        ]  # fmt: skip

    def test_classes_of_the_config(self, config):
        inner = config['train_dataloader']['dataset']['dataset']
        inner['metainfo'] = dict(classes=('cat', 'dogs'))
        subjects, _ = check.config_subjects(config)
        found = check.check_subjects(subjects, workers=1)[subjects[0].name]
        (finding,) = check.problems(found)
        assert finding.kind == 'class-missing'
        assert "'dogs'" in finding.message and "did you mean 'dog'?" in finding.message

    def test_no_data_set(self):
        with pytest.raises(ConfigError, match='no data set'):
            check.config_subjects({})

    def test_anchors(self, config):
        # 20 x 16 at twice the size; the best of the anchors is 32 x 32
        boxes = np.array([[20, 16, W, H]], float)
        iou = check.anchor_coverage(boxes, config)
        assert iou.tolist() == pytest.approx([32 * 32 / (40 * 32)])
        assert check.anchor_coverage(boxes, {}) is None


def test_statistics(tmp_path):
    content = write_sound(tmp_path, 'train', 'ab', 0)
    content['annotations'] = [
        square(1, box=(0, 0, 8, 8)),
        square(2, box=(0, 0, 40, 40)),
        square(3, box=(0, 0, 9, 9), iscrowd=1),
        square(4, bbox=None),
    ]
    numbers = check.statistics(check.Subject('x', content, str(tmp_path)))
    assert numbers.num_images == 2 and numbers.num_empty == 1 and numbers.num_crowds == 1
    assert numbers.per_class == {'cat': 2, 'dog': 0}
    assert numbers.sizes == dict(small=1, medium=1, large=0)
    assert dict(numbers.histogram)['8 to 16'] == 1
    assert sum(count for _, count in numbers.histogram) == 2


@pytest.mark.parametrize('counts', ['garbage', 'P', [1, -1, H * W], [1.5], None, {}])
def test_broken_run_lengths(counts):
    entry = square(1, segmentation=dict(size=[H, W], counts=counts))
    assert [kind for kind, _ in normal_shape(entry, W, H)[1]] == ['rle-bad']


def test_real_annotations_are_clean(shared_data):
    root = shared_data / 'coco_tiny'
    subjects = [
        check.load_subject(
            root / 'annotations' / f'instances_{split}2017.json', root / f'{split}2017', split
        )
        for split in ('train', 'val')
    ]
    found = check.check_subjects(subjects, workers=1)
    assert not check.problems([f for findings in found.values() for f in findings])


def test_drawing_is_shaped_like_exif_says(tmp_path):
    """The eight EXIF orientations: a corrected object covers the same pixels as the object did."""
    from mmdet_r2.datasets.check.fix import _rotation

    mask = np.zeros((H, W), np.uint8)
    mask[5:20, 8:40] = 1
    corners = np.array([[8, 5], [40, 20]], float)
    for orientation in range(5, 9):
        path = tmp_path / f'{orientation}.png'
        tags = Image.Exif()
        tags[0x0112] = orientation
        Image.fromarray(mask * 255).save(path, exif=tags)
        shown = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255  # OpenCV applies it
        move, warp = _rotation(orientation, W, H)
        assert (warp(mask) == shown).all()
        points = move(corners)
        (x1, y1), (x2, y2) = points.min(0).astype(int), points.max(0).astype(int)
        assert shown[y1:y2, x1:x2].all() and shown.sum() == (x2 - x1) * (y2 - y1)
