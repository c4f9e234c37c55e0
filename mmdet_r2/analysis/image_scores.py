"""How well a detector did on each image: what to look at first."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from ..datasets.transforms import LoadImageFromFile, LoadPanopticAnnotations, PackDetInputs
from ..errors import ConfigError
from ..evaluation import CocoPanopticMetric, Evaluator
from ..evaluation.coco_backends import IGNORED, IOU_THRS, CocoData, Evaluation
from ..evaluation.panoptic_quality import quality
from ..files import path_inside, plain_name, write_text
from ..progress import progress
from ..registry import built_from
from ..structures import DetDataSample
from ..visualization import DetLocalVisualizer
from .files import make_folder
from .inputs import Tested, detections_of, truth_of


def image_scores(data: CocoData) -> np.ndarray:
    """A number in [0, 1] for each image, (m,): 1 is flawless.

    It is the average precision of the image alone, over all its detections by falling score: each
    must match an object of its own class. The mean over IoU 0.50 to 0.95. Of an image without
    objects it is 1 less the highest score: a detector sure of what is not there did badly.
    """
    evaluation = Evaluation(data)
    scores = np.mean([evaluation.image_precision(float(iou)) for iou in IOU_THRS], axis=0)
    highest = np.zeros(len(scores))
    wrong = evaluation.verdicts()[0] != IGNORED
    assert data.found.scores is not None
    np.maximum.at(highest, data.found.image[wrong], data.found.scores[wrong])
    return np.where(np.isnan(scores), 1 - highest, scores)


def panoptic_scores(tested: Tested) -> np.ndarray:
    """Panoptic quality of each image by itself, (m,), in [0, 1]: the mean over the classes that are
    annotated or found in it.

    Raises:
        ConfigError: the results have no panoptic maps, or the config no CocoPanopticMetric.
    """
    evaluators = tested.config.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    chosen = [dict(e) for e in evaluators if e.get('type') == 'CocoPanopticMetric']
    if not chosen:
        raise ConfigError('panoptic quality needs a CocoPanopticMetric in test_evaluator.')
    with built_from('test_evaluator', chosen):
        evaluator = Evaluator(chosen)
    evaluator.dataset_meta = tested.metainfo
    evaluator.check_dataset(tested.dataset, 'test_evaluator')
    scores = []
    for info, result in progress(zip(tested.infos, tested.results), 'comparing', len(tested)):
        known = {key: info[key] for key in ('img_id', 'dataset_index') if key in info}
        evaluator.process([{**known, **result}])
        # each image is measured by one of them
        metric = next(metric for metric in evaluator.metrics if metric.results)
        assert isinstance(metric, CocoPanopticMetric)
        found = quality([metric.results.pop().counts], metric._isthing())
        # nothing there, nothing found
        scores.append(found['All']['pq'] if found['All']['n'] else 1.0)
    return np.array(scores)


def write_gallery(
    tested: Tested,
    scores: np.ndarray,
    folder: str | Path,
    *,
    topk: int = 20,
    score_thr: float = 0.3,
    masks: bool = True,
) -> list[Path]:
    """Draw the best and the worst images, annotation beside prediction.

    ``FOLDER/worst/001_0.023_NAME`` is the worst image, its score 0.023; ``FOLDER/best`` is alike,
    and ``FOLDER/scores.csv`` lists all images, worst first.

    Args:
        tested: the images.
        scores: (m,) of each.
        folder: made if it is not there.
        topk: how many of each; where there are fewer than twice as many images, none is both.
        score_thr: detections of at most this score are not drawn.
        masks: draw them too, where there are any.

    Returns:
        The drawings, worst first.

    Raises:
        DataError: an image cannot be read.
    """
    folder = make_folder(folder)
    objects = [
        sum(not x.get('ignore_flag', 0) for x in info.get('instances', ())) for info in tested.infos
    ]
    # of equals the one with more objects tells more, among the best as among the worst
    order = np.lexsort((-np.array(objects), scores))
    best = np.lexsort((-np.array(objects), -scores))
    worst = order[: min(topk, (len(order) + 1) // 2)]
    best = best[: min(topk, len(order) // 2)]
    drawer = DetLocalVisualizer(name='analysis')
    drawer.dataset_meta = tested.metainfo
    chosen = [('worst', place, int(i)) for place, i in enumerate(worst, start=1)]
    chosen += [('best', place, int(i)) for place, i in enumerate(best, start=1)]
    files = []
    for kind, place, i in progress(chosen, 'drawing'):
        info = tested.infos[i]
        name = f'{place:03d}_{scores[i]:.3f}_{os.path.basename(info["img_path"])}'
        path = path_inside(folder / kind, plain_name(name))
        loaded: Any = LoadImageFromFile()(dict(info))
        drawer.add_datasample(
            name,
            loaded['img'][..., ::-1],
            data_sample=_sample(loaded, tested.results[i], masks),
            out_file=str(path),
            pred_score_thr=score_thr,
        )
        files.append(path)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(['img_id', 'img_path', 'score', 'objects', 'detections'])
    for i in order:
        info = tested.infos[i]
        found = len(tested.results[i].get('pred_instances', {}).get('labels', ()))
        table.writerow([info['img_id'], info['img_path'], f'{scores[i]:.6f}', objects[i], found])
    write_text(folder / 'scores.csv', text.getvalue())
    return files


def _sample(info: dict, result: dict, masks: bool) -> DetDataSample:
    if 'pred_panoptic_seg' in result:
        packed: Any = PackDetInputs(meta_keys=('img_id', 'img_path'))(
            LoadPanopticAnnotations()(info)
        )
        sample: DetDataSample = packed['data_samples']
        sample.pred_panoptic_seg = PixelData(sem_seg=result['pred_panoptic_seg']['sem_seg'])
        return sample
    instances = info.get('instances', [])
    masks = masks and bool(result['pred_instances'].get('masks'))
    sample = DetDataSample(metainfo=dict(img_id=info['img_id'], img_path=info['img_path']))
    truth = truth_of(info, masks and all(instance.get('mask') for instance in instances))
    found = detections_of(info, result, masks)
    for name, objects in (('gt_instances', truth), ('pred_instances', found)):
        boxes = torch.from_numpy(objects.boxes)
        boxes[:, 2:] += boxes[:, :2]
        data = InstanceData(bboxes=boxes, labels=torch.from_numpy(objects.label))
        if objects.masks:
            data.masks = objects.masks
        if objects.scores is not None:
            data.scores = torch.from_numpy(objects.scores)
        setattr(sample, name, data)
    return sample
