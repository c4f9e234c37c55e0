"""Pascal VOC's XML files, one per image.

VOC counts pixels from 1 and includes the last one: pixels 1 to 10 are the box 0 to 10 of this
project. Many labelling tools write the same files with continuous coordinates instead.
"""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmdet_r2.datasets.convert.coco_json import CocoImage, number, output_stems
from mmdet_r2.datasets.convert.common import Notes, read_text, sorted_files
from mmdet_r2.datasets.image_annotations import ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, annotated_size
from mmdet_r2.datasets.voc_xml import parse_split, parse_xml
from mmdet_r2.errors import DataError
from mmdet_r2.files import path_inside, read_bytes, write_text
from mmdet_r2.progress import progress

DIFFICULT = ('ignore', 'keep', 'drop')


def read_voc(
    folder: str | os.PathLike,
    notes: Notes,
    image_dir: str | os.PathLike | None = None,
    split: str | None = None,
    one_based: bool = True,
    difficult: str = 'ignore',
) -> Iterator[ImageAnnotations]:
    """The images of a folder of XML files, or of a split of a devkit.

    Args:
        folder: of the XML files; or a VOC folder with ``Annotations``, ``JPEGImages`` and
            ``ImageSets/Main``.
        image_dir: of the images; None: ``JPEGImages`` beside the XML files' folder, or that folder.
        split: file of ``ImageSets/Main`` with the names to read; None: all XML files.
        one_based: VOC's own coordinates; False: continuous ones.
        difficult: objects marked so: 'ignore': crowds in COCO's words, neither learnt nor counted;
            'keep': like others; 'drop'.
    """
    xml_dir = _xml_dir(folder)
    images = ImageFolder(voc_image_dir(folder, image_dir))
    files = sorted_files(xml_dir, '.xml') if split is None else _files_of(xml_dir, split)
    for file in progress(files, 'VOC XML'):
        with notes.collecting():
            # the devkit's rule: the image has the XML file's name, whatever <filename> says
            name = file.relative_to(xml_dir).with_suffix('.jpg').as_posix()
            yield _read_file(file, name, images, one_based, difficult, notes)


def _xml_dir(folder: str | os.PathLike) -> Path:
    root = Path(folder)
    return root / 'Annotations' if (root / 'Annotations').is_dir() else root


def voc_image_dir(folder: str | os.PathLike, image_dir: str | os.PathLike | None = None) -> Path:
    """Where :func:`read_voc` looks for the images."""
    if image_dir is not None:
        return Path(image_dir)
    beside = _xml_dir(folder).parent / 'JPEGImages'
    return beside if beside.is_dir() else _xml_dir(folder)


def _files_of(xml_dir: Path, split: str) -> list[Path]:
    listing = xml_dir.parent / 'ImageSets' / 'Main' / f'{split}.txt'
    if not listing.is_file():
        others = sorted(path.stem for path in listing.parent.glob('*.txt') if '_' not in path.stem)
        raise DataError(f'{listing} does not exist; splits there: {", ".join(others) or "none"}')
    files = []
    for line, name in parse_split(read_text(listing), str(listing)):
        files.append(xml_dir / f'{name}.xml')
        if not files[-1].is_file():
            raise DataError(f'{listing}, line {line}: {files[-1]} does not exist')
    return files


def _read_file(
    file: Path, name: str, images: ImageFolder, one_based: bool, difficult: str, notes: Notes
) -> ImageAnnotations:
    content = parse_xml(read_bytes(file), str(file))
    name = images.find(name, str(file))
    width, height = annotated_size(images.path(name), content.size, str(file))
    boxes, labels, crowd = [], [], []
    shift = 1 if one_based else 0
    for thing in content.objects:
        x1, y1, x2, y2 = thing.box
        if one_based and min(x1, y1) < 1:
            notes.lost(
                'boxes begin below pixel 1, as if coordinates were not counted from 1 '
                '(--zero-based?)',
                str(file),
            )
        if thing.difficult and difficult == 'drop':
            notes.lost('difficult objects dropped', str(file))
            continue
        box = [max(x1 - shift, 0), max(y1 - shift, 0), x2, y2]
        if box[2] <= box[0] or box[3] <= box[1]:
            raise DataError(
                f'{file}: object {thing.number} ({thing.name!r}) has the box {x1:g}, {y1:g}, '
                f'{x2:g}, {y2:g} (xmin, ymin, xmax, ymax), which is empty'
            )
        boxes.append(box)
        labels.append(thing.name)
        crowd.append(thing.difficult and difficult == 'ignore')
    return ImageAnnotations(name, boxes, labels, None, crowd, width, height, str(file))


def write_voc(
    images: Sequence[CocoImage],
    out_dir: str | os.PathLike,
    notes: Notes,
    split: str = 'train',
    one_based: bool = True,
) -> None:
    """Write ``Annotations/*.xml`` and ``ImageSets/Main/<split>.txt``.

    Crowds are marked difficult. Coordinates keep their fractions.

    Args:
        one_based: as in :func:`read_voc`.
    """
    out = Path(out_dir)
    shift = 1 if one_based else 0
    stems = output_stems(images)
    for image, stem in progress(list(zip(images, stems)), 'VOC XML'):
        root = ElementTree.Element('annotation')
        for tag, text in (
            ('folder', os.path.dirname(image.file_name) or 'JPEGImages'),
            ('filename', os.path.basename(image.file_name)),
        ):
            ElementTree.SubElement(root, tag).text = text
        size = ElementTree.SubElement(root, 'size')
        for tag, value in (('width', image.width), ('height', image.height), ('depth', 3)):
            ElementTree.SubElement(size, tag).text = str(value)
        ElementTree.SubElement(root, 'segmented').text = '0'
        for thing in image.objects:
            if thing.segmentation:
                notes.lost('masks left out (VOC XML has boxes only)', thing.source)
            x1, y1, x2, y2 = thing.box
            node = ElementTree.SubElement(root, 'object')
            for tag, text in (
                ('name', thing.name),
                ('pose', 'Unspecified'),
                ('truncated', '0'),
                ('difficult', str(int(thing.crowd))),
            ):
                ElementTree.SubElement(node, tag).text = text
            box = ElementTree.SubElement(node, 'bndbox')
            corners = (x1 + shift, y1 + shift, x2, y2)
            for tag, corner in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners):
                ElementTree.SubElement(box, tag).text = number(corner)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding='unicode') + '\n'
        write_text(path_inside(out / 'Annotations', f'{stem}.xml'), text)
    listing = ''.join(f'{stem}\n' for stem in stems)
    write_text(out / 'ImageSets' / 'Main' / f'{split}.txt', listing)
