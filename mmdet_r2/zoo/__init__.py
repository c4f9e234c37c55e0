"""Published models and their files: the index, downloads, safe reading, and loading into a
model."""

from .contents import checkpoint_dataset_meta, checkpoint_weights, classes_differ, spelt_alike
from .download import download
from .index import ZooModel, find_model, models, search
from .initializer import SafePretrainedInit
from .layouts import LAYOUTS, Layout
from .loading import load_checkpoint
from .model_files import download_model
from .names import fetch, published, weights_of
from .reader import read_checkpoint, verify_checkpoint
from .report import LoadReport, Mismatch
from .upgrade import upgrade

__all__ = [
    'LAYOUTS',
    'Layout',
    'LoadReport',
    'Mismatch',
    'SafePretrainedInit',
    'ZooModel',
    'checkpoint_dataset_meta',
    'checkpoint_weights',
    'classes_differ',
    'download',
    'download_model',
    'fetch',
    'find_model',
    'load_checkpoint',
    'models',
    'published',
    'read_checkpoint',
    'search',
    'spelt_alike',
    'upgrade',
    'verify_checkpoint',
    'weights_of',
]
