"""hotcoco against pycocotools on random data sets, and what its matches give, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_r2.analysis.confusion import every_pair
from mmdet_r2.evaluation.coco_backends import (
    IGNORED,
    MISTAKES,
    RIGHT,
    WRONG,
    CocoData,
    Evaluation,
    Objects,
    joined,
    mask_areas,
)
from mmdet_r2.evaluation.mistakes import best_f1

K = 4


def random_data(seed, iou_type='bbox', num_images=8, side=60) -> CocoData:
    """Ties, crowds, duplicates, wrong classes, sizes on their limits, images and classes without
    objects, more than 100 detections of an image; masks that are less than their boxes.
    """
    rng = np.random.default_rng(seed)
    whole, scale = rng.random() < 0.5, rng.choice([1, 30, 300])
    used = int(rng.integers(1, K + 1))

    def boxes(number):
        size = rng.integers(1, side // 2, (number, 2))
        found = np.concatenate([rng.integers(0, side - size), size], axis=1).astype(float)
        return found if whole else found + rng.random((number, 4)).astype(np.float32)

    def polygons(of):
        corner = rng.choice([0, 0.4], (len(of), 1)) * of[:, 2:]
        x1, y1, x2, y2 = *of[:, :2].T, *(of[:, :2] + of[:, 2:]).T
        points = [x1, y1, x2, y1, x2, y2 - corner[:, 1], x1 + corner[:, 0], y2]
        return np.stack(points, axis=1).tolist()

    truths, founds = [], []
    for _ in range(num_images):
        objects = boxes(int(rng.integers(0, 8)))
        g = len(objects)
        label = rng.integers(0, used, g)
        area = np.where(rng.random(g) < 0.1, rng.choice([1024, 9216], g), objects[:, 2] * scale)
        crowd = rng.random(g) < 0.15
        masks: list = [[polygon] for polygon in polygons(objects)]
        for i in np.flatnonzero(crowd):
            (masks[i],) = coco_mask.frPyObjects(masks[i], side, side)
        truths.append(Objects(np.zeros(g), label, objects, area, crowd=crowd, masks=masks))
        n = int(rng.choice([0, 3, 20, 130]))
        near, named = boxes(n), rng.integers(0, used, n)
        if g:
            target = rng.integers(0, g, n)
            chosen = rng.random(n) < 0.7
            near[chosen] = objects[target[chosen]] + rng.integers(-2, 3, (chosen.sum(), 4))
            named = np.where(chosen & (rng.random(n) < 0.8), label[target], named)
        near = near.clip(0)
        near[:, 2:] = near[:, 2:].clip(1)
        scores = rng.random(n).astype(np.float32)
        scores = np.where(rng.random(n) < 0.5, scores.round(1), scores)
        rles = coco_mask.frPyObjects(polygons(near), side, side) if n else []
        area = mask_areas(rles) if iou_type == 'segm' else None
        founds.append(Objects(np.zeros(n), named, near, area, scores, masks=rles))
    return CocoData([(side, side)] * num_images, K, joined(truths), joined(founds), iou_type)


def assert_equal_numbers(seed):
    """Of both programs, to the last bit."""
    rng = np.random.default_rng(seed)
    options: dict = [
        {},
        dict(max_dets=(1, 7, 100)),
        dict(max_dets=(100, 300, 1000)),
        dict(iou_thrs=np.array([0.1, 0.5, 0.75, 1.0])),
        dict(areas={'all': (0, 1e10), 'some': (50, 1024)}),
    ][rng.integers(5)]
    data = random_data(seed, ('bbox', 'segm')[seed % 2], num_images=int(rng.integers(1, 7)))
    if rng.random() < 0.2:
        data = data.without_classes()
    one, two = (Evaluation(data, backend=name, **options) for name in ('hotcoco', 'pycocotools'))
    assert one.precision.shape[1:3] == (101, data.num_classes)
    assert np.array_equal(one.precision, two.precision), seed
    assert np.array_equal(one.recall, two.recall), seed


def test_arrays_are_those_of_pycocotools_to_the_last_bit():
    for seed in range(60):
        assert_equal_numbers(seed)


@pytest.mark.slow
def test_thousands_of_arrays_are_those_of_pycocotools():
    for seed in range(60, 3060):
        assert_equal_numbers(seed)


def test_masks_are_compared_as_masks():
    def half(left):
        mask = np.zeros((10, 10), np.uint8, order='F')
        mask[:, :5] = left
        mask[:, 5:] = 1 - left
        return coco_mask.encode(mask)

    truth = Objects([0], [0], [[0, 0, 10, 10]], masks=[half(1)])
    found = Objects([0], [0], [[0, 0, 10, 10]], scores=[1.0], masks=[half(0)])
    data = CocoData([(10, 10)], 1, truth, found)
    assert Evaluation(data).verdicts()[0].tolist() == [RIGHT]
    assert Evaluation(replace(data, iou_type='segm')).verdicts()[0].tolist() == [WRONG]


def test_nothing_annotated_nothing_found():
    def data(truth, found):
        return Evaluation(CocoData([(9, 9)], 2, truth, found))

    nothing = Objects([], [], [], scores=[])
    one = Objects([0], [1], [[0, 0, 4, 4]], scores=[0.7])
    empty = data(nothing, nothing)
    assert empty.verdicts()[0].shape == (0,) and not empty.confusion().any()
    assert (empty.precision == -1).all()
    assert empty.mistakes()['background'] == dict(count=0, dAP=None)
    assert data(nothing, one).confusion().tolist() == [[0] * 3, [0] * 3, [0, 1, 0]]
    missed = data(one, nothing)
    assert missed.confusion().tolist() == [[0] * 3, [0, 0, 1], [0] * 3]
    assert missed.precision[:, :, 1, 0].max() == 0
    assert best_f1(np.zeros(0), np.zeros(0), 1)['f1'] == 0.0
    assert best_f1(np.zeros(0), np.zeros(0), 0)['f1'] is None


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_rows_are_the_objects_columns_the_detections_and_the_diagonal_is_cocos(iou_type):
    data = random_data(5, iou_type, num_images=40)
    evaluation = Evaluation(data)
    matrix = evaluation.confusion(score_thr=0.5)
    verdict, match = evaluation.verdicts()
    truth, found = data.truth, data.found
    chosen = (found.scores >= 0.5) & (verdict != IGNORED)
    asked = np.bincount(truth.label[~truth.crowd], minlength=K)
    assert (matrix[:-1].sum(axis=1) == asked).all()
    assert (matrix[:, :-1].sum(axis=0) == np.bincount(found.label[chosen], minlength=K)).all()
    hits = found.label[chosen & (verdict == RIGHT)]
    assert (np.diagonal(matrix)[:-1] == np.bincount(hits, minlength=K)).all()
    right = verdict == RIGHT
    assert (truth.label[match[right]] == found.label[right]).all() and (match[~right] == -1).all()
    assert matrix[-1, -1] == 0 and matrix[:-1, -1].sum() > 0 and matrix[-1, :-1].sum() > 0
    assert matrix[:-1, :-1].sum() > hits.size > 0


def slow_confusion(truth, found, score_thr, iou_thr):
    """mmdetection 3.x's rule, pair by pair."""
    matrix = np.zeros((K + 1, K + 1), int)
    for image in {a['image_id'] for a in [*truth, *found]}:
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


def records(objects):
    """One dict for each."""
    scores = [None] * len(objects) if objects.scores is None else objects.scores
    rows = zip(objects.image, objects.label + 1, objects.boxes.tolist(), scores)
    return [dict(image_id=i, category_id=c, bbox=b, score=s) for i, c, b, s in rows]


def test_every_overlapping_pair_may_count_as_in_mmdetection():
    data = random_data(6, num_images=20)
    data = replace(data, truth=data.truth.select(~data.truth.crowd))
    data.found = data.found.select(Evaluation(data).verdicts()[0] != IGNORED)
    expected = slow_confusion(records(data.truth), records(data.found), 0.3, 0.5)
    assert (every_pair(data, score_thr=0.3) == expected).all() and expected[0, 1:-1].sum() > 0


def row_of_boxes(labels, scores=None, shift=0.0):
    """Boxes of 10 x 10 pixels, 100 apart, moved to the right by ``shift`` each."""
    shift = np.broadcast_to(shift, len(labels))
    boxes = [[100 * i + s, 0, 10, 10] for i, s in enumerate(shift)]
    return Objects(np.zeros(len(labels)), labels, boxes, scores=scores)


def compared(truth, found, num_classes):
    return Evaluation(CocoData([(999, 999)], num_classes, truth, found))


def test_a_confused_a_missed_and_an_invented_object():
    truth = row_of_boxes([0, 1, 1])
    found = row_of_boxes([0, 2, 1, 1], scores=[0.9, 0.8, 0.2, 0.7])
    matrix = compared(truth, found, 3).confusion(score_thr=0.3)
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
    verdict, _ = compared(truth, found, 2).verdicts()
    assert verdict.tolist() == [RIGHT, WRONG, RIGHT, WRONG]
    best = best_f1(found.scores, verdict, 3)
    assert best == pytest.approx(dict(precision=2 / 3, recall=2 / 3, f1=2 / 3, score_thr=0.7))
    assert best_f1(found.scores, verdict, 4)['f1'] == pytest.approx(4 / 7)
    # detections of one score cannot be parted
    assert best_f1(np.full(4, 0.5), verdict, 3)['f1'] == pytest.approx(4 / 7)


def test_each_kind_of_mistake_and_what_its_repair_is_worth():
    # class 0 has 4 objects: one right, one of class 1 placed on the second, one badly placed,
    # one missed; besides a duplicate and something on the ground. Class 1 has no objects.
    truth = row_of_boxes([0, 0, 0, 0])
    boxes = [[0, 0, 10, 10], [100, 0, 10, 10], [205, 0, 10, 10], [1, 0, 10, 10], [500, 500, 9, 9]]
    found = Objects([0] * 5, [0, 1, 0, 0, 0], boxes, scores=[0.9, 0.8, 0.7, 0.6, 0.5])
    report = compared(truth, found, 2).mistakes()
    counts = {kind: report[kind]['count'] for kind in MISTAKES}
    assert counts == dict({'class': 1}, localization=1, both=0, duplicate=1, background=1, missed=1)
    # AP of class 0 alone: recall 1/4 at precision 1, that is 26 of 101 points
    base = 26 / 101
    assert report['class']['dAP'] == pytest.approx(51 / 101 - base)  # two right in a row
    assert report['localization']['dAP'] == pytest.approx(51 / 101 - base)
    assert report['duplicate']['dAP'] == pytest.approx(0)
    assert report['background']['dAP'] == pytest.approx(0)
    assert report['missed']['dAP'] == pytest.approx(34 / 101 - base)  # one of three
