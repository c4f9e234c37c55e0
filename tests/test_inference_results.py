"""Detections as COCO results: what pycocotools makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_r2.apis.results import (
    COCO_CATEGORY_IDS,
    JsonList,
    coco_dataset,
    coco_results,
    default_category_ids,
    prediction,
)
from mmdet_r2.datasets.metainfo import COCO_METAINFO, COCO_PANOPTIC_METAINFO
from mmdet_r2.errors import DataError
from mmdet_r2.evaluation import CocoMetric
from mmdet_r2.files import write_json
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import encode_rle

CLASSES = ('apple', 'pear', 'plum')


def sample(number: int, count: int = 6, masks: bool = True, rle: bool = False) -> DetDataSample:
    """Objects of chance in an image of 40 x 60."""
    rng = np.random.default_rng(number)
    corner = rng.uniform(0, 30, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 28, (count, 2))], 1).clip(0, 40)
    found = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        scores=torch.from_numpy(np.sort(rng.uniform(0.1, 1, count))[::-1].copy()).float(),
        labels=torch.from_numpy(rng.integers(0, 3, count)),
    )
    if masks:
        bitmaps = torch.zeros(count, 40, 60, dtype=torch.bool)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.round().astype(int)):
            bitmap[y1:y2, x1:x2] = True
        found.masks = encode_rle(bitmaps) if rle else bitmaps
    meta = dict(img_id=number, img_path=f'data/{number}.jpg', ori_shape=(40, 60))
    result = DetDataSample(metainfo=meta)
    result.pred_instances = found
    return result


def truth(samples: list[DetDataSample]) -> dict:
    """Every third finding is right, the others are a little off."""
    annotations = []
    for s in samples:
        for i, (box, label, mask) in enumerate(
            zip(s.pred_instances.bboxes.tolist(), s.pred_instances.labels.tolist(),
                s.pred_instances.masks)
        ):  # fmt: skip
            shift = 3 * (i % 3)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=s.img_id,
                    category_id=label + 1,
                    bbox=[box[0] + shift, box[1], box[2] - box[0], box[3] - box[1]],
                    area=float(mask.sum()) or 1.0,
                    iscrowd=0,
                    segmentation=dict(
                        coco_mask.encode(np.asfortranarray(np.roll(mask.numpy(), shift, 1)))
                    ),
                )
            )
            rle = annotations[-1]['segmentation']
            rle['counts'] = rle['counts'].decode()
    return dict(
        images=[
            dict(id=s.img_id, file_name=f'{s.img_id}.jpg', height=40, width=60) for s in samples
        ],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        annotations=annotations,
    )


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_the_written_file_scores_as_the_predictions_do(tmp_path: Path, kind: str) -> None:
    samples = [sample(i) for i in range(4)] + [sample(9, count=0)]
    ann_file = tmp_path / 'truth.json'
    ann_file.write_text(json.dumps(truth(samples)))
    metric = CocoMetric(ann_file=str(ann_file), metric=[kind])
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [s.to_dict() for s in samples])
    expected = metric.evaluate(len(samples))

    write_json(
        tmp_path / 'found.json',
        coco_results(samples, classes=CLASSES, ann_file=ann_file, kind=kind),
    )
    coco = COCO(str(ann_file))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / 'found.json')), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0 < evaluation.stats[0] < 1
    assert evaluation.stats[0] == pytest.approx(expected[f'coco/{kind}_mAP'], abs=1e-9)
    assert evaluation.stats[3] == pytest.approx(expected[f'coco/{kind}_mAP_s'], abs=1e-9)


def test_records_say_what_was_found_and_where(tmp_path: Path) -> None:
    one = sample(3)
    records = json.loads(json.dumps(coco_results(one, classes=CLASSES)))
    assert len(records) == 6
    for record, box, score, label, mask in zip(
        records, *(one.pred_instances[key] for key in ('bboxes', 'scores', 'labels', 'masks'))
    ):
        assert record['image_id'] == 3 and record['file_name'] == 'data/3.jpg'
        assert record['category_id'] == label and record['category_name'] == CLASSES[label]
        x, y, w, h = record['bbox']
        assert np.allclose([x, y, x + w, y + h], box, atol=1e-4)
        assert record['score'] == pytest.approx(float(score))
        assert (coco_mask.decode(record['segmentation']) == mask.numpy()).all()
    # whichever way masks come
    assert coco_results(sample(3, rle=True), classes=CLASSES) == records
    assert 'segmentation' not in coco_results(one, kind='bbox')[0]
    assert 'segmentation' not in coco_results(sample(3, masks=False))[0]
    above = coco_results([one, sample(4)], score_thr=0.5)
    assert above and all(r['score'] > 0.5 for r in above) and 'category_name' not in above[0]
    assert coco_results([sample(1, count=0)]) == coco_results([]) == []
    one.pred_instances.scores[0] = float('nan')  # no number of JSON's
    assert len(coco_results(one)) == 5


def test_category_ids_are_cocos_for_cocos_classes(shared_data: Path) -> None:
    things, panoptic = COCO_METAINFO['classes'], COCO_PANOPTIC_METAINFO['classes']
    (file, *_) = (shared_data / 'panoptic_sample').glob('*.json')
    categories = {c['name']: c['id'] for c in json.loads(file.read_text())['categories']}
    for names in (things, panoptic):
        assert default_category_ids(names) == [categories[name] for name in names]
    assert len(COCO_CATEGORY_IDS) == 133
    assert default_category_ids(CLASSES) == [0, 1, 2]
    records = coco_results(sample(1), category_ids=(7, 5, 3))
    assert {r['category_id'] for r in records} <= {3, 5, 7}
    with pytest.raises(DataError, match='has no category id: 2 are given'):
        coco_results([sample(i) for i in range(3)], category_ids=(7, 5))


def test_an_annotation_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    with pytest.raises(DataError, match=r'cannot read annotation file .*a\.json: No such'):
        coco_results(sample(1), ann_file=path)
    path.write_text('[]')
    with pytest.raises(DataError, match=r'a\.json: cannot be read'):
        coco_results(sample(1), ann_file=path)
    content = truth([sample(1)])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no category 'fig'"):
        coco_results(sample(1), ann_file=path, classes=(*CLASSES, 'fig'))
    with pytest.raises(DataError, match=r'no image is called data/2\.jpg'):
        coco_results(sample(2), ann_file=path)
    content['images'] = [
        dict(id=i, file_name=f'{folder}/1.jpg') for i, folder in ((5, 'x'), (6, 'data'))
    ]
    path.write_text(json.dumps(content))
    assert coco_results(sample(1), ann_file=path)[0]['image_id'] == 6


def test_pseudo_labels_are_an_annotation_file(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(3)]
    data = coco_dataset(samples, CLASSES, score_thr=0.3)
    write_json(tmp_path / 'labels.json', data)
    coco = COCO(str(tmp_path / 'labels.json'))
    assert len(coco.imgs) == 3 and [c['name'] for c in coco.loadCats([1, 2, 3])] == list(CLASSES)
    kept = sum(int((s.pred_instances.scores > 0.3).sum()) for s in samples)
    assert len(coco.anns) == kept
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation['area']


def test_predictions_have_the_keys_of_mmdetection_3() -> None:
    one = prediction(sample(2))
    assert list(one) == ['labels', 'scores', 'bboxes', 'masks']
    assert json.loads(json.dumps(one)) == one
    assert list(prediction(sample(2, masks=False))) == ['labels', 'scores', 'bboxes']


def test_a_list_is_written_as_it_comes_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / 'sub' / 'list.json'
    with JsonList(path) as file:
        assert not path.exists()
        file.extend([dict(a=1), dict(a=2)])
        file.extend([])
        file.extend([3])
    assert json.loads(path.read_text()) == [dict(a=1), dict(a=2), 3] and file.length == 3
    with JsonList(path):
        pass
    assert json.loads(path.read_text()) == []
    with pytest.raises(DataError, match=r'list\.json: cannot be written'), JsonList(path) as file:
        file._file.close()
        # fails where its buffer is written
        file._file = open('/dev/full', 'w')  # noqa: SIM115
    assert len(list(path.parent.iterdir())) == 1
    with pytest.raises(KeyError), JsonList(path) as file:
        file.extend([1])
        raise KeyError
    assert json.loads(path.read_text()) == [] and len(list(path.parent.iterdir())) == 1


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    for write in (lambda path: write_json(path, []), lambda path: JsonList(path).__enter__()):
        with pytest.raises(DataError, match=r'file/x\.json: cannot be written'):
            write(tmp_path / 'file' / 'x.json')
