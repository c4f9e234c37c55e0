"""Folding, fusing and layout change nothing but speed."""

import copy
import subprocess
import sys

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmdet_r2.inference import FusedConv2d, fold_and_fuse, prepare_for_inference
from mmdet_r2.inference.fold import folded
from mmdet_r2.inference.fused import OneDNNLinear, has_onednn_fusion, has_onednn_linear
from mmdet_r2.models.backbones.res2net import Res2Net
from mmdet_r2.models.backbones.resnet import ResidualBlock, ResNet, ResNetV1d, ResNeXt
from mmdet_r2.models.fpn import FPN

BACKBONES = {
    'resnet18': lambda: ResNet(18),
    'resnet50 pytorch': lambda: ResNet(50),
    'resnet50 caffe': lambda: ResNet(50, style='caffe'),
    'resnet50 v1d (deep stem, pooled shortcuts)': lambda: ResNetV1d(50),
    'resnext50 32x4d': lambda: ResNeXt(50, groups=32),
    'resnet50 group norm': lambda: ResNet(50, norm_cfg=dict(type='GN', num_groups=8)),
    'res2net50 26w4s': lambda: Res2Net(50),
    'res2net101 26w4s': lambda: Res2Net(101),
    'res2net50 48w2s v1': lambda: Res2Net(
        50, scales=2, base_width=48, deep_stem=False, avg_down=False, first_block_pool='always'
    ),
    'res2net50 14w8s caffe': lambda: Res2Net(50, scales=8, base_width=14, style='caffe'),
    'resnet50 DCNv2': lambda: ResNet(
        50,
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, False, True),
    ),
    'res2net50 DCN': lambda: Res2Net(
        50,
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, False, True),
    ),
    'res2net50 SyncBN': lambda: Res2Net(50, norm_cfg=dict(type='SyncBN')),
}


def random_norms(module: nn.Module) -> nn.Module:
    """Statistics and constants as after training: none of them is 0 or 1."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.3, 0.9)
            nn.init.normal_(norm.bias, std=0.2)
    return module.eval()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize('build', BACKBONES.values(), ids=BACKBONES.keys())
def test_fused_backbone_equals_plain(build) -> None:
    plain = random_norms(build())
    before = copy.deepcopy(plain.state_dict())
    fused = fold_and_fuse(plain)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = plain(image), fused(image)
        channels_last = fused.to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last)
        )
    assert len(found) == len(expected) == 4
    for a, b, c in zip(expected, found, channels_last):
        assert close(a, b) and close(a, c)
    norms = [m for m in fused.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # those behind deformable convolutions stay
    assert len(norms) == sum(hasattr(m, 'conv_offset') for m in plain.modules())
    sums = [m for m in fused.modules() if isinstance(m, FusedConv2d) and m.add == 'into']
    blocks = [m for m in plain.modules() if isinstance(m, ResidualBlock)]
    # a norm that cannot be folded (GN) stands between convolution and sum
    has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in plain.modules())
    assert len(sums) == (len(blocks) if has_batch_norm else 0)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, before[key]), f'{key} of the given module changed'


def test_fused_model_gives_the_same_without_onednn(monkeypatch) -> None:
    plain = random_norms(ResNet(18))
    fused = fold_and_fuse(plain)
    monkeypatch.setattr('mmdet_r2.inference.fused.has_onednn_fusion', lambda _: False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(plain(image), fused(image)):
            assert close(a, b)


def test_onednn_fusion_is_used_where_torch_has_it() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip('torch was built without oneDNN')
    state = torch.get_rng_state()
    has_onednn_fusion.cache_clear()
    has_onednn_linear.cache_clear()
    assert has_onednn_fusion() and has_onednn_linear()
    assert torch.equal(torch.get_rng_state(), state), 'trying them out drew random numbers'


def test_linear_layer_equals_plain() -> None:
    plain = nn.Linear(70, 33)
    layer = OneDNNLinear(plain)
    for shape in ((9, 70), (0, 70), (2, 3, 70), (70,)):
        x = torch.randn(shape)
        with torch.no_grad():
            assert torch.allclose(layer(x), plain(x), atol=1e-5)
    x = torch.randn(4, 70, requires_grad=True)
    assert layer(x).requires_grad


def test_fused_convolution_takes_empty_and_odd_batches() -> None:
    plain = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)
    layer = FusedConv2d(plain, relu=True)
    wide = torch.randn(3, 12, 9, 7).to(memory_format=torch.channels_last)
    for x in (torch.randn(0, 6, 9, 7), wide[:, 3:9], wide[:, ::2], wide[:1, :6, 1:, :3]):
        with torch.no_grad():
            assert torch.allclose(layer(x), plain(x).relu(), atol=1e-5)


def test_fpn_with_norm_and_conv_modules_are_folded() -> None:
    neck = random_norms(FPN([8, 16, 32], 16, 4, norm_cfg=dict(type='BN')))
    maps = [torch.randn(1, c, s, s) for c, s in ((8, 32), (16, 16), (32, 8))]
    fused = fold_and_fuse(neck)
    with torch.no_grad():
        for a, b in zip(neck(maps), fused(tuple(maps))):
            assert close(a, b)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


class _Shared(nn.Module):
    """A convolution used twice, with a norm behind one use only; an output read by two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        a = self.bn(self.conv(x))
        b = self.conv(a)  # the same weights without the norm
        c = self.other(b)
        d = self.bn2(c)  # c is read by two: must not be folded
        return self.relu(d) + c + a


def test_a_shared_convolution_and_a_twice_read_output_are_left_alone() -> None:
    plain = random_norms(_Shared())
    fused = fold_and_fuse(plain)
    x = torch.randn(2, 4, 9, 9)
    with torch.no_grad():
        assert close(plain(x), fused(x))
    assert any(m is plain.bn2 for m in fused.modules())


class _Residuals(nn.Module):
    """Sums whose other term is still read afterwards, or is a view, or broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x)
        y += x  # x is read again below: must not be overwritten
        z = torch.relu(self.c(y) + self.squeeze(x))
        halves = torch.split(x, 2, dim=1)
        w = self.b(self.pool(x)) + self.pool(z)
        return y + x, z, halves[1] * 2, w


def test_residual_sums_never_change_what_is_read_later() -> None:
    plain = _Residuals().eval()
    x = torch.randn(2, 4, 8, 8)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        fused = fold_and_fuse(plain).to(memory_format=memory_format)
        x = x.contiguous(memory_format=memory_format)
        with torch.no_grad():
            for a, b in zip(plain(x), fused(x)):
                assert close(a, b)


def test_norm_in_training_mode_is_not_folded() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert any(isinstance(m, nn.BatchNorm2d) for m in fold_and_fuse(block.train()).modules())


def test_fold_of_a_tiny_variance_keeps_its_digits() -> None:
    conv, norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2).eval()
    norm.running_var.fill_(1e-12)
    weight, bias = folded(conv.weight, conv.bias, norm)
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        assert torch.allclose(norm(conv(x)), nn.functional.conv2d(x, weight, bias), rtol=1e-4)


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvModule(3, 4, 3, padding=1, norm_cfg=dict(type='BN'))
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > -1e9 else x


class _Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ConvModule(4, 4, 1, norm_cfg=dict(type='BN'))

    def forward(self, x):
        return self.head(self.backbone(x))


def test_what_cannot_be_traced_stays_and_heads_are_folded() -> None:
    model = random_norms(_Detector(_Untraceable()))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        prepared = prepare_for_inference(model)
        assert prepared is model
        assert close(expected, prepared(x))
    assert isinstance(model.backbone, _Untraceable)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.head.modules())
    # the ConvModule inside it is folded all the same
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 1


def test_reduced_precision_is_close_and_survives_a_copy() -> None:
    model = random_norms(_Detector(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        model = copy.deepcopy(prepare_for_inference(model, dtype=torch.bfloat16))
        found = model(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(expected, found.float(), atol=0.05 * float(expected.abs().max()))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match='bfloat16'):
        prepare_for_inference(nn.Conv2d(1, 1, 1), dtype=torch.int8)


def test_memory_is_kept_only_on_request() -> None:
    code = (
        'import os; os.environ["MMDET_R2_KEEP_MEMORY"] = "0"\n'
        'from mmdet_r2.inference import keep_freed_memory\n'
        'assert keep_freed_memory() is False'
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
