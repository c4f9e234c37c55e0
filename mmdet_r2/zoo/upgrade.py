"""A checkpoint of any known layout as one of ours: weights and class names, nothing else."""

import os
from typing import Any

from torch import Tensor

from .identify import identify
from .layouts import detect
from .loading import checkpoint_dataset_meta, checkpoint_weights
from .reader import read_checkpoint


def upgrade(source: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The checkpoint to save, and one line that says what was found.

    The checkpoint has ``state_dict`` in mmdetection 3.x's names and order of classes, and ``meta``
    with ``dataset_meta`` (``classes``, ``palette``) as far as the file has them and
    ``converted_from``, the layout it was recognised as. Optimiser states and logs stay behind.

    Args:
        source: as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: unreadable, or without weights.
    """
    checkpoint = read_checkpoint(source)
    name = os.fspath(source)
    weights = checkpoint_weights(checkpoint, name)
    layout = detect(weights)
    note = layout.note(weights, None)
    # cut tensors would otherwise be saved with the whole they are views of
    converted: dict[str, Tensor] = {
        key: value.clone() for key, value in layout.convert(weights, {}).items()
    }
    meta: dict[str, Any] = dict(converted_from=layout.name)
    dataset_meta = checkpoint_dataset_meta(checkpoint)
    if dataset_meta is not None:
        meta['dataset_meta'] = dataset_meta
    classes = len(dataset_meta['classes']) if dataset_meta else 'no'
    text = (
        f'{name}: layout {layout.name!r}, {identify(converted)}; {len(converted)} tensors, '
        f'{classes} class names'
    )
    return dict(meta=meta, state_dict=converted), f'{text}; {note}' if note else text
