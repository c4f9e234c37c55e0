"""Which library computes the operators on a device."""

import functools
import importlib
from types import ModuleType


@functools.cache
def backend(device: str = 'cpu') -> str:
    """Which library has compiled operators for ``device`` ('cpu', 'cuda'): 'mmcv', 'torchvision'
    or, on the CPU, where none is needed, 'torch'.

    Raises:
        RuntimeError: a GPU, and neither has them; the message names the command that builds them
            and why each is not usable.
    """
    reasons = []
    for name, probe in (('mmcv', 'mmcv._ext'), ('torchvision', 'torchvision.ops')):
        try:
            module = importlib.import_module(probe)
        except Exception as error:  # a broken binary raises OSError, RuntimeError, ...
            reasons.append(f'{probe}: {error}')
            continue
        if name == 'mmcv' and device == 'cuda' and not _has_cuda(module):
            reasons.append(f'{probe}: built without CUDA')
            continue
        return name
    if device == 'cpu':
        return 'torch'
    raise RuntimeError(
        f'there are no compiled operators for {device}: install torchvision, or run `python '
        'tools/install.py --operators`, which builds those of mmcv against the installed torch '
        f'({"; ".join(reasons)}).'
    )


def _has_cuda(extension: ModuleType) -> bool:
    """Whether mmcv's extension was compiled with CUDA."""
    return 'not' not in extension.get_compiling_cuda_version()
