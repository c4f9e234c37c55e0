"""Tools about a model rather than its results: its cost, its published file, its anchors."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from analysis_run import REPO, Run, small_run, tool
from mmengine.config import Config
from small_detector import build, cascade_config, small_config

from mmdet_r2.analysis.anchors import (
    Anchors,
    box_shapes,
    fit_by_k_means,
    measure,
    optimize,
    read_anchors,
    snippet,
)
from mmdet_r2.analysis.benchmark.worker import peak_memory
from mmdet_r2.analysis.flops import count
from mmdet_r2.analysis.publish import publish
from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.config import load_config
from mmdet_r2.errors import CheckpointError, ConfigError, DataError
from mmdet_r2.registry import TASK_UTILS
from mmdet_r2.zoo import load_checkpoint, read_checkpoint
from mmdet_r2.zoo.download import expected_hash, has_hash

PUBLISH = 'tools/model_converters/publish_model.py'
ANCHORS = 'tools/analysis_tools/optimize_anchors.py'
WORKER = str(REPO / 'mmdet_r2/analysis/benchmark/worker.py')


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Run:
    return small_run(tmp_path_factory)


# -------------------------------------------------------------------------------------- flops


def test_costs_by_hand():
    costs = {cost.name: cost for cost in count(build(small_config()), (64, 96))}
    # (C_in * C_out * k * k) at each pixel of the output
    assert costs['backbone.conv1'].macs == 3 * 16 * 49 * 32 * 48
    assert costs['backbone.layer1'].macs == 4 * 16 * 16 * 9 * 16 * 24
    pixels = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    assert costs['neck.lateral_convs'].macs == sum(
        p * c * 16 for p, c in zip(pixels, (16, 32, 64, 128))
    )
    assert costs['neck.fpn_convs'].macs == sum(pixels) * 16 * 16 * 9
    cells = sum(pixels) + 1 * 2  # one level more
    assert costs['rpn_head'].macs == cells * (16 * 16 * 9 + 16 * 3 + 16 * 12)
    assert costs['rpn_head.rpn_reg'].macs == cells * 16 * 12
    # 30 proposals: two linear layers, classes and boxes
    boxes = 30 * (16 * 49 * 32 + 32 * 32 + 32 * 4 + 32 * 12)
    assert costs['roi_head.stage0'].macs == boxes
    # 10 detections: a convolution and an upsampling of 14 x 14 cells, then 28 x 28 of its own class
    masks = 10 * (196 * 16 * 16 * 9 + 196 * 16 * 16 * 4 + 784 * 16)
    assert costs['roi_head.mask'].macs == masks
    assert costs['roi_head'].macs == boxes + masks


@pytest.mark.parametrize('htc', [False, True])
def test_parameters_are_those_of_the_model(htc):
    model = build(cascade_config(htc=htc, semantic=htc))
    costs = count(model, (64, 64))
    whole = [cost for cost in costs if cost.whole]
    assert sum(c.parameters for c in whole) == sum(p.numel() for p in model.parameters())
    for part in whole:
        inner = [c for c in costs if c.name.startswith(f'{part.name}.')]
        assert sum(c.macs for c in inner) <= part.macs
        assert sum(c.parameters for c in inner) <= part.parameters
    names = [c.name for c in costs]
    assert {'roi_head.stage0', 'roi_head.stage2', 'roi_head.mask'} <= set(names)
    assert ('roi_head.context' in names) == htc


def test_deformable_convolutions_count():
    config = small_config()
    config['backbone'].update(
        depth=50,
        dcn=dict(type='DCNv2', deform_groups=1),
        stage_with_dcn=(False, False, False, True),
    )
    config['neck']['in_channels'] = [64, 128, 256, 512]
    deformed = {c.name: c.macs for c in count(build(config), (64, 64))}
    del config['backbone']['dcn'], config['backbone']['stage_with_dcn']
    plain = {c.name: c.macs for c in count(build(config), (64, 64))}
    # offsets and masks (27 channels) of three 3 x 3 convolutions, 128 channels, 2 x 2 pixels
    extra = 3 * 27 * 128 * 9 * 4
    assert deformed['backbone.layer4'] - plain['backbone.layer4'] == extra
    assert deformed['backbone.layer3'] == plain['backbone.layer3']


def test_the_command_counts(run: Run):
    printed = tool('tools/analysis_tools/get_flops.py', run.config, '--shape', 64, 96)
    assert '(64x96)' in printed and '  stage0' in printed and '  layer4' in printed
    brief = tool('tools/analysis_tools/get_flops.py', run.config, '--shape', 64, '--brief')
    assert '(64x64)' in brief and 'layer4' not in brief
    for shape in ((16, 64), (64, 64, 64)):
        message = tool('tools/analysis_tools/get_flops.py', run.config, '--shape', *shape, code=2)
        assert '--shape' in message


# ---------------------------------------------------------------------------------- benchmark


def test_memory_is_a_process_own():
    """A child of this process, large with PyTorch, which imports next to nothing."""
    code = f'import runpy; print(runpy.run_path({WORKER!r})["peak_memory"]())'
    done = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True)
    assert 1 < float(done.stdout) < 100 < peak_memory()


@pytest.mark.parametrize(
    ('mode', 'options'),
    [
        ('inference', ('--repeat', 0)),
        ('inference', ('--warmup', -1)),
        ('inference', ('--threads', -1)),
        ('dataloader', ('--batches', 0)),
        ('inference', ('--size', 0, 0)),
        ('inference', ('--device', 'gpu')),
        ('training', ('--dtype', 'bfloat16')),
        ('training', ('--compile',)),
    ],
)
def test_what_cannot_be_timed(run: Run, mode, options):
    message = tool('tools/analysis_tools/benchmark.py', mode, run.config, *options, code=2)
    assert message.startswith(f'error: {options[0]}')


# ------------------------------------------------------------------------------------ publish


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_published_file_detects_what_the_checkpoint_does(run: Run, tmp_path, suffix):
    printed = tool(PUBLISH, run.checkpoint, tmp_path / f'sub/small{suffix}')
    (file,) = (tmp_path / 'sub').iterdir()
    assert str(file) in printed
    assert re.fullmatch(rf'small-[0-9a-f]{{8}}\{suffix}', file.name)
    assert has_hash(file, expected_hash(file.name))
    assert file.stat().st_size < 0.4 * run.checkpoint.stat().st_size
    before, after = read_checkpoint(run.checkpoint), read_checkpoint(file)
    assert set(after) == {'meta', 'state_dict'}
    assert set(after['meta']) == {
        'cfg', 'dataset_meta', 'epoch', 'iter', 'mmdet_r2_version', 'mmengine_version',
    }  # fmt: skip
    assert (
        tuple(after['meta']['dataset_meta']['classes']) == before['meta']['dataset_meta']['classes']
    )
    for key, value in before['state_dict'].items():
        assert after['state_dict'][key].equal(value)
    image = str(sorted((run.root / 'data/train').iterdir())[0])
    found = [
        inference_detector(init_detector(str(run.config), str(path), device='cpu'), image)
        for path in (run.checkpoint, file)
    ]
    one, two = (sample.pred_instances for sample in found)
    assert len(one.bboxes) > 0 and one.bboxes.equal(two.bboxes) and one.scores.equal(two.scores)
    assert found[0].pred_instances.labels.equal(two.labels)


def test_the_same_weights_have_the_same_name_and_a_new_hash_replaces_the_old(run: Run, tmp_path):
    first = publish(run.checkpoint, tmp_path / 'a.pth')
    assert publish(run.checkpoint, tmp_path / 'a.pth') == first
    assert publish(first, tmp_path / first.name) == first
    weights = publish(run.checkpoint, tmp_path / first.name, save_keys=['state_dict'])
    assert weights.name != first.name and weights.name.count('-') == 1
    assert set(read_checkpoint(weights)) == {'state_dict'}
    kept = publish(run.checkpoint, tmp_path / 'a.pth', save_keys=['state_dict', 'optimizer'])
    assert 'param_groups' in read_checkpoint(kept)['optimizer']


def test_a_damaged_published_file_is_refused(run: Run, tmp_path):
    for suffix in ('.pth', '.safetensors'):
        file = publish(run.checkpoint, tmp_path / f'a{suffix}')
        data = bytearray(file.read_bytes())
        data[-1000] ^= 1
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=file.name):
            load_checkpoint(build(small_config()), file)
    broken = tmp_path / 'b.safetensors'
    broken.write_bytes(bytes(data[:5000]))
    with pytest.raises(CheckpointError, match='not a readable safetensors file'):
        read_checkpoint(broken)


def test_a_slice_is_published_without_the_whole(tmp_path):
    whole = torch.zeros(1000, 1000)
    torch.save(dict(state_dict={'module.a': whole[0], 'module.b': whole[1]}), tmp_path / 'a.pth')
    file = publish(tmp_path / 'a.pth', tmp_path / 'b.pth', save_keys=['state_dict'])
    assert file.stat().st_size < 20000 and set(read_checkpoint(file)['state_dict']) == {'a', 'b'}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('IN', 'out.bin'), '.pth or .safetensors'),
        (('none.pth', 'out.pth'), 'none.pth'),
        (('IN', 'out.pth', '--save-keys', 'meta'), 'state_dict'),
        (('IN', 'out.pth', '--save-keys', 'state_dict', 'ema'), "'ema'.*optimizer"),
        (('IN', 'out.safetensors', '--save-keys', 'state_dict', 'optimizer'), 'safetensors'),
    ],
)
def test_what_cannot_be_published(run: Run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(run.checkpoint) if a == 'IN' else a for a in arguments]
    assert re.search(message, tool(PUBLISH, *arguments, code=2))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder(run: Run, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='cannot be made'):
        publish(run.checkpoint, tmp_path / 'file' / 'a.pth')


# ------------------------------------------------------------------------------------ anchors


def test_shapes_and_overlaps_by_hand():
    anchors = Anchors((4.0, 8.0), (2.0,), (0.25, 1.0))
    assert anchors.shapes().tolist() == [[16, 4], [8, 8], [32, 8], [16, 16]]
    fit = measure(anchors, np.array([[8.0, 8.0], [16.0, 8.0]]))
    # the second: 16 x 8 of 16 x 16, or of 32 x 8
    assert fit.mean_iou == 0.75 and fit.recall == {0.5: 1.0, 0.7: 0.5}
    generator = TASK_UTILS.build(
        dict(type='AnchorGenerator', strides=[4, 8], scales=[2], ratios=[0.25, 1.0])
    )
    sides = torch.cat([a[:, 2:] - a[:, :2] for a in generator.base_anchors])
    assert sides.tolist() == anchors.shapes().tolist()


@pytest.mark.parametrize('algorithm', ['k-means', 'differential_evolution'])
def test_anchors_that_made_the_boxes_are_found_again(algorithm):
    truth = Anchors((4.0, 8.0, 16.0), (3.0,), (0.4, 1.0, 3.0))
    rng = np.random.default_rng(0)
    shapes = truth.shapes()[rng.integers(0, 9, 300)] * np.exp(rng.normal(0, 0.03, (300, 2)))
    start = Anchors(truth.base_sizes, (8.0,), (0.5, 1.0, 2.0))
    found = optimize(shapes, start, algorithm=algorithm, iters=60)
    # a grid of powers of two may as well begin one level higher or lower
    octaves = np.log2(np.array(found.scales) / truth.scales)
    assert abs(octaves - octaves.round()).max() < 0.05
    assert found.ratios == pytest.approx(truth.ratios, rel=0.05)
    assert measure(found, shapes).mean_iou > 0.9 > measure(start, shapes).mean_iou


def test_more_ratios_fit_no_worse():
    rng = np.random.default_rng(1)
    shapes = np.exp(rng.uniform(2, 5, (500, 2)))
    start = Anchors((4.0, 8.0, 16.0, 32.0), (4.0,), (1.0,))
    ious = [measure(fit_by_k_means(shapes, start, 1, n), shapes).mean_iou for n in (1, 3, 5, 9)]
    assert ious == sorted(ious)


def test_boxes_as_the_network_sees_them(run: Run):
    content = json.loads(run.annotations.read_text())
    expected = np.array([a['bbox'][2:] for a in content['annotations']])
    key = 'train_dataloader.dataset.pipeline'
    shapes, config = box_shapes(str(run.config))
    assert np.sort(shapes, 0) == pytest.approx(np.sort(expected, 0))  # 96 x 96 into 96 x 96
    assert read_anchors(config) == Anchors((4.0, 8.0, 16.0, 32.0, 64.0), (4.0,), (0.5, 1.0, 2.0))
    doubled, _ = box_shapes(str(run.config), input_shape=(192, 300))
    assert doubled == pytest.approx(2 * shapes)
    for transform, factors in (
        (dict(type='Resize', scale=(192, 288)), [(2, 3)]),
        (dict(type='RandomChoiceResize', scales=[(96, 96), (192, 192)], keep_ratio=True), [1, 2]),
        (dict(type='RandomResize', scale=[(999, 96), (999, 192)], keep_ratio=True), [1, 1.5, 2]),
        (
            dict(type='RandomResize', scale=(96, 96), ratio_range=(1, 2), keep_ratio=True),
            [1, 1.5, 2],
        ),
        (dict(type='ResizeShortestEdge', scale=192, max_size=144), [1.5]),
    ):
        found, _ = box_shapes(str(run.config), overrides={key: [transform]})
        each = np.concatenate([shapes * np.array(factor) for factor in factors])
        assert np.sort(found, 0) == pytest.approx(np.sort(each, 0))
    with pytest.raises(ConfigError, match='--input-shape'):
        box_shapes(str(run.config), overrides={key: [dict(type='LoadImageFromFile')]})


@pytest.mark.parametrize(
    'generator',
    [
        dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 2.0], strides=[4, 8]),
        dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[1.0],
            strides=[4, 8],
        ),
    ],
    ids=['scales', 'octaves'],
)
def test_the_lines_printed_make_a_config_that_builds(tmp_path, generator):
    base = Config(dict(model=dict(rpn_head=dict(anchor_generator=generator))))
    base.dump(str(tmp_path / 'base.py'))
    start = read_anchors(base)
    new = Anchors(start.base_sizes, (5.0, 7.5), (0.7, 1.0, 1.3))
    (tmp_path / 'new.py').write_text("_base_ = './base.py'\n" + snippet(new, generator))
    config = Config.fromfile(tmp_path / 'new.py')
    assert read_anchors(config) == new
    assert TASK_UTILS.build(config.model.rpn_head.anchor_generator).num_base_anchors == [6, 6]


def test_the_command_proposes_anchors_of_a_real_data_set(run: Run, tmp_path):
    printed = tool(ANCHORS, run.config, '--iters', 15, '--output-dir', tmp_path)
    report = json.loads((tmp_path / 'anchor_optimize_result.json').read_text())
    assert report['boxes'] == 66
    assert 1 > report['after']['mean_iou'] > report['before']['mean_iou'] + 0.005
    assert f'{report["after"]["mean_iou"]:.4f}' in printed
    lines = printed[printed.index('model = dict(') : printed.index('written to')]
    (tmp_path / 'new.py').write_text(f"_base_ = '{run.config}'\n{lines}")
    config = load_config(tmp_path / 'new.py')
    assert list(read_anchors(config).scales) == report['after']['scales']
    quick = tool(
        ANCHORS, run.config, '--algorithm', 'k-means', '--num-ratios', 5, '--num-scales', 2
    )
    assert quick.count(', ') >= 5
    assert '--iters' in tool(ANCHORS, run.config, '--iters', 0, code=2)
    assert '--input-shape' in tool(ANCHORS, run.config, '--input-shape', 1, 2, 3, code=2)


def test_no_boxes_and_no_anchors(run: Run, tmp_path):
    content = json.loads(run.annotations.read_text())
    (tmp_path / 'none.json').write_text(json.dumps(content | {'annotations': []}))
    with pytest.raises(DataError, match='no boxes'):
        box_shapes(
            str(run.config),
            overrides={'train_dataloader.dataset.ann_file': str(tmp_path / 'none.json')},
        )
    with pytest.raises(ConfigError, match='anchor_generator'):
        read_anchors(Config(dict(model=dict(rpn_head=None))))


# ----------------------------------------------------------------------------------- all tools

TOOLS = sorted(p.name for p in (REPO / 'tools/analysis_tools').glob('*.py'))


@pytest.mark.parametrize('name', TOOLS)
def test_help_has_an_example(name):
    text = tool(f'tools/analysis_tools/{name}', '--help')
    assert name in text[text.index('example') :] or 'mmdet-r2 bench' in text
