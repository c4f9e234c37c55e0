"""From what a config or command line calls a checkpoint to a file on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mmengine.config import Config

from ..errors import CheckpointError
from . import index
from .download import download, expected_hash, home_path, sha256, wrong_hash

_T = TypeVar('_T')

# How files of weights end.
_SUFFIXES = ('.pth', '.pt', '.pkl', '.safetensors')

_OPENMMLAB = 'https://download.openmmlab.com/'
# The same files under the same paths. The first two are kept up by the maintainers of the packages
# we build on; the last is the original, whose name lapsed in June 2026.
_OPENMMLAB_HOSTS = (
    'https://mmassets.onedl.ai/',
    'https://pub-ed9ed750ddcc469da251e2d1a2cea382.r2.dev/',
    _OPENMMLAB,
)
_TORCHVISION = 'https://download.pytorch.org/models/'
_DETECTRON2 = 'https://dl.fbaipublicfiles.com/detectron2/'
# The ImageNet files of ResNeSt are at both places.
_RESNEST_HOSTS = (
    'https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/',
    'https://s3.us-west-1.wasabisys.com/resnest/torch/',
)
# The files of mmdetection 1.x, and the copy that its page names.
_MMDETECTION_1 = (
    'https://s3.ap-northeast-2.amazonaws.com/open-mmlab/',
    'https://open-mmlab.oss-cn-beijing.aliyuncs.com/',
)
# ResNeSt's detectors: the address of their table, and the one before it.
_RESNEST_DETECTORS = (
    'https://s3.us-west-1.wasabisys.com/resnest/detectron/',
    'https://hangzh.s3.amazonaws.com/detectron/',
)

# open-mmlab://NAME -> file in pretrain/third_party/ (ImageNet weights that configs of these
# families start from)
_THIRD_PARTY = {
    'detectron/resnet50_caffe': 'resnet50_caffe-788b5fa3.pth',
    'detectron2/resnet50_caffe': 'resnet50_msra-5891d200.pth',
    'detectron2/resnet50_caffe_bgr': 'resnet50_msra-5891d200.pth',
    'detectron/resnet101_caffe': 'resnet101_caffe-3ad79236.pth',
    'detectron2/resnet101_caffe': 'resnet101_msra-6cc46731.pth',
    'detectron2/resnet101_caffe_bgr': 'resnet101_msra-6cc46731.pth',
    'detectron2/resnext101_32x8d': 'resnext101_32x8d-1516f1aa.pth',
    'resnext50_32x4d': 'resnext50-32x4d-0ab1a123.pth',
    'resnext101_32x4d': 'resnext101_32x4d-a5af3160.pth',
    'resnext101_64x4d': 'resnext101_64x4d-ee2c6f71.pth',
    'contrib/resnet50_gn': 'resnet50_gn_thangvubk-ad1730dd.pth',
    'detectron/resnet50_gn': 'resnet50_gn-9186a21c.pth',
    'detectron/resnet101_gn': 'resnet101_gn-cac0ab98.pth',
    'jhu/resnet50_gn_ws': 'resnet50_gn_ws-15beedd8.pth',
    'jhu/resnet101_gn_ws': 'resnet101_gn_ws-3e3c308c.pth',
    'jhu/resnext50_32x4d_gn_ws': 'resnext50_32x4d_gn_ws-0d87ac85.pth',
    'jhu/resnext101_32x4d_gn_ws': 'resnext101_32x4d_gn_ws-34ac1a9e.pth',
    'jhu/resnext50_32x4d_gn': 'resnext50_32x4d_gn-c7e8b754.pth',
    'jhu/resnext101_32x4d_gn': 'resnext101_32x4d_gn-ac3bb84e.pth',
    'res2net101_v1d_26w_4s': 'res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth',
    'resnet50_v1c': 'resnet50_v1c-2cccc1ad.pth',
    'resnest50': 'resnest50_d2-7497a55b.pth',
    'resnest101': 'resnest101_d2-f3b931b2.pth',
    'resnest200': 'resnest200_d2-ca88e41f.pth',
    # the names of mmdetection 1.x
    'resnet50_caffe': 'resnet50_caffe-788b5fa3.pth',
    'resnet101_caffe': 'resnet101_caffe-3ad79236.pth',
    'resnet50_caffe_bgr': 'resnet50_msra-5891d200.pth',
    'resnet101_caffe_bgr': 'resnet101_msra-6cc46731.pth',
}

# torchvision://NAME -> today's file, then the one it replaced (same weights, without
# num_batches_tracked)
_TORCHVISION_FILES = {
    'resnet18': ('resnet18-f37072fd.pth', 'resnet18-5c106cde.pth'),
    'resnet34': ('resnet34-b627a593.pth', 'resnet34-333f7ec4.pth'),
    'resnet50': ('resnet50-0676ba61.pth', 'resnet50-19c8e357.pth'),
    'resnet101': ('resnet101-63fe2227.pth', 'resnet101-5d3b4d8f.pth'),
    'resnet152': ('resnet152-394f9c45.pth', 'resnet152-b121ed2d.pth'),
    'resnext50_32x4d': ('resnext50_32x4d-7cdf4587.pth',),
    'resnext101_32x8d': ('resnext101_32x8d-8ba56ff5.pth',),
}


def urls_of(source: str) -> list[str]:
    """Addresses of a URL, ``open-mmlab://``/``torchvision://``/``detectron2://`` name or zoo model,
    in the order to try; [] for a path.

    Raises:
        CheckpointError: a scheme name that is in no table; the message has the nearest ones.
    """
    source = source.strip()
    scheme, separator, name = source.partition('://')
    if not separator:
        model = index.find_model(source)
        return _with_mirrors(model.weights) if model is not None else []
    if scheme in ('http', 'https'):
        return _with_mirrors([source])
    if scheme in ('open-mmlab', 'openmmlab'):
        file = _lookup(source, name, _THIRD_PARTY)
        return [f'{host}pretrain/third_party/{file}' for host in _OPENMMLAB_HOSTS]
    if scheme in ('torchvision', 'modelzoo'):
        name = name.removesuffix('.imagenet1k_v1')  # newer spelling of the same weights
        return [_TORCHVISION + file for file in _lookup(source, name, _TORCHVISION_FILES)]
    if scheme == 'detectron2':  # what follows is a path there, such as COCO-Detection/.../x.pkl
        return [_DETECTRON2 + name.lstrip('/')]
    known = 'http://, https://, open-mmlab://, torchvision:// and detectron2://'
    raise CheckpointError(
        f'{source}: unknown kind of checkpoint address; known are a path, {known}.'
    )


def _lookup(source: str, name: str, table: dict[str, _T]) -> _T:
    if name in table:
        return table[name]
    near = index.nearest(name, table)
    raise CheckpointError(f'{source}: no such name; {near}.')


def _with_mirrors(urls: Sequence[str]) -> list[str]:
    """The addresses, each one on a host of OpenMMLab or ResNeSt followed or preceded by the copy of
    the other host."""
    plain = _OPENMMLAB.replace('https', 'http')
    places = (
        (_OPENMMLAB_HOSTS, (*_OPENMMLAB_HOSTS, plain)),
        (_RESNEST_HOSTS, _RESNEST_HOSTS),
        (_RESNEST_DETECTORS, _RESNEST_DETECTORS),
        (_MMDETECTION_1, _MMDETECTION_1),
    )
    result: list[str] = []
    for url in urls:
        url = url.strip()
        copies = [url]
        for hosts, names in places:
            for name in names:
                if url.startswith(name):
                    copies = [host + url[len(name) :] for host in hosts]
        result += [copy for copy in copies if copy not in result]
    return result


def fetch(
    source: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    unverified: bool = False,
) -> Path:
    """Path of the file that ``source`` means, downloaded first where it is an address or a zoo
    name.

    A file whose name ends in a hash, or that the index knows, is returned only if its content has
    that hash.

    Args:
        source: a path, an address (which may end in ``#sha256=`` and digits), ``open-mmlab://NAME``,
            ``torchvision://NAME``, ``detectron2://PATH`` or a zoo name.
        folder, unverified: for downloads, see :func:`download`.

    Raises:
        CheckpointError: no such file or name, the download failed, the content is not what was
            published, or nobody says what it must be.
    """
    text = os.fspath(source)
    path = home_path(text)
    if os.path.isfile(path):  # unlike Path.is_file, False where the name is too long for one
        return _verified(path)
    # a folder that is called like a model does not hide it, nor is a model what is missing in one
    model = index.find_model(text) if path.parent == Path() or path.suffix else None
    if text and os.path.isdir(path) and model is None:
        raise CheckpointError(f'{text}: is a folder, not a checkpoint file.')
    urls = urls_of(text) if model is not None or '://' in text else []
    if urls:
        return download(urls, folder=folder, unverified=unverified)
    if model is not None:
        raise CheckpointError(no_weights(model))
    if '/' in text or path.suffix in _SUFFIXES:
        raise CheckpointError(f'{text}: no such checkpoint file{_neighbours(path)}.')
    near = index.nearest(text, index.names())
    raise CheckpointError(
        f'{text or repr(text)}: neither a checkpoint file nor a model name; {near}.'
    )


def weights_of(config: str | os.PathLike[str] | Config) -> str:
    """Name of the published model that a config reproduces, to be given to :func:`fetch` or
    :func:`~mmdet_r2.zoo.load_checkpoint` as its checkpoint: what the checkpoint ``'auto'`` means.

    Args:
        config: a model name or alias, path of a config that comes with the package, or a
            ``Config`` read from one.

    Raises:
        CheckpointError: no model of the index is called so; or it is, and its authors published
            no weights. The message says what to do.
    """
    source = config.filename if isinstance(config, Config) else os.fspath(config)
    if not source:
        raise CheckpointError(
            "checkpoint 'auto': the config was not read from a file, so no published model can be "
            'looked up by its name; pass the name of a model instead of auto.'
        )
    return published(source).name


def published(name: str | os.PathLike[str]) -> index.ZooModel:
    """The model called ``name`` (or the path of its config), whose weights can be downloaded.

    Raises:
        CheckpointError: there is none; the message has the nearest names, or says what to do.
    """
    model = index.find_model(name)
    if model is None:
        near = index.nearest(Path(name).name.removesuffix('.py'), index.names())
        raise CheckpointError(
            f'{os.fspath(name)}: no published model is called so, whose weights could be '
            f'downloaded; {near}.'
        )
    if not model.weights:
        raise CheckpointError(no_weights(model))
    return model


def no_weights(model: index.ZooModel) -> str:
    """Sentence that says that a model's weights cannot be downloaded, and what can be done."""
    if model.page:
        return (
            f'{model.name}: its weights can only be had by hand: save the file of {model.page} '
            'with a browser, and pass its path.'
        )
    return (
        f'{model.name}: nobody published weights of this model. Train it (mmdet-r2 train '
        f'{model.config}), or pass the path of a checkpoint.'
    )


def _verified(path: Path) -> Path:
    named, indexed = expected_hash(path.name), index.weights_hash(path.name)
    for wanted, where in {indexed: 'its Hash in the metafile', named: 'its name'}.items():
        if wanted and wrong_hash(path, [wanted]):
            found = sha256(path)[: len(wanted)]
            raise CheckpointError(
                f'{path}: its SHA-256 begins with {found}, not {wanted} as {where} '
                'says: the file is cut short or was changed. Delete it and download it again; if '
                'the change is yours, rename it.'
            )
    return path


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f' (nor the folder {folder})'
    there = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES)
    return (
        f' ({folder} has {", ".join(there[:5])}{", ..." if len(there) > 5 else ""})'
        if there
        else ''
    )
