"""The visualizer that configs name: detections and ground truth drawn, stored, shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from mmengine.visualization import Visualizer

from mmdet_r2.errors import ConfigError
from mmdet_r2.files import write_image
from mmdet_r2.registry import VISUALIZERS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.panoptic import INSTANCE_OFFSET

from .drawing import draw_instances, draw_panoptic, shown_text
from .palette import Color, get_palette

# Backends of matplotlib that only make files.
_NO_WINDOWS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


def check_display() -> None:
    """Raise a ConfigError where no window can be opened."""
    backend = pyplot.get_backend()
    if backend.lower() in _NO_WINDOWS:
        raise ConfigError(
            f'no window can be opened: matplotlib finds no display (its backend is {backend}); '
            'have the drawings written into files instead of shown.'
        )


@VISUALIZERS.register_module()
class DetLocalVisualizer(Visualizer):
    """mmengine's visualizer (its back-ends, scalars, primitives) that also draws detection samples.

    Colours come from ``dataset_meta['palette']`` unless given. All images are RGB.

    Args:
        name: of this instance.
        image: RGB image for mmengine's own drawing primitives.
        vis_backends: where images and scalars are stored.
        save_dir: folder of the back-ends.
        bbox_color, mask_color: palette (see :func:`get_palette`) instead of the data set's.
        text_color: one colour or a palette.
        line_width: of boxes, in pixels.
        alpha: opacity; see :func:`draw_instances`.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        image: np.ndarray | None = None,
        vis_backends: dict | list[dict] | None = None,
        save_dir: str | None = None,
        bbox_color: str | Color | Sequence[Color] | None = None,
        text_color: str | Color | Sequence[Color] | None = (200, 200, 200),
        mask_color: str | Color | Sequence[Color] | None = None,
        line_width: int = 3,
        alpha: float = 0.8,
    ) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        self.bbox_color = bbox_color
        self.text_color = text_color
        self.mask_color = mask_color
        self.line_width = int(line_width)
        self.alpha = alpha
        self.dataset_meta = {}

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> np.ndarray:
        """Draw a sample: ground truth on the left, predictions on the right, or the one there is.

        Args:
            name: of the image in the back-ends, or of the window.
            image: (H, W, 3) uint8 RGB, the image that the sample's boxes refer to.
            data_sample: ``gt_instances`` and ``pred_instances`` are drawn; of a sample with a
                ``pred_panoptic_seg`` it instead, and ``gt_sem_seg`` with the instances' masks.
            draw_gt, draw_pred: which of them.
            show: open a window.
            wait_time: seconds until the window is closed; 0 waits for a key.
            out_file: write the drawing there instead of storing it in the back-ends.
            pred_score_thr: predictions of at most this score are left out.
            step: of the training run, for the back-ends.

        Returns:
            The drawing, (H, W, 3) uint8 RGB, or (H, 2 W, 3).
        """
        drawing = self.draw(image, data_sample, draw_gt, draw_pred, pred_score_thr)
        if show:
            self.show(drawing, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_image(out_file, drawing)
        else:
            self.add_image(name, drawing, step)
        self.set_image(drawing)
        return drawing

    def draw(
        self,
        image: np.ndarray,
        data_sample: DetDataSample | None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
    ) -> np.ndarray:
        """The drawing of :meth:`add_datasample`, which is shown and stored nowhere."""
        views = []
        panoptic = data_sample is not None and 'pred_panoptic_seg' in data_sample
        if data_sample is not None and draw_gt:
            truth = _true_map(data_sample, image) if panoptic else None
            if truth is not None:
                views.append(self._draw_map(image, truth))
            elif 'gt_instances' in data_sample:
                views.append(self._draw(image, data_sample.gt_instances))
        if data_sample is not None and draw_pred:
            if panoptic:
                views.append(self._draw_map(image, data_sample.pred_panoptic_seg.sem_seg))
            elif 'pred_instances' in data_sample:
                found = data_sample.pred_instances.cpu()
                views.append(self._draw(image, found[found.scores > pred_score_thr]))
        if len(views) == 1:
            return views[0]
        return np.concatenate(views, axis=1) if views else np.asarray(image)

    def show(
        self,
        drawn_img: np.ndarray | None = None,
        win_name: str = 'image',
        wait_time: float = 0.0,
        continue_key: str = ' ',
        backend: str = 'matplotlib',
    ) -> None:
        """mmengine's window with a drawing.

        Raises:
            ConfigError: there is no display, on which mmengine would wait for ever for a key.
        """
        if backend == 'matplotlib':
            check_display()
        super().show(drawn_img, shown_text(win_name), wait_time, continue_key, backend)

    def _draw(self, image: np.ndarray, instances: Any) -> np.ndarray:
        # the property gives None on processes other than the main one
        meta = self._dataset_meta or {}
        labels = instances.get('labels', [])
        number = max([int(label) for label in labels], default=0) + 1
        box_palette = meta.get('palette') if self.bbox_color is None else self.bbox_color
        mask_palette = meta.get('palette') if self.mask_color is None else self.mask_color
        return draw_instances(
            image,
            instances,
            classes=meta.get('classes'),
            box_colors=get_palette(box_palette, number),
            mask_colors=get_palette(mask_palette, number),
            text_colors=get_palette(self.text_color, number),
            line_width=self.line_width,
            alpha=self.alpha,
        )

    def _draw_map(self, image: np.ndarray, sem_seg: Any) -> np.ndarray:
        meta = self._dataset_meta or {}
        classes = meta.get('classes')
        number = INSTANCE_OFFSET if classes is None else len(classes)
        palette = meta.get('palette') if self.mask_color is None else self.mask_color
        return draw_panoptic(
            image,
            sem_seg,
            classes=classes,
            colors=get_palette(palette, number),
            text_colors=get_palette(self.text_color, number),
            alpha=self.alpha,
        )


def _true_map(sample: DetDataSample, image: np.ndarray) -> np.ndarray | None:
    """The annotation coded as a predicted map (H, W), where it is there and of the image's size."""
    if 'gt_sem_seg' not in sample:
        return None
    semantic = sample.gt_sem_seg.sem_seg
    semantic = np.asarray(semantic.cpu() if isinstance(semantic, torch.Tensor) else semantic)
    panoptic = semantic.reshape(semantic.shape[-2:]).astype(np.int64)
    if panoptic.shape != image.shape[:2]:
        return None
    masks = sample.gt_instances.get('masks') if 'gt_instances' in sample else None
    if masks is not None:
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)
        for k, (mask, label) in enumerate(zip(masks, sample.gt_instances.labels), start=1):
            panoptic[mask.astype(bool)] = int(label) + k * INSTANCE_OFFSET
    return panoptic
