"""Results of all processes brought to the main one, as tensors and JSON.

Nothing is unpickled on the way: whoever can reach the port of a process group must not be able to
run code in it. No shared file system is needed either.
"""

import io
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmdet_r2.errors import ConfigError, DataError, UserError
from mmdet_r2.torch_files import read_torch

T = TypeVar('T')

CHUNK = 1 << 24
"""Bytes each process sends at a time; bounds what NCCL holds on the device."""


def gather_bytes(payload: bytes) -> list[bytes]:
    """The payloads of all processes in rank order, on the main process; an empty list on the
    others.
    """
    if dist.get_world_size() == 1:
        return [payload]
    device = dist.get_comm_device()
    sizes = dist.all_gather(torch.tensor([len(payload)], dtype=torch.int64, device=device))
    sizes = [int(size) for size in sizes]
    data = (
        torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        if payload
        else torch.empty(0).byte()
    )
    received: list[list[bytes]] = [[] for _ in sizes]
    for start in range(0, max(sizes), CHUNK):
        # every process sends the same number of bytes: what is beyond its own end is padding
        chunk = torch.zeros(min(CHUNK, max(sizes) - start), dtype=torch.uint8)
        piece = data[start : start + CHUNK]
        chunk[: len(piece)] = piece
        parts = dist.gather(chunk.to(device), dst=0)
        for rank, part in enumerate(parts):
            received[rank].append(part[: max(0, sizes[rank] - start)].cpu().numpy().tobytes())
    return [b''.join(pieces) for pieces in received] if dist.is_main_process() else []


def gather_results(results: Any) -> list[Any]:
    """Each process's results in rank order, on the main process; an empty list on the others.

    Args:
        results: tensors, numbers, strings, bytes, None, and lists, tuples and dicts of them.
    """
    if dist.get_world_size() == 1:
        return [results]
    buffer = io.BytesIO()
    torch.save(results, buffer)
    parts = gather_bytes(buffer.getvalue())
    return [read_torch(io.BytesIO(part)) for part in parts]


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """Lists of all processes merged one by one: the order in which a distributed sampler deals
    images.
    """
    longest = max((len(part) for part in parts), default=0)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def run_on_main(function: Callable[[], Any]) -> Any:
    """What ``function`` returns (JSON types), computed by the main process and known to all.

    An exception in it is raised by every process, so that none waits for ever.
    """
    if dist.get_world_size() == 1:
        return function()
    reply: dict[str, Any] = {}
    error: Exception | None = None
    if dist.is_main_process():
        try:
            reply['value'] = function()
        except Exception as caught:
            error = caught
            reply = dict(error=str(caught), user=isinstance(caught, UserError))
    device = dist.get_comm_device()
    data = torch.frombuffer(bytearray(json.dumps(reply).encode()), dtype=torch.uint8).to(device)
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, src=0)
    if not dist.is_main_process():
        data = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(data, src=0)
    if error is not None:
        raise error
    reply = json.loads(data.cpu().numpy().tobytes())
    if 'error' in reply:
        raise (UserError if reply['user'] else RuntimeError)(reply['error'])
    return reply['value']


def dataset_of(sample: Mapping[str, Any]) -> int:
    """The number of a sample's data set in a ``ConcatDataset``, else 0."""
    number = sample.get('dataset_index', 0)
    if not isinstance(number, int):
        raise ConfigError(f'a data sample has dataset_index {number!r}, expected an integer')
    return number


def meta_of(sample: Mapping[str, Any]) -> tuple[int | str, int, int]:
    """A sample's ``img_id``, and height and width of the original image.

    Raises:
        ConfigError: the sample does not have them.
    """
    for key in ('img_id', 'ori_shape'):
        if key not in sample:
            raise ConfigError(
                f'the data samples have no {key!r}: it must be in PackDetInputs.meta_keys'
            )
    img_id = sample['img_id']
    if isinstance(img_id, np.generic | np.ndarray | torch.Tensor) and img_id.ndim == 0:
        img_id = img_id.item()
    if not isinstance(img_id, int | str) or isinstance(img_id, bool):
        raise ConfigError(f'a data sample has img_id {img_id!r}, expected an integer or a text')
    size = number_array(sample['ori_shape'], 1)[:2]
    if size.shape != (2,) or not ((size >= 1) & (size % 1 == 0)).all():
        raise ConfigError(
            f'image {img_id!r}: ori_shape is {sample["ori_shape"]!r}, expected height and width'
        )
    return img_id, int(size[0]), int(size[1])


def number_array(value: Any, ndim: int) -> np.ndarray:
    """``value`` of a config as an array of ``ndim`` dimensions, float; one without any number where
    it is none.
    """
    try:
        array = np.array(value, ndmin=ndim)
    except ValueError:  # lists of unequal length
        array = np.zeros(0)
    fits = array.dtype.kind in 'fiu' and array.ndim == ndim
    return array.astype(float) if fits else np.zeros([0] * ndim)


class PerImageMetric(BaseMetric):
    """A metric that keeps one result per image, with ``img_id`` and ``dataset``, and is computed by
    the main process.

    Subclasses say how :meth:`pack` turns results into what :func:`gather_results` takes, how
    :meth:`unpack` turns it back, and what :meth:`result_names` there will be.

    Attributes:
        ann_file: annotation file; None if ground truth comes with the samples.
        outfile_prefix: where results are written; None: they are not.
        left_out: what of ``ann_file`` is not used, in words.
    """

    results: list[Any]
    ann_file: str | None = None
    outfile_prefix: str | None = None
    left_out: str = ''
    _only: frozenset[int] | None = None
    _size: int | None = None

    def result_names(self) -> set[str]:
        """Names of the numbers that :meth:`compute_metrics` may give."""
        raise NotImplementedError

    def output_files(self) -> list[str]:
        """Files that will be written."""
        return []

    def known_ids(self) -> Container[Any] | None:
        """Ids of the images that ``ann_file`` has; None without one."""
        return None

    def confine(self, numbers: Iterable[int] | None, size: int | None = None) -> None:
        """Measure images of some data sets of a ``ConcatDataset`` only.

        Args:
            numbers: of the data sets; None: all.
            size: how many images these have.
        """
        self._only = None if numbers is None else frozenset(numbers)
        self._size = size

    def concerned(self, data_samples: Sequence[dict]) -> list[dict]:
        """Of a batch the samples to be measured."""
        return [s for s in data_samples if self._only is None or dataset_of(s) in self._only]

    def _classes(self) -> Sequence[str]:
        classes = (self._dataset_meta or {}).get('classes')
        if not classes:
            raise ConfigError(
                f'{type(self).__name__}.dataset_meta has no classes: the data set must name them '
                '(metainfo)'
            )
        return (classes,) if isinstance(classes, str) else classes

    @staticmethod
    def pack(results: list) -> Any:
        raise NotImplementedError

    @staticmethod
    def unpack(packed: Any) -> list:
        raise NotImplementedError

    def evaluate(self, size: int) -> dict[str, float]:
        """All processes' images together: the numbers of ``compute_metrics`` under ``{prefix}/``,
        the same on every process.

        Args:
            size: images in the data set; fewer processed ones are reported.
        """
        collected, self.results = self.results, []
        if dist.get_world_size() > 1:
            parts = gather_results(self.pack(collected))
            collected = interleave([self.unpack(part) for part in parts])

        def compute() -> dict[str, float]:
            unique = len({(result.dataset, result.img_id) for result in collected})
            entries = size if self._size is None else self._size
            if unique < entries:
                print_log(
                    f'the data set has {entries} entries but {unique} different images were '
                    'evaluated',
                    'current',
                    level=30,
                )
            return {f'{self.prefix}/{k}': v for k, v in self.compute_metrics(collected).items()}

        return run_on_main(compute)

    def distinct(self, results: list) -> list:
        """Results by image id; of images met twice the first. Images of several data sets that
        share an id are numbered anew, from 1.

        The order matters: it decides ties between equal scores in the files written, and the last
        digits of sums.

        Raises:
            DataError: two data sets share an id, and ``ann_file`` or the files to be written tell
                images by it.
        """
        first: dict[tuple[int, int | str], Any] = {}
        for result in results:
            first.setdefault((result.dataset, result.img_id), result)
        images = sorted(first.values(), key=lambda r: (isinstance(r.img_id, str), r.img_id))
        where: dict[int | str, int] = {}
        for image in images:
            other = where.setdefault(image.img_id, image.dataset)
            if other == image.dataset:
                continue
            if self.ann_file is not None or self.outfile_prefix is not None:
                raise DataError(
                    f'image id {image.img_id!r} is one of data set {other} and one of data set '
                    f'{image.dataset} of the ConcatDataset: {type(self).__name__} with '
                    f'{"outfile_prefix" if self.ann_file is None else "ann_file"} tells images by '
                    'their id'
                )
            # of each data set all images together, as if the ids of later ones were higher
            images.sort(key=lambda r: r.dataset)
            return [replace(r, img_id=number) for number, r in enumerate(images, start=1)]
        return images
