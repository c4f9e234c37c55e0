"""DetInferencer: mmdetection 3.x's call, and results that do not pile up."""

import inspect
import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy_detector import CLASSES, lively, toy_config

from mmdet_r2.apis import DetInferencer, inference_detector, init_detector
from mmdet_r2.apis.model_argument import find_detector
from mmdet_r2.errors import CheckpointError, ConfigError, DataError
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import encode_rle


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (80, 60))


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('inferencer')
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'toy.pth')
    toy_config().dump(folder / 'toy.py')
    (folder / 'images' / 'sub').mkdir(parents=True)
    for i, name in enumerate(('a.png', 'b.jpg', 'sub/a.png')):
        cv2.imwrite(str(folder / 'images' / name), picture(i))
    return dict(config=folder / 'toy.py', weights=folder / 'toy.pth', images=folder / 'images')


@pytest.fixture
def inferencer(files) -> DetInferencer:
    return DetInferencer(files['config'], files['weights'], 'cpu', show_progress=False)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_results_are_those_of_inference_detector_as_plain_data(inferencer, files) -> None:
    result = inferencer(files['images'], batch_size=2)
    assert list(result) == ['predictions', 'visualization'] and result['visualization'] == []
    assert json.loads(json.dumps(result)) == result
    images = [files['images'] / name for name in ('a.png', 'b.jpg')]
    samples = inference_detector(inferencer.model, images, batch_size=2)
    for one, sample in zip(result['predictions'], samples, strict=True):
        found = sample.pred_instances
        assert list(one) == ['labels', 'scores', 'bboxes', 'masks']
        assert one['labels'] == found.labels.tolist() and one['scores'] == found.scores.tolist()
        assert one['bboxes'] == found.bboxes.tolist()
        assert [m['counts'] for m in one['masks']] == [
            m['counts'].decode() for m in encode_rle(found.masks)
        ]


def test_inputs_of_every_kind(inferencer, files) -> None:
    image = files['images'] / 'a.png'
    expected = inferencer(str(image))['predictions']
    array = cv2.imread(str(image))
    assert len(expected) == 1 and expected[0]['scores']
    for inputs in (image, array, [array], (str(image),), iter([array]), image.read_bytes()):
        assert inferencer(inputs)['predictions'] == expected
    found = inferencer(str(files['images'] / '**' / '*.png'))['predictions']
    assert len(found) == 2 and found[0] == expected[0]


def test_what_is_no_image_is_said(inferencer) -> None:
    with pytest.raises(DataError, match='inputs is a int; expected an image'):
        inferencer(42)


def test_drawings_and_predictions_are_written_as_mmdetection_does(
    inferencer, files, tmp_path
) -> None:
    inputs = [str(files['images'] / 'a.png'), str(files['images'] / 'sub' / 'a.png'), picture(5)]
    result = inferencer(inputs, out_dir=str(tmp_path / 'o'), no_save_pred=False, return_vis=True)
    assert names(tmp_path / 'o') == [
        'preds/2.json', 'preds/a-2.json', 'preds/a.json',
        'vis/00000002.jpg', 'vis/a-2.png', 'vis/a.png',
    ]  # fmt: skip
    for name, one in zip(('a', 'a-2', '2'), result['predictions'], strict=True):
        assert json.loads((tmp_path / 'o' / 'preds' / f'{name}.json').read_text()) == one
    drawing = cv2.imread(str(tmp_path / 'o' / 'vis' / 'a.png'))[..., ::-1]
    assert (drawing == result['visualization'][0]).all()
    assert (drawing != picture(0)[..., ::-1]).any()
    inferencer(inputs[0], out_dir=tmp_path / 'p')
    assert names(tmp_path / 'p') == ['vis/a.png']  # predictions only when asked for
    inferencer(inputs[0], out_dir=tmp_path / 'q', no_save_vis=True, no_save_pred=False)
    assert names(tmp_path / 'q') == ['preds/a.json']
    bare = inferencer(inputs[0], return_vis=True, draw_pred=False)['visualization'][0]
    assert (bare == picture(0)[..., ::-1]).all()
    assert (
        inferencer(inputs[0], return_vis=True, pred_score_thr=1)['visualization'][0] == bare
    ).all()


def test_drawings_of_files_that_hold_no_colours(inferencer, tmp_path) -> None:
    from PIL import Image

    cv2.imwrite(str(tmp_path / 'a.pgm'), picture(0)[..., 0])
    Image.fromarray(picture(0)).save(tmp_path / 'bare', 'png')
    inferencer([tmp_path / 'a.pgm', tmp_path / 'bare'], out_dir=tmp_path / 'o')
    assert names(tmp_path / 'o') == ['vis/a.png', 'vis/bare.png']


def test_a_window_without_a_display_is_refused(inferencer) -> None:
    with pytest.raises(ConfigError, match='no display'):
        inferencer(picture(0), show=True)


def test_other_options_of_the_call(inferencer, files, capsys, monkeypatch) -> None:
    image = str(files['images'] / 'a.png')
    (sample,) = inferencer(image, return_datasamples=True)['predictions']
    assert isinstance(sample, DetDataSample) and sample.pred_instances.masks.dtype == torch.bool
    inferencer(image, print_result=True)
    assert "'bboxes'" in capsys.readouterr().out
    shown = []
    monkeypatch.setattr(
        'mmdet_r2.visualization.DetLocalVisualizer.show',
        lambda self, image, name, wait: shown.append((image.shape, name, wait)),
    )
    assert inferencer(image, show=True, wait_time=2)['visualization'] == []
    assert shown == [((60, 80, 3), image, 2)]
    many = inferencer(image, tta=True)['predictions'][0]
    assert len(many['labels']) > 20 and len(many['masks']) == len(many['labels'])
    inferencer.show_progress = True
    inferencer([picture(0)] * 2)
    captured = capsys.readouterr()
    assert captured.out == ''  # the bar is on stderr, where it does not mix with results


def test_a_stream_holds_little_and_passes_over_what_is_unreadable(
    inferencer, files, tmp_path
) -> None:
    (tmp_path / 'bad.jpg').write_bytes(b'')
    read = 0

    def images():
        nonlocal read
        for i in range(60):
            read += 1
            yield tmp_path / 'bad.jpg' if i == 30 else picture(i)

    ahead = []
    for number, each in enumerate(inferencer.stream(images(), 2, skip_unreadable=True)):
        ahead.append(read - number)
        assert (each.sample is None) == (number == 30) == (each.error is not None)
        assert each.visualization is None
    assert len(ahead) == 60 and max(ahead) < 12
    assert each.name == 'imgs[59]' and isinstance(each.sample.pred_instances.masks, list)
    with pytest.raises(DataError, match=r'bad\.jpg: the file is empty'):
        inferencer([picture(0), tmp_path / 'bad.jpg'])


def test_what_cannot_be_written_is_one_line(inferencer, files, tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    for options in (dict(), dict(no_save_vis=True, no_save_pred=False)):
        with pytest.raises(DataError, match=r'file/\w+/a\.\w+: cannot be written') as caught:
            inferencer(files['images'] / 'a.png', out_dir=tmp_path / 'file', **options)
        assert '\n' not in str(caught.value)


def test_what_stands_for_a_detector(files, monkeypatch) -> None:
    name = 'mask_rcnn_r2_101_fpn_2x_coco'
    assert find_detector(name) == (name, name)
    assert find_detector(name, 'a.pth') == (name, 'a.pth')
    published = 'https://host/mask_rcnn_r2_101_fpn_2x_coco-17f061e8.pth'
    for given in ((None, published), (published, None)):
        assert find_detector(*given) == (name, published)
    with pytest.raises(CheckpointError, match='no config is inside'):
        DetInferencer(weights=files['weights'])
    with pytest.raises(ConfigError, match='give the name of a model'):
        DetInferencer()
    with pytest.raises((CheckpointError, ConfigError), match='mask_rcnn_r50_fpn_1y_coco'):
        DetInferencer('mask_rcnn_r50_fpn_1y_coco', device='cpu')
    with pytest.raises(ConfigError, match="palette 'pink'"):
        DetInferencer(str(files['config']), device='cpu', palette='pink')
    bare = DetInferencer(str(files['config']), device='cpu', palette='coco')  # random weights
    assert bare.model.dataset_meta['palette'] == 'coco'
    own = DetInferencer(bare.model, palette='voc')
    assert own.model is bare.model and own.model.dataset_meta['palette'] == 'voc'
    assert isinstance(own.model, nn.Module) and own.cfg is bare.model.cfg
    with pytest.raises(ConfigError, match='built already'):
        DetInferencer(bare.model, files['weights'])


def test_panoptic_maps_of_the_small_detector(repo, tmp_path) -> None:
    from mmdet_r2.structures.panoptic import segments

    config = str(repo / 'configs/demo/panoptic_fpn_r2_50_fpn_demo.py')
    options = {'model.test_cfg.panoptic.stuff_area_limit': 10}
    model = init_detector(config, None, device='cpu', cfg_options=options)
    inferencer = DetInferencer(model, show_progress=False)
    (one,) = inferencer(picture(0))['predictions']
    sample = inference_detector(model, picture(0))
    values = sample.pred_panoptic_seg.sem_seg[0].numpy()
    classes = len(model.dataset_meta['classes'])
    assert one['segments_info'] == segments(
        values, classes, model.panoptic_fusion_head.num_things_classes
    )
    colours = one['panoptic_seg'].astype(int)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    assert (ids == np.where(values % 1000 == classes, 0, values)).all()
    (written,) = inferencer(picture(0), out_dir=tmp_path, no_save_pred=False)['predictions']
    assert 'panoptic_seg' not in written
    assert (cv2.imread(written['panoptic_seg_path'])[..., ::-1] == one['panoptic_seg']).all()
    assert json.loads((tmp_path / 'preds' / '0.json').read_text()) == written


@pytest.mark.parity
def test_call_and_result_have_mmdetections_names(inferencer, files) -> None:
    """Every argument of mmdetection's that is not for text prompts, with its default."""
    python = os.environ.get('MMDET_R2_PEER')
    if not python:
        pytest.skip('MMDET_R2_PEER names no Python with mmdetection')
    code = (
        'import inspect, json\nfrom mmdet.apis import DetInferencer as D\n'
        'print(json.dumps([[(n, repr(p.default)) for n, p in inspect.signature(f).parameters'
        '.items()] for f in (D.__init__, D.__call__)]))'
    )
    done = subprocess.run([python, '-c', code], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    prompts = {'texts', 'stuff_texts', 'custom_entities', 'tokens_positive', 'kwargs', 'scope'}
    for method, expected in zip((DetInferencer.__init__, DetInferencer.__call__), theirs):
        ours = [(n, repr(p.default)) for n, p in inspect.signature(method).parameters.items()]
        wanted = [(name, default) for name, default in expected if name not in prompts]
        assert [own for own in ours if own[0] in dict(wanted)] == wanted
