"""How fast a detector is, beside mmdetection 3.x if it is there."""

from .job import Work
from .measure import measure, report

__all__ = ['Work', 'measure', 'report']
