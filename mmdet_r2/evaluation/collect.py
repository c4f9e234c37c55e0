"""Results of all processes brought to the main one, as tensors and JSON.

Nothing is unpickled on the way: whoever can reach the port of a process group must not be able to
run code in it. No shared file system is needed either.
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from mmengine import dist
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmdet_r2.errors import ConfigError, UserError
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


class PerImageMetric(BaseMetric):
    """A metric that keeps one result per image, with ``img_id``, and is computed by the main
    process.

    Subclasses say how :meth:`pack` turns results into what :func:`gather_results` takes, and how
    :meth:`unpack` turns it back.
    """

    results: list[Any]

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
            unique = len({result.img_id for result in collected})
            if unique < size:
                print_log(
                    f'the data set has {size} entries but {unique} different image ids were '
                    'evaluated',
                    'current',
                    level=30,
                )
            return {f'{self.prefix}/{k}': v for k, v in self.compute_metrics(collected).items()}

        return run_on_main(compute)

    @staticmethod
    def distinct(results: list) -> list:
        """Results by image id; of images met twice the first.

        The order matters: it decides ties between equal scores in the files written, and the last
        digits of sums.
        """
        first: dict[int | str, Any] = {}
        for result in results:
            first.setdefault(result.img_id, result)
        return sorted(first.values(), key=lambda r: (isinstance(r.img_id, str), r.img_id))
