"""A detector from a config and a checkpoint, and its detections in images."""

import collections
import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import Tensor, nn

from ..config import load_config
from ..errors import CheckpointError, ConfigError, DataError
from ..inference import prepare_for_inference
from ..models.tta import DetTTAModel
from ..registry import DATASETS, MODELS, TRANSFORMS, init_scope
from ..structures import DetDataSample
from ..structures.panoptic import segments
from ..zoo import classes_differ, load_checkpoint
from .tta import check_views, kind_of, tta_model, tta_pipeline

Image = str | os.PathLike[str] | np.ndarray
Pipeline = Callable[[dict], dict | None]

# Transforms of a test pipeline that read annotations, which images alone do not have.
_ANNOTATION_TRANSFORMS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'FilterAnnotations')


def init_detector(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    palette: str = 'none',
    device: str | torch.device = 'cuda:0',
    cfg_options: dict[str, Any] | None = None,
    *,
    prepare: bool = True,
) -> nn.Module:
    """A detector ready for :func:`inference_detector`.

    Args:
        config: path of a config, name of one that comes with the package, or a ``Config``.
        checkpoint: path, URL or zoo model name; None leaves random weights (with a warning).
        palette: colours for drawing instead of the checkpoint's or data set's own: 'coco', 'voc',
            'random', or a colour name; 'none' keeps them.
        device: where the detector runs; without CUDA, ``'cuda:0'`` (the default) means the CPU.
        cfg_options: dotted config keys and their values.
        prepare: fold batch norms and use channels-last layout, which is faster and changes results
            by rounding only; parameter names change with it.

    Returns:
        The detector in evaluation mode, with attributes ``cfg`` (the config) and ``dataset_meta``
        (``classes`` and ``palette``; those stored with the checkpoint come before the config's).

    Raises:
        ConfigError: the config cannot be used, or there is no such device.
        CheckpointError: the checkpoint is unreadable, leaves parts of the model without weights, or
            has other classes than the model.
    """
    cfg = load_config(config, cfg_options)
    if cfg.get('model') is None:
        raise ConfigError(f'{cfg.filename or "config"}: model is missing.')
    device = _device(device)
    init_scope()
    if checkpoint is not None and cfg.model.get('backbone') is not None:
        cfg.model.backbone.init_cfg = None  # no download of weights that are replaced at once
    model = MODELS.build(cfg.model)
    stored = None
    if checkpoint is None:
        print_log(
            'init_detector: no checkpoint given, the detector has random weights.',
            logger='current',
            level=logging.WARNING,
        )
    else:
        stored = _load_weights(model, checkpoint)
    meta = stored or _config_metainfo(cfg)
    if stored is not None:
        _check_classes(model, stored, checkpoint, cfg)
        stored.setdefault('palette', _palette_of(stored['classes']))
    if palette != 'none':
        meta = {**meta, 'palette': palette}
    model.dataset_meta = meta
    model.cfg = cfg
    model.to(device).eval()
    return prepare_for_inference(model) if prepare else model


def inference_detector(
    model: nn.Module,
    imgs: Image | Sequence[Image],
    test_pipeline: Pipeline | Sequence[dict] | None = None,
    *,
    batch_size: int = 1,
    num_workers: int = 2,
    tta: bool = False,
) -> DetDataSample | list[DetDataSample]:
    """Detections in one image or many.

    Images are decoded and resized in threads while the detector works. Those whose network inputs
    have the same size are computed together; grouping by size is what keeps each result the same
    (within rounding) as that of the image alone, which more padding would change.

    Args:
        model: from :func:`init_detector`.
        imgs: an image or a sequence of images, each a path or an array (H, W, 3) uint8 BGR (or
            (H, W), grey).
        test_pipeline: transforms instead of the config's: a list of configs, or a callable that
            takes ``dict(img_path=...)`` or ``dict(img=...)`` and returns what ``PackDetInputs``
            does.
        batch_size: images computed at once, at most.
        num_workers: threads that prepare images; 0 prepares them in turn with the detector.
        tta: merge what is found in several views of each image: those of ``test_pipeline``, else
            of the config's ``tta_pipeline``, else its test scale and those of 0.5 and 1.5 times the
            size, each also flipped.

    Returns:
        A sample for one image, a list in the order of ``imgs`` for a sequence. Its
        ``pred_instances`` have ``bboxes`` (n, 4) xyxy in pixels of the image as given, ``scores``
        (n,) descending, ``labels`` (n,), indices into ``model.dataset_meta['classes']``, and with
        a mask head ``masks`` (n, H, W) bool. A panoptic model adds ``pred_panoptic_seg`` with
        ``sem_seg`` (1, H, W) and ``segments_info``, which lists its segments (see
        :func:`mmdet_r2.structures.panoptic.segments`).

    Raises:
        DataError: an image is missing, unreadable or of another kind; the message names it.
        ConfigError: the config has no test pipeline; it makes several views and ``tta`` is not
            given, or the other way round.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; expected 1 or more')
    single = isinstance(imgs, (str, os.PathLike, np.ndarray))
    images = cast('list[Image]', [imgs] if single else list(cast('Sequence[Image]', imgs)))
    transform = _pipeline(model, test_pipeline, tta)
    if tta:
        model = _augmented(model)
    results: list[DetDataSample | None] = [None] * len(images)
    preprocessor = getattr(model.module if tta else model, 'data_preprocessor', None)
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    waiting: dict[tuple, list[tuple[int, dict]]] = collections.defaultdict(list)
    with torch.no_grad():
        for index, data in enumerate(_prepared(images, transform, num_workers, 2 * batch_size)):
            views = _views(data['inputs'], tta)
            key = tuple(-(-side // divisor) for view in views for side in view.shape[-2:])
            waiting[key].append((index, data))
            if len(waiting[key]) == batch_size:
                _detect(model, waiting.pop(key), results)
            elif sum(map(len, waiting.values())) >= 8 * batch_size:
                # photos of ever different sizes must not pile up
                _detect(model, waiting.pop(max(waiting, key=lambda k: len(waiting[k]))), results)
        for group in waiting.values():
            _detect(model, group, results)
    found = [sample for sample in results if sample is not None]
    return found[0] if single else found


def _detect(
    model: nn.Module, group: list[tuple[int, dict]], results: list[DetDataSample | None]
) -> None:
    batch = pseudo_collate([data for _, data in group])
    detector = model.module if isinstance(model, DetTTAModel) else model
    fusion = getattr(detector, 'panoptic_fusion_head', None)
    for (index, _), sample in zip(group, model.test_step(batch)):  # type: ignore[operator]
        if fusion is not None and 'pred_panoptic_seg' in sample:
            panoptic = sample.pred_panoptic_seg
            info = segments(panoptic.sem_seg, fusion.num_classes, fusion.num_things_classes)
            panoptic.set_metainfo(dict(segments_info=info))
        results[index] = sample


def _views(inputs: 'Tensor | list[Tensor]', tta: bool) -> list[Tensor]:
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
    return cast(DetTTAModel, MODELS.build({**tta_model(cfg), 'module': model}))


def _prepared(
    images: Sequence[Image], transform: Pipeline, num_workers: int, ahead: int
) -> Iterator[dict]:
    """Pipeline output of every image, in order; at most ``ahead`` are computed in advance."""
    if num_workers == 0 or len(images) == 1:
        for index, image in enumerate(images):
            yield _prepare_one(image, index, transform)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        queue: collections.deque[Future[dict]] = collections.deque()
        try:
            for index, image in enumerate(images):
                queue.append(pool.submit(_prepare_one, image, index, transform))
                if len(queue) > ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:  # after an unreadable image the others need not be decoded
                future.cancel()


def _prepare_one(image: Image, index: int, transform: Pipeline) -> dict:
    results: dict[str, Any] = dict(img_id=index)
    if isinstance(image, np.ndarray):
        name = f'imgs[{index}]'
        array = _checked_array(image, name)
        results.update(img=array, img_shape=array.shape[:2], ori_shape=array.shape[:2])
    elif isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        results.update(img_path=name)
    else:
        raise DataError(
            f'imgs[{index}] is a {type(image).__name__}; expected a path or a BGR array.'
        )
    packed = transform(results)
    if packed is None:
        raise DataError(f'{name}: the test pipeline gave nothing for this image.')
    return packed


def _checked_array(image: np.ndarray, name: str) -> np.ndarray:
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f'{name}: array of shape {image.shape} and type {image.dtype}; expected (height, '
            'width, 3) uint8 in BGR order.'
        )
    return image


class _FromFileOrArray:
    """A pipeline whose loader is skipped for arrays, which are loaded already."""

    def __init__(self, transforms: Sequence[Pipeline]) -> None:
        self.transforms = list(transforms)

    def __call__(self, results: dict) -> dict | None:
        given: dict | None = results
        for i, transform in enumerate(self.transforms):
            if i == 0 and 'img' in results:
                if getattr(transform, 'to_float32', False):
                    results['img'] = results['img'].astype(np.float32)
                continue
            if given is None:
                return None
            given = transform(given)
        return given


def _pipeline(
    model: nn.Module, given: Pipeline | Sequence[dict] | None, tta: bool = False
) -> Pipeline:
    if callable(given):
        return given
    if given is not None:
        return _built_pipeline(given, 'test_pipeline')
    name = '_tta_pipeline' if tta else '_test_pipeline'
    cached = model.__dict__.get(name)
    if cached is None:
        cfg = getattr(model, 'cfg', None)
        if cfg is None:
            raise ConfigError(
                'the model has no config to take the test pipeline from: build it with '
                'init_detector, or give test_pipeline.'
            )
        transforms = _test_transforms(cfg)
        if tta:
            transforms = tta_pipeline(cfg, transforms)
        cached = _built_pipeline(transforms, cfg.filename or 'config')
        model.__dict__[name] = cached
    return cached


def _built_pipeline(configs: Sequence[dict], where: str) -> Pipeline:
    kinds = [kind_of(config) for config in configs]
    if not kinds or not kinds[0].startswith('LoadImageFrom'):
        raise ConfigError(
            f'{where}: the test pipeline must begin with LoadImageFromFile; found '
            f'{kinds[0] if kinds else "nothing"}.'
        )
    check_views(configs, where)
    configs = [copy.deepcopy(dict(config)) for config in configs]
    # Every kind of loader is for files here: what is given decides, not its name.
    configs[0]['type'] = 'LoadImageFromFile'
    for config, kind in zip(configs, kinds):
        if kind == 'TestTimeAug':
            steps = [
                [t for t in step if not _reads_annotations(t)] for step in config['transforms']
            ]
            config['transforms'] = [step for step in steps if step]
    init_scope()
    return _FromFileOrArray([TRANSFORMS.build(c) for c in configs if not _reads_annotations(c)])


def _reads_annotations(transform: dict) -> bool:
    return kind_of(transform) in _ANNOTATION_TRANSFORMS


def _test_transforms(cfg: Config) -> Sequence[dict]:
    """The transforms of the config's test (else validation) data, looked for inside wrappers."""
    for key in ('test_dataloader', 'val_dataloader'):
        dataset = (cfg.get(key) or {}).get('dataset')
        while dataset is not None:
            if dataset.get('pipeline'):
                return dataset['pipeline']
            inner = dataset.get('dataset') or dataset.get('datasets')
            dataset = inner[0] if isinstance(inner, (list, tuple)) and inner else inner
    if cfg.get('test_pipeline'):
        return cfg['test_pipeline']
    raise ConfigError(
        f'{cfg.filename or "config"}: test_dataloader.dataset.pipeline is missing; it says how to '
        'load and resize images.'
    )


def _config_metainfo(cfg: Config) -> dict[str, Any]:
    """Class names and colours of the config's data set, without reading any annotations."""
    for key in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (cfg.get(key) or {}).get('dataset')
        while dataset is not None:
            inner = dataset.get('dataset') or dataset.get('datasets')
            if inner is None:
                kind = DATASETS.get(dataset['type'])
                if hasattr(kind, '_load_metainfo'):
                    return dict(kind._load_metainfo(dataset.get('metainfo')))
                break
            dataset = inner[0] if isinstance(inner, (list, tuple)) else inner
    return {}


def _load_weights(model: nn.Module, checkpoint: str | os.PathLike[str]) -> dict[str, Any] | None:
    report = load_checkpoint(model, checkpoint)
    if report.problem:
        raise CheckpointError(
            f'{os.fspath(checkpoint)} {report.problem}: {report}. Use the config that the '
            'checkpoint was trained with.'
        )
    return None if report.dataset_meta is None else dict(report.dataset_meta)


def _check_classes(
    model: nn.Module,
    stored: dict[str, Any],
    checkpoint: str | os.PathLike[str] | None,
    cfg: Config,
) -> None:
    """The names stored with the weights are believed; that the config has others is said."""
    # the map of a panoptic model has stuff, too
    key, head = 'panoptic_fusion_head', getattr(model, 'panoptic_fusion_head', None)
    if head is None:
        key, head = 'roi_head.bbox_head.num_classes', getattr(model, 'roi_head', None)
    number = getattr(head, 'num_classes', None)
    if number is not None and number != len(stored['classes']):
        raise CheckpointError(
            f'{checkpoint}: names {len(stored["classes"])} classes, but the model has {number} '
            f'(model.{key}).'
        )
    expected = _config_metainfo(cfg).get('classes')
    difference = classes_differ(stored['classes'], expected) if expected else None
    if difference is not None:
        print_log(
            f"{checkpoint}: its class names are used, not the config's: {difference}.",
            logger='current',
            level=logging.WARNING,
        )


def _palette_of(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    from ..datasets.metainfo import palette_for

    return palette_for(tuple(classes))


def _device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r}: {reason}; expected 'cpu' or 'cuda:0'.") from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        print_log(
            f'init_detector: no CUDA device for {str(device)!r}, using the CPU.',
            logger='current',
            level=logging.WARNING,
        )
        return torch.device('cpu')
    return device
