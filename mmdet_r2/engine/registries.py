"""Child registries for what mmengine's Runner builds beside models and data.

Without a child of our scope mmengine warns for each of them that it falls back to its own; with one
it finds ours first.
"""

from mmengine import registry as root

from ..registry import ScopedRegistry

_LOCATION = 'mmdet_r2.engine'
LOG_PROCESSORS = ScopedRegistry(root.LOG_PROCESSORS, _LOCATION)
MODEL_WRAPPERS = ScopedRegistry(root.MODEL_WRAPPERS, _LOCATION)
OPTIMIZERS = ScopedRegistry(root.OPTIMIZERS, _LOCATION)
OPTIM_WRAPPERS = ScopedRegistry(root.OPTIM_WRAPPERS, _LOCATION)
OPTIM_WRAPPER_CONSTRUCTORS = ScopedRegistry(root.OPTIM_WRAPPER_CONSTRUCTORS, _LOCATION)
PARAM_SCHEDULERS = ScopedRegistry(root.PARAM_SCHEDULERS, _LOCATION)
VISBACKENDS = ScopedRegistry(root.VISBACKENDS, _LOCATION)
