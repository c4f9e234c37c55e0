"""Which images go into one batch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from mmdet_r2.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Batches of only wide or only tall images, so that padding adds little.

    An image waits in the bucket of its kind (wide: width >= height) until the bucket fills a batch.
    What is left in the end makes mixed batches, tall images first. Behaves as mmdetection 3.x's,
    also in what ``drop_last`` drops.

    Args:
        sampler: yields indices into ``sampler.dataset``, whose ``get_data_info`` knows ``width``
            and ``height``.
        batch_size: of one process.
        drop_last: leave out the last batch of those that are left in the end, even if it is full;
            the length, ``len(sampler) // batch_size``, is one more than there are batches then.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f'sampler is a {type(sampler).__name__}, expected a Sampler')
        if not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f'batch_size is {batch_size!r}, expected a positive integer')
        super().__init__(sampler, batch_size, drop_last)
        # Reading an annotation to learn two numbers takes as long as a small transform: once is
        # enough.
        self._tall = np.full(len(sampler.dataset), -1, dtype=np.int8)

    def _is_tall(self, index: int) -> int:
        if self._tall[index] < 0:
            info = self.sampler.dataset.get_data_info(index)
            self._tall[index] = info['width'] < info['height']
        return int(self._tall[index])

    def __iter__(self) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for index in self.sampler:
            bucket = buckets[self._is_tall(index)]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
        wide, tall = buckets
        rest = tall + wide
        while len(rest) > self.batch_size:
            yield rest[: self.batch_size]
            rest = rest[self.batch_size :]
        if rest and not self.drop_last:
            yield rest

    def __len__(self) -> int:
        if self.drop_last:
            return len(self.sampler) // self.batch_size
        return -(-len(self.sampler) // self.batch_size)
