"""Annotations of other formats to COCO JSON and back.

Readers yield :class:`~mmdet_r2.datasets.ImageAnnotations`, of which :func:`to_coco` makes the
content of a COCO file; writers take what :func:`read_coco` gives. What goes wrong or is lost on the
way is in :class:`Notes`. The command lines are ``mmdet-r2 convert data``.
"""

from .coco_json import read_coco
from .common import Notes, class_names, near_misses, split, to_coco
from .csv_rows import read_csv, write_csv
from .labelme import read_labelme, write_labelme
from .png_masks import read_masks, write_masks
from .voc_xml import DIFFICULT, read_voc, voc_image_dir, write_voc
from .yolo import read_data_yaml, read_yolo, write_yolo

__all__ = [
    'Notes',
    'to_coco',
    'split',
    'read_coco',
    'class_names',
    'near_misses',
    'DIFFICULT',
    'voc_image_dir',
    'read_voc',
    'write_voc',
    'read_yolo',
    'read_data_yaml',
    'write_yolo',
    'read_labelme',
    'write_labelme',
    'read_csv',
    'write_csv',
    'read_masks',
    'write_masks',
]
