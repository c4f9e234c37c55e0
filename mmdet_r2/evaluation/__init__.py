"""Metrics: what a data set is measured with, and how results leave the program."""

from .coco import CocoMetric
from .coco_panoptic import CocoPanopticMetric
from .dump import DumpDetResults, DumpProposals, load_results
from .evaluator import Evaluator
from .panoptic_format import evaluate_panoptic_files
from .panoptic_quality import panoptic_table
from .voc import VOCMetric

__all__ = [
    'CocoMetric',
    'CocoPanopticMetric',
    'DumpDetResults',
    'DumpProposals',
    'Evaluator',
    'VOCMetric',
    'evaluate_panoptic_files',
    'load_results',
    'panoptic_table',
]
