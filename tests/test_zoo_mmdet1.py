"""mmdetection 1.x checkpoints: converted weights compute what the original ones did.

The reference reads the original file's tensors by their original names
(``original_arithmetic.py``); converted names alone prove nothing.
"""

import logging
from dataclasses import replace

import original_arithmetic as v1
import pytest
import torch
from published_files import (
    CLASSES,
    FULL,
    SMALL,
    SYSTEMS,
    config,
    detector,
    published,
    random,
    save,
    zeros,
)
from torch import Tensor, nn

from mmdet_r2.config import load_config
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import boxes_to_rois
from mmdet_r2.zoo import load_checkpoint, mmdet1

EVERY_SYSTEM = pytest.mark.parametrize('system', SYSTEMS)
SIZE = (96, 128)  # height, width of the image
STDS = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])


class Pair:
    """Weights as 1.x had them, and our model with the same after conversion."""

    def __init__(self, system: str) -> None:
        init_scope()
        self.system = system
        self.weights = random(detector(system, SMALL, version=1))
        cfg = config(system, SMALL, first_block_pool='always')
        cfg.model.test_cfg.rcnn.update(score_thr=0.1, max_per_img=-1)
        self.model: nn.Module = MODELS.build(cfg.model).eval()
        self.report = load_checkpoint(self.model, dict(self.weights), strict=True)
        self.image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.feats = self.model.extract_feat(self.image)
        self.stages = self.model.roi_head.stages
        cascade = len(self.stages) > 1
        self.box_names = [f'bbox_head.{k}' for k in range(3)] if cascade else ['bbox_head']
        self.mask_names = [name.replace('bbox', 'mask') for name in self.box_names]


@pytest.fixture(scope='module', params=SYSTEMS)
def pair(request) -> Pair:
    return Pair(request.param)


def proposals() -> Tensor:
    """(40, 4): boxes of all sizes, inside the image."""
    draw = torch.Generator().manual_seed(2)
    corner = torch.rand(40, 2, generator=draw) * torch.tensor([90.0, 60])
    side = torch.rand(40, 2, generator=draw) * torch.tensor([60.0, 50]) + 4
    return torch.cat([corner, (corner + side).minimum(torch.tensor([128.0, 96]))], 1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@torch.no_grad()
def test_features_and_proposal_logits_are_the_same(pair) -> None:
    feats = v1.res2net(pair.weights, pair.image, 'backbone.')
    for found, expected in zip(pair.model.backbone(pair.image), feats, strict=True):
        close(found, expected)
    pyramid = v1.fpn(pair.weights, feats)
    for found, expected in zip(pair.feats, pyramid, strict=True):
        close(found, expected)
    scores, deltas = pair.model.rpn_head(pair.feats)
    for i, feat in enumerate(pyramid):
        expected_scores, expected_deltas = v1.rpn(pair.weights, feat)
        close(scores[i], expected_scores)
        close(deltas[i], expected_deltas)


@torch.no_grad()
def test_class_scores_and_deltas_are_the_same(pair) -> None:
    x = torch.randn(20, SMALL.channels, 7, 7)
    for stage, name in zip(pair.stages, pair.box_names, strict=True):
        logits, deltas = v1.box_head(pair.weights, name, x)
        output = stage.box_head(x)
        close(output.logits.softmax(1)[:, :-1], logits.softmax(1)[:, 1:])
        close(output.logits.softmax(1)[:, -1], logits.softmax(1)[:, 0])
        assert len(logits.argmax(1).unique()) > 2, 'one class wins everywhere: a weak test'
        if deltas.shape[1] > 1:
            deltas = deltas[:, 1:]  # without the background's
            assert deltas.shape[1] == SMALL.classes
        close(output.deltas, deltas.flatten(1))


@torch.no_grad()
def test_masks_and_semantics_are_the_same(pair) -> None:
    if not pair.model.with_mask:
        pytest.skip('a system without masks')
    x = torch.randn(4, SMALL.channels, 14, 14)
    found = pair.model.roi_head.mask_logits(pair.stages, x, None)
    before = None
    for logits, name in zip(found, pair.mask_names, strict=True):
        flow = before if pair.system == 'htc' else None
        expected, before = v1.mask_head(pair.weights, name, x, flow)
        close(logits, expected[:, 1:])
    if pair.system == 'htc':
        found = pair.model.roi_head.semantic_head(pair.feats)
        for ours, expected in zip(found, v1.semantic_head(pair.weights, list(pair.feats))):
            close(ours, expected)


@torch.no_grad()
def test_detections_are_the_same_from_proposals_to_masks(pair) -> None:
    """Scores, labels, boxes and masks of given proposals, with 1.x's labels counted from 1."""
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
    (found,) = pair.model.roi_head.predict(pair.feats, [proposals()], [sample], rescale=False)
    boxes, scores, labels = reference_detections(pair)
    assert len(boxes) > 5 and len(labels.unique()) > 1
    order, expected = found.scores.argsort(descending=True), scores.argsort(descending=True)
    close(found.scores[order], scores[expected])
    assert (found.labels[order] + 1).tolist() == labels[expected].tolist()
    torch.testing.assert_close(found.boxes[order], boxes[expected], rtol=1e-4, atol=1e-2)
    if pair.model.with_mask:
        (probs,) = pair.model.roi_head.segment(
            pair.feats, [boxes[expected]], [labels[expected] - 1]
        )
        close(probs, reference_masks(pair, boxes[expected], labels[expected]))


def box_features(pair: Pair, stage, rois: Tensor, size: str) -> Tensor:
    """Pooled from the pyramid, plus HTC's semantic features; pooling is not the weights' affair."""
    extractor = stage.box_extractor if size == 'box' else stage.mask_extractor
    x = extractor(pair.feats[:4], rois)
    if pair.system != 'htc':
        return x
    _, embedding = v1.semantic_head(pair.weights, list(pair.feats))
    pooled = pair.model.roi_head.semantic_roi_extractor((embedding,), rois)
    return x + torch.nn.functional.adaptive_avg_pool2d(pooled, x.shape[-2:])


def reference_detections(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4), scores (N,), labels (N,) from 1 to K."""
    boxes, logits = proposals(), []
    for k, (stage, name) in enumerate(zip(pair.stages, pair.box_names)):
        rois = boxes_to_rois([boxes])
        one, deltas = v1.box_head(pair.weights, name, box_features(pair, stage, rois, 'box'))
        logits.append(one)
        if k < len(pair.stages) - 1:
            boxes = v1.decode(boxes, deltas[:, 0], STDS[k], SIZE)
    scores = (sum(logits) / len(logits)).softmax(1)
    kept = []
    for label in range(1, SMALL.classes + 1):
        (rows,) = (scores[:, label] > 0.1).nonzero(as_tuple=True)
        block = label if deltas.shape[1] > 1 else 0
        own = v1.decode(boxes[rows], deltas[rows, block], STDS[len(logits) - 1], SIZE)
        keep = v1.suppress(own, scores[rows, label], 0.5)
        kept.append((own[keep], scores[rows, label][keep], torch.full((len(keep),), label)))
    return tuple(torch.cat(part) for part in zip(*kept))


def reference_masks(pair: Pair, boxes: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (N, 28, 28) of each box's class, averaged over the heads."""
    probs, before = [], None
    for stage, name in zip(pair.stages, pair.mask_names):
        x = box_features(pair, stage, boxes_to_rois([boxes]), 'mask')
        flow = before if pair.system == 'htc' else None
        logits, before = v1.mask_head(pair.weights, name, x, flow)
        probs.append(logits[torch.arange(len(labels)), labels].sigmoid())
    return sum(probs) / len(probs)


# ------------------------------------------------------------------------------- reports


@pytest.mark.parametrize('pool', ['always', 'strided'])
def test_the_report_names_the_layout_and_the_arithmetic_that_differs(
    pair, pool, monkeypatch
) -> None:
    model = pair.model
    if pool == 'strided':
        model = MODELS.build(config(pair.system, SMALL).model)
    lines = []
    monkeypatch.setattr(
        'mmengine.logging.print_log', lambda text, logger, level: lines.append((level, text))
    )
    report = load_checkpoint(model, dict(pair.weights))
    total = report.total
    assert str(report) == (
        f"loaded {total}/{total} tensors (100 % of weights) from the layout 'mmdetection 1.x'"
    )
    assert [level for level, _ in lines] == [logging.INFO, logging.WARNING]
    note = lines[1][1]
    assert '\n' not in note and len(note) < 500
    for part in ('mmdetection 1.x', 'aligned=False', 'as in this model'):
        assert part in note
    assert ("backbone.first_block_pool='always'" in note) == (pool == 'strided')


EXACT = '; use the config {}_rcnn_r50_fpn_1x_coco_v1_exact (configs/legacy_1.x)'


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
@pytest.mark.parametrize('family', ['faster', 'mask'])
def test_the_config_with_1xs_arithmetic_is_named_where_the_model_has_another(family) -> None:
    """And nothing is said where it has that of 1.x."""
    size = replace(FULL, depth=50)
    weights = zeros(detector(f'{family}_rcnn', size, version=1, backbone='resnet'))
    notes = {}
    for name in (
        f'{family}_rcnn_r50_fpn_1x_coco',
        f'{family}_rcnn_r50_fpn_1x_coco_v1',
        f'{family}_rcnn_r50_fpn_1x_coco_v1_exact',
        'mask_rcnn_r50_fpn_maskrcnnbench_2x_coco',
    ):
        cfg = load_config(name)
        cfg.model.backbone.init_cfg = None
        init_scope()
        with torch.device('meta'):
            notes[name] = load_checkpoint(MODELS.build(cfg.model), weights).note
    today, near, exact, bench = notes.values()
    assert 'as in this model, boxes shift by about a pixel' in today
    assert 'decodes boxes half a pixel larger' in near and 'unaligned' not in near
    assert "this model has maskrcnn-benchmark's arithmetic" in bench
    assert all(text.endswith(EXACT.format(family)) for text in (today, near, bench))
    assert exact == ''


def test_another_backbone_gets_the_nearest_config_of_1x() -> None:
    weights = random(detector('cascade_mask_rcnn', SMALL, version=1))
    note = mmdet1.note(weights)
    assert note.endswith(
        '; use a config like cascade_mask_rcnn_r50_fpn_1x_coco_v1_exact (configs/legacy_1.x) with '
        'its res2net50_v1b_26w_4s'
    )


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
@EVERY_SYSTEM
def test_a_file_of_full_size_fits_its_config_exactly(system, tmp_path) -> None:
    names = tuple(name.replace(' ', '_') for name in CLASSES)
    weights = zeros(detector(system, FULL, version=1))
    path = save(published(weights, '1.1.0+b1f97b6', names, training=True), tmp_path / 'a.pth')
    init_scope()
    with torch.device('meta'):
        model = MODELS.build(config(system).model)
    report = load_checkpoint(model, path, strict=True)
    assert report.complete and report.layout == 'mmdetection 1.x'
    assert report.dataset_meta['classes'] == names
    assert str(report.found) == f'res2net101_v1b_26w_4s, {system}, 80 classes'


def test_plain_resnets_keep_their_backbone_names() -> None:
    weights = random(detector('mask_rcnn', SMALL, version=1, backbone='resnet'))
    cfg = config('mask_rcnn', SMALL)
    cfg.model.backbone = dict(type='ResNet', depth=50, base_channels=SMALL.planes)
    init_scope()
    model = MODELS.build(cfg.model)
    report = load_checkpoint(model, {f'module.{k}': v for k, v in weights.items()}, strict=True)
    assert report.layout == 'mmdetection 1.x' and 'first_block_pool' not in report.note
    key = 'backbone.layer2.0.downsample.0.weight'
    assert torch.equal(model.state_dict()[key], weights[key])


def test_files_from_the_development_of_2_0_have_the_background_last_already() -> None:
    """The names of 1.x, but 4 K rows of boxes and K masks: nothing moves."""
    new = random(detector('mask_rcnn', SMALL, version=2, backbone='resnet'))
    old = {key.removeprefix('roi_head.'): value for key, value in new.items()}
    assert mmdet1.matches(old) and mmdet1.note(old) == ''
    converted = mmdet1.convert(old, {})
    assert converted.keys() == new.keys()
    assert all(torch.equal(converted[key], value) for key, value in new.items())


def test_offsets_that_stood_beside_their_convolution() -> None:
    weights = {
        'backbone.layer2.0.conv2_offset.weight': torch.ones(18, 4, 3, 3),
        'backbone.layer2.1.conv2.conv_offset.bias': torch.ones(18),
        'bbox_head.fc_cls.weight': torch.zeros(3, 4),
    }
    assert {key for key in mmdet1.convert(weights, {}) if 'offset' in key} == {
        'backbone.layer2.0.conv2.conv_offset.weight',
        'backbone.layer2.1.conv2.conv_offset.bias',
    }


def test_other_files_are_not_taken_for_1x() -> None:
    one = torch.zeros(1)
    for keys in (
        ['roi_head.bbox_head.fc_cls.weight'],
        ['bbox_head.retina_cls.weight', 'bbox_head.cls_convs.0.conv.weight'],
        ['semantic_head.conv_logits.weight', 'roi_head.bbox_head.fc_cls.weight'],
        ['backbone.conv1.weight', 'backbone.stem.0.weight'],
        ['conv1.0.weight'],
    ):
        assert not mmdet1.matches(dict.fromkeys(keys, one)), keys
