"""Source layouts: how a state dict from elsewhere is recognised and brought to our names.

Our names are those of mmdetection 2.x and 3.x, so that files of both pass unchanged. A further
layout is one module beside this one with a name table and a ``Layout``, added to :data:`LAYOUTS`
before the identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """One way of naming and ordering weights.

    Attributes:
        name: for the load report.
        matches: whether a state dict is of this layout, judged by its keys and shapes alone.
        convert: ``(source, target) -> converted``. ``target`` is the model's own state dict, for
            decisions that need it (one mask head into a three-stage model). Must not change its
            arguments; entries that our models never have (anchors, pixel means) are left out.
    """

    name: str
    matches: Callable[[StateDict], bool]
    convert: Callable[[StateDict, StateDict], dict[str, Tensor]]


def _is_any(source: StateDict) -> bool:
    return True


def _identity(source: StateDict, target: StateDict) -> dict[str, Tensor]:
    return dict(source)


MMDETECTION = Layout('mmdetection', _is_any, _identity)

LAYOUTS: list[Layout] = [MMDETECTION]  # the first that matches is taken; the identity stays last


def detect(source: StateDict) -> Layout:
    """The layout of a state dict (names without ``module.``)."""
    return next(layout for layout in LAYOUTS if layout.matches(source))
