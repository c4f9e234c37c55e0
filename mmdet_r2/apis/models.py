"""Published models by name: what there is, their configs, and detectors with their weights."""

import os
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from ..config import load_config
from ..errors import ConfigError
from ..zoo import ZooModel, find_model, search, weights_of
from ..zoo.index import names, nearest
from .inference import init_detector


def list_models(pattern: str = '*') -> list[str]:
    """Names of the published models that a shell pattern matches, in the order of the index.

    The pattern is compared, whatever the case, with a model's name and other names (those of
    mmdetection 3.x and of the original's config file), the folder of its config and
    ``folder/name``, its collection and its backbone: ``'res2net*'`` gives all of the folder
    ``res2net`` and all with a Res2Net, ``'panoptic_fpn/*'`` those of one folder, ``'*_3x_*'`` those
    with that in their name. Without a match the list is empty.
    """
    return [model.name for model in search(pattern)]


def get_config(name: str | os.PathLike[str]) -> Config:
    """The config of a published model, found by any of its names.

    Raises:
        ConfigError: there is no such model (the message has the nearest names); or ``name`` is a
            file that is only called like one.
    """
    return load_config(_model(name).config)


def get_model(
    name: str | os.PathLike[str], pretrained: bool = True, device: str | torch.device = 'cpu'
) -> nn.Module:
    """A published detector, found by any of its names, in evaluation mode.

    It is what :func:`init_detector` gives (:func:`inference_detector` takes it), but its layers are
    as trained, not folded for speed, so that it can be trained further or saved.

    Args:
        name: a name, alias, or path of a config that comes with the package.
        pretrained: download and load the published weights; otherwise they are random.
        device: where the detector is put.

    Raises:
        ConfigError: as :func:`get_config`.
        CheckpointError: ``pretrained``, and nobody published weights; or they cannot be downloaded,
            or are not what was published.
    """
    model = _model(name)
    weights = weights_of(model.name) if pretrained else None
    return init_detector(model.config, weights, device=device, prepare=False)


def _model(name: str | os.PathLike[str]) -> ZooModel:
    text = os.fspath(name)
    model = find_model(text)
    if model is None:
        near = nearest(Path(text).name.removesuffix('.py'), names())
        raise ConfigError(f'{text or repr(text)}: no published model is called so; {near}.')
    if os.path.isfile(text) and not model.config.samefile(text):
        raise ConfigError(
            f'{text}: is a file of yours, not the published config of that name; read it with '
            'mmdet_r2.config.load_config, or give it to init_detector.'
        )
    return model
