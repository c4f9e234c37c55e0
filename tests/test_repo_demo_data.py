"""Generated data: the same bytes for the same seed, and annotations that describe the pictures."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from warm_python import python

from mmdet_r2.datasets.demo import (
    CLASSES,
    GROUNDS,
    MAP_CLASSES,
    STAMP,
    UNLABELLED,
    draw_scene,
    generate,
    polygons,
    rle,
    stuff_map,
)
from mmdet_r2.errors import DataError

SETTINGS = dict(
    num_train=60, num_val=10, size=(128, 96), seed=3, crowd_fraction=0.2, empty_fraction=0.1
)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp('demo') / 'set', **SETTINGS)


@pytest.fixture(scope='module')
def coco(data: Path) -> COCO:
    return COCO(str(data / 'annotations' / 'instances_train.json'))


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_same_seed_same_bytes(data: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / 'again', **SETTINGS)
    assert _bytes(again) == _bytes(data)


def test_another_seed_and_the_other_split_differ(data: Path, tmp_path: Path) -> None:
    other = generate(tmp_path / 'other', **{**SETTINGS, 'seed': 4, 'num_train': 2, 'num_val': 2})
    first = [(data / 'train' / '000000.jpg'), (data / 'val' / '000000.jpg')]
    first += [(other / 'train' / '000000.jpg'), (other / 'val' / '000000.jpg')]
    assert len({p.read_bytes() for p in first}) == 4


def test_more_images_leave_the_earlier_ones(data: Path, tmp_path: Path) -> None:
    fewer = generate(tmp_path / 'fewer', **{**SETTINGS, 'num_train': 5})
    for name in ('000000.jpg', '000004.jpg'):
        assert (fewer / 'train' / name).read_bytes() == (data / 'train' / name).read_bytes()


def test_pictures_have_the_size_that_the_annotations_say(data: Path, coco: COCO) -> None:
    assert len(coco.imgs) == 60 == len(list((data / 'train').iterdir()))
    for info in coco.imgs.values():
        image = cv2.imread(str(data / 'train' / info['file_name']))
        assert image.shape == (96, 128, 3) == (info['height'], info['width'], 3)


def test_boxes_and_areas_are_those_of_the_masks(coco: COCO) -> None:
    assert len(coco.anns) > 100
    for ann in coco.anns.values():
        mask = coco.annToMask(ann).astype(bool)
        ys, xs = np.nonzero(mask)
        tight = np.array([xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1])
        if isinstance(ann['segmentation'], dict):
            assert ann['area'] == mask.sum()
            np.testing.assert_array_equal(ann['bbox'], tight)
        else:  # simplified outlines may cut a corner
            assert mask.sum() == pytest.approx(ann['area'], rel=0.06, abs=6)
            np.testing.assert_allclose(ann['bbox'], tight, atol=1)


def test_there_is_what_real_data_has(coco: COCO) -> None:
    anns = list(coco.anns.values())
    assert {a['category_id'] for a in anns} == set(range(1, len(CLASSES) + 1))
    assert [c['name'] for c in coco.dataset['categories']] == list(CLASSES)
    crowds = [a for a in anns if a['iscrowd']]
    assert crowds and all(isinstance(a['segmentation'], dict) for a in crowds)
    single = [a for a in anns if not a['iscrowd']]
    kinds = [isinstance(a['segmentation'], dict) for a in single]
    assert 0.15 < np.mean(kinds) < 0.6  # both polygons and RLE
    assert any(len(a['segmentation']) > 1 for a in single if isinstance(a['segmentation'], list)), (
        'an object cut in two by another one'
    )
    areas = np.array([a['area'] for a in single])
    assert areas.min() < 150 and areas.max() > 1000
    assert any(not coco.imgToAnns[i] for i in coco.imgs)  # images without objects


def test_instances_of_an_image_do_not_overlap(coco: COCO) -> None:
    for anns in coco.imgToAnns.values():
        masks = [coco.annToMask(a) for a in anns if isinstance(a['segmentation'], dict)]
        assert np.sum(masks, axis=0).max(initial=0) <= 1


def test_every_object_can_be_seen_in_the_picture() -> None:
    """The painted pixels of an object differ from the same scene's ground."""
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), (128, 128), max_objects=5)
        assert scene.ids.max() == len(scene.things)
        assert set(np.unique(scene.ground)) <= set(range(len(GROUNDS)))
        for k, thing in enumerate(scene.things, start=1):
            visible = scene.ids == k
            assert visible.sum() >= 0.5 * thing.mask.sum() and not (visible & ~thing.mask).any()
            near = cv2.dilate(visible.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
            inside = scene.image[visible].mean(axis=0)
            around = scene.image[near & (scene.ids == 0)]
            if len(around) > 50:  # not wholly surrounded by others
                assert np.abs(inside - around.mean(axis=0)).max() > 5


def test_stuff_maps_say_what_is_where(data: Path, coco: COCO) -> None:
    """Objects have their own label, in the picture's other pixels is ground."""
    seen = np.zeros(256, int)
    for info in coco.imgs.values():
        name = Path(info['file_name']).stem + '.png'
        labels = cv2.imread(str(data / 'stuffthingmaps' / 'train' / name), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and labels.shape == (96, 128)
        seen += np.bincount(labels.ravel(), minlength=256)
        covered = np.zeros(labels.shape, bool)
        for ann in coco.imgToAnns[info['id']]:
            mask = coco.annToMask(ann).astype(bool)
            covered |= mask
            same = labels[mask] == ann['category_id'] - 1
            # run lengths are exact, outlines may cut a corner
            assert same.all() if isinstance(ann['segmentation'], dict) else same.mean() > 0.93
        things = labels < len(CLASSES)
        assert (things != covered).mean() < 0.02
    assert (seen[: len(MAP_CLASSES)] > 0).all()
    assert seen[len(MAP_CLASSES) : UNLABELLED].sum() == 0
    assert 0 < seen[UNLABELLED] < 0.03 * seen.sum()


def test_unlabelled_is_the_border_between_two_grounds() -> None:
    seen = 0
    for seed in range(10):
        scene = draw_scene(np.random.default_rng(seed), (96, 96), max_objects=2)
        labels = stuff_map(scene)
        free = scene.ids == 0
        kinds = len(np.unique(scene.ground))
        assert (labels[free] == UNLABELLED).any() == (kinds > 1)
        inner = free & (labels != UNLABELLED)
        np.testing.assert_array_equal(labels[inner], scene.ground[inner] + len(CLASSES))
        seen += kinds > 1
    assert 0 < seen < 10


@pytest.mark.parametrize('seed', range(5))
def test_outlines_give_the_mask_back(seed: int) -> None:
    from pycocotools import mask as api

    scene = draw_scene(np.random.default_rng(seed), (160, 160), max_objects=8)
    for k in range(1, len(scene.things) + 1):
        mask = scene.ids == k
        np.testing.assert_array_equal(api.decode(api.frPyObjects(rle(mask), 160, 160)), mask)
        outlines = polygons(mask)
        if outlines is None:
            continue
        back = api.decode(api.merge(api.frPyObjects(outlines, 160, 160))).astype(bool)
        assert (back & mask).sum() / (back | mask).sum() > 0.93


def test_run_lengths_of_a_mask_that_begins_with_ones() -> None:
    mask = np.array([[1, 0], [1, 1]], bool)
    assert rle(mask) == {'size': [2, 2], 'counts': [0, 2, 1, 1]}


def test_complete_set_is_reused_and_changed_parameters_replace_it(tmp_path: Path) -> None:
    root = generate(tmp_path, num_train=3, num_val=1, size=64)
    before = (root / 'train' / '000000.jpg').stat().st_mtime_ns
    generate(tmp_path, num_train=3, num_val=1, size=64)
    assert (root / 'train' / '000000.jpg').stat().st_mtime_ns == before
    generate(tmp_path, num_train=1, num_val=1, size=64)
    assert len(list((root / 'train').iterdir())) == 1
    assert len(list((root / 'stuffthingmaps' / 'train').iterdir())) == 1


def test_interrupted_set_is_made_again(tmp_path: Path) -> None:
    root = generate(tmp_path, num_train=3, num_val=1, size=64)
    # as after an interruption: pictures, and the mark of an unfinished set instead of the stamp
    (root / STAMP).rename(root / f'{STAMP}.part')
    (root / 'train' / '000001.jpg').unlink()
    generate(tmp_path, num_train=3, num_val=1, size=64)
    assert len(list((root / 'train').iterdir())) == 3
    assert not list(tmp_path.rglob('*.part'))


def test_foreign_files_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'mine.jpg').write_bytes(b'precious')
    with pytest.raises(DataError, match='train exists and was not generated'):
        generate(tmp_path, num_train=1, num_val=1, size=64)
    assert (tmp_path / 'train' / 'mine.jpg').exists()


@pytest.mark.parametrize(
    'wrong',
    [
        dict(size=16),
        dict(num_train=-1),
        dict(num_train=10**11),
        dict(max_objects=0),
        dict(empty_fraction=2.0),
    ],
)
def test_senseless_parameters_are_errors(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(DataError):
        generate(tmp_path, **wrong)


def test_command_line(repo: Path, tmp_path: Path) -> None:
    command = [python(), str(repo / 'tools/misc/make_demo_data.py'), str(tmp_path / 'x')]
    done = subprocess.run(
        [*command, '--train', '2', '--val', '1', '--size', '96', '64'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / 'x/annotations/instances_val.json').read_text())
    assert content['images'][0]['width'] == 96 and content['images'][0]['height'] == 64
    done = subprocess.run([*command, '--size', '8'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error:')
