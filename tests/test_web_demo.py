"""The web demo: what it shows, and the page itself in a real browser."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from warm_python import python

from mmdet_r2.errors import ConfigError
from mmdet_r2.files import write_image
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import encode_rle
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET, segments

pytest.importorskip('gradio', reason='the web demo needs gradio (requirements/web.txt)')

from analysis_run import Run, small_run

from mmdet_r2.apis import web

CLASSES = ('cat', 'dog', 'sky')
LOW = 0.05  # where the slider of the page starts


@pytest.fixture
def findings(tmp_path: Path) -> web.Findings:
    """Two instances and a panoptic map of a cat, a dog, sky and pixels of no segment."""
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:20, 10:30] = True
    masks[1, 20:30, 30:50] = True
    panoptic = torch.full((1, 40, 60), 3)
    panoptic[0, :4] = 2
    panoptic[0, 5:20, 10:30] = INSTANCE_OFFSET
    panoptic[0, 20:30, 30:50] = 2 * INSTANCE_OFFSET + 1
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.tensor([[10.0, 5, 30, 20], [30, 20, 50, 30]]),
            scores=torch.tensor([0.9, 0.4]),
            labels=torch.tensor([0, 1]),
            masks=encode_rle(masks),
        ),
        pred_panoptic_seg=PixelData(sem_seg=panoptic),
    )
    sample.pred_panoptic_seg.set_metainfo(dict(segments_info=segments(panoptic, 3, 2)))
    photo = tmp_path / 'photo.bmp'
    write_image(photo, np.full((40, 60, 3), 100, np.uint8))
    meta = dict(classes=CLASSES, palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    return web.Findings.of('model', str(photo), (40, 60), sample, meta)


def test_table_follows_the_threshold(findings: web.Findings) -> None:
    headers, rows = findings.table(0.3, web.BOXES)
    assert headers == ['class', 'score', 'x1', 'y1', 'x2', 'y2']
    assert rows == [['cat', 0.9, 10, 5, 30, 20], ['dog', 0.4, 30, 20, 50, 30]]
    assert findings.table(0.5, web.BOXES)[1] == rows[:1]
    assert findings.table(0.95, web.BOXES)[1] == []


def test_table_of_a_panoptic_map_has_its_segments(findings: web.Findings) -> None:
    headers, rows = findings.table(0.95, web.PANOPTIC)
    assert headers == ['class', 'kind', 'pixels', 'share']
    assert rows == [
        ['cat', 'thing', 300, '12.5%'],
        ['sky', 'stuff', 240, '10.0%'],
        ['dog', 'thing', 200, '8.3%'],
    ]


def test_views_draw_what_they_say(findings: web.Findings) -> None:
    assert findings.views() == [web.PANOPTIC, web.BOXES_AND_MASKS, web.BOXES, web.MASKS]
    inside, plain = (12, 28), [100, 100, 100]  # of the cat, beside its text
    drawings = {view: findings.drawing(0.5, view) for view in findings.views()}
    for view, drawing in drawings.items():
        assert drawing.shape == (40, 60, 3)
        tinted = drawing[inside].tolist() != plain
        assert tinted == (view != web.BOXES), view
    assert drawings[web.BOXES][20, 20].tolist() == [255, 0, 0]  # the box's lower edge
    assert drawings[web.MASKS][20, 20].tolist() == plain
    assert drawings[web.PANOPTIC][2, 50].tolist() != plain  # the sky
    assert drawings[web.PANOPTIC][35, 5].tolist() == plain  # no segment
    # the dog is below the threshold
    assert drawings[web.BOXES_AND_MASKS][25, 45].tolist() == plain
    assert findings.drawing(0.3, web.BOXES_AND_MASKS)[25, 45].tolist() != plain
    assert (findings.drawing(0.95, web.BOXES_AND_MASKS) == 100).all()


def test_file_of_results(findings: web.Findings) -> None:
    from pycocotools import mask as coco_mask

    path = Path(findings.write_json(0.5))
    assert path.name == 'photo.json'
    content = json.loads(path.read_text())
    (result,) = content['results']
    assert result['bbox'] == [10, 5, 20, 15] and result['score'] == pytest.approx(0.9)
    assert coco_mask.area(result['segmentation']) == 300
    assert (content['height'], content['width']) == (40, 60)
    assert [s['area'] for s in content['segments_info']] == [240, 300, 200]
    # one file for all positions of the slider, gone with the findings
    assert findings.write_json(0.3) == str(path) and len(list(path.parent.iterdir())) == 1
    findings.folder.cleanup()
    assert not path.parent.exists()


def test_what_is_kept_for_visitors_is_bounded(findings: web.Findings) -> None:
    assert findings.num_bytes < 15_000
    kept = web.Kept(5 * findings.num_bytes)
    keys = [kept.put(dataclasses.replace(findings)) for _ in range(20)]
    assert [kept.get(key) is not None for key in keys] == [False] * 15 + [True] * 5
    again = kept.put(findings, keys[19])
    assert kept.get(keys[19]) is None and kept.get(keys[16]) and kept.get(again)
    assert kept.get(None) is None
    huge = dataclasses.replace(findings, packed=bytes(10**6))
    assert kept.get(kept.put(huge)) is None and kept.get(again) is None


@pytest.mark.parametrize('host, port', [('127.0.0.1', 99999), ('300.1.1.1', 0)])
def test_an_address_that_cannot_be_served(host: str, port: int) -> None:
    shelf = web.Shelf({'a': web.Choice('a', None)})
    with pytest.raises(ConfigError, match=f'port {port} of {host} cannot be used'):
        web.serve(shelf, host=host, port=port)


def test_the_detector_reads_the_file_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / 'note.jpg').write_text('no image')
    payload = SimpleNamespace(path=str(tmp_path / 'note.jpg'))
    assert web.image_field().preprocess(payload) == payload.path
    assert web.image_field().preprocess(None) is None


def test_shelf_keeps_the_models_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(config: str, checkpoint: str, device: str) -> SimpleNamespace:
        loaded.append(config)
        return SimpleNamespace(dataset_meta={}, config=config)

    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0)
        )
    )
    monkeypatch.setattr(web, 'init_detector', load)
    monkeypatch.setattr(web, 'inference_detector', lambda model, image, masks: sample)
    image = tmp_path / 'x.png'
    write_image(image, np.zeros((4, 4, 3), np.uint8))
    shelf = web.Shelf({name: web.Choice(name, None) for name in 'abc'}, 'cpu', keep=2)
    for name in 'abacab':
        found = shelf.detect(name, str(image))
        assert found.model == name and found.table(0, web.BOXES)[1] == []
    assert loaded == ['a', 'b', 'c', 'b']  # b made room for c, not a, which was used since
    with pytest.raises(ConfigError, match="'d'"):
        shelf.detect('d', str(image))
    with pytest.raises(ConfigError, match='--keep 0'):
        web.Shelf(shelf.choices, keep=0)


def test_unknown_model_of_the_command_line(repo: Path) -> None:
    done = subprocess.run(
        [python(), str(repo / 'demo/web_demo.py'), 'mask_rcnn_r2_101_fpn_2x_coc'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'nearest known: mask_rcnn_r2_101_fpn_2x_coco' in done.stderr
    assert 'Traceback' not in done.stderr


# The page, in Chromium.


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory)


@pytest.fixture(scope='module')
def page(run: Run, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser showing the page of a server that has the small model, and one without a file."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip('needs Chromium and its driver (Debian: chromium, chromium-driver)')
    folder = tmp_path_factory.mktemp('browser')
    with open(folder / 'server.log', 'w') as log:
        server = subprocess.Popen(
            [
                python(), str(repo / 'demo/web_demo.py'), '--device', 'cpu', '--port', '0',
                '--score-thr', str(LOW),
                '--model', str(run.config), str(run.checkpoint),
                '--model', str(run.config), str(folder / 'missing.pth'),
            ],
            stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ, PYTHONPATH=str(repo)),
        )  # fmt: skip
    browser = None
    try:
        address = _eventually(
            lambda: re.search(r'http://\S+', (folder / 'server.log').read_text()), 60
        )[0]
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            'headless=new', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
            'disable-background-networking', 'disable-component-update', 'disable-sync',
            'window-size=1400,1000', f'user-data-dir={folder}/profile',
        ):  # fmt: skip
            options.add_argument(f'--{flag}')
        options.add_experimental_option(
            'prefs', {'download.default_directory': str(folder), 'download.prompt_for_download': 0}
        )
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        browser.get(address)
        browser.folder = folder
        yield browser
    finally:
        if browser is not None:
            browser.quit()
        server.terminate()
        server.wait(20)


def _eventually(look: Callable[[], Any], seconds: float = 20) -> Any:
    """What ``look`` gives once that is something."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while True:
        # the page may be drawn anew while it is read
        with contextlib.suppress(StaleElementReferenceException):
            if found := look():
                return found
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.1)


def _text(browser: Any) -> str:
    return browser.find_element('tag name', 'body').text


def _button(browser: Any, text: str) -> Any:
    return _eventually(
        lambda: [
            each
            for each in browser.find_elements('css selector', 'button, a')
            if each.text.strip() == text
        ]
    )[0]


def _rows(browser: Any) -> list[list[str]]:
    """The rows of the table that is shown."""
    rows = browser.find_elements('css selector', '[role=row]')
    cells = [
        [c.text.strip() for c in row.find_elements('css selector', '[role=gridcell]')]
        for row in rows
    ]
    return [row for row in cells if any(row)]


def _found(browser: Any, number: int) -> bool:
    return f'{number} found by' in _text(browser)


def _picture(browser: Any) -> str:
    """Address of the drawing, which is new for each."""
    images = browser.find_elements('css selector', 'img')
    return images[-1].get_attribute('src') if images else ''


@pytest.mark.timeout(180)
def test_page_in_a_browser(page: Any, run: Run) -> None:
    from mmdet_r2.apis import inference_detector, init_detector

    image = run.root / 'data/train/000000.jpg'
    model = init_detector(str(run.config), str(run.checkpoint), device='cpu')
    scores = inference_detector(model, image).pred_instances.scores
    middle = round(scores[len(scores) // 2].item() + 0.01, 2)
    low, high = int((scores >= LOW).sum()), int((scores >= middle).sum())
    assert 0 < high < low

    _button(page, 'Detect').click()
    _eventually(lambda: 'There is no image yet' in _text(page))

    page.find_element('css selector', 'input[type=file]').send_keys(str(image))
    _eventually(lambda: page.find_elements('css selector', 'button[aria-label="Clear"], img'))
    _eventually(lambda: _picture(page))
    time.sleep(0.5)  # the upload is announced to the server after the preview is there
    _button(page, 'Detect').click()
    _eventually(lambda: _found(page, low), 60)
    rows = _eventually(lambda: _rows(page))
    assert len(rows) == low
    assert float(rows[0][1]) == pytest.approx(scores[0].item(), abs=0.006)
    both = _eventually(lambda: _picture(page))
    page.save_screenshot(str(page.folder / 'page.png'))
    if os.environ.get('MMDET_R2_SCREENSHOTS'):  # for those who want to look
        shutil.copy(page.folder / 'page.png', os.environ['MMDET_R2_SCREENSHOTS'])

    slider = page.find_element('css selector', 'input[type=number]')
    slider.send_keys('\ue009a\ue000', str(middle), '\ue004')  # select all, type, leave
    _eventually(lambda: _found(page, high))
    fewer = _eventually(lambda: (src := _picture(page)) != both and src)

    choice = [e for e in page.find_elements('css selector', 'label') if e.text == 'masks']
    choice[0].click()
    _eventually(lambda: _picture(page) not in (both, fewer))

    _button(page, 'Download JSON').click()
    file = page.folder / f'{image.stem}.json'
    _eventually(file.exists)
    content = json.loads(_eventually(file.read_text))
    assert len(content['results']) == high

    page.find_element('css selector', 'input[aria-label="Model"]').click()
    option = _eventually(
        lambda: [e for e in page.find_elements('css selector', 'li') if 'missing.pth' in e.text]
    )
    option[0].click()
    _button(page, 'Detect').click()
    _eventually(lambda: 'no such checkpoint file' in _text(page))
