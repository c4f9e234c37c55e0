"""Drawing what was found, and what should have been."""

from .drawing import draw_instances
from .hook import DetVisualizationHook
from .palette import get_palette
from .visualizer import DetLocalVisualizer

__all__ = ['DetLocalVisualizer', 'DetVisualizationHook', 'draw_instances', 'get_palette']
