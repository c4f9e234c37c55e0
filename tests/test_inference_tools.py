"""The command-line tools around inference: drawing, timing, counting."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from toy_detector import CLASSES, lively, toy_config
from warm_python import python

from mmdet_r2.apis import init_detector


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    """A config file, a checkpoint, and a folder with three images and a broken one."""
    folder = tmp_path_factory.mktemp('demo')
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'toy.pth')
    toy_config().dump(folder / 'toy.py')
    images = folder / 'images'
    (images / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('b.png', 'a.jpg', 'sub/a.jpg'):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(images / name), cv2.resize(small, (80, 60)))
    (images / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    return dict(config=folder / 'toy.py', checkpoint=folder / 'toy.pth', images=images)


def run(monkeypatch, repo: Path, script: str, *args: object) -> int:
    """Run a script's command line in this process; returns the exit code."""
    monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
    try:
        runpy.run_path(str(repo / script), run_name='__main__')
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def names(folder: Path) -> list[str]:
    """All files in a folder and those in it."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_what_image_demo_needs_is_said_in_a_line(
    files, repo, tmp_path, monkeypatch, capsys
) -> None:
    def said(*args: object) -> str:
        start = ('demo/image_demo.py', files['images'], files['config'])
        assert run(monkeypatch, repo, *start, *args, '--out-dir', tmp_path) == 2
        return capsys.readouterr().err

    assert "argument --batch-size: '0'; expected a whole number" in said('--batch-size', 0)
    assert "argument --num-workers: '-1'; expected a whole number" in said('--num-workers', -1)
    weights = (files['checkpoint'], '--device', 'cpu')
    assert "palette 'pink'" in said(*weights, '--palette', 'pink')
    assert 'no display' in said(*weights, '--show')
    assert 'none.json: No such file' in said(*weights, '--ann-file', 'none.json')
    assert names(tmp_path) == []
    assert 'toy.py: no published weights belong to this config; give a checkpoint' in said()


def test_image_demo_draws_a_folder_and_names_what_it_skips(
    files, repo, tmp_path, monkeypatch, capsys
) -> None:
    out = tmp_path / 'out'
    code = run(
        monkeypatch, repo, 'demo/image_demo.py', files['images'], files['config'],
        files['checkpoint'], '--out-dir', out, '--device', 'cpu', '--batch-size', 2,
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert 'skipped: cannot read image' in printed and 'broken.jpg' in printed
    assert '2 images drawn' in printed and '1 could not be read' in printed
    assert names(out) == ['predictions.json', 'vis/a.jpg', 'vis/b.png']
    records = json.loads((out / 'predictions.json').read_text())
    assert [Path(r['file_name']).name for r in records] == sorted(
        Path(r['file_name']).name for r in records
    )
    assert {(r['image_id'], Path(r['file_name']).name) for r in records} == {
        (0, 'a.jpg'), (1, 'b.png'),
    }  # fmt: skip
    for record in records:
        assert record['category_name'] == CLASSES[record['category_id']]
        assert record['score'] > 0.3 and len(record['bbox']) == 4
        assert coco_mask.decode(record['segmentation']).shape == (60, 80)
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=i, height=60, width=80) for i in range(2)],
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)],
        annotations=[],
    )
    truth.createIndex()
    assert len(truth.loadRes(str(out / 'predictions.json')).anns) == len(records)
    original = cv2.imread(str(files['images'] / 'b.png'))
    drawn = cv2.imread(str(out / 'vis' / 'b.png'))
    assert drawn.shape == original.shape and (drawn != original).any()


def test_image_demo_takes_patterns_and_keeps_equal_names_apart(
    files, repo, tmp_path, monkeypatch
) -> None:
    code = run(
        monkeypatch, repo, 'demo/image_demo.py', files['images'] / '**/a.jpg', files['config'],
        '--weights', files['checkpoint'], '--out-dir', tmp_path, '--device', 'cpu',
        '--pred-score-thr', 0.99,
    )  # fmt: skip
    assert code == 0
    assert names(tmp_path) == ['predictions.json', 'vis/a-2.jpg', 'vis/a.jpg']
    records = json.loads((tmp_path / 'predictions.json').read_text())
    assert all(record['score'] > 0.99 for record in records)


def test_image_demo_of_an_image_without_findings(
    files, repo, tmp_path, monkeypatch, capsys
) -> None:
    args = (files['images'] / 'b.png', files['config'], files['checkpoint'], '--device', 'cpu')
    options = ('--out-dir', tmp_path, '--score-thr', 1)
    assert run(monkeypatch, repo, 'demo/image_demo.py', *args, *options) == 0
    assert 'b.png: 0 found' in capsys.readouterr().out
    assert json.loads((tmp_path / 'predictions.json').read_text()) == []
    original = cv2.imread(str(files['images'] / 'b.png'))
    assert (cv2.imread(str(tmp_path / 'vis' / 'b.png')) == original).all()


def test_image_demo_takes_ids_of_an_annotation_file(files, repo, tmp_path, monkeypatch) -> None:
    images = [dict(id=70 + i, file_name=name) for i, name in enumerate(('a.jpg', 'b.png'))]
    categories = [dict(id=40 + i, name=name) for i, name in enumerate(CLASSES)]
    (tmp_path / 'ann.json').write_text(json.dumps(dict(images=images, categories=categories)))
    code = run(
        monkeypatch, repo, 'demo/image_demo.py', files['images'], files['config'],
        files['checkpoint'], '--out-dir', tmp_path, '--device', 'cpu', '--no-save-vis',
        '--ann-file', tmp_path / 'ann.json',
    )  # fmt: skip
    assert code == 0 and names(tmp_path) == ['ann.json', 'predictions.json']
    records = json.loads((tmp_path / 'predictions.json').read_text())
    assert {r['image_id'] for r in records} == {70, 71}
    assert all(r['category_name'] == CLASSES[r['category_id'] - 40] for r in records)


@pytest.mark.parametrize('images', ['nothing.jpg', 'no/*.jpg'])
def test_image_demo_without_images_is_a_users_error(
    files, repo, tmp_path, monkeypatch, capsys, images
) -> None:
    args = (files['config'], files['checkpoint'], '--out-dir', tmp_path / 'o', '--device', 'cpu')
    assert run(monkeypatch, repo, 'demo/image_demo.py', tmp_path / images, *args) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert run(monkeypatch, repo, 'demo/image_demo.py', files['images'] / 'broken.jpg', *args) == 2
    said = capsys.readouterr()
    assert 'broken.jpg' in said.err and 'broken.jpg' not in said.out  # once
    assert names(tmp_path) == []  # no empty predictions, no temporary file


def test_image_demo_that_cannot_write_says_where(
    files, repo, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / 'file').write_text('')
    args = (files['images'], files['config'], files['checkpoint'], '--device', 'cpu')
    for option in ('--no-save-pred', '--no-save-vis'):
        out = ('--out-dir', tmp_path / 'file', option)
        assert run(monkeypatch, repo, 'demo/image_demo.py', *args, *out) == 2
        assert f'{tmp_path / "file"}' in (message := capsys.readouterr().err.splitlines()[-1])
        assert 'cannot be written' in message


@pytest.mark.parametrize('mode', ['inference', 'training'])
def test_benchmark_prints_and_writes_its_figures(files, repo, tmp_path, mode) -> None:
    config = toy_config()
    config.model.train_cfg = dict(
        rpn=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3),
            sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=False),
        ),
        rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7)),
        rcnn=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
            sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25),
            mask_size=28,
        ),
    )
    config.dump(tmp_path / 'toy.py')
    command = [python(), 'tools/analysis_tools/benchmark.py', mode, tmp_path / 'toy.py']
    command += ['--size', '64', '96', '--repeat', '2', '--warmup', '1', '--threads', '1']
    command += ['--batch-size', '2', '--json', tmp_path / 'out.json']
    done = subprocess.run(
        [str(c) for c in command], cwd=repo, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert 's/image' in done.stdout or 's/iteration' in done.stdout
    figures = json.loads((tmp_path / 'out.json').read_text())
    side = figures['sides']['mmdet_r2']
    assert 0 < side['fastest'] <= side['median'] <= side['slowest'] and side['memory'] > 10
    key = dict(inference='detections', training='loss')[mode]
    assert side['last'][key] > 0


def test_benchmark_reports_what_stops_it(files, repo, tmp_path) -> None:
    command = [python(), 'tools/analysis_tools/benchmark.py', 'inference', files['config']]
    command += ['--size', '64', '96', '--peer', tmp_path / 'python']
    done = subprocess.run(
        [str(c) for c in command], cwd=repo, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2 and 'no such Python interpreter' in done.stderr


def test_flops_and_parameters_are_the_published_ones(repo, monkeypatch, capsys) -> None:
    for name, expected in (
        ('faster_rcnn_r2_101_fpn_2x_coco', '61.42 M'),
        ('mask_rcnn_r2_101_fpn_2x_coco', '64.07 M'),
    ):
        script = 'tools/analysis_tools/get_flops.py'
        assert run(monkeypatch, repo, script, name, '--shape', 64, 64) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].split()[:3] == ['all', *expected.split()]
        backbone = next(line for line in lines if line.startswith('backbone'))
        assert backbone.split()[1] == '43.18'
        # 169.48 G at 800x1280, in proportion to the area
        assert float(backbone.split()[3]) == pytest.approx(169.48 * 64 * 64 / 800 / 1280, rel=0.05)
