"""Code written for mmdetection runs on this package: after :func:`install`, ``import mmdet`` finds
our components under mmdetection 3.x's names.

mmdetection itself is neither needed nor run. A module of it that has no counterpart cannot be
imported, nor can a name that we lack: the error says which is nearest.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..registry import PEER_SCOPE

#: mmdetection 3.x's modules, without ``mmdet.``: packages, and the modules in each.
_MODULES = {
    'apis': 'det_inferencer inference',
    'datasets': 'base_det_dataset coco coco_panoptic dataset_wrappers utils voc xml_style',
    'datasets.samplers': 'batch_sampler',
    'datasets.transforms': 'formatting geometric loading processors transforms wrappers',
    'engine': '',
    'engine.hooks': 'checkloss_hook memory_profiler_hook num_class_check_hook '
    'pipeline_switch_hook utils visualization_hook',
    'engine.optimizers': 'layer_decay_optimizer_constructor',
    'engine.runner': 'loops',
    'engine.schedulers': 'quadratic_warmup',
    'evaluation': '',
    'evaluation.functional': 'class_names',
    'evaluation.metrics': 'coco_metric coco_panoptic_metric dump_det_results '
    'dump_proposals_metric voc_metric',
    'models': '',
    'models.backbones': 'resnet resnext res2net resnest',
    'models.data_preprocessors': 'data_preprocessor',
    'models.dense_heads': 'rpn_head',
    'models.detectors': 'base cascade_rcnn fast_rcnn faster_rcnn htc mask_rcnn panoptic_fpn rpn '
    'two_stage',
    'models.layers': '',
    'models.losses': 'cross_entropy_loss iou_loss smooth_l1_loss',
    'models.necks': 'fpn',
    'models.roi_heads': 'base_roi_head cascade_roi_head htc_roi_head standard_roi_head',
    'models.roi_heads.bbox_heads': 'bbox_head convfc_bbox_head',
    'models.roi_heads.mask_heads': 'fcn_mask_head htc_mask_head fused_semantic_head',
    'models.roi_heads.roi_extractors': 'single_level_roi_extractor',
    'models.roi_heads.shared_heads': 'res_layer',
    'models.seg_heads': 'panoptic_fpn_head',
    'models.task_modules': '',
    'models.task_modules.assigners': 'max_iou_assigner',
    'models.task_modules.coders': 'delta_xywh_bbox_coder',
    'models.task_modules.prior_generators': 'anchor_generator',
    'models.task_modules.samplers': 'random_sampler ohem_sampler pseudo_sampler sampling_result',
    'models.test_time_augs': 'det_tta',
    'models.utils': '',
    'registry': '',
    'structures': 'det_data_sample',
    'structures.bbox': 'transforms',
    'structures.mask': 'structures utils',
    'utils': 'setup_env typing_utils',
    'version': '',
    'visualization': 'local_visualizer palette',
}
_KNOWN = {
    f'{PEER_SCOPE}.{name}'
    for package, modules in _MODULES.items()
    for name in (package, *(f'{package}.{module}' for module in modules.split()))
} | {PEER_SCOPE}
#: Where their names are looked up, in this order; then among all registered components.
_OURS = (
    'mmdet_r2.compat.functions',
    'mmdet_r2.apis',
    'mmdet_r2.registry',
    'mmdet_r2.structures',
    'mmdet_r2.structures.masks',
    'mmdet_r2.datasets',
    'mmdet_r2.datasets.transforms',
    'mmdet_r2.engine',
    'mmdet_r2.evaluation',
    'mmdet_r2.visualization',
    'mmengine.registry',
)


def install() -> None:
    """Make ``import mmdet`` find this package; a second call does nothing.

    Raises:
        ConfigError: mmdetection is installed, or a module called ``mmdet`` imported: it would be
            another for some of the code than for the rest.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    real = sys.modules.get(PEER_SCOPE) or importlib.util.find_spec(PEER_SCOPE)
    if real is not None:
        where = getattr(real, 'origin', None) or getattr(real, '__file__', None)
        raise ConfigError(
            f'mmdet_r2.compat.install(): mmdetection itself is here ({where}) and would be hidden; '
            'uninstall it (pip uninstall mmdet), or do not call this.'
        )
    sys.meta_path.append(_Finder())


class _Module(types.ModuleType):
    """A module of mmdetection's, whose names are looked up when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') and name != '__version__':
            raise AttributeError(name)
        child = f'{self.__name__}.{name}'
        if child in _KNOWN:
            return importlib.import_module(child)
        for value in _named(name):
            setattr(self, name, value)
            return value
        known = sorted({n for module in _OURS for n in dir(importlib.import_module(module))})
        names = [*(each for each in known if not each.startswith('_')), *_components()]
        # not an AttributeError, of which `from ... import` would drop the text
        raise ImportError(
            f'{child}: mmdet_r2 has no {name!r}{did_you_mean(name, names)}', name=child
        )


def _named(name: str) -> Iterator[Any]:
    for module in _OURS:
        found = importlib.import_module(module)
        if hasattr(found, name):
            yield getattr(found, name)
    if name in (components := _components()):
        yield components[name]


def _components() -> dict[str, Any]:
    from .. import registry

    found: dict[str, Any] = {}
    for each in vars(registry).values():
        if isinstance(each, registry.ScopedRegistry):
            each.import_from_location()
            found.update(each.module_dict)
    return found


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _KNOWN:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is run: names are looked up later."""
