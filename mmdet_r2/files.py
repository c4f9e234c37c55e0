"""Files: read with a plain error, named after data only below their folder, and written whole or
not at all: under its name is at every moment the old content or all of the new one, on the disk.
"""

import contextlib
import errno
import functools
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from .errors import DataError, UserError

#: Bytes of a file that is read into memory as a whole.
MAX_BYTES = 2**34
#: Characters of a YAML text, and containers within containers in it.
MAX_YAML = 2**24
MAX_NESTING = 100
_LOCAL = {'backend': 'local'}
_LONGEST_NAME = 255  # bytes of one folder's or file's name, on nearly all file systems
_CONTROL = re.compile(r'[\x00-\x1f\x7f-\x9f]')
_RESERVED = re.compile(r'(?i)[<>:"|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(?= *(\.|$))')
_KINDS = {
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}


# ----------------------------------------------------------------------------------- reading


def open_file(path: str | os.PathLike[str], kind: str = 'file', limit: int = MAX_BYTES) -> BinaryIO:
    """A file from outside, opened for reading bytes, without a buffer.

    Only what is a file on a disk is opened: a named pipe would hold the process for ever, and
    ``/dev/zero`` has no end.

    Args:
        kind: of file, for messages.
        limit: the most bytes that it may have.

    Raises:
        DataError: missing, no permission, no regular file, larger than ``limit``, or its name is
            none; names it.
    """
    if reason := _name_defect(os.fspath(path)):
        raise DataError(f'cannot read {kind} {os.fspath(path)!r}: its name {reason}')
    try:
        # O_NONBLOCK: a named pipe without a writer is opened at once; it says nothing to files
        flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOCTTY', 0)
        flags |= getattr(os, 'O_BINARY', 0) | getattr(os, 'O_CLOEXEC', 0)
        handle = os.open(path, flags)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENXIO:  # how a socket answers
            reason = 'it is no regular file'
        raise DataError(f'cannot read {kind} {os.fspath(path)}: {reason}') from None
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        reason = f'it is {_KINDS.get(stat.S_IFMT(state.st_mode), "no regular file")}'
        reason = os.strerror(errno.EISDIR) if stat.S_ISDIR(state.st_mode) else reason
    elif state.st_size > limit:
        reason = f'{state.st_size} bytes are more than the limit of {limit}'
    else:
        return open(handle, 'rb', buffering=0)
    os.close(handle)
    raise DataError(f'cannot read {kind} {os.fspath(path)}: {reason}')


def read_bytes(path: str | os.PathLike[str], kind: str = 'file', limit: int = MAX_BYTES) -> bytes:
    """The content of a file from outside; see :func:`open_file`."""
    with open_file(path, kind, limit) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1)  # of the most files all
            parts = [content]
            total = len(content)
            while content and total <= limit:  # it may be growing, or of those in /proc
                content = file.read(2**20)
                parts.append(content)
                total += len(content)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f'cannot read {kind} {os.fspath(path)}: {reason}') from None
        except MemoryError:
            raise DataError(
                f'cannot read {kind} {os.fspath(path)}: {size} bytes do not fit in memory'
            ) from None
    if total > limit:
        raise DataError(f'cannot read {kind} {os.fspath(path)}: more than {limit} bytes')
    return parts[0] if len(parts) == 2 else b''.join(parts)


def refuse_special(path: str | os.PathLike[str], kind: str = 'file') -> None:
    """Refuse what is neither a regular file nor a folder, for readers that open it themselves.

    Raises:
        DataError: a named pipe, a device, ...; names it.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        open_file(path, kind).close()


def fetch_bytes(
    path: str | os.PathLike[str], kind: str = 'file', backend_args: dict | None = None
) -> bytes:
    """The content of a local file, or of one that mmengine's ``backend_args`` reach.

    Raises:
        DataError: missing, no regular file, or its back-end fails; names the file.
    """
    path = os.fspath(path)
    if '://' not in path and (backend_args or _LOCAL) == _LOCAL:
        return read_bytes(path, kind)
    from mmengine import fileio

    try:
        return fileio.get(path, backend_args=backend_args)
    except (OSError, ImportError) as error:  # mmengine's backends need packages
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'cannot read {kind} {path}: {reason}') from None


def read_json(
    path: str | os.PathLike[str], kind: str = 'file', backend_args: dict | None = None
) -> Any:
    """The content of a JSON file.

    Args:
        kind: of file, for messages.
        backend_args: how mmengine reads it.

    Raises:
        DataError: missing, no regular file, or not JSON; names the file, and the line.
    """
    path = os.fspath(path)
    try:
        return json.loads(fetch_bytes(path, kind, backend_args))
    except json.JSONDecodeError as error:
        raise DataError(
            f'{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})'
        ) from None
    except UnicodeDecodeError:
        raise DataError(f'{path}: not a text file in UTF-8') from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # numbers too long, lists in lists in lists
        raise DataError(f'{path}: not readable as JSON ({error})') from None
    except MemoryError:
        raise DataError(f'{path}: does not fit in memory') from None


def parse_yaml(text: str, name: str | os.PathLike[str], error: type[UserError] = DataError) -> Any:
    """The content of a YAML (or JSON) text, which is data: no tag makes anything but plain values
    and tuples. The only YAML reader of the package.

    Args:
        name: of its file, for messages.
        error: what is raised.

    Raises:
        UserError: of the class ``error``, naming the file and the line: not YAML; nested more than
            100 deep; or aliases that make more of it than ten times its length.
    """
    name = os.fspath(name)
    if len(text) > MAX_YAML:
        raise error(f'{name}: {len(text)} characters are more than the limit of {MAX_YAML} of YAML')
    loader = _yaml_loader()
    line = 0
    try:
        # Before anything is made of it: composing recurses, and what is printed has each alias
        # written out.
        sizes: dict[str, int] = {}  # of what has an anchor, in characters when written out
        opened: list[tuple[str | None, int]] = [(None, 0)]
        most = 100_000 + 10 * len(text)
        for event in yaml.parse(text, loader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            size = 0
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, 0))
                sizes.pop(event.anchor or '', None)
                if len(opened) > MAX_NESTING:
                    raise error(f'{name}:{line}: nested more than {MAX_NESTING} deep')
                continue
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in sizes:  # unknown, or open: it would hold itself
                    raise error(f'{name}:{line}: the alias *{event.anchor} is of nothing before it')
                size = sizes[event.anchor]
            elif isinstance(event, yaml.ScalarEvent):
                size = len(event.value) + 1
                if event.anchor:
                    sizes[event.anchor] = size
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = opened.pop()
                size += 2
                if anchor:
                    sizes[anchor] = size
            anchor, total = opened[-1]
            opened[-1] = (anchor, total + size)
            if total + size > most:
                raise error(f'{name}:{line}: aliases make more than {most} characters of it')
        return yaml.load(text, loader)
    except UserError:
        raise
    except yaml.YAMLError as found:
        mark = getattr(found, 'problem_mark', None)
        line = mark.line + 1 if mark else line
        reason = getattr(found, 'problem', None) or str(found).splitlines()[0]
        raise error(f'{name}{f":{line}" if line else ""}: not valid YAML: {reason:.200}') from None
    except Exception as found:  # dates, numbers and keys that there are not
        raise error(f'{name}: not readable as YAML ({" ".join(str(found).split()):.200})') from None


@functools.cache
def _yaml_loader() -> Any:
    class Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def construct_tuple(loader: Any, node: Any) -> tuple:
        return tuple(loader.construct_sequence(node, deep=True))

    # how mmengine writes tuples
    Loader.add_constructor('tag:yaml.org,2002:python/tuple', construct_tuple)
    return Loader


# ----------------------------------------------------------------------------------- names


def file_name_defect(name: object) -> str:
    """Why what data calls a file cannot be the name of one, '' if it can: the end of a sentence.

    Absolute names and ``..`` are no defects of a file that is read.
    """
    if not isinstance(name, str):
        return f'is a {type(name).__name__}, expected text'
    return _name_defect(name)


def _name_defect(name: str) -> str:
    if not name:
        return 'is empty'
    if '\0' in name:
        return 'has a zero byte'
    if not name.isascii():
        try:
            # On Linux, os.listdir gives bytes that are no UTF-8 as lone surrogates, and takes them.
            os.fsencode(name)
        except UnicodeEncodeError:
            return 'is not text (it has half of a character)'
    return ''


def relative_name(name: str, folder: str | os.PathLike[str] = 'the output folder') -> str:
    """A name from data, of a file to be written below a folder, with forward slashes, no ``.``.

    Slashes and backslashes both part folders, whatever the system: the data may come from another.

    Args:
        folder: what messages call it.

    Raises:
        DataError: an absolute path, a drive, ``..`` in any place, or no name of a file at all;
            shows the name.
    """
    parts = name.replace('\\', '/').split('/')
    reason = _name_defect(name)
    if not reason:
        if not parts[0] or re.match(r'[A-Za-z]:', name):
            reason = 'is an absolute path'
        elif '..' in parts:
            reason = "has '..' in it"
        elif parts[-1] in ('', '.'):
            reason = 'names a folder'
        elif _CONTROL.search(name):
            reason = 'has control characters'
        elif any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
            reason = f'has a part of more than {_LONGEST_NAME} bytes'
        elif os.name == 'nt' and any(_RESERVED.search(part) for part in parts):
            reason = 'is no name that Windows has'
    if reason:
        shown = repr(name if len(name) < 200 else f'{name[:200]}...')
        raise DataError(f'{shown} {reason}: no file below {os.fspath(folder)} is named after it')
    return '/'.join(part for part in parts if part not in ('', '.'))


def path_inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Where a file is written that is named after data: ``folder / name``, never outside.

    Args:
        folder: what the user chose.
        name: see :func:`relative_name`.

    Raises:
        DataError: as :func:`relative_name`; or a link below ``folder`` leads out of it.
    """
    path = Path(folder, relative_name(name, folder))
    real, root = Path(os.path.realpath(path)), os.path.realpath(folder)
    if not real.is_relative_to(root):
        raise DataError(
            f'{name!r} leads through a link to {real}, out of {os.fspath(folder)}: nothing is '
            f'written there'
        )
    return path


def plain_name(text: str) -> str:
    """``text`` as the name of one file, for results of an image that was read: what is not allowed
    becomes ``_``, and what is too long is cut before its suffix.
    """
    name = _CONTROL.sub('_', text.replace('/', '_').replace('\\', '_'))
    name = re.sub(r'^([A-Za-z]):', r'\1_', name)
    if os.name == 'nt':
        name = _RESERVED.sub('_', name)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = name.encode('utf-8', 'replace').decode()
    if not name.strip('.'):
        name = name.replace('.', '_') or '_'
    stem, suffix = os.path.splitext(name)
    while len(os.fsencode(stem + suffix)) > _LONGEST_NAME - 15:  # room for a number
        stem, suffix = (stem[:-1], suffix) if len(stem) > 1 else (suffix[: len(suffix) // 2], '')
    return stem + suffix


# ----------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Failures to write ``path`` become a :class:`DataError` that names it."""
    if reason := _name_defect(os.fspath(path)):
        raise DataError(f'{os.fspath(path)!r}: cannot be written (its name {reason})')
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f'{os.fspath(path)}: cannot be written ({reason})') from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden name beside ``path``, of the same suffix, to write to. What was written there is
    forced to the disk and takes the name ``path`` at the end of the block; an error in the block
    removes it. Folders are made, links are followed, and what is no file on a disk (``/dev/null``)
    is written itself.

    Raises:
        DataError: it is a folder, or cannot be written.
    """
    with writing(path):
        path = Path(path)
        target = Path(os.path.realpath(path))
    # of os.path, as they are False where a name is too long
    if os.path.isdir(target):
        raise DataError(f'{path}: cannot be written ({os.strerror(errno.EISDIR)})')
    if os.path.exists(target) and not os.path.isfile(target):
        with writing(path):
            yield target
        return
    temporary = temporary_name(target, path.suffix)
    try:
        with writing(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            settle(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise now the DataError that :func:`replacing` would raise later; makes the folder."""
    with writing(path):
        target = Path(os.path.realpath(path))
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.exists(target) and not os.path.isfile(target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(target, target.suffix)
        temporary.touch()
        temporary.unlink()


def temporary_name(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path``, of that suffix, that no other writer takes: no thread, process
    or machine that shares the folder.
    """
    suffix = suffix if len(suffix) < 20 else ''
    return path.with_name(f'.{os.getpid()}-{uuid.uuid4().hex[:12]}{suffix}')


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Delete what processes that were killed while writing left in ``folder``."""
    for file in Path(folder).glob('.*-*'):
        found = re.fullmatch(r'\.(\d+)-[0-9a-f]{12}(\.[^.]*)?', file.name)
        if found and not _alive(int(found.group(1))):
            file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def settle(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Force a complete file to the disk, then give it the name ``path`` in one step.

    Raises:
        OSError: one of these failed; the file under ``path`` is as it was.
    """
    with open(temporary, 'r+b') as file:
        os.fsync(file.fileno())  # an error of the disk that nobody heard of comes here
    os.replace(temporary, path)
    _sync_folder(os.path.dirname(path) or '.')


def _sync_folder(folder: str) -> None:
    """Make the new name itself survive a power cut, where the system lets us."""
    with contextlib.suppress(OSError):  # Windows; some network file systems
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; see :func:`replacing`."""
    try:
        content = text.replace('\n', os.linesep).encode()
    except UnicodeEncodeError as error:
        found = text[max(0, error.start - 20) : error.end + 20]
        raise DataError(f'{os.fspath(path)}: cannot be written: {found!r} is not text') from None
    write_bytes(path, content)


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = None) -> None:
    """Write a JSON file; see :func:`replacing`."""
    text = json.dumps(content, indent=indent)
    write_text(path, text + '\n')


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image, (H, W, 3) uint8 RGB or (H, W), in the format of the file's name, or as JPEG
    where the name has none that OpenCV knows; see :func:`replacing`.
    """
    import cv2  # takes a while, and most who write files write text

    path = Path(path)
    suffix = path.suffix.lower()
    # of the suffix alone: OpenCV crashes on names that are not UTF-8
    if not (suffix.isascii() and suffix.isprintable() and cv2.haveImageWriter(f'a{suffix}')):
        suffix = '.jpg'
    # Encoded in memory: OpenCV's own writing fails silently, and on some systems on paths that are
    # not ASCII.
    pixels = image[..., ::-1] if image.ndim == 3 else image
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels))
    except cv2.error:  # no such pixels in this format
        done = False
    if not done:
        height, width = image.shape[:2]
        raise DataError(f'{path}: {width} x {height} pixels cannot be written as {suffix}')
    write_bytes(path, data.tobytes())
