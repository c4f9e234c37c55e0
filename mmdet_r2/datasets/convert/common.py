"""What all conversions share: text files, errors and losses collected over many files, the content
of a COCO file, class names.
"""

import codecs
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmdet_r2.datasets.image_annotations import ImageAnnotations, add_entries, coco_entries
from mmdet_r2.datasets.image_files import list_files, read_header
from mmdet_r2.errors import DataError
from mmdet_r2.files import read_bytes

MOST_SHOWN = 100  # errors of a conversion


class Notes:
    """Errors and losses of a conversion, collected so that one run shows all of them.

    Args:
        skip_bad: leave out files and rows with an error, instead of ending with :meth:`finish`.
        report: called with every error, a line each; not with one that :meth:`finish` is to raise
            because it stayed the only one.
    """

    def __init__(
        self,
        skip_bad: bool = False,
        report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.skip_bad = skip_bad
        self.report = report
        self.num_errors = 0
        self.first_error = ''
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A DataError inside is reported and counted, and what it ended is left out."""
        try:
            yield
        except DataError as error:
            self.num_errors += 1
            if self.skip_bad:
                self._report('left out', str(error))
                return
            if self.num_errors == 1:
                self.first_error = str(error)
                return
            if self.num_errors == 2:
                self._report('error', self.first_error)
            self._report('error', str(error))

    def _report(self, what: str, error: str) -> None:
        if self.num_errors <= MOST_SHOWN:
            self.report(f'{what}: {error}')
        elif self.num_errors == MOST_SHOWN + 1:
            self.report('further ones are counted only')

    def lost(self, what: str, where: str, number: int = 1) -> None:
        """Count something that the target format cannot hold or that is not meant to be kept."""
        self.counts[what] += number
        self._first.setdefault(what, where)

    def finish(self) -> None:
        """Raises:
        DataError: there were errors, and they are not to be left out.
        """
        if self.num_errors and not self.skip_bad:
            what = self.first_error if self.num_errors == 1 else f'{self.num_errors} errors'
            raise DataError(
                f'{what}; nothing was written (correct what is wrong, or leave it out with '
                f'--skip-bad)'
            )

    def lines(self) -> list[str]:
        """What was lost, a line per kind, with the first place."""
        lines = [f'{n} {what}, first in {self._first[what]}' for what, n in self.counts.items()]
        if self.num_errors and self.skip_bad:
            lines.append(f'{self.num_errors} files or rows with errors were left out')
        return lines


def sorted_files(folder: str | os.PathLike, suffix: str) -> list[Path]:
    """All files below a folder with a suffix (lower case; files have it in either), sorted.

    Raises:
        DataError: there is no such folder, or none in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f'folder {folder} does not exist (seen from {os.getcwd()})')
    files = [root / name for name in list_files(root, (suffix,))]
    if not files:
        raise DataError(f'no {suffix} file in {folder} or below it')
    return files


def read_text(path: str | os.PathLike) -> str:
    """The content of a text file in UTF-8, or in UTF-16 as Windows marks it.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    data = read_bytes(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode('utf-16' if wide else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise DataError(f'{path}:{line}: not a text file in UTF-8') from None


def to_coco(
    images: Iterable[ImageAnnotations],
    image_dir: str | os.PathLike,
    classes: Sequence[str] | None,
    notes: Notes,
) -> dict:
    """The images as the content of a COCO file, sorted by file name, whatever order they came in.

    Args:
        images: their labels are names.
        classes: category i + 1 is ``classes[i]``; None: all names that occur, sorted.

    Raises:
        DataError: an image had an error (all are reported first), or there is none to write.
    """
    found = sorted(images, key=lambda image: image.file_name)
    if classes is None:
        classes = sorted({str(label) for image in found for label in image.labels})
    index = {name: i for i, name in enumerate(classes)}
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    content: dict = dict(images=[], annotations=[], categories=categories)
    first: dict[str, str] = {}  # file name -> where its annotations are from
    for image in found:
        with notes.collecting():
            entry, annotations = coco_entries(image, index, lambda name: _size(image_dir, name))
            name, source = entry['file_name'], image.source or image.file_name
            if name in first:
                raise DataError(f'{source}: its image {name} was annotated in {first[name]} too')
            first[name] = source
            add_entries(content, entry, annotations)
    notes.finish()
    if not content['images']:
        left_out = f'; {notes.num_errors} were left out' if notes.num_errors else ''
        raise DataError(f'{image_dir}: no image with annotations found{left_out}')
    return content


def _size(image_dir: str | os.PathLike, name: str) -> tuple[int, int]:
    return read_header(os.path.join(image_dir, name)).size


def split(content: dict, val_fraction: float, seed: int = 0) -> tuple[dict, dict]:
    """A COCO content as (training, validation) part; images keep their ids.

    The same seed gives the same parts for the same images.

    Raises:
        DataError: the fraction leaves one part without an image.
    """
    ids = [image['id'] for image in content['images']]
    count = round(val_fraction * len(ids))
    if not 0 < count < len(ids):
        raise DataError(
            f'--val-fraction {val_fraction} of {len(ids)} images is {count}: both parts need images'
        )
    chosen = set(random.Random(seed).sample(ids, count))

    def part(validation: bool) -> dict:
        return dict(
            content,
            images=[i for i in content['images'] if (i['id'] in chosen) == validation],
            annotations=[
                a for a in content['annotations'] if (a['image_id'] in chosen) == validation
            ],
        )

    return part(False), part(True)


def class_names(given: Sequence[str] | None) -> list[str] | None:
    """Class names from a command line: names, or one text file with a name per line.

    Raises:
        DataError: a name occurs twice, or the file is empty or no text.
    """
    if not given:
        return None
    names = list(given)
    if len(names) == 1 and os.path.isfile(names[0]):
        names = [line.strip() for line in read_text(names[0]).splitlines() if line.strip()]
        if not names:
            raise DataError(f'{given[0]}: no class name in the file')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f'class {twice[0]!r} is named twice')
    return names


def parsed_number(text: str) -> float | None:
    """The finite number that a text is, None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def near_misses(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case, blanks, hyphens or underscores only."""
    by_key: dict[str, str] = {}
    pairs = []
    for name in sorted(set(names)):
        key = ''.join(c for c in name.lower() if c not in ' _-')
        if key in by_key:
            pairs.append((by_key[key], name))
        by_key.setdefault(key, name)
    return pairs
