"""What all conversions share: errors and losses collected over many files, the content of a COCO
file, class names.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmdet_r2.datasets.image_annotations import ImageAnnotations, coco_content
from mmdet_r2.datasets.image_files import read_header
from mmdet_r2.errors import DataError

MOST_SHOWN = 100  # errors of a conversion


class Notes:
    """Errors and losses of a conversion, collected so that one run shows all of them.

    Args:
        skip_bad: leave out files and rows with an error, instead of ending with :meth:`finish`.
        report: called with every error, a line each.
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
            self.first_error = self.first_error or str(error)
            if self.num_errors <= MOST_SHOWN:
                self.report(f'{"left out" if self.skip_bad else "error"}: {error}')
            if self.num_errors == MOST_SHOWN:
                self.report('further ones are counted only')

    def lost(self, what: str, where: str) -> None:
        """Count something that the target format cannot hold or that is not meant to be kept."""
        self.counts[what] += 1
        self._first.setdefault(what, where)

    def finish(self) -> None:
        """Raises:
        DataError: there were errors, and they are not to be left out.
        """
        if self.num_errors and not self.skip_bad:
            more = f' and {self.num_errors - 1} more errors' if self.num_errors > 1 else ''
            raise DataError(
                f'{self.first_error}{more}; nothing was written (correct them, or leave these out '
                f'with --skip-bad)'
            )

    def lines(self) -> list[str]:
        """What was lost, a line per kind, with the first place."""
        lines = [f'{n} {what}, first in {self._first[what]}' for what, n in self.counts.items()]
        if self.num_errors and self.skip_bad:
            lines.append(f'{self.num_errors} files or rows with errors were left out')
        return lines


def sorted_files(folder: str | os.PathLike, suffix: str) -> list[Path]:
    """All files below a folder with a suffix, sorted.

    Raises:
        DataError: there is no such folder, or none in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f'folder {folder} does not exist (seen from {os.getcwd()})')
    files = sorted(path for path in root.rglob(f'*{suffix}') if path.is_file())
    if not files:
        raise DataError(f'no {suffix} file in {folder} or below it')
    return files


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
        DataError: an image had an error (all are reported first), or there is none.
    """
    found = sorted(images, key=lambda image: image.file_name)
    if not found and not notes.num_errors:
        raise DataError(f'{image_dir}: no image with annotations found')
    if classes is None:
        classes = sorted({str(label) for image in found for label in image.labels})
    # One by one, so that every image with an error is reported.
    parts = []
    for image in found:
        with notes.collecting():
            parts.append(coco_content([image], classes, lambda name: _size(image_dir, name)))
    seen: dict[str, ImageAnnotations] = {}
    for image in found:
        with notes.collecting():
            if image.file_name in seen:
                other = seen[image.file_name].source or image.file_name
                raise DataError(
                    f'{image.source or image.file_name}: its image {image.file_name} was annotated '
                    f'in {other} too'
                )
            seen[image.file_name] = image
    notes.finish()
    content: dict = dict(images=[], annotations=[])
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    listed = set()
    for part in parts:
        image = part['images'][0]
        if image['file_name'] in listed:
            continue
        listed.add(image['file_name'])
        image['id'] = len(content['images']) + 1
        content['images'].append(image)
        for annotation in part['annotations']:
            annotation.update(id=len(content['annotations']) + 1, image_id=image['id'])
            content['annotations'].append(annotation)
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
        DataError: a name occurs twice, or the file is empty.
    """
    if not given:
        return None
    names = list(given)
    if len(names) == 1 and os.path.isfile(names[0]):
        text = Path(names[0]).read_text(encoding='utf-8-sig')
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise DataError(f'{given[0]}: no class name in the file')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f'class {twice[0]!r} is named twice')
    return names


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
