"""Is a data set fit for training? Every broken image and annotation, with its file and id.

:func:`check_subjects` looks, :func:`fix_content` corrects; ``mmdet-r2 check`` is the
command line.
"""

from .config_subjects import config_subjects
from .findings import KINDS, Finding, problems
from .fix import fix_content
from .run import check_subjects, report_lines, report_record
from .statistics import anchor_coverage, draw, statistics
from .subject import Subject, load_subject

__all__ = [
    'KINDS',
    'Finding',
    'Subject',
    'load_subject',
    'config_subjects',
    'check_subjects',
    'problems',
    'fix_content',
    'statistics',
    'anchor_coverage',
    'draw',
    'report_lines',
    'report_record',
]
