"""VOCMetric against the official rule written out, a case worked by hand and mmdetection's; and
training and testing on data in VOC's layout by the scripts.
"""

import json
import math
import os
import pickle
import subprocess
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from small_detector import small_config
from test_data_voc import log  # noqa: F401
from voc_data import COLOURS, coloured_voc
from warm_python import python

from mmdet_r2.apis.test import test_config as make_config
from mmdet_r2.config import load_config
from mmdet_r2.config_check import known_keys
from mmdet_r2.errors import ConfigError
from mmdet_r2.evaluation import VOCMetric, voc_ap
from mmdet_r2.evaluation.voc_ap import RECALL_LEVELS, average_precision
from mmdet_r2.structures import DetDataSample

PEER = os.environ.get('MMDET_R2_PEER')
CLASSES = ('aeroplane', 'bird', 'cat')


def sample(img_id, truth, found, size=(200, 300)):
    """As the evaluator hands it over. ``truth``: rows (x1, y1, x2, y2, label, difficult);
    ``found``: (x1, y1, x2, y2, score, label).
    """
    truth, found = np.array(truth, float).reshape(-1, 6), np.array(found, float).reshape(-1, 6)
    packed = DetDataSample(metainfo=dict(img_id=img_id, ori_shape=size))
    for name, flag in (('gt_instances', 0), ('ignored_instances', 1)):
        rows = torch.from_numpy(truth[truth[:, 5] == flag]).float()
        setattr(packed, name, InstanceData(bboxes=rows[:, :4], labels=rows[:, 4].long()))
    rows = torch.from_numpy(found).float()
    packed.pred_instances = InstanceData(
        bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long()
    )
    return packed.to_dict()


def run(samples, classes=CLASSES, year=None, **kwargs):
    metric = VOCMetric(**kwargs)
    metric.dataset_meta = dict(classes=classes, dataset_type=year)
    for start in range(0, len(samples), 4):
        metric.process(None, samples[start : start + 4])
    values = metric.evaluate(len(samples))
    return {k.removeprefix('pascal_voc/'): v for k, v in values.items()}, metric.report


def as_arrays(samples):
    keys = ('gt_instances', 'ignored_instances', 'pred_instances')
    return [
        dict(s, **{key: {k: v.numpy() for k, v in s[key].items()} for key in keys}) for s in samples
    ]


# ---------------------------------------------------------------- the official rule, written out


def devkit(samples, label, threshold, use_07, levels=RECALL_LEVELS):
    """VOCevaldet.m (and VOCap.m) step by step: (AP, objects to find)."""
    objects, detections = {}, []
    num_objects = 0
    for s in samples:
        rows = []
        for name, difficult in (('gt_instances', False), ('ignored_instances', True)):
            part = s[name]
            for box, own in zip(part['bboxes'].tolist(), part['labels'].tolist()):
                if own == label:
                    rows.append(dict(box=box, difficult=difficult, taken=False))
        num_objects += sum(not row['difficult'] for row in rows)
        objects[s['img_id']] = rows
        part = s['pred_instances']
        for box, score, own in zip(
            part['bboxes'].tolist(), part['scores'].tolist(), part['labels'].tolist()
        ):
            if own == label:
                detections.append((score, s['img_id'], box))
    detections.sort(key=lambda d: -d[0])  # stable, like Matlab's
    right, wrong, curve = 0, 0, []
    for _, img_id, box in detections:
        best, overlap = None, -math.inf
        for thing in objects[img_id]:
            other = thing['box']
            w = min(box[2], other[2]) - max(box[0], other[0]) + 1
            h = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if w > 0 and h > 0:
                union = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                union += (other[2] - other[0] + 1) * (other[3] - other[1] + 1) - w * h
                if w * h / union > overlap:
                    best, overlap = thing, w * h / union
        if overlap >= threshold:
            if not best['difficult']:
                if best['taken']:
                    wrong += 1
                else:
                    right, best['taken'] = right + 1, True
        else:
            wrong += 1
        if num_objects:
            precision = right / (right + wrong) if right + wrong else math.nan
            curve.append((right / num_objects, precision))
    if not num_objects:
        return math.nan, 0
    if use_07:
        total = 0.0
        for level in levels:
            reached = [p for r, p in curve if r >= level and p == p]
            total += max(reached, default=0.0) / 11
        return total, num_objects
    recalls = [0.0, *(r for r, _ in curve), 1.0]
    envelope = [0.0, *(0.0 if p != p else p for _, p in curve), 0.0]
    for i in range(len(envelope) - 2, -1, -1):
        envelope[i] = max(envelope[i], envelope[i + 1])
    area = sum(
        (recalls[i] - recalls[i - 1]) * envelope[i]
        for i in range(1, len(recalls))
        if recalls[i] != recalls[i - 1]
    )
    return area, num_objects


def random_samples(seed, images=40, integer_scores=False):
    """Objects and what a mediocre detector makes of them: misses, shifts, doubles, wrong classes,
    chance boxes; some images without either, equal scores on request; class 2 has no object.
    """
    rng = np.random.default_rng(seed)
    out = []
    for i in range(images):
        truth, found = [], []
        for _ in range(rng.integers(0, 7) if i % 5 else 0):
            x, y = rng.integers(0, 200), rng.integers(0, 120)
            w, h = rng.integers(5, 100), rng.integers(5, 80)
            label = int(rng.integers(0, 2))
            truth.append((x, y, x + w, y + h, label, rng.random() < 0.25))
            for _ in range(rng.choice([0, 1, 1, 2, 3])):
                moved = rng.normal((x, y, x + w, y + h), (0.12 * w, 0.12 * h) * 2)
                other = label if rng.random() < 0.9 else int(rng.integers(0, 3))
                found.append((*moved, rng.random(), other))
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform(0, 200), rng.uniform(0, 120)
            found.append((x, y, x + 40, y + 30, rng.random() * 0.7, int(rng.integers(0, 3))))
        if integer_scores:
            found = [(*row[:4], round(row[4], 1), row[5]) for row in found]
        out.append(sample(f'{i:06d}', truth, found))
    return out


@pytest.mark.parametrize('eval_mode', ['11points', 'area'])
@pytest.mark.parametrize('ties', [False, True], ids=['all scores differ', 'equal scores'])
@pytest.mark.parametrize('seed', range(3))
def test_the_official_rule(seed, ties, eval_mode):
    samples = random_samples(seed, integer_scores=ties)
    thresholds = [0.3, 0.5, 0.75]
    values, report = run(samples, iou_thrs=thresholds, eval_mode=eval_mode)
    for threshold in thresholds:
        name = f'AP{threshold * 100:g}'
        aps = [devkit(samples, label, threshold, eval_mode == '11points') for label in range(3)]
        for label, (ap, num_objects) in enumerate(aps):
            row = report['mAP']['per_class'][CLASSES[label]]
            assert row['num_gt'] == num_objects
            assert row[name] is None if math.isnan(ap) else row[name] == pytest.approx(ap, abs=1e-9)
        assert 0 < values[name] < 1
        assert values[name] == pytest.approx(np.nanmean([ap for ap, _ in aps]), abs=1e-9)
    assert values['mAP'] == pytest.approx(np.mean([values[f'AP{t * 100:g}'] for t in thresholds]))


def test_in_parts(monkeypatch):
    samples = random_samples(5)
    whole = run(samples)
    monkeypatch.setattr(voc_ap, 'PAIRS', 3)
    assert run(samples) == whole


# ---------------------------------------------------------------- worked by hand

OBJECTS = [
    (0, 0, 9, 9, 0, 0),
    (20, 20, 29, 29, 0, 0),
    (40, 40, 49, 49, 0, 0),
    (60, 60, 69, 69, 0, 1),
]
FOUND = [
    (0, 0, 9, 8, 0.9, 0),
    (0, 0, 9, 9, 0.8, 0),
    (60, 60, 69, 69, 0.7, 0),
    (20, 20, 29, 24, 0.6, 0),
    (40, 40, 49, 43, 0.5, 0),
]


@pytest.mark.parametrize('eval_mode, expected', [('11points', 6 / 11), ('area', 5 / 9)])
def test_the_example_of_the_docstring(eval_mode, expected):
    values, report = run([sample('a', OBJECTS, FOUND)], eval_mode=eval_mode)
    assert values == {'mAP': pytest.approx(expected), 'AP50': pytest.approx(expected)}
    assert f'{expected:.4f}' in voc_ap.__doc__
    row = report['mAP']['per_class']['aeroplane']
    assert (row['num_gt'], row['num_difficult'], row['num_det']) == (3, 1, 5)


@pytest.mark.parametrize(
    'truth, found, expected',
    [
        (OBJECTS[:1], FOUND[1:2], 1.0),
        (OBJECTS[:1], [], 0.0),
        ([], FOUND, math.nan),
        (OBJECTS[3:], FOUND, math.nan),
        ([], [], math.nan),
        # overlap 50 / 100: exactly the threshold, thanks to the pixel at both ends
        (OBJECTS[:1], [(0, 0, 9, 4, 0.5, 0)], 1.0),
        # overlap 49 / 100
        (OBJECTS[:1], [(0, 0, 6, 6, 0.5, 0)], 0.0),
        # the better placed second one comes too late
        (OBJECTS[:1], [(0, 0, 9, 5, 0.9, 0), (0, 0, 9, 9, 0.8, 0)], 1.0),
        # the wrong class
        (OBJECTS[:1], [(0, 0, 9, 9, 0.9, 1)], 0.0),
        # found twice, but difficult: neither right nor wrong
        ([*OBJECTS[:1], OBJECTS[3]], [FOUND[2], FOUND[2], (0, 0, 9, 9, 0.1, 0)], 1.0),
        # objects of one pixel
        ([(5, 5, 5, 5, 0, 0)], [(5, 5, 5, 5, 0.5, 0)], 1.0),
    ],
    ids=[
        'found',
        'missed',
        'no object',
        'difficult only',
        'empty image',
        'just enough',
        'not enough',
        'second best',
        'wrong class',
        'difficult twice',
        'one pixel',
    ],
)
def test_small_cases(truth, found, expected):
    for eval_mode in ('11points', 'area'):
        values, report = run([sample('a', truth, found)], eval_mode=eval_mode)
        assert values['mAP'] == pytest.approx(expected, nan_ok=True)
        ap = report['mAP']['per_class']['aeroplane']['AP50']
        assert ap is None if math.isnan(expected) else ap == pytest.approx(expected)
        assert report['mAP']['per_class']['cat']['AP50'] is None


def test_recall_levels():
    right = np.array([True, True, True, False])
    ap = average_precision(right, ~right, 5, '11points')
    assert ap == pytest.approx(6 / 11)  # 0 to 0.5; 3 / 5 is a hair below 6 * 0.1
    assert average_precision(right, ~right, 4, '11points') == pytest.approx(8 / 11)
    assert average_precision(np.zeros(0, bool), np.zeros(0, bool), 0, 'area') is None


def test_table_and_classes_without_objects(log):  # noqa: F811
    values, _ = run([sample('a', OBJECTS, [*FOUND, (1, 1, 5, 5, 0.5, 2)])])
    table = [line for line in log.text.splitlines() if line.startswith('|')]
    cells = {row[0]: row for row in ([c.strip() for c in line.split('|')[1:-1]] for line in table)}
    assert cells['aeroplane'] == ['aeroplane', '3', '1', '5', '0.667', '0.545']
    assert cells['cat'] == ['cat', '0', '0', '1', '-', '-']
    assert cells['mAP'] == ['mAP', '3', '1', '6', '', '0.545']
    assert values['mAP'] == pytest.approx(6 / 11)


def test_nothing_to_measure_is_said(log):  # noqa: F811
    values, report = run([sample('a', [], FOUND)], metric=['mAP', 'recall'], proposal_nums=(10,))
    assert all(math.isnan(value) for value in values.values())
    assert report['mAP']['AP50'] is None
    assert 'no object to find in any of 1 images' in log.text
    run([sample('a', OBJECTS, [])])
    assert 'no detection in any of 1 images' in log.text


def test_sizes():
    """Sides of 10 pixels: the four objects; the fifth has 20."""
    big = (100, 100, 119, 119)
    samples = [sample('a', [*OBJECTS, (*big, 0, 0)], [*FOUND, (*big, 0.95, 0)])]
    values, _ = run(samples, scale_ranges=[(0, 15), (15, 1e5), (10, 11), (11, 12)])
    assert list(values) == ['mAP', 'AP50', 'mAP_0-15', 'mAP_15-100000', 'mAP_10-11', 'mAP_11-12']
    assert values['mAP_0-15'] == values['mAP_10-11'] == pytest.approx(6 / 11)
    assert values['mAP_15-100000'] == 1.0
    assert math.isnan(values['mAP_11-12'])


def test_recall():
    """Of the objects that are not difficult the best 2 boxes find one, all boxes two."""
    samples = [sample('a', OBJECTS, [(*row[:5], i % 3) for i, row in enumerate(FOUND)])]
    values, report = run(samples, metric='recall', proposal_nums=(2, 100), iou_thrs=[0.5, 0.95])
    assert values == {
        'recall@2@0.5': pytest.approx(1 / 3),
        'recall@2@0.95': pytest.approx(1 / 3),
        'AR@2': pytest.approx(1 / 3),
        'recall@100@0.5': pytest.approx(2 / 3),
        'recall@100@0.95': pytest.approx(1 / 3),
        'AR@100': pytest.approx(1 / 2),
    }
    assert report == {}


def test_names_of_thresholds():
    values, _ = run([sample('a', OBJECTS, FOUND)], iou_thrs=[0.5, 0.57, 0.625])
    assert list(values) == ['mAP', 'AP50', 'AP57', 'AP62.5']


def test_order_and_repeated_images_do_not_matter():
    samples = random_samples(7)
    shuffled = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))]
    assert run(samples) == run([*shuffled, *shuffled[:3]])


def test_ground_truth_from_instances():
    """A data set may hand over its instances; they are preferred, being those of the original."""
    plain = sample('a', OBJECTS, FOUND)
    instances = [
        dict(bbox=list(row[:4]), bbox_label=row[4], ignore_flag=row[5], mask=[[0.0] * 6])
        for row in OBJECTS
    ]
    other = dict(plain, instances=instances, gt_instances=dict())
    assert run([other]) == run([plain])


WORKER = """
import json, pickle, sys
import torch
from mmengine.dist import get_rank
torch.distributed.init_process_group('gloo')
from mmdet_r2.evaluation import VOCMetric
with open(sys.argv[1] + '/samples.pkl', 'rb') as file:
    samples = pickle.load(file)
metric = VOCMetric(metric=['mAP', 'recall'])
metric.dataset_meta = dict(classes=('aeroplane', 'bird', 'cat'))
# what DefaultSampler does: the end is padded with the beginning, images are dealt in turn
metric.process(None, [*samples, samples[0]][get_rank()::2])
values = metric.evaluate(len(samples))
with open(f'{sys.argv[1]}/{get_rank()}.json', 'w') as file:
    json.dump(values, file)
torch.distributed.barrier()
from mmdet_r2.engine import shut_down
shut_down()
"""


def test_two_processes_give_what_one_gives(tmp_path, repo):
    """Boxes alone: no mask travels."""
    samples = random_samples(4, images=15)
    expected, _ = run(samples, metric=['mAP', 'recall'])
    (tmp_path / 'samples.pkl').write_bytes(pickle.dumps(as_arrays(samples)))
    script = tmp_path / 'worker.py'
    script.write_text(WORKER)
    command = [python(), '-m', 'torch.distributed.run', '--nproc-per-node=2']
    command += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', str(script), str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[:3000]
    for rank in (0, 1):
        values = json.loads((tmp_path / f'{rank}.json').read_text())
        assert {k.removeprefix('pascal_voc/'): v for k, v in values.items()} == expected


def test_what_does_not_fit_is_said(log):  # noqa: F811
    found = [*FOUND, (math.nan, 0, 1, 1, 0.5, 0), (0, 0, 1, 1, math.inf, 0)]
    values, _ = run([sample('a', OBJECTS, found, size=(30, 30))])
    assert values['mAP'] == pytest.approx(6 / 11)
    assert 'image a: 2 detections are NaN or infinite' in log.text
    assert 'image a is 30x30, but objects lie outside of it' in log.text
    run([sample('a', OBJECTS, FOUND)], year='VOC2012')
    assert "eval_mode is '11points', but VOC2012 is commonly measured by 'area'" in log.text


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(metric='bbox'), "metric is 'bbox'; known are mAP, recall"),
        (dict(eval_mode='12points'), "eval_mode is '12points'; known are 11points, area"),
        (dict(metric=[]), r'metric is \[\]; known are'),
        (dict(iou_thrs=50), r'iou_thrs is 50, expected numbers in \(0, 1\]'),
        (dict(iou_thrs='half'), "iou_thrs is 'half'"),
        (dict(iou_thrs=[[0.5], [0.6, 0.7]]), 'iou_thrs is'),
        (dict(scale_ranges=[(32, 0)]), 'scale_ranges'),
        (dict(scale_ranges=32), r'scale_ranges is 32, expected pairs \(low, high\)'),
        (dict(proposal_nums=[100, 0]), r'proposal_nums is \[100, 0\], expected positive integers'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        VOCMetric(**kwargs)


def test_wrong_samples():
    good = sample('a', OBJECTS, FOUND)
    for key, message in (
        ('gt_instances', r'no ground truth in the samples: test_pipeline .*LoadAnnotations'),
        ('pred_instances', 'needs detections'),
    ):
        with pytest.raises(ConfigError, match=message):
            run([{k: v for k, v in good.items() if k != key}])
    with pytest.raises(ConfigError, match='no ground truth'):
        run([dict(good, gt_instances=dict())])
    with pytest.raises(ConfigError, match='num_classes of the heads'):
        run([sample('a', OBJECTS, [(0, 0, 9, 9, 0.5, 3)])])
    with pytest.raises(ConfigError, match=r'metainfo\.classes has 3 names'):
        run([sample('a', [(0, 0, 9, 9, 3, 0)], FOUND)])
    with pytest.raises(ConfigError, match='has no classes'):
        run([good], classes=())


def test_speed_at_the_size_of_the_test_set():
    """Half a million detections: seconds, where a loop over them takes minutes."""
    rng = np.random.default_rng(0)
    num, per_image, classes = 4952, 100, tuple('abcdefghijklmnopqrst')
    metric = VOCMetric()
    metric.dataset_meta = dict(classes=classes)
    for i in range(num):
        corner = rng.uniform(0, 400, (per_image, 2)).astype(np.float32)
        boxes = np.concatenate([corner, corner + 60], 1)
        labels = rng.integers(0, 20, per_image)
        truth = [
            dict(bbox=boxes[j].round().tolist(), bbox_label=int(labels[j]), ignore_flag=0)
            for j in range(3)
        ]
        predicted = dict(bboxes=boxes, scores=rng.random(per_image), labels=labels)
        one = dict(img_id=i, ori_shape=(500, 500), pred_instances=predicted, instances=truth)
        metric.process(None, [one])
    start = time.process_time()
    values = metric.evaluate(num)
    assert 0 < values['pascal_voc/mAP'] < 1
    assert time.process_time() - start < 6


# ---------------------------------------------------------------- mmdetection

RECORD = """
import json, pickle, sys, warnings
warnings.filterwarnings('ignore')
import torch
from mmdet.utils import register_all_modules
register_all_modules()
from mmdet.evaluation import VOCMetric
with open(sys.argv[1], 'rb') as file:
    cases = pickle.load(file)
found = []
for samples, kwargs in cases:
    for s in samples:
        for key in ('gt_instances', 'ignored_instances', 'pred_instances'):
            s[key] = {k: torch.from_numpy(v) for k, v in s[key].items()}
    metric = VOCMetric(**kwargs)
    metric.dataset_meta = dict(classes=('aeroplane', 'bird', 'cat'))
    metric.process({}, samples)
    found.append(metric.evaluate(len(samples)))
print('RECORD' + json.dumps(found))
"""


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_the_peers_numbers(tmp_path):
    """Where scores differ (it breaks ties by chance), and beyond its float32."""
    cases = [
        (random_samples(seed), dict(eval_mode=mode, iou_thrs=thrs))
        for seed in range(4)
        for mode in ('11points', 'area')
        for thrs in (0.5, [0.3, 0.5, 0.75])
    ]
    with open(tmp_path / 'cases.pkl', 'wb') as file:
        pickle.dump([(as_arrays(samples), kwargs) for samples, kwargs in cases], file)
    command = [PEER, '-c', RECORD, str(tmp_path / 'cases.pkl')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for (samples, kwargs), theirs in zip(
        cases, json.loads(done.stdout.partition('RECORD')[2]), strict=True
    ):
        values, _ = run(samples, **kwargs)
        theirs = {k.removeprefix('pascal_voc/'): v for k, v in theirs.items()}
        assert values.keys() == theirs.keys()
        assert values['mAP'] == pytest.approx(theirs['mAP'], abs=1e-6)
        for name, value in values.items():
            assert round(value, 3) == pytest.approx(theirs[name], abs=1.001e-3)


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope='module')
def devkit_run(tmp_path_factory, repo):
    """Five steps of a small detector on images in VOC's layout; the folder and what was printed."""
    folder = tmp_path_factory.mktemp('voc')
    root = folder / 'data' / 'VOCdevkit'
    coloured_voc(root, 6, 'trainval')
    coloured_voc(root, 6, 'trainval', 'VOC2012', seed=1)
    coloured_voc(root, 5, 'test', seed=2)
    names = tuple(COLOURS)
    config = Config.fromfile(repo / 'configs/pascal_voc/faster_rcnn_r50_fpn_1x_voc0712.py')
    model = small_config(mask=False)
    model['type'] = 'FasterRCNN'
    config.merge_from_dict(
        {
            'model': dict(model, _delete_=True),
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'train_cfg': dict(
                type='IterBasedTrainLoop', max_iters=5, val_interval=5, _delete_=True
            ),
            'param_scheduler': [],
            'default_hooks.logger.interval': 1,
            'default_hooks.checkpoint': dict(by_epoch=False, interval=5, save_best='auto'),
            'log_processor.by_epoch': False,
        }
    )
    for part in config.train_dataloader.dataset.dataset.datasets:
        part.metainfo = dict(classes=names)
        part.filter_cfg = dict(filter_empty_gt=True, bbox_min_size=8)
        part.pipeline[2].scale = (96, 96)
    config.val_dataloader.dataset.metainfo = dict(classes=names)
    config.val_dataloader.dataset.pipeline[1].scale = (128, 128)
    config.test_dataloader = config.val_dataloader
    known_keys(config).dump(str(folder / 'small.py'))

    def script(name, *arguments):
        environment = dict(os.environ, PYTHONPATH=str(repo))
        command = [python(), str(repo / 'tools' / name), 'small.py']
        return subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    trained = script('train.py', '--work-dir', 'work')
    assert trained.returncode == 0, trained.stderr[-3000:]
    return folder, script, trained.stdout + trained.stderr


def test_train_and_test_by_the_scripts(devkit_run):
    folder, script, printed = devkit_run
    assert 'pascal_voc/mAP' in printed and '| dog' in printed
    done = script('test.py', 'work/iter_5.pth', '--eval', 'mAP', 'recall', '--work-dir', 'tested')
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / 'tested' / 'metrics.json').read_text())
    assert {'pascal_voc/mAP', 'pascal_voc/AP50', 'pascal_voc/recall@100@0.5'} <= set(
        report['metrics']
    )
    assert list(report['mAP']['per_class']) == list(COLOURS)
    rows = report['mAP']['per_class'].values()
    assert sum(row['num_gt'] + row['num_difficult'] for row in rows) == 7
    assert (folder / 'work' / 'best_pascal_voc_mAP_iter_5.pth').is_file()


def test_options_of_the_config():
    voc, coco = 'faster_rcnn_r50_fpn_1x_voc0712', 'faster_rcnn_r50_fpn_1x_coco'
    (evaluator,) = make_config(voc, metrics=['recall', 'mAP'], classwise=True).test_evaluator
    assert evaluator.metric == ['recall', 'mAP'] and 'classwise' not in evaluator
    with pytest.raises(ConfigError, match=r'--eval bbox is for CocoMetric.*\(--eval mAP or recall'):
        make_config(voc, metrics=['bbox'])
    with pytest.raises(ConfigError, match=r'--eval mAP is for VOCMetric.*\(--eval bbox or segm'):
        make_config(coco, metrics=['mAP'])
    with pytest.raises(ConfigError, match='--format-only and --outfile-prefix are for CocoMetric'):
        make_config(voc, format_only=True)
    proposals = load_config(voc)
    proposals.model.roi_head = None
    with pytest.raises(ConfigError, match=r"metric 'mAP' needs classes.* use --eval recall"):
        make_config(proposals, metrics=['mAP'])
