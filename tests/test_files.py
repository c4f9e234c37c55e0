"""Files that are written whole or not at all, and what is said of those that are no JSON."""

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.errors import LiveError

from mmdet_r2.errors import DataError
from mmdet_r2.files import read_json, replacing, write_image, write_json, write_text
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
    with pytest.raises(DataError, match=r'cannot be written \(.+\)\.$') as error:
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
