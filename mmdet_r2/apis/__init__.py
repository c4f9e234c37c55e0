"""What a user imports: training, testing, and inference on images."""

from ..zoo import download_model
from .inference import inference_detector, init_detector
from .inferencer import DetInferencer
from .models import get_config, get_model, list_models
from .results import coco_dataset, coco_results
from .slicing import slice_inference
from .test import test
from .train import train

__all__ = [
    'DetInferencer',
    'coco_dataset',
    'coco_results',
    'download_model',
    'get_config',
    'get_model',
    'inference_detector',
    'init_detector',
    'list_models',
    'slice_inference',
    'test',
    'train',
]
