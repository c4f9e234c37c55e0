"""What inference takes for an image, where it may be called, and what is said of bad images."""

import contextlib
import copy
import functools
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from toy_detector import CLASSES, lively, toy_config

from mmdet_r2.apis import DetInferencer, images, inference_detector, init_detector
from mmdet_r2.apis.images import find_images, image_source
from mmdet_r2.apis.inference import image_pipeline
from mmdet_r2.apis.stream import stream
from mmdet_r2.errors import CheckpointError, ConfigError, DataError
from mmdet_r2.inference import prepare_for_inference


@pytest.fixture(scope='module')
def model() -> nn.Module:
    torch.manual_seed(0)
    return lively(init_detector(toy_config(), device='cpu', prepare=False))


def picture(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """(H, W, 3) uint8 BGR, every channel different."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[::-1])


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """Address of a folder with a picture, a text and no more."""
    folder = tmp_path_factory.mktemp('www')
    cv2.imwrite(str(folder / 'a b.png'), picture(0))
    (folder / 'page.html').write_text('<html>')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def same(a, b) -> None:
    a, b = a.pred_instances, b.pred_instances
    assert len(a) == len(b) > 0
    assert torch.equal(a.labels, b.labels)
    assert torch.allclose(a.scores, b.scores, atol=1e-4)
    assert torch.allclose(a.bboxes, b.bboxes, atol=1e-2)
    differ = (a.masks != b.masks).flatten(1).sum(1)
    assert (differ <= 0.001 * b.masks.flatten(1).sum(1) + 1).all()


# ------------------------------------------------------------------------------- kinds of images


def test_every_kind_of_image_gives_the_same(model, server, tmp_path) -> None:
    array = picture(0)
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), array)
    rgb = np.ascontiguousarray(array[..., ::-1])
    chw = torch.from_numpy(rgb).permute(2, 0, 1)
    kinds = [
        array, str(path), path, path.read_bytes(), bytearray(path.read_bytes()),
        PIL.Image.fromarray(rgb), PIL.Image.fromarray(rgb).convert('RGBA'), PIL.Image.open(path),
        chw, chw.float() / 255, f'{server}/a%20b.png?size=1#top', array[:, ::-1][:, ::-1],
    ]  # fmt: skip
    expected = inference_detector(model, array)
    for given, found in zip(kinds, inference_detector(model, kinds, batch_size=5), strict=True):
        same(found, expected)
        assert found.get('img_path') == (
            os.fspath(given) if isinstance(given, str | Path) else None
        )
    for image in kinds:
        same(inference_detector(model, image), expected)
    # any iterable, read no further than is needed
    same(inference_detector(model, (image for image in kinds[:3]))[2], expected)
    same(inference_detector(model, {'a': 0, str(path): 1}.keys() - {'a'})[0], expected)


def test_the_inferencer_takes_an_address(model, server, tmp_path) -> None:
    inferencer = DetInferencer(model, show_progress=False)
    url = f'{server}/a%20b.png?size=1'
    (one,) = inferencer(url, out_dir=tmp_path, no_save_pred=False)['predictions']
    assert one['scores'] == inference_detector(model, picture(0)).pred_instances.scores.tolist()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.*'))
    assert found == ['preds/a b.json', 'vis/a b.png']


def test_grey_images_of_every_kind(model) -> None:
    grey = picture(1)[..., 0]
    expected = inference_detector(model, np.stack([grey] * 3, -1))
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 17)
    assert deep.mode == 'I;16'
    kinds = (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None], deep)
    for image in (*kinds, PIL.Image.fromarray(grey), PIL.Image.fromarray(grey).convert('LA')):
        same(inference_detector(model, image), expected)


def test_a_rotated_photo_is_turned_in_every_kind(model, tmp_path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(picture(2)).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    found = inference_detector(model, tmp_path / 'a.jpg')
    assert found.ori_shape == (80, 60)
    for image in ((tmp_path / 'a.jpg').read_bytes(), PIL.Image.open(tmp_path / 'a.jpg')):
        assert inference_detector(model, image).ori_shape == (80, 60)


def test_an_own_callable_gets_a_path_or_an_array(model, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), picture(0))
    inner, given = image_pipeline(model), []

    def pipeline(results: dict) -> dict:
        given.append(sorted(results))
        image = results.get('img', results.get('img_path'))
        return inner(dict(img_id=0, source=image_source(image, 'x')))

    content = (tmp_path / 'a.png').read_bytes()
    a, b = inference_detector(model, [tmp_path / 'a.png', content], pipeline)
    same(a, b)
    assert given == [['img_id', 'img_path'], ['img', 'img_id', 'img_shape', 'ori_shape']]


def test_masks_as_run_lengths(model) -> None:
    from mmdet_r2.structures.masks import encode_rle

    plain = inference_detector(model, picture(0)).pred_instances
    for tta in (False, True):
        found = inference_detector(model, picture(0), masks='rle', tta=tta).pred_instances
        assert isinstance(found.masks, list) and found.masks[0]['size'] == [60, 80]
    found = inference_detector(model, picture(0), masks='rle').pred_instances
    assert found.masks == encode_rle(plain.masks)
    assert len(found[found.scores > found.scores.median()].masks) < len(found)


# --------------------------------------------------------------------------------------- streams


def test_images_of_one_size_take_the_fewest_passes(model) -> None:
    batches = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    images = [picture(i) for i in range(10)]
    together = inference_detector(model, images, batch_size=4)
    hook.remove()
    assert batches == [4, 4, 2]
    for image, found in zip(images, together, strict=True):
        alone = inference_detector(model, image).pred_instances
        assert torch.equal(alone.labels, found.pred_instances.labels)
        assert torch.allclose(alone.bboxes, found.pred_instances.bboxes, atol=1e-3)


def test_a_stream_reads_only_a_little_ahead_and_keeps_the_order(model) -> None:
    read = 0

    def images():
        nonlocal read
        for i in range(80):
            read += 1
            # the first has a size of its own, and would wait for another one for ever
            yield picture(i, (80, 60) if i == 0 else (60, 80))

    lead, seen = 0, []
    for result in stream(model, images(), image_pipeline(model), batch_size=2, masks='rle'):
        lead = max(lead, read - result.index)
        seen.append(result.index)
    assert seen == list(range(80)) and lead <= 16 * 2 + 2 * 2 + 2


def test_a_stream_can_pass_over_what_is_unreadable(model, tmp_path) -> None:
    (tmp_path / 'bad.png').write_bytes(b'no image')
    images = [picture(0), tmp_path / 'bad.png', 3, tmp_path / 'none.png', picture(1)]
    results = list(stream(model, images, image_pipeline(model), batch_size=2, skip_unreadable=True))
    assert [r.sample is not None for r in results] == [True, False, False, False, True]
    assert [str(r.error) if r.error else '' for r in results] == [
        '', f'cannot read image {tmp_path / "bad.png"}: not an image, or corrupt',
        'imgs[2] is a int; expected a path, URL, bytes, BGR array, PIL image or RGB tensor.',
        f'cannot read image {tmp_path / "none.png"}: No such file or directory', '',
    ]  # fmt: skip


@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(num_workers=-1), dict(masks='png')])
def test_a_wrong_option_is_refused(model, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        inference_detector(model, picture(0), **wrong)


# ----------------------------------------------------------------------- threads and processes


@pytest.mark.parametrize('tta', [False, True])
def test_several_threads_share_a_model(tta) -> None:
    plain = lively(init_detector(toy_config(), device='cpu', prepare=False))
    images = [picture(i, shape) for i in range(2) for shape in ((60, 80), (80, 60))]
    expected = inference_detector(plain, images, tta=tta)
    # with nothing kept from before
    model = prepare_for_inference(copy.deepcopy(plain))
    model.__dict__.pop('_test_pipeline', None)
    model.__dict__.pop('_tta_pipeline', None)

    def work(number: int) -> None:
        order = np.random.default_rng(number).permutation(len(images))[:3]
        chosen = [images[i] for i in order]
        for i, found in zip(order, inference_detector(model, chosen, tta=tta), strict=True):
            same(found, expected[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(5)))


FORK = """
import multiprocessing, os, sys
sys.path.insert(0, 'tests')
import numpy as np, torch
torch.set_num_threads(4)
torch.manual_seed(0)  # of some weights nothing is found
from toy_detector import lively, toy_config
from mmdet_r2.apis import DetInferencer, inference_detector, init_detector
model = lively(init_detector(toy_config(), device='cpu', prepare=False))
image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
def scores(_=0):
    found = inference_detector(model, [image] * 3, batch_size=2)
    return found[2].pred_instances.scores
expected = scores()  # the parent's threads are running
torch.randn(2000, 2000) @ torch.randn(2000, 2000)
with multiprocessing.get_context('fork').Pool(2) as pool:
    found = pool.map_async(scores, range(4)).get(60)
assert len(expected) and all(torch.allclose(f, expected, atol=1e-4) for f in found)
assert torch.get_num_threads() == 4
print('done')
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_process_uses_the_model_of_its_parent(repo) -> None:
    done = subprocess.run(
        [sys.executable, '-c', FORK], cwd=repo, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith('done'), done.stderr[-2000:]


# ------------------------------------------------------------------------------------- bad input


def test_a_file_of_too_many_pixels_is_not_decoded(model, tmp_path, monkeypatch) -> None:
    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            crc = zlib.crc32(kind + data).to_bytes(4, 'big')
            return len(data).to_bytes(4, 'big') + kind + data + crc

        header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + b'\x08\x02\x00\x00\x00'
        body = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')
        return b'\x89PNG\r\n\x1a\n' + body

    (tmp_path / 'bomb.png').write_bytes(png(60_000, 50_000))
    for image in (tmp_path / 'bomb.png', (tmp_path / 'bomb.png').read_bytes()):
        with pytest.raises(DataError) as caught:
            inference_detector(model, image)
        message = str(caught.value)
        assert '60000 x 50000' in message and '200000000' in message and '\n' not in message
        assert 'set MMDET_R2_MAX_PIXELS' in message
    with pytest.raises(DataError, match=r'bomb\.png: 60000'):
        inference_detector(model, tmp_path / 'bomb.png')

    for suffix in ('jpg', 'png', 'webp', 'tiff', 'bmp'):
        path = tmp_path / f'a.{suffix}'
        cv2.imwrite(str(path), picture(0))
        monkeypatch.setenv('MMDET_R2_MAX_PIXELS', '4799')
        with pytest.raises(DataError, match='80 x 60 pixels are more than the limit of 4799'):
            inference_detector(model, path)
        with pytest.raises(DataError, match='80 x 60 pixels'):
            inference_detector(model, PIL.Image.open(path))
        monkeypatch.setenv('MMDET_R2_MAX_PIXELS', '4.8e3')
        assert inference_detector(model, path).ori_shape == (60, 80)
    for wrong in ('many', 'inf'):
        monkeypatch.setenv('MMDET_R2_MAX_PIXELS', wrong)
        with pytest.raises(ConfigError, match=f'MMDET_R2_MAX_PIXELS={wrong}'):
            inference_detector(model, path)


def broken(tmp_path: Path) -> dict:
    """Images that cannot be used, with what the message says of each."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(0)).save(buffer, 'jpeg')
    cut = buffer.getvalue()[:-200]
    (tmp_path / 'cut.jpg').write_bytes(cut)
    (tmp_path / 'empty.jpg').write_bytes(b'')
    return {
        r'cut\.jpg: truncated JPEG': tmp_path / 'cut.jpg',
        r'empty\.jpg: the file is empty': tmp_path / 'empty.jpg',
        r'imgs\[0\]: truncated JPEG': cut,
        r'imgs\[0\]: the file is empty': b'',
        r'cut\.jpg: .*truncated': PIL.Image.open(tmp_path / 'cut.jpg'),
        'Is a directory': tmp_path,
        'nothing was found|No such file|its name is empty': '',
        'test pipeline fails on this image of 40000 x 1 pixels': np.zeros((1, 40000, 3), np.uint8),
        'mode F, whose range': PIL.Image.fromarray(np.zeros((4, 4), np.float32)),
        r'tensor of shape \(1, 3, 4, 4\)': torch.zeros(1, 3, 4, 4),
        r'tensor of shape \(4, 4, 3\)': torch.zeros(4, 4, 3, dtype=torch.uint8),
        r'torch\.int64': torch.zeros(3, 4, 4, dtype=torch.int64),
        'values from 0 to 255': torch.tensor([0, 255.0]).expand(3, 4, 2),
        'values from nan': torch.full((3, 4, 4), torch.nan),
        r'array of shape \(2, 4, 4, 3\)': np.zeros((2, 4, 4, 3), np.uint8),
        r'array of shape \(0, 4, 3\)': np.zeros((0, 4, 3), np.uint8),
    }


def test_bad_images_are_one_line(model, tmp_path) -> None:
    for message, image in broken(tmp_path).items():
        with pytest.raises(DataError, match=message) as caught:
            inference_detector(model, image)
        assert '\n' not in str(caught.value)
    with pytest.raises(TypeError):
        inference_detector(model, 3)  # not even an iterable


def test_bad_addresses_are_one_line(model, server) -> None:
    with pytest.raises(DataError, match=r'none\.png: cannot be downloaded \(HTTP 404'):
        inference_detector(model, f'{server}/none.png')
    with pytest.raises(DataError, match=r'page\.html: not an image'):
        inference_detector(model, f'{server}/page.html')
    with pytest.raises(DataError, match=r'refused'):
        inference_detector(model, 'http://127.0.0.1:9/a.jpg')
    with pytest.raises(DataError, match=r'cannot be downloaded'):
        inference_detector(model, 'http://[::bad/a.jpg')


def test_images_are_found_in_folders_and_patterns(tmp_path, monkeypatch) -> None:
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'folder.jpg').mkdir()
    for name in ('b.PNG', 'a.jpg', 'notes.txt', 'sub/c.tif', '._a.jpg'):
        (tmp_path / name).write_text('')

    def names(source) -> list[str]:
        return [Path(path).name for path in find_images(source)]

    assert names(tmp_path) == ['a.jpg', 'b.PNG']
    assert names(f'{tmp_path}/**/*.tif') == ['c.tif']
    assert names(tmp_path / 'notes.txt') == ['notes.txt']  # what is named is taken
    assert find_images('HTTP://host/a.jpg') == ['HTTP://host/a.jpg']
    monkeypatch.setenv('HOME', str(tmp_path))
    for source in ('~/a.jpg', '~/a*.jpg'):
        assert find_images(source) == [str(tmp_path / 'a.jpg')]
    for nothing in (tmp_path / 'x.jpg', tmp_path / '*.gif'):
        with pytest.raises(DataError, match='no such file or folder'):
            find_images(nothing)
    (tmp_path / 'void').mkdir()
    with pytest.raises(DataError, match='void: the folder has no images'):
        find_images(tmp_path / 'void')


# -------------------------------------------------------------------------------- weights 'auto'


def test_auto_means_the_published_weights(monkeypatch, tmp_path) -> None:
    asked = []

    def load(model, checkpoint):
        asked.append(checkpoint)
        raise CheckpointError('not here')

    monkeypatch.setattr('mmdet_r2.apis.inference.load_checkpoint', load)
    name = 'mask_rcnn_r2_101_fpn_2x_coco'
    with pytest.raises(CheckpointError, match='not here'):
        init_detector(name, 'auto', device='cpu')
    assert asked == [name]
    with pytest.raises(CheckpointError, match="checkpoint 'auto'"):
        init_detector(toy_config(), 'auto', device='cpu')
    assert CLASSES and len(asked) == 1


def trickle(connection: socket.socket, kind: str) -> None:
    """Answer a request in a way that never ends."""
    connection.recv(65536)
    head = b'HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n'
    start = {
        'headers': b'HTTP/1.1 200 OK\r\nX: ',
        'body': head + b'Content-Length: 100000\r\n\r\n',
        'endless': head + b'\r\n',
        'chunks': head + b'Transfer-Encoding: chunked\r\n\r\n5;x=',
    }[kind]
    with contextlib.suppress(OSError), connection:
        connection.sendall(start)
        for _ in range(300):
            connection.sendall(b'y')
            time.sleep(0.05)


@pytest.mark.parametrize('kind', ['headers', 'body', 'endless', 'chunks'])
def test_an_address_that_trickles_is_given_up(monkeypatch, kind) -> None:
    monkeypatch.setattr(images, '_TIMEOUT', 0.4)
    with socket.create_server(('127.0.0.1', 0)) as listening:
        threading.Thread(target=lambda: trickle(listening.accept()[0], kind), daemon=True).start()
        url = f'http://127.0.0.1:{listening.getsockname()[1]}/a.jpg'
        begin = time.monotonic()
        with pytest.raises(DataError, match='127') as error:
            images.image_source(url, '').decode()
        assert time.monotonic() - begin < 5 and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'answer',
    [
        b'302 Found\r\nLocation: file:///etc/hostname\r\n\r\n',
        b'302 Found\r\nLocation: ftp://127.0.0.1/a\r\n\r\n',
        b'302 Found\r\nLocation: /a.jpg\r\n\r\n',
        b'200 OK\r\nContent-Length: 5000\r\n\r\nabc',
        b'200 OK\r\nContent-Length: 999999999999\r\n\r\nabc',
        b'200 OK\r\nContent-Length: -1\r\n\r\n',
        b'200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
        b'200 OK\r\n\r\n<html>',
        b'999 \xff\r\n\r\n',
        b'',
    ],
)
def test_addresses_that_do_not_give_an_image(answer) -> None:
    def serve() -> None:
        with contextlib.suppress(OSError):  # the end of the test closes it
            for _ in range(30):
                with listening.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(b'HTTP/1.1 ' * bool(answer) + answer)

    with socket.create_server(('127.0.0.1', 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        url = f'http://127.0.0.1:{listening.getsockname()[1]}/a.jpg'
        with pytest.raises(DataError, match='127') as error:
            images.image_source(url, '').decode()
        assert '\n' not in str(error.value)
