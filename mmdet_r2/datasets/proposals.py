"""Proposals from files, for detectors without a region proposal network of their own.

A file is what an RPN's ``mmdet-r2 test --out`` wrote (a list with a dict per image), or a dict of
``folder/name.jpg`` to boxes and scores, as ``DumpProposals`` of mmdetection 3.x and here writes it.
Both are read as data: nothing that they name is run.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..files import fetch_bytes
from ..pickles import Damaged, Name, Reader, Refused, Unfinished, read_pickle
from ..torch_files import TENSORS


class _Fields(Unfinished):
    """mmengine's InstanceData, of which the fields are taken."""

    def finished(self, reader: Reader, state: Any) -> Any:
        if not isinstance(state, dict):
            raise Refused('an InstanceData without fields')
        return {key: value for key, value in state.items() if not str(key).startswith('_')}


def _set(reader: Reader, items: Any = ()) -> list:
    """Names of fields, which the fields themselves say again."""
    return list(items)


_INSTANCES = 'mmengine.structures.instance_data.InstanceData'
_NAMES = {
    **TENSORS,
    _INSTANCES: Name(_INSTANCES, lambda reader, *_: _Fields()),
    **{f'{module}.set': Name('set', _set) for module in ('builtins', '__builtin__')},
}


def image_key(path: str | os.PathLike[str]) -> str:
    """What a file calls an image: the folder that it is in, and its name."""
    return '/'.join(PurePosixPath(str(path).replace(os.sep, '/')).parts[-2:])


def add_proposals(images: list[dict], path: str, backend_args: dict | None = None) -> None:
    """Give each of a data set's images its ``proposals``: ``bboxes`` (p, 4) float32, xyxy in pixels
    of the original image, and ``scores`` (p,) float32.

    Args:
        images: with ``img_path``.

    Raises:
        DataError: the file cannot be read as proposals, or an image is not in it; names both.
    """
    found = _by_image(path, _read(path, backend_args))
    keys = [image_key(image['img_path']) for image in images]
    _check_unique(keys, f'the data set of {path}')
    for image, key in zip(images, keys):
        if key not in found:
            raise DataError(
                f'{path}: has no proposals of {key}; the {len(found)} images in it are those of '
                f'another data set, such as {next(iter(found), None)}'
            )
        image['proposals'] = _arrays(found[key], f'{path}: {key}')


def _read(path: str, backend_args: dict | None) -> Any:
    try:
        return read_pickle(fetch_bytes(path, 'proposal_file', backend_args), _NAMES)
    except Refused as error:
        raise DataError(f'{path}: not a proposal file that is safe to read: {error}') from error
    except Damaged as error:
        raise DataError(f'{path}: cut short, damaged or no pickle: {error}') from error


def _by_image(path: str, content: Any) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        pairs = [(image_key(str(key)), value) for key, value in content.items()]
    elif isinstance(content, list) and all(isinstance(each, Mapping) for each in content):
        for i, each in enumerate(content):
            if missing := {'img_path', 'pred_instances'} - set(each):
                raise DataError(f'{path}: image {i} has no {min(missing)!r}')
        pairs = [(image_key(str(each['img_path'])), each['pred_instances']) for each in content]
    else:
        raise DataError(
            f'{path}: expected a dict of images, or a list with a dict per image, as mmdet-r2 test '
            '--out of an RPN writes it'
        )
    _check_unique([key for key, _ in pairs], path)
    return dict(pairs)


def _check_unique(keys: list[str], where: str) -> None:
    (key, count), *_ = Counter(keys).most_common(1) or [('', 0)]
    if count > 1:
        raise DataError(f'{where}: {count} images are called {key}; proposals go by that name')


def _arrays(value: Any, where: str) -> dict[str, np.ndarray]:
    fields = {}
    for key in ('bboxes', 'scores'):
        array = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(array, torch.Tensor):
            array = array.float().numpy()
        if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
            raise DataError(f'{where}: {key} is {type(array).__name__}, expected numbers')
        fields[key] = array.astype(np.float32)
    boxes, scores = fields['bboxes'], fields['scores']
    if boxes.shape != (scores.size, 4):
        raise DataError(
            f'{where}: bboxes are of shape {boxes.shape}, scores of {scores.shape}; expected '
            '(p, 4) and (p,)'
        )
    if not np.isfinite(boxes).all():
        raise DataError(f'{where}: a box is not finite')
    return dict(bboxes=boxes, scores=scores.reshape(-1))
