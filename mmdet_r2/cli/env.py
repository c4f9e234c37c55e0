"""Print versions of what is installed, for a bug report."""

import argparse

EXAMPLES = ('env',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    """Look, print."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .. import __version__

    found = dict(mmdet_r2=__version__, python=platform.python_version(), os=platform.platform())
    packages = ('torch', 'torchvision', 'onedl-mmcv', 'onedl-mmengine', 'mmcv', 'mmengine')
    for name in (*packages, 'numpy', 'opencv-python-headless', 'opencv-python', 'pycocotools'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found['CUDA of torch'] = str(torch.version.cuda)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found[f'GPU {index}'] = f'{properties.name}, {memory:.0f} GiB'
    found['CPU threads'] = str(torch.get_num_threads())
    width = max(map(len, found))
    for name, value in found.items():
        print(f'{name:<{width}}  {value}')
