"""Panoptic quality against a slow, literal version of the rule, on chance maps and on real ground
truth perturbed in known ways; the metric, its files and its drawings.
"""

import copy
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from warm_python import python

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.apis.test import test as run_test
from mmdet_r2.apis.test import test_config as make_config
from mmdet_r2.config import load_config
from mmdet_r2.datasets.demo import generate
from mmdet_r2.datasets.transforms.panoptic import read_segment_ids
from mmdet_r2.engine.checkpoint import CheckpointHook
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.evaluation import CocoPanopticMetric, evaluate_panoptic_files
from mmdet_r2.evaluation.panoptic_format import read_panoptic
from mmdet_r2.evaluation.panoptic_quality import PanopticMap, compare, quality
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks
from mmdet_r2.structures.panoptic import (
    INSTANCE_OFFSET,
    MAX_ID,
    ids_to_rgb,
    segments,
    values_of,
)
from mmdet_r2.visualization import DetLocalVisualizer, draw_panoptic

CLASSES = ('cat', 'dog', 'grass', 'sky')
IDS = (17, 18, 3, 44)
CATEGORIES = [
    dict(id=44, name='sky', isthing=0),
    dict(id=18, name='dog', isthing=1),
    dict(id=3, name='grass', isthing=0),
    dict(id=17, name='cat', isthing=1),
]
META = dict(classes=CLASSES, thing_classes=CLASSES[:2], stuff_classes=CLASSES[2:])
SIZE = (24, 30)


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Ids of colours: (..., 3) uint8 in the order R, G, B -> (...) int32."""
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    return red + (green << 8) + (blue << 16)


# ------------------------------------------------------------------------------- the slow version


def literal_quality(images: list[tuple], isthing: dict[int, int]) -> dict[str, dict]:
    """The published rule with sets of pixels.

    Args:
        images: for each the true ids (H, W) and segments, the predicted ids and segments.
    """
    sums = {category: [0.0, 0, 0, 0] for category in isthing}  # IoU, TP, FP, FN
    for true_ids, true_segments, found_ids, found_segments in images:
        where = np.indices(true_ids.shape).reshape(2, -1).T

        def pixels(ids, number, where=where):
            return {(int(y), int(x)) for y, x in where if ids[y, x] == number}

        true = {s['id']: (s, pixels(true_ids, s['id'])) for s in true_segments}
        found = {s['id']: (s, pixels(found_ids, s['id'])) for s in found_segments}
        void = pixels(true_ids, 0)
        true_done, found_done = set(), set()
        for i, (true_segment, true_pixels) in true.items():
            for j, (found_segment, found_pixels) in found.items():
                category = true_segment['category_id']
                if true_segment['iscrowd'] or found_segment['category_id'] != category:
                    continue
                iou = len(true_pixels & found_pixels) / len((true_pixels | found_pixels) - void)
                if iou > 0.5:
                    sums[category][0] += iou
                    sums[category][1] += 1
                    true_done.add(i)
                    found_done.add(j)
        crowds = {}
        for i, (segment, pixel_set) in true.items():
            if segment['iscrowd']:
                crowds[segment['category_id']] = pixel_set
            elif i not in true_done:
                sums[segment['category_id']][3] += 1
        for j, (segment, pixel_set) in found.items():
            excuse = void | crowds.get(segment['category_id'], set())
            if j not in found_done and len(pixel_set & excuse) / len(pixel_set) <= 0.5:
                sums[segment['category_id']][2] += 1
    result = {}
    for name, kind in (('All', None), ('Things', 1), ('Stuff', 0)):
        rows = []
        for category, (iou, tp, fp, fn) in sums.items():
            if tp + fp + fn and kind in (None, isthing[category]):
                size = tp + fp / 2 + fn / 2
                rows.append((iou / size, iou / tp if tp else 0, tp / size))
        if rows:
            pq, sq, rq = (sum(column) / len(rows) for column in zip(*rows))
            result[name] = dict(pq=pq, sq=sq, rq=rq, n=len(rows))
        else:
            result[name] = dict(pq=-1, sq=-1, rq=-1, n=0)
    return result


def chance_map(rng: np.random.Generator, crowds: bool) -> tuple[np.ndarray, list[dict]]:
    """Up to nine rectangles over one another with ids of up to three bytes, and their segments."""
    height, width = SIZE
    ids = np.zeros(SIZE, np.int64)
    for _ in range(rng.integers(0, 10)):
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        h, w = rng.integers(3, height), rng.integers(3, width)
        ids[y : y + h, x : x + w] = rng.integers(1, 2 ** rng.choice([3, 8, 16, 24]))
    found = [
        dict(
            id=int(number),
            category_id=int(rng.choice(IDS)),
            iscrowd=int(crowds and rng.random() < 0.25),
        )
        for number in rng.permutation(np.unique(ids[ids > 0]))
    ]
    return ids, found


def nearby(rng: np.random.Generator, ids: np.ndarray, listed: list[dict]) -> tuple:
    """A prediction that resembles the truth: moved by pixels, some categories changed, some merged
    or dropped.
    """
    moved = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
    for segment in listed:
        if rng.random() < 0.15:
            moved[moved == segment['id']] = rng.choice([0, listed[0]['id']])
    present = set(np.unique(moved).tolist())
    kept = []
    for segment in listed:
        if segment['id'] in present:
            category = segment['category_id']
            category = int(rng.choice(IDS)) if rng.random() < 0.15 else category
            kept.append(dict(id=segment['id'], category_id=category))
    return moved, kept


def panoptic_map(ids: np.ndarray, listed: list[dict]) -> PanopticMap:
    index = np.zeros(ids.shape, np.int64)
    for k, segment in enumerate(listed, start=1):
        index[ids == segment['id']] = k
    return PanopticMap(
        index,
        np.array([s['category_id'] for s in listed], np.int64),
        crowd=np.array([bool(s.get('iscrowd')) for s in listed], bool),
    )


def check_same(found: dict, expected: dict) -> None:
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, abs=1e-12), name


def chance_images(rng: np.random.Generator, number: int) -> list[tuple]:
    images = []
    for i in range(number):
        truth = chance_map(rng, crowds=True)
        found = nearby(rng, *truth) if i % 3 else chance_map(rng, crowds=False)
        images.append((*truth, *found))
    return images


@pytest.mark.parametrize('seed', range(6))
def test_chance_maps(seed):
    images = chance_images(np.random.default_rng(seed), 8)
    isthing = {c['id']: c['isthing'] for c in CATEGORIES}
    expected = literal_quality(images, isthing)
    counts = [compare(panoptic_map(*i[:2]), panoptic_map(*i[2:])) for i in images]
    check_same(quality(counts, isthing), expected)
    assert expected['All']['n'] == 4 and 0 < expected['All']['pq'] < 1


def test_more_segments_than_pairs_that_occur():
    """A segment for every pixel: no table of all pairs is made."""
    ids = np.arange(1, 901).reshape(30, 30)
    listed = [dict(id=i, category_id=3, iscrowd=0) for i in range(1, 901)]
    counts = compare(panoptic_map(ids, listed), panoptic_map(ids[:, ::-1], listed))
    assert counts.matched == [3] * 900 and counts.ious == [1.0] * 900


# ------------------------------------------------------------ files, and the metric from memory


def write_truth(folder: Path, images: list[tuple], name: str = 'panoptic_toy') -> Path:
    """Annotation file and PNG images of true maps (ids, segments), with areas."""
    (folder / name).mkdir()
    annotations = []
    for i, (ids, listed, *_) in enumerate(images):
        file_name = f'{i:03}.png'
        cv2.imwrite(str(folder / name / file_name), ids_to_rgb(ids)[..., ::-1])
        listed = [dict(s, area=int((ids == s['id']).sum())) for s in listed]
        annotations.append(dict(image_id=i + 5, file_name=file_name, segments_info=listed))
    path = folder / f'{name}.json'
    shapes = [dict(height=ids.shape[0], width=ids.shape[1]) for ids, *_ in images]
    listing = [dict(id=i + 5, file_name=f'{i:03}.jpg', **s) for i, s in enumerate(shapes)]
    path.write_text(
        json.dumps(dict(images=listing, annotations=annotations, categories=CATEGORIES))
    )
    return path


def sample(number: int, ids: np.ndarray, listed: list[dict]) -> dict:
    """A data sample of the prediction, with mmdetection's coding of maps."""
    sem_seg = np.full(ids.shape, len(CLASSES))
    for k, segment in enumerate(listed, start=1):
        label = IDS.index(segment['category_id'])
        sem_seg[ids == segment['id']] = label + k * INSTANCE_OFFSET
    sem_seg = torch.from_numpy(sem_seg)[None]
    return dict(
        img_id=number, img_path=f'some/{number}.jpg', pred_panoptic_seg=dict(sem_seg=sem_seg)
    )


def metric_of(ann_file: Path | None, samples: list[dict], **options) -> CocoPanopticMetric:
    metric = CocoPanopticMetric(None if ann_file is None else str(ann_file), **options)
    metric.dataset_meta = META
    for one in samples:
        metric.process({}, [one])
    return metric


def test_metric_and_files_agree_with_the_rule(tmp_path):
    images = chance_images(np.random.default_rng(10), 12)
    ann_file = write_truth(tmp_path, images)
    samples = [sample(i + 5, *image[2:]) for i, image in enumerate(images)]
    metric = metric_of(ann_file, samples[::-1], outfile_prefix=str(tmp_path / 'out' / 'x'))
    values = metric.evaluate(len(images))
    expected = literal_quality(images, {c['id']: c['isthing'] for c in CATEGORIES})
    for name, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st')):
        for key in ('pq', 'sq', 'rq'):
            value = values[f'coco_panoptic/{key.upper()}{suffix}']
            assert value == pytest.approx(100 * expected[name][key], abs=1e-9)
    for nproc in (1, 2):
        found = evaluate_panoptic_files(
            str(ann_file), str(tmp_path / 'out' / 'x.panoptic.json'), nproc=nproc
        )
        check_same(found, expected)
        # to the last bit: sums have the same order
        assert 100 * found['All']['pq'] == values['coco_panoptic/PQ']
    written = json.loads((tmp_path / 'out' / 'x.panoptic.json').read_text())
    assert {c['name'] for c in written['categories']} == set(CLASSES)
    record = next(r for r in written['annotations'] if r['image_id'] == 6)
    ids = rgb_to_ids(cv2.imread(str(tmp_path / 'out/x.panoptic' / record['file_name']))[..., ::-1])
    numbers, areas = np.unique(ids[ids > 0], return_counts=True)
    assert [s['id'] for s in record['segments_info']] == numbers.tolist()
    assert [s['area'] for s in record['segments_info']] == areas.tolist()
    report = metric.report['PQ']
    assert list(report['per_class']) == list(CLASSES)
    assert report['things']['pq'] == pytest.approx(expected['Things']['pq'])
    # a second evaluation, and an image seen by two processes
    for one in [*samples, samples[0]]:
        metric.process({}, [one])
    assert metric.evaluate(len(images)) == values


def test_the_areas_that_the_file_states_are_believed(tmp_path):
    """As by the official evaluation: twice the pixels make the IoU one half."""
    ids = np.ones(SIZE, np.int64)
    listed = [dict(id=1, category_id=17, iscrowd=0)]
    ann_file = write_truth(tmp_path, [(ids, listed)])
    for factor, quality_percent in ((1, 100), (2, 0), (1.5, 100 / 1.5)):
        data = json.loads(ann_file.read_text())
        first(data)['area'] = int(ids.size * factor)
        ann_file.write_text(json.dumps(data))
        values = metric_of(ann_file, [sample(5, ids, listed)]).evaluate(1)
        assert values['coco_panoptic/PQ'] == pytest.approx(quality_percent)


def test_values_that_are_no_ids(tmp_path):
    """Label 0 without a number is a class, not the id 0; numbers beyond three bytes are fine."""
    ids = np.ones(SIZE, np.int64)
    ids[:, 10:] = 2
    listed = [dict(id=1, category_id=17, iscrowd=0), dict(id=2, category_id=44, iscrowd=0)]
    ann_file = write_truth(tmp_path, [(ids, listed)])
    sem_seg = np.where(ids == 1, 0, 3 + 40_000 * INSTANCE_OFFSET)
    one = dict(img_id=5, pred_panoptic_seg=dict(sem_seg=sem_seg[None]))
    metric = metric_of(ann_file, [one], outfile_prefix=str(tmp_path / 'out'))
    values = metric.evaluate(1)
    assert values['coco_panoptic/PQ'] == 100
    found = evaluate_panoptic_files(str(ann_file), str(tmp_path / 'out.panoptic.json'))
    assert found['All'] == dict(pq=1, sq=1, rq=1, n=2)


@pytest.mark.parametrize('void', [len(CLASSES), 255])
def test_empty_predictions(tmp_path, void):
    images = chance_images(np.random.default_rng(3), 4)
    ann_file = write_truth(tmp_path, images)
    sem_seg = torch.full((1, *SIZE), void)
    samples = [dict(img_id=i + 5, pred_panoptic_seg=dict(sem_seg=sem_seg)) for i in range(4)]
    metric = metric_of(ann_file, samples, outfile_prefix=str(tmp_path / 'out'))
    values = metric.evaluate(4)
    assert values['coco_panoptic/PQ'] == 0 == values['coco_panoptic/RQ_th']
    found = evaluate_panoptic_files(str(ann_file), str(tmp_path / 'out.panoptic.json'))
    assert found['All']['pq'] == 0


def test_no_stuff_at_all(tmp_path):
    """Where there is nothing of a kind its number is -1 and null, not an error."""
    ids = np.ones(SIZE, np.int64)
    ann_file = write_truth(tmp_path, [(ids, [dict(id=1, category_id=18, iscrowd=0)])])
    metric = metric_of(ann_file, [sample(5, ids, [dict(id=1, category_id=18)])])
    values = metric.evaluate(1)
    assert values['coco_panoptic/PQ'] == values['coco_panoptic/PQ_th'] == 100
    assert values['coco_panoptic/PQ_st'] == -1
    assert metric.report['PQ']['stuff'] == dict(pq=None, sq=None, rq=None, n=0)
    assert metric.report['PQ']['per_class']['sky']['PQ'] is None


def test_ground_truth_of_the_data_samples(tmp_path):
    """Without an annotation file: what CocoPanopticDataset puts into samples."""
    images = chance_images(np.random.default_rng(4), 5)
    ann_file = write_truth(tmp_path, images)
    samples = []
    for i, (_, listed, *found) in enumerate(images):
        records = [
            dict(
                id=s['id'],
                category=IDS.index(s['category_id']),
                is_thing=s['category_id'] in IDS[:2] and not s['iscrowd'],
            )
            for s in listed
            if not (s['iscrowd'] and s['category_id'] not in IDS[:2])
        ]
        # a crowd of stuff cannot be said so; nobody annotates one
        void = [s['id'] for s in listed if s['iscrowd'] and s['category_id'] not in IDS[:2]]
        path = str(tmp_path / 'panoptic_toy' / f'{i:03}.png')
        more = dict(seg_map_path=path, segments_info=records, void_ids=void)
        samples.append(sample(i + 5, *found) | more)
    rewritten = json.loads(ann_file.read_text())
    for annotation in rewritten['annotations']:
        for s in annotation['segments_info']:
            if s['iscrowd'] and s['category_id'] not in IDS[:2]:
                annotation.setdefault('void_ids', []).append(s['id'])
        void = annotation.get('void_ids', [])
        annotation['segments_info'] = [
            s for s in annotation['segments_info'] if s['id'] not in void
        ]
    ann_file.write_text(json.dumps(rewritten))
    with_file = metric_of(ann_file, samples).evaluate(5)
    assert metric_of(None, samples).evaluate(5) == pytest.approx(with_file)
    metric = metric_of(None, [])
    with pytest.raises(ConfigError, match='set ann_file, or add'):
        metric.process({}, [sample(5, *images[0][2:])])


# ----------------------------------------------------------------------- real data, known changes


@pytest.fixture
def real(shared_data: Path) -> tuple[Path, dict, dict[int, np.ndarray]]:
    """The annotation file of the two sample images, its content, and their ids."""
    path = shared_data / 'panoptic_sample' / 'panoptic_examples.json'
    data = json.loads(path.read_text())
    ids = {}
    for annotation in data['annotations']:
        image = cv2.imread(str(path.with_suffix('') / annotation['file_name']))
        ids[annotation['image_id']] = rgb_to_ids(image[..., ::-1])
    return path, data, ids


def real_quality(real: tuple, tmp_path: Path, ids: dict, listed: dict[int, list[dict]]) -> dict:
    """PQ of predicted ids and segments, written as files."""
    (tmp_path / 'found').mkdir(exist_ok=True)
    records = []
    for image_id, own in ids.items():
        cv2.imwrite(str(tmp_path / 'found' / f'{image_id}.png'), ids_to_rgb(own)[..., ::-1])
        present = set(np.unique(own).tolist())
        kept = [s for s in listed[image_id] if s['id'] in present]
        records.append(dict(image_id=image_id, file_name=f'{image_id}.png', segments_info=kept))
    path = tmp_path / 'found.json'
    path.write_text(json.dumps(dict(annotations=records)))
    return evaluate_panoptic_files(str(real[0]), str(path))


def plain(data: dict) -> dict[int, list[dict]]:
    return {
        a['image_id']: [dict(id=s['id'], category_id=s['category_id']) for s in a['segments_info']]
        for a in data['annotations']
    }


def of_class(data: dict, name: str) -> int:
    return next(c['id'] for c in data['categories'] if c['name'] == name)


def a_thing(data: dict) -> tuple[int, dict, int]:
    """An image, its largest thing that is no crowd, and how many of that class both have."""
    things = {c['id'] for c in data['categories'] if c['isthing']}
    annotated = [
        (a['image_id'], s)
        for a in data['annotations']
        for s in a['segments_info']
        if s['category_id'] in things and not s['iscrowd']
    ]
    image, segment = max(annotated, key=lambda pair: pair[1]['area'])
    return image, segment, sum(s['category_id'] == segment['category_id'] for _, s in annotated)


def test_truth_itself_is_perfect(real, tmp_path):
    _, data, ids = real
    found = real_quality(real, tmp_path, ids, plain(data))
    occurring = {
        s['category_id']
        for a in data['annotations']
        for s in a['segments_info']
        if not s['iscrowd']
    }
    assert found['All'] == dict(pq=1, sq=1, rq=1, n=len(occurring))
    assert found['Things']['n'] + found['Stuff']['n'] == len(occurring)


def test_a_dropped_segment_is_missed(real, tmp_path):
    _, data, ids = real
    image, segment, number = a_thing(data)
    ids[image][ids[image] == segment['id']] = 0
    row = real_quality(real, tmp_path, ids, plain(data))['per_class'][segment['category_id']]
    assert (row['tp'], row['fp'], row['fn']) == (number - 1, 0, 1)
    assert row['pq'] == pytest.approx((number - 1) / (number - 0.5))


@pytest.mark.parametrize('share', [0.3, 0.5, 0.8])
def test_a_split_segment_matches_its_larger_part(real, tmp_path, share):
    _, data, ids = real
    image, segment, number = a_thing(data)
    pixels = np.flatnonzero(ids[image] == segment['id'])
    part = round(share * len(pixels))
    ids[image].reshape(-1)[pixels[:part]] = 999
    listed = plain(data)
    listed[image].append(dict(id=999, category_id=segment['category_id']))
    row = real_quality(real, tmp_path, ids, listed)['per_class'][segment['category_id']]
    larger = max(part, len(pixels) - part) / len(pixels)
    if larger > 0.5:
        assert (row['tp'], row['fp'], row['fn']) == (number, 1, 0)
        assert row['iou'] == pytest.approx(number - 1 + larger, abs=1e-12)
    else:  # one half is not enough
        assert (row['tp'], row['fp'], row['fn']) == (number - 1, 2, 1)


def test_merged_segments(real, tmp_path):
    """Two things of a class taken for one: matched with the larger if that is most of it."""
    _, data, ids = real
    for annotation in data['annotations']:
        by_class: dict[int, list] = {}
        for s in annotation['segments_info']:
            if not s['iscrowd']:
                by_class.setdefault(s['category_id'], []).append(s)
        pairs = [(annotation['image_id'], own) for own in by_class.values() if len(own) > 1]
        if pairs:
            break
    image, (first, second, *_) = pairs[0]
    category = first['category_id']
    before = real_quality(real, tmp_path, ids, plain(data))['per_class'][category]
    ids[image][ids[image] == second['id']] = first['id']
    row = real_quality(real, tmp_path, ids, plain(data))['per_class'][category]
    larger = max(first['area'], second['area']) / (first['area'] + second['area'])
    if larger > 0.5:
        assert (row['tp'], row['fp'], row['fn']) == (before['tp'] - 1, 0, 1)
        assert row['iou'] == pytest.approx(before['tp'] - 2 + larger, abs=1e-12)
    else:
        assert (row['tp'], row['fp'], row['fn']) == (before['tp'] - 2, 1, 2)


def test_a_relabelled_segment_is_wrong_and_missed(real, tmp_path):
    _, data, ids = real
    image, segment, number = a_thing(data)
    other = of_class(data, 'toaster')
    listed = plain(data)
    for s in listed[image]:
        if s['id'] == segment['id']:
            s['category_id'] = other
    found = real_quality(real, tmp_path, ids, listed)
    row = found['per_class'][segment['category_id']]
    assert (row['tp'], row['fp'], row['fn']) == (number - 1, 0, 1)
    row = found['per_class'][other]
    assert (row['tp'], row['fp'], row['fn'], row['pq']) == (0, 1, 0, 0)


@pytest.mark.parametrize('share', [0.4, 0.6])
@pytest.mark.parametrize('kind', ['crowd', 'void'])
def test_wrong_segments_on_crowd_and_void_are_excused(real, tmp_path, kind, share):
    """A predicted segment is no error if more than half of it is on unlabelled pixels or on a crowd
    of its class; on the rest it is.
    """
    _, data, ids = real
    image, segment, number = a_thing(data)
    category, numbers = segment['category_id'], segment['id']
    truth, truth_ids = copy.deepcopy(data), {k: v.copy() for k, v in ids.items()}
    pixels = np.flatnonzero(ids[image] == numbers)
    part = round(share * len(pixels))
    flat = truth_ids[image].reshape(-1)
    annotation = next(a for a in truth['annotations'] if a['image_id'] == image)
    record = next(s for s in annotation['segments_info'] if s['id'] == numbers)
    # the object's one part becomes crowd or void, the other one another class
    record.update(area=len(pixels) - part, category_id=of_class(data, 'toaster'))
    flat[pixels[:part]] = 0 if kind == 'void' else 999
    if kind == 'crowd':
        crowd = dict(id=999, category_id=category, area=part, iscrowd=1, bbox=[0, 0, 1, 1])
        annotation['segments_info'].append(crowd)
    (tmp_path / 'truth').mkdir()
    for a in truth['annotations']:
        image_file = str(tmp_path / 'truth' / a['file_name'])
        cv2.imwrite(image_file, ids_to_rgb(truth_ids[a['image_id']])[..., ::-1])
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    row = real_quality((tmp_path / 'truth.json', truth, truth_ids), tmp_path, ids, plain(data))[
        'per_class'
    ][category]
    assert (row['tp'], row['fp'], row['fn']) == (number - 1, int(share < 0.5), 0)


def test_void_does_not_count_in_the_union(real, tmp_path):
    """Spreading over unlabelled pixels costs nothing, over another segment it does."""
    _, data, ids = real
    image, segment, number = a_thing(data)
    free = ids[image] == 0
    if not free.any():
        ids_other = next(i for i in ids if (ids[i] == 0).any())
        pytest.skip(f'no unlabelled pixel in image {image} (but in {ids_other})')
    ids[image][free] = segment['id']
    row = real_quality(real, tmp_path, ids, plain(data))['per_class'][segment['category_id']]
    assert row['pq'] == 1 and row['tp'] == number


# -------------------------------------------------------------------------------------- bad input


def change_png(folder: Path, change) -> None:
    path = folder / 'panoptic_toy' / '000.png'
    cv2.imwrite(str(path), change(cv2.imread(str(path))))


def change_json(folder: Path, change) -> None:
    path = folder / 'panoptic_toy.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def first(data: dict) -> dict:
    return data['annotations'][0]['segments_info'][0]


BAD = {
    'id of the PNG not listed': (
        change_json,
        lambda d: d['annotations'][0]['segments_info'].pop(),
        '000.png.* segment id',
    ),
    'listed id not in the PNG': (
        change_json,
        lambda d: d['annotations'][0]['segments_info'].append(first(d) | dict(id=77)),
        '000.png.*no pixel.* 77',
    ),
    'other size': (change_png, lambda i: i[:-2], '000.png is 30x22 pixels, but .*30x24'),
    'grey PNG': (change_png, lambda i: i[..., 0], '000.png.*grey'),
    'id listed twice': (
        change_json,
        lambda d: d['annotations'][0]['segments_info'].append(first(d)),
        'toy.json: image 5 has the segment id 1 twice',
    ),
    'id too large': (
        change_json,
        lambda d: first(d).update(id=2**24),
        'toy.json.*segment id 16777216',
    ),
    'unknown category': (
        change_json,
        lambda d: first(d).update(category_id=99),
        'toy.json.*category_id 99',
    ),
    'no isthing': (
        change_json,
        lambda d: d['categories'][1].pop('isthing'),
        "toy.json: category 'dog'.*isth",
    ),
    'instances': (
        change_json,
        lambda d: d.update(annotations=[dict(image_id=5, bbox=[])]),
        'no panoptic',
    ),
    'no area': (change_json, lambda d: first(d).update(area=0), 'toy.json: image 5.* has area 0'),
    'no categories': (change_json, lambda d: d.update(categories=[]), "toy.json.*'categories'"),
    'other classes': (
        change_json,
        lambda d: [c.update(name=f'a {c["name"]}') for c in d['categories']],
        'toy.json: none of the classes',
    ),
    'another image': (
        change_json,
        lambda d: d['annotations'][0].update(image_id=1),
        'toy.json: no annotation of',
    ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_ground_truth(tmp_path, case):
    ids = np.ones(SIZE, np.int64)
    ids[:, 12:] = 2
    listed = [dict(id=1, category_id=17, iscrowd=0), dict(id=2, category_id=3, iscrowd=0)]
    ann_file = write_truth(tmp_path, [(ids, listed)])
    good = [sample(5, ids, listed)]
    assert metric_of(ann_file, good).evaluate(1)['coco_panoptic/PQ'] == 100
    where, change, message = BAD[case]
    where(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        metric_of(ann_file, good)
    assert '\n' not in str(caught.value)


def test_bad_predictions(tmp_path):
    images = chance_images(np.random.default_rng(3), 4)
    ann_file = write_truth(tmp_path, images)
    metric = metric_of(ann_file, [])
    for value, message in ((5, 'label 5 is none of 4 classes'), (-1, 'value -1')):
        one = dict(img_id=5, pred_panoptic_seg=dict(sem_seg=np.full((1, *SIZE), value)))
        with pytest.raises(ConfigError, match=f'image 5: .*{message}'):
            metric.process({}, [one])
    with pytest.raises(ConfigError, match='gives no pred_panoptic_seg'):
        metric.process({}, [dict(img_id=5)])
    with pytest.raises(ConfigError, match='format_only needs outfile_prefix'):
        CocoPanopticMetric(format_only=True)
    with pytest.raises(DataError, match='cannot read panoptic annotation file'):
        CocoPanopticMetric(str(tmp_path / 'none.json'))
    with pytest.raises(DataError, match='absent: no such folder'):
        CocoPanopticMetric(str(ann_file), seg_prefix=str(tmp_path / 'absent'))
    (tmp_path / 'some.json').write_text(json.dumps(dict(annotations=[])))
    (tmp_path / 'some').mkdir()
    with pytest.raises(DataError, match='no prediction for 4 of 4 images'):
        evaluate_panoptic_files(str(ann_file), str(tmp_path / 'some.json'))


def test_format_only_needs_no_annotations(tmp_path):
    """A test set: images and categories alone."""
    (tmp_path / 'test-dev.json').write_text(
        json.dumps(dict(images=[dict(id=5)], categories=CATEGORIES))
    )
    ids = np.ones(SIZE, np.int64)
    one = [sample(5, ids, [dict(id=1, category_id=18)])]
    prefix = str(tmp_path / 'out')
    for ann_file, category in ((tmp_path / 'test-dev.json', 18), (None, 1)):
        metric = metric_of(ann_file, one, format_only=True, outfile_prefix=prefix)
        assert metric.evaluate(1) == {}
        (record,) = json.loads((tmp_path / 'out.panoptic.json').read_text())['annotations']
        assert record['file_name'] == '5.png' and (tmp_path / 'out.panoptic' / '5.png').exists()
        segment = dict(id=1, category_id=category, isthing=1, area=ids.size)
        assert record['segments_info'] == [segment]


# ------------------------------------------------------------------------------------ map codings


def test_colours_and_ids():
    ids = np.array([[0, 255, 256], [65536, MAX_ID, 1_234_567]])
    rgb = ids_to_rgb(ids)
    assert rgb[0, 2].tolist() == [0, 1, 0] and rgb[1, 0].tolist() == [0, 0, 1]
    assert np.array_equal(rgb_to_ids(rgb), ids)
    for wrong in (-1, MAX_ID + 1):
        with pytest.raises(ValueError, match='a colour holds'):
            ids_to_rgb(np.array([wrong]))


@pytest.mark.parametrize('kind', [np.asarray, torch.as_tensor])
def test_segments_of_a_map(kind):
    sem_seg = np.array([[[2, 2, 4, 1001], [2, 0, 255, 1001], [3, 70_000_001, 4, 1001]]])
    found = segments(kind(sem_seg), num_classes=4, num_things=2)
    assert found == [
        dict(id=0, label=0, instance=0, isthing=True, area=1),
        dict(id=2, label=2, instance=0, isthing=False, area=3),
        dict(id=3, label=3, instance=0, isthing=False, area=1),
        dict(id=1001, label=1, instance=1, isthing=True, area=3),
        dict(id=70_000_001, label=1, instance=70_000, isthing=True, area=1),
    ]
    assert segments(kind(sem_seg[:, :, :0]), num_classes=4) == []
    values, areas = values_of(kind(sem_seg % 1000))
    assert values.tolist() == [0, 1, 2, 3, 4, 255] and areas.sum() == 12


# ---------------------------------------------------------------------------------- two processes

DISTRIBUTED = """
import sys
import torch
import numpy as np
from test_eval_panoptic import chance_images, metric_of, sample
torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
images = chance_images(np.random.default_rng(10), 7)
samples = [sample(i + 5, *image[2:]) for i, image in enumerate(images)]
order = [0, 1, 2, 3, 4, 5, 6, 0]  # the sampler pads
metric = metric_of(sys.argv[1], [samples[i] for i in order[rank::2]], outfile_prefix=sys.argv[2])
values = metric.evaluate(7)
open(f'{sys.argv[2]}.{rank}', 'w').write(values['coco_panoptic/PQ'].hex())
torch.distributed.barrier()
from mmdet_r2.engine import shut_down
shut_down()
"""


def test_two_processes(tmp_path, repo):
    images = chance_images(np.random.default_rng(10), 7)
    ann_file = write_truth(tmp_path, images)
    samples = [sample(i + 5, *image[2:]) for i, image in enumerate(images)]
    alone = metric_of(ann_file, samples).evaluate(7)['coco_panoptic/PQ']
    script = tmp_path / 'run.py'
    script.write_text(DISTRIBUTED)
    command = [python(), '-m', 'torch.distributed.run', '--nproc-per-node=2']
    command += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0']
    command += [str(script), str(ann_file), str(tmp_path / 'out')]
    environment = os.environ | {'PYTHONPATH': f'{repo}:{repo / "tests"}', 'OMP_NUM_THREADS': '1'}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=repo, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for rank in (0, 1):
        assert (tmp_path / f'out.{rank}').read_text() == alone.hex()
    written = json.loads((tmp_path / 'out.panoptic.json').read_text())
    assert len(written['annotations']) == 7
    found = evaluate_panoptic_files(str(ann_file), str(tmp_path / 'out.panoptic.json'))
    assert 100 * found['All']['pq'] == alone


# ----------------------------------------------------------------------------- pictures and tools

RED, GREEN, BLUE, GREY = (250, 10, 20), (30, 240, 50), (20, 30, 240), (90, 90, 90)


def drawn(sem_seg: np.ndarray, tmp_path: Path, truth: np.ndarray | None = None) -> np.ndarray:
    """The drawing (H, W, 3) of a map on black."""
    found = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.from_numpy(sem_seg)[None]))
    if truth is not None:
        found.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(truth % INSTANCE_OFFSET)[None])
        masks = np.stack([truth == v for v in np.unique(truth) if v >= INSTANCE_OFFSET])
        labels = [int(v % INSTANCE_OFFSET) for v in np.unique(truth) if v >= INSTANCE_OFFSET]
        found.gt_instances = InstanceData(
            labels=torch.tensor(labels), masks=BitmapMasks(masks.astype(np.uint8), *sem_seg.shape)
        )
    visualizer = DetLocalVisualizer(alpha=1.0)
    visualizer.dataset_meta = META | dict(palette=[RED, GREEN, BLUE, GREY])
    image = np.zeros((*sem_seg.shape, 3), np.uint8)
    return visualizer.add_datasample('x', image, found, out_file=str(tmp_path / 'x.png'))


def test_drawing_of_a_map(tmp_path):
    sem_seg = np.full((200, 240), 3)  # sky
    sem_seg[100:, :80] = 1000  # two cats side by side
    sem_seg[100:, 80:160] = 2000
    sem_seg[100:, 160:] = 4  # no segment
    picture = drawn(sem_seg, tmp_path)
    sky, first, second, void = (picture[y, x] for y, x in ((8, 8), (195, 8), (195, 90), (150, 200)))
    assert sky.tolist() == [45, 45, 45]  # half of grey
    assert first.tolist() == [125, 5, 10]  # half of red
    assert second.tolist() != first.tolist() and np.abs(second.astype(int) - first).max() <= 25
    assert not void.any()
    assert picture[150, 80].max() > 1.5 * second.max()  # its outline in full colour
    text = (picture > 130).all(axis=-1)
    assert text[80:].any() and text[:99].any() and not text[100:, 165:].any()
    assert np.array_equal(cv2.imread(str(tmp_path / 'x.png'))[..., ::-1], picture)


def test_drawing_beside_the_truth(tmp_path):
    sem_seg = np.full((60, 80), 2)
    sem_seg[20:40, 20:40] = 1001
    truth = np.where(sem_seg == 1001, 1001, 255)
    picture = drawn(sem_seg, tmp_path, truth)
    assert picture.shape == (60, 160, 3)
    assert not picture[:20, :20].any() and picture[:5, 80:100].any()  # unlabelled; grass
    assert (picture[20:40, 20:40] == picture[20:40, 100:120]).all(axis=-1).mean() > 0.8
    assert drawn(np.full((60, 80), 4), tmp_path).max() == 0  # an empty map
    with pytest.raises(ValueError, match='panoptic map of shape'):
        draw_panoptic(np.zeros((5, 6, 3), np.uint8), sem_seg, colors=[RED])


@pytest.fixture(scope='module')
def toy(tmp_path_factory) -> dict[str, Path]:
    """Generated panoptic data, a Panoptic FPN in miniature and a checkpoint of chance weights."""
    root = tmp_path_factory.mktemp('toy')
    data = generate(root / 'data', num_train=1, num_val=4, size=64, empty_fraction=0)
    categories = json.loads((data / 'annotations' / 'panoptic_val.json').read_text())['categories']
    things = tuple(c['name'] for c in categories if c['isthing'])
    stuff = tuple(c['name'] for c in categories if not c['isthing'])
    numbers = dict(num_things_classes=len(things), num_stuff_classes=len(stuff))
    annotations = f'{data}/annotations/'
    options = {
        'model.backbone.depth': 18,
        'model.backbone.init_cfg': None,
        'model.neck.in_channels': [64, 128, 256, 512],
        'model.neck.out_channels': 32,
        'model.rpn_head.in_channels': 32,
        'model.rpn_head.feat_channels': 32,
        'model.roi_head.bbox_roi_extractor.out_channels': 32,
        'model.roi_head.bbox_head.in_channels': 32,
        'model.roi_head.bbox_head.fc_out_channels': 32,
        'model.roi_head.bbox_head.num_classes': len(things),
        'model.roi_head.mask_roi_extractor.out_channels': 32,
        'model.roi_head.mask_head.in_channels': 32,
        'model.roi_head.mask_head.conv_out_channels': 32,
        'model.roi_head.mask_head.num_classes': len(things),
        'model.semantic_head.in_channels': 32,
        'model.semantic_head.inner_channels': 32,
        **{f'model.semantic_head.{key}': value for key, value in numbers.items()},
        **{f'model.panoptic_fusion_head.{key}': value for key, value in numbers.items()},
        'model.test_cfg.rpn.nms_pre': 100,
        'model.test_cfg.rpn.max_per_img': 50,
        'model.test_cfg.rcnn.score_thr': 0.0,
        'model.test_cfg.rcnn.max_per_img': 20,
        'model.test_cfg.panoptic.stuff_area_limit': 16,
        'test_dataloader.dataset.data_root': f'{data}/',
        'test_dataloader.dataset.ann_file': 'annotations/panoptic_val.json',
        'test_dataloader.dataset.data_prefix': dict(img='val/', seg='annotations/panoptic_val/'),
        'test_dataloader.dataset.metainfo': dict(thing_classes=things, stuff_classes=stuff),
        'test_dataloader.dataset.pipeline.1.scale': (64, 64),
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
        'test_evaluator.ann_file': f'{annotations}panoptic_val.json',
        'test_evaluator.seg_prefix': f'{annotations}panoptic_val/',
    }
    config = load_config('panoptic_fpn_r50_fpn_1x_coco', options)
    config.dump(str(root / 'toy.py'))
    init_scope()
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=things + stuff))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'toy.pth')
    return dict(
        config=root / 'toy.py', checkpoint=root / 'toy.pth', data=data, categories=categories
    )


def test_all_metrics_in_one_pass(toy, tmp_path):
    values = run_test(
        toy['config'],
        toy['checkpoint'],
        metrics=['PQ', 'bbox', 'segm'],
        classwise=True,
        outfile_prefix=tmp_path / 'out',
        show_dir=tmp_path / 'drawn',
        work_dir=tmp_path,
    )
    assert {'coco_panoptic/PQ', 'coco_panoptic/SQ_st', 'coco/bbox_mAP', 'coco/segm_mAP'} <= set(
        values
    )
    report = json.loads((tmp_path / 'metrics.json').read_text())
    things = [c['name'] for c in toy['categories'] if c['isthing']]
    names = things + [c['name'] for c in toy['categories'] if not c['isthing']]
    assert list(report['PQ']['per_class']) == names
    assert list(report['bbox']['per_class']) == things
    ann_file = str(toy['data'] / 'annotations' / 'panoptic_val.json')
    found = evaluate_panoptic_files(ann_file, str(tmp_path / 'out.panoptic.json'))
    assert 100 * found['All']['pq'] == values['coco_panoptic/PQ']
    assert report['PQ']['all'] == found['All']
    picture = cv2.imread(str(next((tmp_path / 'drawn').iterdir())))
    assert picture.shape == (64, 128, 3)  # truth and prediction


@pytest.mark.parametrize(
    'metrics, kinds',
    [(['PQ'], ['CocoPanopticMetric']), (['segm'], ['CocoMetric'])],
)
def test_only_what_was_asked_for(toy, metrics, kinds):
    config = make_config(toy['config'], metrics=metrics)
    assert [e.type for e in config.test_evaluator] == kinds
    both = [dict(type='CocoPanopticMetric'), dict(type='CocoMetric', ann_file='own.json')]
    config = make_config(toy['config'], metrics=['bbox'], overrides=dict(test_evaluator=both))
    assert config.test_evaluator[0].ann_file == 'own.json'


def test_what_cannot_be_measured_is_said_first(toy):
    lonely = {'test_evaluator.ann_file': 'elsewhere/panoptic_x.json'}
    with pytest.raises(ConfigError, match=r'--eval segm is for CocoMetric, .*elsewhere/panoptic_x'):
        make_config(toy['config'], metrics=['PQ', 'segm'], overrides=lonely)
    with pytest.raises(ConfigError, match='--eval PQ is for CocoPanopticMetric'):
        make_config('mask_rcnn_r50_fpn_1x_coco', metrics=['PQ'])
    with pytest.raises(ConfigError, match="'PQ' needs panoptic maps, but MaskRCNN"):
        make_config(
            'mask_rcnn_r50_fpn_1x_coco',
            overrides=dict(test_evaluator=[dict(type='CocoPanopticMetric')]),
        )


def test_image_demo(toy, repo, tmp_path, monkeypatch):
    image = next(iter(sorted((toy['data'] / 'val').glob('*'))))
    line = ['x', image, toy['config'], toy['checkpoint'], '--out-dir', tmp_path, '--device', 'cpu']
    monkeypatch.setattr(sys, 'argv', [str(part) for part in line])
    runpy.run_path(str(repo / 'demo' / 'image_demo.py'), run_name='__main__')
    assert isinstance(json.loads((tmp_path / 'predictions.json').read_text()), list)
    panoptic = json.loads((tmp_path / 'panoptic.json').read_text())
    (record,) = panoptic['annotations']
    found = record['segments_info']
    one = inference_detector(
        init_detector(toy['config'], toy['checkpoint'], device='cpu'), str(image)
    )
    things = sum(c['isthing'] for c in toy['categories'])
    expected = segments(one.pred_panoptic_seg.sem_seg, len(toy['categories']), things)
    assert one.pred_panoptic_seg.segments_info == expected
    assert found and len(found) == len(expected)
    ids = read_segment_ids(str(tmp_path / 'panoptic' / record['file_name']))
    categories = {c['id']: c for c in panoptic['categories']}
    for own, other in zip(found, expected, strict=True):
        assert own['id'] == other['id'] and own['area'] == other['area'] == (ids == own['id']).sum()
        category = categories[own['category_id']]
        assert category['name'] == sample_classes(toy)[other['label']]
        assert category['isthing'] == other['isthing']
    # the official format: the tool for written results can read it
    written = read_panoptic(str(tmp_path / 'panoptic.json'))
    assert written.map_of(0, written.categories).index.shape == ids.shape
    assert (cv2.imread(str(tmp_path / 'vis' / image.name)) != cv2.imread(str(image))).any()


def test_tool_for_written_results(repo, tmp_path, monkeypatch, capsys):
    images = chance_images(np.random.default_rng(10), 4)
    ann_file = write_truth(tmp_path, images)
    samples = [sample(i + 5, *image[2:]) for i, image in enumerate(images)]
    metric = metric_of(ann_file, samples, outfile_prefix=str(tmp_path / 'out'))
    values = metric.evaluate(4)
    capsys.readouterr()
    script = str(repo / 'tools' / 'analysis_tools' / 'panoptic_quality.py')
    line = [script, str(ann_file), str(tmp_path / 'out.panoptic.json'), '--nproc', '1']
    monkeypatch.setattr(sys, 'argv', line)
    runpy.run_path(script, run_name='__main__')
    assert f'| All    | {values["coco_panoptic/PQ"]:.3f} |' in capsys.readouterr().out
    os.remove(tmp_path / 'out.panoptic' / '000.png')
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name='__main__')
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith('error: ') and '000.png' in message


def sample_classes(toy: dict) -> list[str]:
    return [c['name'] for kind in (1, 0) for c in toy['categories'] if c['isthing'] == kind]


def test_the_best_checkpoint_is_that_of_the_greatest_quality():
    hook = CheckpointHook(save_best='coco_panoptic/PQ')
    assert hook.rules == ['greater']
