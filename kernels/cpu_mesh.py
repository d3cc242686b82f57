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

from grahame.kernels import cpu_fft
from grahame.kernels import mesh as formulas
from grahame.kernels.cpu_splines import Stencil, spline_kernels
from grahame.kernels.mesh import Mesh
from grahame.kernels.threads import chunks, run

Floats = NDArray[np.float64]
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
        self._kernels = spline_kernels(order)
        stencil = partial(
            self._kernels.stencil, x=x, inverse=self._inverse, mesh=size,
            first=s.first, values=s.values, slopes=s.slopes,
        )  # fmt: skip
        _each(chunks(n, _CHUNK), stencil)

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> MeshDerivatives:
        """Energy and the wanted derivatives; those of the cell need the forces."""
        mesh, s = self._mesh, self._stencil
        n1 = mesh[0]
        charge = np.empty(mesh)
        planes = chunks(n1, 2 if len(q) >= _CHUNK else n1)
        _each(planes, partial(self._kernels.spread, q=q, first=s.first, values=s.values, out=charge))
        workers = torch.get_num_threads() if charge.size >= _POINTS else 1
        transform = cpu_fft.forward(charge, workers)
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
        phi = cpu_fft.inverse(transform, mesh, workers)
        n = len(q)
        at_atoms, gradient = np.empty(n), np.empty((n if forces or cell else 0, 3))
        gather: Callable[..., object] = self._kernels.potential
        if forces or cell:
            gather = partial(
                self._kernels.gradient, q=q, inverse=self._inverse, slopes=s.slopes, gradient=gradient
            )
        _each(chunks(n, _CHUNK), partial(gather, first=s.first, values=s.values, phi=phi, potential=at_atoms))
        strain = None
        if cell:
            strain = self._inverse.T @ (tensors.sum(0) - energy * np.eye(3) - self._x.T @ gradient)
        return MeshDerivatives(energy, gradient if forces else None, at_atoms if potential else None, strain)


def _each(ranges: list[tuple[int, int]], kernel: Callable[..., object]) -> None:
    run([partial(kernel, a, b) for a, b in ranges])
