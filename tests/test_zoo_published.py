"""OpenMMLab's published files, written by mmdetection 2.0: names, containers, classes, and what is
said of a file that does not belong to the config."""

import http.server
import json
import os
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from published_files import (
    CLASSES,
    FULL,
    PUBLISHED,
    SMALL,
    SYSTEMS,
    classifier,
    config,
    detector,
    published,
    random,
    resnet,
    save,
    save_hashed,
    zeros,
)
from torch import nn

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.errors import CheckpointError
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import (
    checkpoint_dataset_meta,
    find_model,
    load_checkpoint,
    models,
    names,
    read_checkpoint,
)
from mmdet_r2.zoo.identify import identify

EVERY_SYSTEM = pytest.mark.parametrize('system', SYSTEMS)
FORMATS = pytest.mark.parametrize('zipped', [False, True], ids=['old torch', 'zip'])
VERSION = '2.0.0+b8f1a2c'
NAMES = ('plane', 'ship', 'harbor', 'bridge', 'crane')


def build(cfg, device: str = 'cpu') -> nn.Module:
    init_scope()
    with torch.device(device):
        return MODELS.build(cfg.model)


PEER = os.environ.get('MMDET_R2_PEER')
LIST_PEER = """
import json, os, mmdet, torch
from mmengine.config import Config
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
register_all_modules()
listed = {}
for system, schedule in (('faster', '2x'), ('mask', '2x'), ('cascade', '20e'),
                         ('cascade-mask', '20e'), ('htc', '20e')):
    name = system + ('' if system == 'htc' else '-rcnn')
    folder = os.path.join(os.path.dirname(mmdet.__file__), '.mim', 'configs', 'res2net')
    cfg = Config.fromfile(os.path.join(folder, f'{name}_res2net-101_fpn_{schedule}_coco.py'))
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        state = MODELS.build(cfg.model).state_dict()
    listed[name.replace('-', '_')] = {key: list(value.shape) for key, value in state.items()}
print(json.dumps(listed))
"""

# ---------------------------------------------------------------------------------- what files hold


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
@FORMATS
@EVERY_SYSTEM
def test_a_file_of_full_size_fits_its_config_exactly(system, zipped, tmp_path) -> None:
    """Every name and shape, with 80 classes and 101 layers; the values take no room."""
    weights = zeros(detector(system, FULL, version=2))
    content = published(weights, VERSION, CLASSES, training=zipped)
    path = save(content, tmp_path / 'a.pth', zipped)
    model = build(config(system), 'meta')
    report = load_checkpoint(model, path, strict=True)
    assert report.complete and report.layout == 'mmdetection' and not report.note
    assert report.dataset_meta['classes'] == CLASSES
    assert report.found == report.expected
    assert str(report.found) == f'res2net101_v1b_26w_4s, {system}, 80 classes'


@FORMATS
@EVERY_SYSTEM
def test_a_file_is_loaded_and_detects_with_its_own_class_names(system, zipped, tmp_path) -> None:
    weights = random(detector(system, SMALL, version=2))
    path = save_hashed(published(weights, VERSION, NAMES), tmp_path, system, zipped)
    cfg = config(system, SMALL)
    model = init_detector(cfg, str(path), device='cpu', prepare=False)
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert model.dataset_meta['classes'] == NAMES
    if zipped:
        return
    image = np.random.RandomState(0).randint(0, 255, (64, 96, 3), np.uint8)
    pipeline = [dict(type='LoadImageFromNDArray'), dict(type='PackDetInputs')]
    found = inference_detector(model, image, pipeline).pred_instances
    assert len(found) > 0 and ('masks' in found) == model.with_mask


def test_optimiser_states_and_texts_of_old_files_are_read(tmp_path) -> None:
    weights = random(detector('mask_rcnn', SMALL, version=2))
    weights._metadata = OrderedDict({'': dict(version=1), 'backbone': dict(version=1)})
    content = published(weights, VERSION, NAMES, training=True)
    read = read_checkpoint(save(content, tmp_path / 'epoch_24.pth'))
    assert read['state_dict']._metadata == weights._metadata
    assert load_checkpoint(build(config('mask_rcnn', SMALL)), read, strict=True).complete
    assert read['meta'] == content['meta']
    assert read['optimizer']['param_groups'] == content['optimizer']['param_groups']
    assert checkpoint_dataset_meta(read) == dict(classes=NAMES, palette=[(220, 20, 60)] * 5)


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_the_listed_names_are_those_of_mmdetection() -> None:
    """Its models of today have the names and shapes of its 2.0, of which no copy runs here."""
    done = subprocess.run([PEER, '-W', 'ignore', '-c', LIST_PEER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    listed = json.loads(done.stdout.splitlines()[-1])
    for system, names_of in listed.items():
        expected = {name: list(shape) for name, shape in detector(system, FULL, version=2)}
        assert names_of == expected, system


# ---------------------------------------------------------------------------------- by address


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder that a server on this machine shows in OpenMMLab's place."""
    folder = tmp_path / 'served'
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hosts = (f'http://127.0.0.1:{server.server_port}/', names._OPENMMLAB_HOSTS[-1])
    monkeypatch.setattr(names, '_OPENMMLAB_HOSTS', hosts)
    monkeypatch.setenv('MMDET_R2_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMDET_R2_ZOO', raising=False)
    yield folder
    server.shutdown()
    server.server_close()


def _publish(zoo: Path, system: str) -> tuple[str, dict]:
    """Put a small file where OpenMMLab would have it; its path there, and its weights."""
    weights = random(detector(system, SMALL, version=2))
    stem = PUBLISHED[system].rpartition('-')[0]
    folder = zoo / 'mmdetection/v2.0/res2net' / stem
    folder.mkdir(parents=True)
    path = save_hashed(published(weights, VERSION, NAMES), folder, stem)
    return path.relative_to(zoo).as_posix(), weights


@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_published_addresses_are_fetched_and_loaded(zoo, scheme) -> None:
    path, weights = _publish(zoo, 'cascade_rcnn')
    model = build(config('cascade_rcnn', SMALL))
    url = f'{scheme}://download.openmmlab.com/{path}'
    assert load_checkpoint(model, url, strict=True).complete
    assert torch.equal(model.backbone.stem[0].weight, weights['backbone.stem.0.weight'])


@EVERY_SYSTEM
def test_the_names_of_the_index_are_the_published_files(system) -> None:
    file = PUBLISHED[system]
    model = find_model(file)
    assert model is not None and model.hash == file[-12:-4]
    folder = file.rpartition('-')[0]
    end = f'mmdetection/v2.0/res2net/{folder}/{file}'
    urls = names.urls_of(file)
    assert len(urls) > 1 and all(url.endswith(end) for url in urls)


def test_hashes_of_the_index_are_those_in_the_file_names() -> None:
    for model in models():
        for url in model.weights:
            end = url.rpartition('_' if 'model_final_' in url else '-')[2].partition('.')[0]
            assert not model.hash or model.hash == end, model.name


# ---------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize('damage', ['cut', 'changed', 'replaced'])
def test_a_damaged_published_file_is_told_by_its_hash(tmp_path, damage) -> None:
    weights = random(resnet(SMALL))
    path = save_hashed(dict(state_dict=weights), tmp_path, 'model')
    content = bytearray(path.read_bytes())
    if damage == 'cut':
        content = content[: len(content) // 2]
    elif damage == 'changed':
        content[-1000] ^= 1
    else:
        content = bytearray(b'<html>not found</html>')
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    text = str(error.value)
    assert str(path) in text and f'not {path.stem[-8:]} as its name says' in text
    assert '\n' not in text and 'download it again' in text and 'rename it' in text


def test_the_hash_of_the_metafile_is_checked_where_the_name_has_none(tmp_path, monkeypatch) -> None:
    file = 'model_without_hash.pth'
    monkeypatch.setattr('mmdet_r2.zoo.index.weights_hash', {file: '00000000'}.get)
    path = save(dict(a=torch.ones(1)), tmp_path / file)
    with pytest.raises(CheckpointError, match='not 00000000 as its Hash in the metafile says'):
        read_checkpoint(path)
    assert read_checkpoint(path.rename(tmp_path / 'mine.pth'))


def test_a_date_in_a_name_is_no_hash(tmp_path) -> None:
    path = save(dict(a=torch.ones(1)), tmp_path / 'my_model-20240229.pth')
    assert read_checkpoint(path)


# ---------------------------------------------------------------------- files of other models


@pytest.mark.parametrize(
    ('file', 'model', 'expected'),
    [
        (
            'cascade_mask_rcnn',
            'htc',
            ['roi_head.semantic_head', 'roi_head.mask_head.1 (2 tensors)', 'the model htc'],
        ),
        (
            'htc',
            'cascade_mask_rcnn',
            ['trained with roi_head', 'htc', 'the model cascade_mask_rcnn'],
        ),
        ('htc', 'cascade_rcnn', ['trained with roi_head.semantic_head', 'the model cascade_rcnn']),
        ('mask_rcnn', 'cascade_mask_rcnn', ['mask_rcnn', 'the model cascade_mask_rcnn']),
        ('cascade_rcnn', 'faster_rcnn', ['cascade_rcnn', 'the model faster_rcnn']),
        (
            'faster_rcnn',
            'mask_rcnn',
            ['not in the file: roi_head.mask_head', 'the model mask_rcnn'],
        ),
    ],
)
def test_the_file_of_another_system_is_refused_by_name(file, model, expected, tmp_path) -> None:
    path = save(random(detector(file, SMALL, version=2)), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError) as error:
        init_detector(config(model, SMALL), str(path), device='cpu')
    text = str(error.value)
    assert '\n' not in text
    for part in (*expected, f'the file is res2net50_v1b_26w_4s, {file}, 5 classes'):
        assert part in text


def test_boxes_of_a_system_with_masks_may_be_used_alone(tmp_path) -> None:
    """What is left out does not change what is kept."""
    for file, model in (('mask_rcnn', 'faster_rcnn'), ('cascade_mask_rcnn', 'cascade_rcnn')):
        weights = random(detector(file, SMALL, version=2))
        report = load_checkpoint(build(config(model, SMALL)), weights)
        assert report.complete and 'ignored: roi_head.mask_head' in str(report)
        assert f'the file is res2net50_v1b_26w_4s, {file}, 5 classes' in str(report)


def test_htc_files_and_models_with_and_without_semantics(tmp_path) -> None:
    weights = random(detector('htc', SMALL, version=2))
    cfg = config('htc', SMALL)
    del cfg.model.roi_head.semantic_head, cfg.model.roi_head.semantic_roi_extractor
    report = load_checkpoint(build(cfg), weights)
    assert not report.complete and report.expected.family == 'htc_without_semantic'
    assert 'its heads were trained with roi_head.semantic_head' in str(report)
    plain = {key: value for key, value in weights.items() if 'semantic' not in key}
    assert identify(plain).family == 'htc_without_semantic'
    assert load_checkpoint(build(cfg), plain, strict=True).complete
    report = load_checkpoint(build(config('cascade_rcnn', SMALL)), plain)
    assert report.complete, 'no box head depends on the mask information flow'
    report = load_checkpoint(build(config('cascade_mask_rcnn', SMALL)), plain)
    assert not report.complete and 'conv_res' in str(report)


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
def test_another_backbone_is_refused_with_the_keys_that_differ() -> None:
    weights = zeros(detector('faster_rcnn', FULL, version=2))
    model = build(config('faster_rcnn'), 'meta')
    cfg = config('faster_rcnn')
    cfg.model.backbone = dict(type='ResNet', depth=50)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(build(cfg, 'meta'), weights)
    text = str(error.value)
    for part in (
        'res2net101_v1b_26w_4s, faster_rcnn, 80 classes (faster_rcnn_r2_101_fpn_2x_coco)',
        'the model is resnet50, faster_rcnn, 80 classes',
        "backbone.type='Res2Net', backbone.depth=101, backbone.scales=4, backbone.base_width=26",
    ):
        assert part in text
    cfg = config('faster_rcnn')
    cfg.model.backbone.update(scales=8, base_width=14)
    with pytest.raises(CheckpointError, match=r'needs backbone\.scales=4, backbone\.base_width=26'):
        load_checkpoint(build(cfg, 'meta'), weights)
    assert load_checkpoint(model, weights).complete


def test_a_one_stage_detector_is_told(tmp_path) -> None:
    weights = {
        k: v
        for k, v in random(detector('faster_rcnn', SMALL, version=2)).items()
        if k.startswith(('backbone.', 'neck.'))
    }
    weights['bbox_head.retina_cls.weight'] = torch.zeros(9, 4, 3, 3)
    report = load_checkpoint(build(config('faster_rcnn', SMALL)), weights)
    assert report.layout == 'mmdetection' and not report.complete
    assert 'the file is res2net50_v1b_26w_4s, one_stage' in str(report)


def test_a_classifier_is_no_detector(tmp_path) -> None:
    weights = random(resnet(SMALL)) | random(classifier(SMALL))
    assert str(identify(weights)) == 'resnet50'
