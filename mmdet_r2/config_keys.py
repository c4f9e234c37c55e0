"""The keys that configs have: what stands where, and the exceptions to "a key is a parameter of the
component it stands in".

Exceptions are dictionaries without ``type`` (:data:`PLAIN`), keys that a parent takes out before it
builds (:data:`TAKEN_BY_PARENT`), and keys that mmdetection's configs carry although nothing uses
them (:data:`UNUSED`). :mod:`mmdet_r2.config_check` compares configs with these tables.
"""

from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry

from . import registry
from .config_values import annotations_of
from .engine import registries
from .models.postprocess import DetectionSelector
from .models.rpn import ProposalSelector

#: Where a ``type`` name is looked up, by the part of the config it stands in.
ROLES: dict[str, tuple[Registry, ...]] = {
    'model': (registry.MODELS, registry.TASK_UTILS),
    'data': (registry.DATASETS, registry.TRANSFORMS, registry.DATA_SAMPLERS, root.FUNCTIONS),
    'dataset': (registry.DATASETS,),
    'transform': (registry.TRANSFORMS,),
    'data_sampler': (registry.DATA_SAMPLERS,),
    'function': (root.FUNCTIONS,),
    'init': (registry.WEIGHT_INITIALIZERS,),
    'metric': (registry.METRICS, registry.EVALUATOR),
    'hook': (registry.HOOKS,),
    'loop': (registry.LOOPS,),
    'optim_wrapper': (registries.OPTIM_WRAPPERS,),
    'constructor': (registries.OPTIM_WRAPPER_CONSTRUCTORS,),
    'optimizer': (registries.OPTIMIZERS,),
    'scheduler': (registries.PARAM_SCHEDULERS,),
    'visualizer': (registry.VISUALIZERS,),
    'vis_backend': (registries.VISBACKENDS,),
    'log_processor': (registries.LOG_PROCESSORS,),
    'model_wrapper': (registries.MODEL_WRAPPERS,),
}

#: Roles of the values of top-level keys.
TOP_ROLES = {
    'model': 'model',
    'data_preprocessor': 'model',
    'tta_model': 'model',
    'tta_pipeline': 'transform',
    'train_dataloader': 'data',
    'val_dataloader': 'data',
    'test_dataloader': 'data',
    'train_cfg': 'loop',
    'val_cfg': 'loop',
    'test_cfg': 'loop',
    'val_evaluator': 'metric',
    'test_evaluator': 'metric',
    'optim_wrapper': 'optim_wrapper',
    'param_scheduler': 'scheduler',
    'default_hooks': 'hook',
    'custom_hooks': 'hook',
    'visualizer': 'visualizer',
    'log_processor': 'log_processor',
    'model_wrapper_cfg': 'model_wrapper',
}

#: Top-level keys with a plain value.
TOP_PLAIN = frozenset(
    (
        'activation_checkpointing',
        'auto_scale_lr',
        'compile',
        'custom_imports',
        'default_scope',
        'efficient_conv_bn_eval',
        'env_cfg',
        'experiment_name',
        'find_unused_parameters',
        'launcher',
        'load_from',
        'log_level',
        'randomness',
        'resume',
        'runner_type',
        'sync_bn',
        'work_dir',
    )
)
TOP_KEYS = frozenset(TOP_ROLES) | TOP_PLAIN
#: Helper variables of many configs that look like a misspelt key.
VARIABLES = {'train_pipeline', 'test_pipeline'}

#: Keys that change the role of what is below them.
KEY_ROLES = {
    'dataset': 'dataset',
    'datasets': 'dataset',
    'pipeline': 'transform',
    'transforms': 'transform',
    'switch_pipeline': 'transform',
    'sampler': 'data_sampler',
    'batch_sampler': 'data_sampler',
    'collate_fn': 'function',
    'worker_init_fn': 'function',
    'optimizer': 'optimizer',
    'vis_backends': 'vis_backend',
    'init_cfg': 'init',
    'override': 'init',
    'metrics': 'metric',
}
# `sampler` inside a model is a RoI sampler, `transforms` inside a metric is the user's affair, ...
KEY_ROLES_WITHIN = {
    'data': {'dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn'},
    'dataset': {'dataset', 'datasets', 'pipeline'},
    'transform': {'transforms'},
    'optim_wrapper': {'optimizer'},
    'visualizer': {'vis_backends'},
    'model': {'init_cfg', 'override'},
    'init': {'override'},
    'metric': {'metrics'},
    'hook': {'switch_pipeline'},
}

#: Types of the values of top-level keys.
TOP_VALUES: dict[str, Any] = {
    **dict.fromkeys(('default_scope', 'experiment_name', 'launcher', 'load_from'), str),
    **dict.fromkeys(('runner_type', 'sync_bn', 'work_dir'), str),
    **dict.fromkeys(('resume', 'find_unused_parameters'), bool),
    **dict.fromkeys(('activation_checkpointing', 'efficient_conv_bn_eval'), str | list[str]),
    'compile': bool | dict,
    'log_level': str | int,
}
#: What may stand at a top-level key: 'component' (a dictionary), 'components' (a list of them),
#: 'either'. Objects may stand everywhere.
TOP_SHAPES = {
    **dict.fromkeys(TOP_ROLES, 'component'),
    **dict.fromkeys(('auto_scale_lr', 'custom_imports', 'env_cfg', 'randomness'), 'component'),
    **dict.fromkeys(('custom_hooks', 'tta_pipeline'), 'components'),
    **dict.fromkeys(('param_scheduler', 'test_evaluator', 'val_evaluator'), 'either'),
}
#: The same for the keys of :data:`KEY_ROLES`, where they change the role.
KEY_SHAPES = {
    **dict.fromkeys(KEY_ROLES, 'any'),
    **dict.fromkeys(('dataset', 'sampler', 'batch_sampler', 'optimizer'), 'component'),
    **dict.fromkeys(('datasets', 'pipeline'), 'components'),
    'vis_backends': 'either',
}

#: A component may leave out its ``type`` here.
DEFAULT_TYPES = {
    'optim_wrapper': 'OptimWrapper',
    'log_processor': 'LogProcessor',
    'visualizer': 'Visualizer',
    'model_wrapper_cfg': 'MMDistributedDataParallel',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
}

#: Components that are looked up by name elsewhere than in a registry: mmcv's ops, so that the check
#: needs no compiled ops.
OPS = {
    'nms': 'iou_threshold offset class_agnostic',
    'rpn.nms': 'iou_threshold offset',
    'rpn_proposal.nms': 'iou_threshold offset',
    'soft_nms': 'iou_threshold sigma min_score method offset class_agnostic',
    'DCN': 'deform_groups offset_groups groups im2col_step fallback_on_stride stride padding '
    'dilation bias',
    'DCNv2': 'deform_groups offset_groups groups im2col_step fallback_on_stride stride padding '
    'dilation bias',
}

#: Parameters without default that a component's parent gives, by role.
GIVEN = {
    'model': 'module num_features num_channels spatial_scale',
    'data_sampler': 'dataset sampler batch_size',
    'optimizer': 'params defaults',
    'scheduler': 'optimizer param_name',
    'loop': 'runner dataloader evaluator',
    'vis_backend': 'save_dir',
    'model_wrapper': 'module model model_wrapper',
}

#: Keys that a component or a dictionary without type (see PLAIN) has to have, beside the parameters
#: without default of its class; ``a|b``: one of the two.
REQUIRED = {
    'train_dataloader': 'dataset batch_size',
    'val_dataloader': 'dataset',
    'test_dataloader': 'dataset',
    'train_cfg.rpn': 'assigner',
    'train_cfg.rcnn': 'assigner sampler',
    'Resize': 'scale|scale_factor',
    'RandomFlip': 'prob',
    'GN': 'num_groups',
    'clip_grad': 'max_norm|clip_value',
}
_OF_LOADER = {'batch_sampler': 'sampler batch_size'}
#: Keys that another key needs beside it: name of the dictionary -> key -> keys.
REQUIRED_WITH = {
    'train_dataloader': _OF_LOADER,
    'val_dataloader': _OF_LOADER,
    'test_dataloader': _OF_LOADER,
}

#: Keys that a DataLoader refuses without workers; dropped then.
OF_WORKERS = {'persistent_workers', 'prefetch_factor', 'timeout'}

#: Keys that are taken out, or added to another call, before the component of this parameter or role
#: is built.
TAKEN_BY_PARENT = {
    'norm_cfg': 'requires_grad',
    'conv_cfg': 'fallback_on_stride',
    'dcn': 'fallback_on_stride',
    'upsample_cfg': (
        'scale_factor upsample_kernel mode up_kernel up_group encoder_kernel encoder_dilation '
        'compressed_channels'
    ),
    'optim_wrapper': 'optimizer constructor paramwise_cfg',
    'init_cfg': 'override',
    'override': 'name override',
    'train_cfg': 'by_epoch',
    'role:hook': 'priority',
    'role:scheduler': 'convert_to_iter_based',
}

_RESIZE = 'keep_ratio max_size clip_object_border backend interpolation rule exact_factor'
#: Keys that a class hands to another one through ``**kwargs``.
PASSED_ON = {
    'EMAHook': 'momentum gamma interval device update_buffers',
    'RandomResize': _RESIZE,
    'RandomChoiceResize': _RESIZE,
    'MMDistributedDataParallel': (
        'device_ids output_device dim broadcast_buffers process_group bucket_cap_mb '
        'find_unused_parameters check_reduction gradient_as_bucket_view static_graph'
    ),
}

#: Keys that mmdetection's configs carry although nothing uses them, with the values that are let
#: pass (none listed: any) and dropped; by component or by ``parent.name`` of a dictionary without
#: type; '*': any.
UNUSED: dict[str, dict[str, tuple]] = {
    # split_thr only says how much memory suppression may take
    'nms': {'split_thr': (), 'max_num': (-1,), 'score_threshold': (0,)},
    'soft_nms': {'split_thr': (), 'max_num': (-1,)},
    # boxes are tensors, and upright
    '*': {
        'file_client_args': (None, {'backend': 'disk'}),
        'predict_box_type': ('hbox',),
        'use_box_type': (False,),
    },
    # for memory, when one object is repeated many times
    'MaxIoUAssigner': {'perm_repeat_gt_cfg': (None,)},
    'CocoDataset': {'return_classes': (False,)},  # texts, for detectors that are told what to find
    # left over from VOCMetric in mmdetection's faster-rcnn_r50_fpn_1x_voc0712-cocofmt.py
    'CocoMetric': {'eval_mode': ('11points',)},
}

#: Any key.
OPEN = None
_DATALOADER = 'dataset sampler batch_sampler num_batch_per_epoch disable_subprocess_warning'
_RPN_PROPOSAL = 'nms_pre max_per_img max_per_batch nms min_bbox_size nms_across_levels offset'
#: Keys of dictionaries without ``type``: the name they have in their parent -> keys.
#: ``parent.name`` goes before ``name``. None: any key. A trailing ``~``: keys are free, except that
#: near-misses of those listed are taken for typing errors.
PLAIN: dict[str, str | None] = {
    'train_dataloader': _DATALOADER,
    'val_dataloader': _DATALOADER,
    'test_dataloader': _DATALOADER,
    'auto_scale_lr': 'enable base_batch_size schedule',
    'env_cfg': 'cudnn_benchmark mp_cfg dist_cfg resource_limit channels_last',
    'mp_cfg': 'mp_start_method opencv_num_threads',
    'dist_cfg': 'backend timeout init_backend init_method port device_id',
    'randomness': 'seed diff_rank_seed deterministic',
    'custom_imports': 'imports allow_failed_imports',
    'default_hooks': 'runtime_info timer sampler_seed logger param_scheduler checkpoint '
    'visualization early_stopping num_class_check box_convention invalid_loss unreadable_images '
    'progress ~',
    'train_cfg': 'rpn rpn_proposal rcnn',
    'test_cfg': 'rpn rcnn panoptic',
    'train_cfg.rpn': (
        'assigner sampler allowed_border match_border samples_per_img pos_weight debug'
    ),
    'train_cfg.rpn_proposal': _RPN_PROPOSAL,
    'train_cfg.rcnn': 'assigner sampler mask_size mask_target pos_weight debug',
    'test_cfg.rpn': _RPN_PROPOSAL,
    'test_cfg.rcnn': (
        'score_thr nms max_per_img keep_ties mask_thr_binary mask_paste nms_after_rescale '
        'drop_empty offset'
    ),
    'test_cfg.panoptic': 'mask_overlap stuff_area_limit score_thr',
    'tta_cfg': 'nms max_per_img',
    'paramwise_cfg': (
        'custom_keys lr_mult decay_mult bias_lr_mult bias_decay_mult norm_decay_mult '
        'flat_decay_mult dwconv_decay_mult dcn_offset_lr_mult bypass_duplicate'
    ),
    'custom_keys': OPEN,
    'custom_keys.*': 'lr_mult decay_mult',
    'clip_grad': 'type max_norm norm_type error_if_nonfinite foreach clip_value',
    'loss_scale': 'init_scale growth_factor backoff_factor growth_interval enabled',
    'filter_cfg': 'filter_empty_gt filter_crowd_only min_size bbox_min_size',
    'data_prefix': 'img img_path seg seg_map_path sub_data_root ann ~',
    'metainfo': ('classes palette dataset_type task_name thing_classes stuff_classes ~'),
    'backend_args': 'backend path_mapping ~',
    'upsample_cfg': 'mode scale_factor align_corners',
    'plugins': 'cfg stages position',
}

#: Types of the values in some of these.
PLAIN_VALUES: dict[str, dict[str, Any]] = {
    'train_cfg.rpn_proposal': annotations_of(ProposalSelector),
    'test_cfg.rpn': annotations_of(ProposalSelector),
    'test_cfg.rcnn': annotations_of(DetectionSelector),
    '.env_cfg': {'mp_cfg': dict, 'dist_cfg': dict, 'resource_limit': int, 'cudnn_benchmark': bool},
    '.randomness': {'deterministic': bool, 'diff_rank_seed': bool},
}

#: Keys of mmdetection 2.x and other common mistakes -> what to write instead.
HINTS = {
    'data': 'mmdetection 2.x: use train_dataloader, val_dataloader and test_dataloader',
    'samples_per_gpu': 'mmdetection 2.x: use train_dataloader.batch_size',
    'workers_per_gpu': 'mmdetection 2.x: use train_dataloader.num_workers',
    'lr_config': 'mmdetection 2.x: use param_scheduler',
    'optimizer_config': 'mmdetection 2.x: use optim_wrapper (clip_grad goes there)',
    'runner': 'mmdetection 2.x: use train_cfg=dict(by_epoch=True, max_epochs=...)',
    'total_epochs': 'mmdetection 2.x: use train_cfg.max_epochs',
    'checkpoint_config': 'mmdetection 2.x: use default_hooks.checkpoint',
    'log_config': 'mmdetection 2.x: use default_hooks.logger and visualizer.vis_backends',
    'evaluation': 'mmdetection 2.x: use val_evaluator (bbox, segm: CocoMetric; mAP: VOCMetric) and '
    'train_cfg.val_interval',
    'dist_params': 'mmdetection 2.x: use env_cfg.dist_cfg',
    'workflow': 'mmdetection 2.x: remove it; train_cfg, val_cfg and test_cfg say what runs',
    'resume_from': 'mmdetection 2.x: use resume=True and load_from',
    'cudnn_benchmark': 'use env_cfg.cudnn_benchmark',
    'fp16': "use optim_wrapper=dict(type='AmpOptimWrapper') or --amp",
    'seed': 'use randomness=dict(seed=...)',
    'train_dataset': 'use train_dataloader.dataset',
    'val_dataset': 'use val_dataloader.dataset',
    'test_dataset': 'use test_dataloader.dataset',
    'optimizer': 'use optim_wrapper.optimizer',
    'gpu_ids': 'remove it; the launcher and CUDA_VISIBLE_DEVICES choose devices',
}
