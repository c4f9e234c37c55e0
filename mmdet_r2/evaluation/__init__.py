"""Metrics: what a data set is measured with, and how results leave the program."""

from .coco import CocoMetric
from .dump import DumpDetResults, load_results

__all__ = ['CocoMetric', 'DumpDetResults', 'load_results']
