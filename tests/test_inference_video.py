"""Videos: read, searched in batches, written with their rate and size, never held whole."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from toy_detector import CLASSES, lively, toy_config
from warm_python import python

from mmdet_r2.apis import inference_detector, init_detector
from mmdet_r2.apis.video import Video, VideoWriter, video_inference
from mmdet_r2.errors import DataError

FRAMES = 23


def frame(number: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('video')
    model = lively(init_detector(toy_config(), device='cpu', prepare=False))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(255, 0, 0)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'toy.pth')
    toy_config().dump(folder / 'toy.py')
    with VideoWriter(folder / 'in.avi', 12.5, 80, 60) as writer:
        for i in range(FRAMES):
            writer.write(frame(i))
    (folder / 'text.mp4').write_text('no video')
    (folder / 'empty.mp4').write_text('')
    content = (folder / 'in.avi').read_bytes()
    (folder / 'cut.avi').write_bytes(content[: len(content) // 2])
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope='module')
def model(files):
    return init_detector(files['toy.py'], files['toy.pth'], device='cpu')


@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.mov', '.mkv', '.webm'])
def test_what_is_written_is_read_again(tmp_path, suffix) -> None:
    path = tmp_path / 'sub' / f'a{suffix}'
    with VideoWriter(path, 29.97, 64, 48) as writer:
        for i in range(8):
            writer.write(frame(i, (48, 64)))
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    video = Video.open(path)
    assert (video.width, video.height, video.frames) == (64, 48, 8)
    assert video.fps == pytest.approx(29.97, abs=0.01)
    frames = list(video)
    assert len(frames) == 8
    for i, own in enumerate(frames):  # lossy, but the right one
        errors = [np.abs(own.astype(int) - frame(j, (48, 64))).mean() for j in range(8)]
        assert np.argmin(errors) == i


def test_frames_are_searched_as_images_are(model, files) -> None:
    video = Video.open(files['in.avi'])
    frames = list(video)
    expected = inference_detector(model, frames, masks='rle')
    forwards = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: forwards.append(len(args[0])))
    found = list(video_inference(model, video, batch_size=5))
    hook.remove()
    assert forwards == [5, 5, 5, 5, 3] and len(found) == FRAMES
    for i, ((image, sample), own, other) in enumerate(zip(found, frames, expected, strict=True)):
        assert (image == own).all() and sample.img_id == i
        assert torch.equal(sample.pred_instances.labels, other.pred_instances.labels)
        boxes = (sample.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.allclose(*boxes, atol=1e-2)


def test_a_long_video_is_never_held(model, files, monkeypatch) -> None:
    read = 0

    class Long(Video):
        def __iter__(self):
            nonlocal read
            for i in range(60):
                read += 1
                yield frame(i)

    video, lead = Long('long', 25, 80, 60, 60), 0
    for number, _ in enumerate(video_inference(model, video, batch_size=2)):
        lead = max(lead, read - number)
    assert number == 59 and lead <= 4 * 2 + 2


def run(monkeypatch, repo: Path, *args: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['video_demo.py', *map(str, args)])
    try:
        runpy.run_path(str(repo / 'demo' / 'video_demo.py'), run_name='__main__')
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_demo_keeps_rate_and_size(files, repo, tmp_path, monkeypatch, capsys) -> None:
    out, found = tmp_path / 'out.mp4', tmp_path / 'found.json'
    code = run(
        monkeypatch, repo, files['in.avi'], files['toy.py'], files['toy.pth'], '--device', 'cpu',
        '--out', out, '--json', found, '--batch-size', 4, '--score-thr', 0.4,
    )  # fmt: skip
    assert code == 0
    records = json.loads(found.read_text())
    assert f'{FRAMES} frames, {len(records)} found' in capsys.readouterr().out
    assert records and {r['image_id'] for r in records} <= set(range(FRAMES))
    assert all(r['score'] > 0.4 and r['category_name'] in CLASSES for r in records)
    video = Video.open(out)
    assert (video.fps, video.width, video.height, video.frames) == (12.5, 80, 60, FRAMES)
    plain, drawn = list(Video.open(files['in.avi'])), list(video)
    assert any(np.abs(a.astype(int) - b).max() > 100 for a, b in zip(plain, drawn))
    # red, as the palette says: R and B are not mixed up
    red = drawn[0][..., 2].astype(int) - drawn[0][..., 0]
    assert red.max() > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ['found.json', 'out.mp4']


@pytest.mark.parametrize(
    'video, options, message',
    [
        ('none.mp4', [], 'none.mp4: No such file'),
        ('text.mp4', [], 'text.mp4: not a video that OpenCV can read'),
        ('empty.mp4', [], 'empty.mp4: not a video that OpenCV can read'),
        ('in.avi', ['--out', 'a.gif'], 'a.gif: videos are written into files that end in .avi'),
        ('in.avi', ['--out', 'toy.pth/a.mp4'], 'a.mp4: cannot be written'),
        ('in.avi', ['--out', 'in.avi'], 'in.avi is the video itself'),
        ('in.avi', None, 'give --out, --json or --show'),
    ],
)
def test_the_demos_errors_are_one_line(
    files, repo, tmp_path, monkeypatch, capfd, video, options, message
) -> None:
    folder = files['toy.py'].parent
    monkeypatch.chdir(folder)
    if options is not None:
        options = options or ['--out', tmp_path / 'out.mp4']
    args = (files['toy.py'], files['toy.pth'], '--device', 'cpu', *(options or ()))
    assert run(monkeypatch, repo, folder / video, *args) == 2
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_ends_too_soon_gives_what_can_be_read(
    files, repo, tmp_path, monkeypatch, capsys
) -> None:
    args = (files['toy.py'], files['toy.pth'], '--device', 'cpu', '--out', tmp_path / 'o.avi')
    assert run(monkeypatch, repo, files['cut.avi'], *args) == 0
    printed = capsys.readouterr().out
    left = Video.open(tmp_path / 'o.avi').frames
    assert 5 < left < FRAMES and f'{left} frames' in printed


FULL = """
import resource, signal, sys
import numpy as np
from mmdet_r2.apis.video import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
with VideoWriter(sys.argv[1], 25, 320, 240) as writer:
    for i in range(60):
        writer.write(np.random.default_rng(i).integers(0, 255, (240, 320, 3), dtype=np.uint8))
"""


@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.mkv', '.webm'])
def test_a_video_that_the_disk_does_not_hold(tmp_path, suffix) -> None:
    path = tmp_path / f'a{suffix}'
    done = subprocess.run([python(), '-c', FULL, str(path)], capture_output=True, text=True)
    assert f'DataError: {path}: cannot be written to its end' in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_is_not_writable(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match='cannot be written'):
        VideoWriter(tmp_path / 'a.mp4', 25, 64, 48)
