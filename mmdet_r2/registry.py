"""The registries a config's ``type`` names are looked up in.

Each is a child of mmengine's registry of the same kind, so that mmcv's and mmengine's components
(BN, DCN, RandomResize, SGD, ...) are found through the parent. Only what a config names is
registered.
"""

from mmengine.registry import DATA_SAMPLERS as _DATA_SAMPLERS
from mmengine.registry import DATASETS as _DATASETS
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


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=list(locations))


MODELS = _child(_MODELS, 'mmdet_r2.models')
TASK_UTILS = _child(_TASK_UTILS, 'mmdet_r2.models')
DATASETS = _child(_DATASETS, 'mmdet_r2.datasets')
DATA_SAMPLERS = _child(_DATA_SAMPLERS, 'mmdet_r2.datasets')
TRANSFORMS = _child(_TRANSFORMS, 'mmdet_r2.datasets.transforms')
METRICS = _child(_METRICS, 'mmdet_r2.evaluation')
VISUALIZERS = _child(_VISUALIZERS, 'mmdet_r2.visualization')
HOOKS = _child(_HOOKS, 'mmdet_r2.engine', 'mmdet_r2.visualization')
LOOPS = _child(_LOOPS, 'mmdet_r2.engine')
RUNNERS = _child(_RUNNERS, 'mmdet_r2.engine')
WEIGHT_INITIALIZERS = _child(_WEIGHT_INITIALIZERS, 'mmdet_r2.zoo')


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
