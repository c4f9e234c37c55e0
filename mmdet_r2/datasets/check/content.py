"""The check of a data set: its categories, its images and their files, its annotations."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet_r2.datasets.check.findings import Finding
from mmdet_r2.datasets.check.objects import object_problems
from mmdet_r2.datasets.check.subject import Subject, named_images
from mmdet_r2.datasets.coco_annotations import is_id, is_size
from mmdet_r2.datasets.convert.common import near_misses
from mmdet_r2.errors import did_you_mean


def check_content(subject: Subject) -> list[Finding]:
    """All findings of one data set, whose files have been looked at."""
    found = [*_categories(subject), *_images(subject), *_annotations(subject)]
    return found


def sound_categories(content: dict) -> list[dict]:
    """Those with an id and a name."""
    return [
        c
        for c in content['categories']
        if isinstance(c, dict) and is_id(c.get('id')) and isinstance(c.get('name'), str)
    ]


def sound_images(content: dict) -> list[dict]:
    """Those with an id and a file name; of several with one id the first."""
    first: dict[Any, dict] = {}
    for image in named_images(content):
        if is_id(image.get('id')):
            first.setdefault(image['id'], image)
    return list(first.values())


def _categories(subject: Subject) -> Iterator[Finding]:
    categories = sound_categories(subject.content)
    for category in subject.content['categories']:
        if not any(category is sound for sound in categories):
            yield Finding('category-malformed', f'category {category!r} has no id or no name'[:200])
    for key in ('id', 'name'):
        for value, count in Counter(c[key] for c in categories).items():
            if count > 1:
                yield Finding('category-twice', f'{count} categories have the {key} {value!r}')
    names = [c['name'] for c in categories]
    for one, other in near_misses(names):
        yield Finding('category-spelling', f'{one!r} and {other!r}')
    classes = subject.classes or ()
    for name in classes:
        if name not in names:
            hint = did_you_mean(name, [n for n in names if n not in classes])
            yield Finding('class-missing', f'{name!r} is not among the categories{hint}')
    ids = Counter(a.get('category_id') for a in _dicts(subject) if is_id(a.get('category_id')))
    for category in categories:
        used = subject.classes is None or category['name'] in subject.classes
        if used and not ids[category['id']]:
            yield Finding('class-empty', f'{category["name"]!r} (id {category["id"]})')


def _dicts(subject: Subject) -> list[dict]:
    return [a for a in subject.content['annotations'] if isinstance(a, dict)]


def _images(subject: Subject) -> Iterator[Finding]:
    ids: set = set()
    by_name: dict[str, Any] = {}
    by_digest: dict[str, str] = {}
    for image in subject.content['images']:
        name = image.get('file_name') if isinstance(image, dict) else None
        if not isinstance(name, str) or not is_id(image.get('id')):
            text = f'image {image!r} has no id or no file_name'
            yield Finding('image-malformed', text[:200])
            continue
        number = image['id']
        if number in ids:
            yield Finding('image-id-twice', f'id {number} occurs before', name, number)
        ids.add(number)
        file = subject.files[name]
        if file.name in by_name:
            yield Finding(
                'image-name-twice', f'the same file as image {by_name[file.name]}', name, number
            )
            continue
        by_name[file.name] = number
        if file.path_problem:
            yield Finding('image-path', file.path_problem, name, number)
        facts = file.facts
        if facts.kind:
            yield Finding(facts.kind, facts.message, name, number)
        size = (image.get('width'), image.get('height'))
        if not all(map(is_size, size)):
            yield Finding('image-size-missing', f'size is {size[0]} x {size[1]}', name, number)
        elif facts.is_readable and size != facts.shown:
            stated, real = f'{size[0]} x {size[1]}', f'{facts.shown[0]} x {facts.shown[1]}'
            if size == facts.stored:
                yield Finding(
                    'exif-rotation',
                    f'{stated} is the size before the EXIF rotation {facts.orientation}, '
                    f'{real} after it',
                    name,
                    number,
                )
            else:
                text = f'{stated} in the annotations, the file has {real}'
                yield Finding('size-mismatch', text, name, number)
        elif facts.is_readable and facts.orientation > 1 and facts.shown == facts.stored:
            yield Finding('exif-undecidable', f'EXIF orientation {facts.orientation}', name, number)
        if facts.digest:
            if facts.digest in by_digest:
                yield Finding(
                    'same-content', f'the same bytes as {by_digest[facts.digest]}', name, number
                )
            by_digest.setdefault(facts.digest, name)


def _annotations(subject: Subject) -> Iterator[Finding]:
    images = {image['id']: image for image in sound_images(subject.content)}
    categories = {c['id'] for c in sound_categories(subject.content)}
    names = [image['file_name'] for image in images.values()]
    ids: set = set()
    places: dict[tuple, list[dict]] = defaultdict(list)
    known: dict[str, Any]
    without_mask: list[dict] = []
    for position, annotation in enumerate(subject.content['annotations']):
        if not isinstance(annotation, dict):
            text = f'annotation number {position} is {annotation!r}'
            yield Finding('annotation-malformed', text[:200])
            continue
        number, image_id = annotation.get('id'), annotation.get('image_id')
        image = images.get(image_id) if is_id(image_id) else None
        file = image['file_name'] if image else ''
        known = dict(file=file, image_id=image_id, annotation_id=number)
        if not is_id(number):
            text = f'annotation number {position} has the id {number!r}'
            yield Finding('annotation-malformed', text, **known)
        elif number in ids:
            yield Finding('annotation-id-twice', f'id {number} occurs before', **known)
        else:
            ids.add(number)
        if image is None:
            hint = did_you_mean(str(image_id), names) if isinstance(image_id, str) else ''
            yield Finding(
                'image-unknown', f'image_id {image_id!r} is not in the file{hint}', **known
            )
        category = annotation.get('category_id')
        if not is_id(category) or category not in categories:
            text = f'category_id {category!r} is not in the file'
            yield Finding('category-unknown', text, **known)
        if image is None:
            continue
        if not annotation.get('segmentation'):
            without_mask.append(annotation)
        size = image_size(image, subject)
        if size is None:
            continue
        found = object_problems(annotation, *size)
        yield from (Finding(kind, message, **known) for kind, message in found)
        if not any(kind == 'box-malformed' for kind, _ in found):
            place = (image_id, str(category), *annotation['bbox'])
            for other in places[place]:
                if other.get('segmentation') == annotation.get('segmentation'):
                    text = f'the same class, box and mask as annotation {other.get("id")}'
                    yield Finding('annotation-twice', text, **known)
                    break
            places[place].append(annotation)
    if 0 < len(without_mask) < len(_dicts(subject)):
        for annotation in without_mask:
            image = images[annotation['image_id']]
            yield Finding(
                'mask-missing', 'no segmentation', image['file_name'], image['id'],
                annotation.get('id'),
            )  # fmt: skip


def image_size(image: dict, subject: Subject) -> tuple[int, int] | None:
    """(width, height) that the annotations are for: as stated, or else the file's."""
    if is_size(width := image.get('width')) and is_size(height := image.get('height')):
        return int(width), int(height)
    facts = subject.files[image['file_name']].facts
    return facts.shown if facts.is_readable else None


def check_together(subjects: Sequence[Subject]) -> dict[str, list[Finding]]:
    """What training data has in common with validation data, by the name of the training data."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for train in (s for s in subjects if s.role == 'train'):
        for other in (s for s in subjects if s.role in ('val', 'test') and s.name != train.name):
            found[train.name] += [*_leaks(train, other), *_category_differences(train, other)]
    return found


def _leaks(train: Subject, other: Subject) -> Iterator[Finding]:
    names = {file.name.rsplit('/', 1)[-1]: file.name for file in other.files.values()}
    digests = {f.facts.digest: f.name for f in other.files.values() if f.facts.digest}
    for image in sound_images(train.content):
        file = train.files[image['file_name']]
        if file.facts.digest in digests:
            kind, same = 'leak-content', digests[file.facts.digest]
            if same.rsplit('/', 1)[-1] == file.name.rsplit('/', 1)[-1]:
                kind = 'leak-name'
        elif file.facts.digest or file.name.rsplit('/', 1)[-1] not in names:
            continue  # another picture of the same name, as cameras make them
        else:
            kind, same = 'leak-name', names[file.name.rsplit('/', 1)[-1]]
        yield Finding(kind, f'is {same} of {other.name}', image['file_name'], image['id'])


def _category_differences(train: Subject, other: Subject) -> Iterator[Finding]:
    ours = [c['name'] for c in sound_categories(train.content)]
    theirs = [c['name'] for c in sound_categories(other.content)]
    for mine, names, where in ((ours, theirs, other.name), (theirs, ours, train.name)):
        for name in mine:
            if name not in names and (train.classes is None or name in train.classes):
                hint = did_you_mean(name, [n for n in names if n not in mine])
                yield Finding('categories-differ', f'{name!r} is not in {where}{hint}')
