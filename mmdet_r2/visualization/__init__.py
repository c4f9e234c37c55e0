"""Drawing what was found, and what should have been."""

from .drawing import draw_instances, draw_panoptic
from .hook import DetVisualizationHook
from .palette import get_palette
from .visualizer import DetLocalVisualizer, check_display

__all__ = [
    'DetLocalVisualizer',
    'DetVisualizationHook',
    'check_display',
    'draw_instances',
    'draw_panoptic',
    'get_palette',
]
