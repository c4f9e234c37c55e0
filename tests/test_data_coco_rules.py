"""One reader of COCO files: training, evaluation, the check, its corrections and the converters see
the same objects, whatever is written in a file.
"""

import copy
import json
import random

import cv2
import numpy as np
import pytest
import torch

from mmdet_r2.datasets import CocoDataset, CocoPanopticDataset, check, convert
from mmdet_r2.datasets.check.content import check_content
from mmdet_r2.datasets.coco_json import as_flag, as_id, as_number, as_size, parse_coco, read_coco
from mmdet_r2.datasets.coco_splits import divide, read_annotations, read_ids
from mmdet_r2.engine.data_order import build_train_dataloader, nothing_to_learn
from mmdet_r2.errors import DataError
from mmdet_r2.evaluation import CocoMetric
from mmdet_r2.evaluation.coco_format import read_annotations as ground_truth
from mmdet_r2.evaluation.panoptic_format import read_panoptic

NAMES = ('cat', 'dog', 'fish')
W, H = 48, 40
SQUARE = [4, 4, 20, 4, 20, 14, 4, 14]


def box_of(number):
    """A box that no other number has."""
    return [number % 7 + 0.25 * (number % 4), number % 5, 12 + number % 9, 10 + number % 11]


def annotation(number, image_id, category_id, **more):
    x, y, w, h = box_of(number)
    entry = dict(id=number, image_id=image_id, category_id=category_id, bbox=[x, y, w, h])
    entry |= dict(area=w * h, iscrowd=0)
    entry['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return entry | more


def sound():
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=W, height=H) for i in (1, 2, 3)],
        categories=[dict(id=i, name=name) for i, name in enumerate(NAMES, start=1)],
        annotations=[annotation(n, 1 + n % 3, 1 + n % 3 if n < 6 else 2) for n in range(1, 9)],
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('rules')
    (root / 'images').mkdir()
    rng = np.random.default_rng(0)
    for i in range(1, 5):
        pixels = rng.integers(0, 255, (H, W, 3), np.uint8)
        cv2.imwrite(str(root / 'images' / f'{i}.png'), pixels)
    return root


def write(folder, content):
    path = folder / 'ann.json'
    path.write_text(json.dumps(content))
    return path


def training(path, **more):
    """(file, class, box, crowd) of all objects that a data set has."""
    settings = dict(metainfo=dict(classes=NAMES), allow_missing_classes=True) | more
    dataset = CocoDataset(str(path), serialize_data=False, **settings)
    found = []
    for info in map(dataset.get_data_info, range(len(dataset))):
        for i in info['instances']:
            x1, y1, x2, y2 = i['bbox']
            place = (round(x1, 6), round(y1, 6), round(x2, 6), round(y2, 6))
            found.append((info['img_path'], NAMES[i['bbox_label']], place, bool(i['ignore_flag'])))
    return sorted(found)


def evaluation(path):
    truth = ground_truth(str(path))
    names = {c['id']: c['name'] for c in truth['categories']}
    files = {image.id: image.file_name for image in read_coco(path).images}
    found = []
    for a in truth['annotations']:
        x, y, w, h = a['bbox']
        assert a['area'] > 0 and isinstance(a['area'], (int, float))
        place = (round(x, 6), round(y, 6), round(x + w, 6), round(y + h, 6))
        if names[a['category_id']] in NAMES:
            found.append((files[a['image_id']], names[a['category_id']], place, bool(a['iscrowd'])))
    return sorted(found)


def converted(path):
    _, images = convert.read_coco(path, convert.Notes())
    found = []
    for image in images:
        for thing in image.objects:
            place = tuple(round(v, 6) for v in thing.box)
            if thing.name in NAMES:
                found.append((image.file_name, thing.name, place, thing.crowd))
    return sorted(found)


def subject_of(folder, path):
    subject = check.load_subject(path, folder / 'images', 'train')
    subject.classes = NAMES
    return subject


def outcome(read, *arguments):
    try:
        return read(*arguments)
    except DataError as error:
        assert '\n' not in str(error) and str(arguments[0]) in str(error)
        return 'error'


# ------------------------------------------------------------------------------------- properties

ODD = {
    'id': [None, 1.0, '7', 'a', '007', True, 2.5, [], float('nan'), -3, '-3', 10**30],
    'image_id': [None, '1', 2.0, '3', True, 'x', 99, [], {}, '01', 1.5],
    'category_id': [None, '1', 2.0, True, 'cat', 99, [], '02'],
    'bbox': [
        None, [], '', 'none', {}, [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]], [1, 1, None, 5],
        ['1.5', '2', '13', '14'], [True, 1, 9, 9], [1, 1, 0, 5], [1, 1, -4, 5], [1, 1, 5, 0.5],
        [float('nan'), 1, 5, 5], [1, 1, float('inf'), 5], [W, 1, 5, 5], [-5, 1, 5, 5],
        [-9.5, -3, 10, 12], [40, 30, 30, 30], [10**400, 1, 5, 5], [1, 1, 10**7, 5],
    ],
    'area': [None, 0, -1, '', '120', 'big', True, [], {}, float('nan'), float('inf'), 1e400, 77],
    'iscrowd': [None, True, False, '0', '1', 0.0, 1.0, 1, 2, 'yes', '', [], {}, -1],
    'ignore': [None, 0, 1, True, '0', '1', 'no', [], 0.0],
    'segmentation': [
        None, [], '', {}, 'none', 5, SQUARE, [SQUARE, [1, 1, 2, 2]], [[1, 1, 2, 2]],
        [[*SQUARE, 3]], [[1, 1, None, 4, 5, 6]], [[1, 1, float('nan'), 4, 5, 6]], [[1e9] * 6],
        [[str(v) for v in SQUARE]], [[SQUARE]], [[[1, 1], [9, 1], [9, 9]]],
        dict(size=[H, W], counts=[100, 300, H * W - 400]), dict(size=[H, W], counts=[5, 5]),
        dict(size=[W, H], counts=[H * W]), dict(size=[H, W], counts="b'abc'"),
        dict(size=[H, W], counts=[-5, H * W + 5]), dict(size=None, counts=None),
        dict(size=[H, W], counts=[100, 0, 0, 300, H * W - 400]),
    ],
}  # fmt: skip


def random_content(rng):
    """A file with oddities of every kind; of those that are errors not too many."""
    content = sound()
    if rng.random() < 0.3:  # ids in another form, which all must take
        form = rng.choice([str, float, lambda i: f'id_{i}'])
        for entry in content['images']:
            entry['id'] = form(entry['id'])
        for a in content['annotations']:
            a['image_id'] = form(a['image_id'])
    if rng.random() < 0.3:
        form = rng.choice([str, float, lambda i: f'id_{i}'])
        for entry in content['categories']:
            entry['id'] = form(entry['id'])
        for a in content['annotations']:
            a['category_id'] = rng.choice([form, form, str])(a['category_id'])
    if rng.random() < 0.2:
        content['categories'].insert(0, dict(id=0, name=rng.choice(['cat', 'pets'])))
    if rng.random() < 0.2:
        image = rng.choice(content['images'])
        image[rng.choice(['width', 'height'])] = rng.choice([str(W), float(H), None, 0, True, W])
        image['width'], image['height'] = image['width'] and W, image['height'] and H
    for a in content['annotations']:
        for key, values in ODD.items():
            rare = key in ('id', 'image_id')
            if rng.random() < (0.02 if rare else 0.15):
                a[key] = copy.deepcopy(rng.choice(values))
            elif rng.random() < 0.01 and not rare:
                a.pop(key, None)
    if rng.random() < 0.03:
        content['annotations'].append(rng.choice([None, [], 'text', {}]))
    return content


@pytest.mark.parametrize('part', range(4))
def test_all_readers_see_the_same(folder, part):
    """Of random files; and corrected ones are clean and have every object that was sound."""
    num_errors = num_objects = num_skipped = 0
    for seed in range(100 * part, 100 * (part + 1)):
        content = random_content(random.Random(seed))
        path = write(folder, content)
        expected = outcome(training, path)
        assert outcome(evaluation, path) == expected, seed
        assert outcome(converted, path) == expected, seed

        subject = subject_of(folder, path)
        findings = check.check_subjects([subject], workers=1)[subject.name]
        errors = [f for f in findings if check.KINDS[f.kind].effect == 'training stops']
        errors = [f for f in errors if f.message != 'annotation without id']
        assert all(f.line() for f in findings)
        if expected == 'error':
            num_errors += 1
            assert errors, seed
            objects = 0
        else:
            assert not [f for f in errors if f.kind != 'nothing-to-learn'], seed
            numbers = check.statistics(subject)
            objects = len(expected)
            assert len(numbers.sides) + numbers.num_crowds == objects, seed
            for crowd, count in ((False, len(numbers.sides)), (True, numbers.num_crowds)):
                assert sum(flag == crowd for *_, flag in expected) == count
            coco = read_coco(path)
            skipped = coco.skipped.total()
            assert objects + skipped + coco.num_ignored == len(content['annotations']), seed
            assert bool(skipped) == any(f.kind in coco.skipped for f in findings), seed
            num_skipped += skipped
            num_objects += objects

        before = copy.deepcopy(subject.content)
        fixed, _ = check.fix_content(subject)
        assert repr(subject.content) == repr(before)
        again = check.problems(check.check_subjects([fixed], workers=1)[fixed.name])
        assert not [f for f in again if f.kind != 'nothing-to-learn'], (seed, again)
        kept = training(write(folder, fixed.content))
        assert len(kept) >= objects, seed
    assert num_errors > 3 and num_objects > 200 and num_skipped > 50


def test_single_values():
    for value, expected in (
        (1, 1), (1.0, 1), ('1', 1), ('-3', -3), ('0', 0), ('01', '01'), ('-0', '-0'), ('1.', '1.'),
        (' 1', ' 1'), ('a', 'a'), ('²', '²'), ('9' * 5000, '9' * 5000), (True, None), (None, None),
        (1.5, None), (float('nan'), None), (float('inf'), None), ([], None), ({}, None),
    ):  # fmt: skip
        found = as_id(value)
        assert found == expected and type(found) is type(expected), value
    assert [as_size(v) for v in (5, 5.0, '5', '05', 0, -1, True, None, 10**30)] == [
        *(5, 5, 5), *(None,) * 6
    ]  # fmt: skip
    flags = (None, 0, 1, True, False, '0', '1', 0.0, 1.0, 2, 'yes', '', [], {}, float('nan'))
    assert [as_flag(v) for v in flags] == [0, 0, 1, 1, 0, 0, 1, 0, 1, *(None,) * 6]
    numbers = (1, 1.5, '12.5', '-3', '1e3', 'nan', '', ' 1', '1_0', True, None, [], float('inf'))
    assert [as_number(v) for v in numbers] == [1, 1.5, 12.5, -3, 1000, *(None,) * 8]
    assert as_number(10**400) is None


# ----------------------------------------------------------------------------------- single kinds


def perfect(path, names=NAMES, metric=('bbox', 'segm'), **options):
    """The numbers of detections that are what a sound file says."""
    evaluator = CocoMetric(str(path), metric=list(metric), **options)
    evaluator.dataset_meta = dict(classes=names)
    dataset = CocoDataset(
        str(path),
        metainfo=dict(classes=names),
        test_mode=True,
        serialize_data=False,
        allow_missing_classes=True,
    )
    for info in map(dataset.get_data_info, range(len(dataset))):
        known = [a for a in sound()['annotations'] if f'{a["image_id"]}.png' == info['img_path']]
        boxes = torch.tensor([a['bbox'] for a in known], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.zeros((len(known), H, W), dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist()):
            mask[y1:y2, x1:x2] = True
        predicted = dict(
            bboxes=boxes,
            scores=torch.tensor([0.9 - a['id'] / 100 for a in known]),
            labels=torch.tensor([a['category_id'] - 1 for a in known]).long(),
            masks=masks,
        )
        one = dict(img_id=info['img_id'], ori_shape=(H, W), pred_instances=predicted)
        evaluator.process({}, [one])
    return evaluator.evaluate(len(dataset))


def change_all(key, value, where='annotations'):
    def change(content):
        for entry in content[where]:
            entry[key] = value(entry[key]) if callable(value) else value

    return change


def mixed_ids(content):
    new = {1: 'img_1', 2: 2, 3: 'img_3'}
    for entry in content['images']:
        entry['id'] = new[entry['id']]
    for a in content['annotations']:
        a['image_id'] = new[a['image_id']]


def float_ids(content):
    for a in content['annotations']:
        a.update({key: float(a[key]) for key in ('id', 'image_id', 'category_id')})


def mixed_categories(content):
    new = {1: 'first', 2: 2, 3: '3'}
    for entry in content['categories']:
        entry['id'] = new[entry['id']]
    for a in content['annotations']:
        a['category_id'] = new[a['category_id']]


def parents(content):
    content['categories'].insert(0, dict(id=0, name='cat', supercategory='none'))
    content['categories'].append(dict(id='pets', name='pets'))


SAME = {
    'category ids as text': change_all('category_id', str),
    'image ids as text': change_all('image_id', str),
    'ids as floats': float_ids,
    'mixed image ids': mixed_ids,
    'mixed category ids': mixed_categories,
    'iscrowd null': change_all('iscrowd', None),
    'iscrowd text': change_all('iscrowd', '0'),
    'iscrowd false': change_all('iscrowd', False),
    'ignore null': change_all('ignore', lambda _: None),
    'area 0': change_all('area', 0),
    'area null': change_all('area', None),
    'flat polygons': change_all('segmentation', lambda s: s[0]),
    'polygons of text': change_all('segmentation', lambda s: [[str(v) for v in s[0]]]),
    'bbox of text': change_all('bbox', lambda b: [str(v) for v in b]),
    'width as text': change_all('width', str, 'images'),
    'height as float': change_all('height', float, 'images'),
    'parent categories': parents,
}


@pytest.mark.parametrize('kind', SAME)
def test_other_spellings_of_the_same(folder, tmp_path, kind):
    reference = perfect(write(folder, sound()))
    assert reference['coco/bbox_mAP'] == 1 and reference['coco/segm_mAP'] > 0.5
    objects = training(folder / 'ann.json')
    content = sound()
    if kind == 'ignore null':
        for a in content['annotations']:
            a['ignore'] = 0
    SAME[kind](content)
    path = write(folder, content)
    assert perfect(path) == pytest.approx(reference)
    assert training(path) == objects == evaluation(path) == converted(path)
    subject = subject_of(folder, path)
    found = check.check_subjects([subject], workers=1)[subject.name]
    assert {f.kind for f in check.problems(found)} <= {'area'}
    assert len(check.statistics(subject).sides) == len(objects)
    fixed, _ = check.fix_content(subject)
    assert training(write(folder, fixed.content)) == objects


@pytest.mark.parametrize('kind', ['category ids as text', 'mixed image ids', 'mixed category ids'])
def test_results_have_the_ids_of_the_file(folder, tmp_path, kind):
    content = sound()
    SAME[kind](content)
    content['images'][1]['id'] = '2'
    path = write(folder, content)
    perfect(path, outfile_prefix=str(tmp_path / 'out'))
    for name in ('bbox', 'segm'):
        records = json.loads((tmp_path / f'out.{name}.json').read_text())
        assert len(records) == 8
        for key, entries in (('image_id', 'images'), ('category_id', 'categories')):
            written = {(type(r[key]), r[key]) for r in records}
            assert written == {(type(e['id']), e['id']) for e in content[entries]}


SKIPPED = {
    'bbox null': (dict(bbox=None), 'box-malformed', 'bbox is None'),
    'bbox short': (dict(bbox=[1, 2, 3]), 'box-malformed', '[1, 2, 3]'),
    'bbox empty': (dict(bbox=[1, 1, 0, 9]), 'box-empty', '[1, 1, 0, 9]'),
    'bbox outside': (dict(bbox=[W, 1, 5, 5]), 'box-outside', f'[{W}, 1, 5, 5]'),
    'iscrowd': (dict(iscrowd='yes'), 'flag-malformed', "iscrowd is 'yes'"),
    'ignore': (dict(ignore=2), 'flag-malformed', 'ignore is 2'),
    'image': (dict(image_id='7'), 'image-unknown', "'7'"),
    'category': (dict(category_id='x'), 'category-unknown', "'x'"),
    'no category': (dict(category_id=None), 'category-unknown', 'None'),
}


@pytest.mark.parametrize('case', SKIPPED)
def test_what_is_skipped_is_named_everywhere(folder, capsys, case):
    more, kind, value = SKIPPED[case]
    content = sound()
    content['annotations'][1] |= more
    path = write(folder, content)
    objects = training(path)
    assert len(objects) == 7 and evaluation(path) == converted(path) == objects
    coco = read_coco(path)
    assert dict(coco.skipped) == {kind: 1}
    (line,) = coco.report()
    assert 'annotation 2: ' in line and value in line
    notes = convert.Notes()
    convert.read_coco(path, notes)
    assert any(value in said and 'annotation 2: ' in said for said in notes.lines())
    found = check_content(looked_at(subject_of(folder, path)))
    assert [(f.annotation_id, value in f.message) for f in found if f.kind == kind] == [(2, True)]


def looked_at(subject):
    subject.look_at_files(1)
    return subject


ERRORS = {
    'image id null': (lambda c: c['images'][0].update(id=None), '1.png'),
    'image id true': (lambda c: c['images'][0].update(id=True), 'True'),
    'image id 1.5': (lambda c: c['images'][0].update(id=1.5), '1.5'),
    'category id true': (lambda c: c['categories'][0].update(id=True), 'True'),
    'annotation id true': (lambda c: c['annotations'][0].update(id=True), 'True'),
    'of image null': (lambda c: c['annotations'][0].update(image_id=None), 'image_id'),
    'of category true': (lambda c: c['annotations'][0].update(category_id=True), 'True'),
    'two images': (lambda c: c['images'][0].update(id='2'), "'2'"),
    'two images, float': (lambda c: c['images'][1].update(id=1.0), '1.png'),
    'two categories': (lambda c: c['categories'][0].update(id='2'), "'2'"),
    'two annotations': (lambda c: c['annotations'][0].update(id='2'), "'2'"),
    'two names': (lambda c: c['categories'][0].update(name='dog'), "'dog'"),
    'width text': (lambda c: c['images'][0].update(width='wide'), "'wide'"),
    'width 0128': (lambda c: c['images'][0].update(width='0128'), "'0128'"),
    'height null': (lambda c: c['images'][0].update(height=None), 'height'),
    'no list': (lambda c: c.update(annotations={}), 'annotations'),
    'no object': (lambda c: c['annotations'].append(5), '5'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_errors_are_errors_everywhere(folder, case):
    change, value = ERRORS[case]
    content = sound()
    change(content)
    path = write(folder, content)
    for read in (training, evaluation, converted):
        with pytest.raises(DataError) as error:
            read(path)
        assert value in str(error.value) and 'ann.json' in str(error.value)
        assert '\n' not in str(error.value)


def test_correction_tells_entries_apart_that_share_an_id(folder):
    """1 and "1" were two images and two categories: none loses its objects."""
    content = sound()
    content['images'][1]['id'] = '1'
    content['categories'][1]['id'] = '1'
    for a in content['annotations']:
        a['image_id'] = '1' if a['image_id'] == 2 else a['image_id']
        a['category_id'] = '1' if a['category_id'] == 2 else a['category_id']
    subject = looked_at(subject_of(folder, write(folder, content)))
    fixed, done = check.fix_content(subject)
    assert sum("'1'" in line for line in done) == 2
    expected = training(write(folder, sound()))
    assert training(write(folder, fixed.content)) == expected


# ----------------------------------------------------------------------------- nothing to learn


def loader(dataset):
    return build_train_dataloader(dict(dataset=dataset, batch_size=1, num_workers=0), 0)


NOTHING = {
    'crowds': change_all('iscrowd', 1),
    'categories': change_all('category_id', 99),
    'boxes': change_all('bbox', None),
    'ignored': change_all('ignore', 1),
    'images': change_all('image_id', 99),
    'none': lambda content: content['annotations'].clear(),
}


@pytest.mark.parametrize('case', NOTHING)
def test_nothing_to_learn_or_measure(folder, case):
    content = sound()
    for a in content['annotations']:
        a['ignore'] = 0
    NOTHING[case](content)
    path = write(folder, content)
    dataset = CocoDataset(str(path), metainfo=dict(classes=NAMES))
    with pytest.raises(DataError, match=r'train_dataloader.*ann\.json'):
        loader(dataset)
    # images without objects are of use beside others
    other = folder / 'other.json'
    other.write_text(json.dumps(sound()))
    both = torch.utils.data.ConcatDataset(
        [dataset, CocoDataset(str(other), metainfo=dict(classes=NAMES))]
    )
    assert nothing_to_learn(dataset) and not nothing_to_learn(both)
    metric = CocoMetric(str(path))
    with pytest.raises(DataError, match=r'ann\.json'):
        metric.dataset_meta = dict(classes=NAMES)
    subject = looked_at(subject_of(folder, path))
    kinds = {f.kind for f in check_content(subject)}
    assert ('nothing-to-learn' in kinds) == (case != 'none') and 'class-empty' in kinds


def test_masks_that_cannot_be_used(folder):
    content = sound()
    change_all('segmentation', dict(size=[H, W], counts="b'abc'"))(content)
    path = write(folder, content)
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
    settings = dict(data_prefix=dict(img=str(folder / 'images')), metainfo=dict(classes=NAMES))
    with pytest.raises(DataError, match='annotation 1: '):
        loader(CocoDataset(str(path), pipeline=load, **settings))
    assert len(training(path)) == 8  # of use for boxes
    metric = CocoMetric(str(path), metric='segm')
    with pytest.raises(DataError, match='segm'):
        metric.dataset_meta = dict(classes=NAMES)
    CocoMetric(str(path)).dataset_meta = dict(classes=NAMES)


@pytest.mark.parametrize('annotations', [None, [], 'absent'])
def test_unannotated_files(folder, tmp_path, annotations):
    content = sound() | dict(annotations=annotations)
    if annotations == 'absent':
        del content['annotations']
    path = write(folder, content)
    assert perfect(path, format_only=True, outfile_prefix=str(tmp_path / 'out')) == {}
    assert len(json.loads((tmp_path / 'out.bbox.json').read_text())) == 8
    with pytest.raises(DataError, match=r'ann\.json'):
        perfect(path)
    assert parse_coco(dict(content, annotations=[]), 'x').num_annotations == 0


# ----------------------------------------------------------------------------- splits and panoptic


def test_parts_by_ids_in_any_form(folder, tmp_path):
    content = sound()
    float_ids(content)
    (tmp_path / 'ids.json').write_text(json.dumps(dict(images=[dict(id='2')])))
    ids = read_ids(tmp_path / 'ids.json')
    assert ids == [2]
    chosen, rest = divide(read_annotations(write(folder, content)), ids)
    assert [i['id'] for i in chosen['images']] == [2]
    assert {a['image_id'] for a in chosen['annotations']} == {2}
    assert len(chosen['annotations']) + len(rest['annotations']) == 8


@pytest.mark.parametrize('form', [str, float])
def test_panoptic_ids_in_any_form(folder, form):
    segments = [dict(id=i, category_id=i, iscrowd=0, bbox=[0, 0, 9, 9], area=81) for i in (1, 2, 3)]
    content = dict(
        images=[dict(id=form(1), file_name='1.png', width=W, height=H)],
        categories=[dict(id=i, name=NAMES[i - 1], isthing=form(i < 3)) for i in (1, 2, 3)],
        annotations=[dict(image_id=1, file_name='1.png', segments_info=segments)],
    )
    for category in content['categories']:
        category['isthing'] = int(category['id'] < 3)
    for segment in segments:
        segment.update(id=form(segment['id']), category_id=form(segment['category_id']))
    segments[0]['iscrowd'] = 'yes'
    segments[1]['iscrowd'] = '1'
    path = write(folder, content)
    names = dict(thing_classes=NAMES[:2], stuff_classes=NAMES[2:])
    dataset = CocoPanopticDataset(str(path), names, data_prefix=dict(img='', seg='x'))
    info = dataset.get_data_info(0)
    assert [s['id'] for s in info['segments_info']] == [2, 3] and info['void_ids'] == [1]
    file = read_panoptic(str(path), str(folder))
    (found,) = file.annotations.values()
    assert list(file.annotations) == [1] and found['void_ids'] == [1]
    assert [(s['id'], s['category_id'], s['iscrowd']) for s in found['segments_info']] == [
        (2, 2, 1), (3, 3, 0)
    ]  # fmt: skip
    record = dict(image_id=1, segments_info=[])
    assert file.as_written(record)['image_id'] == form(1)
    for change in (dict(id=True), dict(id='x'), dict(category_id=None), dict(category_id=9)):
        wrong = copy.deepcopy(content)
        wrong['annotations'][0]['segments_info'][2] |= change
        path = write(folder, wrong)
        with pytest.raises(DataError, match=r'ann\.json.*image'):
            CocoPanopticDataset(str(path), names, data_prefix=dict(img='', seg='x'))
        with pytest.raises(DataError, match=r'ann\.json.*image'):
            read_panoptic(str(path), str(folder))
    for name in (None, 5, ''):
        wrong = copy.deepcopy(content)
        wrong['annotations'][0]['file_name'] = name
        path = write(folder, wrong)
        with pytest.raises(DataError, match=r'ann\.json: image .*file_name'):
            CocoPanopticDataset(str(path), names, data_prefix=dict(img='', seg='x'))
        with pytest.raises(DataError, match=r'ann\.json: image .*file_name'):
            read_panoptic(str(path), str(folder))


def test_a_panoptic_file_is_none_of_instances(folder, tmp_path):
    """Its annotations would all be left out, and a corrected file would have none."""
    content = sound()
    content['annotations'] = [dict(image_id=1, file_name='1.png', segments_info=[])]
    path = write(folder, content)
    for read in (training, evaluation, converted, lambda p: checked(subject_of(folder, p))):
        with pytest.raises(DataError, match=r'ann\.json: .*panoptic'):
            read(path)


def checked(subject):
    return check.check_subjects([subject], workers=1)
