"""Grouped suppression against a direct implementation of the greedy rule."""

import numpy as np
import pytest
import torch
from record_ops import CASES, METHODS, RECORD, boxes_and_scores

from mmdet_r2 import ops
from mmdet_r2.errors import UserError
from mmdet_r2.structures.boxes import box_iou

pytestmark = pytest.mark.tv


def _greedy(boxes, scores, groups, threshold):
    """Visit boxes by descending score; keep what overlaps no kept box of its group by more."""
    kept = []
    iou = box_iou(boxes, boxes)
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(groups[j] != groups[i] or iou[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def _boxes(num, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * 100
    extent = torch.rand(num, 2, generator=generator) * 40 + 1
    boxes = torch.cat([corner, corner + extent], 1)
    return (
        boxes,
        torch.rand(num, generator=generator),
        torch.randint(0, 4, (num,), generator=generator),
    )


@pytest.mark.parametrize('split', [0, 10_000], ids=['group by group', 'one shifted call'])
def test_equals_the_greedy_rule(monkeypatch, split):
    monkeypatch.setattr(ops, '_SPLIT', split)
    boxes, scores, groups = _boxes(300, seed=1)
    keep = ops.batched_nms(boxes, scores, groups, 0.5)
    assert keep.tolist() == _greedy(boxes, scores, groups, 0.5)


def test_no_box_keeps_nothing():
    empty = torch.zeros(0, 4)
    assert ops.batched_nms(empty, torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5).shape == (
        0,
    )


def test_equals_what_mmcv_gave():
    record = np.load(RECORD)
    for i, (num, spread, threshold, offset) in enumerate(CASES):
        boxes, scores = boxes_and_scores(num, spread)
        keep = ops.nms(boxes, scores, threshold, offset)
        assert keep.tolist() == record[f'{i}/nms'].tolist(), CASES[i]
        for method in METHODS:
            decayed, keep = ops.soft_nms(boxes, scores, threshold, 0.5, 0.05, method, offset)
            assert keep.tolist() == record[f'{i}/{method}'].tolist(), (CASES[i], method)
            expected = torch.from_numpy(record[f'{i}/{method}/scores'])
            torch.testing.assert_close(decayed, expected, rtol=1e-5, atol=1e-6)


def test_torch_can_export_the_operators():
    boxes, scores = boxes_and_scores(40, 50.0)
    torch.library.opcheck(torch.ops.mmdet_r2.nms.default, (boxes, scores, 0.5, 0))
    torch.library.opcheck(
        torch.ops.mmdet_r2.soft_nms.default, (boxes, scores, 0.5, 0.5, 0.05, 'linear', 0)
    )


@pytest.fixture
def importing(monkeypatch):
    """Set what an import gives; what was found before is forgotten."""

    def forget():
        ops.backend.cache_clear()
        ops.backends.problem_of.cache_clear()

    def answer(result):
        forget()
        monkeypatch.setattr(ops.backends.importlib, 'import_module', result)

    yield answer
    forget()


def test_missing_operators_name_the_command_that_builds_them(importing):
    def missing(name):
        raise ModuleNotFoundError(f'No module named {name!r}')

    importing(missing)
    with pytest.raises(UserError, match=r'tools/install\.py --operators.*mmcv\._ext'):
        ops.backend('cuda')
    assert ops.backend('cpu') == 'torch'


def test_operators_compiled_without_cuda_do_not_serve_a_gpu(importing):
    class Extension:
        get_compiling_cuda_version = staticmethod(lambda: 'not available')

    importing(lambda name: Extension)
    assert (ops.backend('cpu'), ops.backend('cuda')) == ('torchvision', 'torchvision')
