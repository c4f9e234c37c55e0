"""The registries a config's ``type`` names are looked up in.

Each is a child of mmengine's registry of the same kind, so that mmcv's and mmengine's components
(BN, DCN, RandomResize, SGD, ...) are found through the parent. Only what a config names is
registered. mmdetection's scope means ours: ``mmdet.ResNet`` is ``ResNet``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
from mmengine.registry import DefaultScope, Registry

SCOPE = 'mmdet_r2'
#: The scope whose components ours replace, by the same names.
PEER_SCOPE = 'mmdet'


def without_scope(name: str) -> str:
    """``mmdet.X`` and ``mmdet.models.detectors.X``, as mmdetection's configs and their dumps say,
    become ``X``; the same with ``mmdet_r2``. Other names stay."""
    scope, _, rest = name.partition('.')
    return rest.rpartition('.')[2] if rest and scope in (SCOPE, PEER_SCOPE) else name


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
        none."""
        return super().get(without_scope(key) if isinstance(key, str) else key)

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
