"""Images through a detector, one after the other: prepared in threads, computed in batches, given
out in order, and never more than a few at a time.
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..datasets.transforms import LoadImageFromFile
from ..errors import ConfigError, DataError
from ..models.postprocess import encoded_masks
from ..models.tta import DetTTAModel
from ..registry import MODELS, build, init_scope
from ..structures import DetDataSample
from ..structures.masks import encode_rle
from ..structures.panoptic import segments
from .images import Image, ImageSource, image_source
from .tta import tta_model

Pipeline = Callable[[dict], dict | None]
Masks = Literal['bitmap', 'rle']

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass
class Result:
    """What became of one image.

    Attributes:
        index: number of the image among those given.
        source: the image.
        sample: with the predictions; None where the image could not be read.
        error: why not, else None.
    """

    index: int
    source: ImageSource
    sample: DetDataSample | None = None
    error: DataError | None = None


class TestPipeline:
    """The transforms of a test pipeline behind its loader, which :class:`ImageSource` stands for.

    Args:
        loader: how files are read.
        transforms: what is done with the decoded image.
    """

    __test__ = False  # nothing for pytest

    def __init__(self, loader: LoadImageFromFile, transforms: Sequence[Pipeline]) -> None:
        self.loader = loader
        self.transforms = list(transforms)

    def __call__(self, results: dict) -> dict | None:
        """``dict(source=..., img_id=...)`` -> what ``PackDetInputs`` gives."""
        source = results.pop('source')
        image = source.decode(self.loader)
        if self.loader.to_float32:
            image = image.astype('float32')
        if source.path is not None:
            results['img_path'] = source.path
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        given: dict | None = results
        for transform in self.transforms:
            if given is None:
                return None
            given = transform(given)
        return given


def stream(
    model: nn.Module,
    images: Iterable[Image | ImageSource],
    pipeline: Pipeline,
    *,
    batch_size: int = 1,
    num_workers: int = 2,
    tta: bool = False,
    masks: Masks = 'bitmap',
    skip_unreadable: bool = False,
) -> Iterator[Result]:
    """The result of every image, in order.

    Images whose network inputs have the same size are computed together. One of a rare size waits
    for others of its size, and with it the results after it: at most ``16 * batch_size`` of them,
    and ``8 * batch_size`` prepared images.

    Args:
        model: the detector.
        images: read from as results are taken.
        pipeline: see :class:`TestPipeline`; another callable is given ``img_path`` of a file,
            ``img`` of anything else.
        batch_size: images computed at once, at most.
        num_workers: threads that prepare images; 0: they are prepared in turn with the detector.
        tta: the pipeline gives several views of each image; merge what is found in them.
        masks: 'bitmap': (n, H, W) bool; 'rle': n COCO run lengths, which take a thousandth of the
            memory.
        skip_unreadable: give a result with an error for an image that cannot be read, instead of
            raising it.

    Raises:
        DataError: an image is missing, unreadable or of another kind; the message names it.
        ConfigError: the pipeline makes several views and ``tta`` is not given, or the other way
            round.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; expected 1 or more')
    if num_workers < 0:
        raise ValueError(f'num_workers is {num_workers}; expected 0 or more')
    if masks not in ('bitmap', 'rle'):
        raise ValueError(f"masks is {masks!r}; expected 'bitmap' or 'rle'")
    if _forked:
        # OpenMP and OpenCV wait for worker threads that only the parent process has
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
    detector = model
    if tta:
        model = _augmented(model)
    divisor = getattr(getattr(detector, 'data_preprocessor', None), 'pad_size_divisor', 1)
    waiting: dict[tuple, list[tuple[Result, dict]]] = collections.defaultdict(list)
    ordered: collections.deque[Result] = collections.deque()  # given out, or waiting
    prepared = _prepared(images, pipeline, num_workers, 2 * batch_size, skip_unreadable)

    def detect(key: tuple) -> None:
        _detect(model, detector, waiting.pop(key), masks)

    for result, data in prepared:
        ordered.append(result)
        if data is not None:
            views = _views(data['inputs'], tta)
            key = tuple(-(-side // divisor) for view in views for side in view.shape[-2:])
            waiting[key].append((result, data))
            if len(waiting[key]) == batch_size:
                detect(key)
            elif sum(map(len, waiting.values())) >= 8 * batch_size:
                # photos of ever different sizes must not pile up
                detect(max(waiting, key=lambda k: len(waiting[k])))
        if len(ordered) > 16 * batch_size and not _done(ordered[0]):
            first = ordered[0]
            detect(next(k for k, group in waiting.items() if group[0][0] is first))
        while ordered and _done(ordered[0]):
            yield ordered.popleft()
    while waiting:
        detect(next(iter(waiting)))
        while ordered and _done(ordered[0]):
            yield ordered.popleft()
    yield from ordered


def _done(result: Result) -> bool:
    return result.sample is not None or result.error is not None


@torch.no_grad()
def _detect(
    model: nn.Module, detector: nn.Module, group: list[tuple[Result, dict]], masks: Masks
) -> None:
    """Put the predictions of a batch into its results."""
    batch = pseudo_collate([data for _, data in group])
    fusion = getattr(detector, 'panoptic_fusion_head', None)
    encode = masks == 'rle'
    # the fusion needs the masks themselves
    way: AbstractContextManager = encoded_masks() if encode and fusion is None else nullcontext()
    with way:
        samples = model.test_step(batch)  # type: ignore[operator]
    for (result, _), sample in zip(group, samples, strict=True):
        found = sample.get('pred_instances')
        if encode and found is not None and isinstance(found.get('masks'), Tensor):
            found.masks = encode_rle(found.masks)
        if fusion is not None and 'pred_panoptic_seg' in sample:
            panoptic = sample.pred_panoptic_seg
            info = segments(panoptic.sem_seg, fusion.num_classes, fusion.num_things_classes)
            panoptic.set_metainfo(dict(segments_info=info))
        result.sample = sample


def _views(inputs: Tensor | list[Tensor], tta: bool) -> list[Tensor]:
    """The views of one image: one without ``tta``."""
    if isinstance(inputs, list) != tta:
        raise ConfigError(
            'tta=True, but the test pipeline makes no views: it needs a TestTimeAug.'
            if tta
            else 'the test pipeline makes several views of an image (TestTimeAug): give tta=True.'
        )
    return inputs if isinstance(inputs, list) else [inputs]


def _augmented(model: nn.Module) -> DetTTAModel:
    """The detector in a wrapper that merges views; the detector itself is not changed."""
    cfg = getattr(model, 'cfg', None) or Config()
    init_scope()
    return cast(DetTTAModel, build(MODELS, tta_model(cfg), 'tta_model', module=model))


def _prepared(
    images: Iterable[Image | ImageSource],
    pipeline: Pipeline,
    num_workers: int,
    ahead: int,
    skip: bool,
) -> Iterator[tuple[Result, dict | None]]:
    """Pipeline output of every image, in order; at most ``ahead`` are computed in advance."""
    single = isinstance(images, Sequence) and len(images) == 1
    if num_workers == 0 or single:
        for index, image in enumerate(images):
            yield _prepare(image, index, pipeline, skip)
        return
    with ThreadPoolExecutor(num_workers, 'mmdet_r2-images') as pool:
        queue: collections.deque[Future[tuple[Result, dict | None]]] = collections.deque()
        try:
            for index, image in enumerate(images):
                queue.append(pool.submit(_prepare, image, index, pipeline, skip))
                if len(queue) > ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:  # after an unreadable image the others need not be decoded
                future.cancel()


def _prepare(
    image: Image | ImageSource, index: int, pipeline: Pipeline, skip: bool
) -> tuple[Result, dict | None]:
    name = f'imgs[{index}]'
    try:
        source = image if isinstance(image, ImageSource) else image_source(image, name)
    except DataError as error:
        if not skip:
            raise
        return Result(index, ImageSource(name), error=error), None
    results: dict[str, Any] = dict(img_id=index)
    try:
        if isinstance(pipeline, TestPipeline):
            results['source'] = source
        elif source.path is not None and source.data is None:
            results['img_path'] = source.path
        else:
            image = source.decode()
            results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        data = _transformed(pipeline, results, source.name)
    except DataError as error:
        if not skip:
            raise
        return Result(index, source, error=error), None
    return Result(index, source), data


def _transformed(pipeline: Pipeline, results: dict, name: str) -> dict:
    try:
        data = pipeline(results)
    except cv2.error as error:  # where scaling leaves nothing of a strip of few pixels
        height, width = results.get('ori_shape', ('?', '?'))
        reason = error.err or ' '.join(str(error).split())
        raise DataError(
            f'{name}: the test pipeline fails on this image of {width} x {height} pixels '
            f'({reason}).'
        ) from None
    if data is None:
        raise DataError(f'{name}: the test pipeline gave nothing for this image.')
    return data
