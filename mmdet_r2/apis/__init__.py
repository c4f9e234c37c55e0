"""What a user imports: training, testing, and inference on images."""

from .inference import inference_detector, init_detector
from .test import test
from .train import train

__all__ = ['inference_detector', 'init_detector', 'test', 'train']
