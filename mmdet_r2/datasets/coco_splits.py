"""The parts of COCO 2014's validation images that older detectors trained on and were measured on.

``minival`` is 5000 images of val2014, ``valminusminival`` its other 35,504, on which detectors were
trained together with train2014. COCO 2017 made them official: val2017 is minival, train2017 the
rest, with other file names but the same ids of images and annotations.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_r2.datasets.coco_json import (
    Id,
    as_id,
    checked_content,
    id_order,
    image_ids,
    read_content,
    shorten,
)
from mmdet_r2.errors import DataError
from mmdet_r2.files import read_bytes, read_json, write_json, write_text

#: Both annotation files, finished.
FINISHED_FILES = 'https://dl.fbaipublicfiles.com/detectron/coco/coco_annotations_minival.tgz'
#: The official annotations, the list of minival's images among those of 2017.
OFFICIAL_FILES = 'http://images.cocodataset.org/annotations/annotations_trainval{year}.zip'
#: Images of val2014 and of minival, as published.
VAL2014_IMAGES, MINIVAL_IMAGES = 40504, 5000

PARTS = ('minival2014', 'valminusminival2014')
_NUMBER_IN_NAME = re.compile(r'(\d+)(?:\.\w+)?$')

Report = Callable[[str], None]


@dataclass(frozen=True)
class SplitFile:
    """A written file and what it holds."""

    path: Path
    num_images: int
    num_annotations: int


def write_minival(
    annotation_dir: str | Path,
    out_dir: str | Path | None = None,
    ids_file: str | Path | None = None,
    kinds: Sequence[str] = ('instances',),
    write_ids: bool = False,
    overwrite: bool = False,
    report: Report = print,
) -> list[SplitFile]:
    """Divide ``<kind>_val2014.json`` into ``<kind>_minival2014.json`` and
    ``<kind>_valminusminival2014.json``.

    Images and annotations keep their order, and all other parts of the file are copied. Each file
    is written whole or not at all.

    Args:
        annotation_dir: folder of the official annotations; it, or files in it, may be links.
        out_dir: folder for the files; default ``annotation_dir``.
        ids_file: minival's images, see :func:`read_ids`; default ``instances_val2017.json`` of
            ``annotation_dir``, whose images they are.
        kinds: what is before ``_val2014.json``: 'instances', 'person_keypoints', 'captions'.
        write_ids: also write ``<part>_ids.txt``, one id per line.
        overwrite: replace files that exist.
        report: is called with a line per step.

    Raises:
        DataError: a file is missing, not what it should be, or exists already; the ids are not
            those of images in it.
    """
    folder = Path(annotation_dir)
    out = Path(out_dir) if out_dir is not None else folder
    sources = {kind: folder / f'{kind}_val2014.json' for kind in kinds}
    for source in sources.values():
        if not source.is_file():
            raise DataError(
                f'{source}: no such file; it is in {OFFICIAL_FILES.format(year=2014)}; or take the '
                f'finished files of {FINISHED_FILES}'
            )
    names = [f'{kind}_{part}.json' for kind in kinds for part in PARTS]
    names += [f'{part}_ids.txt' for part in PARTS] if write_ids else []
    for name in names:
        if (out / name).exists() and not overwrite:
            raise DataError(f'{out / name} exists already: pass --overwrite to replace it')
    list_of_ids = Path(ids_file) if ids_file is not None else _default_ids_file(folder)
    ids = read_ids(list_of_ids)
    report(f'{list_of_ids}: {len(ids)} images')
    written = []
    for kind, source in sources.items():
        content = read_annotations(source)
        parts = divide(content, ids, str(source), str(list_of_ids))
        if len(content['images']) == VAL2014_IMAGES and len(ids) != MINIVAL_IMAGES:
            report(f'note: the published minival has {MINIVAL_IMAGES} images, not {len(ids)}')
        for part, split in zip(PARTS, parts, strict=True):
            target = (out / f'{kind}_{part}.json').resolve()  # a link stays one
            write_json(target, split)
            found = SplitFile(target, len(split['images']), len(split['annotations']))
            report(f'{target}: {found.num_images} images, {found.num_annotations} annotations')
            written.append(found)
    if write_ids:
        for part, split in zip(PARTS, parts, strict=True):
            target = (out / f'{part}_ids.txt').resolve()
            write_text(target, ''.join(f'{image["id"]}\n' for image in split['images']))
            report(f'{target}: {len(split["images"])} ids')
    return written


def _default_ids_file(folder: Path) -> Path:
    file = folder / 'instances_val2017.json'
    if not file.is_file():
        raise DataError(
            f"no list of minival's images: put instances_val2017.json, which has the same, into "
            f'{folder} ({OFFICIAL_FILES.format(year=2017)}), or name a list with --ids, or take '
            f'the finished files of {FINISHED_FILES}'
        )
    return file


def read_ids(file: str | Path) -> list[Id]:
    """Ids of images: of a COCO annotation file, a JSON list, or a text with one per line.

    A line is an id, or a file name that ends with it (``COCO_val2014_000000000042.jpg``); empty
    ones and those that begin with # do not count.

    Raises:
        DataError: unreadable, a row that is no id, an id that occurs twice, or none at all.
    """
    path = Path(file)
    if path.suffix == '.json':
        content = read_json(path)
        if isinstance(content, dict):
            return list(image_ids(checked_content(content, str(path), ('images',)), str(path)))
        if not isinstance(content, list):
            raise DataError(f'{path}: no list of ids, so it is no such file')
        rows = [(f'entry {i}', value) for i, value in enumerate(content)]
    else:
        try:
            lines = read_bytes(path, 'the list of ids').decode().splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f'cannot read the list of ids {path}: {error}') from None
        stripped = [(f'line {i}', line.strip()) for i, line in enumerate(lines, start=1)]
        rows = [(where, line) for where, line in stripped if line and not line.startswith('#')]
    seen: dict[Id, str] = {}
    for where, value in rows:
        number = _as_id(value)
        if number is None:
            raise DataError(
                f'{path}, {where}: {value!r} is no id of an image, nor a file name that ends with '
                'one'
            )
        if number in seen:
            raise DataError(f'{path}: id {number} occurs twice, at {seen[number]} and {where}')
        seen[number] = where
    if not seen:
        raise DataError(f'{path}: no ids of images')
    return list(seen)


def _as_id(value: Any) -> Id | None:
    number = as_id(value)
    match = _NUMBER_IN_NAME.search(number) if isinstance(number, str) else None
    return int(match.group(1)) if match else number if isinstance(number, int) else None


def read_annotations(file: str | Path) -> dict[str, Any]:
    """A COCO annotation file of whatever kind, of which lists of images and annotations and the ids
    of both are made sure.

    Raises:
        DataError: unreadable or something else, an image without id or an id that occurs twice.
    """
    content = read_content(file, needed=('images', 'annotations'))
    image_ids(content, str(file))
    for annotation in content['annotations']:
        if not isinstance(annotation, dict) or as_id(annotation.get('image_id')) is None:
            raise DataError(f'{file}: annotation without image_id: {shorten(annotation, 200)}')
    return content


def divide(
    content: dict[str, Any],
    ids: Iterable[Id],
    source: str = 'annotations',
    list_of_ids: str = 'ids',
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations of the images with these ids, and those of all others.

    Args:
        content: COCO annotations; not changed, but their entries are shared.
        ids: of images.
        source, list_of_ids: names of the two for messages.

    Raises:
        DataError: an id is none of an image, or no image is left for the second part.
    """
    chosen = set(ids)
    known = set(image_ids(content, source))
    if missing := sorted(chosen - known, key=id_order):
        raise DataError(
            f'{len(missing)} of {len(chosen)} ids of {list_of_ids} are no images of {source} '
            f'(the first is {missing[0]}): they belong to another set of images'
        )
    if chosen == known:
        raise DataError(f'{list_of_ids} has all images of {source}: it is not a part of them')
    return _only(content, chosen), _only(content, known - chosen)


def _only(content: dict[str, Any], ids: set[Id]) -> dict[str, Any]:
    return {
        **content,
        'images': [image for image in content['images'] if as_id(image['id']) in ids],
        'annotations': [a for a in content['annotations'] if as_id(a['image_id']) in ids],
    }


def compare_years(annotation_dir: str | Path, report: Report = print) -> bool:
    """Whether the splits of 2014 and of 2017 are the same: train2014 and valminusminival against
    train2017, minival against val2017; by ids of images and of annotations.

    Takes gigabytes of memory for the largest file, but holds one file at a time.

    Args:
        annotation_dir: folder of all five ``instances_*.json``.
        report: is called with a line per pair.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    folder = Path(annotation_dir)
    same = True
    for old, new in (
        (('train2014', 'valminusminival2014'), 'train2017'),
        (('minival2014',), 'val2017'),
    ):
        images, annotations = set[Id](), set[Id]()
        for part in old:
            found = _ids_of(folder / f'instances_{part}.json')
            if both := images & found[0]:
                raise DataError(
                    f'{" and ".join(old)} share {len(both)} images ({min(both, key=id_order)})'
                )
            images |= found[0]
            annotations |= found[1]
        theirs = _ids_of(folder / f'instances_{new}.json')
        differences = [
            f'{len(left)} {what} of {name} only (the first is {min(left, key=id_order)})'
            for what, ours, other in (
                ('images', images, theirs[0]),
                ('annotations', annotations, theirs[1]),
            )
            for name, left in ((' and '.join(old), ours - other), (new, other - ours))
            if left
        ]
        said = '; '.join(differences) or (
            f'the same {len(images)} images and {len(annotations)} annotations'
        )
        report(f'{" and ".join(old)} against {new}: {said}')
        same &= not differences
    return same


def _ids_of(file: Path) -> tuple[set[Id], set[Id]]:
    content = read_annotations(file)
    numbers = (as_id(annotation.get('id')) for annotation in content['annotations'])
    return set(image_ids(content, str(file))), {n for n in numbers if n is not None}
