"""Reads mutated checkpoints and results files, one after another: python fuzz_readers.py KIND
COUNT SEED FOLDER. Prints how many were read and refused; a signal, a foreign error, a file or
process made, or memory without bound ends it with another exit code than 0."""

import codecs
import collections
import io
import os
import pickle
import random
import resource
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmdet_r2.errors import UserError
from mmdet_r2.evaluation import load_results
from mmdet_r2.zoo import checkpoint_weights, read_checkpoint

NAMES = [
    *('os system', 'posix system', 'builtins eval', 'builtins getattr', 'numpy ndarray'),
    *('numpy dtype', 'numpy._core.multiarray _reconstruct', 'numpy._core.multiarray scalar'),
    *('torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor_v3', 'torch FloatStorage'),
    *('torch BoolStorage', 'torch.storage UntypedStorage', 'torch.storage _load_from_bytes'),
    *('collections OrderedDict', 'builtins bytearray', 'builtins list', 'builtins set'),
    *('mmengine.logging.history_buffer HistoryBuffer', 'torch float64', 'torch Size'),
    *('mmengine.config.config ConfigDict', '_codecs encode', 'subprocess Popen', 'numpy load'),
]
NUMBERS = [0, 1, 2, 3, 4, 127, 128, 255, 256, 65535, 2**31 - 1, -1, -2, -(2**31)]
# codes of operations without arguments
BARE = b'(.012NR\x81\x85\x86\x87\x88\x89)]}\x8f\x90\x91\x93\x94abdelstuQ'


def training_checkpoint() -> dict:
    content = dict(
        meta=dict(epoch=1, cfg=ConfigDict(a=1), dataset_meta=dict(classes=('a', 'b'))),
        state_dict=collections.OrderedDict(
            a=torch.randn(4, 3), b=torch.arange(6).view(2, 3).t(), c=torch.tensor([True, False])
        ),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([0.5, 1.5], [1, 1])),
            runtime_info=dict(best=np.float32(0.5), names=np.array(['a', 'bc']), x=np.eye(2)),
        ),
        shorts=torch.zeros(3, dtype=torch.uint16),
        raw=b'abc',
    )
    content['state_dict']._metadata = {'': dict(version=1)}
    return content


def results() -> list[dict]:
    instances = dict(
        bboxes=torch.rand(2, 4),
        scores=np.random.default_rng(0).random(2),
        labels=torch.zeros(2, dtype=torch.long),
        masks=[dict(size=[4, 5], counts=b'04000') for _ in range(2)],
    )
    return [dict(img_id=i, ori_shape=(4, 5), pred_instances=instances) for i in range(2)]


def saved(content: object, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def sources(kind: str) -> list[bytes]:
    if kind == 'results':
        return [pickle.dumps(results(), protocol) for protocol in (0, 2, 4, 5)]
    arrays = dict(model=dict(a=np.ones((2, 3), np.float32), b=np.arange(4)), author='x')
    return [
        saved(training_checkpoint(), True),
        saved(training_checkpoint(), False),
        *(pickle.dumps(arrays, protocol) for protocol in (2, 4)),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A pickle with a few changes, of bytes or of what they mean."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(9)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.choice(BARE)
        elif kind == 2:
            changed[at:at] = bytes([rng.choice(BARE)]) * rng.choice((1, 2, 50, 3000))
        elif kind == 3:
            del changed[at : at + rng.choice((1, 2, 5, 30))]
        elif kind == 4:
            changed[at:at] = b'J' + struct.pack('<i', rng.choice(NUMBERS))
        elif kind == 5:
            module, name = rng.choice(NAMES).split()
            changed[at:at] = f'c{module}\n{name}\n'.encode()
        elif kind == 6:
            other = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + rng.choice((4, 20, 200))]
        elif kind == 7:  # another shape, stride, offset or key
            places = [
                i for i in range(len(changed) - 1) if changed[i : i + 1] in (b'K', b'h', b'q')
            ]
            if places:
                changed[rng.choice(places) + 1] = rng.choice((0, 1, 2, 3, 7, 64, 255))
        else:  # another name
            places = [i for i in range(len(changed)) if changed[i : i + 1] == b'c']
            end = changed.find(b'\n', changed.find(b'\n', at) + 1)
            if places and end > at:
                module, name = rng.choice(NAMES).split()
                changed[at : end + 1] = f'c{module}\n{name}\n'.encode()
    return bytes(changed)


def mutated_file(data: bytes, rng: random.Random) -> bytes:
    """A file with changes; those of an archive's pickle have the right checksum."""
    if not data.startswith(b'PK') or rng.random() < 0.1:
        return mutated(data, rng)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, 'w') as new:
        for item in old.infolist():
            part = old.read(item)
            if item.filename.endswith('data.pkl') or rng.random() < 0.03:
                part = mutated(part, rng)
            new.writestr(item.filename, part)
    return file.getvalue()


def touch(value: object) -> None:
    """Use every value: memory that is not the file's would end the process."""
    if isinstance(value, torch.Tensor):
        value.double().sum()
    elif isinstance(value, np.ndarray):
        value.copy()
        str(value.reshape(-1)[:3])
    elif isinstance(value, HistoryBuffer):
        value.statistics('mean', 1) if len(value.data[0]) else None
    elif isinstance(value, dict):
        for part in dict.values(value):
            touch(part)
    elif isinstance(value, list | tuple | set):
        for part in value:
            touch(part)
    elif isinstance(value, str):
        len(value)


def read(kind: str, path: Path) -> None:
    if kind == 'results':
        touch(load_results(path))
    else:
        content = read_checkpoint(path)
        touch(content)
        checkpoint_weights(content, str(path))


def main() -> None:
    kind, count, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    warnings.simplefilter('ignore')
    torch.manual_seed(0)
    path = folder / f'{kind}{".pkl" if kind == "results" else ".pth"}'
    reading = False
    forbidden = ('subprocess', 'os.', 'socket', 'ctypes', 'exec', 'compile', 'import', 'pickle')
    made: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if not reading:
            return
        if event == 'open' and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            made.append(f'opened {arguments[0]!r} for writing')
        if event.startswith(forbidden) and event not in ('os.listdir', 'os.scandir'):
            made.append(f'{event} {arguments!r:.200}')

    whole = sources(kind)
    for data in whole:  # imports what reading needs, and shows that the sources are sound
        path.write_bytes(data)
        read(kind, path)
    for name in ('raw-unicode-escape', 'unicode-escape'):  # imported when they are first used
        codecs.lookup(name)
    sys.addaudithook(hook)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = collections.Counter()
    for number in range(count):
        rng = random.Random(f'{seed} {number}')
        path.write_bytes(mutated_file(whole[number % len(whole)], rng))
        (folder / 'number').write_text(str(number))  # the last one, should this process die
        reading = True
        try:
            read(kind, path)
            counts['read'] += 1
        except UserError as error:
            counts['refused'] += 1
            assert path.name in str(error) and '\n' not in str(error), str(error)
            assert len(str(error)) < 1500, str(error)
        finally:
            reading = False
        assert not made, (number, made)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f'{grown:.0f} MB'
    print(counts['read'], counts['refused'])


if __name__ == '__main__':
    main()
