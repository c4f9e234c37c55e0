"""Tools that read what tools/test.py wrote, on a real test's results and on known numbers."""

import contextlib
import copy
import csv
import io
import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from analysis_run import Run, small_run, tool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_r2.analysis.coco_errors import AREAS, KINDS, error_curves, read_results
from mmdet_r2.analysis.confusion import normalised, plot_confusion
from mmdet_r2.analysis.image_scores import image_scores, panoptic_scores, write_gallery
from mmdet_r2.analysis.inputs import compared, read_tested
from mmdet_r2.analysis.metric import evaluate_results
from mmdet_r2.config import load_config
from mmdet_r2.datasets.demo import CLASSES
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.evaluation.coco_backends import MISTAKES, CocoData, Objects, joined
from mmdet_r2.registry import DATASETS, init_scope
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET

TOOLS = 'tools/analysis_tools'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Run:
    return small_run(tmp_path_factory)


def quiet(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


# ------------------------------------------------------------------------------- metrics.json


def test_a_test_reports_where_to_set_the_threshold_and_what_goes_wrong(run: Run):
    for metric in ('bbox', 'segm'):
        report = run.report[metric]
        rows = report['per_class']
        assert list(rows) == list(CLASSES)
        mean = np.mean([row['AP'] for row in rows.values()])
        assert mean == pytest.approx(report['AP'], abs=1e-12)
        for row in [*rows.values(), report['best_f1']]:
            harmonic = 2 * row['precision'] * row['recall'] / (row['precision'] + row['recall'])
            assert row['f1'] == pytest.approx(harmonic)
            assert 0 < row['score_thr'] < 1
        counts = np.array(report['confusion_matrix']['counts'])
        assert report['confusion_matrix']['names'] == [*CLASSES, 'background']
        assert counts[:-1].sum() == sum(row['num_gt'] for row in rows.values()) == 66
        assert list(report['mistakes']['kinds']) == list(MISTAKES)
        rises = [row['dAP'] for row in report['mistakes']['kinds'].values()]
        assert all(rise > -0.01 for rise in rises) and max(rises) > 0.05
    assert 'lowest AP' in run.printed and 'most often taken for' in run.printed


def test_no_number_of_a_report_is_minus_one(run: Run):
    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [number for each in value for number in numbers(each)]
        return [value]

    assert -1 not in numbers(run.report) and None in numbers(run.report)


# -------------------------------------------------------------------------------- eval_metric


def test_results_measure_as_the_test_did(run: Run, tmp_path):
    out = tmp_path / 'numbers.json'
    printed = tool(f'{TOOLS}/eval_metric.py', run.config, run.results, '--out', out)
    report = json.loads(out.read_text())
    for key in ('metrics', 'bbox', 'segm'):
        assert report[key] == run.report[key]
    assert f'coco/bbox_mAP: {report["metrics"]["coco/bbox_mAP"]:.4f}' in printed


def test_other_metrics_of_the_same_results(run: Run, tmp_path):
    values, _ = evaluate_results(
        run.config, run.results, metrics=['bbox'], outfile_prefix=str(tmp_path / 'again')
    )
    assert values['coco/bbox_mAP'] == run.report['bbox']['AP']
    assert not any('segm' in name for name in values)
    for kind in ('bbox', 'segm'):
        again, before = (
            p / f'{n}.{kind}.json' for p, n in ((tmp_path, 'again'), (run.root, 'coco'))
        )
        assert json.loads(again.read_text()) == json.loads(before.read_text())
    half, _ = evaluate_results(
        run.config, run.results, overrides={'test_evaluator.iou_thrs': [0.5]}, metrics=['bbox']
    )
    assert half['coco/bbox_mAP'] == pytest.approx(run.report['bbox']['AP50'])


# --------------------------------------------------------------------- results of another test


def changed(run: Run, path, change):
    with open(run.results, 'rb') as file:
        results = pickle.load(file)
    change(results)
    with open(path, 'wb') as file:
        pickle.dump(results, file)
    return path


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: r.pop(), '23 images, but the test data of .* has 24'),
        (lambda r: r.reverse(), 'entry 0 is of image'),
        (lambda r: r[3]['pred_instances']['labels'].fill_(9), 'label 9.*has 5 classes'),
        (lambda r: r[3]['pred_instances'].pop('scores'), "no 'scores'"),
    ],
    ids=['fewer', 'order', 'classes', 'damaged'],
)
def test_results_that_do_not_belong_to_the_config(run: Run, tmp_path, change, message):
    path = changed(run, tmp_path / 'other.pkl', change)
    with pytest.raises(DataError, match=message):
        read_tested(run.config, path)


@pytest.mark.parametrize('script', ['confusion_matrix', 'analyze_results', 'eval_metric'])
def test_users_errors_are_one_line(run: Run, tmp_path, script):
    extra = [tmp_path] if script != 'eval_metric' else []
    for config, results, expected in (
        (run.config, tmp_path / 'none.pkl', 'none.pkl'),
        (run.config, run.config, 'small.py'),
        ('no_such_config', run.results, 'no_such_config'),
    ):
        assert expected in tool(f'{TOOLS}/{script}.py', config, results, *extra, code=2)


def test_results_without_masks(run: Run, tmp_path):
    path = changed(
        run, tmp_path / 'boxes.pkl', lambda r: [x['pred_instances'].pop('masks') for x in r]
    )
    with pytest.raises(DataError, match='no masks'):
        compared(read_tested(run.config, path), iou_type='segm')
    tool(f'{TOOLS}/analyze_results.py', run.config, path, tmp_path / 'drawn', '--topk', 1)
    with pytest.raises(ConfigError, match='boxes only'):
        evaluate_results(run.config, path)
    message = tool(f'{TOOLS}/eval_metric.py', run.config, run.results, '--eval', 'mIoU', code=2)
    assert 'mIoU' in message


@pytest.mark.parametrize(
    ('key', 'cut', 'message'),
    [
        ('scores', lambda v: v[:-1], 'scores'),
        ('masks', lambda v: v[:-1], 'masks'),
        ('bboxes', lambda v: v[:, :3], 'bboxes'),
        ('labels', lambda v: v - 9, 'label -'),
    ],
)
def test_entries_that_do_not_fit_together(run: Run, tmp_path, key, cut, message):
    def damage(results):
        instances = results[3]['pred_instances']
        instances[key] = cut(instances[key])

    path = changed(run, tmp_path / 'damaged.pkl', damage)
    with pytest.raises(DataError, match=f'entry 3.*{message}'):
        read_tested(run.config, path)


def test_arrays_do_as_well_as_tensors(run: Run, tmp_path):
    def as_arrays(results):
        for result in results:
            instances = result['pred_instances']
            for key in ('bboxes', 'scores', 'labels'):
                instances[key] = instances[key].numpy()

    path = changed(run, tmp_path / 'arrays.pkl', as_arrays)
    one, two = (
        compared(read_tested(run.config, p), nms_iou_thr=0.3).found.scores
        for p in (run.results, path)
    )
    assert len(one) > 0 and one.tolist() == two.tolist()


# --------------------------------------------------------------------------- confusion_matrix


def test_confusion_matrix_of_a_real_test(run: Run, tmp_path):
    script = f'{TOOLS}/confusion_matrix.py'
    printed = tool(script, run.config, run.results, tmp_path, '--score-thr', 0.3)
    report = json.loads((tmp_path / 'confusion_matrix.json').read_text())
    assert report['counts'] == run.report['bbox']['confusion_matrix']['counts']
    counts = np.array(report['counts'])
    assert f'{np.trace(counts)} of 66 objects' in printed
    picture = cv2.imread(str(tmp_path / 'confusion_matrix.png'))
    assert picture.std() > 20
    tool(script, run.config, run.results, tmp_path, '--iou-type', 'segm')
    report = json.loads((tmp_path / 'confusion_matrix.json').read_text())
    assert report['counts'] == run.report['segm']['confusion_matrix']['counts']
    tool(script, run.config, run.results, tmp_path, '--nms-iou-thr', 0.1, '--iou-thr', 0.4)
    fewer = np.array(json.loads((tmp_path / 'confusion_matrix.json').read_text())['counts'])
    assert fewer[:, :-1].sum() <= counts[:, :-1].sum()
    assert 'Blues' in tool(
        script, run.config, run.results, tmp_path, '--color-theme', 'mauve', code=2
    )


def test_rows_are_normalised_and_written_into_the_cells():
    matrix = np.array([[3, 0, 1], [0, 0, 0], [1, 1, 0]])
    assert normalised(matrix)[0].tolist() == [0.75, 0, 0.25]
    assert normalised(matrix)[1].tolist() == [0, 0, 0]
    axes = plot_confusion(matrix, ['cat', 'dog']).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): '75', (2, 0): '25', (0, 2): '50', (1, 2): '50'}
    assert [t.get_text() for t in axes.get_yticklabels()] == ['cat', 'dog', 'background']


def test_many_classes_are_all_named(tmp_path):
    names = [f'class {i}' for i in range(80)]
    axes = plot_confusion(np.eye(81, dtype=int), names).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [*names, 'background']
    assert len(axes.texts) == 81
    # more than fit: every so many
    axes = plot_confusion(np.eye(1001, dtype=int), [str(i) for i in range(1000)]).axes[0]
    assert 100 < len(axes.get_yticklabels()) < 250 and not axes.texts


# ---------------------------------------------------------------------------- analyze_results


def test_scores_by_hand():
    box, away = [0, 0, 10, 10], [50, 50, 10, 10]
    none = Objects([], [], [], scores=[])
    two = Objects([0, 0], [0, 1], [box, away])

    def found(boxes, labels, scores):
        return Objects([0] * len(labels), labels, boxes, scores=scores)

    pairs = [
        (two, found([box, away], [0, 1], [0.9, 0.8]), 1.0),
        (two, none, 0.0),
        (two, found([box], [0], [0.9]), 51 / 101),
        (two, found([box, away], [0, 0], [0.9, 0.8]), 51 / 101),  # the class counts
        (two, found([away, box], [0, 0], [0.9, 0.8]), 51 / 101 / 2),  # and the order
        (two, found([[0, 0, 10, 7.2], away], [0, 1], [0.9, 0.8]), None),
        (none, none, 1.0),
        (none, found([box], [0], [0.75]), 0.25),
    ]
    truth, detected = (joined([pair[i] for pair in pairs]) for i in range(2))
    scores = image_scores(CocoData([(99, 99)] * len(pairs), 2, truth, detected))
    # IoU 0.72 is enough for five of ten thresholds
    slow = (5 * 1.0 + 5 * 51 / 101 / 2) / 10
    assert scores == pytest.approx([slow if e is None else e for *_, e in pairs])


def test_an_images_score_is_its_own_average_precision(run: Run):
    tested = read_tested(run.config, run.results)
    scores = image_scores(compared(tested))
    annotations = quiet(COCO, str(run.annotations))
    results = quiet(annotations.loadRes, str(run.root / 'coco.bbox.json'))
    for info, score in zip(tested.infos, scores):
        # classes do not matter to it, so other classes are moved out of each other's way
        truth, found = COCO(), COCO()
        for coco, source in ((truth, annotations), (found, results)):
            objects = [copy.deepcopy(a) for a in source.imgToAnns[info['img_id']]]
            for a in objects:
                a['bbox'][0] += 1000 * a['category_id']
                a['category_id'] = 1
            coco.dataset = dict(
                images=[dict(id=info['img_id'])], categories=[dict(id=1)], annotations=objects
            )
            quiet(coco.createIndex)
        evaluation = COCOeval(truth, found, 'bbox')
        quiet(evaluation.evaluate)
        quiet(evaluation.accumulate)
        assert score == pytest.approx(evaluation.eval['precision'][:, :, 0, 0, 2].mean())


def test_gallery_of_a_real_test(run: Run, tmp_path):
    printed = tool(
        f'{TOOLS}/analyze_results.py', run.config, run.results, tmp_path, '--topk', 3,
        '--score-thr', 0.05,
    )  # fmt: skip
    with open(tmp_path / 'scores.csv') as file:
        rows = list(csv.DictReader(file))
    scores = [float(row['score']) for row in rows]
    assert scores == sorted(scores) and len(rows) == 24 and scores[0] < scores[-1]
    assert f'mean score {np.mean(scores):.4f}' in printed
    for kind, chosen in (('worst', rows[:3]), ('best', rows[::-1][:3])):
        files = sorted(tmp_path.joinpath(kind).iterdir())
        for place, (file, row) in enumerate(zip(files, chosen, strict=True), start=1):
            assert file.name.startswith(f'{place:03d}_{float(row["score"]):.3f}_')
            assert file.name.endswith(row['img_path'].rpartition('/')[2])
            drawn, image = cv2.imread(str(file)), cv2.imread(row['img_path'])
            assert drawn.shape == (96, 192, 3)
            # the annotation on the left: objects are there in every image
            assert np.abs(drawn[:, :96].astype(int) - image).max() > 60
    everything = tmp_path / 'all'
    tool(f'{TOOLS}/analyze_results.py', run.config, run.results, everything, '--topk', 99)
    assert sum(1 for _ in everything.glob('*/*')) == 24


def test_of_equals_the_images_with_more_objects_come_first(run: Run, tmp_path):
    tested = read_tested(run.config, run.results)
    files = write_gallery(tested, np.ones(len(tested)), tmp_path, topk=2)
    with open(tmp_path / 'scores.csv') as file:
        objects = [int(row['objects']) for row in csv.DictReader(file)]
    assert objects == sorted(objects, reverse=True) and objects[0] > objects[-1]
    worst, best = ([f.name for f in files if f.parent.name == kind] for kind in ('worst', 'best'))
    assert worst == best


# ---------------------------------------------------------------- panoptic maps, and Pascal VOC


def test_panoptic_maps(run: Run, tmp_path):
    name, data = 'panoptic_fpn_r2_50_fpn_demo', f'{run.root}/data/'
    overrides = {
        'test_dataloader.dataset.data_root': data,
        'test_evaluator.0.ann_file': f'{data}annotations/panoptic_val.json',
        'test_evaluator.0.seg_prefix': f'{data}annotations/panoptic_val/',
    }
    config = load_config(name, overrides)
    settings = dict(config.test_dataloader.dataset)
    settings['pipeline'] = [dict(type='LoadPanopticAnnotations')]
    init_scope()
    dataset = DATASETS.build(settings)
    results = []
    for i in range(len(dataset)):
        loaded = dataset[i]
        panoptic = loaded['gt_seg_map'].astype(np.int64)
        for number, (mask, label) in enumerate(
            zip(loaded['gt_masks'].to_ndarray(), loaded['gt_bboxes_labels'], strict=True), start=1
        ):
            panoptic[mask.astype(bool)] = int(label) + number * INSTANCE_OFFSET
        if i == 2:
            panoptic[:] = 255  # nothing found
        results.append(
            dict(
                img_id=loaded['img_id'],
                pred_panoptic_seg=dict(sem_seg=torch.from_numpy(panoptic)[None]),
            )
        )
    path = tmp_path / 'panoptic.pkl'
    with open(path, 'wb') as file:
        pickle.dump(results, file)
    tested = read_tested(config, path)
    assert panoptic_scores(tested) == pytest.approx([1, 1, 0, 1])
    files = write_gallery(tested, np.array([1, 1, 0, 1.0]), tmp_path, topk=1)
    assert [file.parent.name for file in files] == ['worst', 'best']
    drawn = cv2.imread(str(files[1]))
    assert drawn.shape == (96, 192, 3)
    assert np.abs(drawn[:, :96].astype(int) - drawn[:, 96:]).mean() < 5  # alike
    values, report = evaluate_results(name, path, metrics=['PQ'], overrides=overrides)
    assert 0 < values['coco_panoptic/PQ'] < 100 and report['PQ']['per_class']
    with pytest.raises(ConfigError, match='CocoPanopticMetric'):
        panoptic_scores(read_tested(run.config, run.results))


def test_vocs_metric_finds_its_objects(run: Run, tmp_path):
    settings = load_config(run.config)
    settings.test_evaluator = dict(type='VOCMetric', eval_mode='area')
    (tmp_path / 'voc.py').write_text(settings.pretty_text)
    values, _ = evaluate_results(tmp_path / 'voc.py', run.results)
    # another rule (whole pixels, all points): near COCO's AP at 0.5
    assert values['pascal_voc/mAP'] == pytest.approx(run.report['bbox']['AP50'], abs=0.05)


# ------------------------------------------------------------------------ coco_error_analysis


def slow_curves(truth, found, category, family, areas, iou_type):
    """What pycocotools says when other classes are turned into crowds of this one."""

    def evaluated(annotations, thresholds):
        marked = COCO()
        marked.dataset = {**truth.dataset, 'annotations': annotations}
        own = COCO()
        own.dataset = {
            **truth.dataset,
            'annotations': [
                copy.deepcopy(a)
                for a in found.dataset['annotations']
                if a['category_id'] == category
            ],
        }
        for coco in (marked, own):
            quiet(coco.createIndex)
        evaluation = COCOeval(marked, own, iou_type)
        params = evaluation.params
        params.iouThrs, params.maxDets, params.areaRng = np.array(thresholds), [100], areas
        params.catIds = [category]
        quiet(evaluation.evaluate)
        quiet(evaluation.accumulate)
        return evaluation.eval['precision'][:, :, 0, :, 0]

    def as_crowds(categories):
        annotations = copy.deepcopy(truth.dataset['annotations'])
        for a in annotations:
            if a['category_id'] in categories and a['category_id'] != category:
                a.update(category_id=category, iscrowd=1)
        return annotations

    plain = evaluated(as_crowds(()), [0.75, 0.5, 0.1])
    similar = evaluated(as_crowds(family), [0.1])
    others = evaluated(as_crowds([c['id'] for c in truth.dataset['categories']]), [0.1])
    return np.concatenate([plain, similar, others, others > 0, np.ones_like(others)])


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_error_curves_are_those_of_pycocotools_with_changed_annotations(
    run: Run,
    tmp_path,
    iou_type,
):
    # two families of classes; a crowd
    content = json.loads(run.annotations.read_text())
    for category in content['categories']:
        category['supercategory'] = 'round' if category['name'] in ('circle', 'ring') else 'edged'
    ann_file = tmp_path / 'annotations.json'
    ann_file.write_text(json.dumps(content))
    truth = quiet(COCO, str(ann_file))
    found = quiet(truth.loadRes, str(run.root / f'coco.{iou_type}.json'))
    data, categories = read_results(run.root / f'coco.{iou_type}.json', ann_file, iou_type=iou_type)
    limits = (150, 300, 1e10)
    curves = error_curves(data, categories, limits)
    areas = [[0, limits[2]], [0, limits[0]], [limits[0], limits[1]], [limits[1], limits[2]]]
    compared_curves = 0
    for k, name in enumerate(curves.names):
        category = next(c for c in content['categories'] if c['name'] == name)
        family = [
            c['id']
            for c in content['categories']
            if c['supercategory'] == category['supercategory']
        ]
        expected = slow_curves(truth, found, category['id'], family, areas, iou_type)
        for a in range(len(AREAS)):
            if curves.objects[k, a]:
                assert (curves.precision[:, :, k, a] == expected[..., a]).all()
                compared_curves += 1
            else:
                assert np.isnan(curves.precision[:, :, k, a]).all()
    assert compared_curves >= 15
    means = curves.mean()[:, :, 0].mean(axis=1)
    assert means[1] == pytest.approx(run.report[iou_type]['AP50'])
    assert (np.diff(means) >= 0).all() and means[3] < means[4] and means[6] == 1


def test_error_analysis_of_a_real_test(run: Run, tmp_path):
    script = f'{TOOLS}/coco_error_analysis.py'
    printed = tool(
        script, run.root / 'coco.bbox.json', tmp_path, '--ann', run.annotations,
        '--areas', 150, 300, 1e10, '--extraplots',
    )  # fmt: skip
    report = json.loads((tmp_path / 'bbox' / 'errors.json').read_text())
    overall = report['all classes']['all']
    assert list(overall) == list(KINDS)
    assert overall['C50'] == pytest.approx(run.report['bbox']['AP50'])
    assert overall['C75'] == pytest.approx(run.report['bbox']['AP75'])
    assert f'{overall["Loc"]:8.3f}' in printed
    pictures = {p.name for p in (tmp_path / 'bbox').glob('*.png')}
    assert {'bbox-allclass.png', 'bbox-ring.png', 'bbox-ring-bars.png', 'objects.png'} <= pictures
    assert cv2.imread(str(tmp_path / 'bbox' / 'bbox-allclass.png')).std() > 20


def test_results_of_other_annotations(run: Run, tmp_path):
    script, ann = f'{TOOLS}/coco_error_analysis.py', run.annotations
    other = tmp_path / 'other.json'

    def message(content):
        other.write_text(content)
        return tool(script, other, tmp_path / 'out', '--ann', ann, code=2)

    record = dict(image_id=1, category_id=1, score=0.5, bbox=[1, 1, 2, 2])
    assert 'image 99' in message(json.dumps([dict(record, image_id=99)]))
    assert 'category 99' in message(json.dumps([dict(record, category_id=99)]))
    assert "no 'score'" in message(json.dumps([dict(image_id=1, category_id=1)]))
    assert '--types segm' in message(json.dumps([dict(image_id=1, category_id=1, score=1)]))
    assert 'list of records' in message('{}')
    assert 'JSON' in message('{')
    other.write_text(json.dumps([record]))
    arguments = [script, other, tmp_path / 'out', '--ann', ann]
    assert 'no segmentation' in tool(*arguments, '--types', 'segm', code=2)
    assert '--areas' in tool(*arguments, '--areas', 9, 4, 1, code=2)
    assert 'No such file' in tool(
        script, tmp_path / 'none.json', tmp_path / 'out', '--ann', ann, code=2
    )


def test_nothing_found_at_all(run: Run, tmp_path):
    def forget(results):
        for result in results:
            instances = result['pred_instances']
            for key, value in instances.items():
                instances[key] = value[:0]

    path = changed(run, tmp_path / 'none.pkl', forget)
    tested = read_tested(run.config, path)
    assert isinstance(tested.results[0]['pred_instances']['scores'], torch.Tensor)
    assert not image_scores(compared(tested)).any()
    tool(f'{TOOLS}/confusion_matrix.py', run.config, path, tmp_path)
    counts = np.array(json.loads((tmp_path / 'confusion_matrix.json').read_text())['counts'])
    assert counts[:, -1].sum() == 66 and not counts[:, :-1].any()
    tool(f'{TOOLS}/analyze_results.py', run.config, path, tmp_path, '--topk', 2)
    values, report = evaluate_results(run.config, path)
    assert values['coco/bbox_mAP'] == 0 and report['bbox']['best_f1']['f1'] == 0
    (tmp_path / 'none.json').write_text('[]')
    curves = error_curves(*read_results(tmp_path / 'none.json', run.annotations))
    assert not curves.mean()[:6, :, 0].any()
