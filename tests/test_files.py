"""Files that are written whole or not at all, and what is said of those that are no JSON."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.errors import LiveError

from mmdet_r2.errors import DataError
from mmdet_r2.files import (
    file_name_defect,
    path_inside,
    plain_name,
    read_bytes,
    read_json,
    relative_name,
    remove_unfinished,
    replacing,
    temporary_name,
    write_bytes,
    write_image,
    write_json,
    write_text,
)
from mmdet_r2.progress import Progress, progress


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / 'new folder' / 'a.json'
    write_json(path, dict(a=1))
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text('half')
        assert read_json(path) == dict(a=1)
        raise RuntimeError
    assert read_json(path) == dict(a=1) and files(tmp_path) == ['a.json']


@pytest.mark.parametrize('name', ['', '.', '..', '/', 'folder', 'file/a.json', 'x' * 300])
def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be written') as error:
        write_text(name, 'text')
    assert '\n' not in str(error.value) and files(tmp_path) == ['file']


def test_links_are_followed(tmp_path) -> None:
    (tmp_path / 'there').mkdir()
    (tmp_path / 'a.json').symlink_to(tmp_path / 'there' / 'b.json')
    for value in (1, 2):
        write_json(tmp_path / 'a.json', value)
    assert (tmp_path / 'a.json').is_symlink() and read_json(tmp_path / 'there' / 'b.json') == 2


def test_what_is_no_file_is_not_replaced_by_one(tmp_path) -> None:
    """As ``--out /dev/null`` or ``/dev/stdout`` are."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, 'text')
    reader.join(10)
    assert read == ['text'] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'{"a":\n1,}', r'a\.json:2: not valid JSON'),
        (b'{"a": "\xff"}', 'not a text file in UTF-8'),
        (b'[' * 100_000, 'not readable as JSON'),
        (b'9' * 5000, 'not readable as JSON'),
    ],
    ids=['syntax', 'bytes', 'depth', 'digits'],
)
def test_what_is_no_json_is_one_line(tmp_path, content, expected) -> None:
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(DataError, match=expected) as error:
        read_json(tmp_path / 'a.json')
    assert '\n' not in str(error.value)


def test_places_that_cannot_be_read(tmp_path) -> None:
    for path in (tmp_path / 'none.json', tmp_path, 's3://bucket/a.json', 'http://127.0.0.1:9/a'):
        with pytest.raises(DataError, match='cannot read list'):
            read_json(path, 'list')


def test_images_of_a_size_that_the_format_does_not_have(tmp_path) -> None:
    image = np.zeros((2, 70_000, 3), np.uint8)
    with pytest.raises(DataError, match=r'a\.jpg: 70000 x 2 pixels cannot be written as \.jpg'):
        write_image(tmp_path / 'a.jpg', image)
    write_image(tmp_path / 'ü b.PNG', image)
    assert files(tmp_path) == ['ü b.PNG']


def test_a_second_bar_on_a_terminal_is_left_out(monkeypatch) -> None:
    """Before rich 14.1 only one could be."""
    monkeypatch.setenv('FORCE_COLOR', '1')

    def refuse(self: Progress) -> None:
        raise LiveError('Only one live display may be active at once')

    assert list(progress(iter('abc'), 'letters')) == ['a', 'b', 'c']
    monkeypatch.setattr(Progress, 'start', refuse)
    assert list(progress(iter('abc'), 'letters')) == ['a', 'b', 'c']


OUTSIDE = [
    '../a.jpg',
    './../../a.jpg',
    'a/../b.jpg',
    'a/../../b.jpg',
    '/etc/a.jpg',
    '//host/a.jpg',
    '\\a.jpg',
    '..\\a.jpg',
    'a\\..\\..\\b.jpg',
    'C:\\a.jpg',
    'c:a.jpg',
    '..',
    'a/..',
    '.',
    '',
    'a/',
    'a\0.jpg',
    'a\nb.jpg',
    '\ud800.jpg',
    'x' * 300,
    f'{"y" * 300}/a.jpg',
    '\u20ac' * 100,
]


@pytest.mark.parametrize('name', OUTSIDE, ids=lambda name: ascii(name)[:20])
def test_no_name_from_data_leads_outside(tmp_path, name) -> None:
    with pytest.raises(DataError) as error:
        path_inside(tmp_path, name)
    text = str(error.value)
    assert repr(name)[:40] in text and '\n' not in text and str(tmp_path) in text


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('a.jpg', 'a.jpg'),
        ('./a//b/./c.jpg', 'a/b/c.jpg'),
        ('train\\a.jpg', 'train/a.jpg'),
        ('..a../...b', '..a../...b'),
        ('ü 日本.jpg', 'ü 日本.jpg'),
        ('.hidden', '.hidden'),
        ('x' * 255, 'x' * 255),
    ],
)
def test_names_that_stay_inside(tmp_path, name, expected) -> None:
    assert relative_name(name) == expected
    assert path_inside(tmp_path, name) == tmp_path / expected
    write_text(path_inside(tmp_path, name), 'text')
    assert files(tmp_path) == [Path(expected).name]


def test_links_below_the_folder_do_not_lead_outside(tmp_path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'chosen').symlink_to(tmp_path / 'out')
    (tmp_path / 'out' / 'link').symlink_to(tmp_path / 'other')
    (tmp_path / 'out' / 'a.txt').symlink_to(tmp_path / 'other' / 'a.txt')
    (tmp_path / 'out' / 'inner').symlink_to(tmp_path / 'out' / 'x')
    for name in ('link/a.txt', 'link/b/c.txt', 'a.txt'):
        with pytest.raises(DataError, match='link'):
            path_inside(tmp_path / 'chosen', name)
    assert path_inside(tmp_path / 'chosen', 'inner/b.txt') == tmp_path / 'chosen/inner/b.txt'
    assert path_inside(tmp_path / 'chosen', 'new/b.txt') == tmp_path / 'chosen/new/b.txt'


def test_any_text_gives_the_name_of_one_file(tmp_path) -> None:
    odd = [*OUTSIDE, 'bad\udcff.jpg', f'{"x" * 300}.jpg', f'a.{"x" * 300}']
    for number, name in enumerate(odd):
        folder = tmp_path / str(number)
        made = plain_name(name)
        write_text(path_inside(folder, made), 'text')
        assert os.listdir(folder) == [made]
    for name in ('a.jpg', 'ü 日本.jpg', 'a..b'):
        assert plain_name(name) == name


def test_names_that_no_file_can_have() -> None:
    for name in ('', 'a\0.jpg', '\ud800.jpg', 3, None, ['a.jpg']):
        assert file_name_defect(name)
    for name in ('a.jpg', '../a.jpg', '/a/b.jpg', 'ü.jpg', 'a\\b.jpg'):
        assert not file_name_defect(name)
    with pytest.raises(DataError, match='zero byte'):
        read_bytes('a\0.jpg')
    with pytest.raises(DataError, match='zero byte'):
        write_bytes('a\0.jpg', b'')
    with pytest.raises(DataError, match='not text'):
        write_text('a.txt', 'half a character: \ud800')


def test_names_that_are_not_utf8(tmp_path) -> None:
    """OpenCV crashes on them, wherever it takes text."""
    code = r"""
import numpy as np
import torch
from mmengine.structures import InstanceData
from mmdet_r2.apis.video import Video, VideoWriter
from mmdet_r2.errors import DataError
from mmdet_r2.files import write_image
from mmdet_r2.visualization import draw_instances

image = np.zeros((40, 40, 3), np.uint8)
for name in ('bad\udcff.jpg', 'bad.\udcff', 'b\udcff/a.png', 'a.jpg\udcff'):
    write_image(name, image)
found = InstanceData(
    bboxes=torch.tensor([[1.0, 1, 9, 9]]), labels=torch.tensor([0]), scores=torch.tensor([0.5])
)
draw_instances(image, found, classes=['\ud800'], box_colors=[(1, 2, 3)])
open('b\udcff.mp4', 'w').close()
for call in (lambda: Video.open('b\udcff.mp4'), lambda: VideoWriter('b\udcff.mp4', 9, 8, 8)):
    try:
        call()
    except DataError as error:
        print(ascii(str(error)))
"""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    found = {os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.*')}
    assert {b'bad\xff.jpg', b'bad.\xff', b'b\xff/a.png', b'a.jpg\xff'} <= found


def test_only_regular_files_are_read(tmp_path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / 'socket'))
    (tmp_path / 'device').symlink_to('/dev/zero')
    (tmp_path / 'to pipe').symlink_to('pipe')
    (tmp_path / 'loop').symlink_to('loop')
    for name in ('pipe', 'socket', 'device', 'to pipe', 'loop', 'none', '.'):
        with pytest.raises(DataError) as error:
            read_bytes(tmp_path / name, 'list')
        assert str(tmp_path / name) in str(error.value) and '\n' not in str(error.value)
    listening.close()
    for path in ('/dev/zero', '/dev/full', '/dev/tty', '/dev/null'):
        with pytest.raises(DataError, match=path):
            read_json(path)


def test_no_more_bytes_are_read_than_allowed(tmp_path) -> None:
    (tmp_path / 'a').write_bytes(bytes(100))
    assert read_bytes(tmp_path / 'a', limit=100) == bytes(100)
    with pytest.raises(DataError, match='limit of 99'):
        read_bytes(tmp_path / 'a', limit=99)
    with open(tmp_path / 'a', 'wb') as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(DataError, match='limit'):
        read_json(tmp_path / 'a')
    assert read_bytes('/proc/self/status').startswith(b'Name:')  # says that it has no bytes


def test_no_two_writers_share_a_temporary_name(tmp_path) -> None:
    texts = [str(i) * 50_000 for i in range(8)]
    failures = []

    def write(text: str) -> None:
        try:
            for _ in range(10):
                write_text(tmp_path / 'a.txt', text)
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / 'a.txt').exists():
            assert (tmp_path / 'a.txt').read_text() in texts
    assert not failures and files(tmp_path) == ['a.txt']


def test_a_name_as_long_as_can_be(tmp_path) -> None:
    for name in ('x' * 255, f'{"x" * 251}.txt', f'a.{"x" * 253}'):
        write_text(tmp_path / name, 'text')
    assert len(files(tmp_path)) == 3


def test_what_a_killed_writer_left_is_removed(tmp_path) -> None:
    code = (
        'import os, signal; from mmdet_r2.files import replacing\n'
        'with replacing("a.pth") as temporary:\n'
        '    temporary.write_bytes(b"1"); os.kill(os.getpid(), signal.SIGKILL)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, timeout=60)
    assert done.returncode == -signal.SIGKILL and len(files(tmp_path)) == 1
    alive = temporary_name(tmp_path / 'b.pth', '.pth')
    alive.write_bytes(b'')
    (tmp_path / '.1-notes.txt').write_bytes(b'')
    remove_unfinished(tmp_path)
    assert files(tmp_path) == sorted([alive.name, '.1-notes.txt'])


WRITERS = """
import numpy as np
from mmdet_r2.apis.results import JsonList
from mmdet_r2.errors import DataError
from mmdet_r2.files import write_bytes, write_image, write_json

rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
def json_list():
    with JsonList('a.json') as file:
        file.extend([list(range(3000))] * 9)
calls = [
    lambda: write_image('a.png', noise),
    lambda: write_image('a.jpg', noise),
    lambda: write_image('small.bmp', noise[:40, :40]),
    lambda: write_json('b.json', list(range(30_000))),
    lambda: write_bytes('b.bin', bytes(200_000)),
    json_list,
]
refused = 0
for call in calls:
    try:
        call()
    except DataError as error:
        refused += 1
        assert 'cannot be written' in str(error), error
print(refused)
"""


def test_a_file_that_may_not_grow_leaves_no_part_of_it(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, '-B', '-c', WRITERS],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == '6\n', done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 64 kB, of which few are free."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('mounting takes root')
    try:
        (folder / 'fill').write_bytes(bytes(56 * 1024))
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def test_a_full_disk_leaves_no_part_of_a_file(full_disk) -> None:
    done = subprocess.run(
        [sys.executable, '-B', '-c', WRITERS],
        cwd=full_disk,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout in ('5\n', '6\n'), done.stderr
    assert set(files(full_disk)) <= {'fill', 'small.bmp'}
    if (full_disk / 'small.bmp').exists():
        assert (full_disk / 'small.bmp').stat().st_size == 54 + 40 * 40 * 3


def test_no_reader_waits_for_what_is_no_file(tmp_path) -> None:
    """A named pipe that nobody writes to would hold it for ever."""
    for suffix in ['json', 'txt', 'yaml', 'pkl', 'py', 'pth', 'safetensors']:
        os.mkfifo(tmp_path / f'a.{suffix}')
    code = r"""
from mmdet_r2.analysis.logs import read_log
from mmdet_r2.apis import init_detector
from mmdet_r2.apis.results import coco_results
from mmdet_r2.config import load_config
from mmdet_r2.datasets import VOCDataset
from mmdet_r2.datasets.convert import Notes, read_coco, read_data_yaml
from mmdet_r2.datasets.convert.common import class_names, read_text
from mmdet_r2.errors import UserError
from mmdet_r2.evaluation.dump import load_results
from mmdet_r2.files import read_json
from mmdet_r2.zoo import read_checkpoint
for read in (
    lambda: read_json('a.json'),
    lambda: read_json('a.json', backend_args=dict(backend='local')),
    lambda: read_coco('a.json', Notes()),
    lambda: read_text('a.txt'),
    lambda: read_data_yaml('a.yaml', 'train'),
    lambda: load_results('a.pkl'),
    lambda: load_config('a.py'),
    lambda: load_config('a.json'),
    lambda: read_checkpoint('a.pth'),
    lambda: read_checkpoint('a.safetensors'),
    lambda: coco_results([], classes=['c'], ann_file='a.json'),
    lambda: read_log('a.json'),
    lambda: VOCDataset(ann_file='a.txt', metainfo=dict(classes=('c',)), lazy_init=False),
):
    try:
        read()
        print('read')
    except UserError as error:
        print(ascii(str(error)))
"""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 13 and 'read' not in lines, done.stdout + done.stderr


def test_a_tool_prints_names_that_are_not_utf8() -> None:
    code = r"from mmdet_r2.errors import run_cli; run_cli(lambda: print('bad\udcff.jpg: 3 found'))"
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(os.environ, PYTHONIOENCODING='utf-8:strict'),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and '3 found' in done.stdout, done.stderr
