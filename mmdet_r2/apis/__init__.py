"""What a user imports: training, testing, and inference on images."""

from .inference import inference_detector, init_detector
from .results import coco_dataset, coco_results
from .test import test
from .train import train

__all__ = ['coco_dataset', 'coco_results', 'inference_detector', 'init_detector', 'test', 'train']
