"""What is handed to C code was checked before: run lengths and polygons from outside.

This file is also the child process of the fuzz test: a crash there is a failure here.
"""

import json
import random
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from mmdet_r2.datasets.transforms import LoadAnnotations
from mmdet_r2.errors import DataError
from mmdet_r2.evaluation import CocoMetric
from mmdet_r2.structures.masks import (
    MAX_MASK_PIXELS,
    MAX_POINTS,
    PolygonMasks,
    compressed,
    rle_problem,
    rle_problems,
    to_rle,
    usable_mask,
    usable_masks,
    usable_rles,
)

H, W = 13, 17


class Unsound(Exception):
    """By the plain decoder."""


def plain_decoder(rle, height, width):
    """(H, W) of 0 and 1, pixel by pixel, of run lengths as COCO describes them."""
    counts, runs = rle['counts'], []
    if isinstance(counts, list):
        if any(type(run) is not int for run in counts):
            raise Unsound
        runs = counts
    else:
        text = counts if isinstance(counts, str) else counts.decode('latin-1')
        value = characters = 0
        for character in text:
            code = ord(character) - ord('0')
            if not 0 <= code <= 63:
                raise Unsound
            value += (code % 32) * 32**characters
            characters += 1
            if code < 32:
                if characters > 6:
                    raise Unsound
                if code >= 16:
                    value -= 32**characters
                runs.append(value + (runs[-2] if len(runs) >= 3 else 0))
                value = characters = 0
        if characters:
            raise Unsound
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise Unsound
    pixels = [i % 2 for i, run in enumerate(runs) for _ in range(run)]
    return np.array(pixels, np.uint8).reshape(width, height).T


def encoded(runs):
    """Run lengths, whatever they are, in COCO's text."""
    text = []
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        while True:
            code = value & 31
            value >>= 5
            more = value != (-1 if code & 16 else 0)
            text.append(chr(48 + code + 32 * more))
            if not more:
                break
    return ''.join(text)


def fuzzed(number, seed):
    """Random and mutated run lengths of small images: (counts, height, width)."""
    rng = random.Random(seed)
    for _ in range(number):
        height, width = rng.choice([(H, W), (1, 1), (5, 3), (64, 64), (1, 40)])
        left, runs = height * width, []
        while left and len(runs) < 60:
            runs.append(rng.choice([rng.randint(0, left), 0, rng.randint(0, min(left, 9))]))
            left -= runs[-1]
        runs += [left] if left else []
        for _ in range(rng.choice([0, 0, 1, 2, 5])):
            place = rng.randrange(len(runs) + 1)
            odd = rng.choice([-1, 0, 1, 2**31, 2**32 + 3, -(2**31), 10**30, rng.randint(-99, 99)])
            if rng.random() < 0.5 and place < len(runs):
                runs[place] = odd
            else:
                runs.insert(place, odd)
        if rng.random() < 0.4:
            if rng.random() < 0.2:
                junk = rng.choice([None, 'a', 1.0, True, [], {}, float('nan'), b'1'])
                runs.insert(rng.randrange(len(runs) + 1), junk)
            yield runs, height, width
            continue
        text = list(encoded(runs))
        if rng.random() < 0.1:
            text = [chr(rng.randint(48, 111)) for _ in range(rng.randint(0, 40))]
        for _ in range(rng.choice([0, 0, 0, 1, 3, 10])):
            change, place = rng.randrange(4), rng.randrange(len(text) + 1)
            character = chr(rng.choice([rng.randint(48, 111), rng.randint(0, 255), 0, 0x65E5]))
            if change == 0:
                text.insert(place, character)
            elif change == 1 and text:
                text[place - 1] = character
            elif change == 2:
                del text[place:]
            else:
                text[place:place] = rng.choice(['oooooooo', 'P' * 30, 'n?', '0' * 50])
        counts = ''.join(text)
        yield counts if rng.random() < 0.5 else counts.encode('latin-1', 'ignore'), height, width


def fuzz(number, seed):
    """The child process: how many were sound."""
    sound = 0
    cases = [
        (dict(size=[height, width], counts=counts), height, width)
        for counts, height, width in fuzzed(number, seed)
    ]
    together = rle_problems([rle for rle, _, _ in cases], [shape for _, *shape in cases])
    for (rle, height, width), problem in zip(cases, together):
        assert problem == rle_problem(rle, height, width), rle
        try:
            expected = plain_decoder(rle, height, width)
        except Unsound:
            assert problem, rle
            assert usable_mask(rle, height, width) is None
            continue
        assert not problem, (rle, problem)
        sound += 1
        mask = compressed(usable_mask(rle, height, width), height, width)
        # memory that was used before
        dirt = [np.full((height, width), 77, np.uint8) for _ in range(9)]
        del dirt
        assert np.array_equal(coco_mask.decode(mask), expected), rle
        again = coco_mask.encode(np.asfortranarray(expected))
        assert coco_mask.area(mask) == expected.sum()
        assert coco_mask.toBbox(mask).tolist() == coco_mask.toBbox(again).tolist(), rle
        assert coco_mask.iou([mask], [again], [0])[0, 0] == (1 if expected.any() else 0), rle
    print(json.dumps(dict(sound=sound)))


@pytest.mark.parametrize('seed', [0, 1])
def test_ten_thousand_run_lengths_are_errors_or_what_a_plain_decoder_gives(seed):
    command = [sys.executable, __file__, '5000', str(seed)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    assert 500 < json.loads(child.stdout)['sound'] < 4000  # both kinds are tried


def masks_of(seed, number=200, shape=(37, 53)):
    rng = np.random.default_rng(seed)
    masks = (rng.random((number, *shape)) < rng.uniform(0, 1, (number, 1, 1))).astype(np.uint8)
    masks[0], masks[1] = 0, 1
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]


def test_what_pycocotools_writes_is_sound():
    rles = masks_of(0)
    assert not any(rle_problems(rles, [(37, 53)] * len(rles)))
    assert usable_rles(rles, [(37, 53)] * len(rles)) == rles  # untouched
    assert all(rle_problems(rles, [(53, 37)] * len(rles)))


@pytest.mark.parametrize(
    'size',
    [
        [W, H],
        [H],
        [H, W, 1],
        None,
        'ab',
        [H, True],
        [float(H), W],
        [str(H), W],
        [H, 2**70],
        [-H, -W],
        {},
        17,
    ],
)
def test_sizes(size):
    assert rle_problem(dict(size=size, counts=[H * W]), H, W)
    assert rle_problem(dict(size=[H, W], counts=[H * W]), H, W) == ''
    assert rle_problem(dict(size=(np.int32(H), W), counts=[np.int64(H * W)]), H, W) == ''


@pytest.mark.parametrize('counts', [
    None, 5, {}, (H * W,), [True] * (H * W), [float(H * W)], [str(H * W)], [H * W, None], [[H * W]],
    [10**400], [H * W + 5, -5], [-1, H * W + 1], [], '', b'', [H * W, 1], [H * W - 1], '日本', 'P',
    "b'W6'", 'W6\0', b'W6\0', '\x00', bytearray(b'W6'), np.array([H * W]), 'o' * 10**6, 'é',
])  # fmt: skip
def test_counts(counts):
    rle = dict(size=[H, W], counts=counts)
    assert rle_problem(rle, H, W)
    assert len(rle_problem(rle, H, W)) < 200 and '\n' not in rle_problem(rle, H, W)
    assert usable_mask(rle, H, W) is None
    with pytest.raises(DataError):
        to_rle(rle, H, W)


@pytest.mark.parametrize('rle', [None, 'text', [1], 5, {}, dict(size=[H, W]), dict(counts=[H * W])])
def test_what_is_no_run_lengths(rle):
    assert rle_problem(rle, H, W)


def test_images_too_large_for_pycocotools():
    side = int(MAX_MASK_PIXELS**0.5) + 1
    assert rle_problem(dict(size=[side, side], counts=[side * side]), side, side)
    assert usable_mask([[0, 0, 9, 0, 9, 9]], side, side) is None


def test_many_run_lengths_do_not_disturb_each_other():
    """One by one and all together, sound and unsound in any order, across a chunk's border."""
    rles = masks_of(1, 600)
    rng = random.Random(0)
    for rle in rng.sample(rles, 200):
        counts = bytearray(rle['counts'])
        where = rng.randrange(len(counts))
        counts[where:] = rng.choice([b'', b'o', b'\xff', b'P', bytes(counts[where:]) + b'1'])
        rle['counts'] = bytes(counts)
    rles[5]['counts'] = rles[17]['counts'] = b''
    together = rle_problems(rles, [(37, 53)] * 600)
    assert together == [rle_problem(rle, 37, 53) for rle in rles]
    assert 100 < sum(map(bool, together)) < 300


def test_run_lengths_among_polygons_keep_their_place():
    rle = dict(size=[H, W], counts=[3, 4, H * W - 7])
    masks = [None, rle, [[1, 1, 5, 1, 5, 5]], dict(rle, counts=[3]), 'x', dict(rle)]
    usable = usable_masks(masks, H, W)
    assert [mask is None for mask in usable] == [True, False, False, True, True, False]
    assert usable[1] == rle
    assert all(mask is None or isinstance(mask, list) for mask in usable_masks(masks, H, W, False))


def zigzag(points, side):
    x = np.arange(points) % 2 * side
    return np.stack([x, np.linspace(0, side, points)], axis=1).reshape(-1).tolist()


def test_polygons_above_the_limits():
    square = [1, 1, 9, 1, 9, 9, 1, 9]
    circle = np.linspace(0, 6.28, MAX_POINTS)
    outline = 50 + 40 * np.stack([np.cos(circle), np.sin(circle)], axis=1).reshape(-1)
    assert usable_mask([outline.tolist()], 100, 100)
    assert usable_mask([outline.tolist(), square], 100, 100) is None  # together
    assert usable_mask([[*outline.tolist(), 1, 1]], 100, 100) is None
    assert usable_mask([square] * (MAX_POINTS // 4 + 1), 100, 100) is None
    assert usable_mask([zigzag(1000, 9e5)], 100, 100) is None  # few points, a long way
    assert usable_mask([zigzag(1000, 900)], 1000, 1000)
    assert usable_mask([[-9e5, -9e5, 9e5, -9e5, 9e5, 9e5]], 100, 100)
    assert usable_mask([[10**400] * 6], 100, 100) is None


def test_scaled_up_polygons_take_no_more_memory():
    """An object far larger than its box: a training target of it is scaled by thousands."""
    far = [np.array([-9e5, -9e5, 9e5, -9e5, 9e5, 9e5, -9e5, 9e5])]
    masks = PolygonMasks([far], 50, 50)
    tracemalloc.start()
    cut = masks.crop_and_resize(np.array([[10.0, 10, 11, 11]]), (28, 28), np.array([0]))
    assert cut.to_ndarray().all()
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize('counts', ['01', [], [10, 5], '', 'oooo', [2**32 + 4096], [-1, 4097]])
def test_training_never_sees_memory_that_was_not_written(counts):
    mask = dict(size=[64, 64], counts=counts)
    instance = dict(bbox=[1, 1, 20, 20], bbox_label=0, ignore_flag=0, mask=mask)
    dirt = [np.full((8, 64, 64), 200 + i, np.uint8) for i in range(40)]
    del dirt
    results = LoadAnnotations(with_mask=True)(
        dict(instances=[dict(instance) for _ in range(8)], ori_shape=(64, 64))
    )
    assert results['gt_ignore_flags'].all()
    assert not results['gt_masks'].masks.any()


def annotation_file(tmp_path, segmentation):
    box = dict(bbox=[0, 0, 64, 64], area=400, iscrowd=0, image_id=1, category_id=1)
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=64, height=64)],
        categories=[dict(id=1, name='c')],
        annotations=[
            dict(box, id=1, segmentation=segmentation),
            dict(box, id=2, segmentation=[[0, 0, 30, 0, 30, 30, 0, 30]]),
        ],
    )
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    return str(tmp_path / 'ann.json')


def detected(masks, number=None):
    number = len(masks) if number is None else number
    return dict(
        img_id=1,
        ori_shape=(64, 64),
        pred_instances=dict(
            bboxes=torch.tensor([[0.0, 0, 64, 64]]).repeat(number, 1),
            scores=torch.linspace(0.9, 0.8, number),
            labels=torch.zeros(number, dtype=torch.int64),
            masks=masks,
        ),
    )


def square(side=30):
    mask = np.zeros((64, 64), np.uint8)
    mask[:side, :side] = 1
    return coco_mask.encode(np.asfortranarray(mask))


def metric_of(tmp_path, segmentation):
    metric = CocoMetric(ann_file=annotation_file(tmp_path, segmentation), metric=['segm'])
    metric.dataset_meta = dict(classes=('c',))
    return metric


@pytest.mark.timeout(60)
@pytest.mark.parametrize('counts', [[10, 5], '01', [10, 4086, -1, 1], [64 * 64 * 2]])
def test_evaluation_leaves_out_annotations_whose_run_lengths_are_unsound(tmp_path, counts):
    metric = metric_of(tmp_path, dict(size=[64, 64], counts=counts))
    metric.process({}, [detected([square()])])
    assert metric.evaluate(1)['coco/segm_mAP'] == pytest.approx(1)  # of the other annotation


WRONG_MASKS = [
    [dict(square(), counts=square()['counts'][:-1])],
    [dict(square(), size=[64, 63])],
    [dict(square(), counts=coco_mask.encode(np.asfortranarray(np.eye(3000, dtype=np.uint8))))],
    [dict(square(), counts=[10, 5])],
    [None],
    ['text'],
    [square(), square()],
    torch.zeros(1, 64, 63, dtype=torch.bool),
    torch.zeros(2, 64, 64, dtype=torch.bool),
    torch.zeros(64, 64, dtype=torch.bool),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize('masks', WRONG_MASKS)
def test_predicted_masks_are_looked_at_when_they_come(tmp_path, masks):
    metric = metric_of(tmp_path, [[0, 0, 30, 0, 30, 30]])
    with pytest.raises(DataError, match='image 1'):
        metric.process({}, [detected(masks, 1)])
    metric.process({}, [detected([square()]), detected([], 0)])


def test_runs_of_no_pixels_change_no_number(tmp_path):
    """pycocotools decodes them, but its overlaps and boxes are wrong from there on."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:30, :30] = 1
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = [0, *np.diff([0, *edges, flat.size]).tolist()]  # it begins inside
    rough = [0, 0, 0, runs[1] - 9, 0, 9, *runs[2:], 0, 0]
    for counts in (rough, encoded(rough)):
        metric = metric_of(tmp_path, dict(size=[64, 64], counts=counts))
        metric.process({}, [detected([dict(size=[64, 64], counts=counts), square()])])
        assert metric.evaluate(1)['coco/segm_mAP'] == pytest.approx(1)


def test_drawing_refuses_unsound_masks():
    from mmengine.structures import InstanceData

    from mmdet_r2.visualization.drawing import draw_instances

    image = np.zeros((64, 64, 3), np.uint8)
    for (mask,) in WRONG_MASKS[:4]:
        with pytest.raises(DataError):
            draw_instances(image, InstanceData(masks=[mask]), box_colors=[(255, 0, 0)])
    drawn = draw_instances(image, InstanceData(masks=[square()]), box_colors=[(255, 0, 0)])
    assert cv2.boundingRect(drawn.max(axis=2)) == (0, 0, 30, 30)


if __name__ == '__main__':
    fuzz(int(sys.argv[1]), int(sys.argv[2]))
