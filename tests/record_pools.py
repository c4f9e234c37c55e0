"""Records what mmcv's RoI pooling kernels give, for test_models_roi_pool.py.

mmcv has them for GPUs alone: their own source is compiled for the host here, a thread at a time.

python tests/record_pools.py    # needs mmcv and g++; writes tests/data/mmcv_roi_pool.npz
"""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import mmcv
import numpy as np
import torch

RECORD = Path(__file__).parent / 'data/mmcv_roi_pool.npz'
KERNELS = Path(mmcv.__file__).parent / 'ops/csrc/common/cuda'
SIZE, SCALE, GAMMA = (3, 4), 0.25, 0.1

_HOST = """#pragma once
#include <cfloat>
#include <cmath>
#include <algorithm>
using std::max; using std::min;
#define __global__
#define __device__
struct Three { unsigned x, y, z; };
static Three blockIdx{0, 0, 0}, blockDim{1, 1, 1}, threadIdx{0, 0, 0}, gridDim{1, 1, 1};
template <typename T> void atomicAdd(T* place, T value) { *place += value; }
#include "common_cuda_helper.hpp"
"""
_CALLS = """
#include "deform_roi_pool_cuda_kernel.cuh"
#include "roi_pool_cuda_kernel.cuh"
extern "C" {
void deform(int n, float* in, float* rois, float* offset, float* out, float* grad, float* grad_in,
            float* grad_offset, int ph, int pw, float scale, int ratio, float gamma, int c, int h,
            int w) {
  deform_roi_pool_forward_cuda_kernel<float>(n, in, rois, offset, out, ph, pw, scale, ratio, gamma,
                                             c, h, w);
  deform_roi_pool_backward_cuda_kernel<float>(n, grad, in, rois, offset, grad_in, grad_offset, ph,
                                              pw, scale, ratio, gamma, c, h, w);
}
void pool(int n, float* in, float* rois, float* out, int* most, float* grad, float* grad_in, int ph,
          int pw, float scale, int c, int h, int w) {
  roi_pool_forward_cuda_kernel<float>(n, in, rois, out, most, ph, pw, scale, c, h, w);
  roi_pool_backward_cuda_kernel<float>(n, grad, rois, most, grad_in, ph, pw, c, h, w);
}
}
"""


def inputs() -> dict[str, torch.Tensor]:
    """A feature with equal values, RoIs inside and across its border, offsets, a gradient."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, 14, 17, generator=generator)
    feature[:, 0] = feature[:, 0].round()  # which of the equal ones gets the gradient
    rois = torch.tensor(
        [
            [0, 4, 6, 50, 40],  # those before the fourth stay inside, however their cells move
            [1, 10, 9, 30, 45],
            [1, 12.5, 11, 15.25, 14],
            [0, -9, -20, 30, 20],
            [1, 40, 30, 90, 80],
            [0, 100, 100, 120, 110],
            [1, 20, 20, 20, 20],
            [0, 30, 30, 10, 12],
        ]
    )
    return {
        'feature': feature,
        'rois': rois,
        'offset': torch.rand(len(rois), 2, *SIZE, generator=generator) - 0.5,
        'grad': torch.randn(len(rois), 3, *SIZE, generator=generator),
    }


def _compiled(folder: Path) -> ctypes.CDLL:
    (folder / 'cuda.h').touch()
    (folder / 'pytorch_cuda_helper.hpp').write_text(_HOST)
    (folder / 'calls.cpp').write_text(_CALLS)
    library = folder / 'calls.so'
    command = ['g++', '-O1', '-shared', '-fPIC', f'-I{folder}', f'-I{KERNELS}']
    subprocess.run([*command, str(folder / 'calls.cpp'), '-o', str(library)], check=True)
    return ctypes.CDLL(str(library))


def main() -> None:
    given = {name: tensor.numpy().copy() for name, tensor in inputs().items()}
    shape = given['feature'].shape
    out = np.zeros_like(given['grad'])

    def place(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    record = {}
    with tempfile.TemporaryDirectory() as folder:
        kernels = _compiled(Path(folder))
        for ratio in (0, 2):
            grad_in, grad_offset = np.zeros_like(given['feature']), np.zeros_like(given['offset'])
            kernels.deform(
                out.size,
                *(place(given[name]) for name in ('feature', 'rois', 'offset')),
                *map(place, (out, given['grad'], grad_in, grad_offset)),
                *SIZE,
                ctypes.c_float(SCALE),
                ratio,
                ctypes.c_float(GAMMA),
                *shape[1:],
            )
            for name, array in (('', out), ('/feature', grad_in), ('/offset', grad_offset)):
                record[f'deform/{ratio}{name}'] = array.copy()
        grad_in, most = np.zeros_like(given['feature']), np.full(out.shape, -1, np.int32)
        out[:] = 0
        kernels.pool(
            out.size,
            *(place(given[name]) for name in ('feature', 'rois')),
            *map(place, (out, most, given['grad'], grad_in)),
            *SIZE,
            ctypes.c_float(SCALE),
            *shape[1:],
        )
        record['pool'], record['pool/feature'] = out, grad_in
    np.savez_compressed(RECORD, **record)


if __name__ == '__main__':
    main()
