"""Checkpoints of maskrcnn-benchmark: seven published systems name by name, and heads, features and
detections that are those of the original's arithmetic on the file as it was."""

import re
from collections import OrderedDict

import original_arithmetic as v1
import pytest
import torch
import torch.nn.functional as F
from golden import golden_shapes, save_training
from published_files import (
    SMALL,
    Named,
    Size,
    config,
    random,
    res2net,
    resnet,
    save,
    zeros,
)
from test_zoo_upgrade import run
from torch import Tensor, nn

from mmdet_r2.config import find_config, load_config
from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.boxes import boxes_to_rois
from mmdet_r2.zoo import load_checkpoint, read_checkpoint, upgrade
from mmdet_r2.zoo.identify import Architecture, guess_models
from mmdet_r2.zoo.layouts import LAYOUTS, detect
from mmdet_r2.zoo.maskrcnn_benchmark import DROPPED, convert, matches, note

pytestmark = pytest.mark.filterwarnings('ignore:.*which is a no-op')

# the seven systems: depth, splits and their width (0: a plain ResNet)
SYSTEMS = {
    'r50': (50, 0, 0),
    'r101': (101, 0, 0),
    'r2_50_48w2s': (50, 2, 48),
    'r2_50_26w4s': (50, 4, 26),
    'r2_50_18w6s': (50, 6, 18),
    'r2_50_14w8s': (50, 8, 14),
    'r2_101_26w4s': (101, 4, 26),
}
EVERY_SYSTEM = pytest.mark.parametrize('system', SYSTEMS)
CLASSES = SMALL.classes
SIZE = (96, 128)  # height, width of the image


# ------------------------------------------------------------------------------------------ files


def layer(name: str, *shape: int, outputs: int | None = None) -> Named:
    yield f'{name}.weight', shape
    yield f'{name}.bias', (shape[0] if outputs is None else outputs,)


def body(size: Size, scales: int, width: int) -> Named:
    """A backbone: the stem is a module of its own, and constant norms have no counters."""
    plain = resnet(size, False) if scales == 0 else res2net(size, '7x7', scales, width, False)
    for name, shape in plain:
        yield f'{"" if name.startswith("layer") else "stem."}{name}', shape


def detector(size: Size, scales: int = 4, width: int = 26, masks: bool = True) -> Named:
    """A Mask R-CNN (or Faster R-CNN) with FPN, as maskrcnn-benchmark saves it."""
    c, k = size.channels, size.classes + 1  # the background counts
    for name, shape in body(size, scales, width):
        yield f'backbone.body.{name}', shape
    for i in range(1, 5):
        yield from layer(f'backbone.fpn.fpn_inner{i}', c, size.planes * 2 ** (i + 1), 1, 1)
        yield from layer(f'backbone.fpn.fpn_layer{i}', c, c, 3, 3)
    for i in range(5):
        yield f'rpn.anchor_generator.cell_anchors.{i}', (3, 4)
    yield from layer('rpn.head.conv', c, c, 3, 3)
    yield from layer('rpn.head.cls_logits', 3, c, 1, 1)
    yield from layer('rpn.head.bbox_pred', 12, c, 1, 1)
    yield from layer('roi_heads.box.feature_extractor.fc6', size.hidden, c * 49)
    yield from layer('roi_heads.box.feature_extractor.fc7', size.hidden, size.hidden)
    yield from layer('roi_heads.box.predictor.cls_score', k, size.hidden)
    yield from layer('roi_heads.box.predictor.bbox_pred', 4 * k, size.hidden)
    if masks:
        for i in range(1, 5):
            yield from layer(f'roi_heads.mask.feature_extractor.mask_fcn{i}', c, c, 3, 3)
        yield from layer('roi_heads.mask.predictor.conv5_mask', c, c, 2, 2)
        yield from layer('roi_heads.mask.predictor.mask_fcn_logits', k, c, 1, 1)


def published(system: str) -> Named:
    depth, scales, width = SYSTEMS[system]
    return detector(Size(depth=depth), scales, width)


# random() scales layers by their names; these are maskrcnn-benchmark's
GAINS = {'predictor.cls_score.weight': 2.0, 'box.predictor.bbox_pred.weight': 0.3}


def small(**options) -> OrderedDict[str, Tensor]:
    weights = random(detector(SMALL, **options))
    for name, value in weights.items():
        for part, gain in (GAINS | {'rpn.head.bbox_pred.weight': 0.1}).items():
            if name.endswith(part):
                weights[name] = value * gain
    return weights


def numbered(system: str) -> OrderedDict[str, Tensor]:
    """Tensors that take no room: entry 7 is all sevens."""
    return OrderedDict(
        (name, torch.tensor(float(i)).expand(shape))
        for i, (name, shape) in enumerate(published(system))
    )


# ----------------------------------------------------------------------------------------- models


def legacy_backbone(scales: int = 4, width: int = 26) -> dict:
    norm = dict(type='FrozenBN', eps=0, requires_grad=False)
    if scales == 0:
        return dict(type='ResNet', style='caffe', norm_cfg=norm)
    return dict(
        type='Res2Net',
        scales=scales,
        base_width=width,
        style='caffe',
        deep_stem=False,
        avg_down=False,
        first_block_pool='always',
        norm_cfg=norm,
    )


def small_config(scales: int = 4, width: int = 26):
    """mmdetection's Mask R-CNN around the original's backbone."""
    cfg = config('mask_rcnn', SMALL)
    cfg.model.backbone = dict(
        legacy_backbone(scales, width), depth=SMALL.depth, base_channels=SMALL.planes
    )
    cfg.model.test_cfg.rcnn.update(score_thr=0.1, max_per_img=-1)
    return cfg


def build(model: dict, device: str = 'cpu') -> nn.Module:
    init_scope()
    with torch.device(device):
        built = MODELS.build(model)
    if 'data_preprocessor' in model:  # its numbers are looked at
        built.data_preprocessor = MODELS.build(model['data_preprocessor'])
    return built.eval()


# ------------------------------------------------------------------------------- names and shapes


def test_the_recorded_original_has_these_names() -> None:
    assert dict(published('r2_50_26w4s')) == golden_shapes('E')


@EVERY_SYSTEM
def test_every_tensor_gets_a_name_of_ours_or_is_an_anchor(system) -> None:
    source = numbered(system)
    assert matches(source) and detect(source).name == 'maskrcnn-benchmark'
    assert [layout.name for layout in LAYOUTS[:-1] if layout.matches(source)] == [
        'maskrcnn-benchmark'
    ]
    converted = convert(source, {})
    ours = re.compile(r'(backbone\.(conv1|bn1|layer\d)|neck\.(lateral|fpn)_convs|r(pn|oi)_head)\.')
    assert all(ours.match(name) for name in converted)
    dropped = [name for name in source if DROPPED.match(name)]
    assert dropped == [f'rpn.anchor_generator.cell_anchors.{i}' for i in range(5)]
    found = sorted(
        int(value.flatten()[0])
        for name, value in converted.items()
        if not name.endswith('num_batches_tracked')
    )
    expected = [i for i, name in enumerate(source) if name not in dropped]
    assert found == expected, 'a tensor was lost, or two got one name'


PLACES = {
    'backbone.body.stem.conv1.weight': 'backbone.conv1.weight',
    'backbone.body.stem.bn1.running_var': 'backbone.bn1.running_var',
    'backbone.body.layer1.0.downsample.0.weight': 'backbone.layer1.0.downsample.0.weight',
    'backbone.body.layer4.0.downsample.1.bias': 'backbone.layer4.0.downsample.1.bias',
    'backbone.body.layer3.5.conv1.weight': 'backbone.layer3.5.conv1.weight',
    'backbone.body.layer3.5.bn3.running_mean': 'backbone.layer3.5.bn3.running_mean',
    'backbone.fpn.fpn_inner1.weight': 'neck.lateral_convs.0.conv.weight',
    'backbone.fpn.fpn_inner4.bias': 'neck.lateral_convs.3.conv.bias',
    'backbone.fpn.fpn_layer2.weight': 'neck.fpn_convs.1.conv.weight',
    'rpn.head.conv.bias': 'rpn_head.rpn_conv.bias',
    'rpn.head.cls_logits.weight': 'rpn_head.rpn_cls.weight',
    'rpn.head.bbox_pred.weight': 'rpn_head.rpn_reg.weight',
    'roi_heads.box.feature_extractor.fc6.weight': 'roi_head.bbox_head.shared_fcs.0.weight',
    'roi_heads.box.feature_extractor.fc7.bias': 'roi_head.bbox_head.shared_fcs.1.bias',
    'roi_heads.box.predictor.cls_score.bias': 'roi_head.bbox_head.fc_cls.bias',
    'roi_heads.box.predictor.bbox_pred.weight': 'roi_head.bbox_head.fc_reg.weight',
    'roi_heads.mask.feature_extractor.mask_fcn1.weight': ('roi_head.mask_head.convs.0.conv.weight'),
    'roi_heads.mask.feature_extractor.mask_fcn4.bias': 'roi_head.mask_head.convs.3.conv.bias',
    'roi_heads.mask.predictor.conv5_mask.weight': 'roi_head.mask_head.upsample.weight',
    'roi_heads.mask.predictor.mask_fcn_logits.bias': 'roi_head.mask_head.conv_logits.bias',
}
OWN_PLACES = {
    'r101': {
        'backbone.body.layer3.22.conv2.weight': 'backbone.layer3.22.conv2.weight',
        'backbone.body.layer3.22.bn2.bias': 'backbone.layer3.22.bn2.bias',
    },
    'r2_50_14w8s': {
        'backbone.body.layer3.5.convs.6.weight': 'backbone.layer3.5.convs.6.weight',
        'backbone.body.layer3.5.bns.6.running_var': 'backbone.layer3.5.bns.6.running_var',
    },
}


@pytest.mark.parametrize('system', OWN_PLACES)
def test_every_kind_of_tensor_arrives_at_its_place(system) -> None:
    source = numbered(system)
    converted = convert(source, {})
    for theirs, ours in (PLACES | OWN_PLACES[system]).items():
        assert converted[ours].flatten()[0] == source[theirs].flatten()[0], theirs
    assert {value.item() for key, value in converted.items() if 'num_batches' in key} == {0}


@EVERY_SYSTEM
def test_a_file_of_full_size_fits_its_config_exactly(system, tmp_path) -> None:
    """Every name and shape, in the container that training wrote; the values take no room."""
    cfg = load_config(f'mask_rcnn_{system}_fpn_maskrcnnbench_2x_coco2014')
    cfg.model.backbone.init_cfg = None
    weights = OrderedDict((f'module.{k}', v) for k, v in zeros(published(system)).items())
    path = save_training(weights, tmp_path / 'model_final.pth')
    report = load_checkpoint(build(cfg.model, 'meta'), path, strict=True)
    assert report.complete and report.layout == 'maskrcnn-benchmark'
    assert report.note == '', 'the config has what weights do not say'
    depth, scales, width = SYSTEMS[system]
    backbone = f'res2net{depth}_{width}w_{scales}s' if scales else f'resnet{depth}'
    assert str(report.found) == str(report.expected) == f'{backbone}, mask_rcnn, 80 classes'


def test_containers_and_prefixes(tmp_path) -> None:
    weights = small()
    prefixed = OrderedDict((f'module.{key}', value) for key, value in weights.items())
    model = build(small_config().model)
    contents = (weights, prefixed, dict(model=weights), dict(model=prefixed, iteration=90000))
    for i, content in enumerate(contents):
        for value in model.state_dict().values():
            value.zero_()
        path = save(content, tmp_path / f'{i}.pth')
        assert load_checkpoint(model, path, strict=True).layout == 'maskrcnn-benchmark'
        for key, value in convert(weights, model.state_dict()).items():
            if not key.endswith('num_batches_tracked'):
                assert torch.equal(model.state_dict()[key], value), key
    some = OrderedDict(prefixed)
    some['rpn.head.conv.weight'] = some.pop('module.rpn.head.conv.weight')
    with pytest.raises(CheckpointError, match=r"names begin like 'module\.backbone"):
        load_checkpoint(model, some)


def test_norms_of_any_kind_take_constant_ones() -> None:
    weights = small()
    cfg = small_config()
    cfg.model.backbone.norm_cfg = dict(type='BN')
    model = build(cfg.model)
    model.backbone.bn1.num_batches_tracked.fill_(5)
    assert load_checkpoint(model, weights, strict=True).complete
    assert model.backbone.bn1.num_batches_tracked == 0
    assert torch.equal(model.backbone.bn1.weight, weights['backbone.body.stem.bn1.weight'])


# ------------------------------------------------------------------------------------------ heads


def test_the_background_moves_behind_the_classes() -> None:
    weights = numbered('r50')
    rows = torch.arange(81.0)
    weights['roi_heads.box.predictor.cls_score.bias'] = rows
    weights['roi_heads.box.predictor.bbox_pred.bias'] = rows.repeat_interleave(4)
    weights['roi_heads.mask.predictor.mask_fcn_logits.bias'] = rows
    converted = convert(weights, {})
    head = 'roi_head.bbox_head.'
    assert converted[f'{head}fc_cls.bias'].tolist() == [*range(1, 81), 0]
    assert converted[f'{head}fc_reg.bias'].tolist() == [i for i in range(1, 81) for _ in range(4)]
    assert converted['roi_head.mask_head.conv_logits.bias'].tolist() == [*range(1, 81)]
    assert converted[f'{head}fc_cls.weight'].shape == (81, 1024)
    assert converted[f'{head}fc_reg.weight'].shape == (320, 1024)
    assert converted['roi_head.mask_head.conv_logits.weight'].shape == (80, 256, 1, 1)


@pytest.mark.parametrize('classes', [1, 5])
def test_boxes_without_class_are_the_second_four_rows(classes) -> None:
    """One for the background, which is never used, and one for any object."""
    source = {
        'roi_heads.box.predictor.cls_score.bias': torch.zeros(classes + 1),
        'roi_heads.box.predictor.bbox_pred.bias': torch.arange(8.0),
    }
    converted = convert(source, {})
    assert converted['roi_head.bbox_head.fc_reg.bias'].tolist() == [4, 5, 6, 7]


# -------------------------------------------------- the original's arithmetic, by its own names


def norm(w: v1.Weights, name: str, x: Tensor) -> Tensor:
    """A constant scale and shift; nothing is added to the variance."""
    scale = w[f'{name}.weight'] / w[f'{name}.running_var'].sqrt()
    shift = w[f'{name}.bias'] - w[f'{name}.running_mean'] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def block(w: v1.Weights, p: str, x: Tensor, stride: int) -> Tensor:
    """The first 1x1 has the stride, and so the 3x3's input is small already."""
    first = f'{p}.downsample.0.weight' in w
    y = norm(w, f'{p}.bn1', v1.conv(w, f'{p}.conv1', x, stride)).relu()
    if f'{p}.conv2.weight' in w:
        y = norm(w, f'{p}.bn2', v1.conv(w, f'{p}.conv2', y)).relu()
    else:
        splits = y.split(w[f'{p}.convs.0.weight'].shape[1], 1)
        outs: list[Tensor] = []
        for j, split in enumerate(splits[:-1]):
            z = split if first or j == 0 else split + outs[-1]
            outs.append(norm(w, f'{p}.bns.{j}', v1.conv(w, f'{p}.convs.{j}', z)).relu())
        last = F.avg_pool2d(splits[-1], 3, 1, 1) if first else splits[-1]
        y = torch.cat([*outs, last], 1)
    y = norm(w, f'{p}.bn3', v1.conv(w, f'{p}.conv3', y))
    if first:
        x = norm(w, f'{p}.downsample.1', v1.conv(w, f'{p}.downsample.0', x, stride))
    return (x + y).relu()


def stages(w: v1.Weights, x: Tensor) -> list[Tensor]:
    """C2 to C5."""
    p = 'backbone.body.'
    x = norm(w, f'{p}stem.bn1', v1.conv(w, f'{p}stem.conv1', x, 2)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    feats = []
    for stage in range(1, 5):
        i = 0
        while f'{p}layer{stage}.{i}.conv1.weight' in w:
            x = block(w, f'{p}layer{stage}.{i}', x, 2 if stage > 1 and i == 0 else 1)
            i += 1
        feats.append(x)
    return feats


def pyramid(w: v1.Weights, feats: list[Tensor]) -> list[Tensor]:
    """P2 to P6."""
    maps = [v1.conv(w, f'backbone.fpn.fpn_inner{i}', x) for i, x in enumerate(feats, 1)]
    for i in range(3, 0, -1):
        maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], scale_factor=2)
    maps = [v1.conv(w, f'backbone.fpn.fpn_layer{i}', x) for i, x in enumerate(maps, 1)]
    return [*maps, F.max_pool2d(maps[-1], 1, 2)]


def box_head(w: v1.Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """RoI features -> logits (R, 1 + K), background first, and deltas (R, 1 + K, 4)."""
    p = 'roi_heads.box.'
    x = v1.linear(w, f'{p}feature_extractor.fc6', x.flatten(1)).relu()
    x = v1.linear(w, f'{p}feature_extractor.fc7', x).relu()
    deltas = v1.linear(w, f'{p}predictor.bbox_pred', x)
    return v1.linear(w, f'{p}predictor.cls_score', x), deltas.unflatten(1, (-1, 4))


def mask_head(w: v1.Weights, x: Tensor) -> Tensor:
    """RoI features (R, C, 14, 14) -> logits (R, 1 + K, 28, 28)."""
    p = 'roi_heads.mask.'
    for i in range(1, 5):
        x = v1.conv(w, f'{p}feature_extractor.mask_fcn{i}', x).relu()
    up = (w[f'{p}predictor.conv5_mask.{leaf}'] for leaf in ('weight', 'bias'))
    return v1.conv(w, f'{p}predictor.mask_fcn_logits', F.conv_transpose2d(x, *up, 2).relu())


class Pair:
    """Weights as maskrcnn-benchmark had them, and our model with the same after conversion."""

    def __init__(self, scales: int, width: int) -> None:
        self.weights = small(scales=scales, width=width)
        self.model = build(small_config(scales, width).model)
        load_checkpoint(self.model, dict(model=self.weights), strict=True)
        self.image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.feats = stages(self.weights, self.image)
            self.pyramid = pyramid(self.weights, self.feats)


@pytest.fixture(scope='module', params=[(0, 0), (4, 26), (2, 48)], ids=['r50', '26w4s', '48w2s'])
def pair(request) -> Pair:
    return Pair(*request.param)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@torch.no_grad()
def test_features_and_proposal_logits_are_the_same(pair) -> None:
    for found, expected in zip(pair.model.backbone(pair.image), pair.feats, strict=True):
        close(found, expected)
    maps = pair.model.extract_feat(pair.image)
    scores, deltas = pair.model.rpn_head(maps)
    for i, feat in enumerate(pair.pyramid):
        close(maps[i], feat)
        x = v1.conv(pair.weights, 'rpn.head.conv', feat).relu()
        close(scores[i], v1.conv(pair.weights, 'rpn.head.cls_logits', x))
        close(deltas[i], v1.conv(pair.weights, 'rpn.head.bbox_pred', x))


@torch.no_grad()
def test_class_scores_deltas_and_masks_are_the_same(pair) -> None:
    (stage,) = pair.model.roi_head.stages
    x = torch.randn(40, SMALL.channels, 7, 7, generator=torch.Generator().manual_seed(3))
    logits, deltas = box_head(pair.weights, x)
    output = stage.box_head(x)
    close(output.logits.softmax(1)[:, :-1], logits.softmax(1)[:, 1:])
    close(output.logits.softmax(1)[:, -1], logits.softmax(1)[:, 0])
    assert len(logits.argmax(1).unique()) > 2, 'one class wins everywhere: a weak test'
    close(output.deltas, deltas[:, 1:].flatten(1))
    x = torch.randn(4, SMALL.channels, 14, 14)
    (found,) = pair.model.roi_head.mask_logits([stage], x, None)
    close(found, mask_head(pair.weights, x)[:, 1:])


@torch.no_grad()
def test_detections_are_the_same_from_proposals_to_masks(pair) -> None:
    """Scores, labels, boxes and masks of given proposals, with labels counted from 1 there. Widths
    and pooling are the model's affair, here mmdetection's."""
    draw = torch.Generator().manual_seed(2)
    corner = torch.rand(40, 2, generator=draw) * torch.tensor([90.0, 60])
    side = torch.rand(40, 2, generator=draw) * torch.tensor([60.0, 50]) + 4
    rois = torch.cat([corner, (corner + side).minimum(torch.tensor([128.0, 96]))], 1)
    (stage,) = pair.model.roi_head.stages
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
    (found,) = pair.model.roi_head.predict(tuple(pair.pyramid), [rois], [sample], rescale=False)

    pooled = stage.box_extractor(tuple(pair.pyramid[:4]), boxes_to_rois([rois]))
    logits, deltas = box_head(pair.weights, pooled)
    scores = logits.softmax(1)
    rows = []
    for label in range(1, CLASSES + 1):
        (index,) = (scores[:, label] > 0.1).nonzero(as_tuple=True)
        own = v1.decode(rois[index], deltas[index, label], [0.1, 0.1, 0.2, 0.2], SIZE)
        kept = v1.suppress(own, scores[index, label], 0.5)
        labels = torch.full((len(kept),), label)
        rows.append((own[kept], scores[index, label][kept], labels))
    boxes, scores, labels = (torch.cat(part) for part in zip(*rows))

    assert len(boxes) > 5 and len(labels.unique()) > 1
    order, expected = found.scores.argsort(descending=True), scores.argsort(descending=True)
    close(found.scores[order], scores[expected])
    assert (found.labels[order] + 1).tolist() == labels[expected].tolist()
    torch.testing.assert_close(found.boxes[order], boxes[expected], rtol=1e-4, atol=1e-2)
    (probs,) = pair.model.roi_head.segment(tuple(pair.pyramid), [boxes], [labels - 1])
    pooled = stage.mask_extractor(tuple(pair.pyramid[:4]), boxes_to_rois([boxes]))
    masks = mask_head(pair.weights, pooled)[torch.arange(len(labels)), labels].sigmoid()
    close(probs, masks)


# ------------------------------------------------------------------- what weights do not say


def with_arithmetic(cfg: dict, lineage: str) -> dict:
    """The config with the anchors of a lineage, by which a model's arithmetic is told."""
    if lineage != 'today':
        cfg.model.rpn_head.anchor_generator.update(type='LegacyAnchorGenerator', center_offset=0.5)
    if lineage == 'maskrcnn-benchmark':
        cfg.model.rpn_head.anchor_generator.rounding = 'sides'
    return cfg


SEVEN = 'mask_rcnn_{}_fpn_maskrcnnbench_2x_coco2014'
USE = f'use the config {SEVEN.format("r2_50_26w4s")} (configs/maskrcnn_benchmark)'


@pytest.mark.parametrize(
    ('part', 'change', 'expected'),
    [
        ('backbone', dict(style='pytorch'), "(backbone.style='caffe'), not the 3x3, which costs"),
        ('backbone', dict(first_block_pool='strided'), "(backbone.first_block_pool='always')"),
        ('backbone', dict(norm_cfg=dict(type='BN')), "norm_cfg=dict(type='FrozenBN', eps=0, "),
        ('backbone', dict(norm_cfg=dict(type='FrozenBN')), 'constants without epsilon'),
        ('data_preprocessor', dict(bgr_to_rgb=False), 'RGB (data_preprocessor.bgr_to_rgb=True)'),
        ('data_preprocessor', dict(std=[1.0, 1, 1]), 'std [58.395, 57.12, 57.375]'),
    ],
)
def test_a_setting_that_differs_is_named_alone(part, change, expected) -> None:
    cfg = with_arithmetic(small_config(), 'maskrcnn-benchmark')
    assert note(small(), build(cfg.model)) == ''
    for key, value in change.items():
        cfg.model[part][key] = value
    text = note(small(), build(cfg.model))
    assert expected in text and text.startswith('converted from maskrcnn-benchmark: ')
    assert text.count(';') == (0 if 'res2net50' in text else 1), text


@pytest.mark.parametrize(
    ('family', 'backbone', 'expected'),
    [
        ('mask_rcnn', 'r2_50_18w6s', 'the config mask_rcnn_r2_50_18w6s_fpn'),
        ('mask_rcnn', 'r2_101_18w6s', 'a config like mask_rcnn_r50_fpn'),
        ('faster_rcnn', 'r101', 'a config like mask_rcnn_r101_fpn'),
        ('faster_rcnn', 'r2_101_18w6s', 'a config like mask_rcnn_r50_fpn'),
    ],
)
def test_the_nearest_config_is_named(family, backbone, expected) -> None:
    systems = SYSTEMS | {'r2_101_18w6s': (101, 6, 18)}
    depth, scales, width = systems[backbone]
    masks = family == 'mask_rcnn'
    text = note(zeros(detector(Size(depth=depth), scales, width, masks)))
    place = f'use {expected}_maskrcnnbench_2x_coco2014 (configs/maskrcnn_benchmark)'
    change = text.partition(place)[2]
    assert place in text
    assert ('as a faster_rcnn' in change) == (not masks)
    assert ('with its res2net101_18w_6s' in change) == (backbone not in SYSTEMS)


def test_without_a_model_everything_is_named() -> None:
    text = note(zeros(published('r2_50_26w4s')))
    for part in ('unaligned', '10 pixels', "style='caffe'", "'always'", 'eps=0', 'RGB'):
        assert part in text
    assert text.endswith(f'; {USE}') and '\n' not in text
    assert 'first_block_pool' not in note(zeros(published('r50')))


def test_caffe2s_weights_in_a_stem_that_was_never_trained_tell_their_colours() -> None:
    weights = small(scales=0)
    weights['backbone.body.stem.bn1.running_mean'].zero_()
    weights['backbone.body.stem.bn1.running_var'].fill_(1)
    cfg = with_arithmetic(small_config(scales=0), 'maskrcnn-benchmark')
    text = note(weights, build(cfg.model))
    assert 'BGR' in text and '[102.98, 115.947, 122.772] and std [1, 1, 1]' in text
    mean = [102.9801, 115.9465, 122.7717]
    cfg.model.data_preprocessor.update(mean=mean, std=[1.0, 1, 1], bgr_to_rgb=False)
    assert note(weights, build(cfg.model)) == ''


@EVERY_SYSTEM
def test_a_file_in_a_config_of_today_is_one_warning_with_the_config_to_use(
    system, monkeypatch
) -> None:
    lines = []
    monkeypatch.setattr(
        'mmengine.logging.print_log', lambda text, logger, level: lines.append(text)
    )
    cfg = load_config('mask_rcnn_r50_fpn_1x_coco')
    depth, scales, width = SYSTEMS[system]
    cfg.model.backbone = dict(legacy_backbone(scales, width), depth=depth)
    load_checkpoint(build(cfg.model, 'meta'), zeros(published(system)))
    (text,) = (line for line in lines if 'converted from' in line)
    assert '\n' not in text and 'with the arithmetic of mmdetection 2.x and later, as in' in text
    assert text.endswith(f'; use the config {SEVEN.format(system)} (configs/maskrcnn_benchmark).')
    assert find_config(SEVEN.format(system)).parent.name == 'maskrcnn_benchmark'


def modern(backbone: str = 'resnet') -> OrderedDict[str, Tensor]:
    """A Mask R-CNN by mmdetection's names."""
    cfg = config('mask_rcnn', SMALL)
    if backbone == 'resnet':
        cfg.model.backbone = dict(type='ResNet', depth=50, base_channels=SMALL.planes)
    return build(cfg.model).state_dict()


def config_text(generator: str) -> str:
    return f'model = dict(\n    rpn_head=dict(\n        anchor_generator=dict({generator})))\n'


EXACT = config_text("type='AnchorGenerator', scales=[8]")
ROUNDED = config_text("type='LegacyAnchorGenerator', center_offset=0.5")
TWO_STEPS = config_text("type='LegacyAnchorGenerator', center_offset=0.5, rounding='sides'")
MM2 = dict(mmdet_version='2.3.0', config=EXACT)


@pytest.mark.parametrize('here', ['maskrcnn-benchmark', 'mmdetection 1.x', 'today'])
@pytest.mark.parametrize(
    ('meta', 'there'),
    [
        (MM2, 'today'),
        (dict(mmdet_version='3.3.0'), 'today'),
        (dict(cfg=EXACT, experiment_name='a'), 'today'),
        (dict(cfg=ROUNDED), 'mmdetection 1.x'),
        (dict(config=ROUNDED, mmdet_version='2.0.0'), 'mmdetection 1.x'),
        (dict(cfg=TWO_STEPS), 'maskrcnn-benchmark'),
        (None, ''),
    ],
)
def test_files_by_our_names_are_told_apart_by_their_record(meta, there, here) -> None:
    cfg = with_arithmetic(config('mask_rcnn', SMALL), here)
    cfg.model.backbone = dict(type='ResNet', depth=50, base_channels=SMALL.planes)
    text = load_checkpoint(build(cfg.model), dict(state_dict=modern(), meta=meta)).note
    folders = {'maskrcnn-benchmark': 'maskrcnn_benchmark', 'mmdetection 1.x': 'legacy_1.x'}
    if here == there or (here == 'today' and not there):
        assert text == ''
    elif not there:
        assert 'does not say whose arithmetic' in text and here in text
        assert text.endswith('; use the config mask_rcnn_r50_fpn_1x_coco (configs/mask_rcnn)')
    else:
        assert f'(configs/{folders.get(there, "mask_rcnn")})' in text and '\n' not in text
        if here != 'today':
            assert here in text
        assert ('its boxes are continuous' in text) == (there == 'today')


def test_detectron2s_boxes_in_a_config_that_counts_pixels() -> None:
    cfg = with_arithmetic(config('mask_rcnn', SMALL), 'maskrcnn-benchmark')
    source = {
        'backbone.bottom_up.res2.0.convs.0.weight': torch.zeros(1),
        'proposal_generator.rpn_head.conv.weight': torch.zeros(1),
    }
    from mmdet_r2.zoo import detectron2

    cfg.model.backbone.style = 'caffe'
    text = detectron2.note(source, build(cfg.model))
    assert text.startswith('converted from detectron2: its boxes are continuous')
    del source['proposal_generator.rpn_head.conv.weight']
    assert detectron2.note(source, build(cfg.model)) == '', 'a backbone has no boxes'


def test_a_bare_backbone_is_told_nothing_of_boxes() -> None:
    weights = random(body(SMALL, 4, 26))
    weights = {f'backbone.body.{key}': value for key, value in weights.items()}
    init_scope()
    backbone = MODELS.build(dict(legacy_backbone(), depth=SMALL.depth, base_channels=SMALL.planes))
    report = load_checkpoint(backbone, weights, strict=True)
    assert report.complete and report.note == ''


# --------------------------------------------------------------------------------------- bad input


def refusal(weights: dict[str, Tensor], model: nn.Module) -> str:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, weights)
    assert '\n' not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(error.value)


def c4() -> OrderedDict[str, Tensor]:
    """A detector without a pyramid: the last stage of the backbone convolves each RoI."""
    there = 'roi_heads.box.feature_extractor.head.layer4'
    return OrderedDict(
        (key.replace('backbone.body.layer4', there), value)
        for key, value in small(scales=0).items()
        if not key.startswith(('backbone.fpn.', 'roi_heads.box.feature_extractor.fc'))
    )


def test_detectors_without_a_model_here_are_refused_by_what_they_are(tmp_path) -> None:
    model = build(small_config(scales=0).model)
    text = refusal(c4(), model)
    for part in ('a C4 detector of maskrcnn-benchmark', 'there is no such model here', 'FPN'):
        assert part in text
    retina = small(scales=0)
    retina['rpn.head.cls_tower.0.weight'] = torch.zeros(16, 16, 3, 3)
    assert "maskrcnn-benchmark's RetinaNet" in refusal(retina, model)
    with pytest.raises(CheckpointError, match='C4'):
        upgrade(save(c4(), tmp_path / 'c4.pth'))


def test_the_backbone_of_a_c4_detector_is_a_backbone() -> None:
    three = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    init_scope()
    backbone = MODELS.build(
        dict(legacy_backbone(0), depth=SMALL.depth, base_channels=SMALL.planes, **three)
    )
    assert load_checkpoint(backbone, c4()).complete


def test_another_backbone_is_refused_with_the_keys_that_differ() -> None:
    text = refusal(small(scales=2, width=48), build(small_config().model))
    assert 'it looks like res2net50_48w_2s' in text
    assert 'the file needs backbone.scales=2, backbone.base_width=48' in text
    cfg = config('mask_rcnn', SMALL)  # a deep stem
    with pytest.raises(CheckpointError, match=r'needs backbone\.deep_stem=False, backbone\.avg_'):
        load_checkpoint(build(cfg.model), small(), strict=True)
    assert 'does not fill the model' in load_checkpoint(build(cfg.model), small()).problem


def test_other_files_are_not_taken_for_maskrcnn_benchmarks() -> None:
    one = torch.zeros(1)
    for keys in (
        # torchvision's detectors
        ['backbone.body.conv1.weight', 'backbone.fpn.inner_blocks.0.0.weight'],
        ['rpn.head.cls_logits.weight', 'roi_heads.box_predictor.cls_score.weight'],
        ['stem.conv1.weight', 'backbone.bottom_up.stem.conv1.weight'],
        ['backbone.stem.0.weight', 'roi_head.bbox_head.fc_cls.weight'],
    ):
        assert not matches(dict.fromkeys(keys, one)), keys


# ----------------------------------------------------------------------------------------- the tool


def test_the_tool_writes_a_file_that_remembers_where_it_comes_from(repo, tmp_path) -> None:
    weights = OrderedDict((f'module.{key}', value) for key, value in small().items())
    old = save_training(weights, tmp_path / 'model_final.pth')
    new = tmp_path / 'new.pth'
    done = run(repo, old, new, '--num-classes', CLASSES + 1)
    assert done.returncode == 0, done.stderr
    assert "layout 'maskrcnn-benchmark', res2net50_26w_4s, mask_rcnn, 5 classes" in done.stdout
    assert "backbone.style='caffe'" in done.stdout
    content = read_checkpoint(new)
    assert content['meta'] == dict(converted_from='maskrcnn-benchmark')
    assert content.keys() == {'meta', 'state_dict'}, 'no optimiser, scheduler or iteration'
    model = build(small_config().model)
    told = load_checkpoint(model, old, strict=True).note
    first = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_checkpoint(model, new, strict=True)
    assert report.layout == 'mmdetection' and report.note == told != ''
    assert all(torch.equal(value, first[key]) for key, value in model.state_dict().items())
    again, _ = upgrade(new)
    assert again['meta'] == content['meta'], 'converted twice'
    fits = with_arithmetic(small_config(), 'maskrcnn-benchmark')
    assert load_checkpoint(build(fits.model), new, strict=True).note == ''


def test_the_tool_keeps_what_a_trained_file_records(tmp_path) -> None:
    path = save(dict(state_dict=modern(), meta=dict(cfg=TWO_STEPS)), tmp_path / 'a.pth')
    assert upgrade(path)[0]['meta'] == dict(converted_from='maskrcnn-benchmark')
    path = save(dict(state_dict=modern(), meta=dict(cfg=EXACT)), tmp_path / 'b.pth')
    assert upgrade(path)[0]['meta'] == dict(converted_from='mmdetection')


# ----------------------------------------------------------------------------------- ImageNet files

# the published names: depth, splits, width
IMAGENET = {
    'res2net50_48w_2s-afed724a.pth': (50, 2, 48),
    'res2net50_26w_4s-06e79181.pth': (50, 4, 26),
    'res2net50_18w_6s-db17faaa.pth': (50, 6, 18),
    'res2net50_14w_8s-6527dddc.pth': (50, 8, 14),
    'res2net101_26w_4s-02a759a1.pth': (101, 4, 26),
}


def classified(size: Size, scales: int, width: int) -> Named:
    """An ImageNet classifier as Res2Net's authors saved it."""
    yield from resnet(size) if scales == 0 else res2net(size, '7x7', scales, width)
    yield from layer('fc', 1000, size.planes * 32)


@pytest.mark.parametrize('file', IMAGENET)
def test_imagenet_files_of_full_size_fill_the_configs_backbones(file) -> None:
    depth, scales, width = IMAGENET[file]
    weights = zeros(classified(Size(depth=depth), scales, width))
    init_scope()
    with torch.device('meta'):
        backbone = MODELS.build(dict(legacy_backbone(scales, width), depth=depth))
    report = load_checkpoint(backbone, weights)
    assert report.complete and report.note == ''
    assert report.unexpected == ['fc.weight', 'fc.bias']
    assert report.found.backbone == file.rpartition('-')[0]


@pytest.mark.parametrize('kind', ['flat', 'model_best'])
@pytest.mark.parametrize(('scales', 'width'), [(0, 0), (2, 48), (8, 14)])
@torch.no_grad()
def test_imagenet_weights_compute_what_the_original_detectors_began_with(
    scales, width, kind, tmp_path
) -> None:
    """The strides move to the 1x1 convolutions and the epsilon goes, as it did there."""
    weights = random(classified(SMALL, scales, width))
    content: dict = weights
    if kind == 'model_best':  # of the training on ImageNet, which one of the configs names
        prefixed = OrderedDict((f'module.{key}', value) for key, value in weights.items())
        content = dict(
            epoch=100, arch='res2net50', state_dict=prefixed, best_prec1=torch.tensor(77.3)
        )
    path = save(content, tmp_path / 'res2net50_s2_model_best.pth')
    init_scope()
    backbone = MODELS.build(
        dict(
            legacy_backbone(scales, width),
            depth=SMALL.depth,
            base_channels=SMALL.planes,
            init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        )
    )
    backbone.init_weights()
    backbone.eval()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    renamed = {
        f'backbone.body.{"" if key.startswith("layer") else "stem."}{key}': value
        for key, value in weights.items()
    }
    for found, expected in zip(backbone(image), stages(renamed, image), strict=True):
        close(found, expected)


def test_models_of_pascal_voc_are_guessed_for_20_classes_only() -> None:
    voc, coco = (Architecture('resnet50', 'faster_rcnn', classes) for classes in (20, 80))
    assert all('voc' in name for name in guess_models(voc))
    assert guess_models(coco) and not any('voc' in name for name in guess_models(coco))
