"""The registries a config's ``type`` names are looked up in.

Each is a child of mmengine's registry of the same kind, so that mmcv's and mmengine's components
(BN, DCN, RandomResize, SGD, ...) are found through the parent. Only what a config names is
registered. mmdetection's scope means ours: ``mmdet.ResNet`` is ``ResNet``.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.registry import DATA_SAMPLERS as _DATA_SAMPLERS
from mmengine.registry import DATASETS as _DATASETS
from mmengine.registry import EVALUATOR as _EVALUATOR
from mmengine.registry import HOOKS as _HOOKS
from mmengine.registry import LOOPS as _LOOPS
from mmengine.registry import METRICS as _METRICS
from mmengine.registry import MODELS as _MODELS
from mmengine.registry import RUNNERS as _RUNNERS
from mmengine.registry import TASK_UTILS as _TASK_UTILS
from mmengine.registry import TRANSFORMS as _TRANSFORMS
from mmengine.registry import VISUALIZERS as _VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as _WEIGHT_INITIALIZERS
from mmengine.registry import DefaultScope, Registry, build_from_cfg
from mmengine.registry.build_functions import build_scheduler_from_cfg

from .errors import ArgumentError, ConfigError, UserError, reason_of

SCOPE = 'mmdet_r2'
#: The scope whose components ours replace, by the same names.
PEER_SCOPE = 'mmdet'


def without_scope(name: str) -> str:
    """``mmdet.X`` and ``mmdet.models.detectors.X``, as mmdetection's configs and their dumps say,
    become ``X``; the same with ``mmdet_r2``. Other names stay."""
    scope, _, rest = name.partition('.')
    return rest.rpartition('.')[2] if rest and scope in (SCOPE, PEER_SCOPE) else name


def find_component(registry: Registry, name: str) -> Any:
    """What ``registry`` or a parent has as ``name``; None if there is none.

    mmengine takes a name that is not registered for that of a module, and imports it. Here only
    dotted names are imported.
    """
    if '.' in name:
        return Registry.get(registry, name)
    registry.import_from_location()
    place: Registry | None = registry
    while place is not None:
        if name in place.module_dict:
            return place.module_dict[name]
        place = place.parent
    return None


class ScopedRegistry(Registry):
    """A registry of our scope that takes mmdetection's scope for it.

    Args:
        parent: mmengine's registry of the same kind.
        locations: modules to import before a name is looked up.
    """

    def __init__(self, parent: Registry, *locations: str) -> None:
        super().__init__(parent.name, parent=parent, scope=SCOPE, locations=list(locations))

    def get(self, key: str) -> Any:
        """The class (or function) registered as ``key``, here or in a parent; None if there is
        none. A dotted name is imported."""
        return (
            find_component(self, without_scope(key)) if isinstance(key, str) else super().get(key)
        )

    @contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Iterator[Registry]:
        """See mmengine: builds within look names up in ``scope``, None being the current one."""
        current = DefaultScope.get_current_instance()
        wanted = scope or (current.scope_name if current is not None else None)
        scope = SCOPE if wanted == PEER_SCOPE else scope
        with super().switch_scope_and_registry(scope) as registry:
            yield registry


MODELS = ScopedRegistry(_MODELS, 'mmdet_r2.models')
TASK_UTILS = ScopedRegistry(_TASK_UTILS, 'mmdet_r2.models')
DATASETS = ScopedRegistry(_DATASETS, 'mmdet_r2.datasets')
DATA_SAMPLERS = ScopedRegistry(_DATA_SAMPLERS, 'mmdet_r2.datasets')
TRANSFORMS = ScopedRegistry(_TRANSFORMS, 'mmdet_r2.datasets.transforms')
METRICS = ScopedRegistry(_METRICS, 'mmdet_r2.evaluation')
EVALUATOR = ScopedRegistry(_EVALUATOR, 'mmdet_r2.evaluation')
VISUALIZERS = ScopedRegistry(_VISUALIZERS, 'mmdet_r2.visualization')
HOOKS = ScopedRegistry(_HOOKS, 'mmdet_r2.engine', 'mmdet_r2.visualization')
LOOPS = ScopedRegistry(_LOOPS, 'mmdet_r2.engine')
RUNNERS = ScopedRegistry(_RUNNERS, 'mmdet_r2.engine')
WEIGHT_INITIALIZERS = ScopedRegistry(_WEIGHT_INITIALIZERS, 'mmdet_r2.zoo')


def init_scope() -> None:
    """Make ``mmdet_r2`` the scope in which unprefixed ``type`` names are looked up.

    The Runner does this itself from ``default_scope``; code that builds components without a Runner
    (inference, tests) calls it first, so that mmcv transforms which build ``Resize`` by name get
    ours.
    """
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != SCOPE:
        name = (
            SCOPE if not DefaultScope.check_instance_created(SCOPE) else f'{SCOPE}-{id(object())}'
        )
        DefaultScope.get_instance(name, scope_name=SCOPE)


def build(registry: Registry, config: Any, key: str, **defaults: Any) -> Any:
    """The component of ``config``, which stands at the dotted ``key``; one that is built already is
    returned as it is.

    Args:
        registry: where its ``type`` is looked up.
        config: a dictionary with ``type``, or an object.
        key: such as ``'model'``; what an error names, with the keys below it.
        defaults: arguments that the config need not have.

    Raises:
        ConfigError: it, or a component inside it, cannot be built.
    """
    if not isinstance(config, dict):
        if config is None or isinstance(config, (str, int, float, list, tuple)):
            raise ConfigError(f'{key} is {config!r}, expected a dictionary with type')
        return config
    with built_from(key, config):
        return registry.build(config, default_args=defaults or None)


@contextmanager
def built_from(key: str, config: Any = None) -> Iterator[None]:
    """What is raised within, where components are built from ``config``, becomes a
    :class:`ConfigError` of one line: the dotted key of the component that failed, and why.

    Which one failed is read from the calls of mmengine's ``build_from_cfg`` that were under way:
    each was given a part of the config of the one before.

    Args:
        key: where ``config`` stands; without ``config`` the whole name of what is built.
    """
    try:
        yield
    except ArgumentError as error:
        raise ConfigError(f'{_place(error, key, config)[0]}.{error}') from error
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigError(_explained(error, key, config)) from error


_BUILDERS = (build_from_cfg.__code__, build_scheduler_from_cfg.__code__)
_LIBRARIES = {'mmdet_r2', 'mmengine', 'mmcv', 'torch', *sys.stdlib_module_names}


def _place(error: Exception, key: str, config: Any) -> tuple[str, str, dict[str, Any] | None]:
    """Dotted key of the component that failed, its type, and the variables of its builder."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [frame.f_locals for frame in frames if frame.f_code in _BUILDERS]
    part, path, kind = config, key, ''
    for call in calls:
        given = call['cfg']
        if isinstance(given, dict):
            kind = getattr(given.get('type'), '__name__', given.get('type')) or ''
        # in the part found so far, else anywhere: train_cfg is handed down to heads
        for start, node in ((path, part), (key, config)):
            places = list(_places(node, given))
            if len(places) == 1 or (places and isinstance(given, dict) and 'type' in given):
                below, part = places[0]
                path = '.'.join((start, *below))
                break
    return path, kind, calls[-1] if calls else None


def _explained(error: Exception, key: str, config: Any) -> str:
    path, kind, last = _place(error, key, config)
    last = last or {'cfg': {'type': ''}}
    if not isinstance(last['cfg'], dict):
        return f'{path} is {last["cfg"]!r}, expected a dictionary with type'
    if 'type' not in last['cfg'] and 'type' not in (last.get('default_args') or ()):
        return f'{path}: type is missing'
    if 'obj_cls' in last and last['obj_cls'] is None:
        return f'{path}.type: {kind!r} is not registered as {last["registry"].name}'
    text = f'{path}: {kind} cannot be built: ' if kind else f'{path}: '
    text += reason_of(error)
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get('__name__')).partition('.')[0]
        file = frame.f_code.co_filename
        if package not in _LIBRARIES and 'site-packages' not in file:
            return f'{text} ({file}:{line})'  # the user's own code
    return text


def _places(
    part: Any, wanted: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys from ``part`` to what ``wanted`` was made of, and that itself."""
    if part is wanted or _made_of(part, wanted):
        yield path, part
        return
    below: Any = ()
    if isinstance(part, dict):
        below = part.items()
    elif isinstance(part, (list, tuple)):
        below = enumerate(part)
    for name, value in below:
        if name != 'type':
            yield from _places(value, wanted, (*path, str(name)))


def _made_of(part: Any, wanted: Any) -> bool:
    """Whether ``wanted`` is a copy of ``part``, as to a component perhaps with further entries."""
    try:
        if isinstance(part, dict) and isinstance(wanted, dict):
            return part.get('type') == wanted.get('type') and all(
                bool(value == wanted[key]) for key, value in part.items() if key in wanted
            )
        return type(part) is type(wanted) and bool(part == wanted)
    except (ValueError, RuntimeError):  # arrays
        return False
