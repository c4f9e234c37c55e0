"""Matching over a whole data set, and what is derived from it: against pycocotools, and by hand."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_r2.evaluation.matching import (
    IGNORED,
    RIGHT,
    WRONG,
    Objects,
    compare,
    compare_evaluated,
    judge,
    precision_curves,
)
from mmdet_r2.evaluation.mistakes import KINDS, best_f1, confusion_matrix, mistakes

K = 4


def crowded_scene(num_images=40, seed=0):
    """Annotations and detections in COCO's format, with ties, crowds, duplicates, other classes."""
    rng = np.random.default_rng(seed)
    images = [dict(id=i, width=100, height=100) for i in range(num_images)]
    truth, found = [], []

    def record(into, image, category, box, **more):
        area = box[2] * box[3] * more.pop('fill', 1.0)
        more = dict(area=area, iscrowd=0) | more
        into.append(dict(id=len(into) + 1, image_id=image, category_id=category, bbox=box, **more))

    def anywhere():
        return [*rng.integers(0, 60, 2).tolist(), *rng.integers(4, 40, 2).tolist()]

    for i in range(num_images):
        for _ in range(rng.integers(0, 8)):
            crowd, fill = int(rng.random() < 0.15), float(rng.uniform(0.5, 1))
            category = int(rng.integers(1, K + 1))
            record(truth, i, category, anywhere(), iscrowd=crowd, fill=fill)
        own = [a for a in truth if a['image_id'] == i]
        for _ in range(rng.integers(0, 40)):
            box, category = anywhere(), int(rng.integers(1, K + 1))
            if own and rng.random() < 0.8:
                target = own[rng.integers(len(own))]
                box = (np.array(target['bbox']) + rng.integers(-4, 5, 4)).clip(1).tolist()
                category = target['category_id'] if rng.random() < 0.7 else category
            record(found, i, category, box, score=round(float(rng.random()), 1))
    return images, truth, found


def coco(images, annotations):
    result = COCO()
    categories = [dict(id=i + 1, name=str(i), supercategory='ab'[i // 2]) for i in range(K)]
    result.dataset = dict(
        images=images, categories=categories, annotations=copy.deepcopy(annotations)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        result.createIndex()
    return result


def evaluated(images, truth, found, **params):
    evaluation = COCOeval(coco(images, truth), coco(images, found), 'bbox')
    vars(evaluation.params).update(params)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def test_precision_is_that_of_pycocotools_to_the_last_digit():
    evaluation = evaluated(*crowded_scene(), maxDets=[1, 3, 100])
    data = compare_evaluated(evaluation, range(1, K + 1))
    params = evaluation.params
    compared = 0
    for a, area in enumerate(params.areaRng):
        for m, max_dets in enumerate(params.maxDets):
            for t, iou_thr in enumerate(params.iouThrs):
                result = judge(data, iou_thr, area=area, max_dets=max_dets)
                curves = precision_curves(data, result.verdict, result.counted, params.recThrs)
                expected = evaluation.eval['precision'][t, :, :, a, m].T
                assert (np.nan_to_num(curves, nan=-1) == expected).all()
                compared += np.isfinite(curves[:, 0]).sum()
    assert compared >= 270


@pytest.mark.parametrize('seed', range(3))
def test_excused_detections_are_those_on_other_classes_marked_as_crowds(seed):
    images, truth, found = crowded_scene(seed=seed)
    data = compare_evaluated(evaluated(images, truth, found), range(1, K + 1))
    family = np.arange(K) // 2
    areas = [[0, 1e10], [0, 200], [200, 500], [500, 1e10]]
    for k in range(K):
        for excused in (family == family[k], np.ones(K, bool)):
            marked = copy.deepcopy(truth)
            for a in marked:
                if a['category_id'] != k + 1 and excused[a['category_id'] - 1]:
                    a.update(category_id=k + 1, iscrowd=1)
            own = [a for a in found if a['category_id'] == k + 1]
            reference = evaluated(
                images, marked, own, iouThrs=np.array([0.1]), maxDets=[100], areaRng=areas
            )
            excuses = np.tile(excused, (K, 1))
            for a, area in enumerate(areas):
                result = judge(data, 0.1, area=area, excuses=excuses)
                recalls = reference.params.recThrs
                curves = precision_curves(data, result.verdict, result.counted, recalls)
                expected = reference.eval['precision'][0, :, k, a, 0]
                assert (np.nan_to_num(curves[k], nan=-1) == expected).all()


def test_masks_are_compared_as_masks():
    def half(left):
        mask = np.zeros((10, 10), np.uint8, order='F')
        mask[:, :5] = left
        mask[:, 5:] = 1 - left
        return mask

    from pycocotools.mask import encode

    box = [[0, 0, 10, 10]]
    truth = Objects(boxes=box, labels=[0], masks=[encode(half(1))])
    found = Objects(boxes=box, labels=[0], scores=[1.0], masks=[encode(half(0))])
    assert judge(compare([truth], [found], 1, 'bbox'), 0.5).verdict.tolist() == [RIGHT]
    assert judge(compare([truth], [found], 1, 'segm'), 0.5).verdict.tolist() == [WRONG]


def test_nothing_annotated_nothing_found():
    nothing = Objects(boxes=[], labels=[], scores=[])
    one = Objects(boxes=[[0, 0, 4, 4]], labels=[1], scores=[0.7])
    empty = compare([nothing], [nothing], 2)
    assert judge(empty, 0.5).verdict.shape == (0,) and not confusion_matrix(empty).any()
    assert mistakes(empty)['background'] == dict(count=0, dAP=None)
    assert confusion_matrix(compare([nothing], [one], 2)).tolist() == [[0] * 3, [0] * 3, [0, 1, 0]]
    assert confusion_matrix(compare([one], [nothing], 2)).tolist() == [[0] * 3, [0, 0, 1], [0] * 3]
    missed = compare([one], [nothing], 2)
    assert best_f1(missed, judge(missed, 0.5).verdict, 1)['f1'] == 0.0
    assert best_f1(missed, judge(missed, 0.5).verdict, 0)['f1'] is None


def test_rows_are_the_objects_columns_the_detections_and_the_diagonal_is_cocos():
    images, truth, found = crowded_scene(seed=3)
    truth = [a for a in truth if not a['iscrowd']]
    evaluation = evaluated(images, truth, found, iouThrs=np.array([0.5]))
    data = compare_evaluated(evaluation, range(1, K + 1))
    matrix = confusion_matrix(data, score_thr=0.5)
    chosen = [a for a in found if a['score'] >= 0.5]
    for k in range(K):
        assert matrix[k].sum() == sum(a['category_id'] == k + 1 for a in truth)
        assert matrix[:, k].sum() == sum(a['category_id'] == k + 1 for a in chosen)
        hits = sum(
            ((e['dtMatches'][0] > 0) & (np.array(e['dtScores']) >= 0.5)).sum()
            for e in evaluation.evalImgs
            if e and e['category_id'] == k + 1 and e['aRng'] == evaluation.params.areaRng[0]
        )
        assert matrix[k, k] == hits > 0
    assert matrix[-1, -1] == 0 and matrix[:-1, -1].sum() > 0 and matrix[-1, :-1].sum() > 0
    off_diagonal = matrix[:-1, :-1].sum() - np.trace(matrix)
    assert off_diagonal > 0


def slow_confusion(truth, found, score_thr, iou_thr):
    """mmdetection 3.x's rule, pair by pair."""
    matrix = np.zeros((K + 1, K + 1), int)
    images = {a['image_id'] for a in [*truth, *found]}
    for image in images:
        objects = [a for a in truth if a['image_id'] == image]
        seen = set()
        for d in found:
            if d['image_id'] != image or d['score'] < score_thr:
                continue
            hits = 0
            for n, g in enumerate(objects):
                (ax, ay, aw, ah), (bx, by, bw, bh) = d['bbox'], g['bbox']
                width = max(0, min(ax + aw, bx + bw) - max(ax, bx))
                height = max(0, min(ay + ah, by + bh) - max(ay, by))
                common = width * height
                if common / (aw * ah + bw * bh - common) >= iou_thr:
                    matrix[g['category_id'] - 1, d['category_id'] - 1] += 1
                    hits += 1
                    if g['category_id'] == d['category_id']:
                        seen.add(n)
            if not hits:
                matrix[-1, d['category_id'] - 1] += 1
        for n, g in enumerate(objects):
            if n not in seen:
                matrix[g['category_id'] - 1, -1] += 1
    return matrix


def test_every_overlapping_pair_may_count_as_in_mmdetection():
    images, truth, found = crowded_scene(seed=4)
    truth = [a for a in truth if not a['iscrowd']]
    data = compare_evaluated(evaluated(images, truth, found), range(1, K + 1))
    expected = slow_confusion(truth, found, 0.3, 0.5)
    assert (confusion_matrix(data, score_thr=0.3, every=True) == expected).all()


def row_of_boxes(labels, scores=None, shift=0.0):
    """Boxes of 10 x 10 pixels, 100 apart, moved to the right by ``shift`` each."""
    shift = np.broadcast_to(shift, len(labels))
    boxes = [[100 * i + s, 0, 10, 10] for i, s in enumerate(shift)]
    return Objects(boxes=boxes, labels=labels, scores=scores)


def test_a_confused_a_missed_and_an_invented_object():
    truth = row_of_boxes([0, 1, 1])
    found = row_of_boxes([0, 2, 1, 1], scores=[0.9, 0.8, 0.2, 0.7])
    matrix = confusion_matrix(compare([truth], [found], 3), score_thr=0.3)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1  # right
    expected[1, 2] = 1  # found as another class
    expected[1, 3] = 1  # below the threshold: missed
    expected[3, 1] = 1  # nothing is there
    assert (matrix == expected).all()


def test_best_f1_by_hand():
    # right, wrong, right, wrong of 3 objects: F1 is 2/4, 2/5, 4/6, 4/7
    truth = row_of_boxes([0, 1, 0, 0])
    found = row_of_boxes([0, 0, 0, 0], scores=[0.9, 0.8, 0.7, 0.6])
    found.boxes[3, 0] = 900
    data = compare([truth], [found], 2)
    verdict = judge(data, 0.5).verdict
    assert verdict.tolist() == [RIGHT, WRONG, RIGHT, WRONG]
    best = best_f1(data, verdict, 3, label=0)
    assert best == pytest.approx(dict(precision=2 / 3, recall=2 / 3, f1=2 / 3, score_thr=0.7))
    assert best_f1(data, verdict, 4)['f1'] == pytest.approx(4 / 7)
    # detections of one score cannot be parted
    data.det_score[:] = 0.5
    assert best_f1(data, verdict, 3, label=0)['f1'] == pytest.approx(4 / 7)


def test_each_kind_of_mistake_and_what_its_repair_is_worth():
    # class 0 has 4 objects: one right, one of class 1 placed on the second, one badly placed,
    # one missed; besides a duplicate and something on the ground. Class 1 has no objects.
    truth = row_of_boxes([0, 0, 0, 0])
    found = Objects(
        boxes=[
            [0, 0, 10, 10],
            [100, 0, 10, 10],
            [205, 0, 10, 10],
            [1, 0, 10, 10],
            [500, 500, 9, 9],
        ],
        labels=[0, 1, 0, 0, 0],
        scores=[0.9, 0.8, 0.7, 0.6, 0.5],
    )
    data = compare([truth], [found], 2)
    report = mistakes(data)
    counts = {kind: report[kind]['count'] for kind in KINDS}
    assert counts == dict({'class': 1}, localization=1, both=0, duplicate=1, background=1, missed=1)
    # AP of class 0 alone: recall 1/4 at precision 1, that is 26 of 101 points
    base = 26 / 101
    assert report['class']['dAP'] == pytest.approx(51 / 101 - base)  # two right in a row
    assert report['localization']['dAP'] == pytest.approx(51 / 101 - base)
    assert report['duplicate']['dAP'] == pytest.approx(0)
    assert report['background']['dAP'] == pytest.approx(0)
    assert report['missed']['dAP'] == pytest.approx(34 / 101 - base)  # one of three
    assert judge(data, 0.5, min_score=0.65).verdict.tolist() == [1, 0, 0, IGNORED, IGNORED]
