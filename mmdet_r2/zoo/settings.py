"""What weights cannot say about the model they were trained in, and whether a model has it.

Each function returns half a sentence for the load report: '' where ``model`` has the setting, the
setting where it does not, where it cannot be told, or where there is no model.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # also that of every norm of ours

from ..rpn_names import is_rpn
from .identify import config_hint

# mean and std of the images (0 to 255) that weights without such a record were trained on
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
MSRA_CAFFE2 = ((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
RESNEST = ((123.68, 116.779, 103.939), (58.393, 57.12, 57.375))

# Whose box arithmetic: pixels are counted (a box from 0 to 9 is 10 wide), each in its own way, or
# boxes are continuous (9 wide), as in detectron2 and mmdetection since 2.0.
MASKRCNN_BENCHMARK = 'maskrcnn-benchmark'
MMDETECTION_1 = 'mmdetection 1.x'
PIXEL_COUNTING = (MASKRCNN_BENCHMARK, MMDETECTION_1)
CONTINUOUS = 'mmdetection 2.x and later'

# One per cent and half a per cent apart from those of mmdetection's configs, 0.033 and 0.067.
_THIRD_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)


def inputs(
    model: nn.Module | None, mean: Sequence[float], std: Sequence[float], recorded: bool = False
) -> str:
    """The order and statistics of the colours; ``mean`` and ``std`` are in the order in which the
    network takes them, and tell that order: blue is the darkest. ``recorded``: the file has them,
    they are not only what published files of its kind have."""
    rgb = mean[0] > mean[2]
    if model is not None:
        preprocessor = getattr(model, 'data_preprocessor', None)
        here = [getattr(preprocessor, name, None) for name in ('mean', 'std')]
        found = [value.flatten().tolist() for value in here if isinstance(value, Tensor)]
        if len(found) == 2:
            same_order = getattr(preprocessor, 'swap_channels', rgb) == rgb
            if same_order and _close(found[0], mean) and _close(found[1], std):
                return ''
        elif rgb:  # a bare backbone, and the images that everyone has
            return ''
    whose = 'its images were' if recorded else 'published models of its kind take'
    return (
        f'{whose} {"RGB" if rgb else "BGR"} (data_preprocessor.bgr_to_rgb={rgb}) with mean '
        f'{_list(mean)} and std {_list(std)}'
    )


def stride_place(model: nn.Module | None, in_1x1: bool) -> str:
    """Which convolution has a stage's stride: the first 1x1, as in most published models of
    detectron2 and maskrcnn-benchmark, or the 3x3, as in their ResNeXts and those with group
    norms."""
    if model is not None:
        conv = getattr(_first_block(model, 'layer2'), 'conv1', None)
        if conv is None or (max(conv.stride) > 1) == in_1x1:
            return ''
    has, style, other = ('first 1x1', 'caffe', '3x3') if in_1x1 else ('3x3', 'pytorch', 'first 1x1')
    return (
        f'in published ones the {has} convolution has the stride (backbone.style={style!r}), not '
        f'the {other}, which costs several AP'
    )


def first_block_pool(model: nn.Module | None) -> str:
    """A Res2Net that pools the last split of every stage's first block: also where it is not
    strided."""
    if model is not None:
        block = _first_block(model, 'layer1')
        if not hasattr(block, 'convs') or getattr(block, 'pool', None) is not None:
            return ''
    return "its Res2Net pools the last split in stage 1 too (backbone.first_block_pool='always')"


def norms_without_epsilon(model: nn.Module | None) -> str:
    """Batch norms in the backbone that are constants, nothing added to their variance."""
    if model is not None:
        backbone = getattr(model, 'backbone', model)
        norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
        if not any(norm.eps for norm in norms):
            return ''
    return (
        "its norms are constants without epsilon (backbone.norm_cfg=dict(type='FrozenBN', eps=0, "
        'requires_grad=False))'
    )


def group_norms(model: nn.Module | None) -> str:
    """Group norms in backbone, pyramid and heads. Where only some parts have them, the names of
    the tensors that do not fit say so."""
    if model is not None:
        backbone = getattr(model, 'backbone', model)
        if any(isinstance(module, nn.GroupNorm) for module in backbone.modules()):
            return ''
    return (
        "its norms are group norms (norm_cfg=dict(type='GN', num_groups=32, requires_grad=True) of "
        'backbone, neck and heads, those of boxes a Shared4Conv1FCBBoxHead)'
    )


def third_stage(model: nn.Module | None) -> str:
    """The scale of the deltas in a cascade's third stage."""
    if model is not None:
        heads = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
        if not isinstance(heads, nn.ModuleList) or len(heads) < 3:
            return ''
        stds = getattr(getattr(heads[2], 'bbox_coder', None), 'stds', None)
        if stds is None or _close(stds, _THIRD_STDS, 1e-6):
            return ''
    return (
        'its third stage scales boxes by 1/30 and 1/15 '
        '(roi_head.bbox_head.2.bbox_coder.target_stds=[1/30, 1/30, 1/15, 1/15])'
    )


def one_mask_head(model: nn.Module | None) -> str:
    """A cascade's single mask head, trained on the first stage's sample."""
    heads = getattr(getattr(model, 'roi_head', None), 'mask_head', None)
    if not isinstance(heads, nn.ModuleList):
        return ''
    return (
        f'its one mask head was copied to {len(heads)} stages: the masks are the same, but trained '
        'on, they part'
    )


def boxes(model: nn.Module | None, lineage: str, weights: Mapping[str, Tensor]) -> str:
    """The arithmetic of boxes: anchors, deltas, RoI pooling, suppression, masks. ``lineage``:
    whose the file was trained with; ``weights``: the file's, by our names; without heads there is
    none."""
    here = '' if model is None else arithmetic(model)
    told = model is None and lineage == CONTINUOUS  # nothing to say
    if told or here == lineage or (model is not None and not here) or not _has_heads(weights):
        return ''
    if lineage == CONTINUOUS:
        return (
            f"its boxes are continuous (0 to 9 is 9 wide), but this model has {here}'s arithmetic, "
            'which counts pixels: boxes shift by about a pixel'
        )
    if here in ('', CONTINUOUS):
        return (
            'it counted a box from 0 to 9 as 10 pixels wide, rounded its anchors and pooled RoIs '
            'unaligned (roi_layer aligned=False, sampling_ratio=2); with the arithmetic of '
            f'{CONTINUOUS}{", as in this model," if here else ""} boxes shift by about a pixel'
        )
    return (
        f"this model has {here}'s arithmetic, which rounds anchors, pools RoIs and pastes masks in "
        'another way: boxes shift by about a pixel'
    )


def arithmetic(model: nn.Module) -> str:
    """Whose box arithmetic a detector has, judged by its anchors or, without proposals of its own,
    by its deltas; '' where it has neither (a bare backbone)."""
    generator = getattr(getattr(model, 'rpn_head', None), 'anchor_generator', None)
    if generator is not None:
        round_sides = getattr(generator, 'round_sides', None)  # only legacy anchors are rounded
        if round_sides is None:
            return CONTINUOUS
        return MASKRCNN_BENCHMARK if round_sides else MMDETECTION_1
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[0]
    coder = getattr(head, 'bbox_coder', None)
    if coder is None:
        return ''
    return MMDETECTION_1 if getattr(coder, 'offset', 0) else CONTINUOUS


def exact_decoding(model: nn.Module | None) -> str:
    """Boxes that count pixels when they are decoded, too."""
    coder = getattr(getattr(model, 'rpn_head', None), 'bbox_coder', None)
    if getattr(coder, 'offset', 0) == getattr(coder, 'decode_offset', 0):
        return ''
    return (
        'this model has the legacy coder of mmdetection 3.x, which decodes boxes half a pixel '
        "larger on every side (bbox_coder=dict(type='DeltaXYWHBBoxCoder', offset=1) does not)"
    )


def recorded_boxes(model: nn.Module, meta: object, weights: Mapping[str, Tensor]) -> str:
    """The same for a file whose names are ours from the beginning: which config it was trained
    with, its ``meta`` tells."""
    lineage, here = recorded(meta), arithmetic(model)
    if lineage:
        text = boxes(model, lineage, weights)
    elif here in PIXEL_COUNTING and _has_heads(weights):
        lineage = CONTINUOUS  # the likeliest by far
        text = (
            'it does not say whose arithmetic of boxes it was trained with; this model has that of '
            f'{here}, which counts pixels: boxes of {CONTINUOUS} would shift by about a pixel'
        )
    else:
        return ''
    return '; '.join(part for part in (text, config_hint(weights, lineage)) if part) if text else ''


def recorded(meta: object) -> str:
    """Whose arithmetic of boxes a file was trained with by its own record; '' where it has
    none."""
    if not isinstance(meta, Mapping):
        return ''
    for key in ('cfg', 'config'):  # mmengine's, and the name before
        text = meta.get(key)
        if isinstance(text, str) and 'anchor_generator' in text:
            if 'LegacyAnchorGenerator' not in text:
                return CONTINUOUS
            return MASKRCNN_BENCHMARK if "rounding='sides'" in text else MMDETECTION_1
    major = str(meta.get('mmdet_version', '')).partition('.')[0]
    return CONTINUOUS if major.isdecimal() and int(major) > 1 else ''


def joined(layout: str, parts: Iterable[str], hint: str = '') -> str:
    """The note of a layout, with a ``hint`` what to do at its end; '' where there is nothing to
    say."""
    found = [part for part in parts if part]
    if not found:
        return ''
    return f'converted from {layout}: {"; ".join([*found, *([hint] if hint else [])])}'


def _first_block(model: nn.Module, stage: str) -> nn.Module | None:
    blocks = getattr(getattr(model, 'backbone', model), stage, None)
    return blocks[0] if isinstance(blocks, nn.Sequential) else None


def _has_heads(weights: Mapping[str, Tensor]) -> bool:
    return any(is_rpn(key) or key.startswith('roi_head.') for key in weights)


def _close(found: Sequence[float], wanted: Sequence[float], tolerance: float = 0.01) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted))


def _list(values: Sequence[float]) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in values)}]'
