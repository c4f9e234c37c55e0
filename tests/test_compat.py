"""Code that says ``import mmdet`` runs on this package after ``compat.install()``."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_inference_inferencer import picture
from toy_detector import CLASSES, lively, toy_config

from mmdet_r2.apis import DetInferencer, init_detector

SCRIPT = """
from mmdet_r2 import compat
compat.install()
compat.install()

import sys

import cv2
import mmdet
import mmdet.apis.inference
import mmdet.models.roi_heads
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet import datasets
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.apis.det_inferencer import DetInferencer as Same
from mmdet.datasets.transforms import PackDetInputs
from mmdet.engine.hooks import DetVisualizationHook, NumClassCheckHook
from mmdet.evaluation import CocoMetric, get_classes
from mmdet.models.backbones.resnet import ResNet
from mmdet.models.detectors import BaseDetector, MaskRCNN
from mmdet.models.utils import OptConfigType  # where some write it
from mmdet.registry import DATASETS, HOOKS, MODELS, PARAM_SCHEDULERS, VISUALIZERS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox2roi, bbox_overlaps
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmdet.utils import ConfigType, OptMultiConfig, register_all_modules
from mmdet.visualization import DetLocalVisualizer
from mmengine.hooks import Hook

assert mmdet.__version__ >= '3.0' and Same is DetInferencer
assert len(get_classes('coco')) == 80
register_all_modules()


@DATASETS.register_module()
class Fruit(datasets.CocoDataset):
    METAINFO = dict(classes=('apple',))


@HOOKS.register_module()
class Counting(Hook):
    pass


@MODELS.register_module()
class Narrow(ResNet):
    def __init__(self, **kwargs: object) -> None:
        super().__init__(base_channels=8, **kwargs)


assert DATASETS.get('mmdet.Fruit') is Fruit and HOOKS.get('Counting') is Counting
backbone = MODELS.build(dict(type='mmdet.Narrow', depth=18)).eval()
assert backbone(torch.rand(1, 3, 32, 32))[-1].shape == (1, 64, 1, 1)
assert VISUALIZERS.get('mmdet.DetLocalVisualizer') is DetLocalVisualizer
a = torch.tensor([[0., 0, 2, 2]])
assert bbox_overlaps(a, a).item() == 1 and bbox2roi([a, a]).shape == (2, 5)

folder = sys.argv[1]
model = init_detector(folder + '/toy.py', folder + '/toy.pth', device='cpu')
assert isinstance(model, BaseDetector)
image = cv2.imread(folder + '/a.png')
plain = inference_detector(model, image).pred_instances
# the pattern of mmdetection's video demo
model.cfg.test_dataloader.dataset.pipeline[0].type = 'mmdet.LoadImageFromNDArray'
pipeline = Compose(model.cfg.test_dataloader.dataset.pipeline)
again = inference_detector(model, image, test_pipeline=pipeline).pred_instances
assert torch.equal(plain.scores, again.scores) and len(plain)

for statement, named in (
    ('from mmdet.apis import no_such_function', 'no_such_function'),
    ('from mmdet.models import MaskRCN', 'MaskRCNN'),
    ('import mmdet.models.trackers', 'trackers'),
    ('from mmdet.structures import TrackDataSample', 'TrackDataSample'),
):
    try:
        exec(statement)
    except ImportError as error:
        assert named in str(error), error
    else:
        raise AssertionError(statement)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('compat')
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'toy.pth')
    toy_config().dump(folder / 'toy.py')
    cv2.imwrite(str(folder / 'a.png'), picture(0))
    return folder


def run(code: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = dict(os.environ)
    if path is not None:
        environment['PYTHONPATH'] = f'{path}{os.pathsep}{environment.get("PYTHONPATH", "")}'
    command = [sys.executable, '-W', 'ignore', '-c', code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_code_written_for_mmdetection(folder: Path) -> None:
    done = run(SCRIPT, folder)
    assert done.returncode == 0, done.stderr


def test_beside_mmdetection_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet' / '__init__.py').write_text('raise RuntimeError("was run")')
    code = 'from mmdet_r2 import cli, compat, errors\nerrors.run_cli(compat.install)'
    done = run(code, path=tmp_path)
    assert done.returncode == 2 and str(tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1 and 'was run' not in done.stderr


def test_the_steps_of_the_inferencer_give_what_its_call_does(folder: Path) -> None:
    inferencer = DetInferencer(folder / 'toy.py', folder / 'toy.pth', 'cpu', show_progress=False)
    images = [cv2.imread(str(folder / 'a.png')), str(folder / 'a.png'), picture(1)]
    found = []
    for chunk, data in inferencer.preprocess(images, batch_size=2):
        predictions = inferencer.forward(data)
        drawings = inferencer.visualize(chunk, predictions)
        assert [d.shape for d in drawings] == [np.shape(picture(0))] * len(chunk)
        result = inferencer.postprocess(predictions, visualization=drawings)
        found += result['predictions']
    expected = inferencer(images)['predictions']
    for one, other in zip(found, expected, strict=True):
        assert one['labels'] == other['labels'] and len(one['labels']) > 0
        np.testing.assert_allclose(one['bboxes'], other['bboxes'], atol=1e-2)
    with pytest.raises(StopIteration):
        next(inferencer.preprocess([]))


SAHI = """
from mmdet_r2 import compat
compat.install()

import sys

import cv2
from sahi.models.mmdet import MmdetDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction

folder = sys.argv[1]
model = MmdetDetectionModel(
    model_path=folder + '/toy.pth', config_path=folder + '/sahi.py', device='cpu',
    confidence_threshold=0.0, image_size=None,
)
image = cv2.imread(folder + '/a.png')[:, :, ::-1].copy()
whole = get_prediction(image, model).object_prediction_list
assert whole and {p.category.name for p in whole} <= {'circle', 'square', 'star'}
sliced = get_sliced_prediction(image, model, slice_height=48, slice_width=48, verbose=0)
assert sliced.object_prediction_list
"""


def test_the_wrapper_of_sahi(folder: Path) -> None:
    pytest.importorskip('sahi', reason='needs sahi')
    config = toy_config()
    # where it looks whether there are masks; those of an untrained model it refuses
    boxes = [dict(type='LoadAnnotations', with_bbox=True)]
    config.train_dataloader = dict(batch_size=1, dataset=dict(type='CocoDataset', pipeline=boxes))
    config.dump(folder / 'sahi.py')
    done = run(SAHI, folder)
    assert done.returncode == 0, done.stderr
