"""CocoDataset: classes by name, dirty annotations, filters, unreadable images."""

import itertools
import json
import logging
import pickle

import cv2
import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.logging import MMLogger

from mmdet_r2.datasets import COCO_METAINFO, CocoDataset
from mmdet_r2.datasets.coco_json import MASKS, MENDED, SKIPPED
from mmdet_r2.errors import ConfigError, DataError

NAMES = ('cat', 'dog', 'fish')


def annotation(number, image_id, category_id, bbox, /, **more):
    x, y, w, h = bbox[:4]
    segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return dict(
        id=number,
        image_id=image_id,
        category_id=category_id,
        bbox=bbox,
        area=w * h,
        iscrowd=0,
        segmentation=segmentation,
    ) | dict(more)


@pytest.fixture
def content():
    """Three images of 40 x 30 (the third without annotations) and three categories."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in (1, 2, 3)],
        categories=[dict(id=i, name=name) for i, name in zip((7, 3, 5), NAMES)],
        annotations=[
            annotation(1, 1, 7, [1, 2, 10, 12]),
            annotation(2, 1, 5, [20, 10, 15, 15]),
            annotation(3, 2, 3, [5, 5, 20, 20]),
        ],
    )


@pytest.fixture
def make(tmp_path, content):
    """Write the images and ``content``; build a data set over them."""
    (tmp_path / 'images').mkdir()
    for i in (1, 2, 3):
        cv2.imwrite(str(tmp_path / 'images' / f'{i}.png'), np.full((30, 40, 3), 50 * i, np.uint8))

    def build(text=None, **kwargs):
        (tmp_path / 'ann.json').write_text(json.dumps(content) if text is None else text)
        settings = dict(
            ann_file='ann.json',
            data_root=str(tmp_path),
            data_prefix=dict(img='images'),
            metainfo=dict(classes=NAMES),
        )
        return CocoDataset(**(settings | kwargs))

    return build


@pytest.fixture
def log(caplog):
    """What is printed through mmengine's logger, as text."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
PACK = [*LOAD, dict(type='PackDetInputs')]


class TestContent:
    def test_what_an_entry_holds(self, make, tmp_path):
        dataset = make(data_prefix=dict(img='images', seg='maps'))
        info = dataset.get_data_info(0)
        assert info['img_path'] == str(tmp_path / 'images' / '1.png')
        assert info['seg_map_path'] == str(tmp_path / 'maps' / '1.png')
        assert (info['img_id'], info['height'], info['width']) == (1, 30, 40)
        first = info['instances'][0]
        assert first['bbox'] == [1, 2, 11, 14]
        assert (first['bbox_label'], first['ignore_flag']) == (0, 0)
        assert first['mask'] == [[1, 2, 11, 2, 11, 14, 1, 14]]
        assert [i['bbox_label'] for i in info['instances']] == [0, 2] == dataset.get_cat_ids(0)
        assert dataset.get_data_info(2)['instances'] == []

    def test_annotations_that_are_skipped_and_counted(self, make, content, log):
        nan, inf = float('nan'), float('inf')
        content['annotations'] += [
            annotation(10, 1, 7, [1, 1, 0, 5]),
            annotation(11, 1, 7, [1, 1, -4, 5]),
            annotation(12, 1, 7, [1, 1, 5, 0.5]),
            annotation(13, 1, 7, [1, 1, 5, 5], area=0),
            annotation(20, 1, 7, [nan, 1, 5, 5]),
            annotation(21, 1, 7, [1, 1, inf, 5]),
            annotation(22, 1, 7, [1, 1, 5, 5], area=nan),
            annotation(30, 1, 7, [40, 1, 5, 5]),
            annotation(31, 1, 7, [-5, 1, 5, 5]),
            annotation(40, 1, 99, [1, 1, 5, 5]),
            annotation(41, 1, 7, [1, 1, 5, 5], bbox=[1, 2, 3]),
            annotation(42, 1, 7, [1, 1, 5, 5], bbox=None),
            annotation(43, 1, None, [1, 1, 5, 5]),
            annotation(50, 1, 7, [1, 1, 5, 5], ignore=1),  # legal: left out without a word
            annotation(60, 77, 7, [1, 1, 5, 5]),
        ]
        dataset = make()
        # the two with an area that is none have the box's
        assert [len(dataset.get_data_info(i)['instances']) for i in range(3)] == [4, 1, 0]
        (line,) = [r.getMessage() for r in log.records if 'ann.json: 3 images' in r.getMessage()]
        assert '12 annotations skipped' in line
        for count, kind in (
            (3, 'box-empty'), (4, 'box-malformed'), (2, 'box-outside'), (2, 'category-unknown'),
            (1, 'image-unknown'),
        ):  # fmt: skip
            assert f'{count} {SKIPPED[kind]} (annotation ' in line
        assert f'2 {MENDED["area"]} (annotation 13: area is 0)' in line
        assert '5 objects, 0 of them crowds' in line

    @pytest.mark.parametrize('area', [None, 'large', True, 0, -1, [], float('nan')])
    def test_area_that_is_no_number_is_taken_from_the_box(self, make, content, area):
        content['annotations'] = [annotation(1, 1, 7, [1, 1, 5, 5], area=area)]
        assert len(make().get_data_info(0)['instances']) == 1

    def test_boxes_that_stick_out_are_kept_as_they_are(self, make, content):
        content['annotations'] = [annotation(1, 1, 7, [-5, -5, 60, 20])]
        assert make().get_data_info(0)['instances'][0]['bbox'] == [-5, -5, 55, 15]

    def test_crowds_become_ignored(self, make, content, log):
        content['annotations'][0]['iscrowd'] = 1
        sample = make(pipeline=PACK)[0]['data_samples']
        assert sample.gt_instances.labels.tolist() == [2]
        assert sample.ignored_instances.labels.tolist() == [0]
        assert len(sample.gt_instances.masks) == len(sample.ignored_instances.masks) == 1
        assert '3 objects, 1 of them crowds' in log.text

    def test_segmentations_of_no_use_are_counted_and_ignored(self, make, content, log):
        rle = dict(size=[30, 40], counts=[100, 20, 1080])
        bad = [
            [[1, 1, 5, 5]],
            [[1, 1, 5, 5, 9]],
            [[1, 1, float('nan'), 5, 9, 9]],
            [1, 1, 5, 5, None, 9],
            dict(size=[40, 30], counts=[1200]),
            dict(size=[30, 40]),
        ]
        content['annotations'] = [
            annotation(100 + i, 1, 7, [1, 1, 20, 20], segmentation=mask)
            for i, mask in enumerate([rle, *bad])
        ]
        content['annotations'] += [annotation(200, 1, 7, [1, 1, 20, 20], segmentation=[])]
        dataset = make(pipeline=PACK)
        sample = dataset[0]['data_samples']
        assert sample.gt_instances.masks.areas.tolist() == [20]
        assert len(sample.ignored_instances.masks) == 7
        assert not sample.ignored_instances.masks.to_ndarray().any()
        assert f'2 {MASKS["rle-bad"]} (annotation 105: ' in log.text
        for kind in ('polygon-short', 'polygon-odd', 'polygon-not-finite', 'mask-malformed'):
            assert f'1 {MASKS[kind]} (annotation ' in log.text
        assert '7 without a usable segmentation' in log.text
        # without masks they are objects like any other
        boxes_only = make(pipeline=[LOAD[0], dict(type='LoadAnnotations'), PACK[-1]])
        assert len(boxes_only[0]['data_samples'].gt_instances) == 8

    def test_images_without_objects(self, make, log):
        assert len(make(filter_cfg=dict(filter_empty_gt=True))) == 2
        assert '3 images, 1 without objects: dropped (filter_cfg.filter_empty_gt=True)' in log.text
        assert len(make()) == 3
        assert '1 without objects: kept (filter_cfg.filter_empty_gt=False)' in log.text
        evaluation = make(filter_cfg=dict(filter_empty_gt=True, min_size=32), test_mode=True)
        assert len(evaluation) == 3
        assert '1 without objects: kept (test_mode)' in log.text

    def test_images_of_crowds_are_kept_and_of_invalid_boxes_dropped(self, make, content):
        content['annotations'][2]['iscrowd'] = 1
        content['annotations'] += [annotation(4, 3, 7, [1, 1, 0, 0])]
        dataset = make(filter_cfg=dict(filter_empty_gt=True))
        assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [1, 2]

    def test_small_images(self, make, content, log):
        content['images'][1] |= dict(width=20, height=10)
        assert len(make(filter_cfg=dict(min_size=11))) == 2
        assert '1 with a side below 11: dropped' in log.text

    def test_empty_ground_truth_has_shapes(self, make):
        sample = make(pipeline=PACK)[2]['data_samples']
        for instances in (sample.gt_instances, sample.ignored_instances):
            assert instances.bboxes.shape == (0, 4)
            assert instances.labels.shape == (0,) and str(instances.labels.dtype) == 'torch.int64'
            assert instances.masks.to_ndarray().shape == (0, 30, 40)

    def test_only_needed_of_a_test_set_is_images_and_categories(self, make, content):
        del content['annotations']
        assert len(make(test_mode=True)) == 3
        with pytest.raises(DataError, match="no list 'annotations'"):
            make()

    def test_indices_subsets_and_serialisation(self, make):
        assert [make(indices=[2, 0]).get_data_info(i)['img_id'] for i in (0, 1)] == [3, 1]
        whole, plain = make(), make(serialize_data=False)
        assert all(whole.get_data_info(i) == plain.get_data_info(i) for i in range(3))
        part = whole.get_subset(2)
        assert len(part) == 2 and len(part.unreadable) == 2 and len(whole.unreadable) == 3
        again = pickle.loads(pickle.dumps(whole))
        assert again.get_data_info(1) == whole.get_data_info(1)

    def test_lazy_init_reads_nothing(self, tmp_path):
        dataset = CocoDataset(ann_file='missing.json', data_root=str(tmp_path), lazy_init=True)
        assert dataset.metainfo['classes'] == COCO_METAINFO['classes']
        with pytest.raises(DataError, match=r'missing.json'):
            dataset.full_init()

    def test_wrappers_of_mmengine(self, make):
        dataset = make()
        assert ConcatDataset([dataset, make()]).metainfo['classes'] == NAMES
        repeated = RepeatDataset(dataset, 3)
        assert len(repeated) == 9 and repeated.get_data_info(4)['img_id'] == 2
        # each class is in one of three images: r = sqrt(0.75 / (1/3)) = 1.5, rounded up
        balanced = ClassBalancedDataset(dataset, oversample_thr=0.75)
        picked = [balanced.get_data_info(i)['img_id'] for i in range(len(balanced))]
        assert picked == [1, 1, 2, 2, 3]


class TestClasses:
    def test_any_order_of_names_categories_and_ids_gives_the_same_names(self, make, content):
        def named(dataset):
            classes = dataset.metainfo['classes']
            infos = map(dataset.get_data_info, range(3))
            return [[(i['bbox'], classes[i['bbox_label']]) for i in x['instances']] for x in infos]

        expected = named(make())
        by_name = {c['id']: c['name'] for c in content['categories']}
        for classes, ids, order in itertools.product(
            itertools.permutations(NAMES), [(1, 2, 3), (9, 4, 6)], [(0, 1, 2), (2, 0, 1)]
        ):
            new_ids = dict(zip(NAMES, ids))
            changed = dict(
                images=content['images'],
                categories=[dict(id=new_ids[NAMES[i]], name=NAMES[i]) for i in order],
                annotations=[
                    a | dict(category_id=new_ids[by_name[a['category_id']]])
                    for a in content['annotations']
                ],
            )
            dataset = make(text=json.dumps(changed), metainfo=dict(classes=classes))
            assert named(dataset) == expected
            assert dataset.cat_ids == [new_ids[name] for name in classes]

    def test_subset_of_the_categories(self, make):
        dataset = make(metainfo=dict(classes=('fish',)))
        assert dataset.get_cat_ids(0) == [0] and dataset.get_cat_ids(1) == []
        assert (
            len(make(metainfo=dict(classes=['fish']), filter_cfg=dict(filter_empty_gt=True))) == 1
        )

    def test_none_of_the_classes_lists_both_sets(self, make):
        with pytest.raises(DataError) as error:
            make(metainfo=dict(classes=COCO_METAINFO['classes'][:10] + tuple(map(str, range(70)))))
        message = str(error.value)
        assert 'ann.json' in message and "'person', 'bicycle'" in message and '68 more' in message
        assert "'cat', 'dog', 'fish'" in message and '\n' not in message

    def test_misspelt_class_names_the_nearest(self, make):
        with pytest.raises(DataError) as error:
            make(metainfo=dict(classes=('cat', 'Dog', 'fihs', 'zebra')))
        message = str(error.value)
        assert "'Dog' (did you mean 'dog'?), 'fihs' (did you mean 'fish'?), 'zebra';" in message
        assert 'allow_missing_classes=True' in message and '\n' not in message

    def test_missing_classes_may_be_allowed_and_keep_their_label(self, make, log):
        dataset = make(
            metainfo=dict(classes=('zebra', *NAMES)), allow_missing_classes=True, pipeline=PACK
        )
        assert dataset.cat_ids == [None, 7, 3, 5]
        assert dataset[0]['data_samples'].gt_instances.labels.tolist() == [1, 3]
        assert "no instance of 'zebra'" in log.text

    @pytest.mark.parametrize(
        ('classes', 'message'),
        [
            ('cat', r"the string 'cat'.*classes=\('cat',\)"),
            (('cat', 'dog', 'cat'), "has 'cat' more than once"),
            ((), 'empty'),
            (('cat', 3), 'expected a tuple of names'),
        ],
    )
    def test_what_is_no_list_of_names(self, make, classes, message):
        with pytest.raises(ConfigError, match=message):
            make(metainfo=dict(classes=classes))

    def test_names_from_a_file(self, make, tmp_path):
        (tmp_path / 'names.txt').write_text('fish\ncat\n')
        assert make(metainfo=dict(classes=str(tmp_path / 'names.txt'))).cat_ids == [5, 7]

    def test_palette_follows_the_names(self, make):
        palette = make().metainfo['palette']
        coco = dict(zip(COCO_METAINFO['classes'], COCO_METAINFO['palette']))
        assert len(palette) == len(set(palette)) == 3
        assert palette[:2] == [coco['cat'], coco['dog']]
        given = dict(classes=NAMES, palette=[(1, 2, 3)] * 3)
        assert make(metainfo=given).metainfo['palette'] == [(1, 2, 3)] * 3

    def test_classes_without_an_instance_are_named(self, make, content, log):
        content['annotations'] = content['annotations'][:1]
        make()
        assert "no instance of 'dog', 'fish'" in log.text


class TestBrokenFiles:
    def test_wrong_folders(self, make, tmp_path):
        with pytest.raises(DataError, match='data_root nowhere does not exist'):
            make(data_root='nowhere')
        with pytest.raises(
            DataError, match=r'cannot read annotation file .*other.json.*No such file'
        ):
            make(ann_file='other.json')
        with pytest.raises(DataError, match=r'image folder .*nowhere does not exist'):
            make(data_prefix=dict(img='nowhere'), pipeline=LOAD)
        (tmp_path / 'empty').mkdir()
        with pytest.raises(DataError, match='probably the wrong folder'):
            make(data_prefix=dict(img='empty'), pipeline=LOAD)
        assert len(make(data_prefix=dict(img='nowhere'))) == 3  # no image is asked for

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('{"images": [', 'not valid JSON'),
            ('', 'not valid JSON'),
            ('[{"image_id": 1, "score": 0.5}]', 'not in COCO format.*found list'),
            ('{"images": [], "annotations": []}', "no list 'categories'"),
            ('{"images": {}, "annotations": [], "categories": []}', 'images is'),
        ],
    )
    def test_wrong_files(self, make, text, message):
        with pytest.raises(DataError, match=f'ann.json.*{message}') as error:
            make(text=text)
        assert '\n' not in str(error.value)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda c: c['images'][1].pop('width'), '2.png has no width'),
            (lambda c: c['images'][1].update(height=0), '2.png has the size 40 x 0'),
            (lambda c: c['images'][1].update(id=1), 'image id 1 of 1.png occurs twice'),
            (lambda c: c['annotations'][1].update(id=1), 'annotation id 1 occurs twice'),
            (lambda c: c['annotations'][1].pop('image_id'), 'annotation 2 has no image_id'),
            (lambda c: c['annotations'][1].update(image_id={}), 'annotation 2 has the image_id {}'),
            (lambda c: c['annotations'][1].update(id=[1]), r'has the id \[1\]'),
            (lambda c: c['images'].append(7), 'image 7 is no object'),
            (lambda c: c['images'][1].update(id={}), '2.png. has the id {}'),
            (lambda c: c['images'][1].update(file_name=[1]), r'image 2 has a file_name .*\[1\]'),
            (lambda c: c['images'][1].update(file_name='a\0'), r'image 2 has a file_name'),
            (lambda c: c['images'][1].update(file_name='\ud800.png'), r'image 2 has a file_name'),
            (lambda c: c['images'][1].pop('file_name'), r'image 2 has no file_name'),
            (lambda c: c['images'][1].update(width=10**30), '2.png has the size 10+ x'),
            (lambda c: c['categories'][0].update(name=7), 'no name, a text'),
            (lambda c: c['categories'][0].update(id={}), 'has no id'),
            (lambda c: c['categories'][1].pop('name'), 'no id or no name'),
            (lambda c: c['categories'][1].update(name='cat'), "two categories are named 'cat'"),
            (lambda c: c['categories'][1].update(id=7), "category ids 7 and 7, of 'cat' and 'dog'"),
        ],
    )
    def test_wrong_entries(self, make, content, change, message):
        change(content)
        with pytest.raises(DataError, match=message):
            make()

    def test_nothing_left(self, make, content):
        content['annotations'] = []
        with pytest.raises(DataError, match=r'no image left.*3 without objects: dropped'):
            make(filter_cfg=dict(filter_empty_gt=True))
        content['images'] = []
        with pytest.raises(DataError, match='no image left'):
            make(test_mode=True)

    def test_unknown_settings(self, make):
        with pytest.raises(ConfigError, match="unknown key 'filter_emty_gt'"):
            make(filter_cfg=dict(filter_emty_gt=True))
        with pytest.raises(ConfigError, match='data_prefix'):
            make(data_prefix=dict(image='images'))


class TestUnreadable:
    @pytest.fixture
    def broken(self, make, content, tmp_path):
        """Forty images; the first five exist but are broken in different ways, the rest is fine."""
        content['images'] = [
            dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in range(40)
        ]
        good = cv2.imencode('.png', np.random.randint(0, 255, (30, 40, 3), np.uint8))[1].tobytes()
        for i in range(40):
            (tmp_path / 'images' / f'{i}.png').write_bytes(good)
        (tmp_path / 'images' / '0.png').write_bytes(b'')
        (tmp_path / 'images' / '1.png').write_bytes(b'no image at all')
        (tmp_path / 'images' / '2.png').write_bytes(good[:-200])
        (tmp_path / 'images' / '3.png').unlink()
        return make

    def test_training_goes_on_and_reports_each_once(self, broken, log):
        dataset = broken(pipeline=PACK, max_unreadable=4)
        for _ in range(2):
            for i in range(40):
                assert dataset[i]['data_samples'].img_id not in (0, 1, 2, 3)
        lines = [r.getMessage() for r in log.records if 'another image' in r.getMessage()]
        assert len(lines) == 4
        for i, reason in enumerate(('empty', 'not an image', 'truncated PNG', 'No such file')):
            (line,) = [x for x in lines if f'/{i}.png' in x]
            assert reason in line
        assert lines[-1].endswith('(number 4 of at most 4)')

    @pytest.mark.parametrize('limit', [3, 0.09, 0, None])
    def test_more_than_the_limit_stops(self, broken, limit):
        dataset = broken(pipeline=PACK, max_unreadable=limit)
        if limit is None:  # a tenth of 40: all four pass
            assert all(dataset[i] for i in range(40))
            return
        with pytest.raises(DataError, match=r'.png.* of 40 images of .*ann.json.*max_unreadable'):
            for i in range(40):
                dataset[i]

    def test_evaluation_stops_at_the_first(self, broken):
        dataset = broken(pipeline=PACK, test_mode=True, max_unreadable=100)
        with pytest.raises(DataError, match=r'cannot read image .*1.png: not an image'):
            dataset[1]
        assert dataset[5]['data_samples'].img_id == 5

    def test_wrong_size_is_never_replaced(self, make, content):
        content['images'][0] |= dict(width=41)
        with pytest.raises(
            DataError, match=r'1.png is 40x30 pixels but its annotation file says 41x30'
        ):
            make(pipeline=PACK)[0]


SEMANTIC = [LOAD[0], dict(type='LoadAnnotations', with_seg=True), PACK[-1]]


class TestStuffMaps:
    @pytest.fixture
    def mapped(self, make, tmp_path):
        """A training set whose pipeline loads maps; ``write``: the images that have one."""

        def build(write=(1, 2, 3), **settings):
            (tmp_path / 'maps').mkdir()
            for i in write:
                labels = np.full((30, 40), i, np.uint8)
                cv2.imwrite(str(tmp_path / 'maps' / f'{i}.png'), labels)
            defaults = dict(data_prefix=dict(img='images', seg='maps'), pipeline=SEMANTIC)
            return make(**(defaults | settings))

        return build

    def test_the_map_of_the_image(self, mapped):
        dataset = mapped()
        for i in range(3):
            labels = dataset[i]['data_samples'].gt_sem_seg.sem_seg
            assert labels.shape == (1, 30, 40) and labels.unique().tolist() == [i + 1]

    def test_missing_maps_are_found_at_the_start(self, mapped):
        with pytest.raises(
            DataError, match=r'^2 of 3 images of .*ann.json have no semantic map: .*maps/1.png'
        ):
            mapped(write=[2])

    def test_missing_folder(self, make):
        with pytest.raises(DataError, match=r'map folder .*nowhere does not exist.*prefix.seg'):
            make(data_prefix=dict(img='images', seg='nowhere'), pipeline=SEMANTIC)

    def test_no_folder_in_the_config(self, make):
        with pytest.raises(ConfigError, match=r'with_seg=True\) needs.*ann.json has data_prefix='):
            make(pipeline=SEMANTIC)

    def test_images_that_are_not_used_need_no_map(self, mapped):
        # the third has no annotation
        assert len(mapped(write=[1, 2], filter_cfg=dict(filter_empty_gt=True))) == 2

    def test_with_indices_only_what_is_loaded_counts(self, mapped):
        dataset = mapped(write=[2], indices=[1, 2])
        assert dataset[0]['data_samples'].gt_sem_seg.sem_seg.max() == 2
        with pytest.raises(DataError, match=r'3.png: No such file'):
            dataset[1]

    def test_maps_that_nothing_reads_need_not_exist(self, make):
        assert make(data_prefix=dict(img='images', seg='nowhere'), pipeline=PACK)[0]

    def test_names_in_folders(self, make, content, tmp_path):
        for image in content['images']:
            image['file_name'] = f'sub/{image["file_name"]}'
        (tmp_path / 'images').rename(tmp_path / 'sub')
        (tmp_path / 'images').mkdir()
        (tmp_path / 'sub').rename(tmp_path / 'images' / 'sub')
        (tmp_path / 'maps' / 'sub').mkdir(parents=True)
        prefix = dict(img='images', seg='maps')
        for i in (1, 2, 3):
            with pytest.raises(DataError, match=f'{4 - i} of 3 images'):
                make(data_prefix=prefix, pipeline=SEMANTIC, seg_map_suffix='_labels.png')
            labels = np.full((30, 40), i, np.uint8)
            cv2.imwrite(str(tmp_path / 'maps' / 'sub' / f'{i}_labels.png'), labels)
        dataset = make(data_prefix=prefix, pipeline=SEMANTIC, seg_map_suffix='_labels.png')
        assert dataset[2]['data_samples'].gt_sem_seg.sem_seg.unique().tolist() == [3]

    def test_map_of_another_size_stops_training(self, mapped, tmp_path):
        dataset = mapped()
        cv2.imwrite(str(tmp_path / 'maps' / '2.png'), np.zeros((30, 41), np.uint8))
        with pytest.raises(DataError, match=r'maps/2.png is 41x30 pixels but its image .*2.png'):
            dataset[1]


class TestRealSample:
    def test_counts(self, shared_data, log):
        dataset = CocoDataset(
            ann_file='annotations/instances_val2017.json',
            data_root=str(shared_data / 'coco_tiny'),
            data_prefix=dict(img='val2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
        )
        assert len(dataset) == 80
        assert '815 objects, 11 of them crowds' in log.text
        assert dataset.cat_ids[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]

    def test_boxes_are_those_of_the_masks(self, shared_data):
        dataset = CocoDataset(
            ann_file='annotations/instances_val2017.json',
            data_root=str(shared_data / 'coco_tiny'),
            data_prefix=dict(img='val2017/'),
            indices=10,
            pipeline=[*LOAD, dict(type='Resize', scale=(1333, 800), keep_ratio=True), PACK[-1]],
        )
        for i in range(10):
            instances = dataset[i]['data_samples'].gt_instances
            difference = instances.bboxes.numpy() - instances.masks.get_bboxes()
            assert np.abs(difference).max() < 6  # one pixel of the original image, and rounding
