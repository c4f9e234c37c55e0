"""Drawings of predictions during validation and testing."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.visualization import Visualizer

from mmdet_r2.datasets.transforms import LoadImageFromFile
from mmdet_r2.errors import ConfigError
from mmdet_r2.files import path_inside, plain_name
from mmdet_r2.registry import HOOKS
from mmdet_r2.structures import DetDataSample

from .drawing import shown_text
from .visualizer import DetLocalVisualizer


@HOOKS.register_module()
class DetVisualizationHook(Hook):
    """Draws predictions beside the ground truth: of every ``interval``-th image in validation, of
    all images in testing.

    Drawings of a test go to ``test_out_dir`` under the image's own name, from every process; others
    to the visualizer's back-ends.

    Args:
        draw: whether to do anything.
        interval: validation iterations from one drawing to the next.
        score_thr: predictions of at most this score are left out.
        show: open a window for each.
        wait_time: seconds that a window stays; 0 waits for a key.
        test_out_dir: folder for drawings of a test; a relative one lies in the run's own folder
            (work_dir/timestamp).
        backend_args: how mmengine reads the images.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self.backend_args = backend_args
        self._names: set[str] = set()
        self._step = 0

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] | None = None,
    ) -> None:
        """Draw the batch's first image, every ``interval`` iterations."""
        step = runner.iter + batch_idx
        if self.draw and outputs and step % self.interval == 0:
            self._visualizer().add_datasample(
                shown_text(os.path.basename(outputs[0].img_path)) if self.show else 'val_img',
                self._image(outputs[0]),
                data_sample=outputs[0],
                show=self.show,
                wait_time=self.wait_time,
                pred_score_thr=self.score_thr,
                step=step,
            )

    def before_test(self, runner: Any) -> None:
        """Names used up by an earlier test are free again."""
        self._names = set()
        self._step = 0

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] | None = None,
    ) -> None:
        """Draw every image of the batch."""
        if not self.draw:
            return
        for sample in outputs or ():
            self._step += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = os.path.join(runner.work_dir, runner.timestamp, self.test_out_dir)
                out_file = str(path_inside(folder, self._file_name(sample)))
            self._visualizer().add_datasample(
                shown_text(os.path.basename(sample.img_path)) if self.show else 'test_img',
                self._image(sample),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
                pred_score_thr=self.score_thr,
                step=self._step,
            )

    def _file_name(self, sample: DetDataSample) -> str:
        """The image's own name; with its id, and a number, where another folder's image had the
        name before.
        """
        stem, suffix = os.path.splitext(os.path.basename(sample.img_path))
        numbered = (f'_{sample.img_id}_{number}' for number in itertools.count(2))
        for more in itertools.chain(('', f'_{sample.img_id}'), numbered):
            name = plain_name(f'{stem}{more}{suffix}')
            if name not in self._names:
                break
        self._names.add(name)
        return name

    def _image(self, sample: DetDataSample) -> np.ndarray:
        """The image as it was loaded for the model (EXIF rotation included), RGB."""
        height, width = sample.ori_shape[:2]
        results = dict(img_path=sample.img_path, height=height, width=width)
        loader = LoadImageFromFile(backend_args=self.backend_args)
        return loader(results)['img'][..., ::-1]

    @staticmethod
    def _visualizer() -> DetLocalVisualizer:
        found = Visualizer.get_current_instance()
        if not isinstance(found, DetLocalVisualizer):
            raise ConfigError(
                f'visualizer.type is {type(found).__name__}, which draws no detections: expected '
                'DetLocalVisualizer'
            )
        return found
