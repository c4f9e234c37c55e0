"""ImageNet files whose deep stem is called ``conv1``: Res2Net v1b and ResNeSt as their authors
published them.

Files with a 7x7 stem (torchvision's ResNets, Res2Net v1) and mmdetection's own copies already have
our names.
"""

from collections.abc import Mapping

from torch import Tensor

# The third norm stood outside the sequence of the stem.
NAMES = {
    'conv1.0.': 'stem.0.',
    'conv1.1.': 'stem.1.',
    'conv1.3.': 'stem.3.',
    'conv1.4.': 'stem.4.',
    'conv1.6.': 'stem.6.',
    'bn1.': 'stem.7.',
}


def matches(source: Mapping[str, Tensor]) -> bool:
    """Whether the stem is a sequence called ``conv1``."""
    return 'conv1.0.weight' in source


def convert(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the stem; the classifier stays, for the report to list."""
    return {deep_stem_name(key): value for key, value in source.items()}


def deep_stem_name(key: str) -> str:
    """``conv1.3.weight`` -> ``stem.3.weight``; names outside the stem pass."""
    for old, new in NAMES.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key
