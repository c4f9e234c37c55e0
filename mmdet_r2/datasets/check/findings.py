"""What can be wrong with a data set, and what a check found."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A sort of finding."""

    title: str
    effect: str  # on training, or what --fix does where that says more
    problem: bool = True  # False: worth knowing, but nothing to correct


KINDS: dict[str, Kind] = {
    # images
    'image-malformed': Kind('images without id or file name', 'training stops'),
    'image-id-twice': Kind('image ids that occur twice', 'training stops'),
    'image-name-twice': Kind('files listed twice', 'their objects are split over two images'),
    'image-size-missing': Kind('images without a size of two positive integers', 'training stops'),
    'image-path': Kind('paths that do not lead to the file', 'the file is not found'),
    'file-missing': Kind('missing files', 'the image is replaced by others'),
    'file-corrupt': Kind('files that cannot be read', 'the image is replaced by others'),
    'file-truncated': Kind('truncated files', 'the image is replaced by others'),
    'file-damaged': Kind(
        'files with damaged content', 'replaced by others, or a part of the picture is grey'
    ),
    'file-unsupported': Kind(
        'images of kinds that are not read', 'the image is replaced by others; kept: convert it'
    ),
    'file-dark': Kind('images whose 16 bits are not all used', 'nearly black; kept'),
    'size-mismatch': Kind('sizes that are not the file\'s', 'training stops'),
    'exif-rotation': Kind(
        'annotated without their EXIF rotation', 'loaded without it here, but not everywhere'
    ),
    # categories
    'category-malformed': Kind('categories without id or name', 'training stops'),
    'category-twice': Kind('category names or ids that occur twice', 'training stops'),
    'category-spelling': Kind('categories that differ in spelling only', 'learnt as two classes'),
    'class-missing': Kind('classes of the config that the file does not have', 'training stops'),
    'nothing-to-learn': Kind('data sets without an object to learn', 'training stops'),
    # annotations
    'annotation-malformed': Kind('annotations that are no objects, or have no ids',
                                 'training stops'),
    'annotation-id-twice': Kind('annotation ids that occur twice', 'training stops'),
    'annotation-twice': Kind('objects annotated twice', 'counted as two objects'),
    'image-unknown': Kind('annotations of images that are not listed', 'left out'),
    'category-unknown': Kind('annotations of categories that are not listed', 'left out'),
    'flag-malformed': Kind('iscrowd or ignore other than 0 or 1', 'left out'),
    'box-malformed': Kind('boxes that are not four finite numbers', 'left out'),
    'box-empty': Kind('boxes without area, or below one pixel', 'left out'),
    'box-outside': Kind('boxes outside the image', 'left out'),
    'box-beyond': Kind('boxes that stick out of the image', 'cut off'),
    'mask-malformed': Kind('segmentations that are neither polygons nor run lengths', 'ignored'),
    'polygon-short': Kind('polygons of less than three points', 'ignored'),
    'polygon-odd': Kind('polygons with an odd number of coordinates', 'ignored'),
    'polygon-not-finite': Kind('polygons with coordinates that are no pixels', 'ignored'),
    'rle-bad': Kind('run lengths that do not fill the image', 'ignored, or wrong masks'),
    'mask-empty': Kind('masks without a pixel', 'learnt as empty'),
    'box-mask': Kind('boxes that do not go with their mask', 'one of the two is wrong'),
    'area': Kind('areas that do not go with mask or box', 'counted in the wrong size class'),
    'crowd-polygons': Kind('crowds with polygons', 'read as polygons here, as run lengths by some'),
    # several files
    'leak-name': Kind('training files that are validation files, too', 'results are too good'),
    'leak-content': Kind('training images that are validation images under other names',
                         'results are too good'),
    'categories-differ': Kind('categories in one of two files only', 'named alike?'),
    # to know
    'same-content': Kind('images of the same content', 'seen twice as often', problem=False),
    'exif-undecidable': Kind(
        'images with an EXIF rotation that keeps the size', 'look at them: shown rotated',
        problem=False,
    ),
    'category-unused': Kind('categories without annotations that have the name of another',
                            'left out', problem=False),
    'class-empty': Kind('classes without an object', 'cannot be learnt', problem=False),
    'mask-missing': Kind('objects without mask, others have one', 'ignored by mask heads',
                         problem=False),
    'file-unlisted': Kind('images in the folder that are not listed', 'not used', problem=False),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    kind: str
    message: str
    file: str = ''  # of the image
    image_id: Any = None
    annotation_id: Any = None

    @property
    def is_problem(self) -> bool:
        """Whether the data set is not clean with it."""
        return KINDS[self.kind].problem

    def line(self) -> str:
        """``a.jpg (image 3), annotation 17: what is wrong``"""
        where = self.file
        if self.image_id is not None:
            where = f'{where} (image {self.image_id})' if where else f'image {self.image_id}'
        if self.annotation_id is not None:
            where = f'{where}, ' if where else ''
            where += f'annotation {self.annotation_id}'
        return f'{where}: {self.message}' if where else self.message

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), 'problem': self.is_problem}


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that make the data set not clean."""
    return [finding for finding in findings if finding.is_problem]
