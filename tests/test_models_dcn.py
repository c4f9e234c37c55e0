"""Deformable convolutions against a direct reference on ``grid_sample``; grouped offsets.

Everything is computed in float64, by our own CPU code and by mmcv's kernels (which GPUs use).
"""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones import ResNeSt, ResNet

KINDS = ('DCN', 'DCNv2')
# groups, deform_groups, offset_groups
GROUPINGS = [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 1, 1), (1, 2, 2), (4, 2, 2)]
# height, width, stride, padding, dilation
GEOMETRIES = [(7, 9, 1, 1, 1), (8, 7, 2, 1, 1), (9, 8, 1, 2, 2), (6, 6, 1, 0, 1)]


def deform_conv(kind: str, *arguments, **options) -> nn.Module:
    from mmdet_r2.models.backbones.deform import DEFORM_CONVS

    layer = DEFORM_CONVS[kind](*arguments, kernel_size=3, **options).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    nn.init.normal_(layer.conv_offset.bias, std=0.5)
    return layer


def direct(layer: nn.Module, x: Tensor, offset_groups: int) -> Tensor:
    """The papers' sum over the 3x3 grid, each sample by bilinear interpolation."""
    batch, channels, height, width = x.shape
    (stride, _), (padding, _), (dilation, _) = layer.stride, layer.padding, layer.dilation
    groups = layer.deform_groups
    predicted = F.conv2d(
        x,
        layer.conv_offset.weight,
        layer.conv_offset.bias,
        stride,
        padding,
        dilation,
        offset_groups,
    )
    rows, columns = predicted.shape[2:]
    modulated = predicted.shape[1] == groups * 27
    # (B, deform group, grid point, y or x, rows, columns)
    offsets = predicted[:, : groups * 18].view(batch, groups, 9, 2, rows, columns)
    if modulated:
        masks = predicted[:, groups * 18 :].view(batch, groups, 9, rows, columns).sigmoid()
    y0 = torch.arange(rows, dtype=x.dtype)[:, None] * stride - padding
    x0 = torch.arange(columns, dtype=x.dtype) * stride - padding
    samples = []
    for group, part in enumerate(x.chunk(groups, 1)):
        for point in range(9):
            y = y0 + point // 3 * dilation + offsets[:, group, point, 0]
            z = x0 + point % 3 * dilation + offsets[:, group, point, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            value = F.grid_sample(part, grid, padding_mode='zeros', align_corners=True)
            samples.append(value * masks[:, group, point, None] if modulated else value)
    # deform groups x points of (B, C / groups, rows, columns) -> (B, C, 9, rows, columns)
    values = torch.stack(samples, 2).view(batch, channels // groups, groups, 9, rows, columns)
    values = values.transpose(1, 2).reshape(batch, layer.groups, -1, 9, rows, columns)
    weight = layer.weight.view(layer.groups, -1, channels // layer.groups, 9)
    out = torch.einsum('bgckyx,gock->bgoyx', values, weight).flatten(1, 2)
    return out if getattr(layer, 'bias', None) is None else out + layer.bias.view(-1, 1, 1)


@pytest.fixture(params=['ours', 'mmcv'])
def implementation(request, monkeypatch):
    is_ours = request.param == 'ours'
    if not is_ours:
        pytest.importorskip('mmcv._ext')
    monkeypatch.setattr('mmdet_r2.ops.deformable._is_ours', lambda x: is_ours)
    return request.param


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('groups, deform_groups, offset_groups', GROUPINGS)
@pytest.mark.parametrize('height, width, stride, padding, dilation', GEOMETRIES)
def test_forward_and_backward_equal_direct_interpolation(
    kind,
    groups,
    deform_groups,
    offset_groups,
    height,
    width,
    stride,
    padding,
    dilation,
    implementation,
):
    layer = deform_conv(
        kind,
        8,
        12,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        deform_groups=deform_groups,
        offset_groups=offset_groups,
        bias=False,
    )
    x = torch.randn(2, 8, height, width, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    ours, expected = layer(x), direct(layer, x, offset_groups)
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, rtol=0, atol=1e-11)
    weights = torch.randn_like(ours)
    found = torch.autograd.grad((ours * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize('kind', KINDS)
def test_any_memory_layout_and_type(kind, implementation):
    layer = deform_conv(kind, 8, 8, padding=1, groups=2, deform_groups=2, bias=False)
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        layer.to(memory_format=torch.channels_last)
        found = layer(x.to(memory_format=torch.channels_last))
        assert torch.allclose(found, expected, atol=1e-12)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            found = layer.to(dtype)(x.to(dtype))
            assert found.dtype == dtype
            tolerance = 1e-5 if dtype == torch.float32 else 0.05
            assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(1, 1), (1, 6), (2, 5), (5, 2)])
@pytest.mark.parametrize('stride', [1, 2])
def test_maps_smaller_than_the_kernel(kind, size, stride, monkeypatch):
    pytest.importorskip('mmcv._ext')
    layer = deform_conv(kind, 4, 6, stride=stride, padding=1, deform_groups=2, bias=False)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    found = []
    for is_ours in (True, False):
        monkeypatch.setattr('mmdet_r2.ops.deformable._is_ours', lambda x, answer=is_ours: answer)
        found.append(layer(x))
    assert torch.allclose(*found, atol=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_samples_far_outside_are_zero(kind, implementation):
    """Whatever the offsets are, infinite ones included; 'nan' spoils nothing but its own sample."""
    layer = deform_conv(kind, 4, 4, padding=1, bias=False)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    nn.init.zeros_(layer.conv_offset.weight)
    with torch.no_grad():
        layer.conv_offset.bias[:18] = torch.tensor([1e9, -1e9, float('inf'), -30, 6, 0] * 3)
    assert layer(x).eq(0).all()
    layer(x).sum().backward()
    assert x.grad.eq(0).all() and layer.conv_offset.bias.grad.eq(0).all()


def test_our_computation_is_recomputed_instead_of_stored():
    layer = deform_conv('DCNv2', 16, 16, padding=1, bias=False).float()
    x = torch.randn(2, 16, 32, 32, requires_grad=True)
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x).sum()
    assert sum(kept.values()) < 6 * x.nbytes  # the samples alone are 9 times the input


@pytest.mark.parametrize('kind', KINDS)
def test_empty_batches_keep_their_shape_and_gradients(kind):
    layer = deform_conv(kind, 4, 6, stride=2, padding=1, bias=False)
    out = layer(torch.zeros(0, 4, 7, 9, dtype=torch.float64))
    assert out.shape == (0, 6, 4, 5)
    out.sum().backward()
    assert layer.weight.grad.eq(0).all() and layer.conv_offset.weight.grad.eq(0).all()


def test_a_bias_is_added(implementation):
    layer = deform_conv('DCNv2', 4, 6, padding=1, bias=True)
    nn.init.normal_(layer.bias)
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    assert torch.allclose(layer(x), direct(layer, x, 1))


@pytest.mark.parametrize('kind', KINDS)
def test_grouped_offsets_equal_a_block_diagonal_dense_convolution(kind):
    """How checkpoints with grouped offsets can be expanded for a dense layer."""
    options = dict(padding=1, groups=2, deform_groups=2, bias=False)
    grouped = deform_conv(kind, 8, 8, offset_groups=2, **options)
    dense = deform_conv(kind, 8, 8, **options)
    state = grouped.state_dict()
    narrow = state['conv_offset.weight']
    assert narrow.shape == (len(state['conv_offset.bias']), 4, 3, 3)
    wide = narrow.new_zeros(len(narrow), 8, 3, 3)
    half = len(narrow) // 2
    wide[:half, :4], wide[half:, 4:] = narrow[:half], narrow[half:]
    dense.load_state_dict({**state, 'conv_offset.weight': wide})
    x = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    assert torch.allclose(grouped(x), dense(x), atol=1e-12)


@pytest.mark.parametrize('dcn', [dict(type='DCN'), dict(type='DCNv2', deform_groups=2)], ids=str)
def test_offsets_start_at_zero_and_come_from_the_file_later(dcn, tmp_path):
    pytest.importorskip('mmcv._ext')
    options = dict(depth=50, base_channels=16, stage_with_dcn=(False, False, False, True))
    dcn = dict(dcn, offset_groups=2)
    model = ResNeSt(dcn=dcn, **options)
    model.init_weights()
    offset = model.layer4[1].conv2.conv.conv_offset
    assert offset.groups == 2 and offset.weight.shape[1] == 64
    assert offset.weight.eq(0).all() and offset.bias.eq(0).all()
    nn.init.normal_(offset.weight)
    torch.save(model.state_dict(), tmp_path / 'trained.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth'))
    loaded = ResNeSt(dcn=dcn, init_cfg=init, **options)
    loaded.init_weights()
    assert torch.equal(loaded.layer4[1].conv2.conv.conv_offset.weight, offset.weight)
    # An ImageNet file has no offsets: they start at zero.
    torch.save(ResNeSt(**options).state_dict(), tmp_path / 'trained.pth')
    loaded = ResNeSt(dcn=dcn, init_cfg=init, **options)
    loaded.init_weights()
    assert loaded.layer4[1].conv2.conv.conv_offset.weight.eq(0).all()


def test_plain_blocks_take_grouped_offsets_too():
    """The deformable ResNets of the detectron2 lineage."""
    dcn = dict(type='DCNv2', deform_groups=2, offset_groups=2)
    with torch.device('meta'):
        model = ResNet(50, dcn=dcn, stage_with_dcn=(False, False, False, True))
    assert model.layer4[0].conv2.conv_offset.weight.shape == (54, 256, 3, 3)


WITHOUT_OPERATORS = """
import sys
sys.modules['mmcv._ext'] = None  # importing it fails
import torch
from mmdet_r2.models.backbones.deform import DEFORM_CONVS
for layer in DEFORM_CONVS.values():
    out = layer(4, 6, kernel_size=3, padding=1)(torch.ones(1, 4, 5, 5))
    out.sum().backward()
    print(*out.shape)
"""


def test_needs_no_compiled_operators_on_the_cpu():
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', WITHOUT_OPERATORS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['1', '6', '5', '5'] * 2


@pytest.mark.parametrize('model', [ResNet, ResNeSt])
@pytest.mark.parametrize(
    'dcn, message',
    [
        (dict(type='DCNv2', deform_groups=7), 'backbone.dcn.deform_groups is 7'),
        (dict(type='DCNv2', offset_groups=3), 'backbone.dcn.offset_groups is 3'),
        (dict(type='DCN', offset_groups=4), 'which does not divide the 18 offsets'),
        (dict(type='DCN', offset_groups='2'), "offset_groups is '2'"),
        (dict(type='DCNv3'), "'DCNv3'"),
    ],
)
def test_groups_that_do_not_divide_are_named(model, dcn, message):
    with pytest.raises(ConfigError) as error:
        model(50, dcn=dcn, stage_with_dcn=(False, False, False, True))
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('kind', KINDS)
def test_no_image_needs_no_kernel_and_gives_every_parameter_a_gradient(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmcv's kernels divide by the number of images, and CUDA's refuse to start for none."""
    layer = deform_conv(kind, 4, 6, padding=1, stride=2)
    monkeypatch.setattr('mmdet_r2.ops.deformable.deform_conv_cpu', None)
    x = torch.zeros(0, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    assert out.shape == (0, 6, 5, 4) and out.dtype == x.dtype
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
