"""What weights cannot say about the model they were trained in, and whether a model has it.

Each function returns half a sentence for the load report: '' where ``model`` has the setting, the
setting where it does not, where it cannot be told, or where there is no model.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

# mean and std of the images (0 to 255) that weights without such a record were trained on
MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
RESNEST = ((123.68, 116.779, 103.939), (58.393, 57.12, 57.375))

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


def stride_in_1x1(model: nn.Module | None) -> str:
    """The stride of a stage in its first 1x1 convolution, as detectron2's published models have
    it."""
    if model is not None:
        backbone = getattr(model, 'backbone', model)
        stage = getattr(backbone, 'layer2', None)
        conv = getattr(stage[0], 'conv1', None) if isinstance(stage, nn.Sequential) else None
        if conv is None or max(conv.stride) > 1:
            return ''
    return "in published ones the first 1x1 convolution has the stride (backbone.style='caffe')"


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


def joined(layout: str, parts: Iterable[str]) -> str:
    """The note of a layout; '' where there is nothing to say."""
    found = '; '.join(part for part in parts if part)
    return f'converted from {layout}: {found}' if found else ''


def _close(found: Sequence[float], wanted: Sequence[float], tolerance: float = 0.01) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted))


def _list(values: Sequence[float]) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in values)}]'
