"""Beside torchvision: its operators, which GPUs without mmcv's get, give what ours give."""

import pytest
import torch
from record_pools import inputs
from small_detector import batch_of, build, small_config

from mmdet_r2 import ops
from mmdet_r2.ops import deformable

tv = pytest.importorskip('torchvision.ops', exc_type=ImportError)
pytestmark = pytest.mark.tv


def test_nms_is_torchvisions() -> None:
    assert ops.backend('cpu') == 'torchvision'


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution(monkeypatch, modulated) -> None:
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    offset = torch.randn(2, 36, 9, 11, requires_grad=True)
    mask = torch.rand(2, 18, 9, 11) if modulated else None
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    bias = torch.randn(6) if modulated else None
    arguments = (x, offset, mask, weight, bias, (1, 1), (1, 1), (1, 1), 2, 2)
    results = []
    for ours in (True, False):
        monkeypatch.setattr(deformable, '_is_ours', lambda x, answer=ours: answer)
        monkeypatch.setattr(deformable, 'backend', lambda device: 'torchvision')
        out = ops.deform_conv(*arguments)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, offset, weight))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align(aligned, ratio) -> None:
    given = inputs()
    feature, rois = given['feature'].requires_grad_(), given['rois']
    ours = ops.roi_align(feature, rois, (3, 4), 0.25, ratio, aligned)
    theirs = tv.roi_align(feature, rois, (3, 4), 0.25, ratio, aligned)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(out, feature, given['grad'])[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_detector_finds_the_same(monkeypatch) -> None:
    """Its boxes go through NMS twice: proposals, and detections of each class."""
    model = build(small_config()).eval()
    batch = batch_of(model, 2, 3, training=False)
    found = []
    for library in ('torchvision', 'torch'):
        monkeypatch.setattr(ops, 'backend', lambda device, answer=library: answer)
        with torch.no_grad():
            found.append(model.predict(**batch))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.pred_instances.labels, b.pred_instances.labels)
        torch.testing.assert_close(a.pred_instances.bboxes, b.pred_instances.bboxes)
