"""The whole toolbox learns eight real COCO images by heart (minutes; see benchmarks/)."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'benchmarks'))
import overfit_coco

from mmdet_r2.config import load_config
from mmdet_r2.errors import DataError


@pytest.mark.long
@pytest.mark.parametrize('model', overfit_coco.MODELS)
def test_overfits_eight_real_images(shared_data, tmp_path, model):
    result = overfit_coco.overfit(model, shared_data / 'coco_tiny', tmp_path)
    assert not overfit_coco.shortfalls({model: result})


def test_missing_data_is_one_line(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        overfit_coco.overfit('mask_rcnn', tmp_path, tmp_path)


def test_budgets_are_the_same(repo):
    """All that is not the model is equal, but for the maps of HTC."""
    configs = [
        load_config(overfit_coco.config_of(model)).to_dict() for model in overfit_coco.MODELS
    ]
    for config in configs:
        for part in ('backbone', 'neck', 'rpn_head'):
            assert config['model'][part] == configs[0]['model'][part]
        assert config['model']['test_cfg'] == configs[0]['model']['test_cfg']
        loading = config['train_dataloader']['dataset']['pipeline'][1]
        assert loading.pop('with_seg', False) == ('semantic_head' in config['model']['roi_head'])
    for key in ('train_dataloader', 'val_dataloader', 'train_cfg', 'optim_wrapper', 'randomness'):
        assert configs[0][key] == configs[1][key] == configs[2][key]
    assert configs[0]['param_scheduler'] == configs[2]['param_scheduler']


def test_stuff_maps_are_those_of_the_instances(shared_data, tmp_path):
    subset, maps = tmp_path / 'subset.json', tmp_path / 'maps'
    overfit_coco.write_subset(shared_data / 'coco_tiny', subset)
    overfit_coco.write_stuff_maps(subset, maps)
    coco = COCO(str(subset))
    assert len(list(maps.iterdir())) == len(coco.imgs) == 8
    for image in coco.imgs.values():
        path = maps / (Path(image['file_name']).stem + '.png')
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (image['height'], image['width']) and labels.dtype == np.uint8
        annotations = coco.imgToAnns[image['id']]
        covered = np.maximum.reduce([coco.annToMask(a) for a in annotations]) > 0
        assert (labels[~covered] == overfit_coco.STUFF).all()
        smallest = min(annotations, key=lambda item: item['area'])
        own = labels[coco.annToMask(smallest) > 0]
        assert (own == smallest['category_id'] - 1).all()
        assert set(np.unique(labels[covered])) == {a['category_id'] - 1 for a in annotations}


def result(steps, ap50, ap75, segm):
    metrics = dict.fromkeys(overfit_coco.COLUMNS, 0.5)
    metrics |= dict(bbox_mAP_50=ap50, bbox_mAP_75=ap75, segm_mAP_50=segm)
    return dict(metrics=metrics, curve={'2': metrics}, steps=steps, seconds_per_step=1.5)


def test_what_counts_as_missed():
    single = result(9, 0.95, 0.7, 0.9)
    good = dict(mask_rcnn=single, htc=result(9, 0.9, 0.71, 0.85))
    assert overfit_coco.shortfalls(good) == []
    (missed,) = overfit_coco.shortfalls(dict(mask_rcnn=single, htc=result(9, 0.9, 0.7, 0.85)))
    assert missed.startswith('htc: bbox_mAP_75')
    # another number of steps is another budget
    assert overfit_coco.shortfalls(dict(mask_rcnn=single, htc=result(8, 0.9, 0.1, 0.85))) == []
    both = overfit_coco.shortfalls(dict(htc=result(9, 0.89, 0.9, 0.84)))
    assert [line.split(':')[1].split()[0] for line in both] == ['bbox_mAP_50', 'segm_mAP_50']
    lines = overfit_coco.table(good).splitlines()
    assert len(lines) == 4 and len({line.count('|') for line in lines}) == 1
    assert lines[3].startswith('| htc | 9 | 0.500 | 0.900 | 0.710 | 0.500 | 0.850 |')
