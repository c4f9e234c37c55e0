"""The whole toolbox learns eight real COCO images by heart (minutes; see benchmarks/)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'benchmarks'))
import overfit_coco

from mmdet_r2.errors import DataError


@pytest.mark.slow
def test_overfits_eight_real_images(shared_data, tmp_path):
    metrics = overfit_coco.overfit(shared_data / 'coco_tiny', tmp_path)
    for name, goal in overfit_coco.GOALS.items():
        assert metrics[name] >= goal


def test_missing_data_is_one_line(tmp_path):
    with pytest.raises(DataError, match='no such file'):
        overfit_coco.overfit(tmp_path, tmp_path)
