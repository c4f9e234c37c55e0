"""A local web page that runs detectors on dropped images (``mmdet-r2 web``).

Needs gradio, the extra ``web``; nothing else of the package imports this module.
"""

import collections
import os
import socket
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import ConfigError, DataError, UserError
from ..files import path_inside, plain_name, write_json
from ..structures import DetDataSample
from ..structures.panoptic import INSTANCE_OFFSET
from ..visualization import draw_instances, draw_panoptic, get_palette
from .images import ImageSource
from .inference import inference_detector, init_detector
from .results import coco_results

try:
    import gradio as gr
except ImportError:
    raise ConfigError(
        'the web demo needs gradio: pip install gradio (or python3 tools/install.py --extras web).'
    ) from None

_KEPT = 3600  # seconds
#: Bytes of findings that are held for the sliders of all visitors together, beside the one image
#: that is being looked at: decoded, as the detector takes it, and drawn.
MAX_KEPT = 2**28
#: Bytes of a file that a visitor sends, and visitors that wait.
MAX_UPLOAD = 2**26
_MAX_WAITING = 64

BOXES_AND_MASKS, BOXES, MASKS, PANOPTIC = 'boxes and masks', 'boxes', 'masks', 'panoptic map'


@dataclass(frozen=True)
class Choice:
    """A model of the page's list: its ``config`` and ``checkpoint`` as :func:`init_detector` takes
    them.
    """

    config: str | Config
    checkpoint: str | None


class Shelf:
    """Models by the name that the page shows, loaded when first used.

    Args:
        choices: name -> config and checkpoint.
        device: where models run; see :func:`init_detector`.
        keep: models held in memory; the one unused for longest is dropped.
    """

    def __init__(
        self, choices: dict[str, Choice], device: str | None = None, keep: int = 2
    ) -> None:
        if keep < 1:
            raise ConfigError(f'--keep {keep}: expected 1 or more models.')
        if not choices:
            raise ConfigError('the web demo has no model to show: give CONFIG and CHECKPOINT.')
        self.choices = choices
        self.device = device
        self.keep = keep
        self._loaded: collections.OrderedDict[str, nn.Module] = collections.OrderedDict()
        self._lock = threading.Lock()  # of _loaded, and of the device: one image at a time

    def detect(self, name: str, image: str) -> 'Findings':
        """What the model called ``name`` finds in an image file.

        Raises:
            UserError: no such model, its weights cannot be had, or the image cannot be read.
        """
        if name not in self.choices:
            raise ConfigError(f'no model is called {name!r}; choose one of the list.')
        pixels = ImageSource(image, image).decode()
        with self._lock:
            model = self._model(name)
            sample = cast(DetDataSample, inference_detector(model, pixels, masks='rle'))
        return Findings.of(name, image, pixels.shape[:2], sample, cast(dict, model.dataset_meta))

    def _model(self, name: str) -> nn.Module:
        if name not in self._loaded:
            while len(self._loaded) >= self.keep:  # before loading: two large ones may not fit
                self._loaded.popitem(last=False)
            choice = self.choices[name]
            self._loaded[name] = init_detector(choice.config, choice.checkpoint, device=self.device)
        self._loaded.move_to_end(name)
        return self._loaded[name]


@dataclass
class Findings:
    """What one model found in one image, kept so that the threshold can be moved without running
    the model again.

    The image itself is read from ``file`` again when it is drawn: decoded, it may take a thousand
    times the file. ``size`` height and width; ``instances`` ``bboxes`` (n, 4) xyxy in pixels,
    ``scores``, ``labels`` and, of a mask model, ``masks`` as n COCO RLE; ``packed`` the (H, W)
    int32 panoptic map, compressed, with ``segments``, of a panoptic model, else None; ``folder`` of
    files to be downloaded, which goes with the findings.
    """

    model: str
    file: str
    size: tuple[int, int]
    instances: InstanceData
    packed: bytes | None
    segments: list[dict[str, Any]]
    classes: Sequence[str]
    palette: Any
    folder: tempfile.TemporaryDirectory = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix='mmdet_r2-')
    )

    @classmethod
    def of(
        cls,
        model: str,
        file: str,
        size: tuple[int, int],
        sample: DetDataSample,
        meta: dict[str, Any],
    ) -> 'Findings':
        """Take a result off the device; its masks are run lengths already."""
        instances = sample.pred_instances.cpu()
        found = sample.get('pred_panoptic_seg')
        return cls(
            model,
            file,
            size,
            instances,
            None if found is None else zlib.compress(_int32(found.sem_seg[0]), 1),
            [] if found is None else found.segments_info,
            meta.get('classes', ()),
            meta.get('palette'),
        )

    def views(self) -> list[str]:
        """The ways in which this result can be shown, the best first."""
        views = [BOXES_AND_MASKS, BOXES, MASKS] if 'masks' in self.instances else [BOXES]
        return views if self.packed is None else [PANOPTIC, *views]

    def above(self, threshold: float) -> InstanceData:
        """The instances that score at least ``threshold``."""
        return self.instances[self.instances.scores >= threshold]

    def drawing(self, threshold: float, view: str) -> np.ndarray:
        """The image with what was found, (H, W, 3) uint8 RGB.

        Raises:
            DataError: the file is not there any more.
        """
        pixels = ImageSource(self.file, self.file).decode()[..., ::-1]
        if view == PANOPTIC and self.packed is not None:
            panoptic = np.frombuffer(zlib.decompress(self.packed), np.int32).reshape(self.size)
            colors = get_palette(self.palette, len(self.classes) or INSTANCE_OFFSET)
            return draw_panoptic(pixels, panoptic, classes=self.classes or None, colors=colors)
        found = self.above(threshold)
        if view == BOXES and 'masks' in found:
            del found.masks
        number = max([*found.labels.tolist(), len(self.classes) - 1]) + 1
        return draw_instances(
            pixels,
            found,
            classes=self.classes or None,
            box_colors=get_palette(self.palette, number),
            # as wide as it takes to be seen where a large photo is shown small
            line_width=0 if view == MASKS else max(1, round(max(self.size) / 400)),
        )

    def table(self, threshold: float, view: str) -> tuple[list[str], list[list[Any]]]:
        """Headers and rows of the table: instances by descending score, or segments by size."""
        if view == PANOPTIC:
            total = self.size[0] * self.size[1]
            segments = sorted(self.segments, key=lambda segment: -segment['area'])
            return ['class', 'kind', 'pixels', 'share'], [
                [
                    self._name(segment['label']),
                    'thing' if segment['isthing'] else 'stuff',
                    segment['area'],
                    f'{segment["area"] / total:.1%}',
                ]
                for segment in segments
            ]
        found = self.above(threshold)
        return ['class', 'score', 'x1', 'y1', 'x2', 'y2'], [
            [self._name(label), round(score, 3), *[round(side, 1) for side in box]]
            for label, score, box in zip(
                found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist()
            )
        ]

    def write_json(self, threshold: float) -> str:
        """Write the instances above the threshold as COCO results, and the segments of a panoptic
        map; the path of the file.
        """
        name = Path(self.file).name
        sample = DetDataSample(metainfo=dict(img_path=name, img_id=0, ori_shape=self.size))
        sample.pred_instances = self.above(threshold)
        content = dict(
            image=name,
            height=self.size[0],
            width=self.size[1],
            model=self.model,
            results=coco_results(sample, classes=self.classes),
            segments_info=[dict(each, name=self._name(each['label'])) for each in self.segments],
        )
        path = path_inside(self.folder.name, f'{plain_name(Path(name).stem)}.json')
        write_json(path, content, indent=1)
        return os.fspath(path)

    @property
    def num_bytes(self) -> int:
        """About how much memory they take."""
        masks = sum(len(rle['counts']) for rle in self.instances.get('masks', ()))
        return 10_000 + 200 * len(self.instances) + masks + len(self.packed or b'')

    def _name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else f'class {label}'


def _int32(panoptic: Tensor) -> bytes:
    return panoptic.to(torch.int32).cpu().numpy().tobytes()


class Kept:
    """Findings of all visitors by a key, of no more than ``limit`` bytes together: the oldest make
    room, and go after an hour.
    """

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self.limit = limit
        self._found: collections.OrderedDict[str, tuple[float, Findings]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def put(self, findings: Findings, instead_of: str | None = None) -> str:
        """Keep the findings, in place of a visitor's earlier ones; their key."""
        key, now = uuid.uuid4().hex, time.monotonic()
        with self._lock:
            self._found.pop(instead_of or '', None)
            self._found[key] = (now, findings)
            while self._found:
                first = next(iter(self._found))
                since, _ = self._found[first]
                total = sum(each.num_bytes for _, each in self._found.values())
                if total <= self.limit and now - since < _KEPT:
                    break
                del self._found[first]
        return key

    def get(self, key: str | None) -> Findings | None:
        """The findings, if they are still kept."""
        with self._lock:
            return self._found.get(key or '', (0, None))[1]


def image_field() -> gr.Image:
    """An image field that leaves reading the file to the detector: the component itself answers
    files that it cannot read, and large ones, with an error of gradio's own.
    """
    field = gr.Image(
        label='Image', type='filepath', image_mode=None, sources=['upload', 'clipboard']
    )
    # not a subclass, for which gradio writes a stub file beside this one
    cast(Any, field).preprocess = lambda payload: payload and payload.path
    return field


def _error(text: str) -> gr.Error:
    """What the page says for long enough to be read, and the terminal does not."""
    return gr.Error(text, duration=10, print_exception=False)


def build_app(shelf: Shelf, threshold: float = 0.3) -> gr.Blocks:
    """The page: a model's name, an image, and what the one finds in the other.

    Args:
        shelf: the models to choose from; the first is chosen at the start.
        threshold: score at which the slider starts.
    """
    names = list(shelf.choices)
    # gradio's copies of images and files, too, are removed after the hour that results are kept
    with gr.Blocks(
        title='mmdet_r2', analytics_enabled=False, delete_cache=(_KEPT // 6, _KEPT)
    ) as app:
        gr.Markdown('# mmdet_r2\nChoose a model, drop an image, press Detect.')
        kept, found = Kept(), gr.State(None, time_to_live=_KEPT)  # the key of each visitor's
        with gr.Row():
            with gr.Column(scale=1):
                name = gr.Dropdown(names, value=names[0], label='Model', filterable=True)
                image = image_field()
                button = gr.Button('Detect', variant='primary')
                score = gr.Slider(0, 1, threshold, step=0.01, label='Score threshold')
                view = gr.Radio([BOXES], value=BOXES, label='Show')
            with gr.Column(scale=2):
                summary = gr.Markdown()
                drawing = gr.Image(
                    label='Found',
                    format='png',
                    interactive=False,
                    buttons=['download', 'fullscreen'],
                )
                table = gr.Dataframe(label='Detections', interactive=False, wrap=True)
                download = gr.DownloadButton('Download JSON', interactive=False)

        def detect(
            name: str, file: str | None, threshold: float, view: str, key: str | None
        ) -> tuple:
            if file is None:
                raise _error('There is no image yet: drop one into the field on the left.')
            try:
                result = shelf.detect(name, file)
            except UserError as error:
                raise _error(str(error).replace(file, Path(file).name)) from None
            views, before = result.views(), kept.get(key)
            # the visitor's choice stays while it is one among the same
            if before is None or before.views() != views:
                view = views[0]
            shown = showing(result, threshold, view)
            return kept.put(result, key), gr.Radio(views, value=view), *shown

        def show(key: str | None, threshold: float, view: str) -> tuple:
            if key is None:  # the slider was moved before anything was detected
                return '', None, gr.Dataframe(), gr.DownloadButton()
            result = kept.get(key)
            try:
                if result is not None:
                    return showing(result, threshold, view)
            except DataError:  # its file was removed
                pass
            raise _error('The results are not kept any more: press Detect again.')

        def showing(result: Findings, threshold: float, view: str) -> tuple:
            headers, rows = result.table(threshold, view)
            return (
                f'**{len(rows)}** found by {result.model}',
                result.drawing(threshold, view),
                gr.Dataframe(value=rows, headers=headers),
                gr.DownloadButton(value=result.write_json(threshold), interactive=True),
            )

        def clear() -> tuple:
            return '', None, gr.Dataframe(value=[]), gr.DownloadButton(interactive=False)

        shown = [summary, drawing, table, download]
        # of all visitors: what is decoded of a large image takes gigabytes
        one_at_a_time: Any = dict(concurrency_limit=1, concurrency_id='image')
        # cleared first, so that what an error leaves is not taken for its result
        button.click(clear, None, shown, show_progress='hidden', api_visibility='private').then(
            detect,
            [name, image, score, view, found],
            [found, view, *shown],
            api_name='detect',
            show_progress_on=drawing,
            **one_at_a_time,
        )
        for control in (score.release, view.input):
            control(
                show,
                [found, score, view],
                shown,
                show_progress='hidden',
                api_visibility='private',
                **one_at_a_time,
            )
    return app.queue(max_size=_MAX_WAITING)


def serve(
    shelf: Shelf,
    threshold: float = 0.3,
    host: str = '127.0.0.1',
    port: int = 7860,
    open_browser: bool = False,
) -> None:
    """Serve the page until interrupted; its address is printed.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: the port is taken, or there is no such host or port.
    """
    try:
        if port == 0:
            with socket.socket() as probe:
                probe.bind((host, 0))
                port = probe.getsockname()[1]
        build_app(shelf, threshold).launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
        )
    except (OSError, OverflowError) as error:
        raise ConfigError(f'port {port} of {host} cannot be used: {error}') from None
    print(f'Serving {len(shelf.choices)} models on http://{host}:{port} (Ctrl-C stops)', flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
