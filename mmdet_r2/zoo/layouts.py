"""Source layouts: how a state dict from elsewhere is recognised and brought to our names.

Our names are those of mmdetection 2.x and 3.x, so that files of both pass unchanged. A further
layout is one module beside this one with a name table and a function, listed in :data:`LAYOUTS`
before the identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from . import caffe2, detectron2, imagenet, maskrcnn_benchmark, mmdet1

StateDict = Mapping[str, Tensor]


def _no_note(source: StateDict, model: nn.Module | None) -> str:
    return ''


def _no_refusal(source: StateDict) -> str:
    return ''


@dataclass(frozen=True)
class Layout:
    """One way of naming and ordering weights.

    Attributes:
        name: for the load report.
        matches: whether a state dict is of this layout, judged by its keys and shapes alone.
        convert: ``(source, target) -> converted``. ``target`` is the model's own state dict, for
            decisions that need it (whether a shortcut has a pool), or empty where there is no
            model. Must not change its arguments; entries that our models never have (anchors,
            pixel means) are left out.
        note: ``(source, model) -> text``: what the weights alone do not bring along and the model
            does not have; without a model (None) all that they do not bring. '' for nothing. Also
            takes what :attr:`convert` gave.
    """

    name: str
    matches: Callable[[StateDict], bool]
    convert: Callable[[StateDict, StateDict], dict[str, Tensor]]
    note: Callable[[StateDict, nn.Module | None], str] = _no_note
    refusal: Callable[[StateDict], str] = _no_refusal


def _is_any(source: StateDict) -> bool:
    return True


def _identity(source: StateDict, target: StateDict) -> dict[str, Tensor]:
    return dict(source)


MMDETECTION = Layout('mmdetection', _is_any, _identity)
MMDETECTION_1 = Layout('mmdetection 1.x', mmdet1.matches, mmdet1.convert, mmdet1.note)
MASKRCNN_BENCHMARK = Layout(
    'maskrcnn-benchmark',
    maskrcnn_benchmark.matches,
    maskrcnn_benchmark.convert,
    maskrcnn_benchmark.note,
    maskrcnn_benchmark.refusal,
)
DETECTRON2 = Layout('detectron2', detectron2.matches, detectron2.convert, detectron2.note)
CAFFE2 = Layout('Caffe2', caffe2.matches, caffe2.convert, caffe2.note)
IMAGENET = Layout('ImageNet, deep stem', imagenet.matches, imagenet.convert)

# the first that matches is taken; the identity stays last
LAYOUTS: list[Layout] = [
    MMDETECTION_1,
    MASKRCNN_BENCHMARK,
    DETECTRON2,
    CAFFE2,
    IMAGENET,
    MMDETECTION,
]


def detect(source: StateDict) -> Layout:
    """The layout of a state dict (names without ``module.``)."""
    return next(layout for layout in LAYOUTS if layout.matches(source))


def origin(source: StateDict, meta: object) -> Layout:
    """The layout that a file had when it was trained: its own, or the one that its ``meta`` says it
    was converted from."""
    layout = detect(source)
    if layout is MMDETECTION and isinstance(meta, Mapping):
        return next((one for one in LAYOUTS if one.name == meta.get('converted_from')), layout)
    return layout
