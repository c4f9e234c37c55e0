"""Correction of what a check found, as far as it can be done without looking at the pictures."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from mmdet_r2.datasets.check.content import (
    image_size,
    sound_categories,
    sound_images,
)
from mmdet_r2.datasets.check.files import KEPT_KINDS
from mmdet_r2.datasets.check.findings import Finding
from mmdet_r2.datasets.check.objects import BEYOND, fix_object, move_object
from mmdet_r2.datasets.check.subject import Subject
from mmdet_r2.datasets.coco_json import Id, as_id, as_size
from mmdet_r2.datasets.convert.common import near_misses

# Two sizes of one picture: the same shape up to the rounding of a side.
_SAME_SHAPE = 0.01


def fix_content(subject: Subject, leaked: Iterable[Finding] = ()) -> tuple[Subject, list[str]]:
    """A corrected copy and, a line each, what was done.

    Files stay as they are: images that cannot be read are left out, and so are those in
    ``leaked``, which are validation images.
    """
    content = json.loads(json.dumps(subject.content))  # a deep copy, faster than copy.deepcopy
    fixed = Subject(subject.name, content, subject.image_dir, subject.role, subject.classes)
    fixed.files = dict(subject.files)
    done: list[str] = []
    _fix_ids(content, done)
    _fix_categories(content, subject.classes or (), done)
    _fix_images(fixed, {as_id(finding.image_id) for finding in leaked}, done)
    _fix_annotations(fixed, done)
    return fixed, done


def _fix_ids(content: dict, done: list[str]) -> None:
    """Write ids and sizes as numbers. Entries whose ids become equal by that are told apart."""
    for entries, key in (('images', 'image_id'), ('categories', 'category_id')):
        sound = [
            e for e in content[entries] if isinstance(e, dict) and as_id(e.get('id')) is not None
        ]
        following = _following(e['id'] for e in sound)
        first: dict[Id, type] = {}
        moved: dict[tuple[Id, type], int] = {}  # id and how it is written -> the new one
        for entry in sound:
            number, written = as_id(entry['id']), entry['id']
            assert number is not None
            if first.setdefault(number, type(written)) is not type(written):
                new = moved.setdefault((number, type(written)), following)
                following = max(following, new + 1)
                done.append(f'id {written!r} of {entries} changed to {new}: {number} is another')
                number = new
            entry['id'] = number
        for annotation in content['annotations']:
            value = annotation.get(key) if isinstance(annotation, dict) else None
            if (number := as_id(value)) is not None:
                annotation[key] = moved.get((number, type(value)), number)
    for entry in [*content['images'], *content['annotations']]:
        for key, read in (('id', as_id), ('width', as_size), ('height', as_size)):
            if isinstance(entry, dict) and (value := read(entry.get(key))) is not None:
                entry[key] = value


def _following(ids: Iterable[Any]) -> int:
    """The next free whole number."""
    return max((n for i in ids if isinstance(n := as_id(i), int)), default=0) + 1


def _fix_categories(content: dict, classes: Sequence[str], done: list[str]) -> None:
    kept: dict[str, dict] = {}
    replaced: dict[Any, Any] = {}  # category id -> the id to use instead
    used = Counter(
        number
        for a in content['annotations']
        if isinstance(a, dict) and (number := as_id(a.get('category_id'))) is not None
    )
    objects: Counter[str] = Counter()
    for category in sound_categories(content):
        objects[category['name']] += used[category['id']]
    groups: dict[str, list[str]] = {}
    for one, other in near_misses(objects):
        groups.setdefault(one, [one]).append(other)
    spelling: dict[str, str] = {}
    for group in groups.values():  # the name of the config, else of most objects
        best = max(group, key=lambda name: (name in classes, objects[name]))
        spelling.update(dict.fromkeys(group, best))
    ids: set = set()
    for category in sound_categories(content):
        name = spelling.get(category['name'], category['name'])
        if category['id'] in ids:
            done.append(
                f'category {category["name"]!r} dropped: its id {category["id"]} is of another'
            )
            continue
        ids.add(category['id'])
        if name in kept:
            replaced[category['id']] = kept[name]['id']
            done.append(
                f'category {category["name"]!r} (id {category["id"]}) joined with {name!r} '
                f'(id {kept[name]["id"]}): {used[category["id"]]} objects'
            )
            continue
        if name != category['name']:  # the one it is joined with comes later
            done.append(f'category {category["name"]!r} renamed to {name!r}')
        kept[name] = {**category, 'name': name}
    if len(sound_categories(content)) < len(content['categories']):
        done.append('categories without id or name dropped')
    content['categories'] = list(kept.values())
    for annotation in content['annotations']:
        number = as_id(annotation.get('category_id')) if isinstance(annotation, dict) else None
        if number is not None:
            annotation['category_id'] = replaced.get(number, number)


def _fix_images(subject: Subject, leaked: set, done: list[str]) -> None:
    content = subject.content
    sound = sound_images(content)
    for _ in range(len(content['images']) - len(sound)):
        done.append('an image without id or file_name, or with the id of another, dropped')
    by_image: dict[Any, list[dict]] = {image['id']: [] for image in sound}
    rest: list[Any] = []
    for annotation in content['annotations']:
        key = as_id(annotation.get('image_id')) if isinstance(annotation, dict) else None
        by_image.get(key, rest).append(annotation)
    first: dict[str, dict] = {}
    kept = []
    for image in sound:
        name, number = image['file_name'], image['id']
        file = subject.files[name]
        where = f'{name} (image {number})'
        own = by_image[number]
        if number in leaked:
            done.append(f'{where}: dropped with {len(own)} objects: it is a validation image')
        elif file.facts.kind and file.facts.kind not in KEPT_KINDS:
            done.append(f'{where}: dropped with {len(own)} objects: {file.facts.message}')
        elif file.name in first:
            target = first[file.name]['id']
            for annotation in own:
                annotation['image_id'] = target
            by_image[target] += own
            done.append(f'{where}: joined with image {target}, {len(own)} objects')
        else:
            if file.name != name:
                image['file_name'] = file.name
                subject.files[file.name] = type(file)(file.name, file.facts)
                done.append(f'{where}: named {file.name}')
            unread = not file.facts.is_readable  # its size is only known from the annotations
            if unread or _fix_size(image, own, subject, where, done):
                first[file.name] = image
                kept.append(image)
    content['images'] = kept
    content['annotations'] = rest + [a for image in kept for a in by_image[image['id']]]


def _fix_size(image: dict, own: list[dict], subject: Subject, where: str, done: list[str]) -> bool:
    """Bring an image's size, and with it its objects, to the file's; False to drop it."""
    facts = subject.files[image['file_name']].facts
    old_width, old_height = as_size(image.get('width')), as_size(image.get('height'))
    width, height = facts.shown
    if old_width is None or old_height is None:
        image.update(width=width, height=height)
        done.append(f'{where}: size {width} x {height} taken from the file')
        return True
    stated = (old_width, old_height)
    if stated == facts.shown:
        return True
    if stated == facts.stored:
        move, warp = _rotation(facts.orientation, *facts.stored)
        how = f'turned by EXIF rotation {facts.orientation}'
    elif abs(stated[0] * height / (stated[1] * width) - 1) <= _SAME_SHAPE:
        move, warp = _scaling(stated, facts.shown)
        how = f'scaled from {stated[0]} x {stated[1]} to {width} x {height}'
    elif _fit(own, width, height):
        image.update(width=width, height=height)
        done.append(
            f"{where}: size {stated[0]} x {stated[1]} set to the file's {width} x {height}: look "
            f'at its objects'
        )
        return True
    else:
        done.append(
            f'{where}: dropped with {len(own)} objects: annotated at {stated[0]} x {stated[1]}, '
            f'the file has {width} x {height}'
        )
        return False
    for annotation in own:
        fixed, _ = fix_object(annotation, *stated)
        if fixed is not None:
            fixed = move_object(fixed, move, warp)
        fixed = fixed or dict(annotation, bbox=None, segmentation=None)
        annotation.clear()
        annotation.update(fixed)
    image.update(width=width, height=height)
    done.append(f'{where}: {len(own)} objects {how}')
    return True


def _fit(own: list[dict], width: int, height: int) -> bool:
    for annotation in own:
        try:
            x, y, w, h = map(float, annotation['bbox'])
        except (KeyError, TypeError, ValueError):
            continue
        if x + w > width + BEYOND or y + h > height + BEYOND:
            return False
    return True


Move = Callable[[np.ndarray], np.ndarray]


def _rotation(orientation: int, width: int, height: int) -> tuple[Move, Move]:
    """What an EXIF orientation (2 to 8) does to points, and to masks, of the stored size."""
    mirror_x = orientation in (2, 3, 7, 8)
    mirror_y = orientation in (3, 4, 6, 7)

    def move(points: np.ndarray) -> np.ndarray:
        x = width - points[:, 0] if mirror_x else points[:, 0]
        y = height - points[:, 1] if mirror_y else points[:, 1]
        return np.stack([y, x] if orientation >= 5 else [x, y], axis=1)

    def warp(mask: np.ndarray) -> np.ndarray:
        mask = mask[:, ::-1] if mirror_x else mask
        mask = mask[::-1] if mirror_y else mask
        return mask.T if orientation >= 5 else mask

    return move, warp


def _scaling(old: tuple[int, int], new: tuple[int, int]) -> tuple[Move, Move]:
    scale = np.array(new) / np.array(old)
    return (
        lambda points: points * scale,
        lambda mask: cv2.resize(np.ascontiguousarray(mask), new, interpolation=cv2.INTER_NEAREST),
    )


def _fix_annotations(subject: Subject, done: list[str]) -> None:
    content = subject.content
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    annotations = [a for a in content['annotations'] if isinstance(a, dict)]
    if len(annotations) < len(content['annotations']):
        done.append('annotations that are no objects dropped')
    following = _following(a.get('id') for a in annotations)
    ids: set = set()
    places: dict[tuple, list[Any]] = {}
    kept = []
    for annotation in annotations:
        number, image_id = annotation.get('id'), annotation.get('image_id')
        image = images.get(as_id(image_id))
        category = annotation.get('category_id')
        where = f'{image["file_name"]}, annotation {number}' if image else f'annotation {number}'
        if image is None:
            done.append(f'{where}: dropped: image_id {image_id!r} is not in the file')
            continue
        if as_id(category) not in categories:
            done.append(f'{where}: dropped: category_id {category!r} is not in the file')
            continue
        size = image_size(image, subject)
        assert size is not None
        fixed, steps = fix_object(annotation, *size)
        if steps:
            done.append(f'{where}: {", ".join(steps)}')
        if fixed is None:
            continue
        place = (image_id, category, *fixed['bbox'])
        same = places.setdefault(place, [])
        if fixed.get('segmentation') in same:
            done.append(f'{where}: dropped: the object is annotated already')
            continue
        same.append(fixed.get('segmentation'))
        if as_id(number) is None or number in ids:
            fixed['id'] = following
            following += 1
            done.append(f'{where}: numbered {fixed["id"]}')
        ids.add(fixed['id'])
        kept.append(fixed)
    content['annotations'] = kept
