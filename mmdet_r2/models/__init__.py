"""Networks, from the image batch to losses and detections."""

from . import backbones, detectors, fpn, losses, matching, panoptic, preprocessor, roi, rpn, tta

__all__ = [
    'backbones',
    'detectors',
    'fpn',
    'losses',
    'matching',
    'panoptic',
    'preprocessor',
    'roi',
    'rpn',
    'tta',
]
