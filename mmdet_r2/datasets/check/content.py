"""The check of a data set: its categories, its images and their files, its annotations."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet_r2.datasets.check.findings import Finding
from mmdet_r2.datasets.check.objects import object_problems
from mmdet_r2.datasets.check.subject import Subject, named_images
from mmdet_r2.datasets.coco_json import as_id, as_size
from mmdet_r2.datasets.convert.common import near_misses
from mmdet_r2.errors import did_you_mean


def check_content(subject: Subject) -> list[Finding]:
    """All findings of one data set, whose files have been looked at."""
    return [
        *_problems(subject),
        *_categories(subject),
        *_images(subject),
        *_objects(subject),
    ]


def sound_categories(content: dict) -> list[dict]:
    """Those with an id and a name."""
    return [
        c
        for c in content['categories']
        if isinstance(c, dict) and as_id(c.get('id')) is not None and isinstance(c.get('name'), str)
    ]


def sound_images(content: dict) -> list[dict]:
    """Those with an id and a file name; of several with one id the first."""
    first: dict[Any, dict] = {}
    for image in named_images(content):
        if (number := as_id(image.get('id'))) is not None:
            first.setdefault(number, image)
    return list(first.values())


def _problems(subject: Subject) -> Iterator[Finding]:
    """What the reader of the file has found."""
    names = [image.file_name for image in subject.coco.images]
    for problem in subject.coco.problems:
        message = problem.message
        if problem.kind == 'image-unknown' and isinstance(problem.image_id, str):
            message += did_you_mean(problem.image_id, names)
        where = (problem.file, problem.image_id, problem.annotation_id)
        yield Finding(problem.kind, message, *where)


def _categories(subject: Subject) -> Iterator[Finding]:
    categories = subject.coco.categories
    names = [c['name'] for c in categories]
    for one, other in near_misses(names):
        yield Finding('category-spelling', f'{one!r} and {other!r}')
    classes = subject.classes or ()
    for name in classes:
        if name not in names:
            hint = did_you_mean(name, [n for n in names if n not in classes])
            yield Finding('class-missing', f'{name!r} is not among the categories{hint}')
    objects: Counter[Any] = Counter()
    crowds: Counter[Any] = Counter()
    for image in subject.coco.images:
        for annotation in image.objects:
            counts = crowds if annotation.get('iscrowd') else objects
            counts[annotation['category_id']] += 1
    used = [c for c in categories if subject.classes is None or c['name'] in subject.classes]
    if subject.coco.num_annotations and not any(objects[c['id']] for c in used):
        what = 'crowds only' if crowds else 'none is sound'
        number = subject.coco.num_annotations
        yield Finding('nothing-to-learn', f'of {number} annotations {what}')
    for category in used:
        if not objects[category['id']]:
            what = ': crowds only' if crowds[category['id']] else ''
            yield Finding('class-empty', f'{category["name"]!r} (id {category["id"]}){what}')


def _images(subject: Subject) -> Iterator[Finding]:
    by_name: dict[str, Any] = {}
    by_digest: dict[str, str] = {}
    for image in sound_images(subject.content):
        name, number = image['file_name'], image['id']
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
        size = (as_size(image.get('width')), as_size(image.get('height')))
        if None in size:
            pass  # said by the reader
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


def _objects(subject: Subject) -> Iterator[Finding]:
    """What the reader lets pass, but is wrong or worth a look."""
    with_mask, without_mask = 0, []
    for image in subject.coco.images:
        places: dict[tuple, list[dict]] = defaultdict(list)
        for annotation in image.objects:
            number = annotation.get('id')
            known: dict[str, Any] = dict(
                file=image.file_name, image_id=image.id, annotation_id=number
            )
            if number is None:
                yield Finding('annotation-malformed', 'annotation without id', **known)
            for kind, message in object_problems(annotation, image.width, image.height):
                yield Finding(kind, message, **known)
            place = (annotation['category_id'], *annotation['bbox'])
            mask = annotation.get('segmentation') or None
            for other in places[place]:
                if (other.get('segmentation') or None) == mask:
                    text = f'the same class, box and mask as annotation {other.get("id")}'
                    yield Finding('annotation-twice', text, **known)
                    break
            places[place].append(annotation)
            if mask:
                with_mask += 1
            else:
                without_mask.append(Finding('mask-missing', 'no segmentation', **known))
    if with_mask:
        yield from without_mask


def image_size(image: dict, subject: Subject) -> tuple[int, int] | None:
    """(width, height) that the annotations are for: as stated, or else the file's."""
    width, height = as_size(image.get('width')), as_size(image.get('height'))
    if width is not None and height is not None:
        return width, height
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
    ours = [c['name'] for c in train.coco.categories]
    theirs = [c['name'] for c in other.coco.categories]
    for mine, names, where in ((ours, theirs, other.name), (theirs, ours, train.name)):
        for name in mine:
            if name not in names and (train.classes is None or name in train.classes):
                hint = did_you_mean(name, [n for n in names if n not in mine])
                yield Finding('categories-differ', f'{name!r} is not in {where}{hint}')
