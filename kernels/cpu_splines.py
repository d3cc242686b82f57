"""B-splines of one order on the CPU: where atoms touch the mesh, charges to the mesh, potentials from it.

The order is a constant of the compiled code: loops over the few points of an atom are unrolled and run on vector
registers. With M the splines of `mesh`, an atom at u touches the points first..first + p - 1 modulo n of each direction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["SplineKernels", "Stencil", "spline_kernels"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FAST = {"contract", "reassoc", "nsz", "arcp"}


@dataclass(frozen=True)
class Stencil:
    """Where atoms touch the mesh: points first..first + p - 1 modulo n along each direction.

    Attributes:
        first: (n,3) first point of each direction, 0 <= first < n_d.
        values: (n,3,p) B-splines at the points, ascending.
        slopes: (n,3,p) their derivatives with respect to u, or (n,3,0) where forces are not wanted.
    """

    first: Ints
    values: Floats
    slopes: Floats


@dataclass(frozen=True)
class SplineKernels:
    """Compiled code of one order; each works on a range of atoms, `spread` on one of planes of the mesh.

    Attributes:
        stencil: (begin, end, x, inverse, mesh, first, values, slopes) fills a stencil.
        spread: (begin, end, q, first, values, out) spreads all charges on the planes.
        potential: (begin, end, first, values, phi, potential) at the atoms.
        gradient: (begin, end, q, inverse, first, values, slopes, phi, potential, gradient), with q times its gradient.
    """

    stencil: Callable[..., None]
    spread: Callable[..., None]
    potential: Callable[..., None]
    gradient: Callable[..., None]


@lru_cache(maxsize=16)
def spline_kernels(order: int) -> SplineKernels:
    """The kernels of an order; compiled when first used, and kept on disk."""
    return SplineKernels(_stencil(order), _spread(order), _potential(order), _gradient(order))


def _stencil(order: int) -> Callable[..., None]:
    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def kernel(
        begin: int,
        end: int,
        x: Floats,
        inverse: Floats,
        mesh: Ints,
        first: Ints,
        values: Floats,
        slopes: Floats,
    ) -> None:
        m = np.zeros(order + 1)
        for a in range(begin, end):
            for d in range(3):
                u = (x[a, 0] * inverse[0, d] + x[a, 1] * inverse[1, d] + x[a, 2] * inverse[2, d]) * mesh[d]
                floor = np.floor(u)
                w = u - floor
                first[a, d] = (np.int64(floor) - (order - 1)) % mesh[d]
                # m[k] = M_p(w + k), raised from p = 2; the last place stays 0 as M_p(w + p).
                m[0], m[1] = w, 1.0 - w
                for k in range(2, order + 1):
                    m[k] = 0.0
                for p in range(3, order):
                    scale = 1.0 / (p - 1)
                    for k in range(p - 1, 0, -1):
                        m[k] = ((w + k) * m[k] + (p - w - k) * m[k - 1]) * scale
                    m[0] *= w * scale
                # Point l = first + c carries M_p(u - l), u - l = w + p - 1 - c.
                if slopes.shape[2] > 0:
                    slopes[a, d, order - 1] = m[0]
                    for k in range(1, order):
                        slopes[a, d, order - 1 - k] = m[k] - m[k - 1]
                scale = 1.0 / (order - 1)
                for k in range(order - 1, 0, -1):
                    values[a, d, order - 1 - k] = ((w + k) * m[k] + (order - w - k) * m[k - 1]) * scale
                values[a, d, order - 1] = w * m[0] * scale

    compiled: Callable[..., None] = kernel
    return compiled


def _spread(order: int) -> Callable[..., None]:
    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def kernel(begin: int, end: int, q: Floats, first: Ints, values: Floats, out: Floats) -> None:
        n1, n2, n3 = out.shape
        flat = out.reshape(-1)
        line = np.empty(order)
        out[begin:end] = 0.0
        for a in range(len(q)):
            if q[a] == 0.0:
                continue
            l3 = first[a, 2]
            inside = l3 + order <= n3
            for i in range(order):
                l1 = (first[a, 0] + i) % n1
                if l1 < begin or l1 >= end:
                    continue
                charge = q[a] * values[a, 0, i]
                for k in range(order):
                    line[k] = charge * values[a, 2, k]
                l2 = first[a, 1]
                for j in range(order):
                    row = (l1 * n2 + l2) * n3
                    t = values[a, 1, j]
                    if inside:
                        for k in range(order):
                            flat[row + l3 + k] += t * line[k]
                    else:
                        for k in range(order):
                            flat[row + (l3 + k) % n3] += t * line[k]
                    l2 += 1
                    if l2 == n2:
                        l2 = 0

    compiled: Callable[..., None] = kernel
    return compiled


def _potential(order: int) -> Callable[..., None]:
    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def kernel(begin: int, end: int, first: Ints, values: Floats, phi: Floats, potential: Floats) -> None:
        n1, n2, n3 = phi.shape
        flat = phi.reshape(-1)
        for a in range(begin, end):
            total = 0.0
            l1, l3 = first[a, 0], first[a, 2]
            inside = l3 + order <= n3
            for i in range(order):
                plane = 0.0
                l2 = first[a, 1]
                for j in range(order):
                    row = (l1 * n2 + l2) * n3
                    line = 0.0
                    if inside:
                        for k in range(order):
                            line += flat[row + l3 + k] * values[a, 2, k]
                    else:
                        for k in range(order):
                            line += flat[row + (l3 + k) % n3] * values[a, 2, k]
                    plane += line * values[a, 1, j]
                    l2 += 1
                    if l2 == n2:
                        l2 = 0
                total += plane * values[a, 0, i]
                l1 += 1
                if l1 == n1:
                    l1 = 0
            potential[a] = total

    compiled: Callable[..., None] = kernel
    return compiled


def _gradient(order: int) -> Callable[..., None]:
    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def kernel(
        begin: int,
        end: int,
        q: Floats,
        inverse: Floats,
        first: Ints,
        values: Floats,
        slopes: Floats,
        phi: Floats,
        potential: Floats,
        gradient: Floats,
    ) -> None:
        n1, n2, n3 = phi.shape
        flat = phi.reshape(-1)
        for a in range(begin, end):
            total = g1 = g2 = g3 = 0.0
            l1, l3 = first[a, 0], first[a, 2]
            inside = l3 + order <= n3
            for i in range(order):
                plane = plane2 = plane3 = 0.0
                l2 = first[a, 1]
                for j in range(order):
                    row = (l1 * n2 + l2) * n3
                    line = line3 = 0.0
                    if inside:
                        for k in range(order):
                            line += flat[row + l3 + k] * values[a, 2, k]
                            line3 += flat[row + l3 + k] * slopes[a, 2, k]
                    else:
                        for k in range(order):
                            line += flat[row + (l3 + k) % n3] * values[a, 2, k]
                            line3 += flat[row + (l3 + k) % n3] * slopes[a, 2, k]
                    plane += line * values[a, 1, j]
                    plane2 += line * slopes[a, 1, j]
                    plane3 += line3 * values[a, 1, j]
                    l2 += 1
                    if l2 == n2:
                        l2 = 0
                total += plane * values[a, 0, i]
                g1 += plane * slopes[a, 0, i]
                g2 += plane2 * values[a, 0, i]
                g3 += plane3 * values[a, 0, i]
                l1 += 1
                if l1 == n1:
                    l1 = 0
            potential[a] = total
            g1 *= q[a] * n1
            g2 *= q[a] * n2
            g3 *= q[a] * n3
            for d in range(3):
                gradient[a, d] = inverse[d, 0] * g1 + inverse[d, 1] * g2 + inverse[d, 2] * g3

    compiled: Callable[..., None] = kernel
    return compiled
