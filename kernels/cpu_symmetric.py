"""Product of a symmetric matrix with a vector from one triangle of the matrix.

    y_i = a_ii x_i + sum over j > i of a_ij x_j,    y_j += a_ij x_i

Limited by memory: the triangle passes once, at half to seven tenths of the rate that memory has (`python -m examples.benchmarks
limits`). Libraries wake threads of their own for it, which then spin on the processors
that torch's and ours want next.
"""

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels import vectors
from grahame.kernels.compiling import FUSED, kernel
from grahame.kernels.threads import available, run

__all__ = ["product"]

Floats = NDArray[np.float64]

_SMALLEST = 1000  # rows of one thread: below, waking another takes longer
_WIDTH = 8


@kernel(FUSED)
def _add_rows(begin: int, end: int, upper: Floats, x: Floats, out: Floats) -> None:
    """Adds what the rows begin..end of the upper triangle give."""
    n = len(x)
    for i in range(begin, end):
        own, row = x[i], i * n
        parts, j = vectors.fill(0.0, _WIDTH), i + 1
        while j + _WIDTH <= n:
            here = vectors.load(upper, row + j, _WIDTH)
            parts = vectors.fma(here, vectors.load(x, j, _WIDTH), parts)
            vectors.store(out, j, vectors.axpy(own, here, vectors.load(out, j, _WIDTH)))
            j += _WIDTH
        total = vectors.dot(parts, vectors.fill(1.0, _WIDTH)) + upper[i, i] * own
        for k in range(j, n):
            total += upper[i, k] * x[k]
            out[k] += upper[i, k] * own
        out[i] += total


def product(upper: Floats, x: Floats) -> Floats:
    """A x.

    Args:
        upper: (n,n), whose lower triangle is not read; x: (n,).
    """
    n = len(x)
    parts = max(1, min(available(), n // _SMALLEST))
    if parts == 1:
        alone = np.zeros(n)
        _add_rows(0, n, upper, x, alone)
        return alone
    # Equal areas of the triangle.
    edges = [round(n * (1.0 - math.sqrt(1.0 - c / parts))) for c in range(parts + 1)]
    out = np.zeros((parts, n))
    run([partial(_add_rows, edges[c], edges[c + 1], upper, x, out[c]) for c in range(parts)])
    total: Floats = out.sum(axis=0)
    return total
