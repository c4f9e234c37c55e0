"""The same weights in another arrangement: what a file and a model may differ in without computing
anything else.

The background may be the first class (maskrcnn-benchmark, mmdetection 1.x) or the last. An offset
convolution of deformable blocks may be grouped (the ResNeSt fork of detectron2) or dense (mmcv): a
grouped one is a dense one with zeros off its diagonal blocks. A cascade may have one mask head
(detectron2) or one per stage (mmdetection), whose masks are averaged. Classes may be others, or in
another order.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..rpn_names import rpn_named_as

_OFFSETS = re.compile(r'((?:.*\.)?layer\d\.\d+\.)conv2\.(?:conv\.)?conv_offset\.weight$')
_MASK, _BOX = 'roi_head.mask_head.', 'roi_head.bbox_head.'

# The layers whose outputs are counted in classes; the number of a cascade's stage is optional.
# HTC's semantic head is not among them: its 183 classes never had a background of their own.
_STAGE = r'roi_head\.(?:bbox|mask)_head\.(?:\d+\.)?'
CLASSIFIER = re.compile(_STAGE + r'fc_cls\.(?:weight|bias)$')
BOXES = re.compile(_STAGE + r'fc_reg\.(?:weight|bias)$')
MASKS = re.compile(_STAGE + r'conv_logits\.(?:weight|bias)$')


def classifier_outputs(weights: Mapping[str, Tensor]) -> int:
    """Outputs of the classifier, the background's among them; 0 without one."""
    return next((value.shape[0] for key, value in weights.items() if CLASSIFIER.match(key)), 0)


def background_last(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Heads (by our names) whose class 0 is the background, in our order: it moves behind the
    classes among the scores, and has no boxes and no mask any more.

    4 rows of boxes (1 channel of masks) serve every class: they stay. 8 rows are
    maskrcnn-benchmark's kind of boxes without class, of which the last 4 are used.
    """
    result = dict(weights)
    outputs = classifier_outputs(weights)
    for key, value in weights.items():
        if CLASSIFIER.match(key):
            result[key] = value.roll(-1, 0)
        elif BOXES.match(key) and value.shape[0] in (4 * outputs, 8):
            result[key] = value[4:]
        elif MASKS.match(key) and value.shape[0] == outputs:
            result[key] = value[1:]
    return result


def dense_offsets(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Grouped offset convolutions as dense ones; the block's first convolution tells how many
    channels there are."""
    result = dict(weights)
    for key, value in weights.items():
        if found := _OFFSETS.match(key):
            first = weights.get(f'{found[1]}conv1.weight')
            if first is not None and value.dim() == 4:
                result[key] = _dense(value, len(first))
    return result


def fitted(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Offset convolutions and mask heads in the arrangement of ``target``, a model's state dict,
    wherever that loses nothing, and an RPN's under the name it has there; the rest as it is."""
    result = dict(rpn_named_as(weights, target))
    for key, value in weights.items():
        if key in target and _OFFSETS.match(key) and value.shape != target[key].shape:
            channels = target[key].shape[1]
            other = (
                _dense(value, channels) if channels > value.shape[1] else _grouped(value, channels)
            )
            result[key] = value if other is None else other
    return _mask_heads(result, target)


def classes_by_name(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    given: Sequence[str],
    wanted: Sequence[str],
) -> dict[str, Tensor]:
    """Heads trained for the classes ``given`` as a model of the classes ``wanted`` takes them: what
    belongs to a class goes to its place there, and classes that were not given keep what ``target``
    has. Boxes and masks that all classes share stay as they are.
    """
    result = dict(weights)
    pairs = [(k, given.index(name)) for k, name in enumerate(wanted) if name in given]
    here, there = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    # rows for a class, and beside the classes
    for pattern, rows, others in ((CLASSIFIER, 1, 1), (BOXES, 4, 0), (MASKS, 1, 0)):
        for key, value in weights.items():
            own = target.get(key)
            if own is None or not pattern.match(key):
                continue
            sizes = [rows * len(names) + others for names in (given, wanted)]
            if [len(value), len(own)] != sizes:
                continue
            own = own.to(value).clone()
            ends = [size - others for size in sizes]
            by_class = [t[:end].unflatten(0, (-1, rows)) for t, end in zip((value, own), ends)]
            by_class[1][here] = by_class[0][there]
            own[ends[1] :] = value[ends[0] :]
            result[key] = own
    return result


def _dense(weight: Tensor, channels: int) -> Tensor:
    """(O, channels / groups, 3, 3) -> (O, channels, 3, 3), blocks of outputs reading blocks of
    inputs in turn; as it is where the numbers do not divide."""
    outputs, inputs = weight.shape[:2]
    groups, rest = divmod(channels, inputs)
    if groups < 2 or rest or outputs % groups:
        return weight
    blocks = weight.new_zeros((outputs, channels, *weight.shape[2:]))
    for i, part in enumerate(weight.chunk(groups)):
        blocks[i * len(part) : (i + 1) * len(part), i * inputs : (i + 1) * inputs] = part
    return blocks


def _grouped(weight: Tensor, inputs: int) -> Tensor | None:
    """The inverse, for blocks of ``inputs`` channels; None where something stands off the
    blocks."""
    outputs, channels = weight.shape[:2]
    groups, rest = divmod(channels, inputs)
    if groups < 2 or rest or outputs % groups:
        return None
    parts = [part[:, i * inputs : (i + 1) * inputs] for i, part in enumerate(weight.chunk(groups))]
    grouped = torch.cat(parts)
    return grouped if torch.equal(_dense(grouped, channels), weight) else None


def _mask_heads(weights: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A cascade's one mask head for every stage of a model with several."""

    def stages(names: Mapping[str, Tensor], head: str) -> set[str]:
        return {key[len(head)] for key in names if re.match(re.escape(head) + r'\d\.', key)}

    wanted = stages(target, _MASK)
    if not wanted or not stages(weights, _BOX) or stages(weights, _MASK):
        return weights
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith(_MASK):
            rest = key[len(_MASK) :]
            result.update({f'{_MASK}{stage}.{rest}': value for stage in sorted(wanted)})
        else:
            result[key] = value
    return result
