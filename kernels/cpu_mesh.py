"""Smooth particle mesh Ewald on the CPU: the formulas of `mesh`, compiled, with first derivatives.

Each thread owns planes of the mesh when charges are spread and atoms when potentials are gathered, so nothing
is added twice and nothing is added in an order that depends on the number of threads.

With the potential on the mesh, phi(l) = dE/dQ(l) = 2 FFT^-1[W FFT[Q]], the derivatives are

    dE/dq_j = sum over l of phi(l) M M M,    dE/dx_j = q_j inv(h) n (sum over l of phi(l) M' M M, ...),
    dE/dh = inv(h)^T {-E 1 + sum over m of 2 W |FFT[Q]|² (1/4 alpha² + 1/G²) G G^T - sum_j x_j (dE/dx_j)^T},

where the first two parts of the last line change the cell at fixed fractional coordinates and the third
brings the atoms back to their places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from grahame.kernels import mesh as formulas
from grahame.kernels.mesh import Mesh
from grahame.kernels.threads import chunks, run

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Waves = NDArray[np.complex128]

_CHUNK = 500  # atoms below which a second thread does not pay
_POINTS = 30_000  # mesh points below which it does not
_FAST = {"contract", "reassoc", "nsz", "arcp"}


@dataclass(frozen=True)
class MeshDerivatives:
    """Energy in e²/Å and the derivatives that were asked for (None otherwise)."""

    energy: float
    positions: Floats | None
    charges: Floats | None
    cell: Floats | None


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


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _stencil_chunk(
    begin: int, end: int, x: Floats, inverse: Floats, mesh: Ints, first: Ints, values: Floats, slopes: Floats
) -> None:
    order = values.shape[2]
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


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _spread_planes(begin: int, end: int, q: Floats, first: Ints, values: Floats, out: Floats) -> None:
    """Spread all charges on the planes begin..end of the mesh."""
    n1, n2, n3 = out.shape
    order = values.shape[2]
    out[begin:end] = 0.0
    for a in range(len(q)):
        if q[a] == 0.0:
            continue
        for i in range(order):
            l1 = (first[a, 0] + i) % n1
            if l1 < begin or l1 >= end:
                continue
            t1 = q[a] * values[a, 0, i]
            l2 = first[a, 1]
            l3 = first[a, 2]
            for j in range(order):
                t2 = t1 * values[a, 1, j]
                row = out[l1, l2]
                if l3 + order <= n3:
                    for k in range(order):
                        row[l3 + k] += t2 * values[a, 2, k]
                else:
                    for k in range(order):
                        row[(l3 + k) % n3] += t2 * values[a, 2, k]
                l2 += 1
                if l2 == n2:
                    l2 = 0


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _gather_chunk(
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
    """Potential at the atoms begin..end, and q times its gradient where that array is not empty."""
    n1, n2, n3 = phi.shape
    order = values.shape[2]
    for a in range(begin, end):
        pot = g1 = g2 = g3 = 0.0
        l1 = first[a, 0]
        l3 = first[a, 2]
        if len(gradient) == 0:
            for i in range(order):
                plane = 0.0
                l2 = first[a, 1]
                for j in range(order):
                    row = phi[l1, l2]
                    line = 0.0
                    if l3 + order <= n3:
                        for k in range(order):
                            line += row[l3 + k] * values[a, 2, k]
                    else:
                        for k in range(order):
                            line += row[(l3 + k) % n3] * values[a, 2, k]
                    plane += line * values[a, 1, j]
                    l2 += 1
                    if l2 == n2:
                        l2 = 0
                pot += plane * values[a, 0, i]
                l1 += 1
                if l1 == n1:
                    l1 = 0
            potential[a] = pot
            continue
        for i in range(order):
            plane = plane2 = plane3 = 0.0
            l2 = first[a, 1]
            for j in range(order):
                row = phi[l1, l2]
                line = line3 = 0.0
                if l3 + order <= n3:
                    for k in range(order):
                        line += row[l3 + k] * values[a, 2, k]
                        line3 += row[l3 + k] * slopes[a, 2, k]
                else:
                    for k in range(order):
                        line += row[(l3 + k) % n3] * values[a, 2, k]
                        line3 += row[(l3 + k) % n3] * slopes[a, 2, k]
                plane += line * values[a, 1, j]
                plane2 += line * slopes[a, 1, j]
                plane3 += line3 * values[a, 1, j]
                l2 += 1
                if l2 == n2:
                    l2 = 0
            pot += plane * values[a, 0, i]
            g1 += plane * slopes[a, 0, i]
            g2 += plane2 * values[a, 0, i]
            g3 += plane3 * values[a, 0, i]
            l1 += 1
            if l1 == n1:
                l1 = 0
        potential[a] = pot
        g1 *= q[a] * n1
        g2 *= q[a] * n2
        g3 *= q[a] * n3
        for d in range(3):
            gradient[a, d] = inverse[d, 0] * g1 + inverse[d, 1] * g2 + inverse[d, 2] * g3


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _weigh_planes(
    begin: int,
    end: int,
    transform: Waves,
    weight: Floats,
    reciprocal: Floats,
    alpha: float,
    want_cell: bool,
    energy: Floats,
    tensor: Floats,
) -> None:
    """FFT[Q] -> 2 W FFT[Q] on the planes begin..end; energy (n1,) and G G^T sums (n1,3,3) of each plane."""
    n1, n2, n3 = transform.shape
    g = np.empty(3)
    for i in range(begin, end):
        m1 = i if 2 * i < n1 else i - n1
        total = 0.0
        t = tensor[i]
        for j in range(n2):
            m2 = j if 2 * j < n2 else j - n2
            for k in range(n3):
                value = transform[i, j, k]
                w = weight[i, j, k]
                # Waves off the plane m3 = 0 stand for ±G; the edge has no weight.
                square = w * (value.real * value.real + value.imag * value.imag) * (2.0 if k > 0 else 1.0)
                total += square
                transform[i, j, k] = 2.0 * w * value
                if want_cell and w != 0.0:
                    for d in range(3):
                        g[d] = m1 * reciprocal[0, d] + m2 * reciprocal[1, d] + k * reciprocal[2, d]
                    factor = (
                        2.0
                        * square
                        * (0.25 / (alpha * alpha) + 1.0 / (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]))
                    )
                    for d in range(3):
                        for e in range(3):
                            t[d, e] += factor * g[d] * g[e]
        energy[i] = total


@lru_cache(maxsize=4)
def _weights(cell: bytes, alpha: float, mesh: Mesh, order: int) -> Floats:
    """Weight of one wave in the energy, (n1, n2, n3//2 + 1) in 1/Å; kept while the cell stays the same."""
    h = torch.from_numpy(np.frombuffer(cell).reshape(3, 3).copy())
    table = formulas.influence(h, alpha, mesh, order)
    table[..., 1:] *= 0.5  # `influence` counts the waves ±G that are stored once
    out: Floats = table.numpy()
    return out


class MeshSum:
    """The waves of one geometry on the mesh, for one or many sets of charges."""

    def __init__(self, x: Floats, h: Floats, alpha: float, mesh: Mesh, order: int, forces: bool) -> None:
        self._x, self._h, self._alpha, self._mesh = x, h, alpha, mesh
        self._inverse: Floats = np.asarray(np.linalg.inv(h), dtype=np.float64)
        self._weights = _weights(h.tobytes(), alpha, mesh, order)
        n = len(x)
        self._stencil = s = Stencil(
            np.empty((n, 3), np.int64), np.empty((n, 3, order)), np.empty((n, 3, order if forces else 0))
        )
        size = np.asarray(mesh, dtype=np.int64)
        run(
            [
                partial(_stencil_chunk, a, b, x, self._inverse, size, s.first, s.values, s.slopes)
                for a, b in chunks(n, _CHUNK)
            ]
        )

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> MeshDerivatives:
        """Energy and the wanted derivatives; those of the cell need the forces."""
        mesh, s = self._mesh, self._stencil
        n1 = mesh[0]
        charge = np.empty(mesh)
        planes = chunks(n1, 2 if len(q) >= _CHUNK else n1)
        _each(planes, partial(_spread_planes, q=q, first=s.first, values=s.values, out=charge))
        # Unlike torch's, these transforms do not depend on the number of threads, nor wait for them spinning.
        workers = torch.get_num_threads() if charge.size >= _POINTS else 1
        transform = fft.rfftn(charge, workers=workers)
        energies, tensors = np.zeros(n1), np.zeros((n1, 3, 3))
        reciprocal = np.ascontiguousarray(2 * np.pi * self._inverse.T)
        _each(
            planes,
            partial(
                _weigh_planes, transform=transform, weight=self._weights, reciprocal=reciprocal,
                alpha=self._alpha, want_cell=cell, energy=energies, tensor=tensors,
            ),
        )  # fmt: skip
        energy = float(energies.sum())
        if not (forces or potential or cell):
            return MeshDerivatives(energy, None, None, None)
        phi = fft.irfftn(transform, s=mesh, norm="forward", overwrite_x=True, workers=workers)
        n = len(q)
        at_atoms, gradient = np.empty(n), np.empty((n if forces or cell else 0, 3))
        _each(
            chunks(n, _CHUNK),
            partial(
                _gather_chunk, q=q, inverse=self._inverse, first=s.first, values=s.values, slopes=s.slopes,
                phi=phi, potential=at_atoms, gradient=gradient,
            ),
        )  # fmt: skip
        strain = None
        if cell:
            strain = self._inverse.T @ (tensors.sum(0) - energy * np.eye(3) - self._x.T @ gradient)
        return MeshDerivatives(energy, gradient if forces else None, at_atoms if potential else None, strain)


def _each(ranges: list[tuple[int, int]], kernel: Callable[..., object]) -> None:
    run([partial(kernel, a, b) for a, b in ranges])
