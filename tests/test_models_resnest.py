"""ResNeSt: numbers of two other implementations, sizes, options, memory, inference, bad configs.

Stored numbers are in tests/data/resnest.npz (see resnest_reference.py). With MMDET_R2_PEER naming a
Python with mmdetection 3.x they are also compared with what it computes now.
"""

import copy
import json
import os
import subprocess

import numpy as np
import pytest
import resnest_reference as reference
import torch
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmdet_r2.config_check import check_config
from mmdet_r2.errors import ConfigError
from mmdet_r2.inference import prepare_for_inference
from mmdet_r2.models.backbones import ResNeSt, SplitAttention
from mmdet_r2.models.backbones.resnest import _average
from mmdet_r2.registry import MODELS

PEER = os.environ.get('MMDET_R2_PEER')
CLASSIFIER = 2048 * 1000 + 1000
DCN = dict(type='DCN', deform_groups=2)
DCNV2 = dict(type='DCNv2', deform_groups=2, offset_groups=2)


@pytest.fixture(scope='module')
def stored(repo):
    with np.load(repo / 'tests/data/resnest.npz') as arrays:
        return dict(arrays)


def build(name: str, **options) -> ResNeSt:
    if 'dcn' in reference.CASES[name]:
        pytest.importorskip('mmcv._ext')
    return ResNeSt(**copy.deepcopy(reference.CASES[name]), **options)


def filled(model: nn.Module) -> nn.Module:
    reference.load(model)
    return model.eval()


def small(stages: int = 2, **options) -> ResNeSt:
    """Few stages, 16 base channels: small enough for many variants."""
    stage_options = dict(
        num_stages=stages,
        strides=(1, 2)[:stages],
        dilations=(1, 1)[:stages],
        out_indices=(0, 1)[:stages],
        stage_with_dcn=(False, True)[:stages],
    )
    return filled(ResNeSt(**dict(dict(depth=50, base_channels=16), **options), **stage_options))


def images(height: int = 40, width: int = 56, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator)


def total(outputs) -> torch.Tensor:
    return sum(output.square().mean() for output in outputs)


def assert_close(ours, expected, tolerance=1e-5):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


# ------------------------------------------------------------------------ numbers of other projects


@pytest.mark.parametrize('name', reference.CASES)
def test_features_and_keys_are_those_of_mmdetection(name, stored):
    model = build(name)
    # The order counts too: optimiser states are matched by it.
    keys = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert keys == json.loads(stored[f'{name}/keys'].tobytes())
    for level, found in reference.outputs(filled(model)).items():
        assert reference.deviation(found, stored[f'{name}/{level}']) < 1e-5, level


def test_gradients_and_statistics_are_those_of_mmdetection(stored):
    found = reference.training_step(filled(build('s50', norm_eval=False)))
    for key, values in found.items():
        assert reference.deviation(values, stored[f'training/{key}']) < 1e-3, key


@pytest.mark.parametrize('name', reference.INITIALISED)
def test_initial_weights_are_those_of_mmdetection(name, stored):
    """Constants exactly, random tensors by their distribution."""
    found, expected = reference.initial(build(name)), stored[f'{name}/initial']
    names = [key for key, _ in build(name).named_parameters()]
    sizes = [parameter.numel() for parameter in build(name).parameters()]
    assert found.shape == expected.shape
    for key, size, ours, theirs in zip(names, sizes, found, expected):
        if theirs[1] == 0:
            assert np.array_equal(ours, theirs), key
        else:
            assert ours[1] == pytest.approx(theirs[1], rel=5 / size**0.5), key
            assert abs(ours[0]) < 6 * theirs[1] / size**0.5, key


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_stored_numbers_are_what_mmdetection_computes_now(tmp_path, stored):
    command = [PEER, '-W', 'ignore', reference.__file__, str(tmp_path / 'now.npz')]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / 'now.npz') as now:
        for key in now:
            if key.endswith('/keys'):
                assert np.array_equal(now[key], stored[key])
            elif not key.endswith('/initial'):
                tolerance = 1e-3 if key.startswith('training/') else 1e-5
                assert reference.deviation(now[key], stored[key]) < tolerance, key


@pytest.mark.parametrize('letter', reference.GOLDEN)
def test_features_are_those_of_the_original_fork(letter, stored):
    """Stem, first blocks, offsets and all stages of the published systems."""
    if letter == 'C':
        pytest.importorskip('mmcv._ext')
    model = ResNeSt(50, norm_cfg=dict(type='NaiveSyncBN'), **reference.GOLDEN[letter][1])
    reference.load(model)
    model.eval()
    arrays = {key: value for key, value in stored.items() if key.startswith(f'{letter}/')}
    modules = {}
    for key in arrays:
        _, kind, *name = key.split('/')
        if kind == 'module' and name[-1] != 'where':
            path = name[0].replace('conv2_offset', 'conv2.conv.conv_offset')
            for n in range(2, 6):
                path = path.replace(f'res{n}', f'layer{n - 1}')
            # The record of the stem is behind its max pool.
            modules[f'module/{name[0]}'] = model.get_submodule(path.replace('stem', 'maxpool'))
    found = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output)
        )
    found['net_input'] = torch.from_numpy(reference.golden_image())
    with torch.no_grad():
        maps = model(found['net_input'])
    found |= {f'backbone/res{i + 2}': feature for i, feature in enumerate(maps)}
    assert {f'{letter}/{name}' for name in found} == {
        key for key in arrays if not key.endswith('/where')
    }
    for name, output in found.items():
        values = output.numpy().reshape(-1)[arrays[f'{letter}/{name}/where']]
        mean, std, *expected = arrays[f'{letter}/{name}']
        assert np.abs(values - expected).max() < 1e-4 * std, name
        assert abs(output.mean().item() - mean) < 1e-4 * std, name


# --------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize(
    'options, side, params, macs',
    [
        # Model cards of the published weights: https://huggingface.co/timm/resnest50d.in1k ...
        (dict(depth=50), 224, 27.48, 5.4),
        (dict(depth=101), 256, 48.28, 13.4),
        (dict(depth=200), 320, 70.20, 35.7),
        (dict(depth=269), 416, 110.93, 77.7),
        # https://github.com/zhanghang1989/ResNeSt, ablation (its convolutions pool first)
        (dict(depth=50, radix=4), None, 31.9, None),
        (dict(depth=50, radix=1, groups=2, base_width=40), None, 25.9, None),
        (dict(depth=50, radix=2, groups=2, base_width=40), None, 26.9, None),
        (dict(depth=50, radix=4, groups=2, base_width=40), None, 30.4, None),
        (dict(depth=50, radix=1, groups=4, base_width=24), None, 25.7, None),
    ],
    ids=['50', '101', '200', '269', '4s1x64d', '1s2x40d', '2s2x40d', '4s2x40d', '1s4x24d'],
)
def test_size_is_the_published_one(options, side, params, macs):
    """Millions of parameters and 10^9 multiply-adds, both with the classifier."""
    with torch.device('meta'):
        model = ResNeSt(**options).eval()
    count = sum(p.numel() for p in model.parameters()) + CLASSIFIER
    assert count / 1e6 == pytest.approx(params, abs=0.06 if side is None else 0.006)
    if side is not None:
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side, device='meta'))
        # The cards also count norms and pooling.
        found = (counter.get_total_flops() / 2 + CLASSIFIER) / 1e9
        assert found == pytest.approx(macs, rel=0.01)


def test_stem_has_the_published_width_unless_told_otherwise():
    with torch.device('meta'):
        widths = [ResNeSt(depth).stem[6].out_channels for depth in (50, 101, 200, 269)]
        told = ResNeSt(101, stem_channels=64).stem[6].out_channels
    assert (widths, told) == ([64, 128, 128, 128], 64)


def test_registered_name_builds():
    with torch.device('meta'):
        assert type(MODELS.build(dict(type='ResNeSt', depth=50))) is ResNeSt


# ------------------------------------------------------------------------------------------ options

VARIANTS = {
    '2s1x': dict(),
    '1s1x': dict(radix=1),
    '3s1x': dict(radix=3, base_channels=24, reduction_factor=6),
    '2s2x': dict(groups=2, base_width=32),
    '1s4x': dict(radix=1, groups=4, base_width=16),
    '4s2x': dict(radix=4, groups=2, base_width=32),
    'strided': dict(avg_down_stride=False),
    'caffe': dict(style='caffe'),
    'GN': dict(norm_cfg=dict(type='GN', num_groups=8)),
    'FrozenBN': dict(norm_cfg=dict(type='FrozenBN')),
    'NaiveSyncBN': dict(norm_cfg=dict(type='NaiveSyncBN'), norm_eval=False),
    'SyncBN': dict(norm_cfg=dict(type='SyncBN'), norm_eval=False),
    'batch statistics': dict(norm_eval=False),
    'frozen': dict(frozen_stages=1, norm_eval=False),
    'DCN': dict(dcn=DCN),
    'DCNv2': dict(dcn=DCNV2),
    '2s2x DCNv2': dict(groups=2, base_width=32, dcn=DCNV2),
    'DCNv2 with plain strides': dict(dcn=dict(DCNV2, fallback_on_stride=True)),
}


def variant(name: str, **options) -> ResNeSt:
    if 'dcn' in VARIANTS[name]:
        pytest.importorskip('mmcv._ext')
    return small(**copy.deepcopy(VARIANTS[name]), **options)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_trains_and_ignores_the_memory_layout(name):
    model = variant(name).double().train()
    x = images().double()
    total(model(x)).backward()
    for key, parameter in model.named_parameters():
        frozen = name == 'frozen' and key.startswith(('stem', 'layer1'))
        assert parameter.requires_grad is not frozen, key
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, key
    model.eval()
    with torch.no_grad():
        plain = model(x)
        assert [tuple(output.shape[2:]) for output in plain] == [(10, 14), (5, 7)]
        model.to(memory_format=torch.channels_last)
        assert_close(model(x.to(memory_format=torch.channels_last)), plain, 1e-12)


@pytest.mark.parametrize('name', ['2s1x', '1s4x', '3s1x', 'batch statistics', 'frozen', 'FrozenBN'])
def test_shortcuts_of_training_change_neither_outputs_nor_gradients(name):
    """Folded norms (see conv_norm) against every layer called as it is."""
    direct = variant(name).double().train()
    plain = copy.deepcopy(direct)
    for module in plain.modules():
        if hasattr(module, 'direct'):
            module.direct = False
    plain.training = False  # of the container itself: it decides how the stem is run
    ours, expected = direct(images().double()), plain(images().double())
    assert_close(ours, expected, 1e-12)
    total(ours).backward()
    total(expected).backward()
    for a, b in zip(direct.parameters(), plain.parameters()):
        assert (a.grad is None) is (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-7, atol=1e-12)


def test_equal_splits_come_out_unchanged():
    """Whatever the attention says, its weights add up to 1."""
    for radix in (2, 3):
        layer = SplitAttention(
            6,
            stride=1,
            dilation=1,
            groups=1,
            radix=radix,
            reduction_factor=4,
            conv_cfg=None,
            norm_cfg=dict(type='BN'),
            dcn=None,
        ).eval()
        x = torch.rand(2, 6, 5, 4)
        layer.conv = nn.Identity()
        with torch.no_grad():
            assert_close([layer(torch.cat([x] * radix, 1) / (1 + 1e-5) ** 0.5)], [x / 1.000005])


def test_attention_depends_on_the_whole_image():
    layer = variant('2s1x').layer1[1].conv2
    x = torch.rand(1, 16, 9, 9)
    far = x.clone()
    far[:, :, 8, 8] += 5
    with torch.no_grad():
        assert (layer(x) - layer(far))[:, :, :5, :5].abs().max() > 1e-3


# --------------------------------------------------------------------------------- memory and speed


@pytest.mark.parametrize('radix', [1, 2])
def test_split_attention_keeps_one_copy_of_its_splits(radix):
    """For the backward pass: the input and the splits, nothing else of a map's size."""
    layer = variant('2s1x' if radix == 2 else '1s1x').layer1[1].conv2
    x = torch.rand(2, 16, 64, 64, requires_grad=True)
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x, direct=True)
    maps = [size for size in kept.values() if size >= x.nbytes]
    assert sorted(maps) == [x.nbytes] * 2 if radix == 1 else [x.nbytes, 2 * x.nbytes]
    assert out.shape == x.shape


def test_the_average_of_a_large_map_does_not_overflow():
    x = torch.full((1, 2, 300, 400), 60, dtype=torch.float16)
    assert _average(x).eq(60).all()


@pytest.mark.parametrize('norm', ['BN', 'NaiveSyncBN', 'SyncBN'])
def test_checkpointing_changes_neither_gradients_nor_statistics(norm):
    options = dict(norm_cfg=dict(type=norm), norm_eval=False, frozen_stages=0)
    stored, recomputed = small(**options).train(), small(**options, with_cp=True).train()
    for model in (stored, recomputed):
        total(model(images())).backward()
    for a, b in zip(stored.parameters(), recomputed.parameters()):
        assert a.grad is None if b.grad is None else torch.equal(a.grad, b.grad)
    after = recomputed.state_dict()
    for key, value in stored.state_dict().items():
        assert torch.equal(value, after[key]), key
    assert after['layer2.1.conv2.bn0.num_batches_tracked'] == 1


@pytest.mark.parametrize(
    'name', ['2s1x', '1s1x', '3s1x', '4s2x', 'GN', 'FrozenBN', 'NaiveSyncBN', 'DCN', '2s2x DCNv2']
)
def test_prepared_for_inference_it_computes_the_same(name):
    """Norms behind plain convolutions are gone, those behind deformable ones stay."""
    model = nn.Module()
    model.backbone = variant(name, with_cp=True)
    plain = copy.deepcopy(model.backbone)
    prepare_for_inference(model)
    with torch.inference_mode():
        x = images()
        ours = model.backbone(x.to(memory_format=torch.channels_last))
        assert_close(ours, plain(x), 1e-5)
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    deformable = sum(hasattr(module, 'conv_offset') for module in plain.modules())
    assert isinstance(model.backbone, torch.fx.GraphModule)
    assert len(norms) == deformable
    assert (deformable > 0) is ('dcn' in VARIANTS[name])


@pytest.mark.parametrize('name', ['2s1x', '1s1x', '4s2x', 'DCNv2'])
@pytest.mark.parametrize('training', [False, True])
def test_mixed_precision_stays_close(name, training):
    model = variant(name).train(training)
    with torch.autocast('cpu', torch.bfloat16):
        ours = model(images())
    assert all(output.dtype == torch.bfloat16 for output in ours)
    assert_close([output.float() for output in ours], model(images()), 0.05)
    total(ours).backward()
    prepared = nn.Module()
    prepared.backbone = variant(name)
    prepared.forward = prepared.backbone.forward
    prepare_for_inference(prepared, dtype=torch.bfloat16)
    with torch.inference_mode():
        half = prepared.backbone(images())
        assert_close([output.float() for output in half], model.eval()(images()), 0.05)


@pytest.mark.parametrize(
    'name, training',
    [
        ('2s1x', False),
        ('1s1x', False),
        ('4s2x', False),
        ('2s1x', True),
        ('batch statistics', True),
        ('FrozenBN', True),
        ('DCNv2', True),
    ],
)
def test_the_forward_pass_compiles_without_breaks(name, training):
    model = variant(name, stages=2 if 'DCN' in name else 1).train(training)
    expected = copy.deepcopy(model)(images())
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    assert_close(compiled(images()), expected)
    torch.compiler.reset()


def test_a_checkpointed_block_compiles():
    model = small(1, with_cp=True, frozen_stages=0).train()
    expected = small(1, frozen_stages=0).train()
    compiled = torch.compile(model, backend='aot_eager')
    total(compiled(images())).backward()
    total(expected(images())).backward()
    for a, b in zip(model.parameters(), expected.parameters()):
        assert (a.grad is None) is (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    torch.compiler.reset()


# -------------------------------------------------------------------------------------- bad configs


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(depth=34), 'depth is 34; ResNeSt has the depths 50, 101, 152, 200, 269'),
        (dict(radix=0), 'radix is 0; expected a whole number from 1'),
        (dict(groups=0), 'groups is 0'),
        (dict(reduction_factor=0.5), 'reduction_factor is 0.5'),
        (dict(radix=3), 'radix=3, base_width=4, base_channels=64 give 64 channels at 64 planes'),
        (dict(groups=2, base_width=3, radix=4), 'groups * radix = 8 equal parts'),
        (dict(groups=16, base_width=3), 'give 48 channels at 64 planes'),
        (dict(groups=2, base_width=0), 'give 0 channels'),
        (dict(groups=3, base_width=32, radix=1), 'groups is 3, which does not divide the 32'),
        (dict(dcn=dict(DCNV2, deform_groups=3)), 'dcn.deform_groups is 3'),
        (dict(dcn=dict(DCNV2, deform_groups=0)), 'dcn.deform_groups is 0'),
        (dict(dcn=dict(DCNV2, offset_groups=5)), 'dcn.offset_groups is 5'),
        (dict(dcn=dict(DCN, offset_groups=8)), 'does not divide the 36 offsets of 2 deform_groups'),
        (dict(dcn=dict(DCNV2, offsetgroups=2)), 'offsetgroups'),
        (dict(stem_channels=64, plugins=[dict()]), 'plugins is not supported'),
    ],
    ids=str,
)
def test_bad_options_say_what_to_change(options, message):
    if 'dcn' in options:
        pytest.importorskip('mmcv._ext')
        options = dict(options, stage_with_dcn=(False, True, True, True))
    with pytest.raises(ConfigError) as error, torch.device('meta'):
        ResNeSt(**dict(dict(depth=50), **options))
    assert message in str(error.value)
    assert 'backbone' in str(error.value) and '\n' not in str(error.value)


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match='radixx'):
        ResNeSt(50, radixx=2)


def test_one_image_without_statistics_says_what_to_change():
    model = small(norm_eval=False).train()
    with pytest.raises(ConfigError, match=r'train_dataloader.batch_size.*SyncBN.*norm_eval') as e:
        model(images(batch=1))
    assert '\n' not in str(e.value)
    small().train()(images(batch=1))  # norm_eval


def test_config_check_knows_the_keys():
    def config(**backbone):
        return Config(
            dict(model=dict(type='FasterRCNN', backbone=dict(type='ResNeSt', **backbone)))
        )

    known = dict(groups=1, base_width=64, radix=2, reduction_factor=4, avg_down_stride=True)
    check_config(config(depth=50, norm_cfg=dict(type='NaiveSyncBN'), dcn=dict(DCNV2), **known))
    check_config(config(depth=50, norm_cfg=dict(type='FrozenBN', eps=0.0)))
    with pytest.raises(ConfigError, match=r'dcn.ofset_groups.*offset_groups'):
        check_config(config(depth=50, dcn=dict(type='DCNv2', ofset_groups=2)))
    with pytest.raises(ConfigError, match=r'raddix.*radix'):
        check_config(config(depth=50, raddix=2))
