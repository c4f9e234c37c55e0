"""Pascal VOC's files: an XML file per image and a list of names per split, as they are written.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, sections 3.2 and 8.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from xml.parsers import expat

from mmdet_r2.errors import DataError

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


@dataclass(slots=True)
class XMLObject:
    """An ``<object>``.

    Attributes:
        number: its place in the file, from 1.
        name: of its class.
        box: xmin, ymin, xmax, ymax as written: pixels counted from 1, the last one included.
        difficult: marked so.
    """

    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(slots=True)
class XMLImage:
    """An XML file: (width, height), None where it does not say it, and the objects in order."""

    size: tuple[int, int] | None
    objects: list[XMLObject]


def parse_xml(content: bytes, path: str) -> XMLImage:
    """What the XML file of an image says.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        DataError: it is no XML or not VOC's, or an element is missing or not what it should be;
            names file, line and element.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        reason = str(error).partition(':')[0]
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]:
            reason = 'it ends too early' if content.strip() else 'it is empty'
        raise DataError(f'{path}, line {error.position[0]}: not valid XML: {reason}') from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not have
        raise DataError(f'{path}: not valid XML: {error}') from None
    nodes = root.findall('object')
    if root.tag != 'annotation' and not nodes:
        raise DataError(
            f'{path}: not a Pascal VOC annotation: expected <annotation>, found <{root.tag}>'
        )
    try:
        objects = [_object(node, number) for number, node in enumerate(nodes, start=1)]
    except _Wrong as error:
        line = _line_of(content, 'object', error.number)
        name = (nodes[error.number - 1].findtext('name') or '').strip()
        called = f'object {error.number}' + (f' ({name!r})' if name else '')
        raise DataError(f'{path}, line {line}: {called} {error}') from None
    return XMLImage(_size(root, content, path), objects)


class _Wrong(Exception):
    """What is wrong with an object; its name comes in front."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


def _object(node: ElementTree.Element, number: int) -> XMLObject:
    name = (node.findtext('name') or '').strip()
    if not name:
        raise _Wrong(number, 'has no <name>')
    box = node.find('bndbox')
    if box is None:
        raise _Wrong(number, 'has no <bndbox>')
    corners = []
    for tag in _CORNERS:
        text = box.findtext(tag)
        if text is None:
            raise _Wrong(number, f'has no <{tag}> in its <bndbox>')
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _Wrong(number, f'has {text.strip()!r} for <{tag}>, expected a number')
        corners.append(value)
    difficult = (node.findtext('difficult') or '0').strip()
    if difficult not in ('0', '1'):
        raise _Wrong(number, f'has {difficult!r} for <difficult>, expected 0 or 1')
    return XMLObject(
        number, name, (corners[0], corners[1], corners[2], corners[3]), difficult == '1'
    )


def _size(root: ElementTree.Element, content: bytes, path: str) -> tuple[int, int] | None:
    """(width, height); None where it is missing or 0, as some labelling tools write it."""
    size = root.find('size')
    if size is None:
        return None
    sides = []
    for tag in ('width', 'height'):
        text = (size.findtext(tag) or '0').strip()
        try:
            sides.append(int(float(text)))
        except (ValueError, OverflowError):
            raise DataError(
                f'{path}, line {_line_of(content, "size")}: <size> has {text!r} for <{tag}>, '
                'expected a number'
            ) from None
    return (sides[0], sides[1]) if min(sides) > 0 else None


def _line_of(content: bytes, tag: str, number: int = 1) -> int:
    """Where the ``number``-th ``<tag>`` directly below the root begins; asked only when something
    is wrong with it.
    """
    parser = expat.ParserCreate()
    lines: list[int] = []
    depth = 0

    def start(name: str, _: object) -> None:
        nonlocal depth
        depth += 1
        if depth == 2 and name == tag:
            lines.append(parser.CurrentLineNumber)

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(content, True)
    return lines[number - 1]


def parse_split(text: str, path: str) -> list[tuple[int, str]]:
    """(line number, name) of every image of a split, a file of ``ImageSets/Main``.

    Args:
        text: of the file.
        path: of the file, for messages.

    Raises:
        DataError: no name, one listed twice, or a list of one class (``dog_trainval.txt``), whose
            second column says whether an image has such an object.
    """
    rows: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for line, row in enumerate(text.lstrip('\ufeff').splitlines(), start=1):
        name = row.strip()
        if not name:
            continue
        if len(parts := name.split()) == 2 and parts[1] in ('-1', '0', '1'):
            raise DataError(
                f'{path}, line {line}: {name!r}: this is a list of one class; use one of image '
                f'names alone, such as trainval.txt, and metainfo.classes to choose classes'
            )
        if name in first:
            raise DataError(
                f'{path}, line {line}: {name!r} is listed already in line {first[name]}'
            )
        first[name] = line
        rows.append((line, name))
    if not rows:
        raise DataError(f'{path} is empty: expected the name of an image in each line')
    return rows
