"""Drawings, pixel by pixel."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

from mmdet_r2.errors import ConfigError
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks, encode_rle
from mmdet_r2.visualization import (
    DetLocalVisualizer,
    DetVisualizationHook,
    draw_instances,
    get_palette,
)

RED, GREEN = (250, 10, 20), (30, 240, 50)
META = dict(classes=('cat', 'dog'), palette=[RED, GREEN])


@pytest.fixture
def image():
    return np.full((100, 140, 3), (10, 60, 110), np.uint8)  # a bluish ground: R != B shows a swap


@pytest.fixture
def sample(image):
    masks = np.zeros((2, 100, 140), bool)
    masks[0, 30:60, 30:60] = True
    masks[1, 70:90, 100:130] = True
    found = InstanceData(
        bboxes=torch.tensor([[30.0, 30, 60, 60], [100.0, 70, 130, 90]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(masks),
    )
    truth = InstanceData(
        bboxes=torch.tensor([[32.0, 31, 62, 58]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(masks[:1].astype(np.uint8), 100, 140),
    )
    return DetDataSample(
        pred_instances=found, gt_instances=truth, metainfo=dict(img_id=1, ori_shape=(100, 140))
    )


def test_colours_are_rgb_in_memory_and_in_the_file(image, sample, tmp_path):
    visualizer = DetLocalVisualizer(line_width=1)
    visualizer.dataset_meta = META
    path = tmp_path / 'new' / 'out.png'
    drawing = visualizer.add_datasample(
        'x', image, sample, draw_gt=False, out_file=str(path), pred_score_thr=0
    )
    assert drawing.shape == image.shape
    assert tuple(drawing[45, 60]) == RED  # right edge of the cat's box
    assert tuple(drawing[80, 130]) == GREEN
    assert tuple(drawing[5, 5]) == (10, 60, 110)
    assert tuple(image[45, 60]) == (10, 60, 110)  # the input is left alone
    written = cv2.imread(str(path))  # BGR
    assert np.array_equal(written[..., ::-1], drawing)
    # inside the mask: 40 % of the class's colour
    expected = np.array((10, 60, 110)) * 0.6 + np.array(RED) * 0.4
    assert np.abs(drawing[50, 50] - expected).max() <= 1


def test_ground_truth_is_on_the_left(image, sample):
    visualizer = DetLocalVisualizer(line_width=1)
    visualizer.dataset_meta = META
    drawing = visualizer.add_datasample('x', image, sample)
    assert drawing.shape == (100, 280, 3)
    assert tuple(drawing[45, 62]) == GREEN  # the truth calls it a dog
    assert tuple(drawing[45, 140 + 60]) == RED
    assert tuple(drawing[80, 140 + 130]) == (10, 60, 110)  # a score of 0.1 is below the threshold
    assert visualizer.get_image().shape == drawing.shape


def test_masks_of_every_kind_look_the_same(image, sample):
    found = sample.pred_instances
    drawings = []
    kinds = (
        found.masks,
        found.masks.numpy(),
        encode_rle(found.masks),
        BitmapMasks(found.masks.numpy().astype(np.uint8), 100, 140),
    )
    for masks in kinds:
        instances = InstanceData(bboxes=found.bboxes, labels=found.labels, masks=masks)
        drawings.append(
            draw_instances(image, instances, classes=META['classes'], box_colors=META['palette'])
        )
    assert all(np.array_equal(drawings[0], d) for d in drawings[1:])
    assert not np.array_equal(drawings[0], image)


def test_higher_scores_lie_on_top(image):
    boxes = torch.tensor([[20.0, 20, 80, 80]]).repeat(2, 1)
    for scores, top in (([0.9, 0.5], RED), ([0.5, 0.9], GREEN)):
        instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 1]), scores=torch.tensor(scores)
        )
        drawing = draw_instances(image, instances, box_colors=META['palette'])
        assert tuple(drawing[80, 50]) == top


@pytest.mark.parametrize(
    'boxes',
    [
        np.zeros((0, 4)),
        [[-50, -50, 500, 500]],
        [[139, 99, 139, 99]],
        [[1e9, -1e9, float('nan'), float('inf')]],
        [[60, 60, 20, 20]],
    ],
    ids=['none', 'larger than the image', 'a point', 'not numbers', 'turned round'],
)
def test_odd_boxes_are_no_trouble(image, boxes):
    boxes = torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4)
    instances = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes)).long())
    drawing = draw_instances(
        image, instances, classes=('a long name of a class',), box_colors=[RED]
    )
    assert drawing.shape == image.shape and drawing.dtype == np.uint8


def test_palettes():
    assert get_palette('red', 3) == [(255, 0, 0)] * 3
    assert get_palette((1, 2, 3), 2) == [(1, 2, 3)] * 2
    assert get_palette('coco', 2) == [(220, 20, 60), (119, 11, 32)]
    assert get_palette('voc', 3) == [(128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert get_palette([RED], 3)[0] == RED and len(get_palette([RED], 3)) == 3
    state = np.random.get_state()[1].copy()
    assert get_palette(None, 5) == get_palette('random', 9)[:5]
    assert np.array_equal(state, np.random.get_state()[1])
    with pytest.raises(ConfigError, match='octarine'):
        get_palette('octarine', 1)


class Backend:
    """Stands for the visualizer's back-ends."""

    def __init__(self):
        self.images = {}

    def add_image(self, name, image, step=0):
        self.images[name, step] = image


@pytest.fixture
def run(tmp_path, monkeypatch):
    visualizer = DetLocalVisualizer(line_width=1)
    visualizer.dataset_meta = META
    visualizer._vis_backends['memory'] = backend = Backend()
    monkeypatch.setattr(Visualizer, 'get_current_instance', classmethod(lambda cls: visualizer))
    return SimpleNamespace(work_dir=str(tmp_path), timestamp='now', iter=0, backend=backend)


def test_hook_writes_every_test_image_under_its_name(run, image, sample, tmp_path):
    hook = DetVisualizationHook(draw=True, test_out_dir='drawn', score_thr=0.5)
    outputs = []
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / 'same.png'
        cv2.imwrite(str(path), image[..., ::-1])
        one = sample.clone()
        one.set_metainfo(dict(img_path=str(path), img_id=folder))
        outputs.append(one)
    hook.before_test(run)
    hook.after_test_iter(run, 0, None, outputs)
    drawn = tmp_path / 'now' / 'drawn'
    assert sorted(p.name for p in drawn.iterdir()) == ['same.png', 'same_b.png']
    drawing = cv2.imread(str(drawn / 'same.png'))[..., ::-1]
    assert drawing.shape == (100, 280, 3)
    assert tuple(drawing[5, 5]) == (10, 60, 110)
    assert tuple(drawing[45, 200]) == RED


def test_hook_draws_one_validation_image_per_interval(run, image, sample, tmp_path):
    path = tmp_path / 'i.png'
    cv2.imwrite(str(path), image[..., ::-1])
    sample.set_metainfo(dict(img_path=str(path)))
    hook = DetVisualizationHook(draw=True, interval=3)
    for i in range(6):
        hook.after_val_iter(run, i, None, [sample])
    assert list(run.backend.images) == [('val_img', 0), ('val_img', 3)]
    off = DetVisualizationHook()
    off.after_val_iter(run, 9, None, [sample])
    off.after_test_iter(run, 9, None, [sample])
    assert len(run.backend.images) == 2


def test_what_cannot_be_drawn_is_said(run, image, sample, tmp_path, monkeypatch):
    path = tmp_path / 'i.png'
    cv2.imwrite(str(path), image[..., ::-1])
    sample.set_metainfo(dict(img_path=str(path)))
    hook = DetVisualizationHook(draw=True, interval=1)
    small = sample.clone()
    small.gt_instances = InstanceData(
        labels=torch.zeros(1, dtype=torch.long), masks=torch.zeros((1, 5, 6), dtype=torch.bool)
    )
    with pytest.raises(ConfigError, match='LoadAnnotations'):
        hook.after_val_iter(run, 0, None, [small])
    monkeypatch.setattr(Visualizer, 'get_current_instance', classmethod(lambda cls: Visualizer()))
    with pytest.raises(ConfigError, match=r'visualizer\.type'):
        hook.after_val_iter(run, 0, None, [sample])


def test_drawing_is_quick():
    """A hundred masks in a large picture: matplotlib would need seconds."""
    import time

    image = np.zeros((800, 1200, 3), np.uint8)
    masks = np.zeros((100, 800, 1200), bool)
    boxes = []
    for i in range(100):
        x, y = 10 * i, 5 * i
        masks[i, y : y + 150, x : x + 150] = True
        boxes.append([x, y, x + 150, y + 150])
    instances = InstanceData(
        bboxes=torch.tensor(boxes).float(),
        labels=torch.arange(100) % 2,
        masks=torch.from_numpy(masks),
    )
    start = time.perf_counter()
    draw_instances(image, instances, box_colors=META['palette'])
    assert time.perf_counter() - start < 2
