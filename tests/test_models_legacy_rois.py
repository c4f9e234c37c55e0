"""RoI pooling, mask targets and mask pasting of maskrcnn-benchmark ('mb') and mmdetection 1.x
('v1'), against the rules followed literally, cell by cell and pixel by pixel.
"""

import math

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from mmdet_r2 import ops
from mmdet_r2.models.postprocess import Detections, encoded_masks, paste
from mmdet_r2.models.roi import SingleRoIExtractor
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks, mask_targets
from mmdet_r2.structures.pixel_masks import paste_pixel_masks, pixel_mask_targets

# ------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize('offset', [0, 1])
def test_level_by_area(offset):
    extractor = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=7), 16, [4, 8, 16, 32], offset=offset
    )
    sides = [1, 55, 111, 112, 223, 224, 447, 448, 900]
    rois = torch.tensor([[0.0, 5, 5, 4 + side, 4 + side] for side in sides])  # of side pixels
    literal = [
        min(max(math.floor(4 + math.log2((side - 1 + offset) / 224 + 1e-6)), 2), 5) - 2
        for side in sides
    ]
    assert extractor.map_levels(rois).tolist() == literal
    assert (literal[3] == 1) == (offset == 1)  # 112 x 112 pixels


def align_literally(feature, roi, size, scale, end_offset, least):
    """One RoI by the definition of un-aligned RoIAlign, two samples per bin and axis."""
    _, height, width = feature.shape
    x1, y1, x2, y2 = roi
    start = y1 * scale, x1 * scale
    sides = [
        max((end + end_offset) * scale - begin, least)
        for end, begin in zip((y2, x2), start, strict=True)
    ]

    def read(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return feature.new_zeros(len(feature))
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        fy, fx = y - top, x - left
        upper = feature[:, top, left] * (1 - fx) + feature[:, top, right] * fx
        lower = feature[:, below, left] * (1 - fx) + feature[:, below, right] * fx
        return upper * (1 - fy) + lower * fy

    out = feature.new_zeros(len(feature), size, size)
    for i in range(size):
        for j in range(size):
            for sy in (0.25, 0.75):
                for sx in (0.25, 0.75):
                    y = start[0] + (i + sy) * sides[0] / size
                    x = start[1] + (j + sx) * sides[1] / size
                    out[:, i, j] += read(y, x) / 4
    return out


ROIS = torch.tensor(
    [
        [0, 3, 5, 50, 41],
        [0, 20.3, 10.7, 21.1, 60.2],  # thinner than a cell
        [0, 30, 30, 30, 30],  # one pixel
        [0, -30, -20, 90, 95],  # beyond the image
        [0, 61, 61, 63, 63],
    ],
    dtype=torch.float32,
)


@pytest.mark.parametrize('lineage, end_offset, least', [('mb', 0, 1), ('v1', 1, 0)])
def test_unaligned_roi_align(lineage, end_offset, least):
    feature = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    scale = 1 / 8
    expected = torch.stack(
        [align_literally(feature[0], roi[1:].tolist(), 3, scale, end_offset, least) for roi in ROIS]
    )
    options = dict(aligned=False, end_offset=end_offset)
    assert torch.allclose(
        ops.roi_align(feature, ROIS, (3, 3), scale, 2, **options), expected, atol=1e-5
    )
    if lineage == 'v1':  # not the same for any of the RoIs
        other = ops.roi_align(feature, ROIS, (3, 3), scale, 2, aligned=False)
        assert (other - expected).abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize('library', ['mmcv', 'torchvision'])
def test_compiled_unaligned_roi_align_is_the_same(library):
    """What runs on GPUs, where there is a compiled one to compare with on the CPU."""
    compiled = pytest.importorskip(f'{library}.ops').roi_align
    feature = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    average = ('avg',) if library == 'mmcv' else ()
    found = compiled(feature, ROIS, (3, 3), 1 / 8, 2, *average, False)
    ours_ = ops.roi_align(feature, ROIS, (3, 3), 1 / 8, 2, aligned=False)
    assert torch.allclose(found, ours_, atol=1e-5)


def test_v1_grid_in_the_extractor():
    feature = torch.randn(1, 3, 8, 8)
    layer = dict(type='RoIAlign', output_size=3, sampling_ratio=2, aligned=False, end_offset=1)
    extractor = SingleRoIExtractor(layer, 3, [8], offset=1)
    pooled = ops.roi_align(feature, ROIS, (3, 3), 1 / 8, 2, aligned=False, end_offset=1)
    assert torch.equal(extractor((feature,), ROIS), pooled)
    with pytest.raises(ValueError, match=r'end_offset.*aligned=False'):
        SingleRoIExtractor(dict(layer, aligned=True), 3, [8])


# --------------------------------------------------------------------------------- masks


def paste_literally(prob, box, shape, padding, threshold):
    """maskrcnn-benchmark's rule (``padding`` 1) and that of mmdetection 1.x (0), pixel by pixel."""
    side = prob.shape[0]
    x1, y1, x2, y2 = (np.float32(c) for c in box)
    if padding:
        factor = np.float32((side + 2) / side)
        cx, cy = (x1 + x2) * np.float32(0.5), (y1 + y2) * np.float32(0.5)
        w, h = (x2 - x1) * np.float32(0.5) * factor, (y2 - y1) * np.float32(0.5) * factor
        x1, y1, x2, y2 = cx - w, cy - h, cx + w, cy + h
        prob = np.pad(prob, 1)
        side += 2
    x1, y1, x2, y2 = (int(c) for c in (x1, y1, x2, y2))  # towards zero
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    image = np.zeros(shape, bool)
    margin = 1.0
    for y in range(max(y1, 0), min(y1 + height, shape[0])):
        for x in range(max(x1, 0), min(x1 + width, shape[1])):
            v = min(max((y - y1 + 0.5) * side / height - 0.5, 0), side - 1)
            u = min(max((x - x1 + 0.5) * side / width - 0.5, 0), side - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, side - 1), min(left + 1, side - 1)
            fv, fu = v - top, u - left
            value = (1 - fv) * ((1 - fu) * prob[top, left] + fu * prob[top, right]) + fv * (
                (1 - fu) * prob[below, left] + fu * prob[below, right]
            )
            image[y, x] = value > threshold
            margin = min(margin, abs(value - threshold))
    return image, margin


@pytest.mark.parametrize('rule, padding', [('padded', 1), ('truncated', 0)])
def test_masks_are_pasted_by_the_rule(rule, padding):
    shape = (50, 70)
    probs = torch.rand(7, 6, 6, generator=torch.Generator().manual_seed(10))
    boxes = torch.tensor(
        [
            [5.2, 7.9, 30.4, 40.6],
            [-8.5, -3.7, 20.1, 15.5],  # truncated towards zero: 8 columns outside, not 9
            [60.3, 40.2, 90, 80],  # over the border
            [10, 10, 10, 10],  # one pixel
            [0, 0, 69, 49],
            [-40, -40, -20, -20],  # outside
            [12.0, 13, 17, 18],  # as large as the mask
        ]
    )
    (found,) = paste([Detections(boxes, boxes[:, 0], boxes[:, 0], probs)], [shape], 0.5, rule)
    for mask, prob, box in zip(found.masks, probs, boxes, strict=True):
        expected, margin = paste_literally(prob.double().numpy(), box.tolist(), shape, padding, 0.5)
        assert margin > 1e-6, 'a pixel that rounding decides proves nothing'
        assert (mask.numpy() == expected).all()
    assert not found.masks[5].any()

    with encoded_masks():  # the same as run lengths
        (runs,) = paste([Detections(boxes, boxes[:, 0], boxes[:, 0], probs)], [shape], 0.5, rule)
    assert (coco_mask.decode(runs.masks).transpose(2, 0, 1) == found.masks.numpy()).all()


def test_pasting_is_strict_and_gives_probabilities_on_request():
    half = torch.full((1, 4, 4), 0.5)
    box = torch.tensor([[2.0, 2, 5, 5]])
    assert not paste_pixel_masks(half, box, (8, 8)).any()
    soft = paste_pixel_masks(half, box, (8, 8), -1)
    assert soft.dtype == torch.uint8 and soft.sum() == 16 * 127
    assert paste_pixel_masks(half[:0], box[:0], (8, 8)).shape == (0, 8, 8)
    for number in (math.nan, math.inf, -math.inf):
        broken = torch.tensor([[2.0, number, 5, 5]])
        assert not paste_pixel_masks(half, broken, (8, 8), 0.1).any()


def test_v1_mask_targets():
    """Pixels inside the truncated box, resized as bytes by OpenCV."""
    draw = np.random.RandomState(0)
    bitmaps = cv2.blur(draw.randint(0, 256, (2, 40, 60)).astype(np.uint8), (1, 1)) > 140
    masks = BitmapMasks(bitmaps, 40, 60)
    boxes = torch.tensor(
        [[3.9, 4.2, 40.7, 33.1], [0, 0, 59, 39], [10.5, 10.5, 10.9, 10.9], [50, 30, 75, 60]]
    )
    index = torch.tensor([0, 1, 1, 0])
    expected = []
    for box, i in zip(boxes.tolist(), index.tolist(), strict=True):
        limits = (59, 39, 59, 39)
        x1, y1, x2, y2 = (int(min(c, limit)) for c, limit in zip(box, limits, strict=True))
        window = bitmaps[i, y1 : y1 + y2 - y1 + 1, x1 : x1 + x2 - x1 + 1].astype(np.uint8)
        expected.append(cv2.resize(window, (28, 28), interpolation=cv2.INTER_LINEAR))
    found = pixel_mask_targets([masks], [boxes], [index], (28, 28))
    assert (found.numpy() == np.stack(expected)).all()
    assert pixel_mask_targets([masks], [boxes[:0]], [index[:0]], (28, 28)).shape == (0, 28, 28)
    aligned = mask_targets([masks], [boxes], [index], (28, 28))
    assert not torch.equal(aligned, found)

    polygons = PolygonMasks([[np.array([5, 5, 50, 5, 50, 30, 5, 30])]], 40, 60)
    rasterised = pixel_mask_targets([polygons], [boxes[:1]], [index[:1]], (28, 28))
    same = pixel_mask_targets([polygons.to_bitmap()], [boxes[:1]], [index[:1]], (28, 28))
    assert torch.equal(rasterised, same)


def test_mb_mask_targets_are_those_of_polygons():
    """Moved by the box, not rounded, of sides x2 - x1 of at least 1; scaled; rasterised by COCO."""
    polygon = np.array([10.3, 8.1, 44.7, 12.9, 39.2, 36.4, 14.8, 30.6])
    boxes = torch.tensor([[9.4, 7.3, 45.1, 37.2], [20.2, 15.1, 20.7, 15.2]])
    expected = []
    for x1, y1, x2, y2 in boxes.tolist():
        scale = 28 / max(x2 - x1, 1), 28 / max(y2 - y1, 1)
        moved = (polygon.reshape(-1, 2) - [x1, y1]) * scale
        rle = coco_mask.frPyObjects([moved.reshape(-1).tolist()], 28, 28)
        expected.append(coco_mask.decode(coco_mask.merge(rle)))
    index = torch.zeros(2, dtype=torch.long)
    masks = PolygonMasks([[polygon]], 40, 60)
    found = mask_targets([masks], [boxes], [index], (28, 28))
    assert (found.numpy() == np.stack(expected)).all()
    assert 0 < found[0].mean() < 1
