"""What a config says about test-time augmentation, or what is done where it says nothing."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..config_check import VIEW_META_KEYS, view_problems
from ..errors import ConfigError

#: Scales of the default views, relative to the config's test scale: (1333, 800) gives (666, 400)
#: and (2000, 1200), those of mmdetection 3.x's configs.
SCALES = (1.0, 0.5, 1.5)
_RESIZES = ('Resize', 'ResizeShortestEdge')
DEFAULT_MODEL = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)


def tta_model(config: Config) -> dict[str, Any]:
    """``tta_model`` of the config, or the default."""
    return copy.deepcopy(config.get('tta_model') or ConfigDict(DEFAULT_MODEL))


def tta_pipeline(config: Config, test_pipeline: Sequence[dict]) -> list[dict]:
    """``tta_pipeline`` of the config, or one made from the test pipeline: :data:`SCALES`, each also
    flipped.

    Raises:
        ConfigError: the config's ``tta_pipeline`` makes no views.
    """
    given = config.get('tta_pipeline')
    if given is None:
        if has_views(test_pipeline):
            return copy.deepcopy(list(test_pipeline))
        return _default_pipeline(test_pipeline)
    if not has_views(given):
        raise ConfigError(
            f'{config.filename or "config"}: tta_pipeline has no TestTimeAug, which makes the '
            'views.'
        )
    return copy.deepcopy(list(given))


def has_views(pipeline: Sequence[dict]) -> bool:
    """Whether a list of transforms gives several views of an image."""
    return any(kind_of(transform) == 'TestTimeAug' for transform in pipeline)


def check_views(pipeline: Sequence[dict], where: str) -> None:
    """Raise for views that cannot be merged, as :func:`mmdet_r2.config.load_config` does for a
    config.
    """
    for index, transform in enumerate(pipeline):
        if kind_of(transform) == 'TestTimeAug':
            for path, problem in view_problems(transform):
                raise ConfigError(f'{".".join((where, str(index), *path))}: {problem}')


def datasets_of(dataset: Any) -> Iterator[Any]:
    """The configs of the data sets inside wrappers."""
    inner = dataset.get('dataset') or dataset.get('datasets')
    if inner is None:
        yield dataset
        return
    for part in inner if isinstance(inner, list | tuple) else [inner]:
        yield from datasets_of(part)


def kind_of(transform: dict) -> str:
    """The ``type`` of a transform without its scope."""
    return str(transform['type']).rpartition('.')[2]


def _default_pipeline(pipeline: Sequence[dict]) -> list[dict]:
    transforms = [copy.deepcopy(t) for t in pipeline if kind_of(t) != 'RandomFlip']
    kinds = [kind_of(transform) for transform in transforms]
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    at = next((i for i, kind in enumerate(kinds) if kind in _RESIZES), None)
    if at is not None:
        before, after = transforms[:at], transforms[at + 1 :]
        scales = [_rescaled(transforms[at], factor) for factor in SCALES]
        views = [scales, flips]
        said = ', '.join(str(s.get('scale') or s.get('scale_factor')) for s in scales)
    else:  # at least the flips, before anything is padded or packed
        at = next((i for i, kind in enumerate(kinds) if kind in ('Pad', 'PackDetInputs')), -1)
        before, after = transforms[:at], transforms[at:]
        views, said = [flips], 'the scale of the test pipeline'
    for transform in after:
        if kind_of(transform) == 'PackDetInputs' and 'meta_keys' in transform:
            transform['meta_keys'] = tuple(
                dict.fromkeys([*transform['meta_keys'], *VIEW_META_KEYS])
            )
        views.append([transform])
    print_log(
        f'test-time augmentation: the config has no tta_pipeline; views are {said}, each with and '
        'without a horizontal flip.',
        'current',
    )
    return [*before, ConfigDict(type='TestTimeAug', transforms=views)]


def _rescaled(resize: dict, factor: float) -> dict:
    resize = copy.deepcopy(resize)
    if resize.get('scale') is not None:
        scale = resize['scale']
        if isinstance(scale, int):
            resize['scale'] = round(scale * factor)
        else:
            resize['scale'] = tuple(round(side * factor) for side in scale)
        if resize.get('max_size') is not None:  # of ResizeShortestEdge
            resize['max_size'] = round(resize['max_size'] * factor)
    else:
        factors = resize['scale_factor']
        factors = factors if isinstance(factors, list | tuple) else (factors, factors)
        resize['scale_factor'] = tuple(f * factor for f in factors)
    return resize
