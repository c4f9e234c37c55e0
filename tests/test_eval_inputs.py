"""What a metric is given, by a config or by a results file, is looked at before it is measured."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from test_eval_datasets import META, both, data_set, detected, measure, write_files

from mmdet_r2.analysis.coco_errors import read_results
from mmdet_r2.analysis.inputs import read_tested
from mmdet_r2.analysis.metric import evaluate_results
from mmdet_r2.apis import coco_results
from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError, DataError, UserError
from mmdet_r2.evaluation import CocoMetric, DumpDetResults, VOCMetric
from mmdet_r2.registry import init_scope
from mmdet_r2.structures import DetDataSample


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    init_scope()
    return write_files(tmp_path_factory.mktemp('data'), [[1, 2, 3, 4], [1, 2, 3]])


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('metric', [[], None, 5, ['bbox', 5], [['bbox']], 'bbx', {}]),
        ('proposal_nums', [[], 'abc', '100', [0], [-1], [1.5], [True], [None], None, [[1, 2]], {}]),
        ('iou_thrs', [[], 'abc', '0.5', [0], [-1], [1.5], [float('nan')], [[0.5]], [None], True]),
        ('metric_items', [[], 5, [5], ['mAP_42'], 'mAP_42', [None], ['AR@0'], ['AR@' + '9' * 99]]),
    ],
)
def test_arguments_of_coco_metric(name, values):
    for value in values:
        with pytest.raises(ConfigError, match=rf'CocoMetric\.{name}'):
            CocoMetric(**{name: value})


def test_arguments_of_voc_metric():
    for name, value in (
        ('metric', 5),
        ('metric', [['mAP']]),
        ('iou_thrs', '0.5'),
        ('iou_thrs', [[0.5], [0.5, 0.6]]),
        ('proposal_nums', [True]),
        ('scale_ranges', [(1, 2, 3)]),
    ):
        with pytest.raises(ConfigError, match=rf'VOCMetric\.{name}'):
            VOCMetric(**{name: value})


def test_arguments_that_are_fine(folder):
    path = str(folder / 'a.json')
    assert CocoMetric(proposal_nums=100).proposal_nums == (100,)
    assert CocoMetric(proposal_nums=np.array([1, 10])).proposal_nums == (1, 10)
    assert CocoMetric(iou_thrs=0.5).iou_thrs.tolist() == [0.5]
    assert CocoMetric(metric_items='mAP_50').metric_items == ['mAP_50']
    data = data_set(folder, 'a')
    one = measure([CocoMetric(path, metric_items=['mAP_50'], iou_thrs=[0.5])], data)
    assert one['coco/bbox_mAP_50'] == measure([CocoMetric(path)], data)['coco/bbox_mAP_50']


@pytest.mark.skipif(not os.path.exists('/proc'), reason='needs a folder that takes no file')
def test_where_nothing_can_be_written_is_said_before_inference(folder, tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'x.bbox.json').mkdir()
    for prefix in ('/proc/nothing/here', f'{tmp_path}/file/inside', f'{tmp_path}/x'):
        with pytest.raises(DataError, match=prefix):
            measure([CocoMetric(outfile_prefix=prefix)], data_set(folder, 'a'), [])
    with pytest.raises(DataError, match='/proc/nothing'):
        measure([DumpDetResults('/proc/nothing/x.pkl')], data_set(folder, 'a'), [])
    measure([CocoMetric(outfile_prefix=f'{tmp_path}/new/y')], data_set(folder, 'a'), None)
    assert sorted(os.listdir(tmp_path / 'new')) == ['y.bbox.json', 'y.segm.json']


def test_two_metrics_that_would_write_one_file(folder, tmp_path):
    chosen = [
        CocoMetric(str(folder / f'{name}.json'), prefix=name, outfile_prefix=str(tmp_path / 'x'))
        for name in 'ab'
    ]
    with pytest.raises(ConfigError, match=r'a\.json.*b\.json.*x\.bbox\.json'):
        measure(chosen, both(folder), [])


# ------------------------------------------------------------------------------------ results files


@pytest.fixture(scope='module')
def config(folder):
    overrides = {
        'test_dataloader.dataset.data_root': '',
        'test_dataloader.dataset.ann_file': str(folder / 'a.json'),
        'test_dataloader.dataset.data_prefix.img': str(folder / 'a'),
        'test_dataloader.dataset.metainfo': META,
        'test_evaluator.ann_file': str(folder / 'a.json'),
        'test_evaluator.metric': ['bbox', 'segm'],
        'model.roi_head.bbox_head.num_classes': 2,
        'model.roi_head.mask_head.num_classes': 2,
    }
    load_config('mask_rcnn_r50_fpn_1x_coco', overrides).dump(str(folder / 'config.py'))
    return load_config(folder / 'config.py')


@pytest.fixture
def tested(folder, config, tmp_path):
    """A config, its results file, and a function that changes it."""
    dataset = data_set(folder, 'a')
    samples = detected(dataset)
    dump = DumpDetResults(str(tmp_path / 'results.pkl'))
    dump.process(None, samples)
    dump.evaluate(len(samples))
    original = pickle.loads((tmp_path / 'results.pkl').read_bytes())

    def changed(change):
        results = copy.deepcopy(original)
        change(results)
        (tmp_path / 'results.pkl').write_bytes(pickle.dumps(results))
        return config, tmp_path / 'results.pkl'

    return changed


def first(results):
    return results[0]['pred_instances']


def rle(height=48, width=64, side=9):
    mask = np.zeros((height, width), np.uint8)
    mask[:side, :side] = 1
    return coco_mask.encode(np.asfortranarray(mask))


def put(key, value):
    """A change of the first image's detections: a value, or what a function makes of the old."""

    def change(results):
        old = first(results).get(key)
        first(results)[key] = value(old) if callable(value) else value

    return change


SPOILT = {
    'mask of another size': put('masks', lambda old: [rle(64, 48), *old[1:]]),
    'mask of another image': put('masks', lambda old: [rle(640, 480), *old[1:]]),
    'counts cut': put('masks', lambda old: [dict(rle(), counts=rle()['counts'][:-1]), *old[1:]]),
    'counts empty': put('masks', lambda old: [dict(rle(), counts=b''), *old[1:]]),
    'counts as a list, cut': put('masks', lambda old: [dict(rle(), counts=[9, 9]), *old[1:]]),
    'counts of bytes above': put('masks', lambda old: [dict(rle(), counts=b'\xff'), *old[1:]]),
    'no mask': put('masks', lambda old: [None, *old[1:]]),
    'a mask too few': put('masks', lambda old: old[1:]),
    'masks are a number': put('masks', 5),
    'masks are text': put('masks', 'text'),
    'bitmaps of another size': put('masks', lambda old: torch.zeros(len(old), 64, 48)),
    'bitmaps of 255': put('masks', lambda old: torch.full((len(old), 48, 64), 255)),
    'probabilities': put('masks', lambda old: torch.full((len(old), 48, 64), 0.5)),
    'a box too few': put('bboxes', lambda old: old[1:]),
    'boxes of five': put('bboxes', lambda old: torch.cat([old, old[:, :1]], dim=1)),
    'boxes in one row': put('bboxes', lambda old: old.reshape(-1)),
    'boxes of text': put('bboxes', lambda old: [['a'] * 4] * len(old)),
    'boxes are None': put('bboxes', None),
    'boxes of booleans': put('bboxes', lambda old: torch.ones(old.shape, dtype=torch.bool)),
    'complex boxes': put('bboxes', lambda old: old.to(torch.complex64)),
    'a score too many': put('scores', lambda old: torch.cat([old, old[:1]])),
    'scores in a column': put('scores', lambda old: old[:, None]),
    'scores are a dict': put('scores', {}),
    'labels beyond': put('labels', lambda old: old + 2),
    'labels below': put('labels', lambda old: old - 2),
    'labels between': put('labels', lambda old: old + 0.5),
    'labels NaN': put('labels', lambda old: old * float('nan')),
    'labels are names': put('labels', lambda old: ['disc'] * len(old)),
    'no scores': lambda results: first(results).pop('scores'),
    'pred_instances is a list': lambda results: results[0].update(pred_instances=[1]),
    'another image': lambda results: results[0].update(img_id=2),
    'an id that is none': lambda results: results[0].update(img_id=[1]),
    'an id that is a tensor': lambda results: results[0].update(img_id=torch.ones(2)),
    'another data set': lambda results: results[0].update(dataset_index=1),
    'size of another image': lambda results: results[0].update(ori_shape=(64, 48)),
    'no size': lambda results: results[0].update(ori_shape=None),
    'a size of text': lambda results: results[0].update(ori_shape='48'),
    'a data set of text': lambda results: results[0].update(dataset_index='a'),
    'an image too few': lambda results: results.pop(),
}


@pytest.mark.parametrize('case', SPOILT)
def test_spoilt_results_are_named(tested, case):
    config, path = tested(SPOILT[case])
    with pytest.raises(DataError, match=r'results\.pkl') as error:
        read_tested(config, path)
    assert '\n' not in str(error.value)
    assert case == 'an image too few' or 'entry 0' in str(error.value)


def test_sound_results_give_the_numbers_of_the_test(tested, folder):
    def numbers(change):
        config, path = tested(change)
        return evaluate_results(config.filename, path)[0]

    values = numbers(lambda results: None)
    metric = CocoMetric(str(folder / 'a.json'), metric=['bbox', 'segm'])
    assert values == measure([metric], data_set(folder, 'a'))
    # as lists, arrays, half precision, bitmaps: the same
    change = put('labels', lambda old: old.tolist())
    assert numbers(change) == values
    change = put('masks', lambda old: torch.from_numpy(coco_mask.decode(old)).permute(2, 0, 1))
    assert numbers(change) == values


def test_numbers_that_are_not_finite_are_counted(tested, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmdet_r2.analysis.inputs.print_log', lambda text, *_, **__: said.append(text)
    )

    def change(results):
        first(results)['scores'][0] = float('nan')
        results[2]['pred_instances']['bboxes'][0, 1] = float('inf')

    assert len(read_tested(*tested(change))) == 4
    assert len(said) == 1 and 'results.pkl: 2 ' in said[0]


@pytest.mark.parametrize('case', SPOILT)
def test_a_metric_looks_at_what_it_is_given(folder, case):
    """The same, by a model of one's own: at the first image."""
    results = detected(data_set(folder, 'a'))
    SPOILT[case](results)
    if case in ('another image', 'an image too few', 'another data set', 'size of another image'):
        return
    for metric in (CocoMetric(str(folder / 'a.json')), VOCMetric()):
        if isinstance(metric, VOCMetric) and ('mask' in case or 'counts' in case):
            continue
        metric.dataset_meta = META
        try:
            metric.process(None, results[:1])
        except UserError as error:
            assert any(word in str(error) for word in ('image 1', 'img_id', 'dataset_index'))
        else:
            assert isinstance(metric, VOCMetric)  # which takes no masks


def test_annotation_file_that_is_not_the_data_sets(folder):
    content = json.loads((folder / 'a.json').read_text())
    content['images'] = content['images'][:2]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] <= 2]
    (folder / 'half.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'half\.json.* 3'):
        measure([CocoMetric(str(folder / 'half.json'))], data_set(folder, 'a'), [])


def test_results_for_coco_are_looked_at():
    """By :func:`coco_results`, whoever made the sample."""
    for masks in ([dict(rle(), counts='o')], [rle(64, 48)], torch.zeros(1, 9, 9, dtype=torch.bool)):
        sample = DetDataSample(metainfo=dict(ori_shape=(48, 64), img_id=3))
        sample.pred_instances = InstanceData(
            bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.tensor([0]), masks=masks
        )
        with pytest.raises(DataError, match='image 3'):
            coco_results(sample)


@pytest.mark.parametrize(
    'record',
    [
        dict(score='high'),
        dict(score=None),
        dict(score=[0.5]),
        dict(image_id=[1]),
        dict(category_id={}),
        dict(bbox=[1, 2, 3]),
        dict(bbox=[1, 2, 3, 'a']),
        dict(bbox=None),
        dict(segmentation=dict(size=[48, 64], counts='o')),
        dict(segmentation=rle(64, 48) | dict(counts='abc')),
    ],
)
def test_records_of_a_results_file(folder, tmp_path, record):
    sound = dict(image_id=1, category_id=0, score=0.5, bbox=[1, 1, 9, 9])
    sound['segmentation'] = dict(size=[48, 64], counts=rle()['counts'].decode())
    path = tmp_path / 'x.segm.json'
    path.write_text(json.dumps([sound, sound | record]))
    with pytest.raises(DataError, match=r'x\.segm\.json'):
        read_results(path, folder / 'a.json', iou_type='segm')
    path.write_text(json.dumps([sound]))
    read_results(path, folder / 'a.json', iou_type='segm')


def test_objects_of_samples_whose_masks_cannot_be_used(folder):
    """Are measured as boxes, and left out where masks are."""
    samples = detected(data_set(folder, 'a'))
    samples[0]['instances'][0]['mask'] = dict(size=[48, 64], counts=[10, 5])
    samples[0]['instances'][1]['mask'] = 'text'
    metric = CocoMetric(metric=['bbox', 'segm'])
    metric.dataset_meta = META
    metric.process(None, samples)
    assert metric.evaluate(4)['coco/segm_mAP'] >= 0
