"""The zoo index: published model names, their configs and weights, as ``model-index.yml`` and the
metafiles list them.

``model-index.yml`` beside ``configs/`` imports ``configs/*/metafile.yml``; both keep OpenMMLab's
format, so that other tools (``mim search``, ``mim download``) read them too. ``docs/model_zoo.md``
explains the keys. A model is found by its name, by an alias, or by the file name of its config or
weights.
"""

import difflib
import fnmatch
import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import ConfigError
from ..files import parse_yaml
from .transfer import file_name


@dataclass(frozen=True)
class ZooModel:
    """One published model. What was not published is '', None or empty.

    Attributes:
        name: its name in the index (that of its config file, without ``.py``).
        config: path of its config file.
        weights: addresses of its checkpoint, in the order to try.
        aliases: other names: mmdetection 3.x's, and that of the original's config file.
        results: metrics as published, such as ``{'box AP': 43.0}``.
        hash: first digits of the hash of its checkpoint (SHA-256; detectron2: MD5), as the
            metafile says.
        collection: the family it belongs to, such as ``'Mask R-CNN (Res2Net)'``.
        paper: address of the paper of its collection.
        backbone: such as ``'Res2Net-v1b-101 26w4s'``.
        parameters: such as ``'61.42M'``.
        training_data: data set that it was trained on.
        measured_on: data sets that its results are of.
        epochs, iterations: length of training; one of the two.
        memory: GB of GPU memory in training.
        layout: name of the layout of its checkpoint (:data:`~mmdet_r2.zoo.LAYOUTS`).
        page: web page that shows weights which cannot be fetched by a program.
    """

    name: str
    config: Path
    weights: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    results: dict[str, float] = field(default_factory=dict)
    hash: str = ''
    collection: str = ''
    paper: str = ''
    backbone: str = ''
    parameters: str = ''
    training_data: str = ''
    measured_on: tuple[str, ...] = ()
    epochs: int | None = None
    iterations: int | None = None
    memory: float | None = None
    layout: str = ''
    page: str = ''

    @property
    def folder(self) -> str:
        """Name of the folder of its config."""
        return self.config.parent.name

    @property
    def files(self) -> tuple[str, ...]:
        """File names of its weights, as downloads are stored."""
        return tuple(dict.fromkeys(file_name(url) for url in self.weights))


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
    listed: list[tuple[Any, Path]] = []
    papers: dict[str, str] = {}
    for pattern in _yaml(folder / 'model-index.yml').get('Import') or []:
        for path in sorted(folder.glob(pattern)):
            content = _yaml(path)
            # OpenMMLab's metafiles are either a mapping with `Models` or the list itself
            if isinstance(content, dict):
                for collection in content.get('Collections') or []:
                    papers[collection.get('Name', '')] = _address(collection.get('Paper'))
                content = content.get('Models') or []
            listed += [(entry, path) for entry in content]
    return tuple(_model(entry, path, folder, papers) for entry, path in listed)


def _model(entry: Any, path: Path, folder: Path, papers: Mapping[str, str]) -> ZooModel:
    if not (isinstance(entry, dict) and {'Name', 'Config'} <= entry.keys()):
        raise ConfigError(
            f'{path}: every entry of Models needs Name and Config; found {entry!r:.80}.'
        )
    try:
        return _from_keys(entry, path, folder, papers)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise ConfigError(
            f"{path}: {entry['Name']} is not written in OpenMMLab's format ({reason})."
        ) from None


def _from_keys(
    entry: Mapping[str, Any], path: Path, folder: Path, papers: Mapping[str, str]
) -> ZooModel:
    name = str(entry['Name'])
    results: dict[str, float] = {}
    for result in entry.get('Results') or []:
        for key, value in (result.get('Metrics') or {}).items():
            results[str(key)] = float(value)
    digits = entry.get('Hash', '')
    # without quotes YAML reads 17061e8 and 17061234 as numbers
    if not isinstance(digits, str) or not re.fullmatch('[0-9a-f]*', digits):
        raise ConfigError(f'{path}: Hash of {name} is {digits!r}; expected hex digits in quotes.')
    data = entry.get('Metadata') or {}
    collection = str(entry.get('In Collection') or '')
    return ZooModel(
        name=name,
        config=folder / str(entry['Config']),
        weights=tuple(url.strip() for url in _strings(entry.get('Weights'))),
        aliases=_strings(entry.get('Alias') or entry.get('Aliases')),
        results=results,
        hash=digits,
        collection=collection,
        paper=_address(entry.get('Paper')) or papers.get(collection, ''),
        backbone=str(data.get('Backbone', '')),
        parameters=str(data.get('Parameters', '')),
        training_data=', '.join(_strings(data.get('Training Data'))),
        measured_on=tuple(dict.fromkeys(str(r['Dataset']) for r in entry.get('Results') or [])),
        epochs=data.get('Epochs'),
        iterations=data.get('Iterations'),
        memory=data.get('Training Memory (GB)'),
        layout=str(entry.get('Layout', '')),
        page=str(entry.get('Weights Page', '')),
    )


def _strings(value: object) -> tuple[str, ...]:
    """A list or a single text, as a tuple; None as ()."""
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)


def _address(paper: object) -> str:
    """URL of a ``Paper`` entry, which is the address itself or a mapping."""
    return str(paper.get('URL', '')) if isinstance(paper, Mapping) else str(paper or '')


def _yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read as an index of models ({error})') from None
    return parse_yaml(text, path, ConfigError) or {}


def find_model(name: str | os.PathLike[str]) -> ZooModel | None:
    """The model called ``name`` (model, alias, config file or weights file, with or without
    suffix and folder, or as quoted in an address), or None."""
    wanted = unquote(Path(os.fspath(name)).name)
    for suffix in ('.py', '.yaml', '.yml'):
        wanted = wanted.removesuffix(suffix)
    for model in models():
        if wanted in (model.name, model.config.stem, *model.aliases):
            return model
    for model in models():
        if any(wanted in (file, Path(file).stem) for file in model.files):
            return model
    return None


def search(pattern: str = '*') -> list[ZooModel]:
    """The models that a shell pattern matches, in the order of the index; [] for none.

    It is compared, whatever the case, with name and aliases, ``folder`` and ``folder/name`` of the
    config, collection and backbone: ``'res2net*'`` finds all of that folder and backbone.
    """
    wanted = pattern.lower()
    return [m for m in models() if any(fnmatch.fnmatchcase(t, wanted) for t in _terms(m))]


def _terms(model: ZooModel) -> list[str]:
    folder = model.folder
    words = (model.name, *model.aliases, folder, model.collection, model.backbone)
    return [word.lower() for word in (*words, f'{folder}/{model.name}')]


def weights_hash(file: str) -> str | None:
    """First digits of the hash that the index gives for a weights file of this name, or None."""
    for model in models():
        if model.hash and file in model.files:
            return model.hash
    return None


def names() -> list[str]:
    """Every name a model can be called by."""
    return [name for model in models() for name in (model.name, *model.aliases)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence for an error: the closest known names."""
    known = list(known)
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.4)
    if close:
        return f'nearest known: {", ".join(folded[other] for other in close)}'
    return (
        f'known: {", ".join(sorted(known)[:8])}{", ..." if len(known) > 8 else ""}'
        if known
        else 'no model index found'
    )
