"""Our CPU RoIAlign against mmcv's compiled operator, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_r2 import ops
from mmdet_r2.ops import roi_align

mmcv_ops = pytest.importorskip('mmcv.ops')


def _rois(num: int, width: int, height: int) -> torch.Tensor:
    """RoIs of every shape: ordinary, elongated, outside the image, empty."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([width, height]) - 8
    extent = torch.rand(num, 2, generator=generator).pow(3) * torch.tensor([width, height])
    rois = torch.cat(
        [torch.randint(0, 2, (num, 1), generator=generator), corner, corner + extent], 1
    )
    rois[0, 1:] = torch.tensor([5.0, 5.0, 5.0, 5.0])
    rois[1, 1:] = torch.tensor([-60.0, -60.0, -20.0, -20.0])
    rois[2, 1:] = torch.tensor([0.0, 3.0, float(width), 6.0])
    rois[3, 1:] = torch.tensor([7.0, 0.0, 9.0, float(height)])
    return rois


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('num', [6, 600])
def test_equals_mmcv_forward_and_backward(num, sampling_ratio, aligned):
    height, width = 30, 44
    feature = torch.randn(2, 5, height, width, dtype=torch.float32)
    rois = _rois(num, width * 4, height * 4)
    ours_in, theirs_in = feature.clone().requires_grad_(), feature.clone().requires_grad_()
    ours = roi_align(ours_in, rois, (7, 5), 0.25, sampling_ratio, aligned)
    theirs = mmcv_ops.roi_align(theirs_in, rois, (7, 5), 0.25, sampling_ratio, 'avg', aligned)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(theirs)
    ours.backward(grad)
    theirs.backward(grad)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_averaged_cells_are_the_mean_of_the_cells(sampling_ratio):
    feature = torch.randn(2, 8, 20, 24, dtype=torch.float32).requires_grad_()
    rois = _rois(40, 96, 80)
    whole = roi_align(feature, rois, (14, 14), 1 / 4, sampling_ratio, True)
    mean = roi_align(feature, rois, (14, 14), 1 / 4, sampling_ratio, True, average=2)
    torch.testing.assert_close(mean, F.avg_pool2d(whole, 2), rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(mean)
    (ours,) = torch.autograd.grad((mean * weight).sum(), feature, retain_graph=True)
    (theirs,) = torch.autograd.grad((F.avg_pool2d(whole, 2) * weight).sum(), feature)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rois_keep_their_order_when_sorting_by_size_swaps_them():
    feature = torch.rand(1, 2, 20, 30)
    rois = torch.tensor([[0.0, 1, 1, 19, 19], [0, 1, 1, 2, 2]])
    theirs = mmcv_ops.roi_align(feature, rois, (7, 7), 1.0, 0, 'avg', True)
    torch.testing.assert_close(roi_align(feature, rois, (7, 7), 1.0), theirs)


def test_no_roi_is_an_empty_result_with_a_zero_gradient():
    feature = torch.randn(1, 3, 8, 8, requires_grad=True)
    pooled = roi_align(feature, torch.zeros(0, 5), (7, 7), 0.25)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() == 0


@pytest.mark.parametrize('average', [1, 2])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_no_kernel_is_started_without_rois(monkeypatch, dtype, average):
    """CUDA refuses to: here no kernel is there to be started."""
    monkeypatch.setattr(ops, 'roi_align_cpu', None)
    monkeypatch.setattr(ops, 'backend', None)
    feature = torch.randn(2, 3, 8, 8, dtype=dtype, requires_grad=True)
    pooled = roi_align(feature, torch.zeros(0, 5), (14, 14), 0.25, average=average)
    assert pooled.shape == (0, 3, 14 // average, 14 // average) and pooled.dtype == dtype
    pooled.sum().backward()
    assert feature.grad.shape == feature.shape and not feature.grad.any()


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_a_box_turned_inside_out_disturbs_no_other(sampling_ratio):
    feature = torch.rand(1, 2, 20, 30)
    rois = torch.tensor([[0.0, 1, 1, 19, 19], [0, 15, 16, 5, 4], [0, 1, 1, 2, 2]])
    pooled = roi_align(feature, rois, (7, 7), 1.0, sampling_ratio)
    assert torch.equal(pooled[::2], roi_align(feature, rois[::2], (7, 7), 1.0, sampling_ratio))
    if sampling_ratio == 0:
        assert (pooled[1] == 0).all()


def test_half_precision_features_keep_their_dtype():
    feature = torch.randn(1, 4, 16, 16).bfloat16()
    rois = torch.tensor([[0.0, 3.0, 4.0, 40.0, 50.0]])
    pooled = roi_align(feature, rois, (7, 7), 0.25)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(
        pooled.float(), roi_align(feature.float(), rois, (7, 7), 0.25), rtol=1e-2, atol=1e-2
    )
