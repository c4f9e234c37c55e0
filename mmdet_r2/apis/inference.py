"""A detector from a config and a checkpoint, and its detections in images."""

import copy
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ..config import load_config
from ..datasets.transforms import LoadImageFromFile
from ..errors import CheckpointError, ConfigError
from ..inference import prepare_for_inference
from ..registry import DATASETS, MODELS, TRANSFORMS, build, init_scope
from ..structures import DetDataSample
from ..visualization import get_palette
from ..zoo import classes_differ, load_checkpoint, weights_of
from .images import Image, is_image
from .stream import Masks, Pipeline, TestPipeline, stream
from .tta import check_views, kind_of, tta_pipeline

# Transforms of a test pipeline that read annotations, which images alone do not have.
_ANNOTATION_TRANSFORMS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'FilterAnnotations')


def init_detector(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    palette: str = 'none',
    device: str | torch.device | None = None,
    cfg_options: dict[str, Any] | None = None,
    *,
    prepare: bool = True,
) -> nn.Module:
    """A detector ready for :func:`inference_detector`.

    Args:
        config: path of a config, name of one that comes with the package, or a ``Config``.
        checkpoint: path, URL or zoo model name; 'auto' for the weights published for ``config``;
            None leaves random weights (with a warning).
        palette: colours for drawing instead of the checkpoint's or data set's own: 'coco', 'voc',
            'random', or a colour name; 'none' keeps them.
        device: where the detector runs; None: the first GPU where there is CUDA, else the CPU.
            Without CUDA ``'cuda:0'``, mmdetection's default, means the CPU, with a warning.
        cfg_options: dotted config keys and their values.
        prepare: fold batch norms and use channels-last layout, which is faster and changes results
            by rounding only; parameter names change with it.

    Returns:
        The detector in evaluation mode, with attributes ``cfg`` (the config) and ``dataset_meta``
        (``classes`` and ``palette``; those stored with the checkpoint come before the config's).

    Raises:
        ConfigError: the config cannot be used, or there is no such device or palette.
        CheckpointError: the checkpoint is unreadable, leaves parts of the model without weights, or
            has other classes than the model; 'auto', and no weights were published.
    """
    get_palette(palette, 1)  # a wrong one is refused before anything is fetched
    if checkpoint == 'auto':
        checkpoint = weights_of(config)
    cfg = load_config(config, cfg_options)
    if cfg.get('model') is None:
        raise ConfigError(f'{cfg.filename or "config"}: model is missing.')
    device = _device(device)
    init_scope()
    if checkpoint is not None and cfg.model.get('backbone') is not None:
        cfg.model.backbone.init_cfg = None  # no download of weights that are replaced at once
    model = build(MODELS, cfg.model, 'model')
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
    imgs: Image | Iterable[Image],
    test_pipeline: Pipeline | Sequence[dict] | None = None,
    *,
    batch_size: int = 1,
    num_workers: int = 2,
    tta: bool = False,
    masks: Masks = 'bitmap',
) -> DetDataSample | list[DetDataSample]:
    """Detections in one image or many.

    Images are decoded and resized in threads while the detector works. Those whose network inputs
    have the same size are computed together: N images of one size take ceil(N / batch_size)
    passes. Grouping by size is what keeps each result the same (within rounding) as that of the
    image alone, which more padding would change.

    Several threads may call it at once with one model. In a process forked from one that has used
    it, it works on one CPU thread; a model on a GPU cannot be used there, build it after the fork.

    Args:
        model: from :func:`init_detector`.
        imgs: an image, or any iterable of images. An image is a path or http(s) address; the bytes
            of an image file; an array (H, W, 3) uint8 **BGR** or (H, W) grey, as OpenCV and mmcv
            read them; a PIL image; or a tensor (3, H, W) **RGB**, uint8 or float in [0, 1], as
            torchvision makes them.
        test_pipeline: transforms instead of the config's: a list of configs, or a callable that
            takes ``dict(img_path=...)`` or ``dict(img=...)`` and returns what ``PackDetInputs``
            does.
        batch_size: images computed at once, at most.
        num_workers: threads that prepare images; 0 prepares them in turn with the detector.
        tta: merge what is found in several views of each image: those of ``test_pipeline``, else
            of the config's ``tta_pipeline``, else its test scale and those of 0.5 and 1.5 times the
            size, each also flipped.
        masks: 'bitmap' or 'rle'.

    Returns:
        A sample for one image, a list in the order of ``imgs`` for an iterable. Its
        ``pred_instances`` have ``bboxes`` (n, 4) xyxy in pixels of the image as given, ``scores``
        (n,) descending, ``labels`` (n,), indices into ``model.dataset_meta['classes']``, and with
        a mask head ``masks``: (n, H, W) bool, or n COCO run lengths, ``dict(size=[H, W],
        counts=bytes)``, which large images with many objects need. A panoptic model adds
        ``pred_panoptic_seg`` with ``sem_seg`` (1, H, W) and ``segments_info``, which lists its
        segments (see :func:`mmdet_r2.structures.panoptic.segments`).

    Raises:
        DataError: an image is missing, unreadable, of another kind, or has more pixels than
            ``$MMDET_R2_MAX_PIXELS`` (200 million) allows; the message names it.
        ConfigError: the config has no test pipeline; it makes several views and ``tta`` is not
            given, or the other way round.
    """
    single = is_image(imgs)
    images = cast('Iterable[Image]', [imgs] if single else imgs)
    results = stream(
        model,
        images,
        image_pipeline(model, test_pipeline, tta),
        batch_size=batch_size,
        num_workers=num_workers,
        tta=tta,
        masks=masks,
    )
    found = [cast(DetDataSample, result.sample) for result in results]
    return found[0] if single else found


def image_pipeline(
    model: nn.Module, given: Pipeline | Sequence[dict] | None = None, tta: bool = False
) -> Pipeline:
    """The test pipeline of the model's config (made once), or the one ``given``; with ``tta`` one
    that makes views.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
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
        transforms = test_transforms(cfg)
        if tta:
            transforms = tta_pipeline(cfg, transforms)
        cached = _built_pipeline(transforms, cfg.filename or 'config')
        model.__dict__[name] = cached
    return cached


def _built_pipeline(configs: Sequence[dict], where: str) -> Pipeline:
    for i, config in enumerate(configs):
        if not isinstance(config, dict) or 'type' not in config:
            raise ConfigError(f'{where}: {i} is {config!r}, expected a dictionary with type')
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
    loader, *transforms = [
        build(TRANSFORMS, c, f'{where}: {i}')
        for i, c in enumerate(configs)
        if not _reads_annotations(c)
    ]
    return TestPipeline(cast(LoadImageFromFile, loader), transforms)


def _reads_annotations(transform: dict) -> bool:
    return kind_of(transform) in _ANNOTATION_TRANSFORMS


def test_transforms(cfg: Config) -> Sequence[dict]:
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


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = 'cuda:0' if torch.cuda.is_available() else 'cpu'
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
