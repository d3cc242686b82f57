"""Memory for the large arrays of the compiled kernels, taken again once nobody looks at them.

Fresh memory is paged in at its first touch, which takes longer than most kernels take to fill it. The arrays begin
where a cache line begins, so that short vectors in them do not lie across two.
"""

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["empty"]

_SMALL = 1 << 17  # bytes; below, the system has some at hand
_LINE = 64
_KEPT = 12  # blocks that are kept, at most: those given back last
_WASTE = 1.5  # times the wanted length a block may have
_spare: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)


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
