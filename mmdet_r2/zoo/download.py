"""Fetching published files: several addresses, resumed transfers, verified names, one request per
machine.

Where files go: ``$MMDET_R2_CACHE``, else ``$XDG_CACHE_HOME/mmdet_r2``, else ``~/.cache/mmdet_r2``.
A folder named by ``$MMDET_R2_ZOO`` is looked into first, so that a machine without network runs
from a copied zoo.
"""

import contextlib
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import CheckpointError

CACHE_VARIABLE = 'MMDET_R2_CACHE'
MIRROR_VARIABLE = 'MMDET_R2_ZOO'
_CHUNK = 1 << 20
# model_zoo names end in '-' and the first eight hex digits of the file's SHA-256. A date of this
# century is taken for what it is: one hash in 100,000 looks like one.
_DATE = r'20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])'
_HASH = re.compile(rf'-(?!{_DATE}\.)([0-9a-f]{{8}})\.(?:pth|pt|pkl|tar|safetensors)$')


class _Failed(Exception):
    """One address did not give the file; the text is its reason."""


def cache_dir() -> Path:
    """Folder for downloaded files (not created here)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmdet_r2'


def file_name(url: str) -> str:
    """Last part of the address's path, without query: the name a download is stored under."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url.strip()).path).rsplit('/', 1)[-1]


def expected_hash(name: str) -> str | None:
    """The eight hex digits of SHA-256 that a published file name ends in, or None where it has
    none."""
    found = _HASH.search(name)
    return found.group(1) if found else None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return _digest(path, 'sha256')


def has_hash(path: Path, digits: str) -> bool:
    """Whether a file's hash begins with ``digits``: SHA-256, or one of those it followed.

    The projects of OpenMMLab and PyTorch use SHA-256; of the detectors of ResNeSt's authors it is
    only known that their names end in eight digits of a hash.
    """
    return any(_digest(path, kind).startswith(digits) for kind in ('sha256', 'sha1', 'md5'))


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(urls: str | Sequence[str], *, timeout: float = 30.0) -> Path:
    """Return the local path of the first of ``urls`` that can be had, from mirror folder, cache or
    network.

    A file whose name carries a hash is only ever returned when its content has that hash. Transfers
    that break are resumed. Processes on one machine share the cache: one transfers, the others wait
    for it.

    Args:
        urls: addresses to try in order; they may have different file names (the same weights,
            republished).
        timeout: seconds without a byte after which an address is given up.

    Raises:
        CheckpointError: no address gave the file; the message has every address with its reason.
    """
    urls = [urls] if isinstance(urls, str) else list(urls)
    urls = [url.strip() for url in urls]
    reasons: list[str] = []
    for url in urls:
        found = _from_mirror(url, reasons)
        if found is not None:
            return found
    for url in urls:
        target = _target(url)
        if target.is_file():
            return target
    for url in urls:
        target = _target(url)
        try:
            with _exclusive(target):
                if (
                    not target.is_file()
                ):  # another process may have finished it while this one waited
                    _transfer(url, target, timeout)
            return target
        except _Failed as failure:
            reasons.append(f'{url}: {failure}')
        except OSError as error:
            reasons.append(f'{url}: cannot write {target.parent} ({error.strerror or error})')
    hint = f'put the file into a folder and set {MIRROR_VARIABLE} to it, or pass its path'
    raise CheckpointError(f'cannot download {file_name(urls[0])}: {"; ".join(reasons)} ({hint}).')


def _from_mirror(url: str, reasons: list[str]) -> Path | None:
    folder = os.environ.get(MIRROR_VARIABLE)
    if not folder:
        return None
    name = file_name(url)
    remote_path = urllib.parse.urlsplit(url).path.lstrip('/')
    for candidate in (Path(folder).expanduser() / remote_path, Path(folder).expanduser() / name):
        if candidate.is_file():
            wanted = expected_hash(name)
            if wanted is None or has_hash(candidate, wanted):
                return candidate
            reasons.append(f'{candidate}: its SHA-256 does not begin with {wanted}')
    return None


def _target(url: str) -> Path:
    """Where a URL's file is cached: by name where the name has a hash, else apart for every
    address."""
    name = file_name(url)
    folder = cache_dir() / 'checkpoints'
    if expected_hash(name) is None:
        folder = folder / hashlib.sha256(url.encode()).hexdigest()[:8]
    return folder / name


@contextlib.contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Hold the lock file beside ``target``: the ranks of a launch, or separate programs, take
    turns."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows: there, two programs may download the same file twice
        yield
        return
    with open(f'{target}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)


def _transfer(url: str, target: Path, timeout: float) -> None:
    """Fetch ``url`` to ``target``: into a partial file first, moved into place only when complete
    and verified."""
    if not url.startswith(('http://', 'https://')):
        raise _Failed('not an http(s) address')
    partial = target.with_name(f'{target.name}.part')
    wanted = expected_hash(target.name)
    resumed = _fetch(url, partial, resume=wanted is not None, timeout=timeout)
    if wanted is not None and not has_hash(partial, wanted):
        if (
            resumed
        ):  # the beginning came from elsewhere or from an older file: once more from the start
            partial.unlink()
            _fetch(url, partial, resume=False, timeout=timeout)
        if not has_hash(partial, wanted):
            found = sha256(partial)
            partial.unlink()
            raise _Failed(f'wrong content (SHA-256 begins with {found[:8]}, not {wanted})')
    os.replace(partial, target)


def _fetch(url: str, partial: Path, *, resume: bool, timeout: float) -> bool:
    """Append the missing bytes to ``partial`` (or write all of them); returns whether it was
    continued.

    Only names with a hash are resumed: without one nothing shows that both parts are of one file.
    """
    have = partial.stat().st_size if resume and partial.is_file() else 0
    request = urllib.request.Request(url, headers={'User-Agent': 'mmdet_r2'})
    if have:
        request.add_header('Range', f'bytes={have}-')
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            continued = reply.status == 206 and have > 0
            size = reply.headers.get('Content-Length')
            total = None if size is None else int(size) + (have if continued else 0)
            with open(partial, 'ab' if continued else 'wb') as file:
                with _Progress(file_name(url), total) as progress:
                    while chunk := reply.read(_CHUNK):
                        file.write(chunk)
                        progress.update(file.tell())
                done = file.tell()
    except urllib.error.HTTPError as error:
        if (
            error.code == 416 and have
        ):  # nothing after our bytes: they are the whole file, or too many
            return True
        raise _Failed(f'HTTP {error.code} {error.reason}') from None
    except urllib.error.URLError as error:
        raise _Failed(f'{error.reason}') from None
    except (TimeoutError, http.client.HTTPException, ConnectionError, ValueError) as error:
        raise _Failed(f'{type(error).__name__}: {error}') from None
    if total is not None and done != total:
        raise _Failed(f'cut short ({done} of {total} bytes)')
    return continued


class _Progress:
    """A line on the terminal that says how far a transfer is; silent where stderr is no
    terminal."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.last = name, total, 0.0
        self.shown = sys.stderr.isatty()

    def __enter__(self) -> '_Progress':
        return self

    def __exit__(self, *exc: object) -> None:
        if self.shown and self.last:
            sys.stderr.write('\n')

    def update(self, done: int) -> None:
        now = time.monotonic()
        if not self.shown or (now - self.last < 0.5 and done != self.total):
            return
        self.last = now
        of = f' of {self.total / 1e6:.1f}' if self.total else ''
        sys.stderr.write(f'\rdownloading {self.name}: {done / 1e6:.1f}{of} MB')
        sys.stderr.flush()
