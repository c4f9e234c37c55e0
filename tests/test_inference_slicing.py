"""Large images window by window: where windows lie, how findings are merged, and what is gained."""

import json
import runpy
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from toy_detector import CLASSES, lively, toy_config

from mmdet_r2.apis import coco_results, inference_detector, init_detector
from mmdet_r2.apis.slicing import slice_inference
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.inference.slicing import (
    merge_detections,
    place_mask,
    slice_windows,
    touches_cut,
)
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import encode_rle

SIZE = 1200


class BlobDetector(nn.Module):
    """Finds what is red (class 0) or green (1) and at least 4 x 4 pixels large in its input.

    A detector whose every finding is known beforehand: it sees nothing that the test pipeline has
    scaled too small, and boxes are exact up to that scale.
    """

    data_preprocessor = None

    def __init__(self, limit: int = 150) -> None:
        super().__init__()
        self.cfg = toy_config()
        pipeline = self.cfg.test_dataloader.dataset.pipeline
        pipeline[1].scale = (limit, limit)
        self.dataset_meta = dict(classes=CLASSES[:2])
        self.batches: list[int] = []

    def test_step(self, data: dict) -> list[DetDataSample]:
        self.batches.append(len(data['inputs']))
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            sample.pred_instances = self._find(image, sample)
        return list(data['data_samples'])

    def _find(self, image: Tensor, sample: DetDataSample) -> InstanceData:
        boxes, scores, labels, masks = [], [], [], []
        height, width = sample.ori_shape
        for label, channel in enumerate((2, 1)):  # BGR
            bright = (image[channel].numpy() > 128).astype(np.uint8)
            count, regions, stats, _ = cv2.connectedComponentsWithStats(bright)
            for i in range(1, count):
                x, y, w, h, area = stats[i]
                if min(w, h) < 4:
                    continue
                scale = np.array(sample.scale_factor)
                boxes.append([*(np.array([x, y]) / scale), *(np.array([x + w, y + h]) / scale)])
                # a part that a border cut off may well score best
                scores.append(0.9 - 0.0001 * area)
                labels.append(label)
                mask = cv2.resize((regions == i).astype(np.uint8), (width, height))
                masks.append(torch.from_numpy(mask > 0))
        order = np.argsort([-s for s in scores], kind='stable')
        return InstanceData(
            bboxes=torch.tensor(np.array(boxes).reshape(-1, 4)[order], dtype=torch.float32),
            scores=torch.tensor(scores)[order],
            labels=torch.tensor(labels, dtype=torch.long)[order],
            masks=torch.stack(masks)[order] if masks else torch.zeros(0, height, width).bool(),
        )


def scene() -> tuple[np.ndarray, list[dict]]:
    """A dark image with bright rectangles: many small ones, a large one; and its annotations."""
    image, annotations = np.full((SIZE, SIZE, 3), 10, np.uint8), []

    def add(x: int, y: int, w: int, h: int, label: int) -> None:
        image[y : y + h, x : x + w, 2 - label] = 250
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[y : y + h, x : x + w] = 1
        annotations.append(
            dict(
                id=len(annotations) + 1, image_id=0, category_id=label, bbox=[x, y, w, h],
                area=w * h, iscrowd=0, segmentation=coco_mask.encode(np.asfortranarray(mask)),
            )
        )  # fmt: skip

    rng = np.random.default_rng(0)
    for y in range(20, SIZE - 40, 90):
        for x in range(20, SIZE - 40, 90):
            if not 400 < x < 800 or not 400 < y < 800:
                w, h = rng.integers(16, 28, 2)
                add(x + int(rng.integers(0, 40)), y, int(w), int(h), int(rng.integers(0, 2)))
    add(470, 480, 280, 260, 0)
    return image, annotations


@pytest.fixture(scope='module')
def large() -> tuple[np.ndarray, COCO]:
    image, annotations = scene()
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=0, height=SIZE, width=SIZE)],
        categories=[dict(id=i, name=CLASSES[i]) for i in range(2)],
        annotations=annotations,
    )
    truth.createIndex()
    return image, truth


def average_precision(truth: COCO, sample: DetDataSample, kind: str) -> float:
    records = coco_results(sample, kind=kind)
    if not records:
        return 0.0
    evaluation = COCOeval(truth, truth.loadRes(records), kind)
    evaluation.params.maxDets = [1, 10, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


# ----------------------------------------------------------------------------------- the windows


@pytest.mark.parametrize('height, width', [(1000, 1500), (641, 640), (640, 2000), (5000, 700)])
@pytest.mark.parametrize('size', [640, (300, 500)])
@pytest.mark.parametrize('overlap', [0, 0.25, 0.5])
def test_windows_cover_the_image_and_overlap(height, width, size, overlap) -> None:
    windows = slice_windows(height, width, size, overlap)
    rows, columns = (size, size) if isinstance(size, int) else size
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(columns, width), min(rows, height))
        assert x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        covered[y1:y2, x1:x2] = True
    assert covered.all() and len(set(windows)) == len(windows)
    for axis, side in ((0, columns), (1, rows)):
        starts = sorted({window[axis] for window in windows})
        assert all(b - a <= side * (1 - overlap) + 1 for a, b in pairwise(starts))


def test_a_small_image_is_one_window() -> None:
    assert slice_windows(300, 200, 640) == [(0, 0, 200, 300)]
    for wrong in (dict(size=0), dict(size=10, overlap=1), dict(size=10, overlap=-0.1)):
        with pytest.raises(ConfigError, match='expected'):
            slice_windows(30, 20, **wrong)


def test_only_inner_borders_cut() -> None:
    boxes = np.array([[0, 0, 9, 9], [90, 20, 100, 30], [50, 0, 60, 10], [40, 40, 50, 50.0]])
    assert touches_cut(boxes, (0, 0, 100, 100), 100, 100).tolist() == [False] * 4
    assert touches_cut(boxes, (0, 0, 100, 100), 100, 200).tolist() == [False, True, False, False]
    moved = boxes + [100, 0, 100, 0]
    assert touches_cut(moved, (100, 0, 200, 100), 100, 200).tolist() == [True] + [False] * 3


def test_masks_are_placed_to_the_pixel() -> None:
    rng = np.random.default_rng(0)
    for window in ((0, 0, 40, 30), (7, 3, 20, 9), (30, 0, 40, 30), (0, 5, 40, 6), (0, 0, 1, 1)):
        x1, y1, x2, y2 = window
        for density in (0, 0.3, 1):
            part = rng.random((y2 - y1, x2 - x1)) < density
            whole = np.zeros((30, 40), np.uint8)
            whole[y1:y2, x1:x2] = part
            (rle,) = encode_rle(part[None])
            assert place_mask(rle, window, 30, 40) == coco_mask.encode(np.asfortranarray(whole))


# ----------------------------------------------------------------------------------- the merging


def merged(boxes, scores, windows, cut=None, labels=None, **options) -> list[int]:
    number = len(boxes)
    keep, left = merge_detections(
        np.array(boxes, float).reshape(-1, 4),
        np.array(scores, float),
        np.zeros(number, int) if labels is None else np.array(labels),
        np.array(windows, int),
        np.zeros(number, bool) if cut is None else np.array(cut),
        **options,
    )
    assert (np.diff(left) <= 0).all()
    return keep.tolist()


def test_the_rules_of_merging() -> None:
    twice = [[0, 0, 10, 10], [1, 0, 11, 10]]
    assert merged(twice, [0.5, 0.9], [0, 1]) == [1]
    assert merged(twice, [0.5, 0.9], [0, 0]) == [1, 0]  # the detector has judged these
    assert merged(twice, [0.5, 0.9], [0, 1], labels=[0, 1]) == [1, 0]
    assert merged(twice, [0.5, 0.9], [0, 1], labels=[0, 1], class_agnostic=True) == [1]
    assert merged(twice, [0.5, 0.9], [0, 1], threshold=0.9) == [1, 0]
    assert merged([], [], []) == []
    # a part that a border cut off: however well it scores, the whole is kept
    part = [[0, 0, 100, 100], [0, 0, 20, 100]]
    assert merged(part, [0.5, 0.9], [0, 1], [False, True], metric='ios') == [0]
    assert merged(part, [0.5, 0.9], [0, 1], [False, True], metric='iou') == [1, 0]
    assert merged(part, [0.5, 0.9], [0, 1], metric='ios') == [1]
    # boxes without area do no harm
    assert merged([[5, 5, 5, 5], [0, 0, 10, 10]], [0.9, 0.8], [0, 1], metric='ios') == [0, 1]
    for wrong in (dict(metric='giou'), dict(kind='wbf')):
        with pytest.raises(ConfigError, match='expected'):
            merged(twice, [0.5, 0.9], [0, 1], **wrong)


def test_many_detections_are_merged_in_seconds() -> None:
    rng, number = np.random.default_rng(0), 20_000
    windows = slice_windows(8000, 8000, 640)
    index = rng.integers(0, len(windows), number)
    corners = np.array(windows)[index, :2] + rng.uniform(0, 600, (number, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (number, 2))], 1)
    start = time.perf_counter()
    keep = merged(boxes, rng.random(number), index)
    assert time.perf_counter() - start < 15  # a comparison of each with all takes a minute
    assert number * 0.8 < len(keep) < number


def test_a_panoptic_model_is_told_that_it_gives_instances_only(monkeypatch) -> None:
    said = []
    monkeypatch.setattr('mmdet_r2.apis.slicing.print_log', lambda text, **_: said.append(text))
    detector = BlobDetector()
    detector.panoptic_fusion_head = None
    slice_inference(detector, np.zeros((50, 50, 3), np.uint8))
    assert len(said) == 1 and 'no panoptic map' in said[0]


def test_soft_merging_lowers_scores_by_the_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60.0]])
    options = dict(windows=np.array([0, 1, 1]), cut=np.zeros(3, bool), threshold=0.25)
    keep, scores = merge_detections(
        boxes, np.array([0.9, 0.8, 0.6]), np.zeros(3, int), kind='soft_nms', **options
    )
    assert keep.tolist() == [0, 2, 1] and np.allclose(scores, [0.9, 0.6, 0.8 * 2 / 3])


# ----------------------------------------------------------------------------------- detection


def test_slicing_finds_what_is_too_small_in_the_whole_image(large) -> None:
    image, truth = large
    detector = BlobDetector()
    at_once = inference_detector(detector, image)
    assert len(at_once.pred_instances) < 10  # the large one: most others are below 4 pixels
    detector.batches.clear()
    sliced = slice_inference(detector, image, 300, 0.25, batch_size=4)
    number = len(slice_windows(SIZE, SIZE, 300, 0.25))
    assert detector.batches == [4] * (number // 4) + ([number % 4] if number % 4 else [])
    both = slice_inference(detector, image, 300, 0.25, batch_size=4, whole_image=True)
    for kind in ('bbox', 'segm'):
        plain, windows, all_ = (
            average_precision(truth, sample, kind) for sample in (at_once, sliced, both)
        )
        assert plain < 0.5 < 0.8 < min(windows, all_), kind
    # every object once, and nothing else: parts that borders cut off are gone
    assert len(both.pred_instances) == len(truth.anns)
    assert both.pred_instances.scores.diff().max() <= 0


def test_intersection_over_union_leaves_parts(large) -> None:
    image, truth = large
    options = dict(slice_size=300, overlap=0.25, whole_image=True, merge_metric='iou')
    found = slice_inference(BlobDetector(), image, **options)
    assert len(found.pred_instances) > len(truth.anns)
    few = slice_inference(BlobDetector(), image, **options, max_per_img=5).pred_instances
    assert torch.equal(few.bboxes, found.pred_instances.bboxes[:5]) and len(few.masks) == 5


def test_one_window_is_plain_inference(tmp_path) -> None:
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    plain = inference_detector(model, image, masks='rle').pred_instances
    sample = slice_inference(model, tmp_path / 'a.png', whole_image=True)
    found = sample.pred_instances
    assert sample.img_path == str(tmp_path / 'a.png') and sample.ori_shape == (60, 80)
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        assert (
            found[key] == plain[key] if key == 'masks' else torch.equal(found[key], plain[key])
        ), key
    boxes_only = BlobDetector()
    found = slice_inference(boxes_only, np.zeros((400, 300, 3), np.uint8), 200).pred_instances
    assert len(found) == 0 and found.bboxes.shape == (0, 4) and found.masks == []


def test_bad_options_and_images(tmp_path) -> None:
    detector, image = BlobDetector(), np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(ConfigError, match="merge metric is 'giou'"):
        slice_inference(detector, image, merge_metric='giou')
    with pytest.raises(ConfigError, match="merge nms type is 'nms_match'"):
        slice_inference(detector, image, merge_nms_type='nms_match')
    with pytest.raises(DataError, match=r'none\.jpg'):
        slice_inference(detector, tmp_path / 'none.jpg')


# ------------------------------------------------------------------------------------- the script


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('large')
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'toy.pth')
    toy_config().dump(folder / 'toy.py')
    (folder / 'images').mkdir()
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'images' / 'a.png'), cv2.resize(small, (240, 180)))
    (folder / 'images' / 'b.png').write_bytes(b'')
    return dict(config=folder / 'toy.py', weights=folder / 'toy.pth', images=folder / 'images')


def run(monkeypatch, repo: Path, *args: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['large_image_demo.py', *map(str, args)])
    try:
        runpy.run_path(str(repo / 'demo' / 'large_image_demo.py'), run_name='__main__')
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_demo_takes_mmdetections_options(files, repo, tmp_path, monkeypatch, capsys) -> None:
    code = run(
        monkeypatch, repo, files['images'], files['config'], files['weights'], '--device', 'cpu',
        '--out-dir', tmp_path, '--patch-size', 96, '--patch-overlap-ratio', 0.3,
        '--merge-iou-thr', 0.3, '--merge-nms-type', 'nms', '--batch-size', 3, '--whole-image',
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert 'a.png (240 x 180)' in printed and 'skipped: cannot read image' in printed
    assert '1 images drawn' in printed and '1 could not be read' in printed
    records = json.loads((tmp_path / 'predictions.json').read_text())
    assert len(records) > 10 and {r['image_id'] for r in records} == {0}
    assert coco_mask.decode(records[0]['segmentation']).shape == (180, 240)
    drawn = cv2.imread(str(tmp_path / 'vis' / 'a.png'))
    assert (drawn != cv2.imread(str(files['images'] / 'a.png'))).any()


@pytest.mark.parametrize(
    'options, message',
    [
        (['--patch-size', '0'], 'slice size is (0, 0)'),
        (['--patch-size', '1', '2', '3'], '--patch-size takes one or two numbers, not 3'),
        (['--patch-overlap-ratio', '1'], 'overlap is 1.0'),
        (['--merge-nms-type', 'wbf'], "'wbf'"),
    ],
)
def test_the_demos_errors_are_one_line(
    files, repo, tmp_path, monkeypatch, capsys, options, message
) -> None:
    args = (files['config'], files['weights'], '--device', 'cpu', '--out-dir', tmp_path)
    assert run(monkeypatch, repo, files['images'] / 'a.png', *args, *options) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1] and list(tmp_path.iterdir()) == []
