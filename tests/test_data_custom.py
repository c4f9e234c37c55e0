"""Data sets by a class of one's own: the page's example trains; what is wrong is named."""

import json
import re
import sys

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from small_detector import small_config

from mmdet_r2.apis.train import train
from mmdet_r2.config import load_config
from mmdet_r2.datasets import CustomDataset, ImageAnnotations
from mmdet_r2.datasets.image_files import ImageFolder, read_header
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS

W, H = 96, 64
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_mask=True)]
PACK = [*LOAD, dict(type='PackDetInputs')]


def page_block(repo, start):
    text = (repo / 'docs' / 'your_data.md').read_text(encoding='utf-8')
    section = text.split('## Your own class')[1]
    blocks = re.findall(r'```python\n(.*?)```', section, re.S)
    (block,) = [block for block in blocks if start in block]
    return block


def write_fruits(root, split, count, seed):
    """Coloured rectangles, and their annotations in the example's format."""
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True)
    photos = []
    for i in range(count):
        image = np.full((H, W, 3), 90, np.uint8)
        fruits = []
        for kind, color in (('apple', (30, 30, 220)), ('pear', (40, 220, 60))):
            x, y = rng.integers(2, 50), rng.integers(2, 30)
            w, h = rng.integers(16, 40), rng.integers(16, 30)
            image[y : y + h, x : x + w] = color
            x, y, w, h = map(int, (x, y, w, h))
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            fruits.append(dict(kind=kind, box=[x, y, x + w, y + h], outlines=[outline]))
        cv2.imwrite(str(root / split / f'{i}.png'), image)
        photos.append(dict(file=f'{i}.png', fruits=fruits))
    (root / f'{split}_fruits.json').write_text(json.dumps(photos))


@pytest.fixture
def fruit(repo, tmp_path, monkeypatch):
    """The config of the page, with its class as an importable file and data as it says."""
    (tmp_path / 'fruit.py').write_text(page_block(repo, 'class FruitDataset'))
    text = page_block(repo, 'custom_imports')
    text = text.replace("_base_ = ['./", f"_base_ = ['{repo}/configs/")
    text = text.replace("'data/fruit/'", repr(f'{tmp_path}/data/fruit/'))
    (tmp_path / 'config.py').write_text(text)
    write_fruits(tmp_path / 'data' / 'fruit', 'train', 6, 0)
    write_fruits(tmp_path / 'data' / 'fruit', 'val', 3, 1)
    monkeypatch.syspath_prepend(tmp_path)
    yield load_config(tmp_path / 'config.py')
    DATASETS.module_dict.pop('FruitDataset')
    sys.modules.pop('fruit')


def small(config, tmp_path):
    """The page's config with a small model and images, for some steps on a CPU."""
    model = small_config()
    model['roi_head']['bbox_head']['num_classes'] = 2
    model['roi_head']['mask_head']['num_classes'] = 2
    config.merge_from_dict({
        'train_cfg.max_epochs': 1,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'work_dir': str(tmp_path / 'work'),
    })  # fmt: skip
    config.model = model
    for loader in (config.train_dataloader, config.val_dataloader):
        for transform in loader.dataset.pipeline:
            if transform.type == 'Resize':
                transform.scale = (W, H)
    return config


def test_the_example_of_the_page_is_short(repo):
    block = page_block(repo, 'class FruitDataset')
    assert len(block.splitlines()) <= 23


def test_the_example_of_the_page_trains_and_is_measured(fruit, tmp_path):
    classes = fruit.model.roi_head.bbox_head.num_classes
    assert classes == fruit.model.roi_head.mask_head.num_classes == 2
    runner = train(small(fruit, tmp_path))
    assert runner.iter == 3
    metrics = runner.val_loop.run()
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
    assert all(0 <= metrics[f'coco/{kind}_mAP'] <= 1 for kind in ('bbox', 'segm'))


def test_truth_taken_for_a_prediction_is_perfect(fruit):
    """The ground truth of the metric is what the class yields: boxes and masks, in the image."""
    from mmdet_r2.evaluation import CocoMetric

    dataset = DATASETS.build(fruit.val_dataloader.dataset)
    metric = CocoMetric(metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        assert len(sample.instances) == 2
        truth = sample.gt_instances
        predicted = dict(bboxes=truth.bboxes, labels=truth.labels, masks=truth.masks.to_ndarray())
        predicted['scores'] = np.ones(len(truth.bboxes))
        metric.process(None, [{**sample.to_dict(), 'pred_instances': predicted}])
    values = metric.evaluate(len(dataset))
    assert values['coco/bbox_mAP'] == values['coco/segm_mAP'] == 1


def test_wrong_number_of_classes_is_named(fruit, tmp_path):
    config = small(fruit, tmp_path)
    config.model.roi_head.bbox_head.num_classes = 80
    with pytest.raises(ConfigError, match=r'num_classes is 80 .* 2 classes .*FruitDataset'):
        train(config)


def test_checked_and_browsed_like_others(fruit):
    from mmdet_r2.datasets import check
    from mmdet_r2.visualization.browse import browse

    subjects, _ = check.config_subjects(fruit)
    found = check.check_subjects(subjects, workers=1)
    assert [s.role for s in subjects] == ['train', 'val']
    assert not check.problems([f for findings in found.values() for f in findings])
    assert len(list(browse(fruit, number=2))) == 2


# ------------------------------------------------------------------------------------------ errors


@pytest.fixture
def yields(tmp_path):
    """A data set of these images, built on files ``0.png`` and ``1.png`` of W x H."""
    for i in range(2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((H, W, 3), np.uint8))

    def build(*images, classes=('apple', 'pear'), **kwargs):
        class Made(CustomDataset):
            def load_images(self):
                return images

        Made.classes = classes
        return Made(data_prefix=dict(img=str(tmp_path)), **kwargs)

    return build


def one(**fields):
    return ImageAnnotations(
        **(dict(file_name='0.png', boxes=[[1, 2, 21, 12]], labels=[0]) | fields)
    )


BITMAP = np.zeros((H, W), np.uint8)
BITMAP[2:12, 1:21] = 1
POLYGON = [1, 2, 21, 2, 21, 12, 1, 12]
RLE = coco_mask.encode(np.asfortranarray(BITMAP))


@pytest.mark.parametrize(
    'mask', [[POLYGON], BITMAP, BITMAP.astype(bool), RLE, [np.array(POLYGON)]], ids=str
)
def test_masks_of_all_kinds(yields, mask):
    info = yields(one(masks=[mask])).get_data_info(0)
    (instance,) = info['instances']
    assert instance['bbox'] == [1, 2, 21, 12] and instance['bbox_label'] == 0
    sample = yields(one(masks=[mask], boxes=None), pipeline=PACK)[0]['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[1, 2, 21, 12]]
    assert (sample.gt_instances.masks.to_ndarray()[0] == BITMAP).all()


def test_sizes_labels_and_crowds(yields):
    dataset = yields(
        one(labels=['pear'], crowd=[True]),
        one(file_name='1.png', width=W, height=H, boxes=np.zeros((0, 4)), labels=[]),
    )
    info = dataset.get_data_info(0)
    assert (info['width'], info['height']) == (W, H)
    assert info['instances'][0]['bbox_label'] == 1 and info['instances'][0]['ignore_flag'] == 1
    assert dataset.get_data_info(1)['instances'] == []
    content = dataset.coco()
    assert content['annotations'][0]['area'] == 200 and content['annotations'][0]['iscrowd'] == 1
    json.dumps(content)


def test_a_part_of_the_classes(yields):
    images = [one(boxes=[[1, 2, 21, 12], [5, 5, 40, 40]], labels=[0, 1])]
    dataset = yields(*images, metainfo=dict(classes=('pear',)))
    assert [i['bbox'] for i in dataset.get_data_info(0)['instances']] == [[5, 5, 40, 40]]
    named = yields(*images, classes=(), metainfo=dict(classes=('x', 'y')))
    assert named.metainfo['classes'] == ('x', 'y')


WRONG = {
    'boxes of five': (dict(boxes=[[1, 2, 3, 4, 5]]), r'shape \(1, 5\), expected \(n, 4\)'),
    'text': (dict(boxes=[['a', 2, 3, 4]]), 'expected n x 4 numbers'),
    'ragged': (dict(boxes=[[1, 2], [3]]), 'expected n x 4 numbers'),
    'nan': (dict(boxes=[[1, 2, float('nan'), 4]]), 'box 0 .* not finite'),
    'x y w h': (dict(boxes=[[30, 20, 10, 12]]), 'not x, y, width, height'),
    'counts': (dict(labels=[0, 1]), '1 boxes but 2 labels'),
    'no such label': (dict(labels=[7]), 'label 0 is 7, but the 2 classes have the labels 0 to 1'),
    'no name of a file': (dict(file_name=5), '5: file_name is no text'),
    'one label': (dict(labels=1), 'labels is 1, expected a list'),
    'letters': (dict(labels='a'), "labels is 'a', expected a list"),
    'one flag': (dict(crowd=True), 'crowd is True, expected a list'),
    'no size': (dict(width='wide', height=H), f'size wide x {H}, expected two positive integers'),
    'too far out': (dict(masks=[[[1e9, 1, 2, 3, 1e9, 5]]]), 'mask 0 is .* expected polygons'),
    'background': (dict(labels=[2]), 'labels count from 0; there is no background'),
    'spelling': (dict(labels=['Aple']), r"'Aple', which is not a class \(did you mean 'apple'\?\)"),
    'fraction': (dict(labels=[0.5]), 'label 0 is 0.5, expected the name or the index'),
    'none': (dict(labels=[None]), 'label 0 is None'),
    'masks': (dict(masks=[]), '0 masks for 1 labels'),
    'crowd': (dict(crowd=[0, 1]), '2 crowd flags for 1 labels'),
    'bitmap': (dict(masks=[BITMAP.T]), r'mask 0 is a bitmap of shape \(96, 64\)'),
    'flat polygon': (dict(masks=[POLYGON]), 'mask 0 is one list of numbers'),
    'short polygon': (dict(masks=[[[1, 2, 3, 4]]]), 'polygons of at least three points'),
    'run lengths': (
        dict(masks=[dict(size=[1, 1], counts=[1])]),
        'mask 0 .* size of its run lengths',
    ),
    'no mask for a box': (dict(boxes=None), 'not every object has a mask'),
    'size': (dict(width=0, height=5), 'size 0 x 5'),
    'no file': (dict(file_name='9.png'), '9.png: No such file'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_named_with_its_image(yields, case):
    fields, message = WRONG[case]
    bad = one(**(dict(file_name='1.png') | fields))
    with pytest.raises(DataError, match=message) as error:
        yields(one(), bad)
    assert str(bad.file_name) in str(error.value)
    assert case == 'no file' or str(error.value).startswith('Made: image 2, ')
    assert '\n' not in str(error.value)


def test_other_errors(yields, tmp_path):
    with pytest.raises(DataError, match=r"'0.png': the same image as number 1"):
        yields(one(), one())
    with pytest.raises(DataError, match='image 1 is a dict, expected ImageAnnotations'):
        yields(dict(file_name='0.png'))
    with pytest.raises(DataError, match=r'nothing\.json does not exist'):
        yields(one(), ann_file='nothing.json', data_root=str(tmp_path))
    with pytest.raises(ConfigError, match='has no classes'):
        yields(one(), classes=())
    with pytest.raises(ConfigError, match="the string 'apple'"):
        yields(one(), classes='apple')
    with pytest.raises(DataError, match='none of its categories'):
        yields(one(), metainfo=dict(classes=('plum',)))
    with pytest.raises(NotImplementedError, match='load_images'):
        CustomDataset(metainfo=dict(classes=('a',)))


# ------------------------------------------------------------------------------------- COCO's JSON


def test_own_classes_in_a_coco_file_by_three_lines(yields, tmp_path):
    """metainfo, data_root and ann_file; the images lie in data_root, or where data_prefix says."""
    from mmdet_r2.datasets import CocoDataset

    content = yields(one(labels=['pear'])).coco()
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        metainfo=dict(classes=('apple', 'pear')), data_root=str(tmp_path), ann_file='ann.json',
        pipeline=LOAD[:1], allow_missing_classes=True,
    )  # fmt: skip
    assert dataset[0]['instances'][0]['bbox_label'] == 1
    with pytest.raises(ConfigError, match=r'metainfo is .*, expected dict'):
        CocoDataset(metainfo=('apple', 'pear'), data_root=str(tmp_path), ann_file='ann.json')


# --------------------------------------------------------------------------------- finding images


def test_images_are_found_by_what_files_call_them(tmp_path):
    for name in ('a.jpg', 'sub/b.png', 'sub/c.jpg', 'other/c.jpg'):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((H, W, 3), np.uint8))
    folder = ImageFolder(tmp_path / 'photos')
    assert folder.find('a.jpg') == folder.find('./a.jpg') == 'a.jpg'
    assert folder.find('/home/someone/a.jpg') == folder.find('C:\\here\\a.jpg') == 'a.jpg'
    assert folder.find(str(tmp_path / 'photos' / 'sub' / 'b.png')) == 'sub/b.png'
    assert folder.find('photos/sub/b.jpg') == 'sub/b.png'
    assert folder.find('sub\\c.jpg') == 'sub/c.jpg'
    # of several the one whose folders agree, even where the suffix does not
    assert folder.find('/home/someone/sub/c.jpg') == folder.find('..\\sub\\c.png') == 'sub/c.jpg'
    for name in ('other/b.jpg', '2008.123.png', 'bi\u0308ld.jpg'):
        cv2.imwrite(str(tmp_path / 'photos' / name), np.zeros((H, W, 3), np.uint8))
    folder = ImageFolder(tmp_path / 'photos')
    assert folder.find('sub/b.jpg') == 'sub/b.png'
    assert folder.find('2008.123') == '2008.123.png'
    assert folder.find('b\u00efld.jpg') == 'bi\u0308ld.jpg'  # as macOS writes it
    for name, message in (
        ('c.jpg', 'could be other/c.jpg or sub/c.jpg'),
        ('aa.jpg', "did you mean 'a.jpg'"),
        ('/x/z.jpg', 'an absolute path that does not exist'),
    ):
        with pytest.raises(DataError, match=message):
            folder.find(name, 'file.xml')
    (tmp_path / 'no.jpg').write_text('text')
    with pytest.raises(DataError, match=r'no\.jpg'):
        read_header(tmp_path / 'no.jpg')
