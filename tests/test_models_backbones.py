"""ResNet, ResNeXt and Res2Net: sizes, options, freezing, folding, deformable convolutions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones import Res2Net, ResNet, ResNetV1d, ResNeXt
from mmdet_r2.models.backbones.res2net import Bottle2neck
from mmdet_r2.registry import MODELS

CLASSIFIER = 2048 * 1000 + 1000
V1 = dict(deep_stem=False, avg_down=False, first_block_pool='always')
V1B = dict(first_block_pool='always')
DCN = dict(type='DCN', deform_groups=1, fallback_on_stride=False)
DCNV2 = dict(type='DCNv2', deform_groups=2, fallback_on_stride=False)
LAST_THREE = (False, True, True, True)


def images(height: int = 64, width: int = 64, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator)


def randomise(model: nn.Module) -> nn.Module:
    """Norms with distinct statistics, offsets that move: nothing may cancel by chance."""
    for name, tensor in model.state_dict().items():
        if name.endswith('running_mean'):
            tensor.normal_(0, 0.1)
        elif name.endswith('running_var') or (tensor.dim() == 1 and name.endswith('weight')):
            tensor.uniform_(0.5, 1)
        elif 'conv_offset' in name:
            tensor.normal_(0, 0.02)
    return model


def total(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return sum(output.square().mean() for output in outputs)


def assert_close(ours, expected, tolerance=1e-5):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


# ------------------------------------------------------------------------------- size and structure


@pytest.mark.parametrize(
    'cls, options, params, macs',
    [
        # torchvision and https://arxiv.org/abs/1512.03385
        (ResNet, dict(depth=50), 25.56, 4.1),
        (ResNet, dict(depth=101), 44.55, 7.8),
        (ResNet, dict(depth=152), 60.19, 11.5),
        (ResNeXt, dict(depth=50, groups=32, base_width=4), 25.03, 4.2),
        (ResNeXt, dict(depth=101, groups=64, base_width=4), 83.46, 15.5),
        # https://github.com/Res2Net/Res2Net-PretrainedModels
        (Res2Net, dict(depth=50, scales=2, base_width=48, **V1), 25.29, 4.2),
        (Res2Net, dict(depth=50, scales=4, base_width=26, **V1), 25.70, 4.2),
        (Res2Net, dict(depth=50, scales=8, base_width=14, **V1), 25.06, 4.2),
        (Res2Net, dict(depth=50, scales=6, base_width=26, **V1), 37.05, 6.3),
        (Res2Net, dict(depth=50, scales=8, base_width=26, **V1), 48.40, 8.3),
        (Res2Net, dict(depth=101, **V1), 45.21, 8.1),
        (Res2Net, dict(depth=50, **V1B), 25.72, 4.5),
        (Res2Net, dict(depth=101, **V1B), 45.23, 8.3),
        (Res2Net, dict(depth=101), 45.23, 8.3),
    ],
    ids=lambda value: (
        getattr(value, '__name__', None) or '-'.join(map(str, value.values()))
        if not isinstance(value, float)
        else str(value)
    ),
)
def test_size_is_the_published_one(cls, options, params, macs):
    """Millions of parameters and 10^9 multiply-adds at 224 pixels, both with the classifier."""
    with torch.device('meta'):
        model = cls(**options)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    count = sum(p.numel() for p in model.parameters()) + CLASSIFIER
    assert count / 1e6 == pytest.approx(params, abs=0.006)
    found = (counter.get_total_flops() / 2 + CLASSIFIER) / 1e9
    assert found == pytest.approx(macs, abs=0.1)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_every_depth_trains(depth):
    model = ResNet(depth, frozen_stages=1)
    model.init_weights()
    model.train()
    outputs = model(images())
    widths = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
    assert [tuple(x.shape) for x in outputs] == [
        (1, width, 16 >> i, 16 >> i) for i, width in enumerate(widths)
    ]
    total(outputs).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(('conv1', 'bn1', 'layer1'))
        assert parameter.requires_grad is not frozen
        assert (parameter.grad is None) is frozen, name


OPTIONS = {
    'caffe': (ResNet, dict(depth=50, style='caffe')),
    'V1b': (ResNet, dict(depth=50, deep_stem=True)),
    'V1d': (ResNetV1d, dict(depth=50)),
    'dilated': (ResNet, dict(depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))),
    'GN': (ResNet, dict(depth=50, norm_cfg=dict(type='GN', num_groups=32))),
    'frozen affine': (ResNet, dict(depth=50, norm_cfg=dict(type='BN', requires_grad=False))),
    'three stages': (
        ResNet,
        dict(depth=50, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 2)),
    ),
    'ResNeXt': (ResNeXt, dict(depth=50, groups=32, base_width=4)),
    'DCN': (ResNet, dict(depth=50, dcn=DCN, stage_with_dcn=LAST_THREE)),
    'DCNv2': (ResNet, dict(depth=50, dcn=DCNV2, stage_with_dcn=(False, False, False, True))),
    'ResNeXt DCN': (ResNeXt, dict(depth=50, groups=32, dcn=DCN, stage_with_dcn=LAST_THREE)),
    '26w4s': (Res2Net, dict(depth=50)),
    '48w2s': (Res2Net, dict(depth=50, scales=2, base_width=48)),
    '18w6s': (Res2Net, dict(depth=50, scales=6, base_width=18)),
    '14w8s': (Res2Net, dict(depth=50, scales=8, base_width=14)),
    'Res2Net v1': (Res2Net, dict(depth=50, **V1)),
    'Res2Net-101': (Res2Net, dict(depth=101)),
    'Res2Net-152': (Res2Net, dict(depth=152)),
    'Res2Net GN': (Res2Net, dict(depth=50, norm_cfg=dict(type='GN', num_groups=2))),
    'Res2Net DCNv2': (Res2Net, dict(depth=50, dcn=DCNV2, stage_with_dcn=LAST_THREE)),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_trains_and_ignores_the_memory_layout(name):
    if 'dcn' in OPTIONS[name][1]:
        pytest.importorskip('mmcv._ext')
    cls, options = OPTIONS[name]
    model = randomise(cls(**copy.deepcopy(options))).train()
    x = images(64, 96)
    total(model(x)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, parameter_name
    model.eval()
    with torch.no_grad():
        plain = model(x)
        model.to(memory_format=torch.channels_last)
        assert_close(model(x.to(memory_format=torch.channels_last)), plain)


def test_names_are_those_of_published_checkpoints():
    def keys(model):
        return {key for key in model.state_dict() if not key.endswith('num_batches_tracked')}

    flat = keys(ResNet(18))
    assert {'conv1.weight', 'bn1.running_var', 'layer2.0.downsample.0.weight'} <= flat
    assert {'layer2.0.downsample.1.bias', 'layer4.1.conv2.weight', 'layer4.1.bn2.weight'} <= flat
    deep = keys(ResNetV1d(50))
    assert {'stem.0.weight', 'stem.4.running_mean', 'stem.7.bias'} <= deep
    assert {'layer1.0.downsample.1.weight', 'layer3.0.downsample.2.weight'} <= deep
    assert 'layer1.0.downsample.0.weight' not in deep
    group = keys(ResNet(50, norm_cfg=dict(type='GN', num_groups=32)))
    assert {'gn1.weight', 'layer1.0.gn3.bias', 'layer1.0.downsample.1.weight'} <= group
    hierarchy = keys(Res2Net(50))
    assert {'layer1.2.convs.2.weight', 'layer1.2.bns.2.running_var'} <= hierarchy
    assert not any('convs.3' in key or 'conv2' in key for key in hierarchy)


def test_registered_names_build():
    for name in ('ResNet', 'ResNetV1d', 'ResNeXt', 'Res2Net'):
        with torch.device('meta'):
            model = MODELS.build(dict(type=name, depth=50, out_indices=(3,)))
        assert type(model).__name__ == name


# --------------------------------------------------------------------------------------- the blocks


def bottleneck_by_hand(block, x, *, scales, width, stride1, stride2, pool):
    """A first block of a stage, written down from the paper's figure and the table of lineages."""

    def bn(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    y = F.relu(bn(F.conv2d(x, block.conv1.weight, stride=stride1), block.bn1))
    groups = [y[:, i * width : (i + 1) * width] for i in range(scales)]
    outs = []
    for i in range(scales - 1):
        z = F.conv2d(groups[i], block.convs[i].weight, stride=stride2, padding=1)
        outs.append(F.relu(bn(z, block.bns[i])))
    last = groups[-1]
    outs.append(F.avg_pool2d(last, 3, stride2, 1, count_include_pad=True) if pool else last)
    z = bn(F.conv2d(torch.cat(outs, 1), block.conv3.weight), block.bn3)
    return z


@pytest.mark.parametrize(
    'lineage, options, strided, pools',
    [
        ('mmdetection 3.x', dict(), '3x3', (False, True)),
        ('ImageNet v1', V1, '3x3', (True, True)),
        ('ImageNet v1b', V1B, '3x3', (True, True)),
        ('maskrcnn-benchmark', dict(V1, style='caffe'), '1x1', (True, True)),
        ('detectron2', dict(style='caffe'), '1x1', (False, False)),
    ],
)
def test_first_blocks_of_all_lineages(lineage, options, strided, pools):
    model = randomise(Res2Net(50, scales=3, base_width=20, **options)).eval()
    for stage, stride, pool in ((1, 1, pools[0]), (2, 2, pools[1])):
        block = model.get_submodule(f'layer{stage}')[0]
        x = torch.randn(1, block.conv1.in_channels, 10, 12)
        stride1, stride2 = (stride, 1) if strided == '1x1' else (1, stride)
        with torch.no_grad():
            expected = bottleneck_by_hand(
                block,
                x,
                scales=3,
                width=20 * stage,
                stride1=stride1,
                stride2=stride2,
                pool=pool,
            )
            shortcut = F.avg_pool2d(x, stride, stride) if options.get('avg_down', True) else x
            conv, norm = block.downsample[-2], block.downsample[-1]
            conv_stride = 1 if options.get('avg_down', True) else stride
            expected = expected + norm(F.conv2d(shortcut, conv.weight, stride=conv_stride))
            assert_close([block(x)], [expected.relu()])


def test_other_blocks_add_each_group_to_the_next():
    block = randomise(Bottle2neck(64, 16, scales=4, base_width=32)).eval()
    x = torch.randn(2, 64, 7, 9)
    with torch.no_grad():
        groups = block.bn1(block.conv1(x)).relu().chunk(4, dim=1)
        first = block.bns[0](block.convs[0](groups[0])).relu()
        second = block.bns[1](block.convs[1](groups[1] + first)).relu()
        third = block.bns[2](block.convs[2](groups[2] + second)).relu()
        inner = block.bn3(block.conv3(torch.cat([first, second, third, groups[3]], dim=1)))
        assert_close([block(x)], [(inner + x).relu()])


# ----------------------------------------------------------------------- freezing, folding, memory


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_stay_put(frozen_stages):
    model = ResNet(18, frozen_stages=frozen_stages, norm_eval=False).train()
    before = copy.deepcopy(model.state_dict())
    if frozen_stages < 4:
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        total(model(images(batch=2))).backward()
        optimiser.step()
    else:
        assert not any(output.requires_grad for output in model(images(batch=2)))
    frozen = (('conv1.', 'bn1.') if frozen_stages >= 0 else ()) + tuple(
        f'layer{i}.' for i in range(1, frozen_stages + 1)
    )
    for name, value in model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same is name.startswith(frozen), name


@pytest.mark.parametrize('norm_eval', [True, False])
def test_norm_eval_keeps_statistics_but_trains_weights(norm_eval):
    model = ResNet(18, norm_eval=norm_eval).train()
    before = copy.deepcopy(model.state_dict())
    total(model(images(batch=2))).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = model.state_dict()
    assert torch.equal(after['layer3.0.bn1.running_mean'], before['layer3.0.bn1.running_mean']) is (
        norm_eval
    )
    assert not torch.equal(after['layer3.0.bn1.weight'], before['layer3.0.bn1.weight'])


def test_frozen_stages_store_no_activations():
    model = ResNet(18, frozen_stages=2).train()
    outputs = model(images())
    assert [output.requires_grad for output in outputs] == [False, False, True, True]


FOLDED = {
    'ResNet-18': (ResNet, dict(depth=18, frozen_stages=1)),
    'ResNet-50 V1d': (ResNetV1d, dict(depth=50)),
    'Res2Net-50': (Res2Net, dict(depth=50)),
    'frozen affine': (ResNet, dict(depth=18, norm_cfg=dict(type='BN', requires_grad=False))),
    'statistics of the batch': (ResNetV1d, dict(depth=50, norm_eval=False)),
}


def train_plainly(model: nn.Module) -> None:
    """Training mode with every layer called as it is: the reference for the shortcuts."""
    model.training = False
    for module in model.modules():
        if hasattr(module, 'direct'):
            module.direct = False


@pytest.mark.parametrize('name', FOLDED)
def test_shortcuts_of_training_change_neither_outputs_nor_gradients(name):
    cls, options = FOLDED[name]
    folded = randomise(cls(**options)).double().train()
    plain = copy.deepcopy(folded)
    train_plainly(plain)
    x = images(64, 64).double()
    ours, expected = folded(x), plain(x)
    assert_close(ours, expected, 1e-12)
    total(ours).backward()
    total(expected).backward()
    reference = dict(plain.named_parameters())
    for key, parameter in folded.named_parameters():
        if parameter.requires_grad:
            assert_close([parameter.grad], [reference[key].grad], 1e-8)


def saved_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters not counted."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(x)
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    del outputs
    return sum(size for pointer, size in kept.items() if pointer not in known)


def test_folding_and_checkpointing_save_memory():
    x = images(256, 320, batch=2)
    folded = ResNet(18, frozen_stages=1).train()
    plain = copy.deepcopy(folded)
    train_plainly(plain)
    weights = sum(p.numel() * 4 for p in folded.parameters() if p.requires_grad)
    assert saved_bytes(folded, x) - weights < 0.7 * saved_bytes(plain, x)
    checkpointed = ResNet(18, frozen_stages=1, with_cp=True).train()
    assert saved_bytes(checkpointed, x) < 0.5 * saved_bytes(plain, x)


def test_hooks_on_a_norm_still_see_its_output():
    model = ResNet(18).train()
    seen = []
    model.layer2[0].bn1.register_forward_hook(lambda module, args, output: seen.append(output))
    model(images())
    assert len(seen) == 1


@pytest.mark.parametrize('cls', [ResNet, Res2Net])
def test_checkpointing_gives_identical_gradients(cls):
    stored = randomise(cls(50, frozen_stages=1)).train()
    recomputed = cls(50, frozen_stages=1, with_cp=True).train()
    recomputed.load_state_dict(stored.state_dict())
    for model in (stored, recomputed):
        total(model(images())).backward()
    for a, b in zip(stored.parameters(), recomputed.parameters()):
        assert a.grad is None if b.grad is None else torch.equal(a.grad, b.grad)


@pytest.mark.parametrize('name', ['V1d', 'DCN', '26w4s', 'Res2Net DCNv2'])
def test_inference_can_be_traced(name):
    """Inference preparation reads the data flow from a traced graph."""
    cls, options = OPTIONS[name]
    if 'dcn' in options:
        pytest.importorskip('mmcv._ext')
    model = randomise(cls(with_cp=True, **copy.deepcopy(options))).eval()
    traced = torch.fx.GraphModule(model, _LeafNorms().trace(model))
    with torch.no_grad():
        assert_close(traced(images()), model(images()), 0)


class _LeafNorms(torch.fx.Tracer):
    """Looks into mmengine's containers, not into torch's and mmcv's layers."""

    def is_leaf_module(self, module, name):
        home = type(module).__module__
        if home.startswith('mmengine'):
            return False
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


# ----------------------------------------------------------------------------------- initialisation


def test_initial_values():
    model = ResNet(50)
    model.init_weights()
    block = model.layer2[1]
    assert block.bn3.weight.eq(0).all() and block.bn2.weight.eq(1).all()
    fan_out = 128 * 9
    assert block.conv2.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    x = torch.rand(1, 512, 5, 5)
    assert torch.equal(block(x), x), 'a block starts as its shortcut'
    ordinary = ResNet(50, zero_init_residual=False)
    ordinary.init_weights()
    assert ordinary.layer2[1].bn3.weight.eq(1).all()


def test_initialising_again_changes_nothing():
    model = ResNet(18)
    model.init_weights()
    nn.init.ones_(model.layer1[0].bn2.weight)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('keyword', ['init_cfg', 'pretrained'])
def test_pretrained_weights_are_loaded_as_they_are(tmp_path, keyword):
    path = str(tmp_path / 'backbone.pth')
    source = randomise(ResNet(18))
    torch.save(source.state_dict(), path)
    value = dict(type='Pretrained', checkpoint=path) if keyword == 'init_cfg' else path
    model = ResNet(18, **{keyword: value})
    model.init_weights()
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


# -------------------------------------------------------------------------- deformable convolutions


@pytest.mark.parametrize('dcn, factor', [(DCN, 1.0), (DCNV2, 0.5)], ids=['DCN', 'DCNv2'])
def test_deformable_convolutions_start_as_plain_ones(dcn, factor):
    """With zero offsets; DCNv2's mask starts at sigmoid(0) = 0.5."""
    pytest.importorskip('mmcv._ext')
    model = ResNet(50, dcn=dcn, stage_with_dcn=(False, False, False, True))
    model.init_weights()
    layer = model.layer4[1].conv2
    assert layer.conv_offset.weight.eq(0).all() and layer.conv_offset.bias.eq(0).all()
    x = torch.randn(2, 512, 6, 5)
    with torch.no_grad():
        assert_close([layer(x)], [factor * F.conv2d(x, layer.weight, padding=1)])


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_deformable_convolutions_take_any_type(kind, dtype):
    pytest.importorskip('mmcv._ext')
    from mmdet_r2.models.backbones.deform import DEFORM_CONVS

    layer = DEFORM_CONVS[kind](8, 8, kernel_size=3, padding=1, bias=False)
    randomise(layer)
    x = torch.randn(1, 8, 9, 7)
    with torch.no_grad():
        expected = layer(x)
        assert_close([layer.to(dtype)(x.to(dtype)).float()], [expected], 0.05)
        assert layer(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(1, 1), (2, 5), (5, 2), (3, 3)])
def test_deformable_convolutions_take_maps_smaller_than_their_kernel(stride, size):
    """They equal the same offsets on a map with zeros appended: outside a map all is zero."""
    ops = pytest.importorskip('mmcv.ops')
    from mmdet_r2.models.backbones.deform import DeformConv

    layer = DeformConv(4, 6, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.normal_(layer.conv_offset.weight, std=0.3)
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        offset = layer.conv_offset(x)
        height, width = offset.shape[2:]
        wide = F.pad(x, (0, 6, 0, 6))
        shape = [-(-side // stride) for side in wide.shape[2:]]
        offsets = x.new_zeros(2, 18, *shape)
        offsets[:, :, :height, :width] = offset
        expected = ops.deform_conv2d(wide, offsets, layer.weight, stride, 1, 1, 1, 1, False, 32)
        assert_close([layer(x)], [expected[:, :, :height, :width]])


def test_fallback_on_stride_keeps_plain_convolutions():
    dcn = dict(type='DCN', fallback_on_stride=True)
    model = ResNet(50, dcn=dcn, stage_with_dcn=(True, True, True, True))
    assert not any('conv_offset' in key for key in model.state_dict())
    assert dcn == dict(type='DCN', fallback_on_stride=True), 'the config is not changed'


# -------------------------------------------------------------------------------------- bad configs


@pytest.mark.parametrize(
    'cls, options, message',
    [
        (ResNet, dict(depth=20), 'depth is 20; ResNet has the depths 18, 34, 50'),
        (Res2Net, dict(depth=18), 'Res2Net has the depths 50, 101, 152'),
        (ResNet, dict(depth=50, style='torch'), "style is 'torch'"),
        (ResNet, dict(depth=50, num_stages=5), 'num_stages is 5'),
        (ResNet, dict(depth=50, num_stages=3), 'strides has 4 values, but num_stages is 3'),
        (ResNet, dict(depth=50, out_indices=(0, 4)), 'out_indices is (0, 4)'),
        (ResNet, dict(depth=50, out_indices=()), 'out_indices is ()'),
        (ResNet, dict(depth=50, frozen_stages=5), 'frozen_stages is 5'),
        (ResNet, dict(depth=50, plugins=[dict()]), 'position'),
        (ResNet, dict(depth=18, plugins=[dict()]), 'plugins is not supported'),
        (ResNet, dict(depth=50, pretrained='a', init_cfg=dict(type='Normal')), 'not both'),
        (ResNet, dict(depth=18, dcn=DCN, stage_with_dcn=LAST_THREE), 'depth 50 or more'),
        (ResNet, dict(depth=50, dcn=DCN, stage_with_dcn=(True,)), 'stage_with_dcn has 1 values'),
        (ResNet, dict(depth=50, dcn=dict(type='DCNv9'), stage_with_dcn=LAST_THREE), "'DCNv9'"),
        (ResNeXt, dict(depth=18, groups=32), 'groups needs bottleneck blocks'),
        (Res2Net, dict(depth=50, scales=1), 'scales is 1'),
        (Res2Net, dict(depth=50, first_block_pool='never'), "first_block_pool is 'never'"),
    ],
)
def test_bad_options_say_what_to_change(cls, options, message):
    if options.get('dcn', {}).get('type') == 'DCNv9':
        pytest.importorskip('mmcv._ext')
    with pytest.raises(ConfigError) as error, torch.device('meta'):
        cls(**options)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_an_unknown_keyword_is_an_error():
    for cls in (ResNet, ResNetV1d, ResNeXt, Res2Net):
        with pytest.raises(TypeError, match='norm_evel'):
            cls(depth=50, norm_evel=True)


def test_frozen_norms_without_epsilon_can_be_expressed():
    """maskrcnn-benchmark's constant norm: all affine, no epsilon."""
    norm = dict(type='BN', requires_grad=False, eps=0.0)
    model = randomise(ResNet(18, norm_cfg=norm)).train()
    assert not any(p.requires_grad for p in model.bn1.parameters())
    x = torch.randn(1, 64, 4, 4)
    bn = model.bn1
    scale = (bn.weight / bn.running_var.sqrt()).view(-1, 1, 1)
    expected = (x - bn.running_mean.view(-1, 1, 1)) * scale + bn.bias.view(-1, 1, 1)
    assert_close([bn(x)], [expected])


@pytest.mark.parametrize('training', [False, True])
def test_the_forward_pass_compiles_without_breaks(training):
    model = Res2Net(50, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    randomise(model).train(training)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    assert_close(compiled(images()), model(images()))
    torch.compiler.reset()


def test_plugins_sit_where_they_are_asked_for() -> None:
    cfg = dict(type='ContextBlock', ratio=1 / 16)
    stages = (False, True, False, False)
    plugin = dict(cfg=cfg, stages=stages, position='after_conv3')
    torch.manual_seed(0)
    net = ResNet(50, base_channels=16, plugins=[plugin]).eval()
    plain = ResNet(50, base_channels=16).eval()
    added = [key for key in net.state_dict() if key not in plain.state_dict()]
    assert added and all(
        key.startswith('layer2.') and '.context_block.' in key for key in added
    )  # mmdetection's keys
    plain.load_state_dict(net.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    ours, without = net(x), plain(x)
    assert torch.equal(ours[0], without[0])
    block = net.layer2[0].context_block
    assert type(block).__name__ == 'ContextBlock' and block.in_channels == 128
    torch.nn.init.ones_(block.channel_add_conv[-1].bias)  # adds 1 to every cell of the residual
    torch.nn.init.zeros_(block.channel_add_conv[-1].weight)
    seen = plain.layer2[0].residual(ours[0])
    torch.testing.assert_close(net.layer2[0].residual(ours[0]), seen + 1)
