"""Metrics over several data sets whose image ids are the same: the numbers of the whole, or an
error before the first image.
"""

import json
import os
import pickle
import subprocess

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, RepeatDataset
from warm_python import python

from mmdet_r2.datasets import ClassBalancedDataset, CocoDataset, ConcatDataset
from mmdet_r2.datasets.wrappers import sources_of
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.evaluation import CocoMetric, CocoPanopticMetric, Evaluator, VOCMetric
from mmdet_r2.registry import init_scope

CLASSES = ('disc', 'box')
META = dict(classes=CLASSES)
KEYS = ('img_id', 'ori_shape', 'instances')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=KEYS),
]


def write_files(folder, ids):
    """An annotation file and an image folder for each list of ids; the images differ."""
    rng = np.random.default_rng(0)
    for name, numbers in zip('abc', ids):
        (folder / name).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for position, number in enumerate(numbers):
            cv2.imwrite(str(folder / name / f'{position}.png'), np.zeros((48, 64, 3), np.uint8))
            images.append(dict(id=number, file_name=f'{position}.png', width=64, height=48))
            for _ in range(rng.integers(1, 6)):
                x, y, w, h = rng.integers(0, 30), rng.integers(0, 20), *rng.integers(5, 25, 2)
                x, y, w, h = map(int, (x, y, w, h))
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=int(rng.integers(2)),
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=int(rng.random() < 0.1),
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    )
                )
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (folder / f'{name}.json').write_text(json.dumps(content))
    return folder


def data_set(folder, name, **options):
    return CocoDataset(
        ann_file=str(folder / f'{name}.json'),
        metainfo=META,
        data_prefix=dict(img=str(folder / name)),
        test_mode=True,
        pipeline=options.pop('pipeline', PIPELINE),
        **options,
    )


def detected(dataset):
    """Samples of every image as a model gives them: some of its objects, moved, and others."""
    found = []
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples'].to_dict()
        seed = [int(c) for o in sample['instances'] for c in o['bbox']]
        rng = np.random.default_rng(seed)  # the same detections wherever the image turns up
        boxes = [o['bbox'] for o in sample['instances'] if rng.random() < 0.8]
        boxes = np.array([*boxes, [1, 1, 9, 9], [20, 2, 50, 40]], float)
        boxes += rng.normal(0, 1.5, boxes.shape)
        masks = np.zeros((len(boxes), 48, 64), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).astype(int)):
            mask[y1:y2, x1:x2] = True
        sample['pred_instances'] = dict(
            bboxes=torch.from_numpy(boxes).float(),
            scores=torch.from_numpy(rng.random(len(boxes))).float(),
            labels=torch.from_numpy(rng.integers(0, 2, len(boxes))),
            masks=masks,
        )
        found.append(sample)
    return found


def measure(metrics, dataset, samples=None):
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dataset.metainfo
    evaluator.check_dataset(dataset, 'test_evaluator')
    for sample in detected(dataset) if samples is None else samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(dataset))


def metrics():
    return [CocoMetric(metric=['bbox', 'segm']), VOCMetric(iou_thrs=[0.3, 0.5], metric=['mAP'])]


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_scope()


@pytest.fixture(scope='module')
def same(tmp_path_factory):
    """Three files that all count from 1."""
    return write_files(tmp_path_factory.mktemp('same'), [[1, 2, 3, 4], [1, 2, 3], [1, 2]])


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """The same images, numbered on."""
    return write_files(tmp_path_factory.mktemp('other'), [[1, 2, 3, 4], [5, 6, 7], [8, 9]])


def both(folder, names='ab'):
    return ConcatDataset([data_set(folder, name) for name in names])


@pytest.fixture(scope='module')
def expected(other):
    """The numbers of the whole, of each file, and that they differ."""
    values = measure(metrics(), both(other))
    alone = [measure(metrics(), data_set(other, name)) for name in 'ab']
    assert values != alone[0] != alone[1]
    return values, *alone


def test_equal_ids_give_the_numbers_of_the_whole(same, expected):
    assert measure(metrics(), both(same)) == expected[0]


def test_any_wrappers_give_the_numbers_of_the_whole(same, other):
    whole = measure(metrics(), both(other, 'abc'))
    a, b, c = (data_set(same, name) for name in 'abc')
    combined = ConcatDataset([a, b, c])
    repeated = RepeatDataset(a, 2)
    repeated.dataset = combined
    repeated._fully_initialized = False
    for wrapped in (repeated, ClassBalancedDataset(combined, 0.9)):
        assert measure(metrics(), wrapped) == whole
    with pytest.raises(ConfigError, match=r'datasets\.1 .*RepeatDataset'):
        ConcatDataset([a, RepeatDataset(b, 2)])


def test_the_data_set_travels_with_every_sample(same):
    a, b, c = (data_set(same, name) for name in 'abc')
    again = data_set(same, 'a')
    combined = ConcatDataset([a, b, again, c])
    seen = [combined[i]['data_samples'].dataset_index for i in range(len(combined))]
    assert seen == [0] * 4 + [1] * 3 + [0] * 4 + [2] * 2
    assert [combined.get_data_info(i)['dataset_index'] for i in range(len(combined))] == seen
    assert combined.get_data_info(-1)['dataset_index'] == 2
    assert [source.name for source in sources_of(combined)] == [s.ann_file for s in (a, b, c)]
    raw = both(same)
    for part in raw.datasets:
        part.pipeline.transforms = []
    assert [raw[i]['dataset_index'] for i in range(7)] == [0] * 4 + [1] * 3


def test_views_of_one_image_carry_its_data_set(same):
    views = dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(64, 48)), dict(type='Resize', scale=(32, 24))],
            [dict(type='PackDetInputs', meta_keys=KEYS)],
        ],
    )
    pipeline = [dict(type='LoadImageFromFile'), views]
    data = ConcatDataset([data_set(same, name, pipeline=pipeline) for name in 'ab'])
    assert [s.dataset_index for s in data[5]['data_samples']] == [1, 1]


def test_images_seen_twice_count_once(same, expected):
    """By a padded sampler, or as two data sets of one file that have images in common."""
    whole = both(same)
    samples = detected(whole)
    assert measure(metrics(), whole, [*samples, *samples[:3]]) == expected[0]
    parts = [data_set(same, 'a', indices=[0, 1, 2]), data_set(same, 'a', indices=[1, 2, 3])]
    assert measure(metrics(), ConcatDataset([*parts, data_set(same, 'b')])) == expected[0]
    file = str(same / 'a.json')
    overlapping = ConcatDataset(parts)
    assert measure([CocoMetric(file)], overlapping) == measure(
        [CocoMetric(file)], data_set(same, 'a')
    )


def test_one_file_for_the_images_of_two_folders(same, tmp_path):
    """As for measuring on distorted images: their ids are those of the sound ones."""
    twin = CocoDataset(
        ann_file=str(same / 'a.json'),
        metainfo=META,
        data_prefix=dict(img=str(same / 'b')),
        test_mode=True,
        pipeline=PIPELINE,
        indices=3,
    )
    twice = ConcatDataset([data_set(same, 'a'), twin])
    assert [s['dataset_index'] for s in detected(twice)] == [0] * 4 + [1] * 3
    with pytest.raises(ConfigError, match=r'image id 1 .*a\.json.*a\.json \(.*b\)'):
        measure([CocoMetric(str(same / 'a.json'))], twice)


def test_samples_without_a_data_set_go_by_their_id(same):
    alone = data_set(same, 'a')
    samples = detected(alone)
    assert not any('dataset_index' in sample for sample in samples)
    metric = CocoMetric(str(same / 'a.json'))
    metric.dataset_meta = META
    metric.process(None, [*samples, samples[0]])
    assert metric.evaluate(4) == measure([CocoMetric(str(same / 'a.json'))], alone)


def test_a_metric_for_each_file(same, other, expected):
    """Each measures the images of its own file, whatever their ids."""
    for folder in (same, other):
        files = [str(folder / f'{name}.json') for name in 'ab']
        chosen = [CocoMetric(f, metric=['bbox', 'segm'], prefix=p) for f, p in zip(files, 'xy')]
        values = measure(chosen, both(folder))
        for name, prefix, alone in (('a', 'x', expected[1]), ('b', 'y', expected[2])):
            plain = measure(
                [CocoMetric(str(folder / f'{name}.json'), metric=['bbox', 'segm'])],
                data_set(folder, name),
            )
            assert plain == {k: v for k, v in alone.items() if k.startswith('coco/')}
            for key, value in plain.items():
                assert values[key.replace('coco', prefix)] == value


def test_an_annotation_file_of_all_images(other, tmp_path):
    parts = [json.loads((other / f'{name}.json').read_text()) for name in 'ab']
    union = dict(parts[0])
    union['images'] = parts[0]['images'] + parts[1]['images']
    union['annotations'] = [
        dict(a, id=number)
        for number, a in enumerate(parts[0]['annotations'] + parts[1]['annotations'], start=1)
    ]
    (tmp_path / 'union.json').write_text(json.dumps(union))
    values = measure([CocoMetric(str(tmp_path / 'union.json'))], both(other))
    assert values == {
        k: v for k, v in measure([CocoMetric()], both(other)).items() if k.startswith('coco/bbox')
    }


def test_what_cannot_be_told_apart_is_said_before_inference(same, other, tmp_path):
    a, b = str(same / 'a.json'), str(same / 'b.json')
    for metric in (
        CocoMetric(a),
        CocoMetric(outfile_prefix=str(tmp_path / 'x')),
        CocoMetric(outfile_prefix=str(tmp_path / 'x'), format_only=True),
    ):
        with pytest.raises(ConfigError, match=r'id 1 .*a\.json.*b\.json'):
            measure([metric], both(same), [])
    with pytest.raises(DataError, match=r'other.*a\.json.* 5.*b\.json'):
        measure([CocoMetric(str(other / 'a.json'))], both(other), [])
    with pytest.raises(DataError, match=r'b\.json.* 4.*a\.json'):
        measure([CocoMetric(b)], data_set(same, 'a'), [])
    # a prefix for each, and one file too few
    with pytest.raises(ConfigError, match=r'id 1 .*a\.json.*b\.json'):
        measure([CocoMetric(a), CocoMetric(b, prefix='y')], both(same, 'abc'), [])


def test_mmengines_own_combination_does_not_tell(same, other):
    from mmengine.dataset import ConcatDataset as Plain

    parts = [data_set(same, name) for name in 'ab']
    with pytest.raises(ConfigError, match=r'id 1 .*a\.json.*b\.json.*ConcatDataset'):
        measure([CocoMetric()], Plain(parts), [])
    parts = [data_set(other, name) for name in 'ab']
    assert measure([CocoMetric()], Plain(parts)) == measure([CocoMetric()], both(other))


def test_equal_ids_are_never_dropped_in_silence(same, tmp_path):
    """By code that calls a metric itself, without a comparison before."""
    for metric in (
        CocoMetric(str(same / 'a.json')),
        CocoMetric(outfile_prefix=str(tmp_path / 'x')),
    ):
        metric.dataset_meta = META
        metric.process(None, detected(both(same)))
        with pytest.raises(DataError, match=r'id 1 .*data set 0.*data set 1'):
            metric.evaluate(7)


@pytest.mark.parametrize(
    'pair',
    [
        lambda a, b: (CocoMetric(a), CocoMetric(b)),
        lambda a, b: (CocoMetric(a, metric=['segm', 'bbox']), CocoMetric(b, metric='segm')),
        lambda a, b: (CocoMetric(a, metric='proposal'), CocoMetric(a, metric='proposal_fast')),
        lambda a, b: (
            CocoMetric(a, classwise=True),
            CocoMetric(a, metric='segm', classwise=True),
        ),
        lambda a, b: (VOCMetric(), VOCMetric(iou_thrs=0.7)),
        lambda a, b: (VOCMetric(), VOCMetric(prefix='x'), CocoMetric(a, prefix='x'), VOCMetric()),
    ],
)
def test_two_numbers_of_one_name_are_said_before_inference(same, pair):
    with pytest.raises(ConfigError, match='prefix'):
        measure(list(pair(str(same / 'a.json'), str(same / 'a.json'))), data_set(same, 'a'), [])


def test_metrics_that_share_a_prefix_but_no_name(same):
    a = str(same / 'a.json')
    values = measure([CocoMetric(a), CocoMetric(a, metric='segm')], data_set(same, 'a'))
    assert values == measure([CocoMetric(a, metric=['bbox', 'segm'])], data_set(same, 'a'))


def test_other_peoples_metrics_of_one_name(same):
    from mmengine.evaluator import BaseMetric

    class Count(BaseMetric):
        default_prefix = 'own'

        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return dict(number=len(results))

    with pytest.raises(ConfigError, match=r'own/number.*Count'):
        measure([Count(), Count()], data_set(same, 'a'))


def test_samples_without_what_is_needed(same):
    samples = detected(data_set(same, 'a'))
    for key in ('img_id', 'ori_shape'):
        for metric in (CocoMetric(str(same / 'a.json')), VOCMetric()):
            bad = {k: v for k, v in samples[0].items() if k != key}
            with pytest.raises(ConfigError, match=rf'{key}.*meta_keys'):
                metric.process(None, [bad])


# ----------------------------------------------------------------------------------------- panoptic


def panoptic_files(folder, ids, seed):
    """Ground truth of 6 x 8 pixels, and predictions that are partly right."""
    from test_eval_panoptic import chance_images, sample, write_truth

    folder.mkdir()
    images = chance_images(np.random.default_rng(seed), len(ids))
    path = write_truth(folder, images)  # ids count from 5
    return path, [sample(i + 5, *image[2:]) for i, image in enumerate(images)]


class Listed(BaseDataset):
    """A data set that knows its ids and its file."""

    def __init__(self, ann_file, samples, metainfo):
        self.samples = samples
        super().__init__(ann_file=str(ann_file), metainfo=metainfo)

    def load_data_list(self):
        return [dict(img_id=sample['img_id']) for sample in self.samples]


def test_panoptic_quality_of_two_files_with_equal_ids(tmp_path):
    from test_eval_panoptic import META as PANOPTIC_META

    files = [panoptic_files(tmp_path / name, range(4), seed) for seed, name in enumerate('ab')]
    parts = [Listed(path, samples, PANOPTIC_META) for path, samples in files]
    combined = ConcatDataset(parts)
    samples = [
        dict(sample, dataset_index=k) for k, part in enumerate(parts) for sample in part.samples
    ]
    chosen = [CocoPanopticMetric(str(path), prefix=p) for (path, _), p in zip(files, 'xy')]
    values = measure(chosen, combined, samples)
    for part, prefix in zip(parts, 'xy'):
        alone = measure([CocoPanopticMetric(part.ann_file)], part, part.samples)
        for key, value in alone.items():
            assert values[key.replace('coco_panoptic', prefix)] == value
    with pytest.raises(ConfigError, match='id 5 '):
        measure([CocoPanopticMetric(str(files[0][0]))], combined, [])
    with pytest.raises(ConfigError, match='prefix'):
        measure([CocoPanopticMetric(str(path)) for path, _ in files], combined, [])
    # counted by data set and id, and numbered anew: without an annotation file
    metric = CocoPanopticMetric(str(files[0][0]))
    metric.dataset_meta = PANOPTIC_META
    metric.process(None, [dict(samples[0]), dict(samples[0], dataset_index=1), samples[0]])
    metric.ann_file = None
    assert [image.img_id for image in metric.distinct(metric.results)] == [1, 2]


# ------------------------------------------------------------------------------------ two processes

WORKER = """
import json, pickle, sys
import torch
from mmengine.dist import get_rank
torch.distributed.init_process_group('gloo')
from mmdet_r2.evaluation import CocoMetric, DumpDetResults, Evaluator, VOCMetric
folder = sys.argv[1]
with open(f'{folder}/samples.pkl', 'rb') as file:
    samples = pickle.load(file)
chosen = [CocoMetric(metric=['bbox', 'segm']), VOCMetric(iou_thrs=[0.3, 0.5], metric=['mAP'])]
evaluator = Evaluator([*chosen, DumpDetResults(f'{folder}/results.pkl')])
evaluator.dataset_meta = dict(classes=('disc', 'box'))
# what DefaultSampler does: the end is padded with the beginning, images are dealt in turn
for sample in [*samples, samples[0]][get_rank()::2]:
    evaluator.process([sample])
values = evaluator.evaluate(len(samples))
with open(f'{folder}/{get_rank()}.json', 'w') as file:
    json.dump(values, file)
torch.distributed.barrier()
from mmdet_r2.engine import shut_down
shut_down()
"""


def test_two_processes(same, expected, tmp_path, repo):
    from mmdet_r2.evaluation import load_results

    samples = detected(both(same))
    (tmp_path / 'samples.pkl').write_bytes(pickle.dumps(samples))
    (tmp_path / 'worker.py').write_text(WORKER)
    command = [python(), '-m', 'torch.distributed.run', '--nproc-per-node=2']
    command += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0']
    done = subprocess.run(
        [*command, str(tmp_path / 'worker.py'), str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == expected[0]
    results = load_results(tmp_path / 'results.pkl')
    assert [r['dataset_index'] for r in results] == [0] * 4 + [1] * 3
    assert [r['img_id'] for r in results] == [1, 2, 3, 4, 1, 2, 3]


def test_what_a_file_leaves_out_is_said_once(same, tmp_path, monkeypatch):
    content = json.loads((same / 'a.json').read_text())
    content['annotations'][0]['iscrowd'] = 'many'
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    metric = CocoMetric(str(path))
    for folder in (tmp_path, same):  # the data set says it, or the metric
        said = []
        for module in ('datasets.coco', 'evaluation.evaluator'):
            name = f'mmdet_r2.{module}.print_log'
            monkeypatch.setattr(name, lambda line, *_, said=said, **__: said.append(line))
        measure([metric], data_set(folder, 'a', pipeline=[]), [])
        assert ' '.join(said).count("iscrowd is 'many'") == 1
