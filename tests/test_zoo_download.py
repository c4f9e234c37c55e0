"""Downloads, against a server on this machine that misbehaves on request."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmdet_r2.errors import CheckpointError
from mmdet_r2.zoo import download, names, read_checkpoint
from mmdet_r2.zoo.download import cache_dir, expected_hash, file_name

CONTENT = bytes(range(256)) * 800
NAME = f'model-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth'


class Server(http.server.ThreadingHTTPServer):
    """Serves ``CONTENT`` under every path; the first part of the path says how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.requests: list[tuple[str, str | None]] = []  # path, Range header
        self.content = CONTENT

    def url(self, how: str, name: str = NAME) -> str:
        return f'http://127.0.0.1:{self.server_port}/{how}/{name}'


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get('Range')
        self.server.requests.append((self.path, wanted))
        how, content = self.path.split('/')[1], self.server.content
        if how == 'missing':
            return self.send_error(404)
        if how == 'hang':
            time.sleep(5)
            return None
        if how == 'slow':
            time.sleep(0.5)
        if how == 'wrong':
            content = content[::-1]
        start = int(wanted[6:-1]) if wanted and how != 'noresume' else 0
        if start >= len(content) and wanted:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if how == 'cut' and not start else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('MMDET_R2_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMDET_R2_ZOO', raising=False)
    return tmp_path / 'cache'


def test_a_file_is_fetched_once(server, cache) -> None:
    path = download(server.url('good'))
    assert path.read_bytes() == CONTENT and cache in path.parents
    assert download(server.url('good')) == path
    assert len(server.requests) == 1
    leftovers = [p.name for p in path.parent.iterdir() if p.suffix not in ('.pth', '.lock')]
    assert leftovers == []


@pytest.mark.parametrize('how', ['missing', 'hang', 'cut', 'wrong'])
def test_the_next_address_serves_what_the_first_does_not(server, how) -> None:
    path = download([server.url(how), server.url('good')], timeout=1)
    assert path.read_bytes() == CONTENT
    assert [p.split('/')[1] for p, _ in server.requests] == [how, 'good']


def test_every_address_is_in_the_error_with_its_reason(server, cache) -> None:
    urls = [server.url('missing'), server.url('wrong'), 'http://127.0.0.1:9/' + NAME, 'ftp://x/y']
    with pytest.raises(CheckpointError) as error:
        download(urls, timeout=1)
    text = str(error.value)
    assert '\n' not in text and 'MMDET_R2_ZOO' in text
    for part in (*urls, 'HTTP 404', 'wrong content', 'refused', 'not an http(s) address'):
        assert part in text
    assert not list(cache.rglob('*.pth')), 'wrong bytes were kept'


def test_a_broken_transfer_is_resumed(server) -> None:
    with pytest.raises(CheckpointError, match='cut short'):
        download(server.url('cut'))
    assert download(server.url('cut')).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f'bytes={len(CONTENT) // 2}-']


@pytest.mark.parametrize('how', ['good', 'noresume'])
@pytest.mark.parametrize('start', [b'other bytes', CONTENT + b'more'], ids=['foreign', 'too long'])
def test_a_partial_file_of_something_else_is_replaced(server, cache, how, start) -> None:
    folder = cache / 'checkpoints'
    folder.mkdir(parents=True)
    (folder / f'{NAME}.part').write_bytes(start)
    assert download(server.url(how)).read_bytes() == CONTENT


def test_without_a_hash_nothing_is_resumed_or_confused(server, cache) -> None:
    first = download(server.url('good', 'model_final.pth'))
    server.content = CONTENT[:100]
    second = download(server.url('good/other', 'model_final.pth'))
    assert first != second and second.read_bytes() == CONTENT[:100]
    with pytest.raises(CheckpointError, match='cut short'):
        download(server.url('cut', 'model_final.pth'))
    assert download([server.url('cut', 'model_final.pth'), server.url('good', 'a.pth')]).exists()
    assert all(wanted is None for _, wanted in server.requests)


def test_the_offline_mirror_comes_first_and_is_verified(server, tmp_path, monkeypatch) -> None:
    zoo = tmp_path / 'zoo'
    zoo.mkdir()
    monkeypatch.setenv('MMDET_R2_ZOO', str(zoo))
    (zoo / NAME).write_bytes(CONTENT)
    assert download(server.url('good')) == zoo / NAME
    assert server.requests == []
    (zoo / NAME).write_bytes(b'damaged')
    with pytest.raises(CheckpointError, match='SHA-256 does not begin with'):
        download(server.url('missing'))
    (zoo / NAME).unlink()
    nested = zoo / 'good' / NAME
    nested.parent.mkdir()
    nested.write_bytes(CONTENT)
    assert download(server.url('good')) == nested


def test_four_processes_cause_one_request(server) -> None:
    code = f'from mmdet_r2.zoo import download; print(download({server.url("slow")!r}))'
    runs = [
        subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_url_is_read_as_a_checkpoint(server, tmp_path) -> None:
    torch.save(dict(a=torch.ones(2)), tmp_path / 'a.pth')
    server.content = (tmp_path / 'a.pth').read_bytes()
    assert torch.equal(read_checkpoint(server.url('good', 'a.pth'))['a'], torch.ones(2))


def test_names_become_addresses() -> None:
    third_party = names.urls_of('open-mmlab://res2net101_v1d_26w_4s')
    file = 'pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth'
    assert [url.endswith(file) for url in third_party] == [True, True]
    assert 'https://download.openmmlab.com/' + file in third_party
    assert names.urls_of('torchvision://resnet50') == [
        'https://download.pytorch.org/models/resnet50-0676ba61.pth',
        'https://download.pytorch.org/models/resnet50-19c8e357.pth',
    ]
    model = names.urls_of('faster-rcnn_res2net-101_fpn_2x_coco')  # mmdetection 3.x's name
    assert model and all(
        url.endswith('faster_rcnn_r2_101_fpn_2x_coco-175f1da6.pth') for url in model
    )
    old = names.urls_of('http://download.openmmlab.com/mmdetection/v2.0/x-175f1da6.pth')
    assert len(old) == 2 and all(url.startswith('https://') for url in old)
    assert names.urls_of('some/path.pth') == []


def test_file_names_and_hashes() -> None:
    assert file_name('https://a.b/c/m-1234abcd.pth?download=1') == 'm-1234abcd.pth'
    assert expected_hash('m-1234abcd.pth') == '1234abcd'
    assert expected_hash('model_final_dbfeb4.pkl') is None
    assert expected_hash('epoch_12.pth') is None
    assert cache_dir().name == 'cache'


@pytest.mark.parametrize('kind', ['sha256', 'sha1', 'md5'])
def test_eight_digits_of_any_usual_hash_will_do(kind, tmp_path, monkeypatch) -> None:
    """Not every project says which one its names carry."""
    name = f'model-{hashlib.new(kind, CONTENT).hexdigest()[:8]}.pth'
    (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    assert download(f'https://example.org/{name}') == tmp_path / name
