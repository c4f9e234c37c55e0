"""Weights that a model would take without a word and be worthless with; what is wrong in a
checkpoint beside its weights. Each is one line that names file and key, and changes no model."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmdet_r2.errors import CheckpointError
from mmdet_r2.zoo import checkpoint_weights, load_checkpoint, read_checkpoint


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def refused(content: Any, tmp_path: Path, strict: bool = False) -> str:
    """The message for a file of that content; of the same content, not in a file, it is the same
    kind of error."""
    path = tmp_path / 'wrong.pth'
    torch.save(content, path)
    whole = model()
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(whole, path, strict=strict)
    after = whole.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    message = str(error.value)
    assert 'wrong.pth' in message and '\n' not in message and len(message) < 700
    if isinstance(content, dict):
        with pytest.raises(CheckpointError):
            load_checkpoint(whole, content, strict=strict)
    return message


@pytest.mark.parametrize('strict', [False, True], ids=['loaded', 'resumed'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('share', ['one value', 'a tensor', 'all', 'a buffer'])
def test_weights_of_nan_are_named(share: str, value: float, strict: bool, tmp_path: Path) -> None:
    weights = {key: tensor.clone() for key, tensor in model().state_dict().items()}
    if share == 'one value':
        weights['0.weight'][2, 1, 0, 0] = value
    elif share == 'a tensor':
        weights['0.weight'].fill_(value)
    elif share == 'a buffer':
        weights['1.running_var'][1] = value
    else:
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor.fill_(value)
    message = refused(dict(state_dict=weights, meta={}), tmp_path, strict)
    first = '1.running_var' if share == 'a buffer' else '0.weight'
    count = {'one value': '1 of 108', 'a buffer': '1 of 4'}.get(share, '108 of 108')
    assert first in message and count in message


def test_large_values_are_no_infinity() -> None:
    weights = model().state_dict()
    weights['0.weight'] = torch.full_like(weights['0.weight'], 3e38)  # the sum is infinite
    assert load_checkpoint(model(), weights).complete
    half = {k: v.half() if v.is_floating_point() else v for k, v in model().state_dict().items()}
    half['0.weight'] = torch.full((4, 3, 3, 3), 60_000.0, dtype=torch.half)
    assert load_checkpoint(model(), half).complete
    double = {k: v.double() if v.is_floating_point() else v for k, v in half.items()}
    assert load_checkpoint(model(), double).complete
    double['0.weight'][0, 0, 0, 0] = 1e300  # infinite as float32
    with pytest.raises(CheckpointError, match=r'0\.weight'):
        load_checkpoint(model(), double)


@pytest.mark.parametrize('kind', [torch.int8, torch.bool, torch.int64, torch.complex64])
def test_numbers_of_another_kind(kind: torch.dtype, tmp_path: Path) -> None:
    weights = model().state_dict()
    weights['0.weight'] = weights['0.weight'].to(kind)
    assert '0.weight' in refused(dict(state_dict=weights), tmp_path)


def test_tensors_of_another_kind_are_named(tmp_path: Path) -> None:
    weights = model().state_dict()
    kinds = {
        'sparse': weights['0.weight'].to_sparse(),
        'data': weights['0.weight'].to('meta'),
        'quantized': torch.quantize_per_tensor(weights['0.weight'], 0.1, 0, torch.qint8),
    }
    for word, value in kinds.items():
        content = dict(state_dict={**weights, '0.weight': value})
        assert word in refused(content, tmp_path)
        with pytest.raises(CheckpointError, match=rf'0\.weight.*{word}'):
            checkpoint_weights(content, 'here')


WEIGHTS = OrderedDict(model().state_dict())
WRONG = {
    'meta is a list': (dict(meta=[1]), 'meta'),
    'meta is a text': (dict(meta='x' * 10_000), 'meta'),
    'classes are a number': (dict(meta=dict(dataset_meta=dict(classes=5))), 'classes.*5'),
    'CLASSES are a number': (dict(meta=dict(CLASSES=5)), 'CLASSES.*5'),
    'classes hold lists': (dict(meta=dict(CLASSES=[['a']])), 'CLASSES'),
    'classes are flags': (dict(meta=dict(CLASSES=[True])), 'CLASSES'),
    'classes are a mapping': (dict(meta=dict(CLASSES=dict(a=1))), 'CLASSES'),
    'dataset_meta is a list': (dict(meta=dict(dataset_meta=['a'])), 'dataset_meta'),
    'a palette of numbers': (dict(meta=dict(CLASSES=('a',), PALETTE=[1, 2])), 'PALETTE'),
    'a palette of pairs': (dict(meta=dict(CLASSES=('a',), PALETTE=[(1, 2)])), 'PALETTE'),
    'a palette that is too bright': (
        dict(meta=dict(dataset_meta=dict(palette=[(1, 2, 300)]))),
        '300',
    ),
}


@pytest.mark.parametrize('kind', WRONG)
def test_wrong_meta(kind: str, tmp_path: Path) -> None:
    import re

    content, expected = WRONG[kind]
    message = refused(dict(state_dict=WEIGHTS, **content), tmp_path)
    assert re.search(expected, message)


def test_sound_meta(tmp_path: Path) -> None:
    for meta in (
        dict(CLASSES=('a', 'b'), PALETTE=[(1, 2, 3), [4, 5, 6]]),
        dict(CLASSES='a', PALETTE=None),
        dict(CLASSES=None),
        dict(dataset_meta=dict(classes=['a'], palette='random')),
        dict(dataset_meta=None),
        None,
    ):
        torch.save(dict(state_dict=WEIGHTS, meta=meta), tmp_path / 'a.pth')
        assert load_checkpoint(model(), tmp_path / 'a.pth').complete


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ({}, 'nothing'),
        ([], 'list'),
        (torch.ones(2), 'Tensor'),
        ('text', 'str'),
        (None, 'NoneType'),
        (dict(state_dict=5), 'state_dict is a int'),
        (dict(state_dict=[torch.ones(1)]), 'state_dict is a list'),
        (dict(state_dict={}), 'state_dict'),
        (dict(state_dict={'a': [1.0]}), 'state_dict'),
        (dict(state_dict={0: torch.ones(1)}), '0'),
        ({0: torch.ones(1)}, '0'),
        ({b'a': torch.ones(1)}, "b'a'"),
        (dict(epoch=10**70), 'epoch'),
        ({**WEIGHTS, 'a\nb': torch.ones(1)}, r'a\nb'),
        ({**WEIGHTS, '\ud800': torch.ones(1)}, r'\ud800'),
        ({**WEIGHTS, 'a' * 10_000: torch.ones(1)}, 'aaa'),
    ],
)
def test_no_weights(content: Any, expected: str, tmp_path: Path) -> None:
    assert expected in refused(content, tmp_path)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / 'a.safetensors'
    for meta in ('[1]', '{"classes": 5}', '[' * 100_000, '{'):
        save_file(dict(WEIGHTS), path, metadata=dict(meta=meta))
        with pytest.raises(CheckpointError, match=r'a\.safetensors') as error:
            load_checkpoint(model(), path)
        assert '\n' not in str(error.value)
    save_file({**WEIGHTS, '0.weight': torch.full((4, 3, 3, 3), float('nan'))}, path)
    with pytest.raises(CheckpointError, match=r'a\.safetensors.*0\.weight'):
        load_checkpoint(model(), path)
    content = path.read_bytes()
    for cut in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r'a\.safetensors'):
            read_checkpoint(path)


def test_versions_of_modules_that_are_none(tmp_path: Path) -> None:
    for version in ('x', None, [1]):
        weights = OrderedDict(WEIGHTS)
        weights._metadata = {'1': dict(version=version), '': 5, '0': dict(version=1)}
        torch.save(dict(state_dict=weights), tmp_path / 'a.pth')
        assert load_checkpoint(model(), tmp_path / 'a.pth').complete
        assert load_checkpoint(model(), dict(state_dict=weights)).complete


def test_arrays_of_nan(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / 'a.pkl'
    arrays = {key: value.numpy().copy() for key, value in WEIGHTS.items()}
    arrays['0.weight'][:] = np.nan
    path.write_bytes(pickle.dumps(dict(model=arrays)))
    with pytest.raises(CheckpointError, match=r'a\.pkl.*0\.weight'):
        load_checkpoint(model(), path)
