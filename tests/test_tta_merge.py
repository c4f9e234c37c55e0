"""Merging views: hand-computed boxes and masks, and mmdetection's own merging."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peer_tta
import pytest
import torch
from mmengine.dataset import pseudo_collate
from small_detector import build, cascade_config, small_config
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.postprocess import Detections
from mmdet_r2.models.preprocessor import DetDataPreprocessor
from mmdet_r2.models.tta import DetTTAModel, flip_boxes, flip_masks
from mmdet_r2.registry import MODELS, TRANSFORMS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import paste_masks

PEER = os.environ.get('MMDET_R2_PEER')
SHAPE = (80, 100)  # height, width


class Scripted(nn.Module):
    """A detector whose findings are given: by view and image, in the view's own orientation."""

    def __init__(self, found: list[list[list[tuple]]], probs: dict | None = None) -> None:
        super().__init__()
        self.data_preprocessor = DetDataPreprocessor()
        self.roi_head = SimpleNamespace(mask_threshold=0.5, mask_paste='aligned', offset=0)
        self.found, self.probs, self.with_mask = found, probs or {}, probs is not None
        self.detected: list[list[int]] = []
        self.segmented: list[list[Tensor]] = []

    def test_step(self, data: dict) -> None:
        raise AssertionError('masks of single views are of no use')

    def detect(
        self, inputs: Tensor, data_samples: list[DetDataSample], rescale: bool
    ) -> list[Detections]:
        assert rescale and len(inputs) == len(data_samples)
        view = self.found[len(self.detected)]
        self.detected.append([sample.img_id for sample in data_samples])
        rows = [torch.tensor(image, dtype=torch.float32).reshape(-1, 6) for image in view]
        return [Detections(r[:, :4], r[:, 4], r[:, 5].long()) for r in rows]

    def segment(self, inputs: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        view = len(self.segmented)
        self.segmented.append(boxes)
        return [
            torch.stack([self.probs[view, int(label)] for label in image])
            if len(image)
            else torch.zeros(0, 4, 4)
            for image in labels
        ]


def views_of(*ways: tuple[float, str | None], images: int = 1) -> dict:
    """Collated views: (scale, flip direction) of each."""
    inputs, samples = [], []
    for scale, direction in ways:
        height, width = (int(side * scale) for side in SHAPE)
        inputs.append([torch.zeros(3, height, width, dtype=torch.uint8)] * images)
        meta = dict(ori_shape=SHAPE, img_shape=(height, width), scale_factor=(scale, scale))
        meta.update(flip=direction is not None, flip_direction=direction)
        samples.append([DetDataSample(metainfo=dict(meta, img_id=i)) for i in range(images)])
    return dict(inputs=inputs, data_samples=samples)


def test_boxes_of_every_flip_meet_in_the_original_image() -> None:
    # one object at (10, 20, 50, 40), seen at slightly different places; one more in single views
    found = [
        [[(10, 20, 50, 40, 0.8, 0)]],
        [[(49, 20, 89, 40, 0.9, 0), (0, 70, 20, 80, 0.3, 1)]],  # x -> 100 - x
        [[(12, 40, 52, 60, 0.7, 0), (12, 40, 52, 60, 0.6, 1)]],  # y -> 80 - y
        [[(50, 40, 90, 60, 0.75, 0), (0, 0, 30, 10, 0.5, 1)]],  # both
    ]
    views = views_of((1, None), (2, 'horizontal'), (0.5, 'vertical'), (1, 'diagonal'))
    (sample,) = DetTTAModel(Scripted(found)).test_step(views)
    assert sample.pred_instances.bboxes.tolist() == [
        [11, 20, 51, 40],  # the best of four
        [12, 20, 52, 40],  # another class is not suppressed
        [70, 70, 100, 80],  # and suppresses (80, 70, 100, 80), IoU 2/3
    ]
    assert sample.pred_instances.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert sample.pred_instances.labels.tolist() == [0, 1, 1]
    assert sample.flip is False and sample.img_shape == SHAPE
    assert 'masks' not in sample.pred_instances


def test_options_of_the_merging() -> None:
    found = [[[(0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.5, 0)]], [[(0, 0, 10, 6, 0.8, 0)]]]

    def merged(**options: object) -> list[float]:
        model = DetTTAModel(Scripted(found), tta_cfg=options)
        (sample,) = model.test_step(views_of((1, None), (1, None)))
        return [round(score, 3) for score in sample.pred_instances.scores.tolist()]

    assert merged() == [0.9, 0.5]  # IoU 0.6
    assert merged(nms=dict(type='nms', iou_threshold=0.7)) == [0.9, 0.8, 0.5]
    assert merged(nms=dict(type='nms', iou_threshold=0.7), max_per_img=2) == [0.9, 0.8]
    soft = dict(type='soft_nms', iou_threshold=0.5, method='linear', min_score=0.1)
    assert merged(nms=soft) == [0.9, 0.5, 0.32]


def test_masks_are_turned_back_averaged_and_pasted_once() -> None:
    # a box of 4 x 4 pixels and masks of 4 x 4 cells: a pixel is a cell
    box = (10, 20, 14, 24)
    views = views_of((1, None), (2, 'horizontal'), (0.5, 'vertical'), (1, 'diagonal'))
    corner = torch.zeros(4, 4)
    corner[0, 1] = 0.9  # row 0, column 1 in the original image
    everywhere = torch.full((4, 4), 0.4)
    everywhere[3, 0] = 0.61
    probs = {
        (0, 0): corner,
        (1, 0): corner.flip(1),
        (2, 0): corner.flip(0),
        (3, 0): torch.zeros(4, 4),
        (0, 1): everywhere,
        (1, 1): everywhere.flip(1),
        (2, 1): everywhere.flip(0),
        (3, 1): everywhere.flip(0, 1) - 0.2,
    }
    model = Scripted([[[(*box, 0.9, 0), (*box, 0.8, 1)]], [[]], [[]], [[]]], probs)
    (sample,) = DetTTAModel(model).test_step(views)
    masks = sample.pred_instances.masks
    assert masks.shape == (2, *SHAPE) and masks.dtype == torch.bool
    # 3 x 0.9 / 4 = 0.675; 0.61 - 0.2 / 4 = 0.56; 0.4 - 0.05 = 0.35
    assert masks[0].nonzero().tolist() == [[20, 11]]
    assert masks[1].nonzero().tolist() == [[23, 10]]
    # where the branch was asked to look: network pixels of each view
    expected = [[10, 20, 14, 24], [172, 40, 180, 48], [5, 28, 7, 30], [86, 56, 90, 60]]
    assert [view[0][0].tolist() for view in model.segmented] == expected


def test_a_view_holds_all_images_of_the_batch() -> None:
    probs = {(view, 0): torch.full((4, 4), 0.9 - view / 2) for view in range(2)}
    found = [
        [[], [(10, 20, 14, 24, 0.9, 0)], []],
        [[], [], [(10, 20, 14, 24, 0.7, 0), (50, 20, 54, 24, 0.8, 0)]],
    ]
    model = Scripted(found, probs)
    samples = DetTTAModel(model).test_step(views_of((1, 'vertical'), (2, 'vertical'), images=3))
    assert model.detected == [[0, 1, 2]] * 2 and len(model.segmented) == 2
    assert [sample.img_id for sample in samples] == [0, 1, 2]
    assert [len(sample.pred_instances) for sample in samples] == [0, 1, 2]
    assert [int(s.pred_instances.masks.sum()) for s in samples] == [0, 16, 32]
    assert samples[0].pred_instances.masks.shape == (0, *SHAPE)
    assert samples[0].pred_instances.bboxes.shape == (0, 4)
    assert samples[1].pred_instances.bboxes.tolist() == [[10, 56, 14, 60]]


def test_without_any_detection_the_mask_branch_rests() -> None:
    model = Scripted([[[], []]] * 2, {})
    samples = DetTTAModel(model).test_step(views_of((1, None), (2, None), images=2))
    assert model.segmented == []
    for sample in samples:
        assert sample.pred_instances.masks.shape == (0, *SHAPE)
        assert sample.pred_instances.labels.dtype == torch.int64


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal', None])
def test_flips_undo_themselves_and_agree_with_the_pipeline(direction: str | None) -> None:
    boxes = torch.tensor([[1, 2, 30, 40], [5, 6, 7, 8]], dtype=torch.float32)
    assert torch.equal(flip_boxes(flip_boxes(boxes, SHAPE, direction), SHAPE, direction), boxes)
    masks = torch.rand(2, 3, 4)
    assert torch.equal(flip_masks(flip_masks(masks, direction), direction), masks)
    if direction is None:
        return
    init_scope()
    flip = TRANSFORMS.build(dict(type='RandomFlip', prob=1.0, direction=direction))
    picture = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    given = dict(img=picture, img_shape=SHAPE, gt_bboxes=boxes.numpy())
    flipped = flip(given)
    assert np.array_equal(flip_boxes(boxes, SHAPE, direction).numpy(), flipped['gt_bboxes'])
    back = flip_masks(torch.from_numpy(flipped['img'].copy()).permute(2, 0, 1), direction)
    assert np.array_equal(back.permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(flip=None), 'lacks flip,'),
        (dict(flip=True, flip_direction=None), 'lacks flip_direction'),
        (dict(scale_factor=None), 'lacks scale_factor'),
        (dict(ori_shape=None), 'lacks ori_shape'),
        (dict(flip=True, flip_direction='sideways'), "'sideways'; expected horizontal"),
    ],
    ids=['flip', 'direction', 'scale', 'shape', 'unknown direction'],
)
def test_views_that_do_not_tell_how_they_came_about(change: dict, message: str) -> None:
    views = views_of((2, None))
    meta = {**views['data_samples'][0][0].metainfo, **change, 'img_path': 'a.jpg'}
    meta = {key: value for key, value in meta.items() if value is not None}
    views['data_samples'][0][0] = DetDataSample(metainfo=meta)
    with pytest.raises(ConfigError, match=rf'a\.jpg: .*{message}'):
        DetTTAModel(Scripted([[[]]])).test_step(views)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(max_per_image=3), r'tta_model\.tta_cfg\.max_per_image: no such key'),
        (dict(nms=dict(type='nms', iou_thr=0.5)), r'tta_model\.tta_cfg\.nms=.*iou_threshold'),
        (dict(nms=dict(type='wbf')), r'expected type nms or soft_nms'),
    ],
)
def test_options_that_are_not(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetTTAModel(Scripted([]), tta_cfg=options)


def test_a_proposal_network_has_nothing_to_merge() -> None:
    model = Scripted([])
    model.roi_head = None
    with pytest.raises(ConfigError, match='proposes only'):
        DetTTAModel(model)


SYSTEMS = {
    'faster rcnn': small_config(mask=False),
    'mask rcnn': small_config(),
    'cascade rcnn': cascade_config(mask=False),
    'cascade mask rcnn': cascade_config(),
    'htc without semantics': cascade_config(htc=True),
    'htc': cascade_config(htc=True, semantic=True),
}


@pytest.mark.parametrize('system', SYSTEMS)
def test_every_system_in_one_view_and_in_three(system: str) -> None:
    detector = build(SYSTEMS[system]).eval()
    picture = torch.randint(0, 255, (3, *SHAPE), dtype=torch.uint8)
    ways = ((1, None), (1, 'horizontal'), (1, 'vertical'))
    views = views_of(*ways)
    views['inputs'] = [[picture], [picture.flip(-1)], [picture.flip(-2)]]
    one = {key: value[:1] for key, value in views.items()}
    (plain,) = detector.test_step(
        {key: value[0] for key, value in views_of(ways[0]).items()} | dict(inputs=[picture])
    )
    model = DetTTAModel(detector, tta_cfg=dict(max_per_img=15))
    (found,) = model.test_step(one)
    a, b = plain.pred_instances, found.pred_instances
    assert len(a) == len(b) == 10
    assert torch.equal(a.labels, b.labels) and torch.equal(a.scores, b.scores)
    assert torch.allclose(a.bboxes, b.bboxes, atol=1e-4)
    assert ('masks' in a) == ('masks' in b) == detector.with_mask
    (found,) = model.test_step(views)
    c = found.pred_instances
    assert len(c) == 15 and c.scores[0] >= a.scores[0]
    if not detector.with_mask:
        return
    assert (a.masks != b.masks).float().mean() < 1e-3 and a.masks.any()
    # what the average is of, computed from the detector's two halves
    probs = []
    for (_, direction), image in zip(ways, views['inputs'], strict=True):
        data = detector.data_preprocessor(dict(inputs=image))
        boxes = flip_boxes(c.bboxes, SHAPE, direction)
        (prob,) = detector.segment(data['inputs'], [boxes], [c.labels])
        probs.append(flip_masks(prob, direction))
    mean = torch.stack(probs).mean(0)
    assert torch.equal(c.masks, paste_masks(mean, c.bboxes, SHAPE)) and c.masks.any()


def _compare(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The same detections in the same order."""
    assert found.keys() == wanted.keys() and len(found) == 12
    for key, value in wanted.items():
        assert value.shape == found[key].shape and len(value) > 90, key
        if key.endswith('labels'):
            assert np.array_equal(found[key], value) and len(set(value.tolist())) > 1
        else:
            tolerance = 1e-5 if key.endswith('scores') else 1e-3
            assert np.allclose(found[key], value, atol=tolerance), key


def test_small_detectors_find_what_they_find_in_mmdetection(repo: Path) -> None:
    init_scope()
    found = peer_tta.merged(MODELS, TRANSFORMS, pseudo_collate)
    _compare(found, dict(np.load(repo / 'tests' / 'data' / 'tta.npz')))


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_stored_numbers_are_what_mmdetection_computes(repo: Path, tmp_path: Path) -> None:
    command = [PEER, '-W', 'ignore', str(repo / 'tests' / 'peer_tta.py'), str(tmp_path / 'a.npz')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = dict(np.load(tmp_path / 'a.npz'))
    _compare(fresh, dict(np.load(repo / 'tests' / 'data' / 'tta.npz')))
    init_scope()
    _compare(peer_tta.merged(MODELS, TRANSFORMS, pseudo_collate), fresh)
