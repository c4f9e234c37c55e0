"""The two names that an RPN's weights have: ``rpn_head.rpn_*`` in detectors and in mmdetection 2.x,
``bbox_head.rpn_*`` where mmdetection 3.x saves an RPN alone.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar('T')

_NAMES = ('rpn_head.rpn_', 'bbox_head.rpn_')


def is_rpn(key: str) -> bool:
    """Whether a state dict's key is that of an RPN's head."""
    return key.startswith(_NAMES)


def rpn_named_as(
    weights: Mapping[str, T], names: Iterable[str], prefix: str = ''
) -> Mapping[str, T]:
    """``weights`` with the RPN's under the name that it has among ``names``; ``prefix`` stands
    before all of them. Weights that have that name already, or no RPN, stay as they are.
    """
    names = set(names)
    for wanted, other in (_NAMES, _NAMES[::-1]):
        wanted, other = prefix + wanted, prefix + other
        if not any(name.startswith(wanted) for name in names):
            continue
        if any(key.startswith(wanted) for key in weights):
            return weights
        return {
            wanted + key.removeprefix(other) if key.startswith(other) else key: value
            for key, value in weights.items()
        }
    return weights
