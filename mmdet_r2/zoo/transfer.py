"""One address to one file: HTTP with transfers that are resumed, watched, and honest about why they
failed. Proxies are those of the environment (``https_proxy``, ``no_proxy``)."""

import contextlib
import email.utils
import errno
import http.client
import math
import re
import shutil
import socket
import ssl
import string
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
# A server that sends less than this over a whole time-out is taken to be stalled, bytes per second.
_SLOWEST = 1024
# The longest that a server's Retry-After is obeyed, in seconds.
_LONGEST_WAIT = 60.0
_WEB_PAGE = 'got a web page instead of the file'
_PAGE_BEGINS = re.compile(rb'\s*<(!doctype|html)\b', re.IGNORECASE)
_BUSY = {408, 425, 429, 500, 502, 503, 504}
# Broken connections: another try may work. A name that does not exist, or a bad certificate, stays.
_PASSING = (
    ConnectionError,
    TimeoutError,
    http.client.BadStatusLine,
    http.client.IncompleteRead,
    ssl.SSLEOFError,
)


class TransferFailed(Exception):
    """An address did not give the file; the text is the reason.

    Attributes:
        wait: seconds after which another try may work; None where it never will.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class StorageFailed(Exception):
    """The file cannot be written; no other address would help. The text is the reason."""


def file_name(url: str) -> str:
    """Last part of the address's path, without query: the name a download is stored under."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url.strip()).path).rsplit('/', 1)[-1]


def transfer(url: str, partial: Path, *, resume: bool, timeout: float) -> bool:
    """Append the missing bytes of ``url`` to ``partial``, or write all of them.

    Args:
        url: an http(s) address.
        partial: the file to write. What a failed transfer wrote stays, for the next to go on from.
        resume: ask for what ``partial`` lacks only.
        timeout: seconds without a byte, or with hardly any, after which the transfer is given up.

    Returns:
        Whether the beginning of the file is from an earlier transfer.

    Raises:
        TransferFailed: the address did not give the file.
        StorageFailed: the disk is full or read-only.
    """
    if not url.startswith(('http://', 'https://')):
        raise TransferFailed('not an http(s) address')
    have = partial.stat().st_size if resume and partial.is_file() else 0
    try:
        request = urllib.request.Request(_quoted(url), headers={'User-Agent': 'mmdet_r2'})
        if have:
            request.add_header('Range', f'bytes={have}-')
        with opener().open(request, timeout=timeout) as reply:
            return _receive(reply, url, partial, have, timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return True  # nothing after our bytes: they are the whole file, or too many
        raise _refused(error) from None
    except urllib.error.URLError as error:
        raise _unreachable(error.reason) from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from None
    except ValueError as error:  # an address that is none
        raise TransferFailed(str(error)) from None


def _quoted(url: str) -> str:
    """The address with what a request cannot hold, such as spaces and umlauts, written as ``%20``;
    what is already written so stays."""
    parts = urllib.parse.urlsplit(url)
    path, query = (
        urllib.parse.quote(part, string.punctuation) for part in (parts.path, parts.query)
    )
    return parts._replace(path=path, query=query).geturl()


def _receive(
    reply: http.client.HTTPResponse, url: str, partial: Path, have: int, timeout: float
) -> bool:
    if reply.headers.get_content_type() == 'text/html':
        raise TransferFailed(_WEB_PAGE)
    encoding = reply.headers.get('Content-Encoding', 'identity')
    if encoding != 'identity':
        raise TransferFailed(f'sent it compressed ({encoding}), which it was not asked for')
    continued = have > 0 and reply.status == 206
    if continued and not _begins_at(reply.headers.get('Content-Range', ''), have):
        partial.unlink()
        raise TransferFailed('sent another part than it was asked for', wait=0)
    done = have if continued else 0
    total = None
    if reply.length is not None:  # bytes to come, where the server says it
        _check_space(partial, reply.length)
        total = done + reply.length
    name, host = file_name(url), urllib.parse.urlsplit(url).netloc
    mode = 'ab' if continued else 'wb'
    with _opened(partial, mode) as file, Progress(name, total, done, host) as progress:
        try:
            with Watch(reply, timeout) as watch:
                watch.done = done
                while chunk := reply.read1(_CHUNK):
                    if not done and _PAGE_BEGINS.match(chunk):
                        raise TransferFailed(_WEB_PAGE)
                    done += _write(file, chunk, partial)
                    watch.done = done
                    progress.update(done)
        except Stalled as error:
            raise TransferFailed(str(error), wait=0) from None
    if total is not None and done != total:
        raise TransferFailed(f'cut short ({done} of {total} bytes)', wait=0)
    if not done:
        raise TransferFailed('sent nothing')
    return continued


def _begins_at(content_range: str, start: int) -> bool:
    """Whether a Content-Range (``bytes 100-199/200``), where there is one, begins there."""
    found = re.match(r'bytes (\d+)-', content_range)
    return found is None or int(found.group(1)) == start


class _Watched(http.client.HTTPConnection):
    """A connection whose answer must begin within two time-outs. A socket's time-out begins anew
    with every byte: a server that sends its headers one by one would hold it for ever.
    """

    def getresponse(self) -> http.client.HTTPResponse:
        """The answer, with its headers."""
        sock = self.sock  # the answer may take it over
        timer = threading.Timer(2 * (self.timeout or _LONGEST_WAIT), _hang_up, [sock])
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        answer.connection = sock  # type: ignore[attr-defined]
        return answer


class _WatchedTLS(http.client.HTTPSConnection, _Watched):
    """The same, encrypted."""


class Stalled(Exception):
    """A server that sends hardly anything, or for too long."""


class Watch:
    """Hangs up on a server that sends less than ``_SLOWEST`` bytes a second over a whole time-out,
    as a context manager around reading its answer: Stalled is raised then, whatever the reading
    raises. One that sends the parts of an answer's form, and no content, is hung up on as well.

    Args:
        answer: of :func:`opener`.
        timeout: seconds.
        longest: seconds that all of the answer may take.

    Attributes:
        done: bytes so far, which the reader counts.
    """

    def __init__(
        self, answer: http.client.HTTPResponse, timeout: float, longest: float = math.inf
    ) -> None:
        self.done = 0
        self._sock: socket.socket = answer.connection  # type: ignore[attr-defined]
        self._timeout, self._longest = timeout, longest
        self._ended, self._stalled = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        begin, before = time.monotonic(), self.done
        while not self._ended.wait(min(self._timeout, self._longest)):
            slow = self.done - before < _SLOWEST * self._timeout
            if slow or time.monotonic() - begin >= self._longest:
                self._stalled = True
                _hang_up(self._sock)
                return
            before = self.done

    def __enter__(self) -> 'Watch':
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._stalled:
            raise Stalled(f'stalled after {self.done} bytes') from None


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Watched, req)


class _TLS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_WatchedTLS, req, context=self._context)  # type: ignore[attr-defined]


def opener() -> urllib.request.OpenerDirector:
    """What opens http(s) addresses, and nothing else, wherever they redirect to."""
    return urllib.request.build_opener(_Redirects, _Plain, _TLS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted address to a plain one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith('https://') and not newurl.startswith('https://'):
            raise TransferFailed(f'redirects from https to {newurl}, which is not encrypted')
        if not newurl.startswith(('http://', 'https://')):
            raise TransferFailed(f'redirects to {newurl}')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(error: urllib.error.HTTPError) -> TransferFailed:
    if str(error.reason).startswith(_Redirects.inf_msg):
        return TransferFailed('redirects in a circle, or too often')
    if 300 <= error.code < 400:
        return TransferFailed(f'redirects to {_line(error.headers.get("Location", "nowhere"))}')
    reason = f'HTTP {error.code} {_line(error.reason)}'.rstrip()
    if error.code not in _BUSY:
        return TransferFailed(reason)
    wait = _retry_after(error.headers.get('Retry-After', '') if error.headers else '')
    if wait > _LONGEST_WAIT:
        return TransferFailed(f'{reason}, try again in {wait:.0f} s')
    return TransferFailed(reason, wait)


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if re.fullmatch(r'\s*\d+\s*', text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _unreachable(error: object) -> TransferFailed:
    if isinstance(error, TransferFailed):
        return error
    if isinstance(error, TimeoutError):
        return TransferFailed('no answer in time', wait=0)
    passing = isinstance(error, _PASSING) or (
        isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    )
    text = _line(error) or type(error).__name__
    if isinstance(error, http.client.IncompleteRead):
        text = 'cut short'
    elif isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        text = f'no proper answer ({text})'
    return TransferFailed(text, wait=0 if passing else None)


def _line(text: object) -> str:
    """What a server said, as one line that a terminal shows as it is."""
    words = ' '.join(str(text).split())
    return ''.join(c if c.isprintable() else '?' for c in words)


def _opened(partial: Path, mode: str) -> IO[bytes]:
    try:
        return open(partial, mode, buffering=0)
    except OSError as error:
        raise StorageFailed(error.strerror or str(error)) from None


def _write(file: IO[bytes], chunk: bytes, partial: Path) -> int:
    try:
        left = memoryview(chunk)
        while left:  # an unbuffered file may take a part
            left = left[file.write(left) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            file.close()
            partial.unlink(missing_ok=True)  # a full disk is not left full
        raise StorageFailed(error.strerror or str(error)) from None
    return len(chunk)


def _check_space(partial: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(partial.parent).free
    except OSError:
        return
    if free < needed:
        raise StorageFailed(
            f'No space left on device: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free'
        )


class Progress:
    """How far a transfer is: a bar on a terminal, a line every half minute elsewhere."""

    def __init__(self, name: str, total: int | None, done: int, host: str) -> None:
        from rich.console import Console

        self.name, self.total, self.done, self.host = name, total, done, host
        self.console = Console(stderr=True)
        self.bar: Any = None
        self.last = time.monotonic()

    def __enter__(self) -> 'Progress':
        from rich import progress
        from rich.errors import LiveError

        if self.console.is_terminal:
            columns = (
                progress.TextColumn('{task.description}', markup=False),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
            )
            bar = progress.Progress(*columns, console=self.console)
            try:
                bar.start()
            except LiveError:  # another bar is on this terminal
                self._line()
                return self
            self.bar = bar
            self.task = bar.add_task(self.name, total=self.total, completed=self.done)
        else:
            self._line()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int) -> None:
        self.done = done
        if self.bar is not None:
            self.bar.update(self.task, completed=done)
        elif time.monotonic() - self.last > 30:
            self._line()

    def _line(self) -> None:
        self.last = time.monotonic()
        of = f' of {self.total / 1e6:.1f}' if self.total else ''
        text = f'downloading {self.name} from {self.host}: {self.done / 1e6:.1f}{of} MB'
        print(text, file=sys.stderr, flush=True)
