"""``results.pkl``: every image's predictions in one file, as mmdetection 3.x writes it, and its
safe reader.
"""

import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import read_bytes, replacing
from mmdet_r2.pickles import Damaged, Refused, read_pickle
from mmdet_r2.registry import METRICS
from mmdet_r2.structures.masks import encode_rle
from mmdet_r2.torch_files import TENSORS

from ..datasets.proposals import image_key
from .collect import gather_results, interleave, run_on_main
from .image_result import detection_arrays

GROUND_TRUTH = ('gt_instances', 'ignored_instances', 'gt_sem_seg', 'gt_panoptic_seg')


@METRICS.register_module()
class DumpDetResults(BaseMetric):
    """Writes the predictions of all images to one pickle file; measures nothing.

    The file holds a list with a dict per image, in the data set's order: the sample's metainfo
    (``img_id``, ``img_path``, ``ori_shape``, ...) and ``pred_instances`` = dict(bboxes, scores,
    labels: CPU tensors, masks: list of COCO RLE). Ground truth is left out.

    Args:
        out_file_path: path of the file, ``*.pkl`` or ``*.pickle``.
        collect_device: accepted for compatibility; the process group's own device is used.
        collect_dir: accepted for compatibility; no directory is needed.
    """

    default_prefix = 'dump'
    results: list[dict]

    def __init__(
        self, out_file_path: str, collect_device: str = 'cpu', collect_dir: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        if not str(out_file_path).endswith(('.pkl', '.pickle')):
            raise ConfigError(f'{out_file_path}: the results file must end in .pkl or .pickle')
        self.out_file_path = str(out_file_path)

    def output_files(self) -> list[str]:
        """Files that will be written."""
        return [self.out_file_path]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one batch's predictions; masks as run lengths, tensors on the CPU."""
        self.results += [_portable(sample) for sample in data_samples]

    def compute_metrics(self, results: list | dict) -> dict:
        """Write the file; there is no number to return."""
        with replacing(self.out_file_path) as temporary, open(temporary, 'wb') as file:
            pickle.dump(results, file, protocol=4)
        print_log(f'wrote the results of {len(results)} images to {self.out_file_path}', 'current')
        return {}

    def evaluate(self, size: int) -> dict:
        """Collect all processes' results, in the data set's order, and write them once."""
        parts = gather_results(self.results)
        self.results = []
        # a sampler that pads the last round repeats images at the end
        return run_on_main(lambda: self.compute_metrics(interleave(parts)[:size]))


@METRICS.register_module()
class DumpProposals(DumpDetResults):
    """Writes an RPN's proposals to one file, for :class:`~mmdet_r2.datasets.CocoDataset`'s
    ``proposal_file``: a dict of ``folder/name.jpg`` to dict(bboxes (p, 4) xyxy in pixels of the
    original image, scores (p,)), float32 arrays.

    Args:
        output_dir, proposals_file: where to.
        num_max_proposals: the best of each image; None: all.
    """

    def __init__(
        self,
        output_dir: str = '',
        proposals_file: str = 'proposals.pkl',
        num_max_proposals: int | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(os.path.join(output_dir, proposals_file), collect_device, collect_dir)
        self.num_max_proposals = num_max_proposals

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one batch's proposals."""
        for sample in data_samples:
            found = detection_arrays(sample['pred_instances'], str(sample['img_path']))
            best = np.argsort(-found['scores'], kind='stable')[: self.num_max_proposals]
            proposals = {key: found[key][best] for key in ('bboxes', 'scores')}
            self.results.append({image_key(sample['img_path']): proposals})

    def compute_metrics(self, results: list | dict) -> dict:
        """Write the file; there is no number to return."""
        images = {key: value for result in results for key, value in result.items()}
        if len(images) != len(results):
            raise DataError(f'{self.out_file_path}: images of the same folder and name')
        return super().compute_metrics(images)


def _portable(value: Any, key: str = '') -> Any:
    """``value`` with tensors on the CPU and arrays as tensors, instance masks as RLE, numpy scalars
    as numbers.
    """
    if isinstance(value, dict) or hasattr(value, 'to_dict'):
        items = value if isinstance(value, dict) else value.to_dict()
        return {str(k): _portable(v, str(k)) for k, v in items.items() if k not in GROUND_TRUTH}
    if key == 'masks' and isinstance(value, torch.Tensor | np.ndarray):
        return encode_rle(value)
    if isinstance(value, torch.Tensor):
        # a clone: a slice would write (and send) the whole tensor it is cut from
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return type(value)(_portable(v, key if key == 'masks' else '') for v in value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    return str(value)


def load_results(path: str | os.PathLike[str]) -> list[dict]:
    """The list that :class:`DumpDetResults`, or mmdetection 3.x, wrote.

    Raises:
        DataError: the file is missing, is no such list, or holds objects other than tensors,
            arrays and plain values.
    """
    try:
        results = read_pickle(read_bytes(path, 'results file'), TENSORS)
    except Refused as error:
        raise DataError(f'{path}: not a results file that is safe to read: {error}') from error
    except Damaged as error:
        raise DataError(f'{path}: cut short, damaged or no results file: {error}') from error
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise DataError(f'{path}: expected a list of dicts, one per image')
    return results
