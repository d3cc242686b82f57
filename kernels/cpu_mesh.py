"""Smooth particle mesh Ewald on the CPU: the formulas of `mesh`, compiled, with first derivatives.

Each thread owns planes of the mesh when charges are spread and atoms when potentials are gathered, so nothing
is added twice and nothing is added in an order that depends on the number of threads. The mesh, its waves and the
potentials on it share one array.

With the potential on the mesh, phi(l) = dE/dQ(l) = 2 FFT^-1[W FFT[Q]], the derivatives are

    dE/dq_j = sum over l of phi(l) M M M,    dE/dx_j = q_j inv(h) n (sum over l of phi(l) M' M M, ...),
    dE/dh = inv(h)^T {-E 1 + sum over m of 2 W |FFT[Q]|² (1/4 alpha² + 1/G²) G G^T - sum_j x_j (dE/dx_j)^T},

where the first two parts of the last line change the cell at fixed fractional coordinates and the third
brings the atoms back to their places.

With 12,288 atoms on one thread multiplying the waves moves nine tenths of the bytes that the processor moves,
weights take four fifths of its exponentials, and repeating the beginnings of rows, a sixtieth of the time,
moves a fourteenth of its bytes (`python -m examples.benchmarks limits`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from grahame.kernels import cpu_fft
from grahame.kernels import mesh as formulas
from grahame.kernels.cpu_splines import sort_by_rows, spline_kernels
from grahame.kernels.mesh import Mesh
from grahame.kernels.threads import available, chunks, run

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
    """FFT[Q] -> 2 W FFT[Q] on the planes begin..end; energy (n1,) and G G^T sums (n1,3,3) of each plane.

    Limited by memory: transform and weights pass once.
    """
    n1, n2, n3 = weight.shape
    g = np.empty(3)
    for i in range(begin, end):
        m1 = i if 2 * i < n1 else i - n1
        total = 0.0
        t = tensor[i]
        for j in range(n2):
            m2 = j if 2 * j < n2 else j - n2
            # Waves off the plane m3 = 0 stand for ±G; the edge has no weight.
            first, line = 0.0, 0.0
            for k in range(n3):
                value = transform[i, j, k]
                w = weight[i, j, k]
                square = w * (value.real * value.real + value.imag * value.imag)
                line += square
                if k == 0:
                    first = square
                transform[i, j, k] = 2.0 * w * value
                if want_cell and w != 0.0:
                    for d in range(3):
                        g[d] = m1 * reciprocal[0, d] + m2 * reciprocal[1, d] + k * reciprocal[2, d]
                    factor = (
                        2.0
                        * square
                        * (2.0 if k > 0 else 1.0)
                        * (0.25 / (alpha * alpha) + 1.0 / (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]))
                    )
                    for d in range(3):
                        for e in range(3):
                            t[d, e] += factor * g[d] * g[e]
            total += 2.0 * line - first
        energy[i] = total


@numba.njit(cache=True, nogil=True)
def _fill_weights(
    begin: int,
    end: int,
    reciprocal: Floats,
    scale: float,
    quarter: float,
    axis1: Floats,
    axis2: Floats,
    axis3: Floats,
    out: Floats,
) -> None:
    """scale exp(-quarter G²)/G² times the factors of the axes, 0 for G = 0; limited by exponentials."""
    n1, n2, n3 = out.shape
    for i in range(begin, end):
        m1 = i if 2 * i < n1 else i - n1
        for j in range(n2):
            m2 = j if 2 * j < n2 else j - n2
            for k in range(n3):
                square = 0.0
                for d in range(3):
                    g = m1 * reciprocal[0, d] + m2 * reciprocal[1, d] + k * reciprocal[2, d]
                    square += g * g
                out[i, j, k] = 0.0
                if square > 0.0:
                    factor = scale * axis1[i] * axis2[j] * axis3[k]
                    out[i, j, k] = factor * math.exp(-quarter * square) / square


@numba.njit(cache=True, nogil=True)
def _repeat_rows(begin: int, end: int, mesh: Floats, length: int) -> None:
    """Rows are periodic: what lies beyond `length` repeats their beginning."""
    for i in range(begin, end):
        for j in range(mesh.shape[1]):
            for k in range(length, mesh.shape[2]):
                mesh[i, j, k] = mesh[i, j, k % length]


def _axis_factors(n: int, order: int) -> Floats:
    """D(m)^-2, 0 at the edge."""
    square: Floats = formulas.interpolation_factors(n, order).numpy() ** -2
    if n % 2 == 0:
        square[n // 2] = 0.0
    return square


@lru_cache(maxsize=4)
def _weights(cell: bytes, alpha: float, mesh: Mesh, order: int) -> Floats:
    """Weight of one wave in the energy, (n1, n2, n3//2 + 1) in 1/Å; kept while the cell stays the same."""
    h = np.frombuffer(cell).reshape(3, 3)
    out: Floats = np.empty((mesh[0], mesh[1], mesh[2] // 2 + 1))
    axes = [_axis_factors(n, order) for n in mesh]
    fill = partial(
        _fill_weights, reciprocal=np.ascontiguousarray(2 * np.pi * np.linalg.inv(h).T),
        scale=2 * np.pi / abs(float(np.linalg.det(h))), quarter=0.25 / alpha**2,
        axis1=axes[0], axis2=axes[1], axis3=axes[2], out=out,
    )  # fmt: skip
    _each(chunks(mesh[0], _planes(out.size, mesh[0])), fill)
    return out


def _planes(points: int, planes: int) -> int:
    """Planes below which a second thread does not pay."""
    return 1 if points >= _POINTS else planes


class _Buffer:
    """A mesh to work on. The last one of all is kept for the next sum: fresh memory would be paged in anew."""

    _spare: ClassVar[dict[tuple[int, ...], Floats]] = {}

    def __init__(self, shape: tuple[int, ...]) -> None:
        kept = self._spare.pop(shape, None)
        self.mesh: Floats = np.empty(shape) if kept is None else kept

    def give_back(self) -> None:
        self._spare.clear()
        self._spare[self.mesh.shape] = self.mesh


class MeshSum:
    """The waves of one geometry on the mesh, for one or many sets of charges."""

    def __init__(self, x: Floats, h: Floats, alpha: float, mesh: Mesh, order: int, forces: bool) -> None:
        self._x, self._alpha, self._mesh = x, alpha, mesh
        self._inverse: Floats = np.asarray(np.linalg.inv(h), dtype=np.float64)
        self._weights = _weights(h.tobytes(), alpha, mesh, order)
        # Even, with room for the waves and for splines that begin at the last point.
        self._row = 2 * (max(mesh[2] + 2, mesh[2] + order) // 2)
        self._size = np.asarray(mesh, dtype=np.int64)
        self._kernels = spline_kernels(order)
        self._start, self._atoms = sort_by_rows(order, x, self._inverse, self._size)

    def __call__(self, q: Floats, forces: bool, potential: bool, cell: bool) -> MeshDerivatives:
        """Energy and the wanted derivatives; those of the cell need the forces."""
        n1, n2, length = self._mesh
        shared = {"x": self._x, "inverse": self._inverse, "mesh": self._size, "atoms": self._atoms}
        shared["polynomials"] = self._kernels.polynomials
        buffer = _Buffer((n1, n2, self._row))
        planes = chunks(n1, _planes(buffer.mesh.size, n1))
        _each(planes, partial(self._kernels.spread, **shared, q=q, start=self._start, out=buffer.mesh))
        workers = available() if buffer.mesh.size >= _POINTS else 1
        transform = cpu_fft.forward(buffer.mesh, length, workers)
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
            buffer.give_back()
            return MeshDerivatives(energy, None, None, None)
        phi = cpu_fft.inverse(transform, length, workers)
        _each(planes, partial(_repeat_rows, mesh=phi, length=length))
        n = len(q)
        at_atoms, gradient = np.empty(n), np.empty((n if forces or cell else 0, 3))
        gather: Callable[..., object] = self._kernels.potential
        if forces or cell:
            gather = partial(self._kernels.gradient, q=q, gradient=gradient)
        _each(chunks(n, _CHUNK), partial(gather, **shared, phi=phi, potential=at_atoms))
        buffer.give_back()
        strain = None
        if cell:
            strain = self._inverse.T @ (tensors.sum(0) - energy * np.eye(3) - self._x.T @ gradient)
        return MeshDerivatives(energy, gradient if forces else None, at_atoms if potential else None, strain)


def _each(ranges: list[tuple[int, int]], kernel: Callable[..., object]) -> None:
    run([partial(kernel, a, b) for a, b in ranges])
