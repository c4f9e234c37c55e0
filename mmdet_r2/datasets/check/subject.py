"""What is checked: the content of a COCO annotation file, and the images that go with it."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmdet_r2.datasets.check.files import FileFacts, inspect_files
from mmdet_r2.datasets.coco_json import CocoFile, checked_content, parse_coco, read_content
from mmdet_r2.datasets.image_files import ImageFolder, list_images
from mmdet_r2.errors import DataError
from mmdet_r2.files import file_name_defect


@dataclass
class ImageFile:
    """The file of an image: its right name relative to the folder, and what it is like."""

    name: str
    facts: FileFacts
    path_problem: str = ''  # why the name in the annotations is not the right one


@dataclass
class Subject:
    """One data set.

    Args:
        name: the annotation file, or what messages call the data set.
        content: of a COCO annotation file.
        image_dir: what file names are relative to.
        role: 'train', 'val' or 'test'.
        classes: the config's; None: all categories.
        files: by file name as the annotations write it; :meth:`look_at_files` fills it.
    """

    name: str
    content: dict
    image_dir: str
    role: str = ''
    classes: Sequence[str] | None = None
    files: dict[str, ImageFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content = checked_content(self.content, self.name)
        self._coco: CocoFile | None = None

    @property
    def coco(self) -> CocoFile:
        """The content as training reads it, with all of its problems. Images that state no size
        have their file's, once the files have been looked at.
        """
        if self._coco is None:
            self._coco = parse_coco(self.content, self.name, True, self._size_of)
        return self._coco

    def _size_of(self, name: str) -> tuple[int, int] | None:
        file = self.files.get(name)
        return file.facts.shown if file is not None and file.facts.is_readable else None

    def look_at_files(self, workers: int | None = None, decode: bool = True) -> None:
        """Find and read all image files."""
        folder = ImageFolder(self.image_dir or '.')
        names = list(dict.fromkeys(image['file_name'] for image in named_images(self.content)))
        right: dict[str, tuple[str, str]] = {}
        for name in names:
            right[name] = _right_name(name, folder)
        facts = inspect_files(
            {name: folder.path(right[name][0]) for name in names}, workers, decode
        )
        self._coco = None  # sizes may be known now
        self.files = {
            name: ImageFile(right[name][0], facts[name], right[name][1]) for name in names
        }

    def unlisted(self, others: Sequence['Subject'] = ()) -> list[str]:
        """Image files of the folder that neither this data set nor ``others`` have."""
        known = {
            os.path.realpath(os.path.join(subject.image_dir, file.name))
            for subject in (self, *others)
            for file in subject.files.values()
        }
        return [
            name
            for name in list_images(self.image_dir or '.')
            if os.path.realpath(os.path.join(self.image_dir, name)) not in known
        ]


def named_images(content: Mapping) -> list[dict]:
    """The images of a content that have a file name."""
    return [
        image
        for image in content['images']
        if isinstance(image, dict) and not file_name_defect(image.get('file_name'))
    ]


def _right_name(name: str, folder: ImageFolder) -> tuple[str, str]:
    """The name relative to the folder that leads to a file, and what is wrong with ``name``."""
    there = (folder.folder / name).is_file()
    if there and not os.path.isabs(name):
        return name, ''
    try:
        right = folder.find(name)
    except DataError:
        if not there:
            return name, ''  # missing: its facts say so
        right = os.path.relpath(name, folder.folder)
    if there:
        return right, f'an absolute path, which other machines do not have; relative: {right!r}'
    return right, f'not found so; in the image folder it is {right!r}'


def load_subject(
    ann_file: str | os.PathLike, image_dir: str | os.PathLike | None = None, role: str = ''
) -> Subject:
    """A COCO file and its images.

    Args:
        image_dir: None: the folder beside it that has its first images.

    Raises:
        DataError: the file is not in COCO's format, or no such folder is found.
    """
    content = read_content(ann_file)
    subject = Subject(str(ann_file), content, str(image_dir or ''), role)
    if image_dir is None:
        subject.image_dir = _guess_folder(Path(ann_file), content)
    elif not os.path.isdir(image_dir):
        raise DataError(f'image folder {image_dir} does not exist (seen from {os.getcwd()})')
    return subject


def _guess_folder(ann_file: Path, content: Mapping) -> str:
    names = [image['file_name'] for image in named_images(content)[:20]]
    roots = [str(ann_file.parent), os.path.join(ann_file.parent, os.pardir)]
    if ann_file.parent.name:
        roots[1] = str(ann_file.parent.parent)
    folders = [*roots]
    for root in roots:
        with contextlib.suppress(PermissionError):
            folders += sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    # of folders without permission os.path.isfile says that nothing is there
    counts = {
        folder: sum(os.path.isfile(os.path.join(folder, name)) for name in names)
        for folder in folders
    }
    best = max(counts, key=lambda folder: counts[folder])
    if not counts[best]:
        raise DataError(f'{ann_file}: its images are not found beside it; give --images DIR')
    return best
