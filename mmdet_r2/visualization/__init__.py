"""Drawing what was found, and what should have been."""

from .drawing import draw_instances, draw_panoptic
from .hook import DetVisualizationHook
from .palette import get_palette
from .visualizer import DetLocalVisualizer

__all__ = [
    'DetLocalVisualizer',
    'DetVisualizationHook',
    'draw_instances',
    'draw_panoptic',
    'get_palette',
]
