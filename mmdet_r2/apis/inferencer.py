"""A detector as one callable for pipelines, with the signature of mmdetection 3.x's
``DetInferencer``: images in, dictionaries, drawings and files out.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from ..errors import ConfigError, DataError
from ..files import path_inside, write_image, write_json
from ..progress import progress
from ..registry import init_scope, without_scope
from ..structures import DetDataSample
from ..visualization import DetLocalVisualizer
from .images import Image, ImageSource, Names, find_images, image_source, is_image
from .inference import image_pipeline, init_detector, test_transforms
from .model_argument import find_detector, is_config_file
from .results import prediction
from .stream import Masks, TestPipeline, stream


@dataclass
class Inference:
    """What became of one image.

    Attributes:
        name: its path or address, else ``imgs[i]``.
        sample: the detector's result, masks as run lengths; None where the image is unreadable.
        visualization: the drawing (H, W, 3) uint8 RGB, if one was asked for.
        out_file: where the drawing was written, if it was.
        error: why the image could not be read, else None.
    """

    name: str
    sample: DetDataSample | None = None
    visualization: np.ndarray | None = None
    out_file: str | None = None
    error: DataError | None = None


class DetInferencer:
    """Detects, draws and writes, with constructor, call and result of mmdetection 3.x.

    Args:
        model: name of a published model (its weights are fetched, unless ``weights`` says
            otherwise), a checkpoint (its config is inside), folder of a run, path of a config, a
            ``Config``, or a detector from :func:`~mmdet_r2.apis.init_detector`. None: the model
            that ``weights`` belongs to.
        weights: path, URL or zoo name of a checkpoint. None with a config file: random weights.
        device: default: the first GPU where there is CUDA, else the CPU.
        scope: accepted for compatibility; there is only one.
        palette: colours of drawings; 'none': the checkpoint's or data set's own.
        show_progress: a bar on stderr while :meth:`__call__` works.

    Attributes:
        model: the detector.
        cfg: its config.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Config | nn.Module | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        scope: str | None = 'mmdet_r2',
        palette: str = 'none',
        show_progress: bool = True,
    ) -> None:
        if isinstance(model, nn.Module):
            if weights is not None or device is not None:
                raise ConfigError(
                    'DetInferencer: a detector that is built already takes no weights or device.'
                )
            self.model = model
            if palette != 'none':
                model.dataset_meta = {**_meta(model), 'palette': palette}  # type: ignore[assignment]
        else:
            if not isinstance(model, Config) and (weights or not is_config_file(model)):
                model, weights = find_detector(model, weights)
            self.model = init_detector(cast(Any, model), weights, palette, device)
        self.cfg = self.model.cfg
        self.show_progress = show_progress
        self._visualizer: DetLocalVisualizer | None = None
        self._drawing_names: dict[str, Names] = {}
        self._prediction_names: dict[str, Names] = {}

    def __call__(
        self,
        inputs: Image | Iterable[Image],
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        no_save_vis: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        out_dir: str | os.PathLike[str] = '',
        *,
        tta: bool = False,
        num_workers: int = 2,
    ) -> dict[str, list]:
        """Detect in all of ``inputs``. Only what is returned stays in memory.

        Args:
            inputs: a path, folder, pattern (``photos/*.jpg``) or address; an image in another form
                (see :func:`~mmdet_r2.apis.inference_detector`); or any iterable of images.
            batch_size: images computed at once, at most.
            return_vis: return drawings.
            show: open a window with each.
            wait_time: seconds that it stays; 0 waits for a key.
            no_save_vis: write no drawings to ``out_dir``.
            draw_pred: draw predictions; False gives the bare images.
            pred_score_thr: findings of at most this score are not drawn. All are returned.
            return_datasamples: return ``DetDataSample`` objects, with masks (n, H, W) bool, instead
                of dictionaries; they are not written.
            print_result: print the predictions.
            no_save_pred: write no predictions to ``out_dir`` (mmdetection's default).
            out_dir: folder for ``vis/`` with drawings and ``preds/`` with a JSON file for each
                image (of panoptic models also a PNG); '' writes nothing. Of images with the same
                name in different folders, later ones are numbered.
            tta: merge the findings in several scales and flips of each image.
            num_workers: threads that prepare images.

        Returns:
            ``predictions``, one for each image (see :func:`~mmdet_r2.apis.results.prediction`;
            written ones of panoptic models have ``panoptic_seg_path`` instead of
            ``panoptic_seg``), and ``visualization``, the drawings, with ``return_vis``.

        Raises:
            DataError: an image cannot be read, or a file cannot be written; the message names it.
        """
        result: dict[str, list] = dict(predictions=[], visualization=[])
        images, number = _listed(inputs)
        save_pred = '' if no_save_pred or return_datasamples else os.fspath(out_dir)
        found = self.stream(
            images,
            batch_size,
            draw=return_vis,
            show=show,
            wait_time=wait_time,
            draw_pred=draw_pred,
            pred_score_thr=pred_score_thr,
            out_dir='' if no_save_vis else out_dir,
            tta=tta,
            num_workers=num_workers,
            masks='bitmap' if return_datasamples else 'rle',
        )
        for each in progress(found, 'Inference', number, show=self.show_progress):
            assert each.sample is not None
            one: Any = each.sample
            if not return_datasamples:
                one = prediction(each.sample, len(_meta(self.model).get('classes', ())))
            if save_pred:
                self._write_prediction(one, each.sample, save_pred)
            if print_result:
                print(one)
            result['predictions'].append(one)
            if return_vis:
                result['visualization'].append(each.visualization)
        return result

    def stream(
        self,
        inputs: Image | Iterable[Image],
        batch_size: int = 1,
        *,
        draw: bool = False,
        show: bool = False,
        wait_time: float = 0,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        out_dir: str | os.PathLike[str] = '',
        tta: bool = False,
        num_workers: int = 2,
        masks: Masks = 'rle',
        skip_unreadable: bool = False,
    ) -> Iterator[Inference]:
        """:meth:`__call__` image by image, for more of them than memory holds: give ``inputs`` as a
        generator, and take one result after the other.

        Args:
            draw: make drawings even if none is shown or written.
            out_dir: folder for ``vis/``.
            masks: of the samples: 'rle' or 'bitmap'.
            skip_unreadable: give a result with an error for an image that cannot be read, instead
                of raising it.

        The other arguments are those of :meth:`__call__`.
        """
        images, _ = _listed(inputs)
        pipeline = image_pipeline(self.model, tta=tta)
        results = stream(
            self.model,
            images,
            pipeline,
            batch_size=batch_size,
            num_workers=num_workers,
            tta=tta,
            masks=masks,
            skip_unreadable=skip_unreadable,
        )
        for result in results:
            each = Inference(result.source.name, result.sample, error=result.error)
            if result.sample is not None and (draw or show or out_dir):
                loader = pipeline.loader if isinstance(pipeline, TestPipeline) else None
                each.visualization = self._vis().draw(
                    result.source.decode(loader)[..., ::-1],
                    result.sample,
                    draw_gt=False,
                    draw_pred=draw_pred,
                    pred_score_thr=pred_score_thr,
                )
                if out_dir:
                    each.out_file = self._write_drawing(each.visualization, result.source, out_dir)
                if show:
                    self._vis().show(each.visualization, each.name, wait_time)
            yield each

    # ------------------------------------------ mmdetection's steps, for classes made of this one

    @property
    def visualizer(self) -> DetLocalVisualizer:
        """What draws."""
        return self._vis()

    @cached_property
    def pipeline(self) -> Callable[[Any], dict]:
        """What :meth:`_init_pipeline` makes of the config."""
        return self._init_pipeline(self.cfg)

    def _init_pipeline(self, cfg: Config) -> Callable[[Any], dict]:
        """The test pipeline for one image in any form that ``InferencerLoader`` takes."""
        loader, *others = test_transforms(cfg)
        init_scope()
        return Compose([{**loader, 'type': 'InferencerLoader'}, *others])

    def _get_transform_idx(self, pipeline_cfg: Sequence[dict], name: str) -> int:
        """Index of a transform, -1 if it is not there."""
        kinds = [without_scope(str(transform['type'])) for transform in pipeline_cfg]
        return kinds.index(name) if name in kinds else -1

    def preprocess(
        self, inputs: Image | Iterable[Image], batch_size: int = 1, **_: Any
    ) -> Iterator[tuple[list, dict]]:
        """Images, and what the pipeline makes of them, batch by batch."""
        images = iter(_listed(inputs)[0])
        while chunk := list(islice(images, batch_size)):
            yield chunk, pseudo_collate([self.pipeline(image) for image in chunk])

    @torch.no_grad()
    def forward(self, inputs: dict, **_: Any) -> list[DetDataSample]:
        """Detections in a batch of :meth:`preprocess`."""
        return self.model.test_step(inputs)  # type: ignore[operator]

    def pred2dict(
        self, data_sample: DetDataSample, pred_out_dir: str | os.PathLike[str] = ''
    ) -> dict[str, Any]:
        """One image's findings as plain values; see :func:`~mmdet_r2.apis.results.prediction`."""
        one = prediction(data_sample, len(_meta(self.model).get('classes', ())))
        if pred_out_dir:
            self._write_prediction(one, data_sample, os.fspath(pred_out_dir))
        return one

    def postprocess(
        self,
        preds: Iterable[DetDataSample],
        visualization: list[np.ndarray] | None = None,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        pred_out_dir: str | os.PathLike[str] | None = '',
        **_: Any,
    ) -> dict[str, Any]:
        """``predictions`` of a batch as :meth:`__call__` returns them, and ``visualization``."""
        found: list[Any] = list(preds)
        if not return_datasamples:
            folder = '' if no_save_pred else pred_out_dir or ''
            found = [self.pred2dict(sample, folder) for sample in found]
        if print_result:
            print(found)
        return dict(predictions=found, visualization=visualization)

    def visualize(
        self,
        inputs: Iterable[Image],
        preds: Iterable[DetDataSample],
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        **_: Any,
    ) -> list[np.ndarray]:
        """Drawings (H, W, 3) RGB of images with their predictions."""
        return [
            self._vis().draw(
                image_source(image, 'image').decode()[..., ::-1],
                sample,
                draw_gt=False,
                draw_pred=draw_pred,
                pred_score_thr=pred_score_thr,
            )
            for image, sample in zip(inputs, preds)
        ]

    def _vis(self) -> DetLocalVisualizer:
        if self._visualizer is None:
            self._visualizer = DetLocalVisualizer()
        self._visualizer.dataset_meta = _meta(self.model)
        return self._visualizer

    def _write_drawing(
        self, drawing: np.ndarray, source: ImageSource, out_dir: str | os.PathLike[str]
    ) -> str:
        names = self._drawing_names.setdefault(os.fspath(out_dir), Names())
        stem = source.stem or f'{names.count:08d}'
        path = path_inside(Path(out_dir, 'vis'), names.new(stem, source.drawing_suffix))
        write_image(path, drawing)
        return str(path)

    def _write_prediction(self, one: dict[str, Any], sample: DetDataSample, out_dir: str) -> None:
        names = self._prediction_names.setdefault(out_dir, Names())
        path = sample.metainfo.get('img_path')
        stem = names.new(ImageSource('', path).stem or f'{names.count}', '')
        folder = Path(out_dir) / 'preds'
        if 'panoptic_seg' in one:
            png = path_inside(folder, f'{stem}_panoptic_seg.png')
            write_image(png, one.pop('panoptic_seg'))
            one['panoptic_seg_path'] = str(png)
        write_json(path_inside(folder, f'{stem}.json'), one)


def _listed(inputs: Image | Iterable[Image]) -> tuple[Iterable[Image], int | None]:
    """The images, and how many they are, if that is known."""
    if isinstance(inputs, (str, os.PathLike)):
        inputs = find_images(inputs)
    elif is_image(inputs):
        inputs = [inputs]  # type: ignore[list-item]
    elif not isinstance(inputs, Iterable):
        raise DataError(
            f'inputs is a {type(inputs).__name__}; expected an image (path, URL, array, ...), a '
            'folder, a pattern, or several images.'
        )
    return inputs, len(inputs) if isinstance(inputs, Sequence) else None  # type: ignore[return-value]


def _meta(model: nn.Module) -> dict[str, Any]:
    return getattr(model, 'dataset_meta', None) or {}
