"""The pair sum of one geometry as a sparse symmetric matrix, for solvers that apply it to many charges; parts of lists.

Its values are limited by flops, at an eighth of what the processor does, its product with charges by reading at random
places, at two thirds (`python -m examples.benchmarks limits`: 12,288 atoms, one thread, AVX2).
"""

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grahame.kernels.compiling import FAST, kernel
from grahame.kernels.cpu_erfc import erfc_and_slope
from grahame.kernels.cpu_pairs import BLOCK, CHUNK, Floats, Short
from grahame.kernels.pairs import shift_terms
from grahame.kernels.threads import chunks, run


@kernel(FAST)
def _values(
    x: Floats,
    h: Floats,
    s: Floats,
    i: Short,
    j: Short,
    shifts: Short,
    alpha: float,
    limit: float,
    origin: float,
    edge: float,
    edge_slope: float,
    gaussian: bool,
    out_i: NDArray[np.int32],
    out_j: NDArray[np.int32],
    out: Floats,
) -> int:
    """f(r) of the pairs with r² < limit, and how many there are."""
    near, squared = np.empty(BLOCK, np.int64), np.empty(BLOCK)
    total = 0
    for begin in range(0, len(i), BLOCK):
        end = min(begin + BLOCK, len(i))
        for k in range(end - begin):
            first, second, r2 = i[begin + k], j[begin + k], 0.0
            for d in range(3):
                apart = x[second, d] - x[first, d]
                for e in range(3):
                    apart += shifts[begin + k, e] * h[e, d]
                r2 += apart * apart
            squared[k] = r2
        count = 0
        for k in range(end - begin):
            # Written always, kept when near: no branch to mispredict. What is overwritten was read before.
            near[count], squared[count] = k, squared[k]
            count += 1 if squared[count] < limit else 0
        for c in range(count):
            k = begin + near[c]
            distance = math.sqrt(squared[c])
            f = erfc_and_slope(alpha * distance)[0]
            if gaussian:
                # Infinite between two points, whose erfc is 0.
                g = 1.0 / math.sqrt(2.0 * (s[i[k]] * s[i[k]] + s[j[k]] * s[j[k]]))
                f -= erfc_and_slope(g * distance)[0]
            out_i[total + c], out_j[total + c] = i[k], j[k]
            out[total + c] = f / distance - edge - edge_slope * (distance - origin)
        total += count
    return total


@kernel(FAST)
def _product(
    first: int,
    last: int,
    i: NDArray[np.int32],
    j: NDArray[np.int32],
    f: Floats,
    q: Floats,
    out: Floats,
) -> None:
    """out += (F + F^T) q over the pairs first..last."""
    row = -1
    qi = total = 0.0
    for k in range(first, last):
        if i[k] != row:
            if row >= 0:
                out[row] += total
            row = i[k]
            qi, total = q[row], 0.0
        total += f[k] * q[j[k]]
        out[j[k]] += f[k] * qi
    if row >= 0:
        out[row] += total


class PairMatrix:
    """The pair sum of one geometry as a sparse symmetric matrix, for many charges."""

    def __init__(
        self,
        x: Floats,
        h: Floats,
        s: Floats,
        i: Short,
        j: Short,
        shifts: Short,
        alpha: float,
        cutoff: float,
        shift: bool,
    ) -> None:
        edge, slope = shift_terms(alpha, cutoff) if shift else (0.0, 0.0)
        self._i, self._j = np.empty(len(i), np.int32), np.empty(len(i), np.int32)
        self._f = np.empty(len(i))
        count = _values(
            x, h, s, i, j, shifts, alpha, cutoff * cutoff, cutoff if shift else 0.0, edge, slope,
            bool(s.any()), self._i, self._j, self._f,
        )  # fmt: skip
        self._i, self._j, self._f = self._i[:count].copy(), self._j[:count].copy(), self._f[:count].copy()

    def __call__(self, q: Floats) -> Floats:
        """dE/dq (n,) in e/Å."""
        ranges = chunks(len(self._i), CHUNK)
        out = np.zeros((len(ranges), len(q)))
        run(
            [partial(_product, a, b, self._i, self._j, self._f, q, out[c]) for c, (a, b) in enumerate(ranges)]
        )
        total: Floats = out.sum(0)
        return total
