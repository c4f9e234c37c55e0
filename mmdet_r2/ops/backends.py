"""Which library computes the operators on a device."""

import functools
import importlib

from mmdet_r2.errors import UserError

_PROBES = {'mmcv': 'mmcv._ext', 'torchvision': 'torchvision.ops'}


@functools.cache
def backend(device: str = 'cpu') -> str:
    """Which library serves ``device``: on the CPU 'torch', our own code, or 'torchvision', our own
    with torchvision's NMS; on a GPU ('cuda') 'mmcv' or 'torchvision'.

    Raises:
        UserError: a GPU, and neither has operators for it; the message names the command that
            builds them and why each is not usable.
    """
    if device == 'cpu':
        return 'torch' if problem_of('torchvision', device) else 'torchvision'
    problems = {name: problem_of(name, device) for name in _PROBES}
    for name, problem in problems.items():
        if not problem:
            return name
    raise UserError(
        f'there are no compiled operators for {device}: install torchvision, or run `python '
        'tools/install.py --operators`, which builds those of mmcv against the installed torch '
        f'({"; ".join(problems.values())}).'
    )


@functools.cache
def problem_of(name: str, device: str) -> str:
    """Why the compiled operators of 'mmcv' or 'torchvision' do not serve ``device``; '' if they
    do."""
    probe = _PROBES[name]
    try:
        module = importlib.import_module(probe)
    except Exception as error:  # a broken binary raises OSError, RuntimeError, ...
        return f'{probe}: {error}'
    if name == 'mmcv' and device == 'cuda' and 'not' in module.get_compiling_cuda_version():
        return f'{probe}: built without CUDA'
    return ''
