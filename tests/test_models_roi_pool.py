"""RoI max pooling and deformable pooling against mmcv's kernels, as layers, and as operators."""

import numpy as np
import pytest
import torch
from record_pools import GAMMA, RECORD, SCALE, SIZE, inputs

from mmdet_r2 import ops
from mmdet_r2.models.roi import SingleRoIExtractor

pytestmark = pytest.mark.tv

# What inputs() says: cells of the later RoIs leave the map. There mmcv goes on with the gradient of
# the border's cells although the value stays; ours is the value's.
INSIDE = 3


@pytest.fixture(scope='module')
def recorded() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(RECORD).items()}


@pytest.mark.parametrize('ratio', [0, 2])
def test_deformable_pooling_is_mmcvs(recorded, ratio) -> None:
    given = inputs()
    feature, offset = given['feature'].requires_grad_(), given['offset'].requires_grad_()
    out = ops.deform_roi_pool(feature, given['rois'], offset, SIZE, SCALE, ratio, GAMMA)
    torch.testing.assert_close(out, recorded[f'deform/{ratio}'], rtol=1e-5, atol=1e-5)
    of_feature, of_offset = torch.autograd.grad(out, (feature, offset), given['grad'])
    torch.testing.assert_close(of_feature, recorded[f'deform/{ratio}/feature'], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        of_offset[:INSIDE], recorded[f'deform/{ratio}/offset'][:INSIDE], rtol=1e-4, atol=1e-4
    )


def test_max_pooling_is_mmcvs(recorded) -> None:
    given = inputs()
    feature = given['feature'].requires_grad_()
    out = ops.roi_pool(feature, given['rois'], SIZE, SCALE)
    assert torch.equal(out, recorded['pool'])
    (of_feature,) = torch.autograd.grad(out, feature, given['grad'])
    torch.testing.assert_close(of_feature, recorded['pool/feature'])


def test_at_rest_deformable_pooling_is_roi_align() -> None:
    given = inputs()
    zero = torch.zeros_like(given['offset'])
    rest = ops.deform_roi_pool(given['feature'], given['rois'], zero, SIZE, SCALE)
    aligned = ops.roi_align(given['feature'], given['rois'], SIZE, SCALE)
    torch.testing.assert_close(rest, aligned, rtol=1e-5, atol=1e-5)


LAYERS = {
    'RoIPool': {},
    'DeformRoIPoolPack': dict(output_channels=3, deform_fc_channels=8),
    'ModulatedDeformRoIPoolPack': dict(output_channels=3, deform_fc_channels=8),
}


@pytest.mark.parametrize('kind', LAYERS)
@pytest.mark.parametrize('num', [0, 5])
def test_layers_train_with_and_without_rois(kind, num) -> None:
    layer = dict(type=kind, output_size=4, **LAYERS[kind])
    extractor = SingleRoIExtractor(layer, 3, [4, 8], finest_scale=10)
    features = tuple(torch.randn(2, 3, n, n, requires_grad=True) for n in (16, 8))
    rois = torch.tensor([[0, 1, 2, 30, 40], [1, 0, 0, 9, 9]] * 3)[:num].float()
    pooled = extractor(features, rois)
    assert pooled.shape == (num, 3, 4, 4)
    assert extractor(features, rois, (2, 2)).shape == (num, 3, 2, 2)
    pooled.square().sum().backward()
    assert all(tensor.grad is not None for tensor in (*features, *extractor.parameters()))
    if num and kind != 'RoIPool':
        # weights start at zero, so only the last layers' biases and weights learn at first
        assert any(p.grad.any() for p in extractor.roi_layers[0].offset_fc[-1].parameters())


def test_keys_of_deformable_layers_are_mmdetections() -> None:
    layer = dict(type='ModulatedDeformRoIPoolPack', output_size=7, **LAYERS['DeformRoIPoolPack'])
    keys = SingleRoIExtractor(layer, 3, [4, 8]).state_dict()
    assert {key.rpartition('.')[0] for key in keys} == {
        f'roi_layers.{level}.{name}'
        for level in range(2)
        for name in ('offset_fc.0', 'offset_fc.2', 'offset_fc.4', 'mask_fc.0', 'mask_fc.2')
    }


def _cases() -> dict[str, tuple]:
    given = inputs()
    feature, rois = given['feature'], given['rois'][:INSIDE]
    x, weight = torch.randn(2, 4, 6, 7), torch.randn(6, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 6, 7) / 3, torch.rand(2, 9, 6, 7)
    geometry = ((1, 1), (1, 1), (1, 1), 1, 1, 32)
    return {
        'roi_align': (feature, rois, SIZE, SCALE, 0, True, 1, 0),
        'roi_pool': (feature, rois, SIZE, SCALE),
        'deform_roi_pool': (feature, rois, given['offset'][:INSIDE], SIZE, SCALE, 2, GAMMA),
        'deform_conv': (x, offset, mask, weight, torch.randn(6), *geometry),
        'deform_conv without mask': (x, offset, None, weight, None, *geometry),
    }


@pytest.mark.parametrize('case', _cases())
def test_is_one_operator_of_a_graph(case) -> None:
    differentiable = {'roi_align': [0], 'roi_pool': [0], 'deform_roi_pool': [0, 2]}
    name = case.partition(' ')[0]
    wanted = differentiable.get(name, range(5))
    arguments = [
        value.clone().requires_grad_(i in wanted) if isinstance(value, torch.Tensor) else value
        for i, value in enumerate(_cases()[case])
    ]
    operator = getattr(torch.ops.mmdet_r2, name)
    torch.library.opcheck(operator, arguments)
    eager, graph = getattr(ops, name)(*arguments), operator(*arguments)
    assert torch.equal(eager, graph)
    leaves = [value for value in arguments if getattr(value, 'requires_grad', False)]
    weight = torch.rand_like(eager)
    for a, b in zip(
        torch.autograd.grad(eager, leaves, weight), torch.autograd.grad(graph, leaves, weight)
    ):
        torch.testing.assert_close(a, b)

    class Module(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            given = iter(tensors)
            return getattr(ops, name)(
                *(next(given) if isinstance(a, torch.Tensor) else a for a in arguments)
            )

    tensors = tuple(a.detach() for a in arguments if isinstance(a, torch.Tensor))
    exported = torch.export.export(Module(), tensors)
    targets = [node.target for node in exported.graph.nodes if node.op == 'call_function']
    assert targets == [operator.default]
