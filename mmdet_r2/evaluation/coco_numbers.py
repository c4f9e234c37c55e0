"""The numbers of COCO's table, picked from precision and recall."""

import re
from dataclasses import dataclass

import numpy as np
from terminaltables import AsciiTable

from mmdet_r2.errors import ConfigError

from .coco_backends import Evaluation

AP_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
AREAS = {'': 'all', '_s': 'small', '_m': 'medium', '_l': 'large'}


@dataclass
class Number:
    """One number of COCO's table: average precision or recall at which IoU, object size and
    detections per image.
    """

    kind: str  # 'AP' or 'AR'
    area: str = 'all'
    max_dets: int = 100
    iou: float | None = None

    def of(self, evaluation: Evaluation) -> float:
        """The mean over all that this number does not fix; -1 where no such object is annotated (as
        pycocotools says it).
        """
        area = [i for i, name in enumerate(evaluation.areas) if name == self.area]
        count = [i for i, number in enumerate(evaluation.max_dets) if number == self.max_dets]
        values = evaluation.precision if self.kind == 'AP' else evaluation.recall
        if self.iou is not None:
            values = values[np.where(self.iou == evaluation.iou_thrs)[0]]
        return mean_of(values[..., area, count])

    def line(self, evaluation: Evaluation, value: float) -> str:
        """``value`` as pycocotools prints it."""
        thresholds = evaluation.iou_thrs
        iou = (
            f'{thresholds[0]:0.2f}:{thresholds[-1]:0.2f}'
            if self.iou is None
            else f'{self.iou:0.2f}'
        )
        title = 'Average Precision' if self.kind == 'AP' else 'Average Recall'
        return (
            f' {title:<18} ({self.kind}) @[ IoU={iou:<9} | area={self.area:>6s} | '
            f'maxDets={self.max_dets:>3d} ] = {value:0.3f}'
        )


TWELVE = {
    'AP': Number('AP'),
    'AP50': Number('AP', iou=0.5),
    'AP75': Number('AP', iou=0.75),
    'APs': Number('AP', 'small'),
    'APm': Number('AP', 'medium'),
    'APl': Number('AP', 'large'),
    'AR1': Number('AR', max_dets=1),
    'AR10': Number('AR', max_dets=10),
    'AR100': Number('AR'),
    'ARs': Number('AR', 'small'),
    'ARm': Number('AR', 'medium'),
    'ARl': Number('AR', 'large'),
}


def number_of(item: str) -> Number:
    """What a metric item such as mAP_50 or AR_s@1000 means."""
    text = item if isinstance(item, str) else ''
    if match := re.fullmatch(r'AR(_[sml])?@([1-9][0-9]{0,8})', text):
        return Number('AR', AREAS[match[1] or ''], int(match[2]))
    if item not in AP_ITEMS:
        raise ConfigError(
            f'CocoMetric.metric_items has {item!r}; known are {", ".join(AP_ITEMS)}, AR@N, '
            'AR_s@N, AR_m@N, AR_l@N'
        )
    suffix = item.removeprefix('mAP')
    if suffix in ('_50', '_75'):
        return Number('AP', iou=int(suffix[1:]) / 100)
    return Number('AP', AREAS[suffix])


def mean_of(values: np.ndarray) -> float:
    """Mean of the entries that exist (pycocotools marks others with -1); -1 if there is none."""
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0


def class_table(per_class: dict[str, dict]) -> str:
    """Average precision and number of objects of every class, as a table; without the sizes that no
    object has."""
    columns = dict(zip(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), AP_ITEMS))
    for size in ('APs', 'APm', 'APl'):
        if all(row[size] is None for row in per_class.values()):
            del columns[size]
    rows = [['category', *columns.values(), 'objects']]
    for name, row in per_class.items():
        cells = ['-' if row[key] is None else f'{row[key]:.3f}' for key in columns]
        rows.append([name, *cells, str(row['num_gt'])])
    return AsciiTable(rows).table
