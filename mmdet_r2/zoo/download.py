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
import shutil
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, DataError
from ..files import relative_name, replacing, settle, write_text
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
    """Folder for downloaded files (not created here).

    Raises:
        CheckpointError: it would be in the home folder, and the system names none.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        folder = home_path(chosen)
    else:
        folder = home_path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'mmdet_r2'
    if folder.parts[:1] == ('~',):
        raise CheckpointError(f'the home folder is not known: set {CACHE_VARIABLE} to a folder.')
    return folder


def home_path(text: str | os.PathLike[str]) -> Path:
    """A path with its ``~`` replaced, which stays where there is no such home folder."""
    return Path(os.path.expanduser(text))


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
    found = _from_mirror(files, reasons) or _already_here(files, folder, reasons)
    if found is not None:
        return found if folder is None else _copied(found, home_path(folder) / found.name)
    if offline():
        places = '; '.join(reasons or [f'{files[0].name} is not in {files[0].target.parent}'])
        raise CheckpointError(
            f'{places}; it is not downloaded because {OFFLINE_VARIABLE} is set. {_by_hand(files)}'
        )
    allowed = [file for file in files if file.wanted or unverified]
    if not allowed:
        raise CheckpointError(_unknown_content(files))
    for reason in reasons:
        print(f'{reason}; it is downloaded', file=sys.stderr)
    reasons += [f'{f.url}: nobody published a hash of it' for f in files if f not in allowed]
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
    name = _name_of(url)
    known = (expected_hash(name), index.weights_hash(name), given and given.group(1))
    wanted = wanted or tuple(dict.fromkeys(digits for digits in known if digits))
    if folder is not None:
        target = home_path(folder) / name
    else:
        # by name where the content is known, else apart for every address
        apart = '' if wanted else hashlib.sha256(url.encode()).hexdigest()[:8]
        target = cache_dir() / 'checkpoints' / apart / name
    if not wanted and (note := _note(target)).is_file():
        wanted = tuple(note.read_text().split()[:1])
    return _File(url, name, target, wanted)


def _name_of(url: str) -> str:
    """What the file of an address is stored as."""
    try:
        parts, name = urllib.parse.urlsplit(url), relative_name(file_name(url))
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # no number as port, brackets that do not close
        known = False
    # 'x.pth.part' and '.x.pth.lock' will be beside it
    if not known or name in ('', '.', '..') or not name.isprintable() or len(name.encode()) > 240:
        raise CheckpointError(f'{url}: is not the address of a file.')
    return name


def _note(target: Path) -> Path:
    """File with the hash of one that was taken unverified."""
    return target.with_name(f'{target.name}.sha256')


def wrong_hash(path: Path, wanted: Sequence[str]) -> str | None:
    """The digits of ``wanted`` that are not those of the file's hash; None if all are."""
    return next((digits for digits in wanted if not has_hash(path, digits)), None)


# ------------------------------------------------------------------------------ files already here


def _from_mirror(files: Sequence[_File], reasons: list[str]) -> Path | None:
    """The file in the folder that the user names. One without any known hash is believed there, if
    it is under its whole path, or under a name that only one model of the index has."""
    chosen = os.environ.get(MIRROR_VARIABLE, '')
    if not chosen or chosen.startswith(('http://', 'https://')):
        return None
    folder = home_path(chosen)
    if not folder.is_dir():
        reasons.append(f'{MIRROR_VARIABLE} is {chosen}, which is no folder')
    places: dict[Path, _File] = {}
    for file in files:
        path = urllib.parse.unquote(urllib.parse.urlsplit(file.url).path)
        places.setdefault(folder / path.lstrip('/'), file)
        if file.wanted or index.find_model(file.name) is not None:
            places.setdefault(folder / file.name, file)
    return _first_good(places, reasons)


def _already_here(
    files: Sequence[_File], folder: str | os.PathLike[str] | None, reasons: list[str]
) -> Path | None:
    """The file where it would be downloaded to, or in the cache, or as torch.hub (mmdetection,
    torchvision), mim or detectron2 downloaded it before."""
    caches = home_path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    torch_home = home_path(os.environ.get('TORCH_HOME') or caches / 'torch')
    iopath = home_path(os.environ.get('FVCORE_CACHE') or '~/.torch/iopath_cache')
    ours: dict[Path, _File] = {}
    others: dict[Path, _File] = {}
    for file in files:
        if not file.wanted:
            continue
        ours.setdefault(file.target, file)
        if folder is not None:
            ours.setdefault(_file(file.url, None, file.wanted).target, file)
        path = urllib.parse.urlsplit(file.url).path.lstrip('/')
        others.setdefault(torch_home / 'hub' / 'checkpoints' / file.name, file)
        others.setdefault(caches / 'mim' / file.name, file)
        others.setdefault(iopath / path, file)
    return _first_good(ours, reasons) or _first_good(others, [])


def _first_good(places: Mapping[Path, _File], reasons: list[str]) -> Path | None:
    """The first place at which the file is, with its hash; adds to ``reasons`` otherwise."""
    for place, file in places.items():
        if place.is_file():
            wrong = wrong_hash(place, file.wanted)
            if wrong is None:
                return place
            reasons.append(f'{place} is damaged: its hash does not begin with {wrong}')
    return None


def _on_mirror(files: Sequence[_File]) -> list[_File]:
    """The addresses on the server that the user names instead of a folder."""
    base = os.environ.get(MIRROR_VARIABLE, '').rstrip('/')
    if not base.startswith(('http://', 'https://')):
        return []
    found: dict[str, _File] = {}
    for file in files:
        for path in (urllib.parse.urlsplit(file.url).path, f'/{urllib.parse.quote(file.name)}'):
            found.setdefault(base + path, _File(base + path, file.name, file.target, file.wanted))
    return list(found.values())


def _copied(source: Path, target: Path) -> Path:
    """``source`` at ``target``, without a moment in which half of it is there."""
    if not (target.exists() and target.samefile(source)):
        try:
            with replacing(target) as partial:
                shutil.copyfile(source, partial)
        except DataError as error:
            raise CheckpointError(f'{error} It is copied from {source}.') from None
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
                write_text(_note(target), f'{digits}  {target.name}\n')
                print(f'{target.name}: taken unverified, SHA-256 {digits}', file=sys.stderr)
    except (OSError, DataError) as error:
        raise StorageFailed(getattr(error, 'strerror', None) or str(error)) from None


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
                settle(partial, target)
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
        note = _note(file.target)
        why = f' as {note} notes from the first time' if note.is_file() else ''
        raise TransferFailed(f'wrong content (SHA-256 {found[:8]}..., but expected {wrong}{why})')


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
        'exchanged: it is not used. If you trust the place: mmdet-r2 zoo download --unverified '
        f'{url} (notes its SHA-256 for the next time); or add #sha256= and the digits you expect '
        'to the address; or pass the path of a file that you got yourself.'
    )
