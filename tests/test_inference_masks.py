"""Masks from the network to run lengths: the same as through whole images, in little memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmdet_r2.models.postprocess import Detections, encoded_masks, paste
from mmdet_r2.structures.masks import encode_rle


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (7, 5), (64, 48), (40, 200)])
def test_run_lengths_are_those_of_pycocotools(shape) -> None:
    rng = np.random.default_rng(sum(shape))
    masks = [np.zeros(shape, np.uint8), np.ones(shape, np.uint8)]
    for _ in range(40):  # windows, with holes and without, at the edges and not
        mask = np.zeros(shape, np.uint8)
        (y1, y2), (x1, x2) = (np.sort(rng.integers(0, side + 1, 2)) for side in shape)
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.2, 0.9, 1.0])
        masks.append(mask)
    for mask, rle in zip(masks, encode_rle(np.stack(masks)), strict=True):
        assert rle == coco_mask.encode(np.asfortranarray(mask))
    assert encode_rle(np.stack(masks) > 0) == encode_rle(torch.from_numpy(np.stack(masks)))


def detections(number: int, height: int, width: int) -> Detections:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.9
    sides = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.1
    boxes = torch.cat([corners, corners + sides], 1)
    probs = torch.rand(number, 28, 28, generator=generator)
    return Detections(boxes, torch.ones(number), torch.zeros(number).long(), probs)


def test_encoded_masks_are_the_pasted_ones(monkeypatch) -> None:
    found = [detections(9, 60, 80), detections(0, 60, 80)]
    shapes = [(60, 80), (60, 80)]
    plain = paste(found, shapes, 0.5)
    monkeypatch.setattr('mmdet_r2.models.postprocess._PASTED_PIXELS', 2 * 60 * 80)
    with encoded_masks():
        encoded = paste(found, shapes, 0.5)
        assert paste(found, shapes, -1)[0].masks.dtype == torch.uint8  # probabilities have no runs
    assert encoded[0].masks == encode_rle(plain[0].masks) and encoded[1].masks == []
    assert paste(found, shapes, 0.5)[0].masks.dtype == torch.bool
    assert encoded[0].to_instances().masks == encoded[0].masks


MEASURE = """
import resource, sys, torch
torch.set_num_threads(1)
from mmdet_r2.models.postprocess import Detections, encoded_masks, paste
height, width, number = 3000, 4000, int(sys.argv[1])
corners = torch.rand(number, 2) * torch.tensor([3600, 2700])
boxes = torch.cat([corners, corners + torch.rand(number, 2) * 1500], 1)
probs = torch.rand(number, 28, 28)
found = Detections(boxes, torch.ones(number), torch.zeros(number).long(), probs)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
paste([found[:1]], [(64, 64)], 0.5)
before = peak()
with encoded_masks():
    (found,) = paste([found], [(height, width)], 0.5)
assert len(found.masks) == number
print(peak() - before)
"""


@pytest.mark.parametrize('number', [40, pytest.param(300, marks=pytest.mark.long)])
def test_masks_on_12_megapixels_take_little_memory(number) -> None:
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(number)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert float(done.stdout) < 256  # MB; as bool 458 and 3433
