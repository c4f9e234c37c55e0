"""A checkpoint of any known layout as one of ours: weights and class names, nothing else."""

import os
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from . import settings
from .contents import checkpoint_dataset_meta, checkpoint_weights
from .identify import identify
from .layouts import MMDETECTION, detect, origin
from .reader import read_checkpoint


def upgrade(source: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The checkpoint to save, and one line that says what was found.

    The checkpoint has ``state_dict`` in mmdetection 3.x's names and order of classes, and ``meta``
    with ``dataset_meta`` (``classes``, ``palette``) as far as the file has them and
    ``converted_from``, the layout that it had or, where its own record tells more, whose
    arithmetic it was trained with. Optimiser states and logs stay behind.

    Args:
        source: as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: unreadable, without weights, or of a detector that there is not here.
    """
    checkpoint = read_checkpoint(source)
    name = os.fspath(source)
    weights = checkpoint_weights(checkpoint, name)
    layout = detect(weights)
    if refusal := layout.refusal(weights):
        raise CheckpointError(f'{name}: {refusal}.')
    trained = origin(weights, checkpoint.get('meta'))
    note = trained.note(weights, None)
    # cut tensors would otherwise be saved with the whole they are views of
    converted: dict[str, Tensor] = {
        key: value.clone() for key, value in layout.convert(weights, {}).items()
    }
    whose = settings.recorded(checkpoint.get('meta')) if trained is MMDETECTION else ''
    meta: dict[str, Any] = dict(
        converted_from=whose if whose in settings.PIXEL_COUNTING else trained.name
    )
    dataset_meta = checkpoint_dataset_meta(checkpoint)
    if dataset_meta is not None:
        meta['dataset_meta'] = dataset_meta
    classes = len(dataset_meta['classes']) if dataset_meta else 'no'
    text = (
        f'{name}: layout {layout.name!r}, {identify(converted)}; {len(converted)} tensors, '
        f'{classes} class names'
    )
    return dict(meta=meta, state_dict=converted), f'{text}; {note}' if note else text
