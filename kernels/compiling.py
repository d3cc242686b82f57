"""How kernels are compiled: without the interpreter's lock, kept on disk, divisions by zero as in IEEE arithmetic.

One set of options for all: what numba compiles once for them (`np.empty`, say) serves every kernel, and nobody calls them from
C.

A function that a cached kernel calls must be inlined. Otherwise it exists twice: as a copy in the kernel's own code,
optimised there, and as code of its own, which the linker prefers in the process that compiled it. A process that reads the
kernel from numba's cache runs the copy, and sums that were reordered or products that were fused differently in the two (the
latter happens without fastmath too) round differently.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["FAST", "FUSED", "inlined", "kernel"]

FAST = frozenset({"contract", "reassoc", "nsz", "arcp"})
"""Everything but the assumption that NaN and infinity never occur."""
FUSED = frozenset({"contract"})
"""Products and sums may be rounded once; their order stays."""

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(fastmath: frozenset[str] | None = None) -> Callable[[Function], Function]:
    """Compiles a function that Python calls; `fastmath` lists what may be done to its arithmetic."""
    return _compiled(fastmath, cache=True)


def inlined(fastmath: frozenset[str] | None = None) -> Callable[[Function], Function]:
    """Compiles a function that becomes a part of each kernel that calls it."""
    return _compiled(fastmath, forceinline=True)


def _compiled(fastmath: frozenset[str] | None, **options: Any) -> Callable[[Function], Function]:
    options |= {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    made: Callable[[Function], Function] = numba.njit(**options, fastmath=set(fastmath or ()))
    return made
