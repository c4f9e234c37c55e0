"""The feature pyramid: levels, sizes, extra outputs."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.fpn import FPN
from mmdet_r2.registry import MODELS

WIDTHS = (4, 8, 16, 32)


def feature_maps(sizes=((25, 38), (13, 19), (7, 10), (4, 5))):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, width, *size, generator=generator) for width, size in zip(WIDTHS, sizes)]


def build(**options) -> FPN:
    neck = FPN(**dict(dict(in_channels=WIDTHS, out_channels=8, num_outs=5), **options))
    neck.init_weights()
    return neck.eval()


def test_levels_are_merged_top_down():
    """Odd sizes: every map is enlarged to the one it is added to, not by a factor of two."""
    neck, inputs = build(), feature_maps()
    with torch.no_grad():
        outs = neck(inputs)
        merged = None
        for i in (3, 2, 1, 0):
            lateral, output = neck.lateral_convs[i].conv, neck.fpn_convs[i].conv
            here = F.conv2d(inputs[i], lateral.weight, lateral.bias)
            if merged is not None:
                here = here + F.interpolate(merged, size=here.shape[2:], mode='nearest')
            merged = here
            expected = F.conv2d(here, output.weight, output.bias, padding=1)
            torch.testing.assert_close(outs[i], expected)
        assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


def test_names_are_those_of_published_checkpoints():
    names = ('weight', 'bias')
    assert set(build().state_dict()) == {
        f'{part}.{i}.conv.{name}'
        for part in ('lateral_convs', 'fpn_convs')
        for i in range(4)
        for name in names
    }
    normed = build(norm_cfg=dict(type='BN'), no_norm_on_lateral=True).state_dict()
    assert 'fpn_convs.3.bn.running_var' in normed and 'fpn_convs.3.conv.bias' not in normed
    assert 'lateral_convs.0.conv.bias' in normed and 'lateral_convs.0.bn.weight' not in normed


@pytest.mark.parametrize('source', [True, 'on_input', 'on_lateral', 'on_output'])
@pytest.mark.parametrize('relu', [False, True])
def test_extra_outputs_from_convolutions(source, relu):
    neck = build(add_extra_convs=source, relu_before_extra_convs=relu, num_outs=6)
    inputs = feature_maps()
    with torch.no_grad():
        outs = neck(inputs)
        last = neck.lateral_convs[3](inputs[3])
        start = {'on_lateral': last, 'on_output': outs[3]}.get(source, inputs[3])
        first = neck.fpn_convs[4](start)
        torch.testing.assert_close(outs[4], first)
        torch.testing.assert_close(outs[5], neck.fpn_convs[5](first.relu() if relu else first))
    assert [tuple(x.shape[2:]) for x in outs[3:]] == [(4, 5), (2, 3), (1, 2)]


@pytest.mark.parametrize(
    'options, levels',
    [
        (dict(num_outs=4), (0, 1, 2, 3)),
        (dict(start_level=1, num_outs=3), (1, 2, 3)),
        (dict(start_level=1, end_level=2, num_outs=2), (1, 2)),
        (dict(start_level=0, end_level=3, num_outs=4), (0, 1, 2, 3)),
    ],
)
def test_levels_can_be_left_out(options, levels):
    inputs = feature_maps()
    outs = build(**options)(inputs)
    assert [x.shape[2:] for x in outs] == [inputs[i].shape[2:] for i in levels]


def test_gradients_reach_every_parameter():
    neck = build(norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='ReLU')).train()
    sum(x.square().mean() for x in neck(feature_maps())).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initial_values_are_uniform_xavier():
    weight = build(in_channels=[256] * 4, out_channels=256).fpn_convs[0].conv.weight
    bound = (6 / (2 * 256 * 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_outs=3), 'num_outs is 3'),
        (dict(end_level=2, num_outs=4), 'more outputs need end_level -1'),
        (dict(start_level=4), 'start_level 4'),
        (dict(end_level=4), 'end_level 4'),
        (dict(add_extra_convs='on_top'), "add_extra_convs is 'on_top'"),
    ],
)
def test_bad_options_say_what_to_change(options, message):
    with pytest.raises(ConfigError) as error:
        build(**options)
    assert message in str(error.value)


def test_too_few_feature_maps_are_an_error():
    with pytest.raises(ValueError, match='got 3 feature maps, but its in_channels has 4'):
        build()(feature_maps()[:3])


def test_it_is_registered():
    neck = dict(type='FPN', in_channels=[4], out_channels=4, num_outs=2)
    assert isinstance(MODELS.build(neck), FPN)
