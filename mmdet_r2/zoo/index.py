"""The zoo index: published model names, their configs and weights, as ``model-index.yml`` and the
metafiles list them.

``model-index.yml`` beside ``configs/`` imports ``configs/*/metafile.yml``; both keep OpenMMLab's
format, so that other tools read them too. A model is found by its name, by an alias, or by the file
name of its config or weights.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError


@dataclass(frozen=True)
class ZooModel:
    """One published model.

    Attributes:
        name: its name in the index (that of its config file, without ``.py``).
        config: path of its config file.
        weights: addresses of its checkpoint, in the order to try; empty where none was published.
        hash: first digits of the SHA-256 of its checkpoint, as the metafile says; '' for none.
        aliases: other names: mmdetection 3.x's for the same recipe.
        results: metrics as published, such as ``{'box AP': 43.0}``.
    """

    name: str
    config: Path
    weights: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    results: dict[str, float] = field(default_factory=dict)
    hash: str = ''


def root() -> Path | None:
    """Folder that holds ``model-index.yml`` and ``configs/``: the checkout, or the installed
    package; None if there is none."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent, package / '.mim', package):
        if (folder / 'model-index.yml').is_file():
            return folder
    return None


def models() -> tuple[ZooModel, ...]:
    """Every model of the index, in file order.

    Raises:
        ConfigError: a metafile that is not YAML, or lacks a needed key; the message names it.
    """
    folder = root()
    return () if folder is None else _read(folder)


@functools.cache
def _read(folder: Path) -> tuple[ZooModel, ...]:
    found = []
    for listed in _yaml(folder / 'model-index.yml').get('Import') or []:
        for path in sorted(folder.glob(listed)):
            entries = _yaml(path)
            # OpenMMLab's metafiles are either a mapping with `Models` or the list itself
            for entry in (entries.get('Models') or []) if isinstance(entries, dict) else entries:
                found.append(_model(entry, path, folder))
    return tuple(found)


def _model(entry: dict[str, Any], path: Path, folder: Path) -> ZooModel:
    try:
        name, config = str(entry['Name']), folder / str(entry['Config'])
    except (KeyError, TypeError):
        raise ConfigError(
            f'{path}: every entry of Models needs Name and Config; found {entry!r:.80}.'
        ) from None
    weights = entry.get('Weights') or ()
    weights = (weights,) if isinstance(weights, str) else tuple(weights)
    aliases = entry.get('Alias') or entry.get('Aliases') or ()
    aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    results = {}
    for result in entry.get('Results') or []:
        for key, value in (result.get('Metrics') or {}).items():
            results[str(key)] = float(value)
    digits = entry.get('Hash', '')
    # without quotes YAML reads 17061e8 and 17061234 as numbers
    if not isinstance(digits, str) or not re.fullmatch('[0-9a-f]*', digits):
        raise ConfigError(f'{path}: Hash of {name} is {digits!r}; expected hex digits in quotes.')
    return ZooModel(name, config, weights, aliases, results, digits)


def _yaml(path: Path) -> Any:
    try:
        with open(path, encoding='utf-8') as file:
            return yaml.load(file, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader)) or {}
    except (OSError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path}: cannot be read as an index of models ({reason}).') from None


def find_model(name: str | os.PathLike[str]) -> ZooModel | None:
    """The model called ``name`` (model, alias, config file or weights file, with or without
    suffix), or None."""
    wanted = Path(os.fspath(name)).name.removesuffix('.py')
    for model in models():
        files = {url.strip().rsplit('/', 1)[-1] for url in model.weights}
        stems = {Path(file).stem for file in files}
        if wanted in {model.name, model.config.stem, *model.aliases, *files, *stems}:
            return model
    return None


def weights_hash(file: str) -> str | None:
    """First digits of the SHA-256 that the index gives for a weights file of this name, or None."""
    for model in models():
        if model.hash and file in {url.strip().rsplit('/', 1)[-1] for url in model.weights}:
            return model.hash
    return None


def names() -> list[str]:
    """Every name a model can be called by."""
    return [name for model in models() for name in (model.name, *model.aliases)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence for an error: the closest known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if close:
        return f'nearest known: {", ".join(close)}'
    return (
        f'known: {", ".join(sorted(known)[:8])}{", ..." if len(known) > 8 else ""}'
        if known
        else 'no model index found'
    )
