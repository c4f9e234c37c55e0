"""Checkpoint files: what is read, what is refused, and that refusing runs nothing."""

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmdet_r2.errors import CheckpointError
from mmdet_r2.zoo import read_checkpoint, verify_checkpoint

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


def save(content: object, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_training_checkpoint_with_logs_and_numpy_objects_loads(tmp_path, zipped) -> None:
    history = HistoryBuffer([0.5, 1.5], [1, 1])
    content = dict(
        meta=dict(
            epoch=3,
            cfg='model = dict()',
            nested=ConfigDict(a=1, b=dict(c=[1, 2])),
            dataset_meta=dict(classes=('cat', 'dog'), palette=[(1, 2, 3)]),
        ),
        state_dict=collections.OrderedDict(weight=torch.ones(2, 3)),
        message_hub=dict(
            log_scalars={'train/loss': history},
            runtime_info={
                'iter': np.int64(7),
                'best': np.float32(0.5),
                'flags': np.array([True, False]),
                'names': np.array(['a', 'bc']),
                'classes': np.arange(3.0),
            },
            resumed_keys={'train/loss': True},
        ),
        optimizer=dict(
            state={0: dict(momentum_buffer=torch.zeros(3))}, param_groups=[dict(lr=0.1)]
        ),
        param_schedulers=[dict(last_step=3, _global_step=4)],
        counts=collections.defaultdict(list, a=[1]),
    )
    table = dict(HistoryBuffer._statistics_methods)
    read = read_checkpoint(save(content, tmp_path / 'epoch_3.pth', zipped))
    restored = read['message_hub']['log_scalars']['train/loss']
    assert type(restored) is HistoryBuffer
    assert restored.mean() == 1.0 and restored.statistics('max') == 1.5
    restored.update(2.5)
    assert restored.current() == 2.5
    assert HistoryBuffer._statistics_methods == table, 'a file changed the class'
    info = read['message_hub']['runtime_info']
    assert info['iter'] == 7 and info['flags'].tolist() == [True, False]
    assert info['names'].tolist() == ['a', 'bc'] and info['classes'].tolist() == [0, 1, 2]
    assert read['meta']['nested'].b.c == [1, 2]
    assert read['meta']['dataset_meta']['classes'] == ('cat', 'dog')
    assert torch.equal(read['state_dict']['weight'], torch.ones(2, 3))
    assert read['counts']['a'] == [1]


def test_a_resaved_history_buffer_is_mmengines_own(tmp_path) -> None:
    first = read_checkpoint(save(dict(h=HistoryBuffer([1.0], [1])), tmp_path / 'a.pth'))
    again = read_checkpoint(save(first, tmp_path / 'b.pth'))
    assert again['h'].mean() == 1.0


class _Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def _attacks(victim: Path) -> dict[str, _Call]:
    command = f'touch {victim}'
    return {
        'system': _Call(os.system, command),
        'exec': _Call(exec, f'open({str(victim)!r}, "w")'),
        'pickle.loads': _Call(pickle.loads, pickle.dumps(_Call(os.system, command))),
        'numpy.load': _Call(np.load, str(victim)),
        'torch.load': _Call(torch.load, str(victim)),
    }


@FORMATS
@pytest.mark.parametrize('name', ['system', 'exec', 'pickle.loads', 'numpy.load', 'torch.load'])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path, zipped, name) -> None:
    victim = tmp_path / 'created'
    content = dict(state_dict=dict(a=torch.ones(1)), extra=_attacks(victim)[name])
    path = save(content, tmp_path / 'evil.pth', zipped)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert 'evil.pth' in message and name.rpartition('.')[2] in message and '\n' not in message
    assert not victim.exists()


def test_getattr_reaches_nothing(tmp_path) -> None:
    """HistoryBuffer's pickles call getattr: here it gives nothing that could be called."""
    attack = _Call(_Call(getattr, HistoryBuffer, 'mean'), HistoryBuffer([1.0], [1]))
    read = save(dict(a=_Call(getattr, HistoryBuffer, '__init__')), tmp_path / 'a.pth')
    assert read_checkpoint(read) == dict(a=None)
    path = tmp_path / 'b.pth'
    try:
        save(dict(a=attack), path)
    except (TypeError, pickle.PicklingError):
        return  # the pickler itself refuses to write it
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@FORMATS
@pytest.mark.parametrize('part', [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_cut_file_is_one_line_that_says_so(tmp_path, zipped, part) -> None:
    whole = save(dict(state_dict=dict(a=torch.randn(64, 64))), tmp_path / 'a.pth', zipped)
    content = whole.read_bytes()
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(content[: max(2, int(len(content) * part)) if part else 0])
    with pytest.raises(CheckpointError, match=r'cut\.pth: .*(cut short|empty)') as error:
        read_checkpoint(cut)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('place', [0.2, 0.5, 0.8])
def test_other_bytes_than_were_written_are_noticed(tmp_path, place) -> None:
    """The container's checksum is compared: one flipped bit among the numbers changes no length."""
    path = save(dict(state_dict=dict(a=torch.randn(64, 64))), tmp_path / 'a.pth')
    verify_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    for check in (read_checkpoint, verify_checkpoint):
        with pytest.raises(CheckpointError, match=r'a\.pth'):
            check(path)


@pytest.mark.parametrize(
    'content',
    [b'hello world', b'<!DOCTYPE html><html></html>', bytes(range(256)) * 9],
    ids=['text', 'an error page', 'noise'],
)
def test_no_checkpoint_is_one_line_that_says_so(tmp_path, content) -> None:
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='not a PyTorch checkpoint') as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 400


def test_other_inputs_are_explained(tmp_path) -> None:
    save([torch.ones(1)], tmp_path / 'list.pth')
    cases = {
        str(tmp_path / 'list.pth'): 'holds a list',
        str(tmp_path / 'none.pth'): 'no such checkpoint file.*list.pth',
        str(tmp_path): 'is a folder',
        'faster_rcnn_r2_101_fpn_3x_coco': 'nearest known: faster_rcnn_r2_101_fpn_2x_coco',
        'open-mmlab://res2net101_v1d': 'nearest known: res2net101_v1d_26w_4s',
        'torchvision://resnet51': 'nearest known: resnet50',
        's3://bucket/x.pth': 'unknown kind of checkpoint address',
    }
    for source, expected in cases.items():
        with pytest.raises(CheckpointError, match=expected):
            read_checkpoint(source)
