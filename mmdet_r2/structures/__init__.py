"""What flows between the parts: boxes, masks and samples. Knows nothing of models or files."""

from .data_sample import DetDataSample

__all__ = ['DetDataSample']
