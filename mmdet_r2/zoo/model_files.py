"""A published model's files on this machine: its weights, and its config beside them."""

import os
from pathlib import Path

from ..files import replacing
from .download import download, home_path
from .index import ZooModel
from .names import fetch, published, urls_of


def download_model(
    name: str | os.PathLike[str],
    dest: str | os.PathLike[str] | None = None,
    *,
    unverified: bool = False,
) -> Path:
    """Path of a published model's weights on this machine, downloaded and verified.

    Args:
        name: a name of the model; or an address of weights.
        dest: folder for the file, instead of the cache; the config is put beside it, whole, as
            ``NAME.py``.
        unverified: take a file whose hash nobody published (two of the ResNeSt detectors).

    Raises:
        CheckpointError: there is no such model, or it has no weights, or they cannot be
            downloaded; the message says what can be done.
    """
    text = os.fspath(name)
    if '://' in text:
        return fetch(text, folder=dest, unverified=unverified)
    model = published(text)
    path = download(urls_of(model.name), folder=dest, unverified=unverified)
    if dest is not None:
        _write_config(model, home_path(dest) / f'{model.name}.py')
    return path


def _write_config(model: ZooModel, path: Path) -> None:
    from ..config import load_config

    config = load_config(model.config, check=False)
    with replacing(path) as partial:
        config.dump(partial)
