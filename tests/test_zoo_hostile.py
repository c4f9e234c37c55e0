"""Files made to harm their reader: refused in one line that names the file, in no time and with no
memory to speak of; and thousands of damaged ones, read in a process of their own."""

import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdet_r2.errors import UserError
from mmdet_r2.evaluation import load_results
from mmdet_r2.evaluation.collect import read_torch
from mmdet_r2.pickles import Damaged, Refused
from mmdet_r2.zoo import read_checkpoint, verify_checkpoint


def text(value: str) -> bytes:
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def number(value: int) -> bytes:
    return b'J' + struct.pack('<i', value)


def name(module: str, attribute: str) -> bytes:
    return f'c{module}\n{attribute}\n'.encode()


def raw(value: bytes) -> bytes:
    arguments = text(value.decode('latin1')) + text('latin1')
    return name('_codecs', 'encode') + b'(' + arguments + b'tR'


def dtype(code: str, state: bytes = b'') -> bytes:
    return (
        name('numpy', 'dtype')
        + b'('
        + text(code)
        + b'\x89\x88tR'
        + (state + b'b' if state else b'')
    )


def array(kind: bytes, shape: bytes, data: bytes) -> bytes:
    made = name('numpy.core.multiarray', '_reconstruct') + b'(' + name('numpy', 'ndarray')
    return made + b'K\x00\x85' + raw(b'b') + b'tR(K\x01' + shape + kind + b'\x89' + data + b'tb'


def object_fields() -> bytes:
    """float64 with a field of objects: numpy would follow the 8 bytes as an address."""
    state = b'(' + number(3) + text('<') + b'N(' + text('a') + b't}' + text('a')
    state += b'(' + dtype('O') + b'K\x00ts' + number(8) + number(8) + number(1) + b't'
    return array(dtype('f8', state), b'K\x01\x85', raw(b'AAAAAAAA'))


def flagged_state() -> bytes:
    """The flag alone that says that it holds references."""
    state = b'(' + number(3) + text('<') + b'N(' + text('a') + b't}' + text('a')
    state += b'(' + dtype('f8') + b'K\x00ts' + number(8) + number(8) + number(1) + b't'
    return array(dtype('f8', state), b'K\x01\x85', raw(b'AAAAAAAA'))


PICKLES = {
    'a type with a field of objects': object_fields(),
    'a type with fields of its own': flagged_state(),
    'an array of objects': array(dtype('O8'), b'K\x01\x85', b'](}e'),
    'a subarray': array(dtype('(2,)f4'), b'K\x01\x85', raw(bytes(8))),
    'a void type': array(dtype('V8'), b'K\x01\x85', raw(bytes(8))),
    'a date': array(dtype('M8'), b'K\x01\x85', raw(bytes(8))),
    'a negative size': array(dtype('f4'), number(-2) + number(-1) + b'\x86', raw(bytes(8))),
    'a huge shape of nothing': array(dtype('f4'), number(2**31 - 1) + b'\x85', raw(b'')),
    'a letter that there is not': array(dtype('U1'), b'K\x01\x85', raw(b'\xff\xff\xff\x7f')),
    'tuples nested as a key': b'}' + b')' + b'\x85' * 50_000 + b'Ns',
    'doubled tuples as a key': b'})' + b'2\x86' * 60 + b'Ns',
    'doubled tuples in a set': name('builtins', 'set') + b'])' + b'2\x86' * 60 + b'a\x85R',
    'lists nested deep': b']' * 50_000 + b'a' * 49_999,
    'tuples nested deep': b')' + b'\x85' * 50_000,
    'dictionaries nested deep': (b'}' + text('a')) * 5_000 + b'N' + b's' * 5_000,
    'a billion laughs': b']' + b''.join(b'q%c](' % i + b'h%c' % i * 10 + b'e' for i in range(20)),
    'itself': b']q\x00h\x00a',
    'a number that the memory is made for': b'Nr\xff\xff\xff\x7fj\xfe\xff\xff\x7f\x86',
    'bytes without end': b'\x8e' + struct.pack('<Q', 2**62),
    'text without end': b'X\xff\xff\xff\xff',
    'a size as bytes': name('builtins', 'bytearray') + number(2**31 - 1) + b'\x85R',
    'the same bytes a million times': raw(bytes(1 << 20))
    + b'q\x00]('
    + (name('builtins', 'bytearray') + b'h\x00\x85R') * 2_000
    + b'e\x86',
    'the same dictionary a million times': b'}('
    + b''.join(number(i) + b'N' for i in range(20_000))
    + b'uq\x00]('
    + (name('collections', 'OrderedDict') + b'h\x00\x85R') * 5_000
    + b'e\x86',
    'the same state a million times': b'}('
    + b''.join(number(i) + b'N' for i in range(20_000))
    + b'uq\x00]('
    + b'}h\x00b' * 5_000
    + b'e\x86',
    'the same array a million times': array(
        dtype('f8'), number(1 << 17) + b'\x85', raw(bytes(1 << 20))
    )
    + b'q\x00]('
    + (
        name('torch._utils', '_rebuild_device_tensor_from_numpy')
        + b'(h\x00'
        + name('torch', 'float64')
        + b'NNtR'
    )
    * 2_000
    + b'e\x86',
    'digits without end': b'I' + b'9' * 10_000_000 + b'\n',
    'a big number': b'\x8b' + struct.pack('<I', 1_000_000) + b'\x7f' * 1_000_000,
    'a state of a name': name('collections', 'OrderedDict') + b'}' + text('a') + b'Nsb',
    'a state of a dictionary': b'}}' + text('__class__') + b'Nsb\x85R',
    'a name that is left over': name('builtins', 'getattr'),
    'a call of a number': b'K\x01)R',
    'a call without arguments': name('torch._utils', '_rebuild_tensor_v2') + b')R',
    'a class of Python 2': b'(ios\nsystem\n',
    'a persistent number': b'K\x01Q',
}
BOMB = b'\x80\x02}' + text('state_dict')


def archive(pickled: bytes, path: Path, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a/data.pkl', pickled)
        file.writestr('a/version', '3\n')
        for key, data in parts.items():
            file.writestr(f'a/data/{key[1:]}', data)
    return path


def legacy(pickled: bytes, path: Path) -> Path:
    """The older format, with that pickle in it."""
    sound = io.BytesIO()
    torch.save({}, sound, _use_new_zipfile_serialization=False)
    data = sound.getvalue()
    at = 0
    for _ in range(3):
        stream = io.BytesIO(data[at:])
        for _ in pickletools.genops(stream):
            pass
        at += stream.tell()
    path.write_bytes(data[:at] + pickled + b'\x80\x02].')
    return path


def refused(read: Callable, path: Path) -> str:
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(UserError) as error:
            read(path)
    assert time.monotonic() - start < 20
    message = str(error.value)
    assert path.name in message and '\n' not in message and len(message) < 700
    return message


@pytest.mark.parametrize('kind', PICKLES)
def test_hostile_pickles_are_refused_everywhere(kind: str, tmp_path: Path) -> None:
    content = BOMB + PICKLES[kind] + b's.'
    refused(read_checkpoint, archive(content, tmp_path / 'a.pth'))
    refused(read_checkpoint, legacy(content, tmp_path / 'b.pth'))
    plain = tmp_path / 'c.pkl'
    plain.write_bytes(content)
    refused(read_checkpoint, plain)
    results = tmp_path / 'results.pkl'
    results.write_bytes(b'\x80\x02]' + content.removeprefix(b'\x80\x02').removesuffix(b'.') + b'a.')
    refused(load_results, results)
    for path in (tmp_path / 'a.pth', tmp_path / 'b.pth'):  # what another process sends
        with open(path, 'rb') as file, pytest.raises((Refused, Damaged)):
            read_torch(file)


def tensor(
    size: tuple, stride: tuple, offset: int = 0, kind: str = 'FloatStorage', count: int = 4
) -> bytes:
    def row(numbers: tuple) -> bytes:
        return b'(' + b''.join(map(number, numbers)) + b't'

    storage = b'(' + text('storage') + name('torch', kind) + text('0') + text('cpu')
    storage += number(count) + b'tQ'
    made = name('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + number(offset)
    return made + row(size) + row(stride) + b'\x89}tR'


@pytest.mark.parametrize(
    ('arguments', 'sound'),
    [
        (dict(size=(4,), stride=(1,)), True),
        (dict(size=(2, 2), stride=(1, 2)), True),
        (dict(size=(3,), stride=(1,), offset=1), True),
        (dict(size=(1, 4), stride=(0, 1)), True),
        (dict(size=(0, 9), stride=(9, 1)), True),
        (dict(size=(), stride=()), True),
        (dict(size=(5,), stride=(1,)), False),
        (dict(size=(4,), stride=(1,), offset=1), False),
        (dict(size=(4,), stride=(1,), offset=-1), False),
        (dict(size=(2,), stride=(2**31 - 1,)), False),
        (dict(size=(2, 2), stride=(2, -1), offset=1), False),
        (dict(size=(-4,), stride=(1,)), False),
        (dict(size=(-2, -2), stride=(1, 1)), False),
        (dict(size=(4,), stride=(1, 1)), False),
        (dict(size=(2**31 - 1, 2**31 - 1), stride=(0, 0)), False),
        (dict(size=(4,), stride=(1,), count=5), False),
        (dict(size=(4,), stride=(1,), count=-4), False),
        (dict(size=(4,), stride=(1,), kind='DoubleStorage'), False),
        (dict(size=(4,), stride=(1,), kind='QInt32Storage'), False),
    ],
)
def test_every_element_of_a_tensor_lies_in_its_storage(
    arguments: dict, sound: bool, tmp_path: Path
) -> None:
    pickled = BOMB + b'}' + text('a') + tensor(**arguments) + b'ss.'
    path = archive(pickled, tmp_path / 'a.pth', _0=np.arange(4, dtype=np.float32).tobytes())
    if not sound:
        refused(read_checkpoint, path)
        return
    value = read_checkpoint(path)['state_dict']['a']
    stored = torch.arange(4.0)
    expected = stored.as_strided(arguments['size'], arguments['stride'], arguments.get('offset', 0))
    assert torch.equal(value, expected)


def test_a_boolean_is_true_or_false(tmp_path: Path) -> None:
    """C code that counts with a byte of 2 writes out of bounds."""
    pickled = BOMB + b'}' + text('a') + tensor((4,), (1,), kind='BoolStorage') + b'ss.'
    path = archive(pickled, tmp_path / 'a.pth', _0=bytes([0, 1, 2, 255]))
    value = read_checkpoint(path)['state_dict']['a']
    assert value.view(torch.uint8).tolist() == [0, 1, 1, 1]
    path = tmp_path / 'a.pkl'
    path.write_bytes(
        b'\x80\x02}' + text('a') + array(dtype('b1'), b'K\x02\x85', raw(b'\0\2')) + b's.'
    )
    assert read_checkpoint(path)['a'].view(np.uint8).tolist() == [0, 1]


def test_an_archive_is_no_larger_than_its_file(tmp_path: Path) -> None:
    """3 MB of zip become 3 GB where a part is compressed, or one part has many names."""
    sound = tmp_path / 'sound.pth'
    torch.save(dict(state_dict=dict(a=torch.zeros(1 << 18))), sound)
    packed = tmp_path / 'packed.pth'
    with (
        zipfile.ZipFile(sound) as old,
        zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for item in old.namelist():
            new.writestr(item, old.read(item))
    for check in (read_checkpoint, verify_checkpoint):
        assert 'compressed' in refused(check, packed)
    many = {f'a{i}': torch.full((1 << 18,), float(i)) for i in range(8)}
    torch.save(dict(state_dict=many), tmp_path / 'many.pth')
    content = bytearray((tmp_path / 'many.pth').read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        items = {
            i.filename.rpartition('/')[2]: i for i in file.infolist() if '/data/' in i.filename
        }
        start = file.start_dir
    for key, item in items.items():  # every name at the place of the first
        at = content.index(b'PK\x01\x02', start)
        while content[at + 46 : at + 46 + len(item.filename)].decode() != item.filename:
            at = content.index(b'PK\x01\x02', at + 4)
        content[at + 42 : at + 46] = struct.pack('<I', items['0'].header_offset)
        content[at + 16 : at + 20] = struct.pack('<I', items['0'].CRC)
        assert key
    path = tmp_path / 'overlapping.pth'
    path.write_bytes(bytes(content[:start][: len(content) // 4]) + bytes(content[start:]))
    refused(read_checkpoint, path)


def test_a_file_written_without_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    set_checksums = getattr(torch.serialization, 'set_crc32_options', None)
    if set_checksums is None:
        pytest.skip('torch writes checksums always')
    set_checksums(False)
    try:
        torch.save(dict(state_dict=dict(a=torch.ones(3))), path)
    finally:
        set_checksums(True)
    assert read_checkpoint(path)['state_dict']['a'].tolist() == [1, 1, 1]


@pytest.mark.parametrize('zipped', [True, False])
def test_what_torch_writes_is_read_as_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    kinds = (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
        *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
        *((torch.uint16, torch.float8_e4m3fn) if zipped else ()),  # torch cannot read these there
    )
    base = torch.arange(24)
    content = {str(kind): base.to(kind) for kind in kinds}
    shared = torch.randn(4, 6)
    content |= dict(
        whole=shared, columns=shared.t(), row=shared[2], parameter=torch.nn.Parameter(shared)
    )
    content |= dict(empty=torch.zeros(0, 3), scalar=torch.tensor(3.0), ones=torch.ones(1).expand(5))
    named = torch.ones(2)
    named.note = 'an attribute'
    content |= dict(
        named=named, size=torch.Size([1, 2]), device=torch.device('cuda:1'), kind=torch.float16
    )
    path = tmp_path / 'a.pth'
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    ours, theirs = read_checkpoint(path), torch.load(path, weights_only=True)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[key].dtype == value.dtype and ours[key].shape == value.shape, key
            assert ours[key].stride() == value.stride(), key
            assert (
                torch.equal(ours[key].view(-1).view(torch.uint8), value.view(-1).view(torch.uint8))
                if value.is_contiguous() and value.dim()
                else torch.equal(ours[key], value)
            ), key
        else:
            assert ours[key] == value, key
    ours['whole'][2] = 7
    assert (ours['row'] == 7).all(), 'tensors of one storage share it'


@pytest.mark.parametrize('kind', ['checkpoints', 'results'])
@pytest.mark.parametrize(
    'count',
    [
        1_000,
        pytest.param(5_000, marks=pytest.mark.slow),
        pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
def test_mutated_files_are_read_or_refused(
    kind: str, count: int, repo: Path, tmp_path: Path
) -> None:
    """No signal, no foreign error, nothing made or run, no memory without bound."""
    command = [sys.executable, str(repo / 'tests/fuzz_readers.py'), kind, str(count), '0']
    environment = {**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    last = (tmp_path / 'number').read_text()
    assert done.returncode == 0, f'file {last}: {done.returncode}: {done.stderr[-2000:]}'
    read, refused_ones = map(int, done.stdout.split())
    assert read + refused_ones == count and min(read, refused_ones) > count / 50


def test_results_of_every_protocol(tmp_path: Path) -> None:
    instances = dict(bboxes=torch.rand(3, 4), labels=np.arange(3), masks=[dict(counts=b'abc')])
    content = [dict(img_id=1, ori_shape=(3, 4), pred_instances=instances, score=np.float64(0.5))]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / 'a.pkl'
        path.write_bytes(pickle.dumps(content, protocol))
        (again,) = load_results(path)
        assert torch.equal(again['pred_instances']['bboxes'], instances['bboxes'])
        assert again['pred_instances']['labels'].tolist() == [0, 1, 2]
        assert again['score'] == 0.5 and again['ori_shape'] == (3, 4)
        assert again['pred_instances']['masks'] == instances['masks']
