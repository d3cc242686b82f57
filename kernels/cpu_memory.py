"""Memory for the large arrays of the compiled kernels, taken again once nobody looks at them.

Fresh memory is paged in at its first touch, which takes longer than most kernels take to fill it. The arrays begin
where a cache line begins, so that short vectors in them do not lie across two.

Arrays of others, torch's, come from the system. Its allocator gives much of what a step has freed back to the kernel, or
does not, by chance of what lies behind; `keep_freed` has it keep that for the next step.
"""

import ctypes
import math
import os
import weakref
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["empty", "keep_freed"]

_SMALL = 1 << 17  # bytes; below, the system has some at hand
_LINE = 64
_KEPT = 12  # blocks that are kept, at most: those given back last
_WASTE = 1.5  # times the wanted length a block may have
_spare: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)
# As glibc numbers them; blocks below 32 MB (its largest threshold) come from memory that is kept.
_TRIM, _MMAP = -1, -3
_ALWAYS_KEPT, _LARGEST_KEPT = 1 << 29, 1 << 25  # bytes
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """As `numpy.empty`; its memory is used again when the array and all views of it are gone."""
    kind = np.dtype(dtype)
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * kind.itemsize
    if size < _SMALL:
        return np.empty(shape, kind)
    block = _taken(size)
    begin = -block.ctypes.data % _LINE
    # Not an array below the array: views of it then refer to this one, not to the block.
    out = np.frombuffer(block.data[begin : begin + size], kind)
    weakref.finalize(out, _spare.append, block).atexit = False
    return out.reshape(shape)


def _taken(size: int) -> NDArray[np.uint8]:
    """A spare block that is long enough and not far too long, or a new one."""
    for _ in range(len(_spare)):
        try:
            block = _spare.popleft()
        except IndexError:  # another thread took it
            break
        if size + _LINE <= len(block) <= _WASTE * size + _LINE:
            return block
        _spare.append(block)
    return np.empty(size + _LINE, np.uint8)


@lru_cache(maxsize=1)
def keep_freed() -> bool:
    """Have the process keep up to 512 MB of what it has freed; returns whether the system's allocator could be told.

    GNU's can. What the environment says of it (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`) stands.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(_MMAP, _LARGEST_KEPT)) and bool(tell(_TRIM, _ALWAYS_KEPT))
