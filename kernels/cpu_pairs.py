"""Pair sums on the CPU: the formulas of `pairs`, compiled, with the first derivatives that are wanted.

erfc is taken from a table of its Taylor polynomials (degree 7, intervals of 1/80), whose value and slope are
exact to double precision. The bare interaction of excluded pairs is the case alpha = 0 without a cut-off:
erfc(0) = 1.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numba
import numpy as np
from numpy.typing import NDArray

from grahame.kernels.pairs import TWO_OVER_SQRT_PI, shift_terms
from grahame.kernels.threads import chunks, run

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]

_SCALE = 80.0  # intervals of the table per unit
_END = 6.4  # erfc(6.4) = 1e-19
BLOCK = 256  # pairs whose intermediate values stay in the cache
CHUNK = 20_000  # pairs below which a second thread does not pay
# Everything but the assumption that NaN and infinity never occur.
#
# A function that a cached kernel calls must be inlined (`forceinline`). Otherwise it exists twice: as a copy in the
# kernel's own code, optimised there, and as code of its own, which the linker prefers in the process that compiled
# it. A process that reads the kernel from numba's cache runs the copy, and sums that were reordered or products
# that were fused differently in the two (the latter happens without fastmath too) round differently.
FAST = {"contract", "reassoc", "nsz", "arcp"}


@dataclass(frozen=True)
class PairDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None
    smearing: Floats | None


@lru_cache(maxsize=1)
def erfc_table() -> Floats:
    """Taylor coefficients of erfc about the middle of each interval, (512, 8)."""
    middle = (np.arange(round(_END * _SCALE)) + 0.5) / _SCALE
    table = np.empty((len(middle), 8))
    table[:, 0] = [math.erfc(t) for t in middle]
    # erfc' = -2/sqrt(pi) exp(-t²); its n-th derivative is (-1)^n H_n(t) times it.
    slope = -TWO_OVER_SQRT_PI * np.exp(-(middle**2))
    before, hermite = np.zeros_like(middle), np.ones_like(middle)
    for n in range(7):
        table[:, n + 1] = (-1) ** n * hermite * slope / math.factorial(n + 1)
        before, hermite = hermite, 2 * middle * hermite - 2 * n * before
    return table


@numba.njit(nogil=True, inline="always", fastmath=FAST)
def _erfc(table: Floats, t: float) -> tuple[float, float]:
    """erfc(t) and its slope, for t >= 0."""
    if not t < _END:
        return 0.0, 0.0
    k = int(t * _SCALE)
    d = t - (k + 0.5) / _SCALE
    c = table[k]
    value = c[0] + d * (c[1] + d * (c[2] + d * (c[3] + d * (c[4] + d * (c[5] + d * (c[6] + d * c[7]))))))
    slope = c[1] + d * (
        2 * c[2] + d * (3 * c[3] + d * (4 * c[4] + d * (5 * c[5] + d * (6 * c[6] + d * 7 * c[7]))))
    )
    return value, slope


@numba.njit(nogil=True, forceinline=True, fastmath=FAST, error_model="numpy")
def near_pairs(
    begin: int,
    end: int,
    x: Floats,
    h: Floats,
    i: Short,
    j: Short,
    shifts: Short,
    limit: float,
    vectors: Floats,
    distance: Floats,
    near: Ints,
) -> int:
    """Vectors (3, block) of the pairs begin..end, and places and distances of those with r² < limit."""
    dx, dy, dz = vectors[0], vectors[1], vectors[2]
    ax, ay, az, bx, by, bz = h[0, 0], h[0, 1], h[0, 2], h[1, 0], h[1, 1], h[1, 2]
    cx, cy, cz = h[2, 0], h[2, 1], h[2, 2]
    for k in range(end - begin):
        a, b, c = float(shifts[begin + k, 0]), float(shifts[begin + k, 1]), float(shifts[begin + k, 2])
        first, second = i[begin + k], j[begin + k]
        dx[k] = x[second, 0] - x[first, 0] + a * ax + b * bx + c * cx
        dy[k] = x[second, 1] - x[first, 1] + a * ay + b * by + c * cy
        dz[k] = x[second, 2] - x[first, 2] + a * az + b * bz + c * cz
        distance[k] = dx[k] * dx[k] + dy[k] * dy[k] + dz[k] * dz[k]
    count = 0
    for k in range(end - begin):
        # Written always, kept when near: no branch to mispredict.
        near[count] = k
        count += 1 if distance[k] < limit else 0
    for c in range(count):
        distance[c] = math.sqrt(distance[near[c]])  # near[c] >= c: what is overwritten was read before
    return count


@numba.njit(nogil=True, forceinline=True, fastmath=FAST, error_model="numpy")
def pair_kernel(
    begin: int,
    count: int,
    s: Floats,
    i: Short,
    j: Short,
    alpha: float,
    origin: float,
    edge: float,
    edge_slope: float,
    gaussian: bool,
    table: Floats,
    near: Ints,
    distance: Floats,
    f: Floats,
    slope: Floats,
    width: Floats,
) -> None:
    """f(r), f'(r)/r and -(d f/d s_i)/s_i of the near pairs of a block."""
    for c in range(count):
        f[c], slope[c] = _erfc(table, alpha * distance[c])
        slope[c] *= alpha
    if gaussian:
        for c in range(count):
            k = begin + near[c]
            squared = s[i[k]] * s[i[k]] + s[j[k]] * s[j[k]]
            width[c] = 0.0
            if squared > 0.0:
                g = 1.0 / math.sqrt(2.0 * squared)
                if g * distance[c] < _END:
                    value, derivative = _erfc(table, g * distance[c])
                    f[c] -= value
                    slope[c] -= g * derivative
                    # d/dg of -erfc(g r)/r is -erfc'(g r), and dg/ds_i = -2 g³ s_i.
                    width[c] = -2.0 * g * g * g * derivative
    for c in range(count):
        inverse = 1.0 / distance[c]
        value = f[c] * inverse
        slope[c] = ((slope[c] - value) * inverse - edge_slope) * inverse
        f[c] = value - edge - edge_slope * (distance[c] - origin)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _chunk(
    first: int,
    last: int,
    x: Floats,
    q: Floats,
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
    table: Floats,
    force: Floats,
    potential: Floats,
    cell: Floats,
    width: Floats,
) -> float:
    """Energy of the pairs first..last with r² < limit; derivatives are added to the arrays not empty."""
    want_force, want_potential, want_width = len(force) > 0, len(potential) > 0, len(width) > 0
    near, vectors, distance = np.empty(BLOCK, np.int64), np.empty((3, BLOCK)), np.empty(BLOCK)
    f, slope, dwidth = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    energy = 0.0
    for begin in range(first, last, BLOCK):
        end = min(begin + BLOCK, last)
        count = near_pairs(begin, end, x, h, i, j, shifts, limit, vectors, distance, near)
        pair_kernel(
            begin, count, s, i, j, alpha, origin, edge, edge_slope, gaussian, table, near, distance,
            f, slope, dwidth,
        )  # fmt: skip
        row = -1
        qa = fx = fy = fz = pot = 0.0
        for c in range(count):
            k = begin + near[c]
            a, b = i[k], j[k]
            if a != row:
                # Pairs of one i stand together: what the first atom collects is written once per row.
                if want_force and row >= 0:
                    force[row, 0] -= fx
                    force[row, 1] -= fy
                    force[row, 2] -= fz
                if want_potential and row >= 0:
                    potential[row] += pot
                row, qa = a, q[a]
                fx = fy = fz = pot = 0.0
            energy += qa * q[b] * f[c]
            if want_potential:
                pot += q[b] * f[c]
                potential[b] += qa * f[c]
            if want_force:
                w = qa * q[b] * slope[c]
                dx, dy, dz = w * vectors[0, near[c]], w * vectors[1, near[c]], w * vectors[2, near[c]]
                fx += dx
                fy += dy
                fz += dz
                force[b, 0] += dx
                force[b, 1] += dy
                force[b, 2] += dz
                for d in range(3):
                    if shifts[k, d] != 0:
                        cell[d, 0] += shifts[k, d] * dx
                        cell[d, 1] += shifts[k, d] * dy
                        cell[d, 2] += shifts[k, d] * dz
            if want_width and gaussian:
                w = -qa * q[b] * dwidth[c]
                width[a] += w * s[a]
                width[b] += w * s[b]
        if want_force and row >= 0:
            force[row, 0] -= fx
            force[row, 1] -= fy
            force[row, 2] -= fz
        if want_potential and row >= 0:
            potential[row] += pot
    return energy


def screened(
    x: Floats,
    q: Floats,
    h: Floats,
    s: Floats,
    i: Short,
    j: Short,
    shifts: Short,
    alpha: float,
    cutoff: float,
    shift: bool,
    forces: bool,
    potential: bool,
    widths: bool,
) -> PairDerivatives:
    """Energy and derivatives of `pairs.screened_energy`; the cell's comes with the forces."""
    edge, slope = shift_terms(alpha, cutoff) if shift else (0.0, 0.0)
    # Unshifted, the cut-off may be infinite: 0 times infinity must not appear.
    limit, origin = cutoff * cutoff, cutoff if shift else 0.0
    gaussian = bool(s.any())
    n = len(x)
    ranges = chunks(len(i), CHUNK)
    force = np.zeros((len(ranges), n if forces else 0, 3))
    pot = np.zeros((len(ranges), n if potential else 0))
    width = np.zeros((len(ranges), n if widths else 0))
    cell = np.zeros((len(ranges), 3, 3))
    table = erfc_table()
    energies = run(
        [
            partial(
                _chunk, a, b, x, q, h, s, i, j, shifts, alpha, limit, origin, edge, slope,
                gaussian, table, force[c], pot[c], cell[c], width[c],
            )
            for c, (a, b) in enumerate(ranges)
        ]
    )  # fmt: skip
    return PairDerivatives(
        float(sum(energies)),  # type: ignore[arg-type]
        force.sum(0) if forces else None,
        pot.sum(0) if potential else None,
        cell.sum(0) if forces else None,
        width.sum(0) if widths else None,
    )
