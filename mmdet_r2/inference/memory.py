"""Keeping freed memory: what the C library does with large tensors on the CPU.

glibc gives every block above some tens of megabytes back to the system when it is freed and asks
for it anew, page by page, at the next use. A feature map at 1/4 of a photo is 62 MB; zeroing its
pages again costs more time than the convolution that fills it. Told to keep its memory, the
allocator serves the next layer from the last one's.
"""

import ctypes
import os
import platform

OFF_VARIABLE = 'MMDET_R2_KEEP_MEMORY'
# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_INT_MAX = 2**31 - 1

_done: bool | None = None


def keep_freed_memory() -> bool:
    """Let this process reuse freed host memory instead of returning it; returns whether that is in
    force.

    For the whole process and for good: it stays as large as it once was. glibc only; elsewhere, and
    with ``MMDET_R2_KEEP_MEMORY=0``, nothing happens. Results never change.
    """
    global _done
    if _done is None:
        _done = os.environ.get(OFF_VARIABLE, '1') != '0' and _set_thresholds()
    return _done


def _set_thresholds() -> bool:
    if platform.libc_ver()[0] != 'glibc' or 'LD_PRELOAD' in os.environ:
        return False  # another allocator may have been preloaded, which knows better
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
