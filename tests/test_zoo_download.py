"""Downloads, against a server on this machine that misbehaves on request."""

import email.utils
import errno
import gzip
import hashlib
import http.server
import importlib
import multiprocessing
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmdet_r2.errors import CheckpointError
from mmdet_r2.zoo import download, fetch, names, read_checkpoint, transfer
from mmdet_r2.zoo.download import cache_dir, expected_hash
from mmdet_r2.zoo.transfer import TransferFailed, file_name

CONTENT = bytes(range(256)) * 800
NAME = f'model-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth'
HALF = len(CONTENT) // 2
FORK = multiprocessing.get_context('fork')


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path; the first part of the path says how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.requests: list[tuple[str, str | None]] = []  # path, Range header
        self.times: list[float] = []
        self.content = CONTENT
        self.piece = HALF  # bytes that `pieces` sends per request
        self.retry_after = '0'

    def url(self, how: str, name: str = NAME) -> str:
        return f'http://127.0.0.1:{self.server_port}/{how}/{name}'

    def hows(self) -> list[str]:
        return [path.split('/')[1] for path, _ in self.requests]

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken pipes are what some tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.path = self.path.removeprefix('http://zoo.invalid')  # as a proxy is asked
        server, wanted = self.server, self.headers.get('Range')
        server.requests.append((self.path, wanted))
        server.times.append(time.monotonic())
        how, name = self.path.split('/')[1], self.path.rpartition('/')[2]
        first = server.hows().count(how) == 1
        content = server.content
        if how == 'flat' and self.path.count('/') > 2:
            return self.send_error(404)
        if how == 'missing':
            time.sleep(0.3 if name.startswith('slow') else 0)
            return self.send_error(404)
        if how == 'hang':
            time.sleep(2)
            return None
        if how == 'slow':
            time.sleep(0.5)
        if how == 'page':
            return self.reply(b'<html>log in first</html>', type='text/html')
        if how == 'disguised':
            return self.reply(b'\n<!DOCTYPE html><html>log in first</html>')
        if how == 'nothing':
            return self.reply(b'')
        if how == 'gzip':
            return self.reply(gzip.compress(content), encoding='gzip')
        if how == 'nonsense':
            return self.reply(content, 'many')
        if how == 'cut_chunk':
            return self.chunk(content)
        if how == 'noise':
            self.wfile.write(b'\x1b[31m hello\r\n\r\n')
            return None
        if how == 'nowhere':
            return self.reply(b'', code=302)
        if how == 'busy' and first:
            return self.send_error(503)
        if how == 'limited' and first:
            self.send_response(429)
            self.send_header('Retry-After', server.retry_after)
            self.send_header('Content-Length', '0')
            return self.end_headers()
        if how in ('moved', 'loop', 'elsewhere'):
            to = {'moved': f'/good/{name}', 'loop': self.path, 'elsewhere': f'ftp://x/{name}'}
            self.send_response(302)
            self.send_header('Location', to[how])
            return self.end_headers()
        if how == 'wrong':
            content = content[::-1]
        start = int(wanted[6:-1]) if wanted and how != 'noresume' else 0
        if how == 'otherpart' and start:
            start -= 10
        if start >= len(content) and wanted:
            return self.send_error(416)
        part = content[start:]
        end = dict(cut=HALF if not start else len(part), pieces=server.piece).get(how, len(part))
        length: int | None = len(part)
        if how == 'short':  # says less than there is
            length = len(part) - 10
        if how in ('endless', 'early_end'):  # says nothing, closes the connection at the end
            length, end = None, end if how == 'endless' else HALF
        if how == 'drip':
            return self.drip(part, length)
        return self.reply(part[:end], length, start)

    def reply(
        self,
        part: bytes,
        length: int | str | None = -1,
        start: int = 0,
        type: str = 'application/x',
        encoding: str = '',
        code: int = 200,
    ) -> None:
        self.send_response(206 if start else code)
        self.send_header('Content-Type', type)
        if encoding:
            self.send_header('Content-Encoding', encoding)
        if start:
            total = len(self.server.content)
            self.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
        if length is not None:
            self.send_header('Content-Length', str(len(part) if length == -1 else length))
        self.end_headers()
        self.wfile.write(part)

    def chunk(self, content: bytes) -> None:
        """The first ten bytes of what shall be a hundred."""
        self.protocol_version = 'HTTP/1.1'
        self.send_response(200)
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        self.wfile.write(b'64\r\n' + content[:10])
        self.close_connection = True

    def drip(self, part: bytes, length: int | None) -> None:
        """Half of it at once, the rest a byte at a time."""
        self.reply(part[:HALF], length)
        for i in range(HALF, len(part)):
            self.wfile.write(part[i : i + 1])
            self.wfile.flush()
            time.sleep(0.05)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    for variable in ('MMDET_R2_ZOO', 'MMDET_R2_OFFLINE', 'TORCH_HOME', 'FVCORE_CACHE'):
        monkeypatch.delenv(variable, raising=False)
    for variable in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('MMDET_R2_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'other'))
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    # the package's `download` is the function
    monkeypatch.setattr(importlib.import_module('mmdet_r2.zoo.download'), '_PAUSE', 0.01)
    return tmp_path / 'cache'


def refused(source: 'str | list[str]', **kwargs) -> str:
    """The one line that a download which must fail gives."""
    with pytest.raises(CheckpointError) as error:
        download(source, **{'timeout': 1, **kwargs})
    text = str(error.value)
    assert '\n' not in text
    return text


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


# ------------------------------------------------------------------------- a server's misbehaviour


def test_a_file_is_fetched_once(server, cache, capsys) -> None:
    path = download(server.url('good'))
    assert path.read_bytes() == CONTENT and files(cache) == [f'checkpoints/{NAME}']
    said = f'downloading {NAME} from 127.0.0.1:{server.server_port}: 0.0 of 0.2 MB\n'
    assert capsys.readouterr().err == said
    assert download(server.url('good')) == path
    assert len(server.requests) == 1 and capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('how', 'start'),
    [
        ('missing', None),
        ('hang', None),
        ('page', None),
        ('wrong', None),
        ('short', None),
        ('loop', None),
        ('elsewhere', None),
        ('early_end', None),
        # what came is not fetched again
        ('cut', HALF),
        ('pieces', HALF),
    ],
)
def test_the_next_address_serves_what_the_first_does_not(server, how, start) -> None:
    path = download([server.url(how), server.url('good')], timeout=0.5)
    assert path.read_bytes() == CONTENT
    wanted = None if start is None else f'bytes={start}-'
    assert server.requests[-1] == (f'/good/{NAME}', wanted)
    assert how == 'loop' or len(server.requests) == 2


def test_a_trickle_is_a_stall(server) -> None:
    begin = time.monotonic()
    path = download([server.url('drip'), server.url('good')], timeout=0.5)
    assert path.read_bytes() == CONTENT and time.monotonic() - begin < 5
    assert server.requests[1][1].startswith('bytes=')


def test_every_address_is_in_the_error_with_its_reason(server, cache) -> None:
    urls = [
        server.url('missing'),
        server.url('wrong'),
        server.url('page'),
        server.url('elsewhere'),
        'http://127.0.0.1:9/' + NAME,
        f'ftp://x/{NAME}',
        server.url('good', 'unknown.pth'),
    ]
    text = refused(urls)
    for part in (*urls, 'HTTP 404', 'wrong content', 'refused', 'not an http(s) address'):
        assert part in text
    assert 'got a web page' in text and 'redirects to ftp://' in text
    assert 'unknown.pth: nobody published a hash of it' in text
    assert f'By hand: get {NAME} from anyone who has it' in text and 'MMDET_R2_ZOO' in text
    assert f'its hash must begin with {expected_hash(NAME)}' in text
    assert not list(cache.rglob('*.pth')), 'wrong bytes were kept'
    assert server.hows() == ['missing', 'wrong', 'page', 'elsewhere'], 'asked again, or too early'


@pytest.mark.parametrize(
    ('how', 'reason'),
    [
        ('loop', 'redirects in a circle, or too often'),
        ('nowhere', 'redirects to nowhere'),
        ('gzip', 'sent it compressed (gzip), which it was not asked for'),
        ('disguised', 'got a web page instead of the file'),
        ('nothing', 'sent nothing'),
        ('cut_chunk', 'cut short'),
        ('noise', 'no proper answer (?[31m hello)'),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(server, how, reason) -> None:
    url = server.url(how)
    assert f'{url}: {reason}. By hand' in refused(url)
    free = server.url(how, 'a.pth')
    assert f'{free}: {reason}. By hand' in refused(free, unverified=True)


def test_a_length_that_is_no_number_does_no_harm(server) -> None:
    assert download(server.url('nonsense')).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('name', 'stored'), [(f'ü b-{NAME}', f'ü b-{NAME}'), (f'a%2Bb-{NAME}', f'a+b-{NAME}')]
)
def test_any_letter_may_be_in_an_address(server, cache, name, stored) -> None:
    assert download(server.url('good', name)).read_bytes() == CONTENT
    assert files(cache) == [f'checkpoints/{stored}']


@pytest.mark.parametrize(
    'url',
    [
        'https://host',
        'https://host/folder/',
        'https://host/..',
        'https://host/%2e%2e',
        'https://host/a%00b.pth',
        'https://host/' + 'x' * 250 + '.pth',
        'https:///a.pth',
        'https://[::1/a.pth',
        'https://host:port/a.pth',
        'detectron2://',
    ],
)
def test_an_address_of_no_file_is_refused(url) -> None:
    with pytest.raises(CheckpointError, match='is not the address of a file'):
        fetch(url, unverified=True)


def test_a_broken_transfer_is_resumed(server) -> None:
    assert download(server.url('cut')).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f'bytes={HALF}-']


def test_a_long_file_arrives_over_a_bad_line(server) -> None:
    server.content = os.urandom(1 << 20) * 6
    server.piece = 1_100_000
    name = f'model-{hashlib.sha256(server.content).hexdigest()[:8]}.pth'
    assert download(server.url('pieces', name)).read_bytes() == server.content
    assert len(server.requests) == 6


def test_a_line_that_always_breaks_is_given_up(server, cache) -> None:
    server.piece = 100
    assert f'cut short (300 of {len(CONTENT)} bytes)' in refused(server.url('pieces'))
    assert len(server.requests) == 3
    server.piece = len(CONTENT)
    assert download(server.url('pieces')).read_bytes() == CONTENT
    assert server.requests[-1][1] == 'bytes=300-', 'what came in vain is of use the next time'
    assert files(cache) == [f'checkpoints/{NAME}']


@pytest.mark.parametrize('how', ['good', 'noresume', 'otherpart'])
@pytest.mark.parametrize('start', [b'other bytes', CONTENT + b'more'], ids=['foreign', 'too long'])
def test_a_partial_file_of_something_else_is_replaced(server, cache, how, start) -> None:
    folder = cache / 'checkpoints'
    folder.mkdir(parents=True)
    (folder / f'{NAME}.part').write_bytes(start)
    assert download(server.url(how)).read_bytes() == CONTENT


@pytest.mark.parametrize('how', ['good', 'moved', 'busy', 'endless', 'limited'])
def test_detours_that_work(server, how) -> None:
    assert download(server.url(how), timeout=1).read_bytes() == CONTENT


def test_a_server_is_given_the_pause_that_it_asks_for(server) -> None:
    server.retry_after = '1'
    download(server.url('limited'))
    assert len(server.times) == 2 and server.times[1] - server.times[0] > 0.95


def test_other_servers_are_tried_during_the_pause(server) -> None:
    server.retry_after = '2'
    begin = time.monotonic()
    assert download([server.url('limited'), server.url('busy')]).read_bytes() == CONTENT
    assert server.hows() == ['limited', 'busy', 'busy'] and time.monotonic() - begin < 1.5


@pytest.mark.parametrize('date', [False, True], ids=['seconds', 'date'])
def test_a_long_pause_is_told_instead_of_kept(server, date) -> None:
    later = email.utils.formatdate(time.time() + 3601, usegmt=True)
    server.retry_after = later if date else '3600'
    text = refused(server.url('limited'))
    assert re.search(r'HTTP 429 Too Many Requests, try again in 3(599|60\d) s', text)
    assert len(server.requests) == 1


def test_redirects_never_leave_encryption() -> None:
    redirects, asked = transfer._Redirects(), urllib.request.Request('https://a/x')
    with pytest.raises(TransferFailed, match='redirects from https to http://b/x, which is not'):
        redirects.redirect_request(asked, None, 302, '', {}, 'http://b/x')
    there = redirects.redirect_request(asked, None, 302, '', {}, 'https://b/x')
    assert there is not None and there.full_url == 'https://b/x'


def test_no_network(monkeypatch) -> None:
    def no_names(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, 'Temporary failure in name resolution')

    monkeypatch.setattr(socket, 'getaddrinfo', no_names)
    urls = [f'https://a.example/{NAME}', f'https://b.example/{NAME}']
    text = refused(urls)
    assert text.count('Temporary failure in name resolution') == 2
    assert all(url in text for url in urls) and 'By hand' in text


@pytest.mark.parametrize(
    ('error', 'again'),
    [
        (ConnectionResetError('reset by peer'), True),
        (TimeoutError('timed out'), True),
        (socket.gaierror(socket.EAI_NONAME, 'Name or service not known'), False),
        (ssl.SSLCertVerificationError('certificate has expired'), False),
        (OSError('Tunnel connection failed: 403 Forbidden'), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else '',
)
def test_what_is_tried_again(error, again) -> None:
    assert (transfer._unreachable(error).wait is not None) == again


def test_proxies_of_the_environment_are_used(server, monkeypatch) -> None:
    monkeypatch.setenv('http_proxy', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setenv('no_proxy', 'direct.invalid')
    assert download(f'http://zoo.invalid/good/{NAME}').read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert 'not known' in refused(f'http://direct.invalid/{NAME.replace("model", "other")}')


def test_a_bar_on_a_terminal(server, monkeypatch, capsys) -> None:
    monkeypatch.setenv('FORCE_COLOR', '1')
    monkeypatch.setenv('COLUMNS', '120')
    download(server.url('good'))
    shown = capsys.readouterr().err
    assert NAME in shown and '204.8/204.8 kB' in shown and '━' in shown


# ------------------------------------------------------------------------- content that is known


def test_a_file_of_unknown_content_is_refused(server, cache) -> None:
    url = server.url('good', 'model_final.pth')
    text = refused(url)
    assert f'{url}: nobody published a hash of this file' in text and server.requests == []
    for way in (f'mmdet-r2 zoo download --unverified {url}', '#sha256=', 'pass the path'):
        assert way in text


def test_the_hash_may_be_given_with_the_address(server, cache) -> None:
    url, digits = server.url('good', 'a.pth'), hashlib.sha256(CONTENT).hexdigest()
    assert 'wrong content' in refused(f'{url}#sha256={"0" * 64}')
    path = download(f'{url}#sha256={digits}')
    assert path.read_bytes() == CONTENT and download(f'{url}#sha256={digits[:12]}') == path
    assert 'needs 8 to 64 hex digits' in refused(f'{url}#sha256=xyz')


def test_what_was_taken_unverified_must_stay_the_same(server, cache, capsys) -> None:
    url, digits = server.url('good', 'a.pth'), hashlib.sha256(CONTENT).hexdigest()
    path = download(url, unverified=True)
    assert f'a.pth: taken unverified, SHA-256 {digits}' in capsys.readouterr().err
    assert path.read_bytes() == CONTENT and download(url) == path and fetch(url) == path
    assert len(server.requests) == 1
    path.write_bytes(b'exchanged')
    assert download(url).read_bytes() == CONTENT and 'is damaged' in capsys.readouterr().err
    path.unlink()
    server.content = CONTENT[::-1]
    text = refused(url)
    assert 'wrong content' in text and not path.exists()
    assert f'as {path}.sha256 notes from the first time' in text


def test_without_a_hash_nothing_is_resumed_or_confused(server, cache) -> None:
    first = download(server.url('good', 'model_final.pth'), unverified=True)
    server.content = CONTENT[:100]
    second = download(server.url('good/other', 'model_final.pth'), unverified=True)
    assert first != second and second.read_bytes() == CONTENT[:100]
    server.piece = 50
    assert 'cut short' in refused(server.url('pieces', 'model_final.pth'), unverified=True)
    assert all(wanted is None for _, wanted in server.requests)


def test_a_damaged_file_of_the_cache_is_fetched_again(server, cache, capsys) -> None:
    path = download(server.url('good'))
    path.write_bytes(CONTENT[:-1])
    assert download(server.url('good')) == path and path.read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert f'{path} is damaged: its hash does not begin' in said and '; it is downloaded\n' in said
    path.write_bytes(CONTENT[:-1])
    download([server.url('missing'), server.url('noresume'), server.url('good')])
    assert capsys.readouterr().err.count('is damaged') == 1, 'told once, not for every address'


@pytest.mark.parametrize('kind', ['sha256', 'sha1', 'md5'])
def test_eight_digits_of_any_usual_hash_will_do(kind, tmp_path, monkeypatch) -> None:
    """Not every project says which one its names carry."""
    name = f'model-{hashlib.new(kind, CONTENT).hexdigest()[:8]}.pth'
    (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    assert download(f'https://example.org/{name}') == tmp_path / name


def test_names_of_detectron2_carry_md5(server) -> None:
    name = f'model_final_{hashlib.md5(CONTENT).hexdigest()[:6]}.pkl'
    assert download(server.url('good', name)).read_bytes() == CONTENT
    assert 'wrong content' in refused(server.url('good', 'model_final_000000.pkl'))


# ------------------------------------------------------------------------- without the network


def test_the_mirror_folder_comes_first_and_is_verified(server, tmp_path, monkeypatch) -> None:
    zoo = tmp_path / 'zoo'
    zoo.mkdir()
    monkeypatch.setenv('MMDET_R2_ZOO', str(zoo))
    (zoo / NAME).write_bytes(CONTENT)
    assert download(server.url('good')) == zoo / NAME
    assert server.requests == []
    (zoo / NAME).write_bytes(b'damaged')
    assert 'is damaged: its hash does not begin with' in refused(server.url('missing'))
    monkeypatch.setenv('MMDET_R2_ZOO', str(zoo / 'typo'))
    assert f'MMDET_R2_ZOO is {zoo / "typo"}, which is no folder' in refused(server.url('missing'))
    monkeypatch.setenv('MMDET_R2_ZOO', str(zoo))
    (zoo / NAME).unlink()
    nested = zoo / 'good' / NAME
    nested.parent.mkdir()
    nested.write_bytes(CONTENT)
    assert download(server.url('good')) == nested
    (nested.parent / f'a+{NAME}').write_bytes(CONTENT)
    assert download(server.url('good', f'a%2B{NAME}')).name == f'a+{NAME}'
    assert server.requests == [('/missing/' + NAME, None)] * 2


def test_a_general_name_in_the_mirror_needs_its_path(server, tmp_path, monkeypatch) -> None:
    """Every detectron2 run ends with a model_final.pth."""
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    (tmp_path / 'model_final.pth').write_bytes(CONTENT)
    assert 'nobody published' in refused(server.url('a', 'model_final.pth'))
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'model_final.pth').write_bytes(CONTENT)
    found = tmp_path / 'a' / 'model_final.pth'
    assert download(server.url('a', 'model_final.pth')) == found
    name = 'faster_rcnn_ResNeSt_50_FPN_dcn_syncbn_range-scale_1x.pth'  # published without a hash
    (tmp_path / name).write_bytes(CONTENT)
    assert fetch(name.removesuffix('.pth')) == tmp_path / name


def test_the_mirror_may_be_a_server(server, monkeypatch) -> None:
    monkeypatch.setenv('MMDET_R2_ZOO', server.url('good', '')[:-1] + '/copy/')
    assert download(f'https://a.invalid/b/{NAME}').read_bytes() == CONTENT
    assert server.requests == [(f'/good/copy/b/{NAME}', None)]
    monkeypatch.setenv('MMDET_R2_ZOO', server.url('flat', '')[:-1])
    other = f'a%2B{NAME}'
    assert download(f'https://a.invalid/b/{other}').read_bytes() == CONTENT
    assert [path for path, _ in server.requests[1:]] == [f'/flat/b/{other}', f'/flat/{other}']


@pytest.mark.parametrize('value', ['1', 'true'])
def test_offline_nothing_is_asked(server, cache, value, monkeypatch) -> None:
    monkeypatch.setenv('MMDET_R2_OFFLINE', value)
    text = refused(server.url('good'))
    assert 'MMDET_R2_OFFLINE is set' in text and str(cache) in text and 'By hand' in text
    assert server.requests == []
    monkeypatch.setenv('MMDET_R2_OFFLINE', '0')
    path = download(server.url('good'))
    monkeypatch.setenv('MMDET_R2_OFFLINE', value)
    assert download(server.url('good')) == path


def test_offline_tells_what_is_wrong_with_the_mirror(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('MMDET_R2_OFFLINE', '1')
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path))
    (tmp_path / NAME).write_bytes(b'damaged')
    text = refused([server.url('good'), server.url('noresume')])
    assert text.count(f'{tmp_path / NAME} is damaged') == 1
    monkeypatch.setenv('MMDET_R2_ZOO', str(tmp_path / 'typo'))
    assert 'which is no folder' in refused(server.url('good'))


@pytest.mark.parametrize(
    'place',
    ['other/torch/hub/checkpoints', 'other/mim', 'home/.torch/iopath_cache/good'],
    ids=['torch.hub', 'mim', 'detectron2'],
)
def test_what_other_tools_have_downloaded_is_used(server, tmp_path, place) -> None:
    there = tmp_path / place / NAME
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    assert download(server.url('good')) == there and server.requests == []
    there.write_bytes(b'damaged')
    assert download(server.url('good')).read_bytes() == CONTENT


def test_a_folder_to_put_files_in(server, tmp_path) -> None:
    path = download(server.url('good'), folder=tmp_path / 'a' / 'b')
    assert path == tmp_path / 'a' / 'b' / NAME and files(tmp_path) == [f'a/b/{NAME}']
    cached = download(server.url('good', NAME))
    assert cached != path and len(server.requests) == 2
    copy = download(server.url('good'), folder=tmp_path / 'c')
    assert copy == tmp_path / 'c' / NAME and copy.read_bytes() == CONTENT
    assert len(server.requests) == 2, 'what the cache has is copied'
    assert download(server.url('good'), folder=tmp_path / 'c') == copy


# ------------------------------------------------------------------------- several at once


def _in_children(number: int, work: Callable[[], object]) -> list[str]:
    """What ``work`` gives, or the error it raises, in so many processes at once."""

    def child(queue: multiprocessing.Queue) -> None:
        try:
            queue.put(str(work()))
        except CheckpointError as error:
            queue.put(str(error))

    queue = FORK.Queue()
    children = [FORK.Process(target=child, args=(queue,)) for _ in range(number)]
    for process in children:
        process.start()
    found = [queue.get(timeout=60) for _ in children]
    for process in children:
        process.join()
    return found


def test_four_processes_cause_one_request(server, cache) -> None:
    paths = _in_children(4, lambda: download(server.url('slow')))
    assert set(paths) == {str(cache / 'checkpoints' / NAME)}
    assert Path(paths[0]).read_bytes() == CONTENT
    assert len(server.requests) == 1 and files(cache) == [f'checkpoints/{NAME}']


def test_four_processes_fail_together(server, cache) -> None:
    name = 'slow' + NAME
    texts = _in_children(4, lambda: download(server.url('missing', name)))
    assert all('HTTP 404' in text for text in texts)
    assert len(server.requests) == 1, 'an address that failed for one was tried by the others'
    assert 'HTTP 404' in refused(server.url('missing', name)) and len(server.requests) == 2
    assert files(cache) == [], 'what failed leaves something behind'


def test_threads_take_turns_too(server) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(download(server.url('slow'))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(server.requests) == 1


def test_after_a_killed_process_another_goes_on(server, cache) -> None:
    child = FORK.Process(target=lambda: download(server.url('drip')))
    child.start()
    partial = cache / 'checkpoints' / f'{NAME}.part'
    while not partial.is_file() or partial.stat().st_size < HALF:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert download(server.url('good')).read_bytes() == CONTENT
    assert server.requests[-1][1].startswith('bytes=')
    assert files(cache) == [f'checkpoints/{NAME}']


def test_a_file_system_without_locks(server, cache, monkeypatch) -> None:
    import fcntl

    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    assert download(server.url('good')).read_bytes() == CONTENT
    assert not list(cache.rglob('*.part'))


# ------------------------------------------------------------------------- a disk's misbehaviour


def test_a_cache_that_cannot_be_written(server, cache, monkeypatch) -> None:
    def read_only(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, 'mkdir', read_only)
    text = refused([server.url('good'), server.url('noresume')])
    assert f'cannot write {cache / "checkpoints"} (Read-only file system)' in text
    assert 'set MMDET_R2_CACHE to another folder' in text and server.requests == []


def test_a_read_only_cache_serves_what_it_has(server, cache) -> None:
    path = download(server.url('good'))
    path.parent.chmod(0o555)
    before = path.parent.stat().st_mtime_ns
    assert download(server.url('good')) == path and path.parent.stat().st_mtime_ns == before
    path.parent.chmod(0o755)


def test_a_user_without_a_home_folder(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv('HOME')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(os, 'getuid', lambda: 54321)
    assert download(server.url('good')).read_bytes() == CONTENT
    monkeypatch.delenv('MMDET_R2_CACHE')
    assert 'home folder is not known: set MMDET_R2_CACHE' in refused(server.url('good'))


def test_a_copy_that_cannot_be_written(server, tmp_path) -> None:
    download(server.url('good'))
    (tmp_path / 'file').write_bytes(b'')
    text = refused(server.url('good'), folder=tmp_path / 'file')
    assert f'{tmp_path / "file" / NAME}: cannot be written' in text


def test_a_disk_that_is_full_before(server, cache, monkeypatch) -> None:
    usage = type('Usage', (), dict(free=1000))
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
    text = refused([server.url('good'), server.url('noresume')])
    assert 'No space left on device: 0.2 MB needed, 0.0 MB free' in text
    assert len(server.requests) == 1, 'no other address makes room'


def test_a_disk_that_fills_while_it_is_written(server, cache) -> None:
    def limited() -> Path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))
        return download([server.url('good'), server.url('noresume')])

    (text,) = _in_children(1, limited)
    assert 'cannot write' in text and os.strerror(errno.EFBIG) in text
    assert len(server.requests) == 1 and files(cache) == [], 'a full disk was left full'


# ------------------------------------------------------------------------- names


def test_a_url_is_read_as_a_checkpoint(server, tmp_path) -> None:
    torch.save(dict(a=torch.ones(2)), tmp_path / 'a.pth')
    server.content = (tmp_path / 'a.pth').read_bytes()
    digits = hashlib.sha256(server.content).hexdigest()
    url = f'{server.url("good", "a.pth")}#sha256={digits}'
    assert torch.equal(read_checkpoint(url)['a'], torch.ones(2))


def test_names_become_addresses() -> None:
    third_party = names.urls_of('open-mmlab://res2net101_v1d_26w_4s')
    file = 'pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth'
    assert third_party[0] == 'https://mmassets.onedl.ai/' + file
    assert third_party[-1] == 'https://download.openmmlab.com/' + file
    assert names.urls_of('torchvision://resnet50') == [
        'https://download.pytorch.org/models/resnet50-0676ba61.pth',
        'https://download.pytorch.org/models/resnet50-19c8e357.pth',
    ]
    model = names.urls_of('faster-rcnn_res2net-101_fpn_2x_coco')  # mmdetection 3.x's name
    assert model and all(
        url.endswith('faster_rcnn_r2_101_fpn_2x_coco-175f1da6.pth') for url in model
    )
    old = names.urls_of('http://download.openmmlab.com/mmdetection/v2.0/x-175f1da6.pth')
    assert len(old) == 3 and all(url.startswith('https://') for url in old)
    assert names.urls_of('some/path.pth') == []
    detector = names.urls_of('mask_rcnn_ResNeSt_50_FPN_syncBN_1x')
    assert [url.rpartition('/')[2] for url in detector] == [
        'mask_rcnn_ResNeSt_50_FPN_syncBN_1x-f442d863.pth'
    ] * 2
    given = names.urls_of(f'https://download.openmmlab.com/a.pth#sha256={"0" * 64}')
    assert all(url.endswith(f'/a.pth#sha256={"0" * 64}') for url in given) and len(given) == 3


def test_file_names_and_hashes() -> None:
    assert file_name('https://a.b/c/m-1234abcd.pth?download=1') == 'm-1234abcd.pth'
    assert expected_hash('m-1234abcd.pth') == '1234abcd'
    assert expected_hash('model_final_dbfeb4.pkl') == 'dbfeb4'
    assert expected_hash('model_final.pkl') is None
    assert expected_hash('epoch_12.pth') is None
    assert cache_dir().name == 'cache'
