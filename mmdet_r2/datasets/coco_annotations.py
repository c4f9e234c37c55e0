"""What is wrong with the annotations of a COCO file, one by one and in sum."""

import math
from collections import defaultdict
from typing import TypeGuard

from mmdet_r2.datasets.transforms.loading import MAX_COORDINATE

# What makes an annotation unusable, in the words of the report.
_ZERO_SIZE = 'zero-size boxes'
_NOT_FINITE = 'NaN or infinite numbers'
_OUTSIDE = 'outside the image'
MALFORMED = 'without a box of four numbers or a known category'


def is_id(value: object) -> TypeGuard[int | str]:
    """Whether an image, category or annotation can go by it."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_size(value: object) -> TypeGuard[float]:
    """Whether a side of an image is a positive integer, as 2.0 is, and not absurdly large."""
    return _is_number(value) and 0 < value <= MAX_COORDINATE and value == int(value)


def annotation_problem(annotation: dict, width: int, height: int) -> str:
    """Why the box of an annotation cannot be used, '' if it can."""
    box = annotation.get('bbox')
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_number, box)):
        return MALFORMED
    x, y, w, h = box
    area = annotation.get('area')
    area = area if _is_number(area) else w * h
    if not all(map(math.isfinite, (*box, area))):
        return _NOT_FINITE
    if area <= 0 or w < 1 or h < 1:
        return _ZERO_SIZE
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return _OUTSIDE
    return ''


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plausible_mask(mask: object) -> bool:
    """Quick yes for polygons that need no closer look: the first is fine, and sums are finite."""
    if not isinstance(mask, list):
        return False
    try:
        return len(mask[0]) >= 6 and len(mask[0]) % 2 == 0 and math.isfinite(sum(mask[0]))
    except TypeError:
        return False


class Tally:
    """Counts of what an annotation file contained, for the report."""

    def __init__(self, noun: str) -> None:
        self.noun = noun  # what the annotations are, in the report
        self.crowds = 0
        self.without_mask = 0
        self.of_no_image = 0
        self.per_class: dict[int, int] = defaultdict(int)
        self._kinds: dict[str, int] = defaultdict(int)
        self._first: list[object] = []
        self._bad_masks = 0
        self._first_bad_masks: list[object] = []

    def invalid(self, kind: str, number: object) -> None:
        """Count an annotation that is skipped."""
        self._kinds[kind] += 1
        if len(self._first) < 5:
            self._first.append(number)

    def bad_mask(self, number: object) -> None:
        """Count an annotation whose segmentation is of no use."""
        self._bad_masks += 1
        if len(self._first_bad_masks) < 5:
            self._first_bad_masks.append(number)

    def report(self) -> list[str]:
        """Parts of the sentence."""
        objects = sum(self.per_class.values())
        parts = [f'{objects} {self.noun}, {self.crowds} of them crowds']
        if self._kinds:
            kinds = ', '.join(f'{count} {kind}' for kind, count in self._kinds.items())
            total = sum(self._kinds.values())
            parts.append(
                f'{total} invalid annotations ({kinds}) skipped, ids {_ids(self._first, total)}'
            )
        if self._bad_masks:
            parts.append(
                f'{self._bad_masks} invalid segmentations (polygons < 3 points or not finite, run '
                f'lengths of another size), ignored where masks are loaded, ids '
                f'{_ids(self._first_bad_masks, self._bad_masks)}'
            )
        if 0 < self.without_mask < objects:  # none at all is a box data set
            parts.append(
                f'{self.without_mask} without segmentation, ignored where masks are loaded'
            )
        if self.of_no_image:
            parts.append(f'{self.of_no_image} annotations of images that are not listed')
        return parts


def _ids(first: list[object], total: int) -> str:
    return ', '.join(map(str, first)) + (', ...' if total > len(first) else '')
