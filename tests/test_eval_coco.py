"""CocoMetric against pycocotools itself, on ground truth perturbed in known ways."""

import contextlib
import copy
import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from warm_python import python

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.evaluation import CocoMetric, DumpDetResults, load_results
from mmdet_r2.evaluation.coco_numbers import TWELVE, class_table
from mmdet_r2.evaluation.image_result import pack, unpack

KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def synthetic_annotations(rng: np.random.Generator) -> dict:
    """Twelve images of 200 x 160: boxes of all sizes, a polygon each, crowds as RLE, ids out of
    order, one class unused.
    """
    height, width = 160, 200
    categories = [
        dict(id=7, name='zebra'),
        dict(id=3, name='apple'),
        dict(id=90, name='unused'),
        dict(id=12, name='bus'),
    ]
    images = [dict(id=100 - i, file_name=f'{i}.jpg', height=height, width=width) for i in range(12)]
    annotations = []
    for image in images[:-1]:
        for _ in range(rng.integers(1, 9)):
            w, h = rng.uniform(6, 150, 2)
            x, y = rng.uniform(0, width - min(w, 190)), rng.uniform(0, height - min(h, 150))
            w, h = min(w, width - x), min(h, height - y)
            crowd = int(rng.random() < 0.15)
            polygon = [x, y, x + w, y, x + w, y + h, x + w / 2, y + h * 0.8, x, y + h]
            segmentation = [polygon]
            if crowd:
                bitmap = coco_mask.decode(coco_mask.frPyObjects([polygon], height, width))[..., 0]
                flat = bitmap.flatten(order='F')
                ends = np.flatnonzero(np.diff(flat)) + 1
                counts = np.diff([0, *ends, flat.size]).tolist()
                counts = [0, *counts] if flat[0] else counts
                segmentation = dict(size=[height, width], counts=counts)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=int(rng.choice([7, 3, 12])),
                    bbox=[x, y, w, h],
                    area=w * h * 0.9,
                    iscrowd=crowd,
                    segmentation=segmentation,
                )
            )
    return dict(images=images, annotations=annotations, categories=categories)


def perturb(data: dict, rng: np.random.Generator) -> dict[int, dict]:
    """Detections made of the ground truth: some dropped, shifted, doubled or of a wrong class;
    crowds hit several times;
    on one image 150 chance boxes besides; equal scores throughout."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(data)
        coco.createIndex()
    categories = [c['id'] for c in data['categories']]
    found = {}
    for number, image in enumerate(data['images']):
        height, width = image['height'], image['width']
        rows: list[tuple] = []
        masks: list[np.ndarray] = []

        def add(box, category, score, mask, rows=rows, masks=masks):
            rows.append((*box, round(score, 2), category))
            masks.append(mask)

        for a in coco.loadAnns(coco.getAnnIds(imgIds=image['id'])):
            if rng.random() < 0.15:
                continue
            x, y, w, h = a['bbox']
            mask = coco.annToMask(a).astype(bool)
            category = a['category_id'] if rng.random() > 0.1 else int(rng.choice(categories))
            for _ in range(3 if a['iscrowd'] else 1 + (rng.random() < 0.2)):
                dx, dy = rng.normal(0, 0.12 * w), rng.normal(0, 0.12 * h)
                shifted = np.roll(mask, (int(dy), int(dx)), (0, 1))
                add((x + dx, y + dy, x + dx + w, y + dy + h), category, rng.random(), shifted)
        if number == 2:
            for _ in range(150):
                x, y = rng.uniform(0, width - 40), rng.uniform(0, height - 40)
                mask = np.zeros((height, width), bool)
                mask[int(y) : int(y) + 30, int(x) : int(x) + 30] = True
                add((x, y, x + 30, y + 30), categories[0], rng.uniform(0.3, 1), mask)
        found[image['id']] = dict(
            size=(height, width),
            boxes=np.array([r[:4] for r in rows], np.float32).reshape(-1, 4),
            scores=np.array([r[4] for r in rows], np.float32),
            categories=[r[5] for r in rows],
            masks=np.stack(masks) if masks else np.zeros((0, height, width), bool),
        )
    return found


def samples(found: dict[int, dict], data: dict, classes: list[str], ids=None) -> list[dict]:
    """The detections as the evaluator hands them over; labels are positions in ``classes``."""
    name_of = {c['id']: c['name'] for c in data['categories']}
    out = []
    for img_id in found if ids is None else ids:
        f = found[img_id]
        keep = [i for i, c in enumerate(f['categories']) if name_of[c] in classes]
        labels = [classes.index(name_of[f['categories'][i]]) for i in keep]
        out.append(
            dict(
                img_id=img_id,
                ori_shape=f['size'],
                pred_instances=dict(
                    bboxes=torch.from_numpy(f['boxes'][keep]),
                    scores=torch.from_numpy(f['scores'][keep]),
                    labels=torch.tensor(labels, dtype=torch.int64),
                    masks=torch.from_numpy(f['masks'][keep]),
                ),
            )
        )
    return out


def reference(
    data: dict, found: dict[int, dict], kind: str, use_cats=True, max_dets=None
) -> COCOeval:
    """pycocotools used as its documentation says."""
    records = []
    for img_id, f in found.items():
        for box, score, category, mask in zip(f['boxes'], f['scores'], f['categories'], f['masks']):
            x1, y1, x2, y2 = box.tolist()
            record = dict(image_id=img_id, category_id=category, score=float(score))
            if kind == 'bbox':
                record['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            else:
                record['segmentation'] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            records.append(record)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(records), kind)
        evaluation.params.useCats = int(use_cats)
        if max_dets is not None:
            evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def run(metric: CocoMetric, batch: list[dict], classes) -> dict:
    metric.dataset_meta = dict(classes=tuple(classes))
    for start in range(0, len(batch), 3):
        metric.process(None, batch[start : start + 3])
    return metric.evaluate(len(batch))


@pytest.fixture(scope='module', params=['synthetic', 'coco_tiny'])
def case(request, tmp_path_factory):
    if request.param == 'synthetic':
        data = synthetic_annotations(np.random.default_rng(1))
    else:
        shared = request.getfixturevalue('shared_data')
        data = json.loads((shared / 'coco_tiny/annotations/instances_val2017.json').read_text())
        crowded = {a['image_id'] for a in data['annotations'] if a['iscrowd']}
        images = sorted(data['images'], key=lambda i: i['id'] not in crowded)[:30]
        kept = {i['id'] for i in images}
        data = dict(
            images=images,
            annotations=[a for a in data['annotations'] if a['image_id'] in kept],
            categories=data['categories'],
        )
    path = tmp_path_factory.mktemp(request.param) / 'ann.json'
    path.write_text(json.dumps(data))
    found = perturb(data, np.random.default_rng(2))
    classes = sorted(c['name'] for c in data['categories'])
    return dict(data=data, path=str(path), found=found, classes=classes)


def test_the_case_has_what_it_claims(case):
    assert any(a['iscrowd'] for a in case['data']['annotations'])
    assert max(len(f['scores']) for f in case['found'].values()) > 150
    areas = [a['area'] for a in case['data']['annotations']]
    assert min(areas) < 32**2 and max(areas) > 96**2


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_twelve_numbers_are_those_of_pycocotools(case, kind):
    expected = reference(case['data'], case['found'], kind)
    metric = CocoMetric(case['path'], metric=kind)
    values = run(metric, samples(case['found'], case['data'], case['classes']), case['classes'])
    assert [values[f'coco/{kind}_{key}'] for key in KEYS] == expected.stats[:6].tolist()
    ours = [metric.report[kind][key] for key in TWELVE]
    assert [-1 if v is None else v for v in ours] == expected.stats.tolist()
    assert 0.1 < expected.stats[0] < 0.95  # a case where something is at stake
    other = CocoMetric(case['path'], metric=kind, eval_backend='pycocotools')
    batch = samples(case['found'], case['data'], case['classes'])
    assert run(other, batch, case['classes']) == values and other.report == metric.report


def test_proposal_recall_is_that_of_pycocotools(case):
    numbers = (5, 20, 100)
    expected = reference(case['data'], case['found'], 'bbox', use_cats=False, max_dets=numbers)
    metric = CocoMetric(case['path'], metric='proposal', proposal_nums=numbers)
    values = run(metric, samples(case['found'], case['data'], case['classes']), case['classes'])
    keys = ['AR@5', 'AR@20', 'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100']
    assert [values[f'coco/{key}'] for key in keys] == expected.stats[6:].tolist()


def test_proposals_have_no_class(case):
    batch = samples(case['found'], case['data'], case['classes'])
    expected = run(CocoMetric(case['path'], metric='proposal'), batch, case['classes'])
    for sample in batch:
        sample['pred_instances']['labels'] *= 0
    classes = ['absent', *case['classes']]  # what label 0 happens to be does not matter
    assert run(CocoMetric(case['path'], metric='proposal'), batch, classes) == expected


def test_items_and_thresholds(case):
    metric = CocoMetric(
        case['path'], iou_thrs=0.6, metric_items=['mAP', 'AR@300'], proposal_nums=(1, 10, 100)
    )
    values = run(metric, samples(case['found'], case['data'], case['classes']), case['classes'])
    assert list(values) == ['coco/bbox_mAP', 'coco/bbox_AR@300']
    expected = reference(case['data'], case['found'], 'bbox', max_dets=(1, 100, 300))
    t = 2  # 0.6 of 0.5, 0.55, ...
    precision = expected.eval['precision'][t, :, :, 0, 1]
    assert values['coco/bbox_mAP'] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    recall = expected.eval['recall'][t, :, 0, 2]
    assert values['coco/bbox_AR@300'] == pytest.approx(recall[recall > -1].mean(), abs=1e-12)


def test_mean_over_classes_is_the_overall_number(case):
    metric = CocoMetric(case['path'], metric=['bbox', 'segm'], classwise=True)
    values = run(metric, samples(case['found'], case['data'], case['classes']), case['classes'])
    annotated = {a['category_id'] for a in case['data']['annotations'] if not a['iscrowd']}
    names = {c['name'] for c in case['data']['categories'] if c['id'] in annotated}
    for kind in ('bbox', 'segm'):
        rows = metric.report[kind]['per_class']
        assert list(rows) == case['classes']
        known = {name: row['AP'] for name, row in rows.items() if row['AP'] is not None}
        assert known.keys() == names
        assert np.mean(list(known.values())) == pytest.approx(metric.report[kind]['AP'], abs=1e-12)
        for name in rows:
            assert values.get(f'coco/{kind}_{name}_precision') == rows[name]['AP']
            if kind == 'segm':  # the last metric's, as in mmdetection
                assert values.get(f'coco/{name}_precision') == rows[name]['AP']
    counts = sum(row['num_gt'] for row in metric.report['bbox']['per_class'].values())
    assert counts == sum(not a['iscrowd'] for a in case['data']['annotations'])


def test_order_of_classes_categories_and_images_changes_nothing(case, tmp_path):
    data, classes = case['data'], case['classes']
    metric = CocoMetric(case['path'], metric=['bbox', 'segm'], classwise=True)
    expected = run(metric, samples(case['found'], data, classes), classes)
    rng = np.random.default_rng(3)
    other = dict(data, categories=list(rng.permutation(data['categories'])))
    other['annotations'] = list(rng.permutation(data['annotations']))
    path = tmp_path / 'other.json'
    path.write_text(json.dumps(other))
    shuffled = [str(name) for name in rng.permutation(classes)]
    batch = samples(
        case['found'], data, shuffled, ids=rng.permutation(list(case['found'])).tolist()
    )
    values = run(CocoMetric(str(path), metric=['bbox', 'segm'], classwise=True), batch, shuffled)
    assert values == pytest.approx(expected, abs=1e-12)


def test_a_subset_of_classes_is_measured_alone(case):
    annotated = {a['category_id'] for a in case['data']['annotations']}
    chosen = [c for c in case['data']['categories'] if c['id'] in annotated][1]
    batch = samples(case['found'], case['data'], [chosen['name']])
    values = run(CocoMetric(case['path']), batch, [chosen['name']])
    full = CocoMetric(case['path'])
    run(full, samples(case['found'], case['data'], case['classes']), case['classes'])
    expected = full.report['bbox']['per_class'][chosen['name']]['AP']
    assert values['coco/bbox_mAP'] == pytest.approx(expected, abs=1e-12)


def test_no_detection_at_all_is_zero_not_a_crash(case):
    empty = {
        k: dict(
            f, boxes=f['boxes'][:0], scores=f['scores'][:0], categories=[], masks=f['masks'][:0]
        )
        for k, f in case['found'].items()
    }
    metric = CocoMetric(case['path'], metric=['bbox', 'segm', 'proposal', 'proposal_fast'])
    values = run(metric, samples(empty, case['data'], case['classes']), case['classes'])
    assert values['coco/bbox_mAP'] == values['coco/segm_mAP'] == values['coco/AR@100'] == 0


def test_fast_recall_agrees_with_the_exact_one(case):
    # the same quantity except where the pairing is not unique; classes and sizes do not enter
    metric = CocoMetric(case['path'], metric='proposal_fast', proposal_nums=(10, 100))
    batch = samples(case['found'], case['data'], case['classes'])
    fast = run(metric, batch, case['classes'])
    slow = run(
        CocoMetric(case['path'], metric='proposal', proposal_nums=(10, 100)), batch, case['classes']
    )
    assert fast['coco/AR@100'] == pytest.approx(slow['coco/AR@100'], abs=0.03)
    # both at once keep both numbers
    metric = CocoMetric(case['path'], metric=['proposal', 'proposal_fast'], proposal_nums=(10, 100))
    both = run(metric, batch, case['classes'])
    named = {key.replace('AR', 'proposal_fast_AR'): value for key, value in fast.items()}
    assert both == slow | named
    assert {key.removeprefix('coco/') for key in both} == metric.result_names()


def test_repeated_images_count_once(case):
    batch = samples(case['found'], case['data'], case['classes'])
    expected = run(CocoMetric(case['path']), batch, case['classes'])
    assert run(CocoMetric(case['path']), batch + batch[:2], case['classes']) == expected


def test_files_load_in_pycocotools_and_score_the_same(case, tmp_path):
    prefix = str(tmp_path / 'out' / 'results')
    metric = CocoMetric(case['path'], metric=['bbox', 'segm'], outfile_prefix=prefix)
    values = run(metric, samples(case['found'], case['data'], case['classes']), case['classes'])
    for kind in ('bbox', 'segm'):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(case['path'])
            evaluation = COCOeval(truth, truth.loadRes(f'{prefix}.{kind}.json'), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert [values[f'coco/{kind}_{key}'] for key in KEYS] == evaluation.stats[:6].tolist()
    assert not list(tmp_path.glob('out/*.tmp'))


def test_format_only_needs_no_ground_truth(case, tmp_path):
    prefix = str(tmp_path / 'r')
    batch = samples(case['found'], case['data'], case['classes'])
    metric = CocoMetric(format_only=True, outfile_prefix=prefix)
    assert run(metric, batch, case['classes']) == {}
    records = json.loads(Path(f'{prefix}.bbox.json').read_text())
    assert len(records) == sum(len(s['pred_instances']['labels']) for s in batch)
    assert len(json.loads(Path(f'{prefix}.segm.json').read_text())) == len(records)
    # without an annotation file the category is the label
    first = batch[0]['pred_instances']
    mine = [r['category_id'] for r in records if r['image_id'] == batch[0]['img_id']]
    assert mine == first['labels'].tolist()
    # a test set without annotations gives the names their ids
    info = dict(images=case['data']['images'], categories=case['data']['categories'])
    path = tmp_path / 'image_info.json'
    path.write_text(json.dumps(info))
    metric = CocoMetric(str(path), format_only=True, outfile_prefix=prefix)
    run(metric, batch, case['classes'])
    records = json.loads(Path(f'{prefix}.bbox.json').read_text())
    mine = [r['category_id'] for r in records if r['image_id'] == batch[0]['img_id']]
    assert mine == case['found'][batch[0]['img_id']]['categories']


def test_ground_truth_of_the_samples_serves_as_well_as_the_file(case):
    data, classes = case['data'], case['classes']
    batch = samples(case['found'], data, classes)
    expected = run(CocoMetric(case['path'], metric=['bbox', 'segm']), batch, classes)
    name_of = {c['id']: c['name'] for c in data['categories']}
    for sample in batch:
        sample['instances'] = [
            dict(
                bbox=[
                    a['bbox'][0],
                    a['bbox'][1],
                    a['bbox'][0] + a['bbox'][2],
                    a['bbox'][1] + a['bbox'][3],
                ],
                bbox_label=classes.index(name_of[a['category_id']]),
                ignore_flag=a['iscrowd'],
                mask=a['segmentation'],
                area=a['area'],
            )
            for a in data['annotations']
            if a['image_id'] == sample['img_id']
        ]
    values = run(CocoMetric(metric=['bbox', 'segm']), batch, classes)
    # x + w - x differs from w in the last bits
    assert values == pytest.approx(expected, abs=1e-9)
    for sample in batch:
        for instance in sample['instances']:
            del instance['area']
    values = run(CocoMetric(metric=['bbox', 'segm']), batch, classes)
    assert values['coco/segm_mAP'] == pytest.approx(expected['coco/segm_mAP'], abs=1e-9)


def test_packing_is_lossless(case):
    metric = CocoMetric(case['path'], metric=['bbox', 'segm'])
    batch = samples(case['found'], case['data'], case['classes'])
    for sample in batch[::2]:
        sample['pred_instances']['mask_scores'] = sample['pred_instances']['scores'] * 0.5
    metric.dataset_meta = dict(classes=case['classes'])
    metric.process(None, batch)
    back = unpack(pack(metric.results))
    for a, b in zip(metric.results, back, strict=True):
        assert (a.img_id, a.height, a.width, a.masks) == (b.img_id, b.height, b.width, b.masks)
        for name in ('bboxes', 'scores', 'labels'):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        assert (a.mask_scores is None) == (b.mask_scores is None)
    assert unpack(pack([])) == []


WORKER = """
import json, sys
import torch
from mmengine.dist import get_rank
torch.distributed.init_process_group('gloo')
from mmdet_r2.evaluation import CocoMetric, DumpDetResults
inputs = torch.load(sys.argv[1], weights_only=True)
prefix = sys.argv[2]
kinds = ['bbox', 'segm']
metric = CocoMetric(inputs['path'], metric=kinds, classwise=True, outfile_prefix=prefix)
dump = DumpDetResults(prefix + '.pkl')
metric.dataset_meta = dict(classes=inputs['classes'])
batch = inputs['batch']
# what DefaultSampler does: the end is padded with the beginning, images are dealt in turn
padded = batch + batch[:len(batch) % 2]
for m in (metric, dump):
    m.process(None, padded[get_rank()::2])
values = metric.evaluate(len(batch))
dump.evaluate(len(batch))
json.dump(values, open(f'{prefix}.{get_rank()}.values', 'w'))
metric.process(None, [dict(batch[0], dataset_index=get_rank())])
try:
    metric.evaluate(1)
except ValueError as error:
    print(f'rank {get_rank()} saw: {error}')
torch.distributed.barrier()
from mmdet_r2.engine import shut_down
shut_down()
"""


def test_two_processes_give_what_one_gives(case, tmp_path, repo):
    found = dict(list(case['found'].items())[:11])  # an odd number: one image is seen twice
    batch = samples(found, case['data'], case['classes'])
    prefix = str(tmp_path / 'one')
    metric = CocoMetric(
        case['path'], metric=['bbox', 'segm'], classwise=True, outfile_prefix=prefix
    )
    expected = run(metric, batch, case['classes'])
    dump = DumpDetResults(f'{prefix}.pkl')
    dump.process(None, batch)
    dump.evaluate(len(batch))
    torch.save(dict(path=case['path'], classes=case['classes'], batch=batch), tmp_path / 'in.pt')
    script = tmp_path / 'worker.py'
    script.write_text(WORKER)
    command = [python(), '-m', 'torch.distributed.run', '--nproc-per-node=2']
    command += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / 'in.pt'), str(tmp_path / 'two')],
        env={**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[:3000]
    for rank in (0, 1):
        assert json.loads((tmp_path / f'two.{rank}.values').read_text()) == expected
        assert f'rank {rank} saw' in done.stdout  # an error on one is an error on all
    for suffix in ('bbox.json', 'segm.json'):
        assert (tmp_path / f'two.{suffix}').read_text() == Path(f'{prefix}.{suffix}').read_text()
    one, two = load_results(f'{prefix}.pkl'), load_results(tmp_path / 'two.pkl')
    assert [r['img_id'] for r in one] == [r['img_id'] for r in two] == list(found)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a['pred_instances']['bboxes'], b['pred_instances']['bboxes'])
        assert a['pred_instances']['masks'] == b['pred_instances']['masks']


def test_dumped_results_can_be_evaluated_again(case, tmp_path):
    batch = samples(case['found'], case['data'], case['classes'])
    expected = run(CocoMetric(case['path'], metric=['bbox', 'segm']), batch, case['classes'])
    dump = DumpDetResults(str(tmp_path / 'results.pkl'))
    dump.process(None, batch)
    dump.evaluate(len(batch))
    again = load_results(tmp_path / 'results.pkl')
    assert (
        run(CocoMetric(case['path'], metric=['bbox', 'segm']), again, case['classes']) == expected
    )


# what a user may do wrong; the small case is enough
@pytest.fixture
def small(tmp_path):
    data = synthetic_annotations(np.random.default_rng(1))
    path = tmp_path / 'ann.json'
    path.write_text(json.dumps(data))
    found = perturb(data, np.random.default_rng(2))
    return data, path, found, sorted(c['name'] for c in data['categories'])


def test_results_file_with_foreign_objects_is_refused(tmp_path):
    path = tmp_path / 'bad.pkl'
    marker = tmp_path / 'created'
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(DataError, match='system'):
        load_results(path)
    assert not marker.exists()
    with pytest.raises(DataError, match=r'absent\.pkl'):
        load_results(tmp_path / 'absent.pkl')


def test_classes_that_the_file_does_not_know(small):
    _, path, found, classes = small
    metric = CocoMetric(str(path))
    with pytest.raises(DataError, match=r'none of the classes.*tiger.*apple'):
        metric.dataset_meta = dict(classes=('tiger', 'lion'))
    with pytest.raises(DataError, match="'bus' twice"):
        metric.dataset_meta = dict(classes=('bus', 'bus'))
    more = [*classes, 'tiger']
    batch = samples(found, small[0], classes)
    expected = run(CocoMetric(str(path)), batch, classes)
    batch[0]['pred_instances']['labels'][:1] = len(more) - 1  # a detection of an unknown class
    values = run(CocoMetric(str(path), outfile_prefix=str(path.parent / 'x')), batch, more)
    assert values.keys() == expected.keys()


def test_labels_beyond_the_classes(small):
    data, path, found, classes = small
    batch = samples(found, data, classes)
    batch[0]['pred_instances']['labels'][0] = 80
    with pytest.raises(ConfigError, match=r'label 80.*4 classes.*num_classes'):
        run(CocoMetric(str(path)), batch, classes)


def test_images_of_another_file(small):
    data, path, found, classes = small
    batch = samples(found, data, classes)
    batch[0]['img_id'] = 12345
    with pytest.raises(DataError, match='12345'):
        run(CocoMetric(str(path)), batch, classes)


def test_masks_from_a_model_of_boxes(small):
    data, path, found, classes = small
    batch = samples(found, data, classes)
    del batch[0]['pred_instances']['masks']
    with pytest.raises(ConfigError, match='segm'):
        run(CocoMetric(str(path), metric='segm'), batch, classes)
    assert run(CocoMetric(str(path), metric='bbox'), batch, classes)['coco/bbox_mAP'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(metric='bbx'), "'bbx'"),
        (dict(metric_items=['mAP_42']), 'mAP_42'),
        (dict(eval_backend='fast'), 'fast'),
        (dict(format_only=True), 'outfile_prefix'),
        (dict(file_client_args=dict(backend='disk')), 'backend_args'),
    ],
    ids=['metric', 'item', 'backend', 'format_only', 'file_client_args'],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CocoMetric(**arguments)


@pytest.mark.parametrize(
    'text',
    [None, '', '{"images": [', '[]', '{"images": []}'],
    ids=['absent', 'empty', 'cut', 'list', 'keys'],
)
def test_broken_annotation_files(tmp_path, text):
    path = tmp_path / 'ann.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r'ann\.json'):
        CocoMetric(str(path))


def test_ground_truth_that_pycocotools_trips_over(small):
    """Ids from 0, no iscrowd, no area, no segmentation: same numbers as with clean ones."""
    data, path, found, classes = small
    batch = samples(found, data, classes)
    data = copy.deepcopy(data)
    for a in data['annotations']:
        a['area'] = a['bbox'][2] * a['bbox'][3]
    path.write_text(json.dumps(data))
    expected = run(CocoMetric(str(path)), batch, classes)
    for number, a in enumerate(data['annotations']):
        a['id'] = number
        del a['area']
        if not a['iscrowd']:
            del a['iscrowd']
        if number % 5 == 0:
            a['segmentation'] = []
    path.write_text(json.dumps(data))
    values = run(CocoMetric(str(path), metric=['bbox', 'segm']), batch, classes)
    assert {k: v for k, v in values.items() if 'bbox' in k} == expected
    assert values['coco/segm_mAP'] > 0


def test_detections_that_are_not_numbers_are_left_out(small):
    data, path, found, classes = small
    batch = samples(found, data, classes)
    expected = run(CocoMetric(str(path), metric=['bbox', 'segm']), batch, classes)
    predicted = batch[0]['pred_instances']
    nan = torch.full_like(predicted['bboxes'][:1], float('nan'))
    predicted['bboxes'] = torch.cat([nan, predicted['bboxes']])
    predicted['scores'] = torch.cat([predicted['scores'][:1], predicted['scores']])
    predicted['labels'] = torch.cat([predicted['labels'][:1], predicted['labels']])
    predicted['masks'] = torch.cat([predicted['masks'][:1], predicted['masks']])
    assert run(CocoMetric(str(path), metric=['bbox', 'segm']), batch, classes) == expected


def test_an_image_that_was_not_run_is_not_counted(small):
    data, path, found, classes = small
    ids = list(found)[:5]
    values = run(CocoMetric(str(path)), samples(found, data, classes, ids), classes)
    part = dict(data, images=[i for i in data['images'] if i['id'] in ids])
    part['annotations'] = [a for a in data['annotations'] if a['image_id'] in ids]
    expected = reference(part, {i: found[i] for i in ids}, 'bbox')
    assert [values[f'coco/bbox_{key}'] for key in KEYS] == expected.stats[:6].tolist()


def test_the_table_of_classes_leaves_out_sizes_that_nothing_has():
    keys = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
    rows = {'cat': dict.fromkeys(keys, 0.5) | dict(APl=None, num_gt=3)}
    assert 'mAP_l' not in class_table(rows) and 'mAP_s' in class_table(rows)
    rows['dog'] = dict.fromkeys(keys) | dict(APl=0.25, num_gt=1)
    assert 'mAP_l' in class_table(rows)
