"""NaiveSyncBN over two real processes, FrozenBN, and what SyncBN does without a process group."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from engine_toy import toy_config
from mmcv.cnn import ConvModule, build_norm_layer
from torch import nn

from mmdet_r2.engine import build_runner
from mmdet_r2.models.norms import FrozenBN, NaiveSyncBN

CHANNELS = 5
# Shapes of the inputs of the two workers.
CASES = {
    'different sizes': ((3, CHANNELS, 4, 6), (2, CHANNELS, 7, 3)),
    'one image each': ((1, CHANNELS, 1, 1), (1, CHANNELS, 1, 1)),
    'no RoI on one worker': ((4, CHANNELS, 3, 3), (0, CHANNELS, 3, 3)),
    'vectors': ((6, CHANNELS), (3, CHANNELS)),
    'nothing anywhere': ((0, CHANNELS, 2, 2), (0, CHANNELS, 2, 2)),
}


def tensors(name: str, rank: int, dtype: torch.dtype = torch.float64):
    """Input and weights of the loss of one worker."""
    generator = torch.Generator().manual_seed(len(name) * 2 + rank)
    shape = CASES[name][rank]
    x, loss = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return x * (1 + rank) + 0.3, loss


def norm() -> NaiveSyncBN:
    layer = NaiveSyncBN(CHANNELS).double()
    with torch.no_grad():
        for i, tensor in enumerate((layer.weight, layer.bias, layer.running_mean)):
            tensor.copy_(torch.linspace(0.5, 1.0 + i, CHANNELS))
    return layer


def worker(rank: int, store: str, results: str) -> None:
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    found = {}
    for name in CASES:
        layer = norm().train()
        x, loss = tensors(name, rank)
        x.requires_grad_()
        out = layer(x)
        (out * loss).sum().backward()
        state = {key: value.clone() for key, value in layer.state_dict().items()}
        found[name] = dict(out=out.detach(), x=x.grad, weight=layer.weight.grad, state=state)
        with torch.no_grad():
            found[name]['eval'] = layer.eval()(x)
    x, _ = tensors('different sizes', rank)
    half = norm().float().train()(x.to(torch.bfloat16))
    found['half'] = half
    torch.save(found, f'{results}{rank}')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('workers')
    mp.spawn(worker, (str(folder / 'store'), str(folder / 'results')), nprocs=2)
    return [torch.load(folder / f'results{rank}') for rank in range(2)]


def expected(name: str):
    """The same by one process: equal weight per worker that has input, biased variance."""
    layer = norm()
    data = [tensors(name, rank) for rank in range(2)]
    inputs = [x.requires_grad_() for x, _ in data]
    filled = [x for x in inputs if x.numel()]
    axes = [0, *range(2, inputs[0].dim())]
    mean = sum(x.mean(axes) for x in filled) / len(filled)
    variance = sum(x.square().mean(axes) for x in filled) / len(filled) - mean.square()
    shape = (1, -1, *[1] * (inputs[0].dim() - 2))
    outs = []
    for x in inputs:
        y = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        outs.append(y * layer.weight.view(shape) + layer.bias.view(shape))
    sum((out * loss).sum() for out, (_, loss) in zip(outs, data)).backward()
    running_mean = 0.9 * layer.running_mean + 0.1 * mean.detach()
    running_var = 0.9 * layer.running_var + 0.1 * variance.detach()
    weights = []
    for out, (_, loss) in zip(outs, data):
        scaled = (out - layer.bias.view(shape)) / layer.weight.view(shape)
        weights.append((scaled * loss).sum(axes).detach())
    return outs, [x.grad for x in inputs], weights, running_mean, running_var


@pytest.mark.parametrize('name', [name for name in CASES if name != 'nothing anywhere'])
def test_two_workers_equal_one_process(name, workers):
    outs, grads, weights, mean, variance = expected(name)
    for rank, found in enumerate(workers):
        found = found[name]
        assert torch.allclose(found['out'], outs[rank], atol=1e-9)
        assert torch.allclose(found['x'], grads[rank], atol=1e-9)
        assert torch.allclose(found['weight'], weights[rank], atol=1e-9)
        assert torch.allclose(found['state']['running_mean'], mean)
        assert torch.allclose(found['state']['running_var'], variance)
        assert found['state']['num_batches_tracked'] == 1
        plain = nn.BatchNorm2d(CHANNELS).double().eval()
        plain.load_state_dict(found['state'])
        x, _ = tensors(name, rank)
        if x.dim() == 4:
            assert torch.allclose(found['eval'], plain(x))


def test_workers_without_any_input_learn_nothing(workers):
    before = norm().state_dict()
    for found in workers:
        found = found['nothing anywhere']
        assert found['out'].numel() == 0 and found['weight'].eq(0).all()
        assert torch.equal(found['state']['running_mean'], before['running_mean'])
        assert torch.equal(found['state']['running_var'], before['running_var'])


def test_mixed_precision_keeps_the_type_and_float_statistics(workers):
    outs, *_ = expected('different sizes')
    for found, wanted in zip(workers, outs):
        assert found['half'].dtype == torch.bfloat16
        assert (found['half'] - wanted).abs().max() < 0.05


def test_one_worker_is_an_ordinary_batch_norm():
    ours, plain = norm(), nn.BatchNorm2d(CHANNELS).double()
    plain.load_state_dict(ours.state_dict())
    x, _ = tensors('different sizes', 0)
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(x), plain.train(mode)(x))
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert ours(x[:0]).shape == (0, *x.shape[1:])


# ----------------------------------------------------------------------------------------- FrozenBN


@pytest.mark.parametrize('eps', [1e-5, 0.0])
def test_a_frozen_norm_is_a_constant_scale_and_shift(eps):
    name, layer = build_norm_layer(dict(type='FrozenBN', eps=eps), 4, postfix=2)
    assert name == 'bn2' and type(layer) is FrozenBN
    source = nn.BatchNorm2d(4)
    for tensor in source.state_dict().values():
        if tensor.dim():
            tensor.uniform_(0.5, 1.5)
    layer.load_state_dict(source.state_dict())  # the names of an ordinary norm
    x = torch.randn(2, 4, 3, 5, requires_grad=True)
    column = {
        key: value.view(-1, 1, 1) for key, value in source.state_dict().items() if value.dim()
    }
    scale = column['weight'] / (column['running_var'] + eps).sqrt()
    wanted = (x - column['running_mean']) * scale + column['bias']
    before = copy.deepcopy(layer.state_dict())
    layer.train().requires_grad_(True)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, scale.expand_as(x))
    assert not layer.training and not list(layer.parameters())
    for key, value in before.items():
        assert torch.equal(layer.state_dict()[key], value), key


def test_both_norms_fit_conv_modules():
    for kind in ('FrozenBN', 'NaiveSyncBN'):
        module = ConvModule(3, 4, 3, norm_cfg=dict(type=kind))
        module.init_weights()
        assert module.conv.bias is None and module.norm_name == 'bn'
        assert module(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)


# ------------------------------------------------------------------------------ no process group


@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_one_process_trains_sync_norms_as_plain_ones_with_one_warning(kind, tmp_path, capfd):
    runner = build_runner(toy_config(tmp_path, model__norm=kind))
    runner.train()
    assert type(runner.model.bn).__name__ != 'SyncBatchNorm'
    text = ''.join(capfd.readouterr())
    assert text.count('SyncBN has nobody to share statistics with') == (kind == 'SyncBN')
