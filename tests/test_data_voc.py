"""VOCDataset and XMLDataset: what an entry holds, what is left out, what is wrong with files; and
the wrappers around data sets.
"""

import json
import logging
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger
from voc_data import voc_object, voc_xml, write_voc

from mmdet_r2.config import flatten, load_config
from mmdet_r2.datasets import (
    VOC_METAINFO,
    ClassBalancedDataset,
    CocoDataset,
    ConcatDataset,
    VOCDataset,
    XMLDataset,
)
from mmdet_r2.datasets.voc_xml import parse_split, parse_xml
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS, init_scope

PEER = os.environ.get('MMDET_R2_PEER')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = [*LOAD, dict(type='PackDetInputs')]
IMAGES = {
    '000001': [('dog', (1, 2, 10, 20), 0), ('cat', (5.7, 6, 20.9, 30), 1)],
    '000002': [('person', (3, 4, 30, 35), None), ('zebra', (1, 1, 9, 9), 0)],
    '000003': [],
    '000004': [('cat', (1, 1, 50, 40), 1)],
}


def build(root, split='trainval', year='VOC2007', kind=VOCDataset, **kwargs):
    settings = dict(
        ann_file=f'{year}/ImageSets/Main/{split}.txt',
        data_root=str(root),
        data_prefix=dict(sub_data_root=f'{year}/'),
    )
    return kind(**(settings | kwargs))


@pytest.fixture
def root(tmp_path):
    """VOCdevkit with the four images above."""
    write_voc(tmp_path / 'VOCdevkit', IMAGES)
    return tmp_path / 'VOCdevkit'


@pytest.fixture
def log(caplog):
    """What is printed through mmengine's logger."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def instances(dataset):
    return {
        info['img_id']: [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in info['instances']]
        for info in (dataset.get_data_info(i) for i in range(len(dataset)))
    }


class TestContent:
    def test_what_an_entry_holds(self, root):
        dataset = build(root)
        info = dataset.get_data_info(0)
        folder = root / 'VOC2007'
        assert Path(info['img_path']) == folder / 'JPEGImages' / '000001.jpg'
        assert Path(info['xml_path']) == folder / 'Annotations' / '000001.xml'
        assert (info['img_id'], info['height'], info['width']) == ('000001', 40, 50)
        dog, cat = VOC_METAINFO['classes'].index('dog'), VOC_METAINFO['classes'].index('cat')
        assert info['instances'] == [
            dict(bbox=[0, 1, 9, 19], bbox_label=dog, ignore_flag=0),
            dict(bbox=[4, 5, 19, 29], bbox_label=cat, ignore_flag=1),
        ]
        assert dataset.get_cat_ids(0) == [dog, cat]
        assert [len(rows) for rows in instances(dataset).values()] == [2, 1, 0, 1]

    def test_packed_sample(self, root):
        sample = build(root, pipeline=PACK)[0]['data_samples']
        assert sample.gt_instances.bboxes.tolist() == [[0, 1, 9, 19]]
        assert sample.ignored_instances.bboxes.tolist() == [[4, 5, 19, 29]]
        assert sample.img_id == '000001' and sample.ori_shape == (40, 50)

    @pytest.mark.parametrize(
        'year, expected',
        [('VOC2007', 'VOC2007'), ('VOC2012', 'VOC2012'), ('mine', None)],
    )
    def test_dataset_type_is_the_year_of_the_folder(self, tmp_path, year, expected):
        write_voc(tmp_path, IMAGES, year=year)
        dataset = build(tmp_path, year=year, lazy_init=True)
        assert dataset.metainfo['dataset_type'] == expected
        assert dataset.metainfo['classes'] == VOC_METAINFO['classes']
        assert len(dataset) == 4

    def test_symlinked_devkit(self, root, tmp_path):
        (tmp_path / 'data').mkdir()
        (tmp_path / 'data' / 'VOCdevkit').symlink_to(root)
        assert len(build(tmp_path / 'data' / 'VOCdevkit', pipeline=PACK)) == 4

    def test_size_from_the_image_where_the_file_has_none(self, tmp_path):
        zero = voc_xml([('dog', (1, 1, 5, 5))], size=(0, 0))
        write_voc(tmp_path, {'a': voc_xml([('dog', (1, 1, 5, 5))], size=None), 'b': zero})
        dataset = build(tmp_path)
        sizes = [(i['width'], i['height']) for i in map(dataset.get_data_info, range(2))]
        assert sizes == [(50, 40), (50, 40)]

    def test_images_of_other_types(self, tmp_path):
        write_voc(tmp_path, {'a': [('dog', (1, 1, 5, 5))]}, suffix='.PNG')
        dataset = build(tmp_path, pipeline=PACK)
        assert dataset.get_data_info(0)['img_path'].endswith('a.PNG')
        assert dataset[0]['inputs'].shape == (3, 40, 50)

    def test_images_of_other_types_in_folders_below(self, tmp_path):
        folder = write_voc(tmp_path, {'a': [('dog', (1, 1, 5, 5))]}, suffix='.png')
        for sub, file in (('Annotations', 'a.xml'), ('JPEGImages', 'a.png')):
            (folder / sub / 'day').mkdir()
            (folder / sub / file).rename(folder / sub / 'day' / file)
        (folder / 'ImageSets' / 'Main' / 'trainval.txt').write_text('day/a\n')
        assert build(tmp_path, pipeline=PACK)[0]['inputs'].shape == (3, 40, 50)

    def test_own_classes_in_own_folders(self, tmp_path):
        folder = write_voc(tmp_path, {'a': [('pear', (1, 1, 5, 5)), ('apple', (1, 1, 9, 9))]})
        (folder / 'JPEGImages').rename(folder / 'images')
        (folder / 'Annotations').rename(folder / 'labels')
        dataset = build(
            tmp_path,
            kind=XMLDataset,
            metainfo=dict(classes=('apple', 'pear')),
            img_subdir='images',
            ann_subdir='labels',
            pipeline=PACK,
        )
        assert instances(dataset)['a'] == [([0, 0, 4, 4], 1, 0), ([0, 0, 8, 8], 0, 0)]
        assert 'dataset_type' not in dataset.metainfo

    def test_classes_are_needed(self, root):
        with pytest.raises(ConfigError, match=r'XMLDataset needs metainfo=dict\(classes='):
            build(root, kind=XMLDataset)

    def test_split_beside_blank_lines_and_windows_line_ends(self, root):
        path = root / 'VOC2007' / 'ImageSets' / 'Main' / 'trainval.txt'
        path.write_bytes(b'\xef\xbb\xbf000001\r\n\r\n  000004  \r\n')
        assert list(instances(build(root))) == ['000001', '000004']

    def test_semantic_maps_beside(self, root):
        dataset = build(root, data_prefix=dict(sub_data_root='VOC2007', seg='VOC2007/maps'))
        assert dataset.get_data_info(1)['seg_map_path'].endswith('VOC2007/maps/000002.png')


class TestFilters:
    def test_empty_and_small_images(self, root):
        dataset = build(root, filter_cfg=dict(filter_empty_gt=True, min_size=32))
        assert list(instances(dataset)) == ['000001', '000002', '000004']
        with pytest.raises(DataError, match='no image left to use'):
            build(root, filter_cfg=dict(min_size=41))

    def test_images_of_ignored_objects_only(self, root):
        dataset = build(root, filter_cfg=dict(filter_crowd_only=True))
        assert list(instances(dataset)) == ['000001', '000002', '000003']

    def test_testing_keeps_every_image(self, root):
        dataset = build(root, test_mode=True, filter_cfg=dict(filter_empty_gt=True, min_size=99))
        assert len(dataset) == 4

    def test_small_objects_become_ignored(self, root):
        dataset = build(root, filter_cfg=dict(bbox_min_size=10))
        flags = {k: [row[2] for row in rows] for k, rows in instances(dataset).items()}
        # the dog's last pixel is 9 beyond its first one
        assert flags == {'000001': [1, 1], '000002': [0], '000003': [], '000004': [1]}
        with pytest.raises(ConfigError, match='bbox_min_size with test_mode'):
            build(root, test_mode=True, filter_cfg=dict(bbox_min_size=10))
        with pytest.raises(ConfigError, match='unknown key'):
            build(root, filter_cfg=dict(bbox_minsize=10))

    def test_corrupt_boxes_are_skipped_and_named(self, tmp_path, log):
        objects = [
            ('dog', (10, 4, 5, 30)),
            ('dog', (51, 4, 60, 30)),
            ('dog', (0, -9, 5, 0)),
            ('dog', (7, 7, 7, 20)),
            ('dog', (0, 1, 70, 41)),
        ]
        write_voc(tmp_path, {'a': objects})
        assert instances(build(tmp_path)) == {'a': [([-1, 0, 69, 40], 11, 0)]}
        (line,) = [r.getMessage() for r in log.records if '1 images' in r.getMessage()]
        assert '4 skipped (1 with xmax < xmin or ymax < ymin, 2 outside the image' in line
        assert "a.xml object 1 ('dog')" in line and "a.xml object 4 ('dog')" in line
        # one pixel is an object to find, but no box to learn
        tested = instances(build(tmp_path, test_mode=True))['a']
        assert ([6, 6, 6, 19], 11, 0) in tested and len(tested) == 2

    def test_report(self, root, log):
        build(root, filter_cfg=dict(filter_empty_gt=True))
        text = '\n'.join(r.getMessage() for r in log.records)
        assert '4 images, 1 without objects: dropped' in text
        assert '4 objects, 2 of them difficult' in text
        assert "1 of other names left out: 'zebra'" in text


class TestNames:
    def test_other_spelling_of_a_class_is_an_error(self, tmp_path):
        write_voc(tmp_path, {'a': [('air plane', (1, 1, 9, 9)), ('dog', (1, 1, 9, 9))]})
        with pytest.raises(DataError, match=r"no object is named 'aeroplane' \(but 1 are named "):
            build(tmp_path)
        assert len(build(tmp_path, allow_missing_classes=True)) == 1

    def test_none_of_the_names(self, tmp_path):
        write_voc(tmp_path, {'a': [('apple', (1, 1, 9, 9))]})
        with pytest.raises(DataError, match=r"names in the XML files: 'apple'"):
            build(tmp_path)

    def test_two_spellings_side_by_side_are_said(self, tmp_path, log):
        write_voc(tmp_path, {'a': [('Dog', (1, 1, 9, 9)), ('dog', (1, 1, 9, 9))]})
        assert len(instances(build(tmp_path))['a']) == 1
        assert "objects named 'Dog' (1, the first in " in log.text and "is 'dog'" in log.text

    def test_a_part_of_the_classes(self, root):
        dataset = build(
            root, metainfo=dict(classes=('cat',)), filter_cfg=dict(filter_empty_gt=True)
        )
        assert instances(dataset) == {
            '000001': [([4, 5, 19, 29], 0, 1)],
            '000004': [([0, 0, 49, 39], 0, 1)],
        }


BAD_XML = {
    'not closed': (
        voc_xml([('dog', (1, 1, 5, 5))])[:-15],
        r'a\.xml, line 16: not valid XML: it ends too early',
    ),
    'not XML': ('name,x,y\n', r'a\.xml, line 1: not valid XML: syntax error'),
    'empty': ('', r'a\.xml, line 1: not valid XML: it is empty'),
    'another format': ('<annotations/>', r'expected <annotation>, found <annotations>'),
    'no name': (
        voc_xml([('dog', (1, 1, 5, 5)), ('', (1, 1, 5, 5))]),
        r'a\.xml, line 17: object 2 has no <name>',
    ),
    'no box': (
        '<annotation><object><name>dog</name></object></annotation>',
        r"line 1: object 1 \('dog'\) has no <bndbox>",
    ),
    'no corner': (
        voc_xml([('dog', (1, 1, 5, 5))]).replace('<ymax>5</ymax>', ''),
        r"line 7: object 1 \('dog'\) has no <ymax> in its <bndbox>",
    ),
    'a word for a number': (voc_xml([('dog', (1, 'one', 5, 5))]), r"has 'one' for <ymin>"),
    'infinite': (voc_xml([('dog', (1, 1, 'inf', 5))]), r"has 'inf' for <xmax>"),
    'difficult': (voc_xml([('dog', (1, 1, 5, 5), 'yes')]), r"has 'yes' for <difficult>"),
    'size': (voc_xml([], ('wide', 4)), r"a\.xml, line 3: <size> has 'wide' for <width>"),
}


class TestBadFiles:
    @pytest.mark.parametrize('text, message', BAD_XML.values(), ids=BAD_XML)
    def test_broken_xml(self, tmp_path, text, message):
        write_voc(tmp_path, {'a': text})
        with pytest.raises(DataError, match=message) as caught:
            build(tmp_path)
        assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)

    def test_parts_of_an_object_are_no_objects(self):
        part = '<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>'
        text = f'<annotation>{voc_object("person", (1, 2, 3, 4))}</annotation>'
        image = parse_xml(text.replace('</object>', part).encode(), 'a.xml')
        assert [(o.name, o.box) for o in image.objects] == [('person', (1, 2, 3, 4))]

    def test_declared_encoding(self):
        text = '<?xml version="1.0" encoding="latin-1"?><annotation><object><name>\u00f6l</name>'
        text += '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>'
        image = parse_xml((text + '</annotation>').encode('latin-1'), 'a.xml')
        assert image.objects[0].name == '\u00f6l'
        with pytest.raises(DataError, match=r'a\.xml: not valid XML'):
            parse_xml(text.replace('latin-1', 'klingon').encode('latin-1'), 'a.xml')

    @pytest.mark.parametrize(
        'text, message',
        [
            ('', 'x.txt is empty'),
            ('\n\n', 'x.txt is empty'),
            ('a\nb\na\n', r"x.txt, line 3: 'a' is listed already in line 1"),
            ('a -1\nb  1\n', r'line 1: .* this is a list of one class; use one of .*trainval.txt'),
        ],
        ids=['empty', 'blank', 'twice', 'of one class'],
    )
    def test_broken_split(self, text, message):
        with pytest.raises(DataError, match=message):
            parse_split(text, 'x.txt')

    def test_missing_xml(self, root):
        split = root / 'VOC2007' / 'ImageSets' / 'Main' / 'trainval.txt'
        split.write_text('000001\n000009\n000008\n')
        with pytest.raises(DataError, match=r'line 2: .*000009\.xml: .*; 2 of 3 names have no XML'):
            build(root)
        split.write_text('000001\n000002.jpg\n')
        with pytest.raises(DataError, match=r"names have no suffix: write '000002'"):
            build(root)

    def test_missing_images(self, root, log):
        (root / 'VOC2007' / 'JPEGImages' / '000002.jpg').unlink()
        assert len(build(root, pipeline=PACK)) == 4  # one of four may be unreadable in training
        assert '1 of 4 images' in log.text and '000002.jpg' in log.text
        with pytest.raises(DataError, match=r'1 of 4 images .* do not exist: .*000002\.jpg'):
            build(root, pipeline=PACK, test_mode=True)
        (root / 'VOC2007' / 'JPEGImages' / '000003.jpg').unlink()
        with pytest.raises(DataError, match=r'2 of 4 images'):
            build(root, pipeline=PACK)

    @pytest.mark.parametrize(
        'change, message',
        [
            (dict(ann_file=''), 'VOCDataset needs ann_file'),
            (dict(ann_file='VOC2007/test.json'), 'use CocoDataset'),
            (dict(ann_file='VOC2007/val.txt'), r'cannot read .*VOC2007/val\.txt .*seen from'),
            (
                dict(ann_file='VOCdevkit/VOC2007/ImageSets/Main/trainval.txt'),
                r'ann_file is relative to data_root VOCdevkit, leave that part out',
            ),
            (
                dict(data_prefix=dict(sub_data_root='VOCdevkit/VOC2007')),
                r'sub_data_root is relative to data_root VOCdevkit, leave that part out',
            ),
            (dict(data_prefix=dict()), r"did you mean data_prefix=dict\(sub_data_root='VOC2007/'"),
            (dict(data_root='elsewhere'), 'data_root elsewhere does not exist'),
            (dict(data_root='.'), 'add VOCdevkit to data_root'),
        ],
        ids=[
            'no split',
            'JSON',
            'no such split',
            'doubled ann_file',
            'doubled sub_data_root',
            'no sub_data_root',
            'no data_root',
            'folder above',
        ],
    )
    def test_paths_say_what_was_tried(self, root, monkeypatch, change, message):
        monkeypatch.chdir(root.parent)
        with pytest.raises(DataError, match=message):
            build(**(dict(root='VOCdevkit') | change))

    def test_masks_are_refused(self, root):
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
        with pytest.raises(ConfigError, match='VOCDataset has no masks'):
            build(root, pipeline=pipeline)

    def test_objects_of_a_test_pipeline_stay_in_the_original_image(self, root):
        resize = dict(type='Resize', scale=(100, 80), keep_ratio=True)
        pipeline = [*LOAD, resize, dict(type='PackDetInputs')]
        with pytest.raises(ConfigError, match='Resize comes after LoadAnnotations'):
            build(root, pipeline=pipeline, test_mode=True)
        assert len(build(root, pipeline=pipeline)) == 4
        flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
        pack = [dict(type='PackDetInputs')]
        views = [*LOAD, dict(type='TestTimeAug', transforms=[flips, pack])]
        assert len(build(root, pipeline=views, test_mode=True)) == 4
        views[-1] = dict(type='TestTimeAug', transforms=[[resize], flips, pack])
        with pytest.raises(ConfigError, match='TestTimeAug comes after LoadAnnotations'):
            build(root, pipeline=views, test_mode=True)
        right = [LOAD[0], resize, LOAD[1], dict(type='PackDetInputs')]
        sample = build(root, pipeline=right, test_mode=True)[0]['data_samples']
        assert sample.gt_instances.bboxes.tolist() == [[0, 1, 9, 19]]
        assert sample.img_shape == (80, 100)

    def test_size_of_another_image(self, tmp_path):
        write_voc(tmp_path, {'a': voc_xml([('dog', (1, 1, 5, 5))], size=(60, 40))})
        with pytest.raises(DataError, match=r'a\.jpg is 50x40 pixels but its annotation .* 60x40'):
            build(tmp_path, pipeline=PACK)[0]

    def test_no_size_and_no_image(self, tmp_path):
        folder = write_voc(tmp_path, {'a': voc_xml([], size=None)})
        (folder / 'JPEGImages' / 'a.jpg').unlink()
        with pytest.raises(
            DataError, match=r'a\.xml has no <size>, and cannot read image .*a\.jpg'
        ):
            build(tmp_path)


class TestWrappers:
    @pytest.fixture
    def both(self, root):
        write_voc(root, {'2008_1': [('dog', (1, 1, 9, 9))]}, year='VOC2012')
        return root

    def config(self, root, year):
        return dict(
            type='VOCDataset',
            data_root=str(root),
            ann_file=f'{year}/ImageSets/Main/trainval.txt',
            data_prefix=dict(sub_data_root=f'{year}/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=5),
            pipeline=PACK,
        )

    def test_both_years_three_times(self, both):
        init_scope()
        parts = [self.config(both, year) for year in ('VOC2007', 'VOC2012')]
        concat = dict(type='ConcatDataset', datasets=parts, ignore_keys=['dataset_type'])
        dataset = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=concat))
        assert len(dataset) == 3 * (3 + 1)
        assert dataset.metainfo['classes'] == VOC_METAINFO['classes']
        assert dataset[3]['data_samples'].img_id == dataset[7]['data_samples'].img_id == '2008_1'

    def test_years_differ_without_a_word_classes_do_not(self, both):
        parts = [build(both, year=year) for year in ('VOC2007', 'VOC2012')]
        dataset = ConcatDataset(parts)
        assert len(dataset) == 5 and dataset.get_cat_ids(4) == [11]
        with pytest.raises(ConfigError, match=r"metainfo\.classes of datasets\.1 is \('dog',\)"):
            ConcatDataset([parts[0], build(both, year='VOC2012', metainfo=dict(classes=('dog',)))])
        for wrong in ([], self.config(both, 'VOC2007')):
            with pytest.raises(ConfigError, match='datasets is no list of data sets'):
                ConcatDataset(wrong)

    def test_rare_classes_are_seen_more_often(self, tmp_path, log):
        images = {f'{i:02d}': [('dog', (1, 1, 9, 9))] for i in range(16)}
        images['07'] = [('cat', (1, 1, 9, 9)), ('dog', (1, 1, 9, 9))]
        images['09'] = []
        write_voc(tmp_path, images)
        init_scope()
        parts = [dict(self.config(tmp_path, 'VOC2007'), filter_cfg=None, pipeline=[])]
        dataset = DATASETS.build(
            dict(
                type='ClassBalancedDataset',
                oversample_thr=0.5,
                dataset=dict(type='ConcatDataset', datasets=parts),
            )
        )
        times = math.ceil(math.sqrt(0.5 / (1 / 16)))  # 3
        assert len(dataset) == 15 + times
        ids = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
        assert ids.count('07') == times and ids.count('09') == ids.count('00') == 1
        assert dataset.get_cat_ids(ids.index('07')) == [7, 11]
        assert '16 images become 18, some 3 times' in log.text

    def test_wrong_thresholds_and_data_sets(self, root):
        for threshold in (0, 1.5):
            with pytest.raises(ConfigError, match='oversample_thr'):
                ClassBalancedDataset(build(root), threshold)
        with pytest.raises(ConfigError, match='which does not tell the classes in an image'):
            ClassBalancedDataset([1, 2], 0.1)


class TestConfigs:
    def test_recipe(self):
        config = load_config('faster_rcnn_r50_fpn_1x_voc0712')
        assert config.model.roi_head.bbox_head.num_classes == 20
        train = config.train_dataloader.dataset
        assert (train.type, train.times, len(train.dataset.datasets)) == ('RepeatDataset', 3, 2)
        assert config.train_cfg.max_epochs == 4 and config.optim_wrapper.optimizer.lr == 0.01
        assert config.test_evaluator == dict(type='VOCMetric', metric='mAP', eval_mode='11points')

    @pytest.mark.parametrize('name', ['', '_cocofmt'])
    def test_builds_on_the_usual_layout(self, root, tmp_path, monkeypatch, name):
        write_voc(root, {'2008_1': [('dog', (1, 1, 40, 40))]}, year='VOC2012')
        write_voc(root, {'000005': [('cat', (1, 1, 40, 40))]}, split='test')
        categories = [dict(id=i, name=n) for i, n in enumerate(VOC_METAINFO['classes'], start=1)]
        image = dict(id=1, file_name='VOC2007/JPEGImages/000001.jpg', width=50, height=40)
        box = dict(id=1, image_id=1, category_id=12, bbox=[0, 1, 10, 19], area=190, iscrowd=0)
        content = dict(images=[image], annotations=[box], categories=categories)
        (root / 'annotations').mkdir()
        for file in ('voc0712_trainval.json', 'voc07_test.json'):
            (root / 'annotations' / file).write_text(json.dumps(content))
        (tmp_path / 'data').mkdir()
        (tmp_path / 'data' / 'VOCdevkit').symlink_to(root)
        monkeypatch.chdir(tmp_path)
        init_scope()
        config = load_config(f'faster_rcnn_r50_fpn_1x_voc0712{name}')
        train = DATASETS.build(config.train_dataloader.dataset)
        test = DATASETS.build(config.test_dataloader.dataset)
        assert len(train) == (3 if name else 12) and len(test) == 1
        sample = train[0]['data_samples']
        assert max(sample.img_shape) <= 1000 and sample.img_shape[0] == 600
        assert isinstance(test, CocoDataset) and test.metainfo['classes'][0] == 'aeroplane'
        assert test.metainfo['palette'][0] == (106, 0, 228)


RECORD = """
import json, sys, warnings
warnings.filterwarnings('ignore')
from mmdet.utils import register_all_modules
register_all_modules()
from mmdet.datasets import VOCDataset
found = {}
for key, kwargs in json.loads(sys.argv[1]).items():
    dataset = VOCDataset(**kwargs)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    found[key] = dict(
        infos=infos,
        labels=[dataset.get_cat_ids(i) for i in range(len(dataset))],
        year=dataset.metainfo['dataset_type'],
        classes=dataset.metainfo['classes'],
        palette=dataset.metainfo['palette'],
    )
print('RECORD' + json.dumps(found))
"""


def random_images(number):
    rng = np.random.default_rng(3)
    names = ('dog', 'cat', 'person', 'zebra', 'tvmonitor')
    images = {}
    for i in range(number):
        objects = []
        for _ in range(rng.integers(0, 6)):
            x1, y1 = rng.integers(1, 40), rng.integers(1, 30)
            x2, y2 = rng.uniform(x1 + 1, 50), rng.uniform(y1 + 1, 40)
            difficult = [0, 1, None][rng.integers(0, 3)]
            objects.append((rng.choice(names), (x1, y1, f'{x2:.3f}', round(y2)), difficult))
        images[f'{i:06d}'] = voc_xml(objects, (50, 40) if i % 4 else None)
    return images


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_entries_equal_the_peers(tmp_path):
    write_voc(tmp_path, random_images(25))
    common = dict(
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_root=str(tmp_path),
        data_prefix=dict(sub_data_root='VOC2007/'),
        pipeline=[],
    )
    cases = dict(
        plain=common,
        filtered=dict(common, filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=12)),
        test=dict(common, test_mode=True, filter_cfg=dict(filter_empty_gt=True)),
        small=dict(common, test_mode=False, metainfo=dict(classes=['cat', 'dog'])),
    )
    done = subprocess.run(
        [PEER, '-c', RECORD, json.dumps(cases)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.partition('RECORD')[2])
    for key, kwargs in cases.items():
        dataset = VOCDataset(**kwargs)
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        assert infos == theirs[key]['infos'], key
        assert [dataset.get_cat_ids(i) for i in range(len(dataset))] == theirs[key]['labels']
        assert dataset.metainfo['dataset_type'] == theirs[key]['year']
        assert list(dataset.metainfo['classes']) == theirs[key]['classes']
        if key != 'small':
            assert [list(c) for c in dataset.metainfo['palette']] == theirs[key]['palette']


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
@pytest.mark.parametrize('name', ['', '-cocofmt'])
def test_the_peers_configs_load_unchanged(name):
    (folder,) = Path(PEER).parent.parent.glob('lib/python*/site-packages/mmdet/.mim/configs')
    theirs = flatten(load_config(folder / f'pascal_voc/faster-rcnn_r50_fpn_1x_voc0712{name}.py'))
    ours = flatten(load_config(f'faster_rcnn_r50_fpn_1x_voc0712{name.replace("-", "_")}'))
    parts = ('model', 'optim', 'param_s', 'auto', 'train_', 'val_', 'test_')
    leaves = {key for key in {*theirs, *ours} if key.startswith(parts)}
    leaves -= {key for key in leaves if key.endswith(('sub_data_root', 'palette'))}

    def plain(value):
        return list(value) if isinstance(value, tuple) else value

    different = [k for k in sorted(leaves) if plain(theirs.get(k)) != plain(ours.get(k))]
    assert not different
