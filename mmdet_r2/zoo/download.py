"""Fetching published files: several addresses, resumed transfers, verified content, one request per
machine.

Where files go: ``$MMDET_R2_CACHE``, else ``$XDG_CACHE_HOME/mmdet_r2``, else ``~/.cache/mmdet_r2``.
Looked into first, so that a machine without network runs from a copied zoo: the folder (or http
address) named by ``$MMDET_R2_ZOO``, then what mmdetection, detectron2 and torchvision have
downloaded before. With ``$MMDET_R2_OFFLINE`` set to 1 nothing is asked of the network.

No file from the network is used unless its content has the hash that its name, the metafile or the
caller says: hosts change hands (that of mmdetection's files lapsed in 2026).
"""

import hashlib
import os
import random
import re
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from . import index
from .lock import exclusive
from .transfer import StorageFailed, TransferFailed, file_name, transfer

CACHE_VARIABLE = 'MMDET_R2_CACHE'
MIRROR_VARIABLE = 'MMDET_R2_ZOO'
OFFLINE_VARIABLE = 'MMDET_R2_OFFLINE'
# How often each address is tried, and the seconds before the second round; they double.
_ROUNDS = 3
_PAUSE = 1.0
_CHUNK = 1 << 20
# model_zoo names end in '-' and the first eight hex digits of the file's SHA-256. A date of this
# century is taken for what it is: one hash in 100,000 looks like one.
_DATE = r'20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])'
_HASH = re.compile(rf'-(?!{_DATE}\.)([0-9a-f]{{8}})\.(?:pth|pt|pkl|tar|safetensors)$')
# detectron2's zoo: six digits of the file's MD5.
_DETECTRON2_HASH = re.compile(r'^model_final_([0-9a-f]{6})\.pkl$')
_GIVEN_HASH = re.compile(r'#sha256=([0-9a-f]{8,64})$')


@dataclass(frozen=True)
class _File:
    """A file behind an address: where it will be, and hash digits that it must have."""

    url: str
    name: str
    target: Path
    wanted: tuple[str, ...]


def cache_dir() -> Path:
    """Folder for downloaded files (not created here)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmdet_r2'


def offline() -> bool:
    """Whether ``$MMDET_R2_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, '').lower() not in ('', '0', 'no', 'false', 'off')


def expected_hash(name: str) -> str | None:
    """The hex digits of a hash that a published file name ends in, or None where it has none:
    eight of SHA-256, or six of MD5 in detectron2's ``model_final_dbfeb4.pkl``."""
    found = _HASH.search(name) or _DETECTRON2_HASH.search(name)
    return found.group(1) if found else None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return _digest(path, 'sha256')


def has_hash(path: Path, digits: str) -> bool:
    """Whether a file's hash begins with ``digits``: SHA-256, or one of those it followed.

    The projects of OpenMMLab and PyTorch use SHA-256, detectron2 MD5; of the detectors of ResNeSt's
    authors it is only known that their names end in eight digits of a hash.
    """
    return any(_digest(path, kind).startswith(digits) for kind in ('sha256', 'sha1', 'md5'))


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    urls: str | Sequence[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    unverified: bool = False,
    timeout: float = 30.0,
) -> Path:
    """Return the local path of the first of ``urls`` that can be had, from mirror folder, cache or
    network.

    A file is only ever returned when its content has the hash that is known of it. Transfers that
    break are resumed, and tried again after a pause. Processes on one machine (or of several that
    share the folder) take turns: one transfers, the others wait for it.

    Args:
        urls: addresses to try in order; they may have different file names (the same weights,
            republished). An address may end in ``#sha256=`` and digits that its file must have.
        folder: where the file is put, instead of the cache.
        unverified: take a file whose hash nobody published. It is noted beside the file, and from
            then on the file must have it.
        timeout: seconds without a byte after which an address is given up.

    Raises:
        CheckpointError: no address gave the file, nobody says what it must contain, or it cannot be
            written; the message has every address with its reason, and what can be done by hand.
    """
    urls = [urls] if isinstance(urls, str) else list(urls)
    files = [_file(url, folder) for url in urls]
    reasons: list[str] = []
    for file in files:
        found = _from_mirror(file, reasons)
        if found is not None:
            return found if folder is None else _copied(found, file.target)
    for file in files:
        found = _cached(file) or _elsewhere(file)
        if found is None and folder is not None:
            found = _cached(_file(file.url, None, file.wanted))
        if found is not None:
            return found if folder is None else _copied(found, file.target)
    if offline():
        places = '; '.join([f'{files[0].name} is not in {files[0].target.parent}', *reasons])
        raise CheckpointError(
            f'{places}; it is not downloaded because {OFFLINE_VARIABLE} is set. {_by_hand(files)}'
        )
    allowed = [file for file in files if file.wanted or unverified]
    reasons += [f'{f.url}: nobody published a hash of it' for f in files if f not in allowed]
    if not allowed:
        raise CheckpointError(_unknown_content(files))
    groups: dict[Path, list[_File]] = {}
    for file in (*_on_mirror(allowed), *allowed):
        groups.setdefault(file.target, []).append(file)
    for target, group in groups.items():
        try:
            _from_network(target, group, timeout, reasons)
            return target
        except StorageFailed as error:
            other = f'set {CACHE_VARIABLE} to' if folder is None else 'choose'
            raise CheckpointError(
                f'cannot download {target.name}: cannot write {target.parent} ({error}). Make room '
                f'or get write permission there, or {other} another folder.'
            ) from None
        except TransferFailed:
            pass  # each reason is in the list
    raise CheckpointError(
        f'cannot download {files[0].name}: {"; ".join(reasons)}. {_by_hand(files)}'
    )


def _file(
    url: str, folder: str | os.PathLike[str] | None, wanted: tuple[str, ...] | None = None
) -> _File:
    url = url.strip()
    given = _GIVEN_HASH.search(url)
    if '#sha256=' in url and given is None:
        raise CheckpointError(f'{url}: #sha256= needs 8 to 64 hex digits.')
    url = url.partition('#')[0]
    name = file_name(url)
    known = (expected_hash(name), index.weights_hash(name), given and given.group(1))
    wanted = wanted or tuple(dict.fromkeys(digits for digits in known if digits))
    if folder is not None:
        target = Path(folder).expanduser() / name
    else:
        # by name where the content is known, else apart for every address
        apart = '' if wanted else hashlib.sha256(url.encode()).hexdigest()[:8]
        target = cache_dir() / 'checkpoints' / apart / name
    if not wanted and (note := _note(target)).is_file():
        wanted = tuple(note.read_text().split()[:1])
    return _File(url, name, target, wanted)


def _note(target: Path) -> Path:
    """File with the hash of one that was taken unverified."""
    return target.with_name(f'{target.name}.sha256')


def wrong_hash(path: Path, wanted: Sequence[str]) -> str | None:
    """The digits of ``wanted`` that are not those of the file's hash; None if all are."""
    return next((digits for digits in wanted if not has_hash(path, digits)), None)


# ------------------------------------------------------------------------------ files already here


def _from_mirror(file: _File, reasons: list[str]) -> Path | None:
    """The file in the folder that the user names. One without any known hash is believed there, if
    it is under its whole path, or under a name that only one model of the index has."""
    chosen = os.environ.get(MIRROR_VARIABLE, '')
    if not chosen or chosen.startswith(('http://', 'https://')):
        return None
    folder = Path(chosen).expanduser()
    missing = f'{MIRROR_VARIABLE} is {chosen}, which is no folder'
    if not folder.is_dir() and missing not in reasons:
        reasons.append(missing)
    candidates = [folder / urllib.parse.urlsplit(file.url).path.lstrip('/')]
    if file.wanted or index.find_model(file.name) is not None:
        candidates.append(folder / file.name)
    for candidate in candidates:
        if candidate.is_file():
            wrong = wrong_hash(candidate, file.wanted)
            if wrong is None:
                return candidate
            reasons.append(f'{candidate}: its SHA-256 does not begin with {wrong}')
    return None


def _on_mirror(files: Sequence[_File]) -> list[_File]:
    """The addresses on the server that the user names instead of a folder."""
    base = os.environ.get(MIRROR_VARIABLE, '')
    if not base.startswith(('http://', 'https://')):
        return []
    base = base.rstrip('/')
    paths = {urllib.parse.urlsplit(file.url).path: file for file in reversed(files)}
    return [_File(base + path, f.name, f.target, f.wanted) for path, f in reversed(paths.items())]


def _cached(file: _File) -> Path | None:
    """The file where it would be downloaded to, if it is there and has its hash."""
    if not file.target.is_file() or not file.wanted:
        return None
    if wrong_hash(file.target, file.wanted) is None:
        return file.target
    print(f'{file.target} is damaged: it is downloaded again.', file=sys.stderr)
    return None


def _elsewhere(file: _File) -> Path | None:
    """The file as torch.hub (mmdetection, torchvision), mim or detectron2 downloaded it before."""
    if not file.wanted:
        return None
    caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    torch_home = Path(os.environ.get('TORCH_HOME') or caches / 'torch').expanduser()
    iopath = Path(os.environ.get('FVCORE_CACHE') or '~/.torch/iopath_cache').expanduser()
    path = urllib.parse.urlsplit(file.url).path.lstrip('/')
    for candidate in (
        torch_home / 'hub' / 'checkpoints' / file.name,
        caches / 'mim' / file.name,
        iopath / path,
    ):
        if candidate.is_file() and wrong_hash(candidate, file.wanted) is None:
            return candidate
    return None


def _copied(source: Path, target: Path) -> Path:
    """``source`` at ``target``, without a moment in which half of it is there."""
    import shutil

    if target.exists() and target.samefile(source):
        return target
    partial = target.with_name(f'{target.name}.{os.getpid()}.part')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f'cannot copy {source} to {target} ({error.strerror or error}).'
        ) from None
    return target


# ------------------------------------------------------------------------------ the network


def _from_network(target: Path, files: Sequence[_File], timeout: float, reasons: list[str]) -> None:
    """Fetch ``target`` from the first of ``files`` that gives it; adds to ``reasons`` otherwise."""
    try:
        with exclusive(target) as lock:
            if lock.failed is not None:  # while this process waited for another to fetch it
                reasons += lock.failed
                raise TransferFailed('another process could not get it')
            wanted = files[0].wanted
            if wanted and target.is_file() and wrong_hash(target, wanted) is None:
                return
            try:
                _in_rounds(target, files, lock.partial, timeout, reasons)
            except TransferFailed:
                lock.fail(reasons)
                raise
            if not wanted:
                digits = sha256(target)
                _note(target).write_text(f'{digits}  {target.name}\n')
                print(f'{target.name}: taken unverified, SHA-256 {digits}', file=sys.stderr)
    except OSError as error:
        raise StorageFailed(error.strerror or str(error)) from None


def _in_rounds(
    target: Path, files: Sequence[_File], partial: Path, timeout: float, reasons: list[str]
) -> None:
    """Try every address; after a pause, those again whose failure may have passed.

    Progress of a megabyte starts the count of rounds again: a long file over a bad line arrives.
    """
    failed: dict[str, str] = {}
    pending = list(files)
    not_before: dict[str, float] = {}  # where a server asked for a pause
    rounds = 0
    while pending and rounds < _ROUNDS:
        now = time.monotonic()
        due = [file for file in pending if not_before.get(file.url, now) <= now]
        if not due:
            time.sleep(min(not_before[file.url] for file in pending) - now)
            continue
        before = _size(partial)
        for file in due:
            try:
                _transfer(file, partial, timeout)
                os.replace(partial, target)
                return
            except TransferFailed as failure:
                failed[file.url] = str(failure)
                if failure.wait is None:
                    pending.remove(file)
                else:
                    not_before[file.url] = time.monotonic() + failure.wait
        progress = _size(partial) - before if files[0].wanted else 0
        rounds = 0 if progress >= _CHUNK else rounds + 1
        if pending and rounds < _ROUNDS:
            time.sleep(_PAUSE * 2 ** max(0, rounds - 1) * random.uniform(1, 1.25))
    reasons += [f'{url}: {reason}' for url, reason in failed.items()]
    raise TransferFailed('no address gave it')


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(file: _File, partial: Path, timeout: float) -> None:
    """Fetch one address to ``partial``, and verify it.

    Only files of known content are resumed: otherwise nothing shows that both parts are of one.
    """
    resumed = transfer(file.url, partial, resume=bool(file.wanted), timeout=timeout)
    wrong = wrong_hash(partial, file.wanted)
    if wrong is not None and resumed:
        # the beginning came from elsewhere or from an older file: once more from the start
        partial.unlink()
        transfer(file.url, partial, resume=False, timeout=timeout)
        wrong = wrong_hash(partial, file.wanted)
    if wrong is not None:
        found = sha256(partial)
        partial.unlink()
        raise TransferFailed(f'wrong content (SHA-256 {found[:8]}..., but expected {wrong})')


def _by_hand(files: Sequence[_File]) -> str:
    """What to do where the network does not help."""
    file = files[0]
    check = f' (its hash must begin with {file.wanted[0]})' if file.wanted else ''
    return (
        f'By hand: get {file.name} from anyone who has it{check}, and pass its path, or set '
        f'{MIRROR_VARIABLE} to the folder it is in.'
    )


def _unknown_content(files: Sequence[_File]) -> str:
    url = files[0].url
    return (
        f'{url}: nobody published a hash of this file, so nothing would show that it was '
        'exchanged: it is not used. If you trust the place: python tools/download.py --unverified '
        f'{url} (notes its SHA-256 for the next time); or add #sha256= and the digits you expect '
        'to the address; or pass the path of a file that you got yourself.'
    )
