"""What all tests share: one thread, fixed seeds, and the way to the real sample data."""

from __future__ import annotations

import os
import random
import sys
import types
from pathlib import Path

# Before torch and OpenCV start their thread pools: tests are small, and several run side by side.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', '1')

import pytest

REPO = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Keep torch and OpenCV to the threads that the environment grants (one by default)."""
    threads = int(os.environ['OMP_NUM_THREADS'])
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        pass
    else:
        cv2.setNumThreads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked ``gpu`` is skipped, with the reason, where there is no CUDA device."""
    if not any(item.get_closest_marker('gpu') for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='no CUDA device'))


def pytest_collection_finish() -> None:
    """mmengine searches all of memory for cycles at every data set: a third of a second each, with
    all that torch and the tests hold."""
    if base_dataset := sys.modules.get('mmengine.dataset.base_dataset'):
        base_dataset.gc = types.SimpleNamespace(collect=lambda: 0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    try:
        import numpy as np
        import torch
    except ImportError:
        return
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Folder of the real sample data (``coco_tiny/``, ``panoptic_sample/``); skips without it.

    ``$MMDET_R2_DATA`` names the folder; the default is ``../shared/data`` beside the repository.
    """
    path = Path(os.environ.get('MMDET_R2_DATA') or REPO.parent / 'shared' / 'data')
    if not (path / 'coco_tiny').is_dir():
        pytest.skip(f'no sample data at {path} (set MMDET_R2_DATA)')
    return path
