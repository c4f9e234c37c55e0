"""Which box belongs to which object: assigners, samplers and the box coder, used by RPN and RoI
heads alike.
"""

from .assigner import BACKGROUND, IGNORED, Match, MaxIoUAssigner
from .coder import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder
from .samplers import OHEMSampler, PseudoSampler, RandomSampler, Sample, positive_weight

__all__ = [
    'BACKGROUND',
    'IGNORED',
    'DeltaXYWHBBoxCoder',
    'LegacyDeltaXYWHBBoxCoder',
    'Match',
    'MaxIoUAssigner',
    'OHEMSampler',
    'PseudoSampler',
    'RandomSampler',
    'Sample',
    'positive_weight',
]
